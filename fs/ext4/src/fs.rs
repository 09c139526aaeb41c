//! One mounted file system: mounting, syncing, statistics.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use block::{Claim, Device};
use pagecache::Periodic;
use sched::{Mutex, WaitQueue};
use vfs::superblock::SuperOps;
use vfs::{FsStat, Inode, InodeCache, SuperBlock, Time};

use crate::alloc_::Allocator;
use crate::buffer::{Buffer, Buffers};
use crate::bytes::{put16, put32, u16_at, u32_at};
use crate::config::Config;
use crate::damage::Damage;
use crate::indirect;
use crate::journal::Journal;
use crate::layout::{LateFeature, Super, clear_recovery, incompat, ro_compat, store_super};
use crate::node::{self, Node};
use crate::options::{Flags, Given};
use crate::orphan::Orphans;

static SYNC: LockClass = LockClass::new("ext4.sync", 320);
static DIRTY: LockClass = LockClass::new("ext4.dirty_inodes", 459);
static CLAIM: LockClass = LockClass::new("ext4.claim", 459);

/// Kind of file handles: inode number and generation.
pub(crate) const HANDLE: i32 = 1;

/// A mounted ext4.
pub(crate) struct Ext4 {
    pub(crate) sb: Super,
    pub(crate) device: Arc<Device>,
    pub(crate) buffers: Buffers,
    /// `None`: changes are written in place.
    pub(crate) journal: Option<Journal>,
    pub(crate) alloc: Allocator,
    pub(crate) inodes: InodeCache,
    pub(crate) vfs: spin::Once<Weak<SuperBlock>>,
    /// Inodes whose fields differ from the table.
    dirty: SpinLock<BTreeMap<u32, Arc<Inode>>>,
    pub(crate) orphans: Orphans,
    pub(crate) syncing: Mutex<()>,
    /// The block of the super block, at hand while the file system is mounted.
    super_block: Arc<Buffer>,
    pub(crate) read_only: AtomicBool,
    /// Files that are open for writing get `EROFS`, what waits to be deleted goes on waiting.
    pub(crate) sealed: AtomicBool,
    /// Files that are being deleted just now.
    deleting: AtomicU32,
    /// Until the file system is put away, which readers of it may survive.
    claim: SpinLock<Option<Claim>>,
    pub(crate) config: Config,
    /// Data of files may be in the log and not in its place.
    pub(crate) has_logged_data: AtomicBool,
    pub(crate) damage: Damage,
    /// Told when a file has no direct transfers under way any more.
    pub(crate) direct_ended: WaitQueue,
}

/// Whether the file system is one that can be mounted (for writing).
fn check(sb: &Super, device: &Device, read_only: bool) -> Result<()> {
    let name = device.name();
    let unknown = sb.incompat & !(incompat::KNOWN | incompat::RECOVER);
    if unknown != 0 {
        log::error!(
            "ext4: {name}: couldn't mount because of unsupported optional features ({unknown:x})"
        );
        return Err(Errno::EINVAL);
    }
    let unknown = sb.ro_compat & !ro_compat::KNOWN;
    if sb.ro_compat & ro_compat::READONLY != 0 && !read_only {
        log::error!("ext4: {name}: the file system may only be read");
        return Err(Errno::EROFS);
    }
    if unknown & !ro_compat::READONLY != 0 && !read_only {
        log::error!(
            "ext4: {name}: couldn't mount RDWR because of unsupported optional features ({unknown:x})"
        );
        return Err(Errno::EROFS);
    }
    if sb.blocks.checked_mul(sb.block_size as u64).is_none_or(|bytes| bytes > device.size()) {
        log::error!("ext4: {name}: the file system is larger than the device");
        return Err(Errno::EINVAL);
    }
    Ok(())
}

pub(crate) struct SuperPart(pub(crate) Arc<Ext4>);

