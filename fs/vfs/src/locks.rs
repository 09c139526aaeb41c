//! File locks: POSIX record locks, open-file-description locks and `flock(2)`.
//!
//! Locks of an inode are under one spin lock, sorted by start. A POSIX lock belongs to a
//! descriptor table and goes with any `close` of the file through it; the others belong to the
//! open file description. Waiters of POSIX locks are kept in a graph (who waits for whom), which
//! is searched before each wait: a cycle is `EDEADLK`.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fcntl::{LOCK_EX, LOCK_SH};
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use sched::{WaitError, WaitQueue};

use crate::file::File;
use crate::inode::Inode;
use crate::lockedinodes;
use crate::types::InodeFlags;

static LOCKS: LockClass = LockClass::new("vfs.file_locks", 287);
static WAITS: LockClass = LockClass::new("vfs.lock_waits", 289);

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A descriptor table ([`crate::FdTable::id`]): POSIX locks.
    Table(u64),
    /// An open file description: OFD and `flock` locks.
    Description(u64),
}

/// Shared or exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// `F_RDLCK`, `LOCK_SH`.
    Read,
    /// `F_WRLCK`, `LOCK_EX`.
    Write,
}

/// A lock on bytes `start..=end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLock {
    /// First byte.
    pub start: u64,
    /// Last byte; `i64::MAX` means "to the end, wherever it moves".
    pub end: u64,
    /// Shared or exclusive.
    pub kind: LockKind,
    /// Who.
    pub owner: Owner,
    /// The process, for `F_GETLK` and `/proc/locks`; -1 for OFD locks.
    pub pid: i32,
}

impl RecordLock {
    fn overlaps(&self, other: &RecordLock) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn conflicts(&self, other: &RecordLock) -> bool {
        self.owner != other.owner
            && self.overlaps(other)
            && (self.kind == LockKind::Write || other.kind == LockKind::Write)
    }
}

/// The locks of one inode.
pub struct LockState {
    lists: SpinLock<Lists>,
    queue: WaitQueue,
}

#[derive(Default)]
struct Lists {
    records: Vec<RecordLock>,
    flocks: Vec<RecordLock>,
    /// Who sleeps for a lock.
    waiting: Vec<LockLine>,
}

impl Lists {
    fn is_free(&self) -> bool {
        self.records.is_empty() && self.flocks.is_empty()
    }

    /// Makes a change of the locks held and keeps the list of all inodes with locks true.
    fn change<R>(&mut self, inode: &Arc<Inode>, change: impl FnOnce(&mut Lists) -> R) -> R {
        let was_free = self.is_free();
        let result = change(self);
        match (was_free, self.is_free()) {
            (true, false) => lockedinodes::enter(inode),
            (false, true) => lockedinodes::leave(inode),
            _ => {}
        }
        result
    }

    /// `owner` gave something back: who waited for it, and not any more, waits for nobody even before it
    /// runs. Else `owner` could not wait for that one in turn without `EDEADLK`. Waiters are woken
    /// afterwards and say themselves for whom they wait next.
    fn forget_waiters_for(&self, owner: Owner) {
        if self.waiting.is_empty() {
            return;
        }
        let mut graph = WAITING.lock();
        for line in self.waiting.iter().filter(|line| !line.is_flock) {
            if graph.get(&line.lock.owner) == Some(&owner)
                && self.holder(line).is_none_or(|lock| lock.owner != owner)
            {
                graph.remove(&line.lock.owner);
            }
        }
    }

    /// The first lock that keeps `wanted` from being set.
    fn holder(&self, wanted: &LockLine) -> Option<RecordLock> {
        let list = if wanted.is_flock { &self.flocks } else { &self.records };
        LockState::first_conflict(list, &wanted.lock)
    }
}

impl Default for LockState {
    fn default() -> Self {
        LockState { lists: SpinLock::new(&LOCKS, Lists::default()), queue: WaitQueue::new() }
    }
}

/// Whether to wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// `EAGAIN` at once.
    No,
    /// Until it is free; `ERESTARTSYS` at a signal.
    Yes,
}

/// Who waits for whom, POSIX locks only.
static WAITING: SpinLock<BTreeMap<Owner, Owner>> = SpinLock::new(&WAITS, BTreeMap::new());

fn would_deadlock(waiter: Owner, mut holder: Owner, graph: &BTreeMap<Owner, Owner>) -> bool {
    // A chain cannot be longer than there are waiters.
    for _ in 0..=graph.len() {
        if holder == waiter {
            return true;
        }
        match graph.get(&holder) {
            Some(next) => holder = *next,
            None => return false,
        }
    }
    false
}

