//! Reading and writing without waiting.
//!
//! * What the cache has, or can take, is moved at once, while the program waits for its call.
//! * `O_DIRECT`: the transfer goes to the device with the program's own pages and ends from the side of
//!   the interrupt.
//! * A file that may have to be waited for (a pipe, a socket) is watched, and moved when it is ready.
//! * All else is done by a thread, with the program's pages held.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fcntl::{O_DIRECT, RWF_APPEND, RWF_DSYNC, RWF_NOWAIT, RWF_SYNC};
use abi::poll::{POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use abi::{Errno, Result};
use arch::uio::{Segment, Sink, Source};
use vfs::rw::{self, At};
use vfs::{DirectIo, Direction, File, FileKind};

use crate::memory::Held;
use crate::pool;
use crate::submitter::Submitter;
use crate::watch::Watch;

/// Called once, in any context, with the outcome.
pub type Done = Box<dyn FnOnce(Result<usize>) + Send>;

/// Where the bytes are.
pub enum Memory {
    /// In the memory of the program that calls right now.
    User(Vec<Segment>),
    /// In pages that are held already.
    Held(Held),
}

impl Memory {
    /// How many bytes.
    pub fn len(&self) -> usize {
        match self {
            Memory::User(segments) => segments.iter().map(|segment| segment.len).sum(),
            Memory::Held(held) => held.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn hold(self, who: &Submitter, direction: Direction) -> Result<Held> {
        match self {
            Memory::User(segments) => Held::hold(&*who.space()?, &segments, direction),
            Memory::Held(held) => Ok(held),
        }
    }
}

/// A transfer.
pub struct Transfer {
    /// The file.
    pub file: Arc<File>,
    /// Which way.
    pub direction: Direction,
    /// Where in the file.
    pub at: At,
    /// `RWF_*`.
    pub rwf: u32,
    /// Not even try to do it at once.
    pub in_background: bool,
}

/// What became of it so far.
pub enum Started {
    /// It goes on by itself, or has ended.
    Running,
    /// The file is waited for.
    Watching(Arc<Watch>),
}

impl Transfer {
    /// What is wrong with the descriptor for this, if anything.
    pub fn check(&self) -> Result<()> {
        match self.direction {
            Direction::Read => rw::check_read(&self.file, self.at),
            Direction::Write => rw::check_write(&self.file, self.at),
        }
    }

    /// Whether it may wait for the file to become ready: then it ends in a thread, or before its start
    /// returns.
    pub fn may_wait(&self) -> bool {
        !matches!(self.file.inode().kind, FileKind::Regular | FileKind::BlockDevice)
    }

    /// Starts it. `who` submits it and is, with [`Memory::User`], the calling program.
    pub fn start(self, who: &Arc<Submitter>, memory: Memory, done: Done) -> Started {
        if let Err(error) = self.check() {
            done(Err(error));
            return Started::Running;
        }
        if !self.may_wait() {
            if self.file.flags() & O_DIRECT != 0 && self.is_plain() {
                self.start_direct(who, memory, done);
            } else {
                self.start_cached(who, memory, done);
            }
            return Started::Running;
        }
        self.start_stream(who, memory, done)
    }

    /// Whether the device having it is all there is to it, at the place that was named.
    fn is_plain(&self) -> bool {
        let is_plain = self.rwf & (RWF_APPEND | RWF_DSYNC | RWF_SYNC) == 0;
        matches!(self.at, At::Offset(_)) && (is_plain || self.direction == Direction::Read)
    }

    fn start_direct(self, who: &Arc<Submitter>, memory: Memory, done: Done) {
        let At::Offset(pos) = self.at else { return done(Err(Errno::EINVAL)) };
        let held = match memory.hold(who, self.direction) {
            Ok(held) => held,
            Err(error) => return done(Err(error)),
        };
        if held.is_empty() {
            return done(Ok(0));
        }
        if pos.checked_add(held.len() as u64).is_none_or(|end| end > i64::MAX as u64) {
            return done(Err(Errno::EINVAL));
        }
        let io = DirectIo { pos, direction: self.direction, pieces: held.into_pieces(), done };
        if let Err(io) = rw::start_direct(&who.context(), &self.file, io) {
            let (pieces, done) = (io.pieces, io.done);
            self.give_to_thread(who, Held::of(pieces), done);
        }
    }

    fn start_cached(self, who: &Arc<Submitter>, memory: Memory, done: Done) {
        let is_quick = !self.in_background && self.is_quick(memory.len());
        if self.rwf & RWF_NOWAIT != 0 && !is_quick {
            return done(Err(Errno::EAGAIN));
        }
        if is_quick {
            return done(self.run_with(who, &memory));
        }
        match memory.hold(who, self.direction) {
            Ok(held) => self.give_to_thread(who, held, done),
            Err(error) => done(Err(error)),
        }
    }

    /// Whether the cache can do it without waiting for the device, as far as one can tell.
    fn is_quick(&self, len: usize) -> bool {
        let inode = self.file.inode();
        let Some(mapping) = inode.mapping() else { return false };
        let pos = match self.at {
            At::Offset(pos) => pos,
            At::Position => self.file.position().now(),
        };
        let end = pos.saturating_add(len as u64).min(mapping.size());
        if self.direction == Direction::Read {
            return mapping.has_valid(pos, end);
        }
        let syncs = abi::fcntl::O_DSYNC | abi::fcntl::O_DIRECT;
        if self.file.flags() & syncs != 0 || self.rwf & !abi::fcntl::RWF_APPEND != 0 {
            return false;
        }
        // Pages that are written in part have to be there.
        let last = pos.saturating_add(len as u64);
        let is_there =
            |at: u64| at.is_multiple_of(4096) || at >= end || mapping.has_valid(at, at + 1);
        is_there(pos) && is_there(last)
    }

    fn start_stream(self, who: &Arc<Submitter>, memory: Memory, done: Done) -> Started {
        let (wanted, is_nonblocking) = match self.direction {
            Direction::Read => (POLLIN | POLLRDNORM, self.file.is_nonblocking()),
            Direction::Write => (POLLOUT | POLLWRNORM, self.file.is_nonblocking()),
        };
        if is_nonblocking || self.file.poll(None) & wanted != 0 && !self.in_background {
            done(self.run_with(who, &memory));
            return Started::Running;
        }
        if self.rwf & RWF_NOWAIT != 0 {
            done(Err(Errno::EAGAIN));
            return Started::Running;
        }
        let held = match memory.hold(who, self.direction) {
            Ok(held) => held,
            Err(error) => {
                done(Err(error));
                return Started::Running;
            }
        };
        let (file, who) = (self.file.clone(), who.clone());
        let ready = move |events| {
            if events == 0 {
                return done(Err(Errno::ECANCELED));
            }
            // Somebody else may have been quicker: then the thread waits.
            pool::run(move || done(who.act(|| self.run_with(&who, &Memory::Held(held)))));
        };
        Started::Watching(Watch::begin(&file, wanted, Box::new(ready)))
    }

    fn give_to_thread(self, who: &Arc<Submitter>, held: Held, done: Done) {
        let who = who.clone();
        pool::run(move || done(who.act(|| self.run_with(&who, &Memory::Held(held)))));
    }

    fn run_with(&self, who: &Submitter, memory: &Memory) -> Result<usize> {
        match (self.direction, memory) {
            (Direction::Read, Memory::User(list)) => self.read(&mut Sink::user_segments(list)),
            (Direction::Read, Memory::Held(held)) => held.with_sink(|sink| self.read(sink)),
            (Direction::Write, Memory::User(list)) => {
                self.write(who, &mut Source::user_segments(list))
            }
            (Direction::Write, Memory::Held(held)) => {
                held.with_source(|source| self.write(who, source))
            }
        }
    }

    fn read(&self, sink: &mut Sink<'_>) -> Result<usize> {
        told(rw::read(&self.file, self.at, sink))
    }

    fn write(&self, who: &Submitter, source: &mut Source<'_>) -> Result<usize> {
        told(rw::write(&who.context(), &self.file, self.at, source, self.rwf))
    }
}

/// Errors that never leave the kernel become what a program sees of them.
pub fn told(result: Result<usize>) -> Result<usize> {
    result.map_err(|error| if error.raw() >= 512 { Errno::EINTR } else { error })
}

/// Syncs a file in a thread.
pub fn sync(file: Arc<File>, range: core::ops::Range<u64>, data_only: bool, done: Done) {
    pool::run(move || done(rw::fsync(&file, range, data_only).map(|()| 0)));
}
