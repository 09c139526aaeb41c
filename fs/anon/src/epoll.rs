//! `epoll(7)`.
//!
//! Each watched file is an [`Item`] that listens to the file's queues. A notification puts the item
//! on the ready list, once; `epoll_wait` takes items from there and asks their files, so its cost
//! depends on what is ready, not on what is watched. Level-triggered items go back to the end of
//! the list after they were reported.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use abi::poll::*;
use abi::{Errno, Result};
use arch::lock::{IrqLock, LockClass, SpinLock};
use arrayvec::ArrayVec;
use sched::{Deadline, Listener, Mutex, WaitError, WaitQueue};
use vfs::{Context, File, FileOps, FileWatcher, PollTable};

use crate::inode::anon_file;

static ITEMS: LockClass = LockClass::new("anon.epoll", 201);
static NESTING: LockClass = LockClass::new("anon.epoll_nesting", 199);
static READY: LockClass = LockClass::new("anon.epoll_ready", 560);
static QUEUES: LockClass = LockClass::new("anon.epoll_queues", 561);

/// Epolls in epolls, at most so deep.
const MAX_DEPTH: usize = 5;
const PRIVATE_BITS: u32 = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;

/// Held while an epoll is put into another: the graph is still.
static GRAPH: Mutex<()> = Mutex::new(&NESTING, ());

/// A watched file.
struct Item {
    epoll: Weak<Epoll>,
    this: Weak<Item>,
    file: Weak<File>,
    fd: i32,
    events: AtomicU32,
    data: AtomicU64,
    queued: AtomicBool,
    gone: AtomicBool,
    queues: SpinLock<Vec<(Arc<WaitQueue>, u64)>>,
}

impl Item {
    /// Listens to the file's queues; returns what the file is ready for.
    fn register(&self, file: &File) -> u32 {
        let events = self.events.load(Ordering::Relaxed);
        let mut add = |queue: &Arc<WaitQueue>| {
            if let Some(this) = self.this.upgrade() {
                let id = queue.add_listener(this, u64::from(events));
                self.queues.lock().push((queue.clone(), id));
            }
        };
        file.poll(Some(&mut PollTable::new(events, &mut add)))
    }

    fn leave(&self) {
        self.gone.store(true, Ordering::SeqCst);
        let queues = core::mem::take(&mut *self.queues.lock());
        for (queue, id) in queues {
            queue.remove_listener(id);
        }
    }

    /// The events to report now of its `file`, and all that are wanted with how.
    #[inline]
    fn ready(&self, file: &File) -> (u32, u32) {
        if self.gone.load(Ordering::SeqCst) {
            return (0, 0);
        }
        let wanted = self.events.load(Ordering::Relaxed);
        (file.poll(None) & wanted & !PRIVATE_BITS, wanted)
    }

    /// The event to report now, of an item that was taken off the ready list, and how it is wanted.
    #[inline]
    fn take_event(&self) -> Option<(EpollEvent, u32)> {
        // Cleared before the file is asked: a change from now on queues it anew.
        self.queued.store(false, Ordering::SeqCst);
        let (events, wanted) = self.file.upgrade().map_or((0, 0), |file| self.ready(&file));
        if events == 0 {
            return None;
        }
        let data = self.data.load(Ordering::Relaxed);
        Some((EpollEvent { events, data: [data as u32, (data >> 32) as u32] }, wanted))
    }

    /// After its events were reported: whether it is to be asked again next time.
    fn is_left_ready(&self) -> bool {
        let wanted = self.events.load(Ordering::Relaxed);
        if wanted & EPOLLONESHOT != 0 {
            self.events.fetch_and(PRIVATE_BITS, Ordering::SeqCst);
        }
        wanted & (EPOLLONESHOT | EPOLLET) == 0
    }

    /// The events to report now, unless its file has been closed.
    fn look(&self) -> u32 {
        self.file.upgrade().map_or(0, |file| self.ready(&file).0)
    }
}

impl Listener for Item {
    fn notify(&self, events: u32) {
        let wanted = self.events.load(Ordering::Relaxed) & !PRIVATE_BITS;
        // A notification without events says "look yourself".
        if wanted != 0
            && (events == 0 || events & wanted != 0)
            && !self.gone.load(Ordering::SeqCst)
            && let (Some(epoll), Some(this)) = (self.epoll.upgrade(), self.this.upgrade())
        {
            epoll.enqueue(&this);
        }
    }
}

