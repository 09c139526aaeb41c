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
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use abi::poll::*;
use abi::{Errno, Result};
use arch::lock::{IrqLock, LockClass, SpinLock};
use sched::{Deadline, Listener, Mutex, WaitError, WaitQueue};
use smallvec::SmallVec;
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

    /// The events to report now of its `file`.
    fn ready(&self, file: &File) -> u32 {
        if self.gone.load(Ordering::SeqCst) {
            return 0;
        }
        let wanted = self.events.load(Ordering::Relaxed);
        file.poll(None) & wanted & !PRIVATE_BITS
    }

    /// The events to report now, unless its file has been closed.
    fn look(&self) -> u32 {
        self.file.upgrade().map_or(0, |file| self.ready(&file))
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
    ready: IrqLock<VecDeque<Arc<Item>>>,
    waiters: WaitQueue,
    pollers: Arc<WaitQueue>,
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
        ready: IrqLock::new(&READY, VecDeque::new()),
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
            self.ready.lock().push_back(item.clone());
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
        if item.ready(file) != 0 {
            self.enqueue(&item);
        }
        Ok(())
    }

    fn remove(&self, key: Key) -> Option<()> {
        let item = self.items.lock().remove(&key)?;
        item.leave();
        Some(())
    }

    /// Takes up to `max` events; `give(events, data)` stores one and may fail.
    fn collect(&self, max: usize, give: &mut dyn FnMut(u32, u64) -> Result<()>) -> Result<usize> {
        let mut count = 0;
        let mut again: SmallVec<[Arc<Item>; 8]> = SmallVec::new();
        let mut result = Ok(());
        // Each item that is on the list now is asked once.
        let mut left = None;
        while count < max {
            let mut ready = self.ready.lock();
            let left = left.get_or_insert(ready.len());
            let Some(rest) = left.checked_sub(1) else { break };
            *left = rest;
            let Some(item) = ready.pop_front() else { break };
            drop(ready);
            // Cleared before the file is asked: a change from now on queues it anew.
            item.queued.store(false, Ordering::SeqCst);
            let events = item.look();
            if events == 0 {
                continue;
            }
            if let Err(error) = give(events, item.data.load(Ordering::Relaxed)) {
                again.push(item);
                result = Err(error);
                break;
            }
            count += 1;
            let wanted = item.events.load(Ordering::Relaxed);
            if wanted & EPOLLONESHOT != 0 {
                item.events.fetch_and(PRIVATE_BITS, Ordering::SeqCst);
            } else if wanted & EPOLLET == 0 {
                again.push(item);
            }
        }
        if !again.is_empty() {
            let mut ready = self.ready.lock();
            for item in again {
                if !item.queued.swap(true, Ordering::SeqCst) {
                    ready.push_back(item);
                }
            }
            drop(ready);
            // What is still ready is the next waiter's business too.
            self.waiters.wake_one();
        }
        if count > 0 { Ok(count) } else { result.map(|()| 0) }
    }

    /// `epoll_wait(2)`: `now` does not wait. `EINTR` at a signal.
    pub fn wait(
        &self,
        max: usize,
        deadline: Option<Deadline>,
        now: bool,
        give: &mut dyn FnMut(u32, u64) -> Result<()>,
    ) -> Result<usize> {
        loop {
            let count = self.collect(max, give)?;
            if count > 0 || now {
                return Ok(count);
            }
            let ready = || (!self.ready.lock().is_empty()).then_some(());
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
        let items: Vec<Arc<Item>> = self.ready.lock().iter().cloned().collect();
        if items.iter().any(|item| item.look() != 0) { POLLIN | POLLRDNORM } else { 0 }
    }

    fn release(&self, _file: &File) {
        let items = core::mem::take(&mut *self.items.lock());
        items.values().for_each(|item| item.leave());
        self.ready.lock().clear();
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