/// Inserts `new` (or, with `kind` `None`, only removes) over the owner's own locks: splits, cuts
/// and merges them. Returns whether something became free.
fn apply(records: &mut Vec<RecordLock>, new: &RecordLock, kind: Option<LockKind>) -> bool {
    let mut freed = false;
    let mut merged = *new;
    let mut kept = Vec::with_capacity(records.len() + 2);
    for lock in records.drain(..) {
        if lock.owner != new.owner {
            kept.push(lock);
            continue;
        }
        let touches =
            lock.start <= new.end.saturating_add(1) && new.start <= lock.end.saturating_add(1);
        if kind == Some(lock.kind) && touches {
            merged.start = merged.start.min(lock.start);
            merged.end = merged.end.max(lock.end);
            continue;
        }
        if !lock.overlaps(new) {
            kept.push(lock);
            continue;
        }
        freed |= kind != Some(LockKind::Write);
        if lock.start < new.start {
            kept.push(RecordLock { end: new.start - 1, ..lock });
        }
        if lock.end > new.end {
            kept.push(RecordLock { start: new.end + 1, ..lock });
        }
    }
    if let Some(kind) = kind {
        merged.kind = kind;
        kept.push(merged);
    }
    kept.sort_by_key(|lock| lock.start);
    *records = kept;
    freed
}

impl LockState {
    fn first_conflict(list: &[RecordLock], wanted: &RecordLock) -> Option<RecordLock> {
        list.iter().take_while(|l| l.start <= wanted.end).find(|l| l.conflicts(wanted)).copied()
    }

    /// Sets a lock, or tells `refused` which one is in its way, before that can go.
    fn try_record<E>(
        &self,
        inode: &Arc<Inode>,
        wanted: &RecordLock,
        refused: impl FnOnce(RecordLock) -> E,
    ) -> Result<(), E> {
        let mut lists = self.lists.lock();
        if let Some(conflict) = Self::first_conflict(&lists.records, wanted) {
            return Err(refused(conflict));
        }
        let freed =
            lists.change(inode, |lists| apply(&mut lists.records, wanted, Some(wanted.kind)));
        if freed {
            lists.forget_waiters_for(wanted.owner);
        }
        drop(lists);
        if freed {
            self.queue.wake_all();
        }
        Ok(())
    }

    fn try_flock(&self, inode: &Arc<Inode>, wanted: &RecordLock) -> Result<(), RecordLock> {
        let mut lists = self.lists.lock();
        let (result, freed) = lists.change(inode, |lists| {
            // man 2 flock: a conversion is not atomic: the old lock goes first.
            let before = lists.flocks.len();
            lists.flocks.retain(|l| l.owner != wanted.owner || l.kind == wanted.kind);
            let freed = lists.flocks.len() != before;
            let held = lists.flocks.iter().any(|l| l.owner == wanted.owner);
            let result = if held {
                Ok(())
            } else if let Some(conflict) = Self::first_conflict(&lists.flocks, wanted) {
                Err(conflict)
            } else {
                lists.flocks.push(*wanted);
                Ok(())
            };
            (result, freed)
        });
        drop(lists);
        if freed {
            self.queue.wake_all();
        }
        result
    }
}

/// A lock somebody sleeps for, shown in `/proc/locks` as long as this lives.
struct Waiter<'a> {
    state: &'a LockState,
    line: LockLine,
}

