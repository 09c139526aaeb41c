//! `inotify(7)`.
//!
//! An instance has a queue of events and its watches by number. Hooks of the file layer put events
//! on the queue under the watched inode's lock; nothing there sleeps. A watch that has ended by
//! itself (its file is gone, or it was for one event) is marked and swept out later, because its
//! inode's list cannot be changed from inside a hook.
//!
//! Locks: an instance's watches (rank 202, may sleep) before the file layer's list (288) before the
//! queue and the counts (562, 563).

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use abi::inotify::*;
use abi::poll::{POLLIN, POLLRDNORM};
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::lock::{LockClass, SpinLock};
use arch::uio::Sink;
use sched::{Mutex, WaitQueue};
use vfs::notify::{Event, Watch, add_watch, remove_watch};
use vfs::{Context, File, FileOps, Inode, PollTable};
use zerocopy::IntoBytes;

use crate::inode::anon_file;
use crate::wait::wait_interruptible;

static WATCHES: LockClass = LockClass::new("anon.inotify", 202);
static QUEUE: LockClass = LockClass::new("anon.inotify_queue", 562);
static COUNTS: LockClass = LockClass::new("anon.inotify_counts", 563);

/// `fs.inotify.max_queued_events`.
pub static MAX_QUEUED_EVENTS: AtomicI64 = AtomicI64::new(16384);
/// `fs.inotify.max_user_instances`.
pub static MAX_USER_INSTANCES: AtomicI64 = AtomicI64::new(128);
/// `fs.inotify.max_user_watches`.
pub static MAX_USER_WATCHES: AtomicI64 = AtomicI64::new(8192);

/// The `ioctl` that asks for the bytes that can be read.
const FIONREAD: u32 = 0x541b;
/// Names are padded to a multiple of this.
const ALIGN: usize = size_of::<InotifyEvent>();
/// Bits that every watch gets.
const ALWAYS: u32 = IN_UNMOUNT | IN_IGNORED;

/// Instances and watches of each user.
static USERS: SpinLock<BTreeMap<u32, [i64; 2]>> = SpinLock::new(&COUNTS, BTreeMap::new());

/// Counts one more instance (0) or watch (1) of a user, if the limit allows it.
fn charge(uid: u32, what: usize, limit: &AtomicI64) -> bool {
    let mut users = USERS.lock();
    let counts = users.entry(uid).or_default();
    let Some(count) = counts.get_mut(what) else { return false };
    if *count >= limit.load(Ordering::Relaxed) {
        return false;
    }
    *count += 1;
    true
}

fn uncharge(uid: u32, what: usize) {
    let mut users = USERS.lock();
    let Some(counts) = users.get_mut(&uid) else { return };
    if let Some(count) = counts.get_mut(what) {
        *count -= 1;
    }
    if *counts == [0; 2] {
        users.remove(&uid);
    }
}

struct Queued {
    head: InotifyEvent,
    name: Vec<u8>,
}

impl Queued {
    fn len(&self) -> usize {
        ALIGN + self.head.len as usize
    }
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Queued>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, wd: i32, mask: u32, cookie: u32, name: &[u8]) -> bool {
        // The padding holds at least the NUL.
        let len = if name.is_empty() { 0 } else { (name.len() + 1).next_multiple_of(ALIGN) };
        let mut head = InotifyEvent { wd, mask, cookie, len: len as u32 };
        let mut name = name;
        if let Some(last) = self.events.back() {
            let same = (last.head.wd, last.head.mask, last.head.cookie) == (wd, mask, cookie);
            if same && last.name == name {
                return false;
            }
        }
        if self.events.len() as i64 >= MAX_QUEUED_EVENTS.load(Ordering::Relaxed) {
            if self.events.back().is_some_and(|last| last.head.mask == IN_Q_OVERFLOW) {
                return false;
            }
            head = InotifyEvent { wd: -1, mask: IN_Q_OVERFLOW, cookie: 0, len: 0 };
            name = &[];
        }
        let event = Queued { head, name: name.to_vec() };
        self.bytes += event.len();
        self.events.push_back(event);
        true
    }

    fn pop(&mut self, room: usize) -> Option<Queued> {
        self.events.front().filter(|event| event.len() <= room)?;
        let event = self.events.pop_front()?;
        self.bytes -= event.len();
        Some(event)
    }
}

/// A watched inode.
struct Watched {
    wd: i32,
    mask: AtomicU32,
    has_ended: AtomicBool,
    inode: Arc<Inode>,
    instance: Weak<Inotify>,
}

