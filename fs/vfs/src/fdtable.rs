//! File-descriptor tables.
//!
//! [`FdTable::get`] takes no lock: descriptors live in the table itself and in segments of doubling
//! size that never move, and each slot is an RCU slot. Allocation and flags are under one spin lock; the lowest free
//! number comes from a bitmap of three levels, so its cost does not depend on how many are open.
//!
//! A number can be reserved without a file yet (while `open` works): it reads as `EBADF`.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, Result};
use arch::lock::{LockClass, Once, SpinLock};
use sched::rcu::RcuSlot;

use crate::context::{Shared, Sharers};
use crate::file::{File, FileMode};

static FD_TABLE: LockClass = LockClass::new("vfs.fd_table", 283);

/// Descriptors that live in the table itself.
const FIRST: u32 = 64;
/// As large as what is before it each: together with `FIRST` they hold `MAX_FD`.
const SEGMENTS: usize = 14;
/// No descriptor reaches this number (`/proc/sys/fs/nr_open`).
pub const MAX_FD: u32 = 1 << 20;

type Segment = Box<[RcuSlot<File>]>;

/// A table of open files: shared between the tasks that asked for it (`CLONE_FILES`).
pub struct FdTable {
    first: [RcuSlot<File>; FIRST as usize],
    segments: [Once<Segment>; SEGMENTS],
    state: SpinLock<State>,
    id: u64,
    sharers: Sharers,
}

impl Shared for FdTable {
    fn sharers(&self) -> &Sharers {
        &self.sharers
    }
}

#[derive(Default)]
struct State {
    used: Bitmap,
    cloexec: Vec<u64>,
}

impl State {
    /// Makes sure that `fd` can be noted without allocating.
    fn make_room(&mut self, fd: u32) -> Result<()> {
        let mut index = fd as usize;
        for words in &mut self.used.levels {
            index /= 64;
            room_for(words, index)?;
        }
        room_for(&mut self.cloexec, fd as usize / 64)
    }

    fn copy(&self) -> Result<State> {
        let mut copy = State::default();
        for (to, from) in copy.used.levels.iter_mut().zip(&self.used.levels) {
            to.try_reserve(from.len()).map_err(|_| Errno::ENOMEM)?;
            to.extend_from_slice(from);
        }
        copy.cloexec.try_reserve(self.cloexec.len()).map_err(|_| Errno::ENOMEM)?;
        copy.cloexec.extend_from_slice(&self.cloexec);
        Ok(copy)
    }
}

fn room_for(words: &mut Vec<u64>, index: usize) -> Result<()> {
    let more = (index + 1).saturating_sub(words.len());
    words.try_reserve(more).map_err(|_| Errno::ENOMEM)
}

/// A set of numbers that finds its lowest gap quickly.
#[derive(Default)]
struct Bitmap {
    /// `levels[0]` is the set; bit n of a higher level says that word n below is full.
    levels: [Vec<u64>; 3],
}

impl Bitmap {
    fn set(&mut self, n: u32) {
        let mut index = n as usize;
        for level in &mut self.levels {
            let word = index / 64;
            if word >= level.len() {
                level.resize(word + 1, 0);
            }
            level[word] |= 1 << (index % 64);
            if level[word] != u64::MAX {
                return;
            }
            index = word;
        }
    }

    fn clear(&mut self, n: u32) {
        let mut index = n as usize;
        for level in &mut self.levels {
            let Some(word) = level.get_mut(index / 64) else { return };
            let was_full = *word == u64::MAX;
            *word &= !(1 << (index % 64));
            if !was_full {
                return;
            }
            index /= 64;
        }
    }

    fn has(&self, n: u32) -> bool {
        self.levels[0].get(n as usize / 64).is_some_and(|w| w & (1 << (n % 64)) != 0)
    }

    /// The first zero bit of `level` at or after `from`.
    fn gap(&self, level: usize, from: usize) -> usize {
        let Some(words) = self.levels.get(level) else { return from };
        let mut word = from / 64;
        let Some(&bits) = words.get(word) else { return from };
        let masked = bits | ((1u64 << (from % 64)) - 1);
        if masked != u64::MAX {
            return word * 64 + masked.trailing_ones() as usize;
        }
        // The next word that is not full, found one level up.
        word = self.gap(level + 1, word + 1);
        match words.get(word) {
            Some(bits) => word * 64 + bits.trailing_ones() as usize,
            None => word * 64,
        }
    }

