//! What file operations know of the task that called them.

use abi::process::Resource;
use abi::signal::SigInfo;
use abi::{Errno, Result};
use alloc::sync::Arc;
use vfs::File;
use vfs::context::{Caller, FsPaths, Limit, Writer};
use vfs::cred::Creds;
use vfs::mount::MountNamespace;

use crate::task::Task;

impl Caller for Task {
    fn limit(&self, limit: Limit) -> u64 {
        self.group.limits.soft(match limit {
            Limit::FileSize => Resource::Fsize,
            Limit::OpenFiles => Resource::Nofile,
            Limit::LockedMemory => Resource::Memlock,
            Limit::Locks => Resource::Locks,
        })
    }

    fn raise(&self, signal: u32) {
        if let Some(signal) = abi::signal::Signal::new(signal as i32) {
            crate::signal::send_to_task(self, SigInfo::new(signal, abi::signal::si::KERNEL));
        }
    }

    fn process_id(&self) -> u32 {
        self.group.tgid() as u32
    }

    fn thread_id(&self) -> u32 {
        self.tid() as u32
    }

    fn files_id(&self) -> u64 {
        self.files().map_or(0, |f| Arc::as_ptr(&f) as *const () as usize as u64)
    }

    fn open_file(&self, fd: i32) -> Result<Arc<File>> {
        self.files().ok_or(Errno::EBADF)?.get(fd)
    }
}

impl Writer for Task {
    fn caller(&self) -> &dyn Caller {
        self
    }

    fn creds(&self) -> Arc<Creds> {
        Task::creds(self)
    }
}

/// A snapshot of a task's directories and credentials; [`FsContext::get`] lends it to the VFS.
pub struct FsContext<'a> {
    /// Credentials.
    pub creds: Arc<Creds>,
    /// Root and working directory.
    pub paths: Arc<FsPaths>,
    /// File mode creation mask.
    pub umask: u32,
    /// Mount namespace.
    pub mounts: Arc<MountNamespace>,
    pub(crate) caller: &'a Task,
}

impl FsContext<'_> {
    /// The view that every VFS operation takes.
    pub fn get(&self) -> vfs::context::Context<'_> {
        vfs::context::Context {
            creds: &self.creds,
            root: &self.paths.root,
            cwd: &self.paths.cwd,
            umask: self.umask,
            mounts: &self.mounts,
            caller: self.caller,
        }
    }
}
