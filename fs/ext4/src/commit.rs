//! Operations and commits: what changes together becomes durable together.
//!
//! An operation holds a [`Handle`] from before its first change of metadata to after its last; all of
//! it lands in one transaction. It takes the handle before its own locks below the inode's, and while
//! it has it, waits neither for pages (their write-back begins operations) nor for user memory nor for
//! a commit. Operations do not nest.
//!
//! A commit waits until nobody is inside, brings what memory knows better (inodes, bitmaps, the chain
//! of orphans) into the buffers, takes their snapshots, lets the next transaction begin, and only then
//! writes. One commits at a time (`ext4.sync`): who waits for that finds that the other has done his
//! work too.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::mount::MS_RDONLY;
use abi::{Errno, Result};
use vfs::Inode;

use crate::fs::Ext4;
use crate::journal::{Entry, Journal, Ring, State, Transaction};
use crate::layout;
use crate::node::Node;
use crate::options::Flags;

/// Blocks an operation on an inode alone changes at most: its place in the table.
pub(crate) const INODE: u32 = 2;
/// The same for attributes: the inode, a block, its bitmap and descriptor, and an old one's; the super
/// block.
pub(crate) const XATTR: u32 = 12;
/// For an entry in a directory: a leaf, its new half, index blocks that are split, each new block's
/// bitmap and descriptor, the inodes.
pub(crate) const ENTRY: u32 = 24;
/// For a new inode with its first block.
pub(crate) const CREATE: u32 = 12;
/// For a run of blocks: bitmaps and descriptors of its group and the map's.
pub(crate) const BLOCKS: u32 = 10;

/// From here on, in percent of the log, what was committed is copied to its place in the background,
/// however busy the file system is.
const BUSY_PERCENT: u64 = 25;

/// Being in an operation.
#[must_use = "the operation ends when the handle is dropped"]
pub(crate) struct Handle<'a> {
    journal: Option<&'a Journal>,
    blocks: u32,
    /// The transaction it belongs to; 0 without a journal.
    pub(crate) transaction: u64,
}

impl Drop for Handle<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(journal) = self.journal {
            journal.gate.leave(self.blocks);
        }
    }
}

/// A write of file data that a transaction waits for.
pub(crate) struct Ordered {
    fs: Arc<Ext4>,
    transaction: u64,
}

impl Ordered {
    /// The write failed.
    pub(crate) fn failed(&self) {
        if self.fs.has(Flags::DATA_ERR_ABORT)
            && let Some(journal) = &self.fs.journal
        {
            journal.fail_data();
        }
    }
}

impl Drop for Ordered {
    fn drop(&mut self) {
        if let Some(journal) = &self.fs.journal {
            journal.data_done(self.transaction);
        }
    }
}

/// Who made a transaction durable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    /// This call: what the device had before it is durable too.
    Now,
    Before,
}

