//! [`Uring`]: the two rings, and completions on their way to the program.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::uring::*;
use abi::{Errno, Result};
use aio::ring::Ring;
use arch::lock::{IrqLock, LockClass};
use sched::{Deadline, Mutex, WaitError, WaitQueue};
use vfs::File;

use crate::buffers::Groups;
use crate::pending::Pending;
use crate::register::Registered;
use crate::restrict::Rules;
use crate::submit::Queue;

static COMPLETIONS: LockClass = LockClass::new("uring.completions", 587);
static EVENT: LockClass = LockClass::new("uring.event", 586);
/// Held while entries are taken and started: nothing that a file takes comes before it.
static SUBMIT: LockClass = LockClass::new("uring.submit", 198);

/// Places of the words that the rings share.
pub(crate) mod word {
    pub(crate) const SQ_HEAD: usize = 0;
    pub(crate) const SQ_TAIL: usize = 64;
    pub(crate) const CQ_HEAD: usize = 128;
    pub(crate) const CQ_TAIL: usize = 192;
    pub(crate) const SQ_MASK: usize = 256;
    pub(crate) const CQ_MASK: usize = 260;
    pub(crate) const SQ_ENTRIES: usize = 264;
    pub(crate) const CQ_ENTRIES: usize = 268;
    pub(crate) const SQ_DROPPED: usize = 272;
    pub(crate) const SQ_FLAGS: usize = 276;
    pub(crate) const CQ_FLAGS: usize = 280;
    pub(crate) const CQ_OVERFLOW: usize = 284;
    pub(crate) const CQES: usize = 320;
}

/// An instance.
pub struct Uring {
    /// Both rings and the submission array.
    pub(crate) shared: Ring,
    /// The submission entries.
    pub(crate) entries: Ring,
    /// `IORING_SETUP_*`.
    pub flags: u32,
    pub(crate) sq_entries: u32,
    pub(crate) cq_entries: u32,
    pub(crate) array: usize,
    completions: IrqLock<Completions>,
    /// Told when a completion comes.
    pub(crate) changed: Arc<WaitQueue>,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) pending: Pending,
    /// Timeouts that have ended by themselves: each ends a wait for completions.
    pub(crate) timed_out: AtomicUsize,
    /// Requests that have not ended.
    pub(crate) running: AtomicUsize,
    /// Chains wait for them.
    pub(crate) has_deferred: AtomicBool,
    /// Nothing is submitted (`IORING_SETUP_R_DISABLED`).
    pub(crate) is_disabled: AtomicBool,
    pub(crate) is_closed: AtomicBool,
    /// What the program registered.
    pub registered: Registered,
    /// Buffers that the program provided.
    pub(crate) groups: Groups,
    /// What it may be asked for.
    pub(crate) rules: Rules,
    event: IrqLock<Option<Event>>,
    /// Wakes the polling thread.
    pub(crate) poller: WaitQueue,
    pub(crate) poller_kicked: AtomicBool,
}

#[derive(Default)]
struct Completions {
    tail: u32,
    /// Those that found no room.
    late: VecDeque<Cqe>,
    /// How many there were ever.
    count: u64,
}

/// Who is told of completions.
#[derive(Clone)]
struct Event {
    file: Arc<File>,
    /// Only of those that did not come while they were submitted.
    only_late: bool,
}

