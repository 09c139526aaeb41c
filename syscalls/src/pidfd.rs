//! Process file descriptors: `pidfd_open(2)`, `CLONE_PIDFD`.

use abi::poll::{POLLIN, POLLRDNORM};
use abi::{Errno, Result};
use alloc::sync::Arc;
use core::any::Any;
use core::fmt::{self, Write};
use process::Task;
use process::pid::{Pid, ProcessDirectory};
use vfs::file::{File, FileOps};
use vfs::poll::{PollTable, poll_wait};

/// What a process descriptor refers to.
struct PidFile {
    pid: Arc<Pid>,
}

impl FileOps for PidFile {
    fn poll(&self, _: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        poll_wait(table, &self.pid.exited);
        match self.pid.group() {
            Some(group) if !group.is_zombie() => 0,
            _ => POLLIN | POLLRDNORM,
        }
    }

    fn fdinfo(&self, _: &File, out: &mut dyn Write) -> fmt::Result {
        let ns = process::current().group.pid_ns();
        writeln!(out, "Pid:\t{}", self.pid.number_in(ns))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open descriptor file for `pid`.
pub(crate) fn open(task: &Task, pid: Arc<Pid>) -> Result<Arc<File>> {
    const O_RDWR: u32 = 2;
    let context = task.vfs_context();
    anon::anon_file(&context.get(), "[pidfd]", Arc::new(PidFile { pid }), O_RDWR)
}

/// The process that `pidfd_send_signal(2)` means by descriptor `fd`, which may also be an open
/// `/proc/PID`; `EBADF` if it is neither.
pub(crate) fn signalled(task: &Task, fd: i32) -> Result<Arc<Pid>> {
    let file = task.files().ok_or(Errno::EBADF)?.get(fd)?;
    let by_directory = file.private::<ProcessDirectory>().map(|dir| dir.0.clone());
    by_directory.map_or_else(|| pid_of(task, fd), Ok)
}

/// The process that descriptor `fd` refers to; `EBADF` if it is no process descriptor.
pub(crate) fn pid_of(task: &Task, fd: i32) -> Result<Arc<Pid>> {
    let file = task.files().ok_or(Errno::EBADF)?.get(fd)?;
    file.private::<PidFile>().map(|p| p.pid.clone()).ok_or(Errno::EBADF)
}
