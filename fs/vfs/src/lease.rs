//! Leases (`F_SETLEASE`): a holder hears before somebody opens or shortens the file in a way that
//! conflicts, and has `LEASE_BREAK_NS` to give the lease up.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use sched::{Deadline, WaitError, WaitQueue};

use crate::context::Context;
use crate::cred::Cap;
use crate::file::File;
use crate::inode::Inode;
use crate::perm::capable_towards;
use crate::sigio::{self, Notice, code};
use crate::types::{FileKind, InodeFlags};

static CLASS: LockClass = LockClass::new("vfs.leases", 287);

/// `/proc/sys/fs/lease-break-time`: 45 seconds.
const LEASE_BREAK_NS: u64 = 45_000_000_000;

/// Kinds of leases, as `fcntl(2)` numbers them.
const F_RDLCK: u32 = 0;
const F_WRLCK: u32 = 1;
const F_UNLCK: u32 = 2;

struct Lease {
    file: Weak<File>,
    /// `F_RDLCK` or `F_WRLCK`.
    kind: u32,
    /// What it must become: `F_RDLCK` or `F_UNLCK`.
    target: Option<u32>,
    /// When it goes by itself: set when the holder is asked to give it up.
    ends: Option<u64>,
    fd: i32,
}

impl Lease {
    fn is_of(&self, file: &File) -> bool {
        core::ptr::eq(self.file.as_ptr(), file)
    }

    /// Whether an open (for writing) must wait.
    fn conflicts(&self, writes: bool) -> bool {
        self.kind == F_WRLCK || writes
    }
}

/// The leases of one inode.
pub struct Leases {
    list: SpinLock<Vec<Lease>>,
    queue: WaitQueue,
}

impl Default for Leases {
    fn default() -> Leases {
        Leases { list: SpinLock::new(&CLASS, Vec::new()), queue: WaitQueue::new() }
    }
}

/// `fcntl(F_GETLEASE)`: the lease, or what it is to become while it is being broken.
pub fn get(file: &File) -> u32 {
    let Some(extra) = file.inode().existing_extra() else { return F_UNLCK };
    let list = extra.leases.list.lock();
    let lease = list.iter().find(|lease| lease.is_of(file));
    lease.map_or(F_UNLCK, |lease| lease.target.unwrap_or(lease.kind))
}

/// `fcntl(F_SETLEASE)` on descriptor `fd`.
pub fn set(ctx: &Context<'_>, file: &Arc<File>, fd: i32, kind: u32) -> Result<()> {
    let inode = file.inode();
    if ctx.creds.fsuid != inode.uid() && !capable_towards(inode, ctx.creds, Cap::LEASE) {
        return Err(Errno::EACCES);
    }
    if inode.kind != FileKind::Regular || !matches!(kind, F_RDLCK | F_WRLCK | F_UNLCK) {
        return Err(Errno::EINVAL);
    }
    if kind == F_UNLCK {
        return if release(file) { Ok(()) } else { Err(Errno::EAGAIN) };
    }
    // man 2 fcntl: a read lease only on a descriptor for reading, and with no writer about; a write
    // lease only if nobody else has the file open (its name counts as one user).
    let busy = match kind {
        F_RDLCK => file.can_write() || inode.writer_count() > 0,
        _ => inode.users() > 2,
    };
    if busy {
        return Err(Errno::EAGAIN);
    }
    let leases = &inode.extra().leases;
    let mut list = leases.list.lock();
    let others = list.iter().any(|l| !l.is_of(file) && (l.kind == F_WRLCK || kind == F_WRLCK));
    if others {
        return Err(Errno::EAGAIN);
    }
    match list.iter_mut().find(|lease| lease.is_of(file)) {
        Some(lease) => {
            if lease.target.is_some_and(|target| target != kind) {
                return Err(Errno::EAGAIN);
            }
            (lease.kind, lease.target, lease.ends) = (kind, None, None);
        }
        None => {
            let file = Arc::downgrade(file);
            list.push(Lease { file, kind, target: None, ends: None, fd });
        }
    }
    drop(list);
    inode.set_flags(InodeFlags::LEASED);
    leases.queue.wake_all();
    Ok(())
}