impl Ext4 {
    pub(crate) fn open(device: Arc<Device>, sb: Super, given: Given) -> Result<Arc<Ext4>> {
        let options = &given.options;
        let loads_journal = !options.flags.contains(Flags::NOLOAD);
        let read_only = given.read_only;
        check(&sb, &device, read_only)?;
        let claim = device.claim()?;
        let sb = if sb.incompat & incompat::RECOVER != 0 && loads_journal {
            crate::journal::recover(&device, &sb)?;
            // The journal had another one.
            let sb = Super::read(&device, options.sb_kib)?;
            check(&sb, &device, read_only)?;
            sb
        } else {
            sb
        };
        let buffers = Buffers::new(device.clone(), sb.block_size);
        let super_block = buffers.get(sb.place().0)?;
        let alloc = Allocator::load(&sb, &buffers)?;
        let journal = match sb.has_journal() && loads_journal {
            true => Some(Journal::open(&device, &sb)?),
            false => None,
        };
        let config = Config::new(&sb, given);
        let fs = Arc::new(Ext4 {
            sb,
            device,
            buffers,
            journal,
            alloc,
            inodes: InodeCache::new(),
            vfs: spin::Once::new(),
            dirty: SpinLock::new(&DIRTY, BTreeMap::new()),
            orphans: Orphans::new(),
            syncing: Mutex::new(&SYNC, ()),
            super_block,
            read_only: AtomicBool::new(read_only),
            sealed: AtomicBool::new(false),
            deleting: AtomicU32::new(0),
            claim: SpinLock::new(&CLAIM, Some(claim)),
            config,
            has_logged_data: AtomicBool::new(false),
            damage: Damage::new(),
            direct_ended: WaitQueue::new(),
        });
        fs.configure();
        Ok(fs)
    }

    /// The longest file in bytes.
    pub(crate) fn max_file_size(&self) -> u64 {
        let has_extents = self.sb.incompat & incompat::EXTENTS != 0;
        let blocks = if has_extents { u64::from(u32::MAX) } else { indirect::capacity(&self.sb) };
        (blocks * self.sb.block_size as u64).min(i64::MAX as u64)
    }

    /// The flag of new files' maps.
    pub(crate) fn map_flag(&self) -> u32 {
        if self.sb.incompat & incompat::EXTENTS != 0 { node::flags::EXTENTS } else { 0 }
    }

    /// Changes the raw super block.
    pub(crate) fn modify_super(&self, change: impl FnOnce(&mut [u8])) -> Result<()> {
        let (_, at) = self.sb.place();
        self.buffers.modify(&self.super_block, |block| {
            if let Some(raw) = block.get_mut(at..at + 1024) {
                change(raw);
            }
        });
        Ok(())
    }

    /// Says in the super block that the file system has `feature`, if it did not have it when it was
    /// mounted.
    pub(crate) fn need(&self, feature: &LateFeature) -> Result<()> {
        let (_, at) = self.sb.place();
        let is_in = |block: &[u8]| block.get(at..).is_some_and(|raw| feature.is_in(raw));
        if feature.is_in(&self.sb.raw) || self.super_block.read(is_in) {
            return Ok(());
        }
        self.modify_super(|raw| feature.add_to(raw))
    }

    /// Remembers that the inode must be stored.
    pub(crate) fn mark_dirty(&self, ino: u32, inode: &Arc<Inode>) {
        if self.read_only.load(Ordering::Relaxed) {
            return;
        }
        if let Entry::Vacant(place) = self.dirty.lock().entry(ino) {
            place.insert(inode.clone());
            self.buffers.charge(1);
        }
    }

    /// The inodes to be stored.
    pub(crate) fn take_dirty(&self) -> BTreeMap<u32, Arc<Inode>> {
        core::mem::take(&mut *self.dirty.lock())
    }

    /// Forgets an inode that is deleted.
    pub(crate) fn forget_dirty(&self, ino: u32) {
        let gone = self.dirty.lock().remove(&ino);
        if gone.is_some() {
            self.buffers.discharge(1);
        }
    }

    /// Commits, or without a journal writes inodes, bitmaps and descriptors to the device.
    pub(crate) fn store_metadata(&self) -> Result<()> {
        if self.journal.is_some() {
            return self.commit(self.running());
        }
        let _one = self.syncing.lock();
        if self.read_only.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut result = self.store_orphans().and(self.store_damage());
        let mut failed = Vec::new();
        loop {
            let Some((ino, inode)) = self.dirty.lock().pop_first() else { break };
            if let Some(node) = inode.private::<Node>()
                && let Err(error) = node.store(&inode)
            {
                result = result.and(Err(error));
                failed.push((ino, inode));
            }
        }
        // The next sync tries these again, and says so again; the others are not kept by them.
        failed.iter().for_each(|(ino, inode)| self.mark_dirty(*ino, inode));
        result = result.and(self.alloc.store(&self.sb, &self.buffers));
        result.and(self.buffers.write_out())
    }