impl<'a> Waiter<'a> {
    fn new(state: &'a LockState, is_flock: bool, lock: RecordLock) -> Waiter<'a> {
        let line = LockLine { is_flock, lock };
        state.lists.lock().waiting.push(line);
        Waiter { state, line }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let waiting = &mut self.state.lists.lock().waiting;
        if let Some(at) = waiting.iter().position(|line| *line == self.line) {
            waiting.swap_remove(at);
        }
    }
}

/// `F_SETLK` and `F_SETLKW` (and their OFD forms).
pub fn set_record(inode: &Arc<Inode>, wanted: RecordLock, wait: Wait) -> Result<()> {
    let state = &inode.extra().locks;
    match state.try_record(inode, &wanted, |_| ()) {
        Ok(()) => return Ok(()),
        Err(_) if wait == Wait::No => return Err(Errno::EAGAIN),
        Err(_) => {}
    }
    let is_posix = matches!(wanted.owner, Owner::Table(_));
    let _waiter = Waiter::new(state, false, wanted);
    // Nothing for another round, else the outcome.
    let waits_for = |conflict: RecordLock| {
        if !is_posix {
            return None;
        }
        let mut graph = WAITING.lock();
        if would_deadlock(wanted.owner, conflict.owner, &graph) {
            return Some(Errno::EDEADLK);
        }
        graph.insert(wanted.owner, conflict.owner);
        None
    };
    let result = state.queue.wait_interruptible(
        || match state.try_record(inode, &wanted, waits_for) {
            Ok(()) => Some(Ok(())),
            Err(Some(error)) => Some(Err(error)),
            Err(None) => None,
        },
        None,
    );
    if is_posix {
        WAITING.lock().remove(&wanted.owner);
    }
    match result {
        Ok(outcome) => outcome,
        Err(WaitError::Interrupted | WaitError::TimedOut) => Err(Errno::ERESTARTSYS),
    }
}

/// `F_UNLCK`.
pub fn unlock_record(inode: &Arc<Inode>, range: &RecordLock) {
    let Some(extra) = inode.existing_extra() else { return };
    let mut lists = extra.locks.lists.lock();
    let freed = lists.change(inode, |lists| apply(&mut lists.records, range, None));
    if freed {
        lists.forget_waiters_for(range.owner);
    }
    drop(lists);
    if freed {
        extra.locks.queue.wake_all();
    }
}

/// `F_GETLK`: the first lock that keeps `wanted` from being set.
pub fn test_record(inode: &Inode, wanted: &RecordLock) -> Option<RecordLock> {
    let extra = inode.existing_extra()?;
    LockState::first_conflict(&extra.locks.lists.lock().records, wanted)
}

/// `flock(2)` with `LOCK_SH` or `LOCK_EX`.
pub fn flock(file: &File, operation: u32, pid: i32, wait: Wait) -> Result<()> {
    let kind = match operation {
        LOCK_SH => LockKind::Read,
        LOCK_EX => LockKind::Write,
        _ => return Err(Errno::EINVAL),
    };
    let wanted = RecordLock { start: 0, end: i64::MAX as u64, kind, owner: file.lock_owner(), pid };
    let inode = file.inode();
    let state = &inode.extra().locks;
    match state.try_flock(inode, &wanted) {
        Ok(()) => return Ok(()),
        Err(_) if wait == Wait::No => return Err(Errno::EAGAIN),
        Err(_) => {}
    }
    let _waiter = Waiter::new(state, true, wanted);
    state
        .queue
        .wait_interruptible(|| state.try_flock(inode, &wanted).ok(), None)
        .map_err(|_| Errno::ERESTARTSYS)
}

/// `flock(2)` with `LOCK_UN`.
pub fn unlock_flock(file: &File) {
    let Some(extra) = file.inode().existing_extra() else { return };
    let mut lists = extra.locks.lists.lock();
    let before = lists.flocks.len();
    let owner = file.lock_owner();
    lists.change(file.inode(), |lists| lists.flocks.retain(|l| l.owner != owner));
    let freed = lists.flocks.len() != before;
    drop(lists);
    if freed {
        extra.locks.queue.wake_all();
    }
}

fn drop_owner(inode: &Arc<Inode>, owner: Owner) {
    let Some(extra) = inode.existing_extra() else { return };
    let mut lists = extra.locks.lists.lock();
    let before = lists.records.len() + lists.flocks.len();
    lists.change(inode, |lists| {
        lists.records.retain(|l| l.owner != owner);
        lists.flocks.retain(|l| l.owner != owner);
    });
    let freed = lists.records.len() + lists.flocks.len() != before;
    if freed {
        lists.forget_waiters_for(owner);
    }
    drop(lists);
    if freed {
        extra.locks.queue.wake_all();
    }
}

/// A descriptor of `file` in the table `table` is closed: its POSIX locks go.
#[inline]
pub(crate) fn release_posix(file: &Arc<File>, table: u64) {
    if file.inode().has(InodeFlags::HAS_EXTRA) {
        drop_owner(file.inode(), Owner::Table(table));
    }
}

/// The description is gone: its locks go.
pub(crate) fn release_file(file: &File) {
    drop_owner(file.inode(), file.lock_owner());
}

/// A lock and which kind of call set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockLine {
    /// Whether it is an `flock` lock.
    pub is_flock: bool,
    /// The lock.
    pub lock: RecordLock,
}

/// A lock of an inode with those who sleep for it.
#[derive(Clone, Debug)]
pub struct HeldLock {
    /// The lock.
    pub held: LockLine,
    /// The locks that wait for it.
    pub waiting: Vec<LockLine>,
}

/// The locks of an inode (`/proc/locks`, `/proc/PID/fdinfo`).
pub fn list(inode: &Inode) -> Vec<HeldLock> {
    let Some(extra) = inode.existing_extra() else { return Vec::new() };
    let lists = extra.locks.lists.lock();
    let records = lists.records.iter().map(|&lock| LockLine { is_flock: false, lock });
    let flocks = lists.flocks.iter().map(|&lock| LockLine { is_flock: true, lock });
    let waiters_of = |held: &LockLine| {
        let waits = |line: &&LockLine| {
            line.is_flock == held.is_flock && lists.holder(line) == Some(held.lock)
        };
        lists.waiting.iter().filter(waits).copied().collect()
    };
    records.chain(flocks).map(|held| HeldLock { held, waiting: waiters_of(&held) }).collect()
}

/// The inodes that have locks, in no order.
pub fn locked_inodes() -> Vec<Arc<Inode>> {
    lockedinodes::all()
}
