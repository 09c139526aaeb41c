//! `unshare(2)` and `setns(2)`.

use crate::nsproxy::{self, NEW_ANY, Namespace, NsProxy};
use crate::pid::PidNamespace;
use crate::task::Task;
use abi::process::clone;
use abi::{Errno, Result};
use alloc::sync::Arc;
use vfs::Shared;
use vfs::context::FsPaths;
use vfs::cred::{Cap, CapSet};

/// Gives the running task its own copy of what `flags` name.
pub fn unshare(task: &Task, mut flags: u64) -> Result<()> {
    if flags & clone::NEWUSER != 0 {
        flags |= clone::THREAD | clone::FS;
    }
    if flags & clone::VM != 0 {
        flags |= clone::SIGHAND;
    }
    if flags & clone::SIGHAND != 0 {
        flags |= clone::THREAD;
    }
    if flags & clone::NEWNS != 0 {
        flags |= clone::FS;
    }
    // Threads, handlers and memory cannot be unshared, only found unshared.
    if flags & (clone::THREAD | clone::SIGHAND | clone::VM) != 0 && !task.group.is_single_threaded()
    {
        return Err(Errno::EINVAL);
    }
    let mut creds = task.creds();
    if flags & clone::NEWUSER != 0 {
        nsproxy::check_not_chrooted(task)?;
        creds = Arc::new(nsproxy::new_user_namespace(&creds)?);
    }
    if flags & NEW_ANY != 0 && !creds.ns_capable(&creds.user_ns, Cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    // Everything is made before anything is installed.
    let fs = match task.fs() {
        Some(fs) if flags & clone::FS != 0 && fs.sharers().count() > 1 => {
            Some(Arc::new(fs.duplicate()))
        }
        other => other,
    };
    let files = match task.files() {
        Some(files) if flags & clone::FILES != 0 && files.sharers().count() > 1 => {
            Some(Arc::new(files.duplicate()?))
        }
        _ => None,
    };
    let pid_ns = if flags & clone::NEWPID != 0 {
        Some(PidNamespace::create(&for_children(task), creds.user_ns.clone())?)
    } else {
        None
    };
    let old = task.ns();
    let ns = if flags & (NEW_ANY & !clone::NEWPID) != 0 {
        let mounts = match (&fs, flags & clone::NEWNS != 0) {
            (Some(fs), true) => Some(crate::copy_mounts(&old.mounts, fs, &creds)?),
            _ => None,
        };
        Some(Arc::new(old.copy(flags, &creds.user_ns, mounts, task.cgroups.get())?))
    } else {
        None
    };
    if let Some(fs) = fs {
        task.fs.set(Some(fs));
    }
    if let Some(files) = files {
        task.files.set(Some(files));
    }
    if let Some(pid_ns) = pid_ns {
        *task.pid_ns_for_children.lock() = Some(pid_ns);
    }
    if let Some(ns) = ns {
        task.ns.set(Some(ns));
    }
    if flags & clone::NEWUSER != 0 {
        task.set_creds(creds);
    }
    if flags & clone::SYSVSEM != 0 {
        crate::ipc::sem::thread_exit(task);
    }
    Ok(())
}

/// The PID namespace that children of the task are born in.
pub fn for_children(task: &Task) -> Arc<PidNamespace> {
    let changed = task.pid_ns_for_children.lock().clone();
    changed.unwrap_or_else(|| task.group.pid_ns().clone())
}

/// Moves the running task into a namespace.
pub fn enter(task: &Task, namespace: &Namespace) -> Result<()> {
    let creds = task.creds();
    let may = |ns: &Arc<vfs::cred::UserNamespace>| {
        if creds.ns_capable(ns, Cap::SYS_ADMIN) && creds.ns_capable(&creds.user_ns, Cap::SYS_ADMIN)
        {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    };
    let mut new: NsProxy = (*task.ns()).clone();
    match namespace {
        Namespace::Uts(ns) => {
            may(&ns.user_ns)?;
            new.uts = ns.clone();
        }
        Namespace::Ipc(ns) => {
            may(&ns.user_ns)?;
            new.ipc = ns.clone();
        }
        Namespace::Net(ns) => {
            may(&ns.user_ns)?;
            new.net = ns.clone();
        }
        Namespace::Cgroup(ns) => {
            may(&ns.user_ns)?;
            new.cgroup = ns.clone();
        }
        Namespace::Mount(ns) => {
            may(&ns.user_ns)?;
            if !creds.ns_capable(&creds.user_ns, Cap::SYS_CHROOT) {
                return Err(Errno::EPERM);
            }
            let fs = task.fs().ok_or(Errno::EINVAL)?;
            if fs.sharers().count() > 1 {
                return Err(Errno::EINVAL);
            }
            let root = ns.root_path()?;
            fs.update(|paths| *paths = FsPaths { root: root.clone(), cwd: root });
            new.mounts = ns.clone();
        }
        Namespace::Pid(ns) => {
            may(&ns.user_ns)?;
            if !task.group.pid_ns().contains(ns) {
                return Err(Errno::EINVAL);
            }
            *task.pid_ns_for_children.lock() = Some(ns.clone());
            return Ok(());
        }
        Namespace::User(ns) => {
            if Arc::ptr_eq(ns, &creds.user_ns) || !task.group.is_single_threaded() {
                return Err(Errno::EINVAL);
            }
            if !creds.ns_capable(ns, Cap::SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
            let mut inside = (*creds).clone();
            inside.user_ns = ns.clone();
            inside.permitted = CapSet::FULL;
            inside.effective = CapSet::FULL;
            inside.inheritable = CapSet::EMPTY;
            inside.ambient = CapSet::EMPTY;
            inside.securebits = 0;
            task.set_creds(Arc::new(inside));
            return Ok(());
        }
    }
    task.ns.set(Some(Arc::new(new)));
    Ok(())
}
