//! Blocks and inodes: which are free, and which to take.
//!
//! Each group has its own lock around its descriptor and bitmaps, which are loaded when first
//! needed and stored when the file system is synced or a transaction committed. Counts over all groups
//! are atomics. With a journal nobody gets a block before the transaction that gave it up is
//! committed: a crash would bring its old owner back.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use sched::Mutex;

use crate::buffer::{Buffer, Buffers};
use crate::csum::crc32c;
use crate::layout::{BLOCK_UNINIT, Group, INODE_UNINIT, Super};

static GROUP: LockClass = LockClass::new("ext4.group", 457);
static TOUCHED: LockClass = LockClass::new("ext4.touched_groups", 459);
/// Blocks of a transaction that a changed group may take: two bitmaps and the descriptor.
const GROUP_BLOCKS: u32 = 3;

struct GroupState {
    desc: Group,
    /// What cannot be allocated: what is in use, and what is held back.
    blocks: Option<Vec<u8>>,
    inodes: Option<Vec<u8>>,
    /// Blocks that the running transaction gave up.
    freed: Option<Vec<u8>>,
    /// Blocks that the transaction being committed gave up.
    leaving: Option<Vec<u8>>,
    /// How many are in both: the descriptor counts them as free.
    held: u32,
    dirty: bool,
}

impl GroupState {
    fn new(desc: Group) -> GroupState {
        GroupState {
            desc,
            blocks: None,
            inodes: None,
            freed: None,
            leaving: None,
            held: 0,
            dirty: false,
        }
    }

    /// Blocks that can be allocated.
    fn available(&self) -> u32 {
        self.desc.free_blocks.saturating_sub(self.held)
    }

    /// The bitmap as it is on the disk after the running transaction.
    fn shown(&self) -> Option<Vec<u8>> {
        let mut bits = self.blocks.clone()?;
        for held in [&self.freed, &self.leaving].into_iter().flatten() {
            subtract(&mut bits, held);
        }
        Some(bits)
    }
}

/// Clears the bits that are set in `other`.
fn subtract(bits: &mut [u8], other: &[u8]) {
    for (byte, other) in bits.iter_mut().zip(other) {
        *byte &= !other;
    }
}

/// The allocators of one file system.
pub(crate) struct Allocator {
    groups: Vec<Mutex<GroupState>>,
    /// Each group's block bitmap, inode bitmap and inode table: they never move.
    places: Vec<[u64; 3]>,
    pub(crate) free_blocks: AtomicI64,
    pub(crate) free_inodes: AtomicI64,
    /// Promised to dirty pages that have no blocks yet.
    reserved: AtomicI64,
    /// The blocks of descriptors.
    descs: Vec<Arc<Buffer>>,
    /// Groups whose state is not in the buffers.
    touched: SpinLock<BTreeSet<u32>>,
    /// Groups with blocks that the transaction being committed gave up.
    leaving: SpinLock<Vec<u32>>,
    /// Whether blocks that are given up are held back.
    is_holding: AtomicBool,
    /// Blocks held back.
    held: AtomicI64,
    /// Long runs begin at multiples of so many blocks, where they can.
    stripe: AtomicU32,
}

fn bit(bits: &[u8], at: usize) -> bool {
    bits.get(at / 8).is_none_or(|byte| byte >> (at % 8) & 1 != 0)
}
fn set(bits: &mut [u8], at: usize, on: bool) {
    if let Some(byte) = bits.get_mut(at / 8) {
        *byte = if on { *byte | 1 << (at % 8) } else { *byte & !(1 << (at % 8)) };
    }
}
/// The first clear bit in `from..len`; whole words and bytes are skipped.
fn next_clear(bits: &[u8], from: usize, len: usize) -> Option<usize> {
    let mut at = from;
    while at < len {
        if at.is_multiple_of(64) && bits.get(at / 8..at / 8 + 8) == Some(&[0xff; 8]) {
            at += 64;
        } else if at.is_multiple_of(8) && bits.get(at / 8) == Some(&0xff) {
            at += 8;
        } else if bit(bits, at) {
            at += 1;
        } else {
            return Some(at);
        }
    }
    None
}