    /// Free blocks and inodes.
    fn counts(&self) -> (u64, u32) {
        let free_blocks = self.alloc.free_blocks.load(Ordering::Acquire).max(0) as u64;
        let free_inodes = self.alloc.free_inodes.load(Ordering::Acquire).max(0) as u32;
        (free_blocks, free_inodes)
    }

    /// Puts the counters into the buffer of the super block, if they are others.
    pub(crate) fn store_counts(&self) -> Result<()> {
        let (free_blocks, free_inodes) = self.counts();
        let (_, at) = self.sb.place();
        let is_there = self.super_block.read(|block| {
            let low = u32_at(block, at + 0xc) == free_blocks as u32;
            low && u32_at(block, at + 0x10) == free_inodes
        });
        if is_there {
            return Ok(());
        }
        self.modify_super(|raw| store_super(&self.sb, raw, free_blocks, free_inodes))
    }

    /// Writes the super block with its counters; `clean` is the state the next mount finds. With a
    /// journal, which is empty then, only in the end: in between the state is what recovery makes.
    fn store_super(&self, clean: bool) -> Result<()> {
        let _one = self.syncing.lock();
        let (free_blocks, free_inodes) = self.counts();
        self.modify_super(|raw| {
            let state = u16_at(raw, 0x3a);
            put16(raw, 0x3a, if clean { state | 1 } else { state & !1 });
            put32(raw, 0x30, Time::now().sec as u32);
            if self.journal.is_some() {
                clear_recovery(raw);
            }
            store_super(&self.sb, raw, free_blocks, free_inodes);
        })?;
        self.buffers.write_out()
    }

    /// Everything to the disk.
    pub(crate) fn sync(&self, wait: bool) -> Result<()> {
        if self.read_only.load(Ordering::Relaxed) {
            return Ok(());
        }
        for inode in self.inodes.all() {
            if let Some(mapping) = inode.mapping()
                && mapping.is_dirty()
            {
                mapping.start_writeback(0, i64::MAX as u64);
            }
        }
        if wait {
            for inode in self.inodes.all() {
                if let Some(mapping) = inode.mapping() {
                    mapping.sync()?;
                }
            }
        }
        if self.journal.is_some() {
            return if wait { self.make_durable(self.running()) } else { Ok(()) };
        }
        self.store_metadata()?;
        self.store_super(false)?;
        if wait { self.device.sync() } else { Ok(()) }
    }

    /// Everything to the disk and then nothing more, though files are open for writing.
    fn seal(&self) -> Result<()> {
        self.sealed.store(true, Ordering::SeqCst);
        // Whoever writes to an open file holds the inode and will look anew for the next write.
        for inode in self.inodes.all() {
            drop(inode.lock().write());
        }
        while self.deleting.load(Ordering::SeqCst) != 0 {
            sched::timer::sleep_ns(1_000_000);
        }
        let result = self.finish();
        self.read_only.store(true, Ordering::Release);
        result
    }

    /// Deletes a file that has neither links nor users, unless that has to wait for the file system
    /// to be writable again: it is among the orphans on the disk.
    pub(crate) fn delete_unused(&self, node: &Node, inode: &Arc<Inode>) -> Result<()> {
        self.deleting.fetch_add(1, Ordering::SeqCst);
        let result = if self.sealed.load(Ordering::SeqCst) || self.read_only.load(Ordering::SeqCst)
        {
            self.forget_dirty(node.ino);
            self.inodes.remove(node.ino.into());
            Ok(())
        } else {
            node.delete(inode)
        };
        self.deleting.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// Readies a file system that may be written from now on.
    pub(crate) fn begin_writing(self: &Arc<Self>) -> Result<()> {
        self.start_journal()?;
        self.delete_orphans()?;
        if self.journal.is_some() { Ok(()) } else { self.store_super(false) }
    }

    /// Leaves everything on the disk, clean.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.read_only.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.sync(true)?;
        self.stop_journal()?;
        self.store_super(true)?;
        self.device.sync()
    }
}