    fn lowest_gap(&self, from: u32) -> u32 {
        self.gap(0, from as usize) as u32
    }

    fn next_set(&self, from: u32) -> Option<u32> {
        let words = &self.levels[0];
        let mut word = from as usize / 64;
        let mut bits = words.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *words.get(word)?;
        }
        Some((word * 64) as u32 + bits.trailing_zeros())
    }
}

/// Where a descriptor from `FIRST` on is: the segment and the place there.
#[inline]
fn place(fd: u32) -> (usize, usize) {
    let top = (fd | FIRST).ilog2();
    ((top - FIRST.ilog2()) as usize, (fd & !(1 << top)) as usize)
}

impl Default for FdTable {
    fn default() -> Self {
        Self::new()
    }
}

impl FdTable {
    /// Empty.
    pub fn new() -> FdTable {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        FdTable {
            first: [const { RcuSlot::empty() }; FIRST as usize],
            segments: [const { Once::new() }; SEGMENTS],
            state: SpinLock::new(&FD_TABLE, State::default()),
            // Relaxed: only uniqueness matters.
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            sharers: Sharers::none(),
        }
    }

    /// Identity of this table: owner of POSIX record locks.
    pub fn id(&self) -> u64 {
        self.id
    }

    #[inline]
    fn slot(&self, fd: u32) -> Option<&RcuSlot<File>> {
        self.first.get(fd as usize).or_else(|| self.far_slot(fd))
    }

    #[inline]
    fn far_slot(&self, fd: u32) -> Option<&RcuSlot<File>> {
        let (segment, index) = place(fd);
        // Numbers behind `MAX_FD` have no segment.
        self.segments.get(segment)?.get()?.get(index)
    }