/// The first run of `want` clear bits at or after `from` (then from the start), or the longest.
fn find_run(bits: &[u8], from: usize, len: usize, want: usize) -> Option<(usize, usize)> {
    let mut best = (0, 0);
    for (start, end) in [(from.min(len), len), (0, from.min(len))] {
        let mut at = start;
        while let Some(first) = next_clear(bits, at, end) {
            let mut run = 1;
            while run < want && first + run < end && !bit(bits, first + run) {
                run += 1;
            }
            if run == want || (start == from && first == from) {
                return Some((first, run));
            }
            if run > best.1 {
                best = (first, run);
            }
            at = first + run;
        }
    }
    (best.1 > 0).then_some(best)
}

impl Allocator {
    pub(crate) fn load(sb: &Super, buffers: &Buffers) -> Result<Allocator> {
        let mut groups = Vec::with_capacity(sb.groups as usize);
        let mut places = Vec::with_capacity(sb.groups as usize);
        let (mut free_blocks, mut free_inodes) = (0i64, 0i64);
        let mut descs: Vec<Arc<Buffer>> = Vec::new();
        for number in 0..sb.groups {
            let per = sb.descs_per_block() as u32;
            let buffer = buffers.get(sb.desc_block(u64::from(number / per)))?;
            if number % per == 0 {
                descs.push(buffer.clone());
            }
            let at = (number % per) as usize * sb.desc_size;
            let desc = buffer.read(|block| {
                let raw = block.get(at..at + sb.desc_size).unwrap_or(&[]);
                let computed = Group::checksum(raw, sb, number);
                let found = crate::bytes::u16_at(raw, 0x1e);
                if computed != found && (sb.has_csum() || sb.ro_compat & 0x10 != 0) {
                    log::error!(
                        "ext4: group {number} descriptor checksum mismatch (found {found:x}, computed {computed:x})"
                    );
                    return Err(Errno::EBADMSG);
                }
                Ok(Group::parse(raw))
            })?;
            let table =
                u64::from(sb.inodes_per_group) * sb.inode_size as u64 / sb.block_size as u64;
            let inside = |block: u64, len: u64| {
                block > sb.first_data_block && block.saturating_add(len) <= sb.blocks
            };
            if !inside(desc.block_bitmap, 1)
                || !inside(desc.inode_bitmap, 1)
                || !inside(desc.inode_table, table)
            {
                log::error!("ext4: group {number} has its tables outside the file system");
                return Err(Errno::EUCLEAN);
            }
            free_blocks += i64::from(desc.free_blocks);
            free_inodes += i64::from(desc.free_inodes);
            places.push([desc.block_bitmap, desc.inode_bitmap, desc.inode_table]);
            groups.push(Mutex::new(&GROUP, GroupState::new(desc)));
        }
        Ok(Allocator {
            groups,
            places,
            free_blocks: AtomicI64::new(free_blocks),
            free_inodes: AtomicI64::new(free_inodes),
            reserved: AtomicI64::new(0),
            descs,
            touched: SpinLock::new(&TOUCHED, BTreeSet::new()),
            leaving: SpinLock::new(&TOUCHED, Vec::new()),
            is_holding: AtomicBool::new(false),
            held: AtomicI64::new(0),
            stripe: AtomicU32::new(0),
        })
    }

    /// Whether blocks that are given up wait for the commit of that.
    pub(crate) fn set_holding(&self, is_holding: bool) {
        self.is_holding.store(is_holding, Ordering::Release);
    }

    pub(crate) fn set_stripe(&self, blocks: u32) {
        self.stripe.store(blocks, Ordering::Relaxed);
    }