impl Uring {
    /// Rings as `params` ask for, which is filled in.
    pub fn new(entries: u32, params: &mut Params) -> Result<Arc<Uring>> {
        let flags = params.flags;
        let clamps = flags & setup::CLAMP != 0;
        if entries == 0 || entries > MAX_ENTRIES && !clamps {
            return Err(Errno::EINVAL);
        }
        let sq_entries = entries.min(MAX_ENTRIES).next_power_of_two();
        let cq_entries = if flags & setup::CQSIZE != 0 {
            let wanted = params.cq_entries;
            if wanted == 0 || wanted > MAX_CQ_ENTRIES && !clamps {
                return Err(Errno::EINVAL);
            }
            let count = wanted.min(MAX_CQ_ENTRIES).next_power_of_two();
            if count < sq_entries {
                return Err(Errno::EINVAL);
            }
            count
        } else {
            2 * sq_entries
        };
        let array = word::CQES + cq_entries as usize * size_of::<Cqe>();
        let shared = Ring::new(array + sq_entries as usize * 4)?;
        let ring = Ring::new(sq_entries as usize * size_of::<Sqe>())?;
        for (at, value) in [
            (word::SQ_MASK, sq_entries - 1),
            (word::CQ_MASK, cq_entries - 1),
            (word::SQ_ENTRIES, sq_entries),
            (word::CQ_ENTRIES, cq_entries),
        ] {
            shared.store(at, value);
        }
        params.sq_entries = sq_entries;
        params.cq_entries = cq_entries;
        params.features = FEATURES;
        params.sq_off = Offsets {
            head: word::SQ_HEAD as u32,
            tail: word::SQ_TAIL as u32,
            ring_mask: word::SQ_MASK as u32,
            ring_entries: word::SQ_ENTRIES as u32,
            fifth: word::SQ_FLAGS as u32,
            sixth: word::SQ_DROPPED as u32,
            seventh: array as u32,
            ..Offsets::default()
        };
        params.cq_off = Offsets {
            head: word::CQ_HEAD as u32,
            tail: word::CQ_TAIL as u32,
            ring_mask: word::CQ_MASK as u32,
            ring_entries: word::CQ_ENTRIES as u32,
            fifth: word::CQ_OVERFLOW as u32,
            sixth: word::CQES as u32,
            seventh: word::CQ_FLAGS as u32,
            ..Offsets::default()
        };
        Ok(Arc::new(Uring {
            shared,
            entries: ring,
            flags,
            sq_entries,
            cq_entries,
            array,
            completions: IrqLock::new(&COMPLETIONS, Completions::default()),
            changed: Arc::new(WaitQueue::new()),
            queue: Mutex::new(&SUBMIT, Queue::default()),
            pending: Pending::new(),
            timed_out: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            has_deferred: AtomicBool::new(false),
            is_disabled: AtomicBool::new(flags & setup::R_DISABLED != 0),
            is_closed: AtomicBool::new(false),
            registered: Registered::new(),
            groups: Groups::new(),
            rules: Rules::new(),
            event: IrqLock::new(&EVENT, None),
            poller: WaitQueue::new(),
            poller_kicked: AtomicBool::new(false),
        }))
    }

    /// Whether nothing is submitted yet.
    pub fn is_disabled(&self) -> bool {
        self.is_disabled.load(Ordering::Acquire)
    }

    /// Completions that the program has not taken.
    pub(crate) fn waiting(&self) -> u32 {
        self.shared.load(word::CQ_TAIL).wrapping_sub(self.shared.load(word::CQ_HEAD))
    }

    /// How many completions there were ever.
    pub(crate) fn completed(&self) -> u64 {
        self.completions.lock().count
    }

    /// Appends a completion. Any context.
    pub(crate) fn post(self: &Arc<Self>, cqe: Cqe, is_late: bool) {
        let mut inner = self.completions.lock();
        inner.count += 1;
        if !inner.late.is_empty() || !self.put(&mut inner.tail, cqe) {
            if inner.late.try_reserve(1).is_ok() {
                inner.late.push_back(cqe);
                self.shared.change(word::SQ_FLAGS, SQ_CQ_OVERFLOW, 0);
            } else {
                let lost = self.shared.load(word::CQ_OVERFLOW);
                self.shared.store(word::CQ_OVERFLOW, lost.wrapping_add(1));
            }
        }
        let count = inner.count;
        drop(inner);
        self.told(is_late, count);
    }

    /// Appends what another instance sends (`IORING_OP_MSG_RING`); `EOVERFLOW` if too much waits for room.
    pub fn message(self: &Arc<Self>, user_data: u64, res: i32) -> Result<()> {
        if self.is_disabled() {
            return Err(Errno::EBADFD);
        }
        if self.is_overfull() {
            return Err(Errno::EOVERFLOW);
        }
        self.post(Cqe { user_data, res, flags: 0 }, true);
        Ok(())
    }

    /// Whether so many completions wait for room that new requests are to add none.
    pub fn is_overfull(&self) -> bool {
        let is_overfull = || self.completions.lock().late.len() >= MAX_CQ_ENTRIES as usize;
        if !is_overfull() {
            return false;
        }
        self.flush();
        is_overfull()
    }