/// An epoll instance.
pub struct Epoll {
    this: Weak<Epoll>,
    items: Mutex<BTreeMap<Key, Arc<Item>>>,
    ready: ReadyList,
    waiters: WaitQueue,
    pollers: Arc<WaitQueue>,
}

/// Items that may have events, the one that has waited longest first.
struct ReadyList {
    items: IrqLock<VecDeque<Arc<Item>>>,
    /// How many, for those who only want to know: changed under the lock.
    len: AtomicUsize,
}

impl ReadyList {
    const fn new() -> ReadyList {
        ReadyList { items: IrqLock::new(&READY, VecDeque::new()), len: AtomicUsize::new(0) }
    }

    fn with<R>(&self, act: impl FnOnce(&mut VecDeque<Arc<Item>>) -> R) -> R {
        let mut items = self.items.lock();
        let result = act(&mut items);
        // Relaxed: who puts items in looks for waiters afterwards, with a fence of its own, which
        // pairs with the one between a waiter's coming and its look at this.
        self.len.store(items.len(), Ordering::Relaxed);
        result
    }

    fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }
}

/// Items that are asked at a time.
const BATCH: usize = 32;
type Batch = ArrayVec<Arc<Item>, BATCH>;

/// Stores events for the caller and says how many it could.
pub type Give<'a> = dyn FnMut(&[EpollEvent]) -> usize + 'a;

/// What became of a batch.
struct Reported {
    stored: usize,
    /// Which items go back to the end of the ready list, as bits.
    back: u32,
    /// Which go back to its front: their events could not be stored.
    front: u32,
}

/// Asks the items of a batch and reports what they have.
fn report(batch: &Batch, give: &mut Give<'_>) -> Reported {
    let mut events = ArrayVec::<EpollEvent, BATCH>::new();
    let (mut found, mut back, mut is_once) = (0u32, 0u32, 0);
    for (place, item) in batch.iter().enumerate() {
        if let Some((event, wanted)) = item.take_event() {
            found |= u32::from(events.try_push(event).is_ok()) << place;
            back |= u32::from(wanted & (EPOLLONESHOT | EPOLLET) == 0) << place;
            is_once |= wanted & EPOLLONESHOT;
        }
    }
    if found == 0 {
        return Reported { stored: 0, back: 0, front: 0 };
    }
    let stored = give(&events).min(events.len());
    if stored == events.len() && is_once == 0 {
        return Reported { stored, back, front: 0 };
    }
    let (mut left, mut back, mut front) = (stored, 0, 0);
    for (place, item) in batch.iter().enumerate().filter(|(place, _)| found >> place & 1 != 0) {
        match left.checked_sub(1) {
            Some(rest) => {
                left = rest;
                back |= u32::from(item.is_left_ready()) << place;
            }
            None => front |= 1 << place,
        }
    }
    Reported { stored, back, front }
}

/// What an item is known by: the open file, so that those of one that is closed are found together,
/// and the descriptor.
type Key = (usize, i32);

fn key(fd: i32, file: &File) -> Key {
    (core::ptr::from_ref(file).addr(), fd)
}

/// `epoll_create1(2)`.
pub fn create(ctx: &Context<'_>) -> Result<Arc<File>> {
    let epoll = Arc::new_cyclic(|this| Epoll {
        this: this.clone(),
        items: Mutex::new(&ITEMS, BTreeMap::new()),
        ready: ReadyList::new(),
        waiters: WaitQueue::new(),
        pollers: Arc::new(WaitQueue::new()),
    });
    anon_file(ctx, "[eventpoll]", epoll, abi::fcntl::O_RDWR)
}

/// The epoll behind an open file; `EINVAL` if it is something else.
pub fn epoll_of(file: &File) -> Result<&Epoll> {
    file.private::<Epoll>().ok_or(Errno::EINVAL)
}

/// Whether `file` can be watched: regular files and directories cannot.
pub fn check_target(file: &File) -> Result<()> {
    let seeks = file.mode().contains(vfs::FileMode::SEEK) && !file.inode().kind.is_device();
    if seeks && !file.ops().can_poll() { Err(Errno::EPERM) } else { Ok(()) }
}