    /// Where to look for `want` blocks near `goal`.
    fn aligned(&self, goal: u64, want: u32) -> u64 {
        let stripe = self.stripe.load(Ordering::Relaxed);
        if stripe > 1 && want >= stripe { goal.next_multiple_of(stripe.into()) } else { goal }
    }

    /// Runs of blocks, first and length, that the transaction being committed gave up.
    pub(crate) fn leaving_runs(&self, sb: &Super) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        for &number in self.leaving.lock().iter() {
            let Some(group) = self.groups.get(number as usize) else { continue };
            let leaving = group.lock().leaving.clone();
            let Some(bits) = leaving else { continue };
            let (base, len) = (sb.group_start(number), sb.group_len(number) as usize);
            let mut at = 0;
            while at < len {
                let run = (at..len).take_while(|&at| bit(&bits, at)).count();
                if run > 0 {
                    runs.push((base + at as u64, run as u64));
                }
                at += run.max(1);
            }
        }
        runs
    }

    /// Whether a commit makes blocks available.
    pub(crate) fn is_holding_back(&self) -> bool {
        self.held.load(Ordering::Acquire) > 0
    }

    /// Notes that the group's state has to be stored.
    fn touch(&self, buffers: &Buffers, number: u32, state: &mut GroupState) {
        if !state.dirty {
            state.dirty = true;
            buffers.charge(GROUP_BLOCKS);
            self.touched.lock().insert(number);
        }
    }

    /// Block of the inode table and byte in it that hold inode `ino`.
    pub(crate) fn inode_place(&self, sb: &Super, ino: u32) -> Result<(u64, usize)> {
        let index = ino.checked_sub(1).filter(|_| ino <= sb.inodes).ok_or(Errno::EUCLEAN)?;
        let group = (index / sb.inodes_per_group) as usize;
        let [_, _, table] = *self.places.get(group).ok_or(Errno::EUCLEAN)?;
        let at = (index % sb.inodes_per_group) as usize * sb.inode_size;
        Ok((table + (at / sb.block_size) as u64, at % sb.block_size))
    }

    /// Blocks nobody has or was promised.
    pub(crate) fn available(&self) -> u64 {
        let free = self.free_blocks.load(Ordering::Relaxed) - self.reserved.load(Ordering::Relaxed);
        free.max(0) as u64
    }

    /// Promises `count` blocks.
    pub(crate) fn reserve(&self, count: u64) -> Result<()> {
        let count = count as i64;
        let reserved = self.reserved.fetch_add(count, Ordering::AcqRel) + count;
        // A few are kept for the blocks of extent trees.
        if reserved + reserved / 64 + 8 > self.free_blocks.load(Ordering::Acquire) {
            self.reserved.fetch_sub(count, Ordering::AcqRel);
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    /// Promises blocks again that were allocated and are given back.
    pub(crate) fn renew(&self, count: u64) {
        self.reserved.fetch_add(count as i64, Ordering::AcqRel);
    }

    /// Takes a promise back (it was kept, or is not needed).
    pub(crate) fn unreserve(&self, count: u64) {
        self.reserved.fetch_sub(count as i64, Ordering::AcqRel);
    }

    fn load_blocks(
        &self,
        sb: &Super,
        buffers: &Buffers,
        number: u32,
        state: &mut GroupState,
    ) -> Result<()> {
        if state.blocks.is_some() {
            return Ok(());
        }
        let len = sb.group_len(number) as usize;
        let mut bits = if state.desc.flags & BLOCK_UNINIT != 0 {
            self.fresh_bitmap(sb, number)
        } else {
            buffers.get(state.desc.block_bitmap)?.copy()
        };
        if sb.has_csum() && state.desc.flags & BLOCK_UNINIT == 0 {
            let used = sb.blocks_per_group as usize / 8;
            let sum = crc32c(sb.seed, bits.get(..used).unwrap_or(&[]));
            let mask = if sb.desc_size >= 64 { !0 } else { 0xffff };
            if sum & mask != state.desc.block_csum & mask {
                log::error!("ext4: group {number} block bitmap checksum mismatch");
                return Err(Errno::EBADMSG);
            }
        }
        for at in len..bits.len() * 8 {
            set(&mut bits, at, true);
        }
        state.blocks = Some(bits);
        Ok(())
    }

    /// The bitmap of a group nothing was ever allocated from: only metadata is in use.
    fn fresh_bitmap(&self, sb: &Super, number: u32) -> Vec<u8> {
        let mut bits = alloc::vec![0; sb.block_size];
        for at in 0..sb.overhead(number) as usize {
            set(&mut bits, at, true);
        }
        let start = sb.group_start(number);
        let end = start + u64::from(sb.group_len(number));
        let table = u64::from(sb.inodes_per_group) * sb.inode_size as u64 / sb.block_size as u64;
        let mut mark = |first: u64, len: u64| {
            for block in first.max(start)..(first + len).min(end) {
                set(&mut bits, (block - start) as usize, true);
            }
        };
        // With flex_bg a neighbour's tables may lie here.
        for [block_bitmap, inode_bitmap, inode_table] in &self.places {
            mark(*block_bitmap, 1);
            mark(*inode_bitmap, 1);
            mark(*inode_table, table);
        }
        bits
    }

    /// Takes up to `want` adjacent blocks, near `goal`.
    pub(crate) fn take_blocks(
        &self,
        sb: &Super,
        buffers: &Buffers,
        goal: u64,
        want: u32,
    ) -> Result<(u64, u32)> {
        let goal = self.aligned(goal, want);
        let goal = if goal <= sb.first_data_block || goal >= sb.blocks {
            sb.first_data_block
        } else {
            goal
        };
        let home = ((goal - sb.first_data_block) / u64::from(sb.blocks_per_group)) as u32;
        let mut offset = ((goal - sb.first_data_block) % u64::from(sb.blocks_per_group)) as usize;
        // First a place for all of it, then for a good part, then anything.
        for minimum in [want, want.div_ceil(8), 1] {
            for step in 0..sb.groups {
                let number = (home + step) % sb.groups;
                let Some(group) = self.groups.get(number as usize) else { break };
                let mut state = group.lock();
                if state.available() < minimum {
                    continue;
                }
                self.load_blocks(sb, buffers, number, &mut state)?;
                let len = sb.group_len(number) as usize;
                let Some(bits) = &mut state.blocks else { continue };
                let Some((first, run)) = find_run(bits, offset, len, want as usize) else {
                    continue;
                };
                if (run as u32) < minimum && !(step == 0 && first == offset) {
                    continue;
                }
                for at in first..first + run {
                    set(bits, at, true);
                }
                let run = run as u32;
                state.desc.free_blocks = state.desc.free_blocks.saturating_sub(run);
                state.desc.flags &= !BLOCK_UNINIT;
                self.touch(buffers, number, &mut state);
                self.free_blocks.fetch_sub(i64::from(run), Ordering::AcqRel);
                return Ok((sb.group_start(number) + first as u64, run));
            }
            offset = 0;
        }
        Err(Errno::ENOSPC)
    }

    /// Gives blocks back.
    pub(crate) fn give_blocks(
        &self,
        sb: &Super,
        buffers: &Buffers,
        first: u64,
        count: u64,
    ) -> Result<()> {
        let mut block = first;
        let end = first.checked_add(count).filter(|&end| end <= sb.blocks).ok_or(Errno::EUCLEAN)?;
        while block < end {
            let index = block.checked_sub(sb.first_data_block).ok_or(Errno::EUCLEAN)?;
            let number = (index / u64::from(sb.blocks_per_group)) as u32;
            let stop = end.min(sb.group_start(number) + u64::from(sb.group_len(number)));
            let mut state = self.groups.get(number as usize).ok_or(Errno::EUCLEAN)?.lock();
            self.load_blocks(sb, buffers, number, &mut state)?;
            let base = sb.group_start(number);
            let freed = self.free_in(&mut state, (block - base) as usize, (stop - base) as usize);
            if freed < (stop - block) as u32 {
                log::error!("ext4: blocks {block}..{stop} are freed twice");
            }
            state.desc.free_blocks += freed;
            self.touch(buffers, number, &mut state);
            self.free_blocks.fetch_add(i64::from(freed), Ordering::AcqRel);
            block = stop;
        }
        Ok(())
    }

    /// Frees bits `from..to` of a group, or holds them back; returns how many were in use.
    fn free_in(&self, state: &mut GroupState, from: usize, to: usize) -> u32 {
        let is_holding = self.is_holding.load(Ordering::Acquire);
        let GroupState { blocks: Some(bits), freed, leaving, held, .. } = state else { return 0 };
        let mut count = 0;
        for at in from..to {
            let is_held = [freed.as_ref(), leaving.as_ref()]
                .into_iter()
                .flatten()
                .any(|bits: &Vec<u8>| bit(bits, at));
            if !bit(bits, at) || is_held {
                continue;
            }
            count += 1;
            if is_holding {
                set(freed.get_or_insert_with(|| alloc::vec![0; bits.len()]), at, true);
            } else {
                set(bits, at, false);
            }
        }
        if is_holding {
            *held += count;
            self.held.fetch_add(i64::from(count), Ordering::AcqRel);
        }
        count
    }

    fn load_inodes(&self, sb: &Super, buffers: &Buffers, state: &mut GroupState) -> Result<()> {
        if state.inodes.is_some() {
            return Ok(());
        }
        let mut bits = if state.desc.flags & INODE_UNINIT != 0 {
            alloc::vec![0; sb.block_size]
        } else {
            buffers.get(state.desc.inode_bitmap)?.copy()
        };
        for at in sb.inodes_per_group as usize..bits.len() * 8 {
            set(&mut bits, at, true);
        }
        state.inodes = Some(bits);
        Ok(())
    }

    /// Takes an inode: files stay in their directory's group, directories spread out.
    pub(crate) fn take_inode(
        &self,
        sb: &Super,
        buffers: &Buffers,
        parent: u32,
        is_dir: bool,
    ) -> Result<u32> {
        let mut home = parent.saturating_sub(1) / sb.inodes_per_group;
        if is_dir && parent == 2 {
            let best = self.groups.iter().enumerate().max_by_key(|(_, group)| {
                let desc = group.lock().desc;
                if desc.free_inodes == 0 { 0 } else { u64::from(desc.free_blocks) + 1 }
            });
            home = best.map_or(0, |(number, _)| number as u32);
        }
        for step in 0..sb.groups {
            let number = (home + step) % sb.groups;
            let Some(group) = self.groups.get(number as usize) else { break };
            let mut state = group.lock();
            if state.desc.free_inodes == 0 {
                continue;
            }
            self.load_inodes(sb, buffers, &mut state)?;
            let reserved = if number == 0 { sb.first_ino as usize - 1 } else { 0 };
            let Some(bits) = &mut state.inodes else { continue };
            let Some(at) = next_clear(bits, reserved, sb.inodes_per_group as usize) else {
                continue;
            };
            set(bits, at, true);
            let unused = sb.inodes_per_group - at as u32 - 1;
            state.desc.unused_inodes = state.desc.unused_inodes.min(unused);
            state.desc.free_inodes -= 1;
            state.desc.used_dirs += u32::from(is_dir);
            state.desc.flags &= !INODE_UNINIT;
            if state.desc.flags & BLOCK_UNINIT != 0 {
                self.load_blocks(sb, buffers, number, &mut state)?;
                state.desc.flags &= !BLOCK_UNINIT;
            }
            self.touch(buffers, number, &mut state);
            self.free_inodes.fetch_sub(1, Ordering::AcqRel);
            return Ok(number * sb.inodes_per_group + at as u32 + 1);
        }
        Err(Errno::ENOSPC)
    }

    /// Gives an inode back.
    pub(crate) fn give_inode(
        &self,
        sb: &Super,
        buffers: &Buffers,
        ino: u32,
        is_dir: bool,
    ) -> Result<()> {
        let index = ino.checked_sub(1).ok_or(Errno::EUCLEAN)?;
        let number = index / sb.inodes_per_group;
        let mut state = self.groups.get(number as usize).ok_or(Errno::EUCLEAN)?.lock();
        self.load_inodes(sb, buffers, &mut state)?;
        if let Some(bits) = &mut state.inodes {
            set(bits, (index % sb.inodes_per_group) as usize, false);
        }
        state.desc.free_inodes += 1;
        state.desc.used_dirs = state.desc.used_dirs.saturating_sub(u32::from(is_dir));
        self.touch(buffers, number, &mut state);
        self.free_inodes.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Puts bitmaps and descriptors into their buffers. With a journal, nobody is in an operation.
    pub(crate) fn store(&self, sb: &Super, buffers: &Buffers) -> Result<()> {
        let touched = core::mem::take(&mut *self.touched.lock());
        for &number in &touched {
            let result = self.store_group(sb, buffers, number);
            if result.is_err() {
                // Those that were stored are not dirty any more.
                self.touched.lock().extend(touched.iter().copied());
                return result;
            }
        }
        Ok(())
    }

    fn store_group(&self, sb: &Super, buffers: &Buffers, number: u32) -> Result<()> {
        let mut state = self.groups.get(number as usize).ok_or(Errno::EUCLEAN)?.lock();
        if !state.dirty {
            return Ok(());
        }
        let mut desc = state.desc;
        if let Some(bits) = state.shown() {
            let used = sb.blocks_per_group as usize / 8;
            desc.block_csum = crc32c(sb.seed, bits.get(..used).unwrap_or(&[]));
            buffers.replace(desc.block_bitmap, &bits);
        }
        if let Some(bits) = &state.inodes {
            let used = sb.inodes_per_group as usize / 8;
            desc.inode_csum = crc32c(sb.seed, bits.get(..used).unwrap_or(&[]));
            buffers.replace(desc.inode_bitmap, bits);
        }
        if !sb.has_csum() {
            (desc.block_csum, desc.inode_csum) = (state.desc.block_csum, state.desc.inode_csum);
        }
        let per = sb.descs_per_block() as u32;
        let buffer = self.descs.get((number / per) as usize).ok_or(Errno::EUCLEAN)?;
        let at = (number % per) as usize * sb.desc_size;
        buffers.modify(buffer, |bytes| {
            if let Some(raw) = bytes.get_mut(at..at + sb.desc_size) {
                desc.store(raw, sb, number);
            }
        });
        state.desc = desc;
        state.dirty = false;
        if let Some(freed) = state.freed.take() {
            state.leaving = Some(freed);
            self.leaving.lock().push(number);
        }
        Ok(())
    }

    /// What was stored last is committed: the blocks that it gave up can be allocated.
    pub(crate) fn release_held(&self) {
        let leaving = core::mem::take(&mut *self.leaving.lock());
        for number in leaving {
            let Some(group) = self.groups.get(number as usize) else { continue };
            let mut state = group.lock();
            let Some(gone) = state.leaving.take() else { continue };
            let count = gone.iter().map(|byte| byte.count_ones()).sum::<u32>();
            if let Some(bits) = &mut state.blocks {
                subtract(bits, &gone);
            }
            state.held = state.held.saturating_sub(count);
            self.held.fetch_sub(i64::from(count), Ordering::AcqRel);
        }
    }
}
