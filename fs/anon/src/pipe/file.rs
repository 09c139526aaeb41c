//! The ends of a pipe as open files.

use alloc::sync::Arc;
use core::any::Any;

use abi::fcntl::{O_DIRECT, O_NONBLOCK};
use abi::{Errno, Result};
use arch::addr::VirtAddr;
use arch::uio::{Sink, Source};
use vfs::{Context, File, FileOps, PollTable, Time};

use super::Pipe;

const FIONREAD: u32 = 0x541b;

/// Which end of a pipe an open file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Read,
    Write,
    /// A fifo opened with `O_RDWR`.
    Both,
}

impl End {
    pub(crate) fn reads(self) -> bool {
        self != End::Write
    }
    pub(crate) fn writes(self) -> bool {
        self != End::Read
    }
}

/// An open end.
pub(crate) struct PipeEnd {
    pipe: Arc<Pipe>,
    end: End,
    /// Writers that had opened a fifo when this end was opened: no hang-up before another came.
    writers_then: u32,
    anonymous: bool,
}

impl PipeEnd {
    /// The end has been counted by `Pipe::open_end`.
    pub(crate) fn open(pipe: Arc<Pipe>, end: End, anonymous: bool) -> Arc<dyn FileOps> {
        let writers_then = pipe.writer_opens();
        Arc::new(PipeEnd { pipe, end, writers_then, anonymous })
    }

    pub(crate) fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    /// Like `open` for a reader that opened a fifo without waiting for a writer.
    pub(crate) fn lonely(pipe: Arc<Pipe>, end: End, writers_then: u32) -> Arc<dyn FileOps> {
        Arc::new(PipeEnd { pipe, end, writers_then, anonymous: false })
    }
}

impl FileOps for PipeEnd {
    fn read_at(&self, file: &File, _pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        let count = self.pipe.read(sink, file.flags() & O_NONBLOCK != 0)?;
        if count > 0 {
            vfs::atime::accessed(file);
        }
        Ok(count)
    }

    fn write_at(&self, file: &File, _pos: u64, source: &mut Source<'_>) -> Result<usize> {
        let flags = file.flags();
        let count = self.pipe.write(source, flags & O_NONBLOCK != 0, flags & O_DIRECT != 0)?;
        if count > 0 {
            file.inode().touch(Time::now());
        }
        Ok(count)
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        if let Some(table) = table {
            if self.end.reads() {
                table.add(&self.pipe.readable);
            }
            if self.end.writes() {
                table.add(&self.pipe.writable);
            }
        }
        let seen = self.anonymous
            || self.pipe.writer_opens() != self.writers_then
            || self.pipe.has_writers();
        self.pipe.events(self.end, seen)
    }

    fn ioctl(&self, _file: &Arc<File>, _ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        if cmd != FIONREAD {
            return Err(Errno::ENOIOCTLCMD);
        }
        let bytes = self.pipe.ring.lock().bytes() as u32;
        arch::user::write_val(VirtAddr::new(arg as u64), &bytes)?;
        Ok(0)
    }

    fn set_flags(&self, _file: &File, _flags: u32) -> Result<()> {
        Ok(())
    }

    fn release(&self, _file: &File) {
        self.pipe.close_end(self.end);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
