//! Who calls, from where: passed into every operation, never looked up.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use sched::rcu::RcuArc;

use abi::{Errno, Result};

use crate::cred::Creds;
use crate::file::File;
use crate::mount::MountNamespace;
use crate::path::Path;

/// A resource limit that file operations obey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `RLIMIT_FSIZE`.
    FileSize,
    /// `RLIMIT_NOFILE`.
    OpenFiles,
    /// `RLIMIT_MEMLOCK`.
    LockedMemory,
    /// `RLIMIT_LOCKS`.
    Locks,
}

/// The task behind a call, as far as files are concerned. `process` implements it.
pub trait Caller: Send + Sync {
    /// The soft limit of a resource.
    fn limit(&self, limit: Limit) -> u64;
    /// Sends signal `signal` to the calling thread (`SIGXFSZ`, `SIGPIPE`).
    fn raise(&self, signal: u32);
    /// The thread group's id in the caller's pid namespace: `l_pid` of locks.
    fn process_id(&self) -> u32;
    /// The thread's id in the caller's pid namespace.
    fn thread_id(&self) -> u32;
    /// Identity of the file-descriptor table: the owner of POSIX record locks.
    fn files_id(&self) -> u64;
    /// The open file behind one of its descriptors, for `ioctl`s that name one.
    fn open_file(&self, fd: i32) -> Result<Arc<File>> {
        let _ = fd;
        Err(Errno::EBADF)
    }
}

/// A caller without limits that ignores signals: the kernel itself, and tests.
#[derive(Debug)]
pub struct KernelCaller;

impl Caller for KernelCaller {
    fn limit(&self, _: Limit) -> u64 {
        u64::MAX
    }
    fn raise(&self, _: u32) {}
    fn process_id(&self) -> u32 {
        0
    }
    fn thread_id(&self) -> u32 {
        0
    }
    fn files_id(&self) -> u64 {
        0
    }
}

/// Everything an operation may need to know about its caller.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Credentials (an `Arc` because open files keep them).
    pub creds: &'a Arc<Creds>,
    /// The root directory.
    pub root: &'a Path,
    /// The working directory.
    pub cwd: &'a Path,
    /// File mode creation mask.
    pub umask: u32,
    /// The mount namespace.
    pub mounts: &'a Arc<MountNamespace>,
    /// The calling task.
    pub caller: &'a dyn Caller,
}

/// Who writes to an open file, as far as that asks: most writes ask nothing, so a task is taken as it
/// is, without a [`Context`] being made of it.
pub trait Writer {
    /// The calling task.
    fn caller(&self) -> &dyn Caller;
    /// Its credentials.
    fn creds(&self) -> Arc<Creds>;
}

impl Writer for Context<'_> {
    fn caller(&self) -> &dyn Caller {
        self.caller
    }
    fn creds(&self) -> Arc<Creds> {
        self.creds.clone()
    }
}

impl core::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Context").field("uid", &self.creds.fsuid).finish_non_exhaustive()
    }
}

/// Root and working directory together: replaced as one, so that a reader sees a pair.
#[derive(Clone, Debug)]
pub struct FsPaths {
    /// The root directory.
    pub root: Path,
    /// The working directory.
    pub cwd: Path,
}

/// How many tasks have an object as theirs. The references of its `Arc` are more while somebody looks at it.
#[derive(Debug, Default)]
pub struct Sharers(AtomicUsize);

impl Sharers {
    /// Of a new object: nobody.
    pub const fn none() -> Sharers {
        Sharers(AtomicUsize::new(0))
    }

    /// One more.
    pub fn join(&self) {
        // Relaxed: who has the object already is counted, so that it cannot become unshared meanwhile.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn leave(&self) {
        // Release: pairs with `count`, whose caller then acts as the only one.
        self.0.fetch_sub(1, Ordering::Release);
    }

    /// How many there are now.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// What tasks may have in common (`clone(2)`).
pub trait Shared {
    /// Those that do.
    fn sharers(&self) -> &Sharers;
}

/// The `fs_struct` of a task: shared between the threads that asked for it (`CLONE_FS`).
pub struct FsState {
    paths: RcuArc<FsPaths>,
    umask: AtomicU32,
    update: sched::Mutex<()>,
    sharers: Sharers,
}

impl Shared for FsState {
    fn sharers(&self) -> &Sharers {
        &self.sharers
    }
}

static FS_STATE: arch::lock::LockClass = arch::lock::LockClass::new("vfs.fs_state", 205);

impl FsState {
    /// A state with these directories and mask.
    pub fn new(paths: FsPaths, umask: u32) -> FsState {
        FsState {
            paths: RcuArc::new(Some(Arc::new(paths))),
            umask: AtomicU32::new(umask),
            update: sched::Mutex::new(&FS_STATE, ()),
            sharers: Sharers::none(),
        }
    }

    /// A private copy (fork without `CLONE_FS`).
    #[must_use]
    pub fn duplicate(&self) -> FsState {
        FsState {
            paths: RcuArc::new(self.paths.get()),
            umask: AtomicU32::new(self.umask()),
            update: sched::Mutex::new(&FS_STATE, ()),
            sharers: Sharers::none(),
        }
    }

    /// The directories at this moment; `None` never happens after construction.
    pub fn paths(&self) -> Option<Arc<FsPaths>> {
        self.paths.get()
    }

    /// Changes the directories under the update lock.
    pub fn update(&self, change: impl FnOnce(&mut FsPaths)) {
        let _held = self.update.lock();
        if let Some(old) = self.paths.get() {
            let mut new = (*old).clone();
            change(&mut new);
            self.paths.set(Some(Arc::new(new)));
        }
    }

    /// The file mode creation mask.
    pub fn umask(&self) -> u32 {
        // Relaxed: a lone number.
        self.umask.load(Ordering::Relaxed)
    }

    /// Replaces the mask and returns the old one.
    pub fn set_umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask & 0o777, Ordering::Relaxed)
    }
}

impl core::fmt::Debug for FsState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FsState").field("umask", &self.umask()).finish_non_exhaustive()
    }
}