impl Ext4 {
    /// Begins an operation that changes `blocks` at most. May sleep, and commit. `EROFS` if the file
    /// system may not be written.
    pub(crate) fn begin(&self, blocks: u32) -> Result<Handle<'_>> {
        let Some(journal) = &self.journal else {
            return Ok(Handle { journal: None, blocks: 0, transaction: 0 });
        };
        loop {
            match journal.gate.enter(blocks, &self.buffers.charged) {
                Entry::Inside => {}
                Entry::Full(transaction) => {
                    self.commit(transaction)?;
                    continue;
                }
            }
            let transaction = journal.gate.running();
            let handle = Handle { journal: Some(journal), blocks, transaction };
            if journal.state() != State::Running {
                return Err(Errno::EROFS);
            }
            if journal.gate.is_filling(&self.buffers.charged) {
                // Committed in the background, before somebody has to wait for it.
                self.want_commit();
            }
            return Ok(handle);
        }
    }

    /// Does `operation` as one. Where the only free blocks are those that the running transaction gave
    /// up, it is committed, and `operation`, which has left things as they were, is done again.
    pub(crate) fn transact<R>(
        &self,
        blocks: u32,
        mut operation: impl FnMut(&Handle<'_>) -> Result<R>,
    ) -> Result<R> {
        let handle = self.begin(blocks)?;
        let result = operation(&handle);
        let transaction = handle.transaction;
        drop(handle);
        let result = self.judge(result);
        if result.as_ref().err() != Some(&Errno::ENOSPC) || !self.alloc.is_holding_back() {
            return result;
        }
        self.commit(transaction)?;
        let handle = self.begin(blocks)?;
        operation(&handle)
    }

    /// How many blocks one operation may change if others are to have room too.
    pub(crate) fn operation_limit(&self) -> u32 {
        self.journal.as_ref().map_or(u32::MAX, |journal| (journal.gate.limit() / 2).max(1))
    }

    /// The transaction that changes belong to now; 0 without a journal.
    pub(crate) fn running(&self) -> u64 {
        self.journal.as_ref().map_or(0, |journal| journal.gate.running())
    }

    /// Makes the handle's transaction wait for a write of file data: until what is returned is dropped.
    /// `None`: transactions do not wait for data.
    pub(crate) fn order(self: &Arc<Self>, handle: &Handle<'_>) -> Option<Ordered> {
        let journal = handle.journal.filter(|_| self.orders_data())?;
        journal.data_begins(handle.transaction);
        Some(Ordered { fs: self.clone(), transaction: handle.transaction })
    }

    /// Makes `transaction` and those before it durable. The caller is in no operation.
    pub(crate) fn commit(&self, transaction: u64) -> Result<()> {
        self.commit_once(transaction).map(|_| ())
    }

    fn commit_once(&self, transaction: u64) -> Result<Done> {
        let Some(journal) = &self.journal else { return Ok(Done::Before) };
        if journal.is_committed(transaction) {
            return Ok(Done::Before);
        }
        if let pause @ 1.. = self.config.batch_ns() {
            // Others may join.
            sched::timer::sleep_ns(pause);
        }
        let one = self.syncing.lock();
        if journal.is_committed(transaction) {
            return Ok(Done::Before);
        }
        if journal.state() != State::Running {
            return Err(Errno::EROFS);
        }
        let result = self.commit_running(journal, &mut journal.ring.lock());
        drop(one);
        result.map_err(|error| self.abort(error))
    }

    /// Commits the running transaction. After an error nothing may be written any more.
    fn commit_running(&self, journal: &Journal, ring: &mut Ring) -> Result<Done> {
        let (number, taken) = journal.switch(|| self.take_transaction());
        let written = taken.and_then(|(transaction, stored)| {
            let is_empty = transaction.is_empty();
            if !is_empty {
                journal.write(ring, number, transaction)?;
            }
            Ok((is_empty, stored))
        });
        let (is_empty, stored) = written.inspect_err(|_| self.stop_writing())?;
        if self.has(Flags::DISCARD) {
            // Before somebody has them again.
            self.discard(&self.alloc.leaving_runs(&self.sb));
        }
        self.alloc.release_held();
        journal.set_committed(number);
        self.config.note_commit();
        // Who looked for one of them meanwhile found it, and not what the table said before.
        drop(stored);
        Ok(if is_empty { Done::Before } else { Done::Now })
    }

    /// Brings everything into the buffers and takes their snapshots. Nobody is inside.
    fn take_transaction(&self) -> Result<(Transaction, Vec<Arc<Inode>>)> {
        self.store_orphans()?;
        self.store_damage()?;
        let dirty = self.take_dirty();
        for inode in dirty.values() {
            if let Some(node) = inode.private::<Node>() {
                node.store(inode)?;
            }
        }
        self.alloc.store(&self.sb, &self.buffers)?;
        self.store_counts()?;
        Ok((self.buffers.take(), dirty.into_values().collect()))
    }

    /// Nothing is changed any more.
    pub(crate) fn stop_writing(&self) {
        if let Some(journal) = &self.journal {
            journal.set_state(State::Aborted);
        }
        self.sealed.store(true, Ordering::SeqCst);
        self.read_only.store(true, Ordering::SeqCst);
    }

    /// Says why nothing is written any more, to every open file too. The error for who asked. The
    /// caller holds none of a commit's locks.
    fn abort(&self, error: Errno) -> Errno {
        self.stop_writing();
        log::error!(
            "ext4: {}: journal aborted ({error}): the file system is read-only now",
            self.device.name()
        );
        if let Some(sb) = self.vfs.get().and_then(Weak::upgrade) {
            sb.set_flags(sb.flags() | MS_RDONLY);
        }
        for inode in self.inodes.all() {
            if let Some(mapping) = inode.mapping() {
                mapping.record_error(Errno::EIO);
            }
        }
        Errno::EIO
    }

    /// Makes the changes of `transaction`, and what was written to the device before, durable.
    pub(crate) fn make_durable(&self, transaction: u64) -> Result<()> {
        match self.commit_once(transaction)? {
            Done::Now => Ok(()),
            Done::Before if self.has(Flags::BARRIER) => self.device.sync(),
            Done::Before => Ok(()),
        }
    }

    /// The same for one file: the drive is not asked to flush what it has flushed since.
    fn make_file_durable(&self, journal: &Journal, node: &Node, data_only: bool) -> Result<()> {
        let done = self.commit_once(node.last_change(data_only))?;
        let needed = node.flush_needed.load(Ordering::Acquire);
        if done == Done::Now || journal.flushes.has_done(needed) || !self.has(Flags::BARRIER) {
            return Ok(());
        }
        let number = journal.flushes.begin();
        self.device.flush()?;
        journal.flushes.end(number);
        Ok(())
    }

    /// Tells the drive that runs of blocks (first, length) are not needed any more.
    fn discard(&self, runs: &[(u64, u64)]) {
        let per = self.sb.block_size as u64 / block::SECTOR_SIZE as u64;
        for &(first, len) in runs {
            match self.device.discard(first * per, len * per) {
                Ok(()) => {}
                Err(Errno::EOPNOTSUPP) => return,
                Err(error) => {
                    log::warn!("EXT4-fs ({}): discard failed: {error}", self.device.name());
                    return;
                }
            }
        }
    }

    /// `fsync(2)` of what a file changed of itself: `data_only` leaves out what reading does not need.
    pub(crate) fn sync_node(&self, node: &Node, data_only: bool) -> Result<()> {
        let Some(journal) = &self.journal else {
            self.store_metadata()?;
            return self.device.sync();
        };
        match journal.state() {
            State::Off => Ok(()),
            State::Running => self.make_file_durable(journal, node, data_only),
            State::Aborted => Err(Errno::EROFS),
        }
    }

    /// Commits what is running, and makes room in the log: now and then, in the background.
    pub(crate) fn commit_old(&self) -> Result<()> {
        let Some(journal) = &self.journal else { return self.store_metadata() };
        let one = self.syncing.lock();
        if journal.state() != State::Running {
            return Ok(());
        }
        let result = self.commit_and_copy(journal, &mut journal.ring.lock());
        drop(one);
        result.map_err(|error| self.abort(error))
    }

    /// Commits what is running and copies all that is in the log to its place.
    pub(crate) fn empty_log(&self) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let one = self.syncing.lock();
        if journal.state() != State::Running {
            return Err(Errno::EROFS);
        }
        let mut ring = journal.ring.lock();
        let result = self
            .commit_running(journal, &mut ring)
            .and_then(|_| ring.checkpoint(u32::MAX).inspect_err(|_| self.stop_writing()));
        drop((ring, one));
        result.map_err(|error| self.abort(error))
    }

    fn commit_and_copy(&self, journal: &Journal, ring: &mut Ring) -> Result<()> {
        let is_idle = self.commit_running(journal, ring)? == Done::Before;
        if !is_idle && ring.fill() < BUSY_PERCENT {
            return Ok(());
        }
        ring.checkpoint(u32::MAX).inspect_err(|_| self.stop_writing())
    }

    /// Begins to journal: the file system becomes writable. The next mount after a crash finds that
    /// the journal has to be recovered.
    pub(crate) fn start_journal(&self) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        if journal.state() == State::Aborted {
            return Err(Errno::EROFS);
        }
        let _one = self.syncing.lock();
        self.modify_super(layout::set_recovery)?;
        self.buffers.write_out()?;
        // Flushes, so that the log never has anything without that flag.
        journal.start(&self.sb, self.manner())?;
        self.alloc.set_holding(true);
        self.buffers.set_journaled(true);
        Ok(())
    }

    /// Commits, copies everything to its place and empties the log. Nothing is journaled any more.
    pub(crate) fn stop_journal(&self) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let one = self.syncing.lock();
        if journal.state() != State::Running {
            return Err(Errno::EROFS);
        }
        // Who comes later is turned away inside.
        journal.set_state(State::Off);
        let mut ring = journal.ring.lock();
        let result = self.commit_running(journal, &mut ring).and_then(|_| journal.stop(&mut ring));
        drop((ring, one));
        if let Err(error) = result {
            return Err(self.abort(error));
        }
        self.alloc.set_holding(false);
        self.buffers.set_journaled(false);
        Ok(())
    }
}