impl Periodic for Ext4 {
    fn interval_ns(&self) -> u64 {
        self.config.commit_interval_ns()
    }

    fn write_old(&self, _older_than_ns: u64) {
        if self.read_only.load(Ordering::Relaxed) {
            return;
        }
        if !self.is_commit_due() {
            return;
        }
        if let Err(error) = self.commit_old() {
            log::error!("ext4: {}: cannot write metadata: {error}", self.device.name());
        }
    }
}

impl SuperOps for SuperPart {
    fn statfs(&self, _sb: &SuperBlock) -> Result<FsStat> {
        let fs = &self.0;
        let table =
            u64::from(fs.sb.inodes_per_group) * fs.sb.inode_size as u64 / fs.sb.block_size as u64;
        let groups = u64::from(fs.sb.groups);
        let headers: u64 = (0..fs.sb.groups).map(|g| u64::from(fs.sb.overhead(g))).sum();
        let journal = u32_at(&fs.sb.raw, 0x10c + 16 * 4);
        let journal_blocks = if fs.sb.compat & 4 != 0 && u32_at(&fs.sb.raw, 0xe0) != 0 {
            u64::from(journal) / fs.sb.block_size as u64
        } else {
            0
        };
        let overhead = match fs.has(Flags::MINIX_DF) {
            true => 0,
            false => fs.sb.first_data_block + headers + groups * (2 + table) + journal_blocks,
        };
        let free = fs.alloc.available();
        let id =
            |at| u64::from(u32_at(&fs.sb.raw, at)) | u64::from(u32_at(&fs.sb.raw, at + 4)) << 32;
        Ok(FsStat {
            magic: 0xef53,
            block_size: fs.sb.block_size as u64,
            fragment_size: fs.sb.block_size as u64,
            blocks: fs.sb.blocks.saturating_sub(overhead),
            free,
            available: free.saturating_sub(fs.sb.reserved),
            files: fs.sb.inodes.into(),
            files_free: fs.alloc.free_inodes.load(Ordering::Relaxed).max(0) as u64,
            fsid: id(0x68) ^ id(0x70),
            name_max: 255,
        })
    }

    fn sync(&self, _sb: &SuperBlock, wait: bool) -> Result<()> {
        self.0.sync(wait)
    }

    fn remount(&self, sb: &Arc<SuperBlock>, flags: u64, data: &[u8]) -> Result<()> {
        self.0.remount(sb, flags, data)
    }

    fn seal(&self, _sb: &Arc<SuperBlock>) -> Result<()> {
        self.0.seal()
    }

    fn inode_of_handle(
        &self,
        _sb: &Arc<SuperBlock>,
        kind: i32,
        handle: &[u8],
    ) -> Result<Arc<Inode>> {
        let (ino, generation) = (u32_at(handle, 0), u32_at(handle, 4));
        if kind != HANDLE || handle.len() < 8 {
            return Err(Errno::ESTALE);
        }
        if ino != 2 && ino < self.0.sb.first_ino {
            return Err(Errno::ESTALE);
        }
        let inode = Node::load(&self.0, ino).map_err(|_| Errno::ESTALE)?;
        let same = inode.nlink() > 0 && inode.generation == generation;
        if same { Ok(inode) } else { Err(Errno::ESTALE) }
    }

    fn put_super(&self, _sb: &SuperBlock) {
        let fs = &self.0;
        log::info!("EXT4-fs ({}): unmounting filesystem.", fs.device.name());
        if let Err(error) = fs.finish() {
            log::error!("ext4: {}: cannot unmount cleanly: {error}", fs.device.name());
        }
        // The flusher may be here still, and inodes live on to the end of a grace period: the device
        // is no longer theirs.
        let one = fs.syncing.lock();
        fs.read_only.store(true, Ordering::Release);
        drop(one);
        let claim = fs.claim.lock().take();
        if let Some(claim) = claim {
            claim.release();
        }
    }

    fn show_options(&self, _sb: &SuperBlock, out: &mut dyn Write) -> fmt::Result {
        self.0.config.show(self.0.journal.is_some(), out)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