    fn put(&self, tail: &mut u32, cqe: Cqe) -> bool {
        if tail.wrapping_sub(self.shared.load(word::CQ_HEAD)) >= self.cq_entries {
            return false;
        }
        let index = (*tail & (self.cq_entries - 1)) as usize;
        self.shared.write(word::CQES + index * size_of::<Cqe>(), cqe);
        *tail = tail.wrapping_add(1);
        self.shared.store(word::CQ_TAIL, *tail);
        true
    }

    fn tell(&self, is_late: bool) {
        let event = self.event.lock().clone();
        let Some(event) = event else { return };
        let is_off = self.shared.load(word::CQ_FLAGS) & CQ_EVENTFD_DISABLED != 0;
        if !is_off && (is_late || !event.only_late) {
            anon::eventfd::signal(&event.file, 1);
        }
        aio::pool::let_go(event.file);
    }

    /// Appends a completion if there is room for it in the ring; whether there was.
    pub(crate) fn post_if_room(self: &Arc<Self>, cqe: Cqe) -> bool {
        let mut inner = self.completions.lock();
        if !inner.late.is_empty() || !self.put(&mut inner.tail, cqe) {
            return false;
        }
        inner.count += 1;
        let count = inner.count;
        drop(inner);
        self.told(true, count);
        true
    }

    /// There is a completion more.
    fn told(self: &Arc<Self>, is_late: bool, count: u64) {
        // First the event file: who is woken finds it told.
        self.tell(is_late);
        self.changed.notify(abi::poll::POLLIN | abi::poll::POLLRDNORM);
        self.pending.completed(count);
    }

    /// Moves completions that found no room.
    pub(crate) fn flush(&self) {
        let mut inner = self.completions.lock();
        while let Some(&cqe) = inner.late.front() {
            if !self.put(&mut inner.tail, cqe) {
                break;
            }
            inner.late.pop_front();
        }
        if inner.late.is_empty() {
            self.shared.change(word::SQ_FLAGS, 0, SQ_CQ_OVERFLOW);
        }
    }

    /// Waits until `least` completions are there to be taken, or a timeout ends ("A timeout will trigger a
    /// wakeup event on the completion ring for anyone waiting for events", io_uring_enter(2)). It fails
    /// only if there is nothing to be taken.
    pub fn wait(&self, least: u32, deadline: Option<Deadline>) -> Result<()> {
        self.flush();
        let least = least.min(self.cq_entries);
        let before = self.timed_out.load(Ordering::Acquire);
        let enough = || {
            let timed_out = self.timed_out.load(Ordering::Acquire) != before;
            (timed_out || self.waiting() >= least).then_some(())
        };
        match self.changed.wait_interruptible(enough, deadline) {
            Ok(()) => {}
            Err(_) if self.waiting() > 0 => {}
            Err(WaitError::TimedOut) => return Err(Errno::ETIME),
            Err(WaitError::Interrupted) => return Err(Errno::EINTR),
        }
        self.flush();
        Ok(())
    }

    /// Tells `file`, an event counter, of completions, or nobody any more.
    pub(crate) fn set_event(&self, file: Option<Arc<File>>, only_late: bool) -> Result<()> {
        let mut event = self.event.lock();
        match (&*event, &file) {
            (Some(_), Some(_)) => return Err(Errno::EBUSY),
            (None, None) => return Err(Errno::ENXIO),
            _ => {}
        }
        let new = file.map(|file| Event { file, only_late });
        let old = core::mem::replace(&mut *event, new);
        drop(event);
        drop(old);
        Ok(())
    }

    /// The program has closed it: what waits for something ends.
    pub(crate) fn close(self: &Arc<Self>) {
        self.is_closed.store(true, Ordering::Release);
        self.kick_poller();
        self.pending.cancel_all();
        let event = self.event.lock().take();
        drop(event);
        self.registered.clear();
        self.groups.clear();
    }

    /// Wakes the polling thread.
    pub fn kick_poller(&self) {
        self.poller_kicked.store(true, Ordering::Release);
        self.poller.wake_all();
    }
}
