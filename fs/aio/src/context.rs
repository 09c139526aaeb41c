//! Linux AIO: contexts with their rings of events (`io_setup(2)` and its like).
//!
//! A context is named by the address of its ring, which the program may read by itself: the kernel moves
//! the tail, who takes events moves the head. A request takes a place in the ring when it is submitted,
//! so that its event always has one.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::{Errno, Result};
use arch::lock::{IrqLock, LockClass, SpinLock};
use sched::{Deadline, WaitError, WaitQueue};
use vfs::File;
use vm::{AddressSpace, Limits, MapRequest};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ring::Ring;
use crate::watch::Watch;

static TABLE: LockClass = LockClass::new("aio.contexts", 590);
static STATE: LockClass = LockClass::new("aio.ring", 591);
static WATCHES: LockClass = LockClass::new("aio.polls", 589);

/// `/proc/sys/fs/aio-max-nr`.
pub static MAX_NR: AtomicU64 = AtomicU64::new(65536);
/// `/proc/sys/fs/aio-nr`.
pub static NR: AtomicU64 = AtomicU64::new(0);

const MAGIC: u32 = 0xa10a_10a1;
/// Bytes before the events.
const HEADER: usize = 32;

/// Words of the ring's header.
mod word {
    pub(super) const NR: usize = 4;
    pub(super) const HEAD: usize = 8;
    pub(super) const TAIL: usize = 12;
    pub(super) const MAGIC: usize = 16;
    pub(super) const COMPAT: usize = 20;
    pub(super) const LEN: usize = 28;
}

/// `struct io_event`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// `aio_data` of the request.
    pub data: u64,
    /// Its address.
    pub obj: u64,
    /// What it returned.
    pub res: i64,
    /// 0.
    pub res2: i64,
}

/// A context.
pub struct AioContext {
    ring: Ring,
    /// Events that the ring has room for, and one more.
    count: u32,
    /// What it was made for, which counts against the limit.
    wanted: u64,
    state: IrqLock<State>,
    /// Told when an event comes, and when the last request has ended.
    changed: WaitQueue,
    /// No more requests are taken.
    is_dead: AtomicBool,
    /// Requests that wait for a file.
    watches: SpinLock<BTreeMap<Name, Arc<Watch>>>,
    /// The number of the last transfer that might wait.
    last: AtomicU64,
}

/// What a request that waits is found by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Name {
    /// `IOCB_CMD_POLL`: the address of its `struct iocb`.
    Poll(u64),
    /// A transfer: a number. Nobody cancels it, but it ends with the context.
    Transfer(u64),
}

#[derive(Default)]
struct State {
    tail: u32,
    /// Requests under way.
    running: u32,
}

/// Something that ends with address spaces.
pub trait Follower: Send + Sync {
    /// One of those that it follows has ended: nobody can get at it any more.
    fn space_ended(&self);
}

/// What ends with an address space.
struct Contexts(SpinLock<Owned>);

#[derive(Default)]
struct Owned {
    contexts: BTreeMap<u64, Arc<AioContext>>,
    followers: Vec<Weak<dyn Follower>>,
    /// With so many followers it is time to look which are gone.
    most: usize,
}

impl Drop for AioContext {
    fn drop(&mut self) {
        NR.fetch_sub(self.wanted, Ordering::AcqRel);
    }
}

impl Drop for Contexts {
    fn drop(&mut self) {
        let owned = core::mem::take(&mut *self.0.lock());
        owned.contexts.into_values().for_each(|context| context.end());
        owned
            .followers
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|follower| follower.space_ended());
    }
}

fn contexts(space: &AddressSpace) -> Result<Arc<Contexts>> {
    let make = || Contexts(SpinLock::new(&TABLE, Owned::default()));
    space.attachment(make).ok_or(Errno::ENOMEM)
}

/// Tells `follower` when `space` ends.
pub fn follow(space: &AddressSpace, follower: Weak<dyn Follower>) -> Result<()> {
    const FEW: usize = 16;
    let contexts = contexts(space)?;
    let mut owned = contexts.0.lock();
    if owned.followers.len() >= owned.most.max(FEW) {
        owned.followers.retain(|follower| follower.strong_count() > 0);
        owned.most = 2 * owned.followers.len();
    }
    owned.followers.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    owned.followers.push(follower);
    Ok(())
}

/// The context at an address; `EINVAL` if there is none.
pub fn find(space: &AddressSpace, id: u64) -> Result<Arc<AioContext>> {
    let contexts = space.attached::<Contexts>().ok_or(Errno::EINVAL)?;
    let found = contexts.0.lock().contexts.get(&id).cloned();
    found.ok_or(Errno::EINVAL)
}

