//! Pipes and fifos (`pipe(7)`, `fifo(7)`).
//!
//! A pipe is a ring of pages under a sleeping lock, because data is copied from and to user memory
//! with the lock held. One reader is woken for each write, one writer when the ring stops being full;
//! pollers hear of every change. Who was woken and leaves data or room behind, or takes none, wakes the
//! next: while there is something to take and somebody waits, somebody is on his way to it.

mod fifo;
mod file;
pub(crate) mod ring;
pub mod splice;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use abi::fcntl::*;
use abi::poll::*;
use abi::{Errno, Result};
use arch::lock::LockClass;
use arch::uio::{Sink, Source};
use sched::{Mutex, WaitQueue};
use vfs::{Cap, Context, File, FileInit, FileMode};

use crate::inode::pipe_place;
use crate::wait::wait_interruptible;
pub use fifo::init;
use file::{End, PipeEnd};
use ring::{PAGE, Ring};

static PIPE: LockClass = LockClass::new("anon.pipe", 205);

/// Slots of a new pipe: 64 KiB.
const DEFAULT_SLOTS: usize = 16;
/// A write of up to this many bytes is not mixed with others.
pub const PIPE_BUF: usize = 4096;
/// `/proc/sys/fs/pipe-max-size`.
pub static PIPE_MAX_SIZE: AtomicUsize = AtomicUsize::new(1 << 20);

/// A pipe.
pub struct Pipe {
    pub(crate) ring: Mutex<Ring>,
    /// Waits for data.
    pub(crate) readable: Arc<WaitQueue>,
    /// Waits for room.
    pub(crate) writable: Arc<WaitQueue>,
    /// Open ends.
    readers: AtomicU32,
    writers: AtomicU32,
    /// How often each side was opened: what an opening fifo waits for.
    reader_opens: AtomicU32,
    writer_opens: AtomicU32,
    /// Made by `pipe(2)`: opening it again (through `/proc/PID/fd`) waits for nobody.
    is_anonymous: bool,
}

impl Default for Pipe {
    fn default() -> Self {
        Self::new()
    }
}

impl Pipe {
    /// A fifo's: empty, without ends.
    pub fn new() -> Pipe {
        Pipe {
            ring: Mutex::new(&PIPE, Ring::new(DEFAULT_SLOTS)),
            readable: Arc::new(WaitQueue::new()),
            writable: Arc::new(WaitQueue::new()),
            readers: AtomicU32::new(0),
            writers: AtomicU32::new(0),
            reader_opens: AtomicU32::new(0),
            writer_opens: AtomicU32::new(0),
            is_anonymous: false,
        }
    }

    // Acquire and AcqRel: who sees an end gone sees what it wrote before.