    /// For looking up many.
    pub fn lookups(&self) -> Lookups<'_> {
        Lookups { table: self, first: 0, slots: &self.first }
    }

    fn make_slot(&self, fd: u32) -> Result<&RcuSlot<File>> {
        if let Some(slot) = self.first.get(fd as usize) {
            return Ok(slot);
        }
        if fd >= MAX_FD {
            return Err(Errno::EMFILE);
        }
        let (segment, index) = place(fd);
        let once = self.segments.get(segment).ok_or(Errno::EMFILE)?;
        if let Some(slots) = once.get() {
            return slots.get(index).ok_or(Errno::EMFILE);
        }
        let mut slots = Vec::new();
        let len = (FIRST as usize) << segment;
        slots.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        slots.resize_with(len, RcuSlot::empty);
        // Of two that come here at a time one has made them in vain.
        once.call_once(|| slots.into_boxed_slice()).get(index).ok_or(Errno::EMFILE)
    }

    /// The open file `fd`; not one opened with `O_PATH`.
    #[inline]
    pub fn get(&self, fd: i32) -> Result<Arc<File>> {
        let file = self.get_any(fd)?;
        if file.mode().contains(FileMode::PATH) { Err(Errno::EBADF) } else { Ok(file) }
    }

    /// The open file `fd`, also one opened with `O_PATH`.
    #[inline]
    pub fn get_any(&self, fd: i32) -> Result<Arc<File>> {
        self.slot(fd as u32).and_then(RcuSlot::get).ok_or(Errno::EBADF)
    }

    /// Takes the lowest free number from `min` on; below `limit` (`RLIMIT_NOFILE`), else `EMFILE`.
    pub fn reserve(&self, min: u32, limit: u64, cloexec: CloseOnExec) -> Result<u32> {
        loop {
            let mut state = self.state.lock();
            let fd = state.used.lowest_gap(min);
            if u64::from(fd) >= limit.min(u64::from(MAX_FD)) {
                return Err(Errno::EMFILE);
            }
            if self.slot(fd).is_some() {
                state.make_room(fd)?;
                state.used.set(fd);
                state.set_cloexec(fd, cloexec);
                return Ok(fd);
            }
            drop(state);
            // Allocation of a segment happens outside the lock.
            self.make_slot(fd)?;
        }
    }

    /// Gives a reserved number its file.
    pub fn install(&self, fd: u32, file: Arc<File>) {
        if let Some(slot) = self.slot(fd) {
            slot.swap(Some(file));
        }
    }

    /// Gives a reserved number back.
    pub fn cancel(&self, fd: u32) {
        let mut state = self.state.lock();
        state.used.clear(fd);
    }

    /// Reserves and installs.
    pub fn add(&self, file: Arc<File>, min: u32, limit: u64, cloexec: CloseOnExec) -> Result<u32> {
        let fd = self.reserve(min, limit, cloexec)?;
        self.install(fd, file);
        Ok(fd)
    }

    /// Takes the file out of the table. The caller passes it to [`FdTable::finish_close`].
    pub fn take(&self, fd: i32) -> Result<Arc<File>> {
        let fd = fd as u32;
        let slot = self.slot(fd).ok_or(Errno::EBADF)?;
        let mut state = self.state.lock();
        let file = slot.take().ok_or(Errno::EBADF)?;
        state.used.clear(fd);
        Ok(file)
    }

    /// What closing a descriptor does besides forgetting it: flushes, drops record locks.
    pub fn finish_close(&self, file: &Arc<File>) -> Result<()> {
        if file.mode().contains(FileMode::PATH) {
            return Ok(());
        }
        let result = file.ops().flush(file);
        crate::locks::release_posix(file, self.id);
        result
    }

    /// `close(2)`.
    pub fn close(&self, fd: i32) -> Result<()> {
        let file = self.take(fd)?;
        self.finish_close(&file)
    }

    /// `dup2(2)` and `dup3(2)`: makes `fd` mean `file`; what it meant before is closed.
    pub fn replace(
        &self,
        fd: u32,
        file: Arc<File>,
        limit: u64,
        cloexec: CloseOnExec,
    ) -> Result<()> {
        if u64::from(fd) >= limit.min(u64::from(MAX_FD)) {
            return Err(Errno::EBADF);
        }
        let slot = self.make_slot(fd)?;
        let old = {
            let mut state = self.state.lock();
            // Reserved by an open that has not finished.
            if state.used.has(fd) && !slot.is_some() {
                return Err(Errno::EBUSY);
            }
            state.make_room(fd)?;
            state.used.set(fd);
            state.set_cloexec(fd, cloexec);
            slot.swap(Some(file))
        };
        if let Some(old) = old {
            // The error of the implicit close is lost, as dup2(2) says.
            let _ = self.finish_close(&old);
        }
        Ok(())
    }

    /// Whether `fd` is closed by `execve`.
    pub fn cloexec(&self, fd: i32) -> Result<bool> {
        self.get_any(fd)?;
        let state = self.state.lock();
        Ok(state.cloexec.get(fd as usize / 64).is_some_and(|w| w & (1 << (fd % 64)) != 0))
    }

    /// Sets whether `fd` is closed by `execve`.
    pub fn set_cloexec(&self, fd: i32, cloexec: CloseOnExec) -> Result<()> {
        self.get_any(fd)?;
        self.state.lock().set_cloexec(fd as u32, cloexec);
        Ok(())
    }

    /// A private copy (fork without `CLONE_FILES`); `ENOMEM`.
    pub fn duplicate(&self) -> Result<FdTable> {
        let copy = FdTable::new();
        let mut state = self.state.lock().copy()?;
        let mut next = 0;
        while let Some(fd) = state.used.next_set(next) {
            next = fd + 1;
            let file = self.slot(fd).and_then(RcuSlot::get);
            match (file, copy.make_slot(fd)) {
                (Some(file), slot) => {
                    slot?.swap(Some(file));
                }
                // Reserved by a thread that is still opening: the copy does not get it.
                (None, _) => state.used.clear(fd),
            }
        }
        *copy.state.lock() = state;
        Ok(copy)
    }

    /// The open descriptors at or above `from`, with their files, one after the other.
    pub fn next(&self, from: u32) -> Option<(u32, Arc<File>)> {
        let mut fd = from;
        loop {
            fd = self.state.lock().used.next_set(fd)?;
            if let Some(file) = self.slot(fd).and_then(RcuSlot::get) {
                return Some((fd, file));
            }
            fd += 1;
        }
    }

    /// Closes what is marked close-on-exec.
    pub fn close_on_exec(&self) {
        let marked: Vec<u32> = {
            let state = self.state.lock();
            let words = state.used.levels[0].iter().zip(&state.cloexec).enumerate();
            words
                .flat_map(|(n, (used, marked))| {
                    let bits = used & marked;
                    (0..64).filter(move |b| bits & (1 << b) != 0).map(move |b| n as u32 * 64 + b)
                })
                .collect()
        };
        for fd in marked {
            let _ = self.close(fd as i32);
        }
    }

    /// Closes the descriptors `first..=last`.
    pub fn close_range(&self, first: u32, last: u32) {
        let mut at = first;
        while let Some((fd, _)) = self.next(at) {
            if fd > last {
                return;
            }
            let _ = self.close(fd as i32);
            let Some(next) = fd.checked_add(1) else { return };
            at = next;
        }
    }

    /// Marks the descriptors `first..=last` close-on-exec.
    pub fn close_range_on_exec(&self, first: u32, last: u32) {
        let mut state = self.state.lock();
        let mut at = first;
        while let Some(fd) = state.used.next_set(at).filter(|fd| *fd <= last) {
            state.set_cloexec(fd, CloseOnExec::Yes);
            let Some(next) = fd.checked_add(1) else { break };
            at = next;
        }
    }

    /// How many numbers the table has room for now (`FDSize` of `/proc/PID/status`).
    pub fn capacity(&self) -> u32 {
        let last = self.segments.iter().rposition(|segment| segment.get().is_some());
        let segments = last.map_or(0, |last| last + 1);
        FIRST << segments
    }

    /// How many descriptors are open.
    pub fn open_count(&self) -> usize {
        self.state.lock().used.levels[0].iter().map(|w| w.count_ones() as usize).sum()
    }
}