impl Epoll {
    /// `epoll_ctl(2)`.
    pub fn control(
        &self,
        op: u32,
        fd: i32,
        file: &Arc<File>,
        events: u32,
        data: u64,
    ) -> Result<()> {
        check_target(file)?;
        if file.private::<Epoll>().is_some_and(|other| core::ptr::eq(other, self)) {
            return Err(Errno::EINVAL);
        }
        match op {
            EPOLL_CTL_ADD => self.add(fd, file, events, data),
            EPOLL_CTL_MOD => self.modify(fd, file, events, data),
            EPOLL_CTL_DEL => self.remove(key(fd, file)).ok_or(Errno::ENOENT),
            _ => Err(Errno::EINVAL),
        }
    }

    fn add(&self, fd: i32, file: &Arc<File>, events: u32, data: u64) -> Result<()> {
        let exclusive_ok = EPOLLIN_OUT | POLLERR | POLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
        let nested = file.private::<Epoll>();
        if events & EPOLLEXCLUSIVE != 0 && (events & !exclusive_ok != 0 || nested.is_some()) {
            return Err(Errno::EINVAL);
        }
        let _graph = match nested {
            Some(inner) => {
                let held = GRAPH.lock();
                if inner.reaches(self, 0)? {
                    return Err(Errno::ELOOP);
                }
                Some(held)
            }
            None => None,
        };
        let item = {
            let mut items = self.items.lock();
            let key = key(fd, file);
            if items.contains_key(&key) {
                return Err(Errno::EEXIST);
            }
            let item = Arc::new_cyclic(|this| Item {
                epoll: self.this.clone(),
                this: this.clone(),
                file: Arc::downgrade(file),
                fd,
                events: AtomicU32::new(events | POLLERR | POLLHUP),
                data: AtomicU64::new(data),
                queued: AtomicBool::new(false),
                gone: AtomicBool::new(false),
                queues: SpinLock::new(&QUEUES, Vec::new()),
            });
            items.insert(key, item.clone());
            item
        };
        let watcher: Weak<dyn FileWatcher> = self.this.clone();
        file.watch(watcher);
        if item.register(file) & item.events.load(Ordering::Relaxed) & !PRIVATE_BITS != 0 {
            self.enqueue(&item);
        }
        Ok(())
    }

    /// Puts an item on the ready list and wakes who waits.
    fn enqueue(&self, item: &Arc<Item>) {
        if !item.queued.swap(true, Ordering::SeqCst) {
            self.ready.with(|ready| ready.push_back(item.clone()));
        }
        self.waiters.wake_one();
        self.pollers.notify(POLLIN | POLLRDNORM);
    }

