//! Opening fifos: each side waits for the other (`fifo(7)`).

use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::Ordering;

use abi::fcntl::*;
use abi::{Errno, Result};
use vfs::dev::{Opened, SpecialOpen, set_fifo_opener};
use vfs::{Context, FileMode, Inode};

use super::Pipe;
use super::file::{End, PipeEnd};
use crate::wait::wait_interruptible;

struct FifoOpener;

/// Makes fifos work.
pub fn init() {
    set_fifo_opener(&FifoOpener);
}

/// The pipe of a fifo inode.
fn pipe_of(inode: &Inode) -> Result<Arc<Pipe>> {
    let special = inode.extra().special.call_once(|| {
        let pipe: Arc<dyn Any + Send + Sync> = Arc::new(Pipe::new());
        pipe
    });
    special.clone().downcast::<Pipe>().map_err(|_| Errno::EIO)
}

impl Pipe {
    pub(super) fn writer_opens(&self) -> u32 {
        self.writer_opens.load(Ordering::Acquire)
    }

    fn reader_opens(&self) -> u32 {
        self.reader_opens.load(Ordering::Acquire)
    }
}

impl SpecialOpen for FifoOpener {
    fn open(&self, inode: &Arc<Inode>, flags: u32, _ctx: &Context<'_>) -> Result<Opened> {
        let pipe = pipe_of(inode)?;
        let nonblocking = flags & O_NONBLOCK != 0;
        let end = match flags & O_ACCMODE {
            O_RDONLY => End::Read,
            O_WRONLY => End::Write,
            _ => End::Both,
        };
        // Who is there is asked before anybody learns of this end: the other side may be through and
        // gone by the time this one looks again. The counts come first, so that none is missed.
        let (readers, writers) = (pipe.reader_opens(), pipe.writer_opens());
        let (had_readers, had_writers) = (pipe.has_readers(), pipe.has_writers());
        // man 7 fifo: a writer that must not wait needs a reader.
        if end == End::Write && nonblocking && !pipe.is_anonymous && !had_readers {
            return Err(Errno::ENXIO);
        }
        pipe.open_end(end);
        match end {
            End::Read => pipe.tell_writers(),
            End::Write => pipe.tell_readers(),
            End::Both => {
                pipe.tell_readers();
                pipe.tell_writers();
            }
        }
        let wait = match end {
            _ if pipe.is_anonymous => Ok(()),
            End::Read if !nonblocking && !had_writers => {
                let queue = pipe.readable.clone();
                wait_interruptible(&queue, || (pipe.writer_opens() != writers).then_some(()))
            }
            End::Write if !had_readers => {
                let queue = pipe.writable.clone();
                wait_interruptible(&queue, || (pipe.reader_opens() != readers).then_some(()))
            }
            _ => Ok(()),
        };
        if let Err(error) = wait {
            pipe.close_end(end);
            return Err(error);
        }
        let lonely = end == End::Read && nonblocking && !pipe.is_anonymous && !pipe.has_writers();
        let ops = if lonely {
            PipeEnd::lonely(pipe, end, writers)
        } else {
            PipeEnd::open(pipe, end, false)
        };
        Ok(Opened { ops, mode: FileMode::SIGPIPE | FileMode::NOWAIT })
    }
}