/// Looks many descriptors up: neighbours of the last one are found by an index alone.
pub struct Lookups<'a> {
    table: &'a FdTable,
    /// The number of the first of `slots`.
    first: u32,
    slots: &'a [RcuSlot<File>],
}

impl Lookups<'_> {
    /// As [`FdTable::get`].
    #[inline]
    pub fn get(&mut self, fd: i32) -> Result<Arc<File>> {
        let near = (fd as u32).wrapping_sub(self.first) as usize;
        let slot = match self.slots.get(near) {
            Some(slot) => slot,
            None => self.far(fd as u32).ok_or(Errno::EBADF)?,
        };
        let file = slot.get().ok_or(Errno::EBADF)?;
        if file.mode().contains(FileMode::PATH) { Err(Errno::EBADF) } else { Ok(file) }
    }

    #[cold]
    #[inline(never)]
    fn far(&mut self, fd: u32) -> Option<&RcuSlot<File>> {
        if fd >= MAX_FD {
            return None;
        }
        let (first, slots) = if fd < FIRST {
            (0, &self.table.first[..])
        } else {
            let (segment, index) = place(fd);
            (fd - index as u32, &**self.table.segments.get(segment)?.get()?)
        };
        (self.first, self.slots) = (first, slots);
        slots.get((fd - first) as usize)
    }
}

impl State {
    fn set_cloexec(&mut self, fd: u32, cloexec: CloseOnExec) {
        let word = fd as usize / 64;
        let bit = 1 << (fd % 64);
        match cloexec {
            CloseOnExec::Yes => {
                if word >= self.cloexec.len() {
                    self.cloexec.resize(word + 1, 0);
                }
                self.cloexec[word] |= bit;
            }
            CloseOnExec::No => {
                if let Some(w) = self.cloexec.get_mut(word) {
                    *w &= !bit;
                }
            }
        }
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        self.close_range(0, u32::MAX);
    }
}

impl core::fmt::Debug for FdTable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FdTable({})", self.id)
    }
}

/// Whether a descriptor is closed by `execve(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseOnExec {
    /// It is.
    Yes,
    /// It stays open.
    No,
}

impl CloseOnExec {
    /// From a flag word: `Yes` if any bit of `bit` is set.
    pub fn from_flags(flags: u32, bit: u32) -> CloseOnExec {
        if flags & bit != 0 { CloseOnExec::Yes } else { CloseOnExec::No }
    }
}
