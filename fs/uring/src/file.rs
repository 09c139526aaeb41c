//! The descriptor of an instance.

use alloc::sync::Arc;
use core::any::Any;

use abi::poll::*;
use abi::uring::*;
use abi::{Errno, Result};
use vfs::{Context, File, FileOps, MapArgs, PollTable};
use vm::{Description, MapSource};

use crate::rings::{Uring, word};

/// Operations of the descriptor.
struct UringFile(Arc<Uring>);

/// An open file for an instance.
pub fn create(ctx: &Context<'_>, ring: &Arc<Uring>) -> Result<Arc<File>> {
    anon::anon_file(ctx, "[io_uring]", Arc::new(UringFile(ring.clone())), abi::fcntl::O_RDWR)
}

/// The instance that a file is; `EOPNOTSUPP` if it is none.
pub fn of(file: &File) -> Result<Arc<Uring>> {
    file.private::<UringFile>().map(|file| file.0.clone()).ok_or(Errno::EOPNOTSUPP)
}

/// A part of the shared memory, whatever the offset that names it.
struct Window(Arc<dyn MapSource>);

impl MapSource for Window {
    fn mapping(&self) -> Option<Arc<pagecache::Mapping>> {
        self.0.mapping()
    }

    fn first_byte(&self, _offset: u64) -> u64 {
        0
    }

    fn describe(&self) -> Description {
        self.0.describe()
    }
}

impl FileOps for UringFile {
    fn mmap(&self, _file: &Arc<File>, args: &MapArgs) -> Result<Arc<dyn MapSource>> {
        let ring = match args.offset {
            OFF_SQ_RING | OFF_CQ_RING => &self.0.shared,
            OFF_SQES => &self.0.entries,
            _ => return Err(Errno::EINVAL),
        };
        if args.len > ring.len() as u64 {
            return Err(Errno::EINVAL);
        }
        Ok(Arc::new(Window(ring.source("anon_inode:[io_uring]"))))
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        let ring = &self.0;
        vfs::poll::poll_wait(table, &ring.changed);
        let mut events = 0;
        if ring.waiting() > 0 {
            events |= POLLIN | POLLRDNORM;
        }
        let taken = ring.shared.load(word::SQ_HEAD);
        if ring.shared.load(word::SQ_TAIL).wrapping_sub(taken) < ring.sq_entries {
            events |= POLLOUT | POLLWRNORM;
        }
        events
    }

    fn release(&self, _file: &File) {
        self.0.close();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