/// Gives up the lease of an open file; whether it had one.
pub(crate) fn release(file: &File) -> bool {
    let Some(extra) = file.inode().existing_extra() else { return false };
    let mut list = extra.leases.list.lock();
    let before = list.len();
    list.retain(|lease| !lease.is_of(file));
    let freed = list.len() != before;
    if list.is_empty() {
        file.inode().clear_flags(InodeFlags::LEASED);
    }
    drop(list);
    if freed {
        extra.leases.queue.wake_all();
    }
    freed
}

/// Whether the caller waits for a lease to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// `EAGAIN` at once (`O_NONBLOCK`).
    None,
    /// Until it is gone or its time is up.
    Wait,
}

/// Somebody is about to open the file (for writing) or to change its length: breaks leases that
/// conflict.
#[inline]
pub(crate) fn break_leases(inode: &Inode, writes: bool, patience: Patience) -> Result<()> {
    if inode.has(InodeFlags::LEASED) { break_slow(inode, writes, patience) } else { Ok(()) }
}

/// Does by force what holders have not done in time: a lease goes, or becomes one for reading where
/// that is enough. fcntl(2), "File leases".
fn expire(inode: &Inode, leases: &Leases, now: u64) {
    let mut list = leases.list.lock();
    let is_over = |lease: &Lease| lease.ends.is_some_and(|end| end <= now);
    if !list.iter().any(is_over) {
        return;
    }
    list.retain_mut(|lease| {
        if !is_over(lease) {
            return true;
        }
        lease.ends = None;
        lease.kind = lease.target.take().unwrap_or(F_UNLCK);
        lease.kind != F_UNLCK
    });
    if list.is_empty() {
        inode.clear_flags(InodeFlags::LEASED);
    }
    drop(list);
    leases.queue.wake_all();
}

/// Has the holders of leases that conflict asked for them, each once; when the last is over.
fn ask_holders(leases: &Leases, writes: bool, now: u64) -> Option<u64> {
    let target = if writes { F_UNLCK } else { F_RDLCK };
    let mut tell = Vec::new();
    let mut last = None;
    for lease in leases.list.lock().iter_mut().filter(|lease| lease.conflicts(writes)) {
        if lease.target.is_none_or(|old| old == F_RDLCK && target == F_UNLCK) {
            lease.target = Some(target);
            tell.push((lease.file.clone(), lease.fd));
        }
        last = last.max(Some(*lease.ends.get_or_insert(now.saturating_add(LEASE_BREAK_NS))));
    }
    for (file, fd) in tell {
        let Some(owner) = file.upgrade().and_then(|file| file.signal_owner()) else { continue };
        let band = i64::from(abi::poll::POLLIN | abi::poll::POLLRDNORM | abi::poll::POLLMSG);
        sigio::send(&owner, &Notice { fd, code: code::POLL_MSG, band });
    }
    last
}

#[cold]
fn break_slow(inode: &Inode, writes: bool, patience: Patience) -> Result<()> {
    let Some(extra) = inode.existing_extra() else { return Ok(()) };
    let leases = &extra.leases;
    loop {
        let now = arch::time::now_ns();
        expire(inode, leases, now);
        let Some(last) = ask_holders(leases, writes, now) else { return Ok(()) };
        if patience == Patience::None {
            return Err(Errno::EAGAIN);
        }
        let is_free = || {
            let list = leases.list.lock();
            (!list.iter().any(|lease| lease.conflicts(writes))).then_some(())
        };
        let deadline = Some(Deadline::at_monotonic_ns(last));
        match leases.queue.wait_interruptible(is_free, deadline) {
            Ok(()) => return Ok(()),
            Err(WaitError::TimedOut) => {}
            Err(_) => return Err(Errno::ERESTARTSYS),
        }
    }
}