/// `io_setup(2)`: a context for `wanted` requests at a time; its address.
pub fn create(space: &Arc<AddressSpace>, wanted: u32, limits: &Limits) -> Result<u64> {
    const MOST: u32 = 0x1000_0000 / size_of::<Event>() as u32;
    if wanted == 0 || wanted > MOST {
        return Err(Errno::EINVAL);
    }
    let count = u64::from(wanted);
    let fits = |nr: u64| nr.checked_add(count).filter(|sum| *sum <= MAX_NR.load(Ordering::Relaxed));
    if NR.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_err() {
        return Err(Errno::EAGAIN);
    }
    let made = make(wanted);
    let context = made.inspect_err(|_| {
        NR.fetch_sub(count, Ordering::AcqRel);
    })?;
    let request = MapRequest {
        addr: 0,
        len: context.ring.len() as u64,
        prot: 3,
        flags: 1,
        source: Some(context.ring.source("/[aio] (deleted)")),
        offset: 0,
    };
    let id = space.mmap_within(&request, limits)?;
    contexts(space)?.0.lock().contexts.insert(id, context);
    Ok(id)
}

fn make(wanted: u32) -> Result<Arc<AioContext>> {
    // One place is always free, and who reads the ring may be behind.
    let events = (wanted.max(arch::cpu::count() as u32 * 4) as usize) * 2 + 2;
    let ring = Ring::new(HEADER + events * size_of::<Event>())?;
    let count = ((ring.len() - HEADER) / size_of::<Event>()) as u32;
    for (at, value) in
        [(word::NR, count), (word::MAGIC, MAGIC), (word::COMPAT, 1), (word::LEN, HEADER as u32)]
    {
        ring.store(at, value);
    }
    Ok(Arc::new(AioContext {
        ring,
        count,
        wanted: wanted.into(),
        state: IrqLock::new(&STATE, State::default()),
        changed: WaitQueue::new(),
        is_dead: AtomicBool::new(false),
        watches: SpinLock::new(&WATCHES, BTreeMap::new()),
        last: AtomicU64::new(0),
    }))
}

/// `io_destroy(2)`: takes the context away and waits for its requests.
pub fn destroy(space: &AddressSpace, id: u64) -> Result<()> {
    let contexts = space.attached::<Contexts>().ok_or(Errno::EINVAL)?;
    let context = contexts.0.lock().contexts.remove(&id).ok_or(Errno::EINVAL)?;
    context.end();
    // The program may have unmapped it itself.
    let _ = space.munmap(id, context.ring.len() as u64);
    context.changed.wait(|| (context.state.lock().running == 0).then_some(()));
    Ok(())
}

/// A request under way: what its event says but for the result.
pub struct Ticket {
    context: Arc<AioContext>,
    data: u64,
    obj: u64,
    file: Option<Arc<File>>,
    notify: Option<Arc<File>>,
}

impl Ticket {
    /// The event comes. Any context.
    pub fn complete(mut self, result: Result<usize>) {
        let res = match result {
            Ok(count) => count as i64,
            Err(error) => -i64::from(error.raw()),
        };
        let event = Event { data: self.data, obj: self.obj, res, res2: 0 };
        self.context.post(event);
        if let Some(notify) = &self.notify {
            anon::eventfd::signal(notify, 1);
        }
        // Last: who waits for the event and is woken finds its event file told as well.
        self.context.changed.wake_all();
        for file in self.notify.take().into_iter().chain(self.file.take()) {
            crate::pool::let_go(file);
        }
        crate::pool::let_go(self.context);
    }
}

impl AioContext {
    /// A place in the ring for a request on `file`, whose event `notify` is told of: `EAGAIN` if there
    /// is none, `EINVAL` once it is being destroyed.
    pub fn admit(
        self: &Arc<Self>,
        (data, obj): (u64, u64),
        file: &Arc<File>,
        notify: Option<Arc<File>>,
    ) -> Result<Ticket> {
        let head = self.ring.load(word::HEAD) % self.count;
        let mut state = self.state.lock();
        if self.is_dead.load(Ordering::Acquire) {
            return Err(Errno::EINVAL);
        }
        let waiting = (state.tail + self.count - head) % self.count;
        if state.running + waiting + 1 >= self.count {
            return Err(Errno::EAGAIN);
        }
        state.running += 1;
        drop(state);
        Ok(Ticket { context: self.clone(), data, obj, file: Some(file.clone()), notify })
    }