impl Watch for Watched {
    fn event(&self, event: &Event<'_>) {
        let mask = self.mask.load(Ordering::Relaxed);
        let wanted = event.mask & (mask & IN_ALL_EVENTS | ALWAYS);
        if wanted == 0 || event.unlinked && mask & IN_EXCL_UNLINK != 0 {
            return;
        }
        let Some(instance) = self.instance.upgrade() else { return };
        if event.mask & IN_IGNORED != 0 {
            return self.end(&instance);
        }
        if self.has_ended.load(Ordering::Relaxed) {
            return;
        }
        instance.post(self.wd, event.mask, event.cookie, event.name.unwrap_or_default());
        if mask & IN_ONESHOT != 0 {
            self.end(&instance);
        }
    }
}

impl Watched {
    fn end(&self, instance: &Inotify) {
        if !self.has_ended.swap(true, Ordering::Relaxed) {
            // Release: pairs with the acquire of `sweep`, which then finds the mark above.
            instance.has_ended.store(true, Ordering::Release);
            instance.post(self.wd, IN_IGNORED, 0, &[]);
        }
    }

    fn as_watch(self: &Arc<Watched>) -> Arc<dyn Watch> {
        self.clone()
    }
}

#[derive(Default)]
struct Watches {
    by_number: BTreeMap<i32, Arc<Watched>>,
    /// By the address of the inode, which the watch keeps in place.
    by_inode: BTreeMap<usize, i32>,
    last: i32,
}

/// An inotify instance.
pub struct Inotify {
    this: Weak<Inotify>,
    /// A watch has ended by itself since the last look.
    has_ended: AtomicBool,
    uid: u32,
    watches: Mutex<Watches>,
    queue: SpinLock<Queue>,
    readers: Arc<WaitQueue>,
}

/// `inotify_init1(2)`: `EMFILE` past the limit of the user.
pub fn create(ctx: &Context<'_>, status: u32) -> Result<Arc<File>> {
    let uid = ctx.creds.uid;
    if !charge(uid, 0, &MAX_USER_INSTANCES) {
        return Err(Errno::EMFILE);
    }
    let instance = Arc::new_cyclic(|this| Inotify {
        this: this.clone(),
        has_ended: AtomicBool::new(false),
        uid,
        watches: Mutex::new(&WATCHES, Watches::default()),
        queue: SpinLock::new(&QUEUE, Queue::default()),
        readers: Arc::new(WaitQueue::new()),
    });
    anon_file(ctx, "inotify", instance, abi::fcntl::O_RDONLY | status)
}

/// The instance behind an open file; `EINVAL` if it is something else.
pub fn inotify_of(file: &File) -> Result<&Inotify> {
    file.private::<Inotify>().ok_or(Errno::EINVAL)
}

impl Inotify {
    fn post(&self, wd: i32, mask: u32, cookie: u32, name: &[u8]) {
        if self.queue.lock().push(wd, mask, cookie, name) {
            self.readers.notify(POLLIN | POLLRDNORM);
        }
    }

    /// Forgets the watches that have ended by themselves.
    fn sweep(&self, watches: &mut Watches) {
        if !self.has_ended.swap(false, Ordering::AcqRel) {
            return;
        }
        let is_over = |w: &&Arc<Watched>| w.has_ended.load(Ordering::Relaxed);
        let ended: Vec<Arc<Watched>> =
            watches.by_number.values().filter(is_over).cloned().collect();
        for watch in ended {
            self.forget(watches, &watch);
        }
    }

    fn forget(&self, watches: &mut Watches, watch: &Arc<Watched>) {
        watches.by_number.remove(&watch.wd);
        watches.by_inode.remove(&Arc::as_ptr(&watch.inode).addr());
        remove_watch(&watch.inode, &watch.as_watch());
        uncharge(self.uid, 1);
    }

    /// `inotify_add_watch(2)`: the watch's number. `EEXIST` with `IN_MASK_CREATE` for an inode that
    /// is watched, `ENOSPC` past the limit of the user.
    pub fn add(&self, inode: Arc<Inode>, mask: u32) -> Result<i32> {
        let mut watches = self.watches.lock();
        self.sweep(&mut watches);
        let own = mask & (IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT);
        let key = Arc::as_ptr(&inode).addr();
        if let Some(watch) =
            watches.by_inode.get(&key).and_then(|wd| watches.by_number.get(wd)).cloned()
        {
            if mask & IN_MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            let before =
                if mask & IN_MASK_ADD != 0 { watch.mask.load(Ordering::Relaxed) } else { 0 };
            watch.mask.store(before | own, Ordering::Relaxed);
            return Ok(watch.wd);
        }
        if !charge(self.uid, 1, &MAX_USER_WATCHES) {
            return Err(Errno::ENOSPC);
        }
        let mut wd = watches.last.checked_add(1).unwrap_or(1);
        while watches.by_number.contains_key(&wd) {
            wd = wd.checked_add(1).unwrap_or(1);
        }
        watches.last = wd;
        let watch = Arc::new(Watched {
            wd,
            mask: AtomicU32::new(own),
            has_ended: AtomicBool::new(false),
            inode: inode.clone(),
            instance: self.this.clone(),
        });
        watches.by_number.insert(wd, watch.clone());
        watches.by_inode.insert(key, wd);
        add_watch(&inode, watch.as_watch());
        Ok(wd)
    }