    /// Whether `target` can be reached from here through watched epolls.
    fn reaches(&self, target: &Epoll, depth: usize) -> Result<bool> {
        if core::ptr::eq(self, target) {
            return Ok(true);
        }
        if depth >= MAX_DEPTH {
            return Err(Errno::ELOOP);
        }
        let files: Vec<Arc<File>> = {
            let items = if depth == 0 { self.items.lock() } else { self.items.lock_nested() };
            items.values().filter_map(|item| item.file.upgrade()).collect()
        };
        for file in files {
            if let Some(inner) = file.private::<Epoll>()
                && inner.reaches(target, depth + 1)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn modify(&self, fd: i32, file: &Arc<File>, events: u32, data: u64) -> Result<()> {
        let item = self.items.lock().get(&key(fd, file)).cloned().ok_or(Errno::ENOENT)?;
        if (events | item.events.load(Ordering::Relaxed)) & EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        item.data.store(data, Ordering::Relaxed);
        item.events.store(events | POLLERR | POLLHUP, Ordering::SeqCst);
        if item.ready(file).0 != 0 {
            self.enqueue(&item);
        }
        Ok(())
    }

    fn remove(&self, key: Key) -> Option<()> {
        let item = self.items.lock().remove(&key)?;
        item.leave();
        Some(())
    }

    /// Takes up to `max` events; `give` stores some and says how many it could.
    fn collect(&self, max: usize, give: &mut Give<'_>) -> Result<usize> {
        let mut count = 0;
        // Each item that is on the list now is asked once.
        let mut left = self.ready.len();
        let (mut is_still_ready, mut is_short) = (false, false);
        while left > 0 && count < max && !is_short {
            let wanted = BATCH.min(left).min(max - count);
            if wanted == 1 {
                left -= 1;
                let (stored, goes_back) = self.report_first(give);
                count += usize::from(stored);
                is_still_ready |= goes_back;
                is_short = goes_back && !stored;
                continue;
            }
            let mut batch = Batch::new();
            self.ready.with(|ready| batch.extend(ready.drain(..wanted.min(ready.len()))));
            if batch.is_empty() {
                break;
            }
            left -= batch.len();
            let reported = report(&batch, give);
            count += reported.stored;
            is_short = reported.front != 0;
            if reported.back | reported.front != 0 {
                is_still_ready = true;
                self.put_back(&mut batch, &reported);
            }
        }
        if is_still_ready {
            // It is the next waiter's business too.
            self.waiters.wake_one();
        }
        if is_short && count == 0 { Err(Errno::EFAULT) } else { Ok(count) }
    }

    /// As [`report`] for the first item alone; whether it was stored, and whether it is on the list again.
    fn report_first(&self, give: &mut Give<'_>) -> (bool, bool) {
        let Some(item) = self.ready.with(VecDeque::pop_front) else { return (false, false) };
        let Some((event, _)) = item.take_event() else { return (false, false) };
        let stored = give(core::slice::from_ref(&event)) > 0;
        let goes_back = !stored || item.is_left_ready();
        if goes_back && !item.queued.swap(true, Ordering::SeqCst) {
            self.ready.with(|ready| match stored {
                true => ready.push_back(item),
                false => ready.push_front(item),
            });
        }
        (stored, goes_back)
    }

    /// Puts items on the ready list again.
    fn put_back(&self, batch: &mut Batch, reported: &Reported) {
        if reported.front == 0 && reported.back.count_ones() as usize == batch.len() {
            let is_off = |item: &Arc<Item>| !item.queued.swap(true, Ordering::SeqCst);
            self.ready.with(|ready| {
                batch.drain(..).filter(is_off).for_each(|item| ready.push_back(item));
            });
            return;
        }
        let mut first = 0;
        self.ready.with(|ready| {
            for (place, item) in batch.drain(..).enumerate() {
                let is_front = reported.front >> place & 1 != 0;
                if !is_front && reported.back >> place & 1 == 0
                    || item.queued.swap(true, Ordering::SeqCst)
                {
                    continue;
                }
                if is_front {
                    ready.insert(first, item);
                    first += 1;
                } else {
                    ready.push_back(item);
                }
            }
        });
    }

    /// `epoll_wait(2)`: `now` does not wait. `EINTR` at a signal.
    pub fn wait(
        &self,
        max: usize,
        deadline: Option<Deadline>,
        now: bool,
        give: &mut Give<'_>,
    ) -> Result<usize> {
        loop {
            let count = self.collect(max, give)?;
            if count > 0 || now {
                return Ok(count);
            }
            let ready = || (self.ready.len() > 0).then_some(());
            match self.waiters.wait_interruptible(ready, deadline) {
                Ok(()) => {}
                Err(WaitError::TimedOut) => return self.collect(max, give),
                Err(WaitError::Interrupted) => return Err(Errno::EINTR),
            }
        }
    }
}

/// What `EPOLLEXCLUSIVE` may be combined with.
const EPOLLIN_OUT: u32 = POLLIN | POLLOUT;

impl FileWatcher for Epoll {
    fn file_closed(&self, file: &File) {
        let address = core::ptr::from_ref(file).addr();
        let gone: Vec<Arc<Item>> = {
            let mut items = self.items.lock();
            let of_file = (address, i32::MIN)..=(address, i32::MAX);
            let keys: Vec<Key> = items.range(of_file).map(|(key, _)| *key).collect();
            keys.iter().filter_map(|key| items.remove(key)).collect()
        };
        gone.iter().for_each(|item| item.leave());
    }
}

impl FileOps for Epoll {
    fn poll(&self, _file: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        vfs::poll_wait(table, &self.pollers);
        if self.ready.len() == 0 {
            return 0;
        }
        let items: Vec<Arc<Item>> = self.ready.with(|ready| ready.iter().cloned().collect());
        if items.iter().any(|item| item.look() != 0) { POLLIN | POLLRDNORM } else { 0 }
    }

    fn release(&self, _file: &File) {
        let items = core::mem::take(&mut *self.items.lock());
        items.values().for_each(|item| item.leave());
        drop(self.ready.with(core::mem::take));
    }

    fn fdinfo(&self, _file: &File, out: &mut dyn Write) -> fmt::Result {
        for item in self.items.lock().values() {
            let events = item.events.load(Ordering::Relaxed);
            let data = item.data.load(Ordering::Relaxed);
            writeln!(out, "tfd: {:8} events: {events:8x} data: {data:16x}", item.fd)?;
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