    /// Puts an event into the ring, without waking those who wait for it.
    fn post(&self, event: Event) {
        let mut state = self.state.lock();
        let at = HEADER + state.tail as usize * size_of::<Event>();
        self.ring.write(at, event);
        state.tail = (state.tail + 1) % self.count;
        self.ring.store(word::TAIL, state.tail);
        state.running -= 1;
    }

    /// No more requests; those that wait for a file end.
    fn end(&self) {
        self.is_dead.store(true, Ordering::Release);
        let watches = core::mem::take(&mut *self.watches.lock());
        for watch in watches.into_values() {
            if let Some(ready) = watch.cancel() {
                ready(0);
            }
        }
        self.changed.wake_all();
    }

    /// A name for a transfer that may wait.
    pub fn transfer_name(&self) -> Name {
        // Relaxed: a number that no other has is all that is wanted.
        Name::Transfer(self.last.fetch_add(1, Ordering::Relaxed))
    }

    /// Remembers that a request waits for a file, unless it has ended by now.
    pub fn watch(&self, name: Name, watch: &Arc<Watch>) {
        if !watch.is_waiting() {
            return;
        }
        let before = self.watches.lock().insert(name, watch.clone());
        drop(before);
        // It may have ended just before.
        if !watch.is_waiting() {
            self.forget_watch(name);
        }
        // Those that were remembered when the context ended have been told.
        if self.is_dead.load(Ordering::Acquire)
            && let Some(ready) = watch.cancel()
        {
            ready(0);
        }
    }

    /// It does not any more.
    pub fn forget_watch(&self, name: Name) {
        let gone = self.watches.lock().remove(&name);
        drop(gone);
    }

    /// `io_cancel(2)`: `EINPROGRESS`, and the event comes; `EINVAL` if nothing can be cancelled.
    pub fn cancel(&self, obj: u64) -> Errno {
        let watch = self.watches.lock().remove(&Name::Poll(obj));
        match watch.and_then(|watch| watch.cancel()) {
            Some(ready) => {
                ready(0);
                Errno::EINPROGRESS
            }
            None => Errno::EINVAL,
        }
    }

    /// `io_getevents(2)`: hands up to `most` events to `take`, waiting for at least `least` of them.
    pub fn events(
        &self,
        least: usize,
        most: usize,
        deadline: Option<Deadline>,
        take: &mut dyn FnMut(usize, &Event) -> Result<()>,
    ) -> Result<usize> {
        let mut done = 0;
        loop {
            done += self.take_events(done, most, take)?;
            if done >= least || done >= most {
                return Ok(done);
            }
            let has_more = || {
                let is_dead = self.is_dead.load(Ordering::Acquire);
                (self.waiting_events() > 0 || is_dead).then_some(is_dead)
            };
            match self.changed.wait_interruptible(has_more, deadline) {
                Ok(false) => {}
                Ok(true) if self.waiting_events() > 0 => {}
                Ok(true) if done == 0 => return Err(Errno::EINVAL),
                Ok(true) | Err(WaitError::TimedOut) => return Ok(done),
                Err(WaitError::Interrupted) if done == 0 => return Err(Errno::EINTR),
                Err(WaitError::Interrupted) => return Ok(done),
            }
        }
    }

    fn waiting_events(&self) -> u32 {
        let head = self.ring.load(word::HEAD) % self.count;
        (self.ring.load(word::TAIL) % self.count + self.count - head) % self.count
    }

    fn take_events(
        &self,
        from: usize,
        most: usize,
        take: &mut dyn FnMut(usize, &Event) -> Result<()>,
    ) -> Result<usize> {
        let mut done = 0;
        while from + done < most && self.waiting_events() > 0 {
            // A program that reads the ring itself beside this gets what it asks for.
            let head = self.ring.load(word::HEAD) % self.count;
            let event: Event = self.ring.read(HEADER + head as usize * size_of::<Event>());
            match take(from + done, &event) {
                Ok(()) => {}
                Err(error) if from + done == 0 => return Err(error),
                Err(_) => break,
            }
            self.ring.store(word::HEAD, (head + 1) % self.count);
            done += 1;
        }
        Ok(done)
    }

    /// Waits for a file (`IOCB_CMD_POLL`).
    pub fn poll(self: &Arc<Self>, ticket: Ticket, file: &Arc<File>, wanted: u32) {
        let (obj, context) = (ticket.obj, Arc::downgrade(self));
        let forget = move |context: &Weak<AioContext>| {
            if let Some(context) = context.upgrade() {
                context.forget_watch(Name::Poll(obj));
            }
        };
        let ready = move |events: u32| {
            forget(&context);
            ticket.complete(Ok(events as usize));
        };
        let watch = Watch::begin(file, wanted, Box::new(ready));
        self.watch(Name::Poll(obj), &watch);
    }
}