    /// `inotify_rm_watch(2)`: `EINVAL` if there is no such watch.
    pub fn remove(&self, wd: i32) -> Result<()> {
        let mut watches = self.watches.lock();
        self.sweep(&mut watches);
        let watch = watches.by_number.get(&wd).cloned().ok_or(Errno::EINVAL)?;
        watch.end(self);
        self.forget(&mut watches, &watch);
        Ok(())
    }

    /// The next event that fits into `room` bytes; `EINVAL` if the next does not.
    fn next(&self, room: usize) -> Option<Result<Queued>> {
        let mut queue = self.queue.lock();
        if queue.events.is_empty() {
            return None;
        }
        Some(queue.pop(room).ok_or(Errno::EINVAL))
    }
}

fn put(event: &Queued, sink: &mut Sink<'_>) -> Result<()> {
    sink.put_all(event.head.as_bytes())?;
    sink.put_all(&event.name)?;
    let padding = (event.head.len as usize).saturating_sub(event.name.len());
    sink.put_all([0; ALIGN].get(..padding).unwrap_or_default())?;
    Ok(())
}

impl FileOps for Inotify {
    fn read_at(&self, file: &File, _pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        let whole = sink.remaining();
        let first = match self.next(whole) {
            Some(event) => event?,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => wait_interruptible(&self.readers, || self.next(whole))??,
        };
        put(&first, sink)?;
        while let Some(Ok(event)) = self.next(sink.remaining()) {
            if put(&event, sink).is_err() {
                break;
            }
        }
        Ok(whole - sink.remaining())
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        vfs::poll_wait(table, &self.readers);
        if self.queue.lock().events.is_empty() { 0 } else { POLLIN | POLLRDNORM }
    }

    fn ioctl(&self, _file: &Arc<File>, _ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        if cmd != FIONREAD {
            return Err(Errno::ENOIOCTLCMD);
        }
        let bytes = self.queue.lock().bytes as u32;
        arch::user::write_val(VirtAddr::new(arg as u64), &bytes)?;
        Ok(0)
    }

    fn release(&self, _file: &File) {
        let mut watches = self.watches.lock();
        let all: Vec<Arc<Watched>> = watches.by_number.values().cloned().collect();
        for watch in all {
            watch.has_ended.store(true, Ordering::Relaxed);
            self.forget(&mut watches, &watch);
        }
        uncharge(self.uid, 0);
    }

    fn fdinfo(&self, _file: &File, out: &mut dyn Write) -> fmt::Result {
        for watch in self.watches.lock().by_number.values() {
            let dev = watch.inode.sb().dev;
            let (ino, dev) = (watch.inode.ino, dev.major() << 20 | dev.minor());
            let mask = watch.mask.load(Ordering::Relaxed) & IN_ALL_EVENTS;
            writeln!(
                out,
                "inotify wd:{:x} ino:{ino:x} sdev:{dev:x} mask:{mask:x} ignored_mask:0 ",
                watch.wd
            )?;
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_neighbours_are_one_event() {
        let mut queue = Queue::default();
        assert!(queue.push(1, IN_MODIFY, 0, b"a"));
        assert!(!queue.push(1, IN_MODIFY, 0, b"a"));
        assert!(queue.push(1, IN_MODIFY, 0, b"b"));
        assert!(queue.push(1, IN_MODIFY, 0, b"a"));
        assert_eq!((queue.events.len(), queue.bytes), (3, 96));
        assert!(queue.pop(31).is_none());
        assert_eq!(queue.pop(32).map(|e| e.name), Some(b"a".to_vec()));
    }

    #[test]
    fn a_full_queue_says_so_once() {
        let mut queue = Queue::default();
        let limit = MAX_QUEUED_EVENTS.load(Ordering::Relaxed) as u32;
        for cookie in 0..limit + 10 {
            queue.push(1, IN_MOVED_TO, cookie, b"");
        }
        assert_eq!(queue.events.len(), limit as usize + 1);
        assert_eq!(
            queue.events.back().map(|e| (e.head.wd, e.head.mask)),
            Some((-1, IN_Q_OVERFLOW))
        );
    }
}
