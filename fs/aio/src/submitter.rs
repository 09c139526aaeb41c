//! Who asked for a transfer: what of a task is needed when the task itself does something else.

use alloc::sync::{Arc, Weak};
use core::any::Any;

use abi::{Errno, Result};

use vfs::acting::{self, Actor};
use vfs::context::{Caller, Context, FsPaths, Limit};
use vfs::cred::Creds;
use vfs::mount::MountNamespace;
use vm::AddressSpace;

/// A task's rights, directories and limits as they were when it submitted.
pub struct Submitter {
    /// The process, for the layers that know what that is.
    pub process: Arc<dyn Any + Send + Sync>,
    /// Credentials.
    pub creds: Arc<Creds>,
    /// Root and working directory.
    pub paths: Arc<FsPaths>,
    /// File mode creation mask.
    pub umask: u32,
    /// Mount namespace.
    pub mounts: Arc<MountNamespace>,
    /// Its memory, which goes when the program does: a request may wait for ever.
    pub space: Weak<AddressSpace>,
    /// `RLIMIT_FSIZE`, `RLIMIT_NOFILE`, `RLIMIT_MEMLOCK`, `RLIMIT_LOCKS`.
    pub limits: [u64; 4],
    /// Thread group and thread.
    pub ids: (u32, u32),
    /// Identity of the descriptor table.
    pub files_id: u64,
    /// Sends a signal to the running task, if a task runs: one that does itself what it submitted.
    pub raise: fn(u32),
}

impl Submitter {
    /// Its memory; `EFAULT` once the program has ended, or is another.
    pub fn space(&self) -> Result<Arc<AddressSpace>> {
        self.space.upgrade().ok_or(Errno::EFAULT)
    }

    /// Does something on its behalf, in a thread of the kernel.
    pub fn act<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        acting::act_as(self.clone(), work)
    }

    /// The view that every VFS operation takes. Signals that an operation raises in a thread reach nobody: its
    /// error tells the same.
    pub fn context(&self) -> Context<'_> {
        Context {
            creds: &self.creds,
            root: &self.paths.root,
            cwd: &self.paths.cwd,
            umask: self.umask,
            mounts: &self.mounts,
            caller: self,
        }
    }
}

impl Actor for Submitter {
    fn process(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.process
    }

    fn creds(&self) -> &Arc<Creds> {
        &self.creds
    }
}

impl Caller for Submitter {
    fn limit(&self, limit: Limit) -> u64 {
        let [size, files, locked, locks] = self.limits;
        match limit {
            Limit::FileSize => size,
            Limit::OpenFiles => files,
            Limit::LockedMemory => locked,
            Limit::Locks => locks,
        }
    }

    fn raise(&self, signal: u32) {
        (self.raise)(signal);
    }

    fn process_id(&self) -> u32 {
        self.ids.0
    }

    fn thread_id(&self) -> u32 {
        self.ids.1
    }

    fn files_id(&self) -> u64 {
        self.files_id
    }
}