    pub(crate) fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Acquire) != 0
    }

    pub(crate) fn has_writers(&self) -> bool {
        self.writers.load(Ordering::Acquire) != 0
    }

    pub(crate) fn open_end(&self, end: End) {
        if end.reads() {
            self.readers.fetch_add(1, Ordering::AcqRel);
            self.reader_opens.fetch_add(1, Ordering::AcqRel);
        }
        if end.writes() {
            self.writers.fetch_add(1, Ordering::AcqRel);
            self.writer_opens.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(crate) fn close_end(&self, end: End) {
        let mut last = false;
        if end.reads() {
            last |= self.readers.fetch_sub(1, Ordering::AcqRel) == 1;
        }
        if end.writes() {
            last |= self.writers.fetch_sub(1, Ordering::AcqRel) == 1;
        }
        if last {
            self.readable.notify(POLLIN | POLLRDNORM | POLLHUP);
            self.writable.notify(POLLOUT | POLLWRNORM | POLLERR | POLLHUP);
        }
        if !self.has_readers() && !self.has_writers() {
            // A fifo that everybody left is empty for the next who opens it.
            let mut ring = self.ring.lock();
            let slots = ring.slots();
            *ring = Ring::new(slots);
        }
    }

    pub(crate) fn tell_readers(&self) {
        self.readable.notify(POLLIN | POLLRDNORM);
    }

    pub(crate) fn tell_writers(&self) {
        self.writable.notify(POLLOUT | POLLWRNORM);
    }

    /// As [`tell_readers`](Self::tell_readers) about data: the reader that is woken passes it on.
    pub(crate) fn tell_a_reader(&self) {
        self.readable.notify_one(POLLIN | POLLRDNORM);
    }

    /// As [`tell_writers`](Self::tell_writers) about room: the writer that is woken passes it on.
    pub(crate) fn tell_a_writer(&self) {
        self.writable.notify_one(POLLOUT | POLLWRNORM);
    }

    /// Waits until there is something to read (or nobody writes any more). Who waits drops
    /// a [`PassOnData`] when he is done.
    pub(crate) fn wait_readable(&self) -> Result<()> {
        wait_interruptible(&self.readable, || {
            let ring = self.ring.lock();
            (!ring.is_lent() && (!ring.is_empty() || !self.has_writers())).then_some(())
        })
    }

    /// Waits until a slot is free (or nobody reads any more). Who waits drops
    /// a [`PassOnRoom`] when he is done.
    pub(crate) fn wait_writable(&self) -> Result<()> {
        wait_interruptible(&self.writable, || {
            (!self.ring.lock().is_full() || !self.has_readers()).then_some(())
        })
    }

    fn read(&self, sink: &mut Sink<'_>, nonblocking: bool) -> Result<usize> {
        if sink.is_full() {
            return Ok(0);
        }
        let mut waited = None;
        loop {
            let is_lent = {
                let mut ring = self.ring.lock();
                if !ring.is_lent() && !ring.is_empty() {
                    let was_full = ring.is_full();
                    let count = ring.read(sink)?;
                    let wake = was_full && !ring.is_full();
                    drop(ring);
                    if wake {
                        self.tell_a_writer();
                    }
                    return Ok(count);
                }
                // Asked with the ring locked: what the last writer wrote is there before it goes.
                if !ring.is_lent() && !self.has_writers() {
                    return Ok(0);
                }
                ring.is_lent()
            };
            // A splice that goes on is waited for in any case.
            if nonblocking && !is_lent {
                return Err(Errno::EAGAIN);
            }
            waited.get_or_insert(PassOnData(self));
            self.wait_readable()?;
        }
    }

    fn write(&self, source: &mut Source<'_>, nonblocking: bool, packet: bool) -> Result<usize> {
        if source.is_empty() {
            return Ok(0);
        }
        let mut waited = None;
        let mut done = 0;
        loop {
            if !self.has_readers() {
                return if done > 0 { Ok(done) } else { Err(Errno::EPIPE) };
            }
            let step = {
                let mut ring = self.ring.lock();
                let step = fill(&mut ring, source, packet, done == 0);
                drop(ring);
                step
            };
            match step {
                Ok(count) => {
                    done += count;
                    if count > 0 {
                        self.tell_a_reader();
                    }
                    if source.is_empty() {
                        return Ok(done);
                    }
                }
                Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
            }
            if nonblocking {
                return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) };
            }
            waited.get_or_insert(PassOnRoom(self));
            if let Err(error) = self.wait_writable() {
                return if done > 0 { Ok(done) } else { Err(error) };
            }
        }
    }

    /// `poll(2)` events of one end.
    pub(crate) fn events(&self, end: End, seen_writer: bool) -> u32 {
        let ring = self.ring.lock();
        let mut events = 0;
        if end.reads() {
            if ring.is_lent() || !ring.is_empty() {
                events |= POLLIN | POLLRDNORM;
            }
            if !self.has_writers() && seen_writer {
                events |= POLLHUP;
            }
        }
        if end.writes() {
            if !ring.is_full() {
                events |= POLLOUT | POLLWRNORM;
            }
            if !self.has_readers() {
                events |= POLLERR;
            }
        }
        events
    }

    /// `F_GETPIPE_SZ`.
    pub fn capacity(&self) -> usize {
        self.ring.lock().slots() * PAGE
    }

    /// `F_SETPIPE_SZ`; returns the new capacity.
    pub fn set_capacity(&self, ctx: &Context<'_>, bytes: usize) -> Result<usize> {
        if bytes > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let bytes = bytes.max(PAGE).next_power_of_two();
        let old = self.capacity();
        if bytes > old
            && bytes > PIPE_MAX_SIZE.load(Ordering::Relaxed)
            && !ctx.creds.capable(Cap::SYS_RESOURCE)
        {
            return Err(Errno::EPERM);
        }
        self.ring.lock().resize(bytes / PAGE)?;
        if bytes > old {
            self.tell_writers();
        }
        Ok(bytes)
    }
}

/// Held by a reader that waits: wakes the next one if he leaves data, for he may have been the one
/// that was woken for it.
pub(crate) struct PassOnData<'a>(pub(crate) &'a Pipe);

impl Drop for PassOnData<'_> {
    fn drop(&mut self) {
        if !self.0.readable.has_waiters() {
            return;
        }
        let is_left = {
            let ring = self.0.ring.lock();
            !ring.is_lent() && !ring.is_empty()
        };
        if is_left {
            self.0.readable.wake_one();
        }
    }
}

/// The same of a writer, for room.
pub(crate) struct PassOnRoom<'a>(pub(crate) &'a Pipe);

impl Drop for PassOnRoom<'_> {
    fn drop(&mut self) {
        if self.0.writable.has_waiters() && !self.0.ring.lock().is_full() {
            self.0.writable.wake_one();
        }
    }
}

/// Moves what fits; how much.
fn fill(ring: &mut Ring, source: &mut Source<'_>, packet: bool, first: bool) -> Result<usize> {
    let mut done = 0;
    if first && !packet && !ring.is_empty() {
        done += ring.merge(source)?;
    }
    while !source.is_empty() && !ring.is_full() {
        match ring.append(source, packet) {
            Ok(0) => return if done > 0 { Ok(done) } else { Err(Errno::EFAULT) },
            Ok(count) => done += count,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// `pipe2(2)`: the reading and the writing end. `flags` are `O_NONBLOCK` and `O_DIRECT`.
pub fn pipe(ctx: &Context<'_>, flags: u32) -> Result<(Arc<File>, Arc<File>)> {
    vfs::filecount::check(ctx.creds)?;
    let (inode, path) = pipe_place(ctx)?;
    let pipe = Arc::new(Pipe { is_anonymous: true, ..Pipe::new() });
    let special: Arc<dyn core::any::Any + Send + Sync> = pipe.clone();
    inode.extra().special.call_once(|| special);
    let end = |end: End, mode: u32| {
        pipe.open_end(end);
        File::new(FileInit {
            ops: PipeEnd::open(pipe.clone(), end, true),
            inode: inode.clone(),
            path: path.clone(),
            creds: ctx.creds.clone(),
            flags: mode | (flags & (O_NONBLOCK | O_DIRECT)),
            mode: FileMode::SIGPIPE | FileMode::NOWAIT,
        })
    };
    Ok((end(End::Read, O_RDONLY), end(End::Write, O_WRONLY)))
}

/// The pipe behind an open file, if it is one.
pub fn pipe_of(file: &File) -> Option<&Arc<Pipe>> {
    file.private::<PipeEnd>().map(PipeEnd::pipe)
}
