//! The namespaces of a task: UTS names, System V IPC and message queues, mounts, network, control
//! groups.
//!
//! An [`NsProxy`] never changes; `clone`, `unshare` and `setns` give the task another one.

use crate::cgroup::CgroupNamespace;
use crate::ipc::IpcNamespace;
use crate::pid::{PidNamespace, next_namespace_id};
use abi::process::UtsName;
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicBool, Ordering};
use socket::NetNamespace;
use spin::Once;
use vfs::context::FsPaths;
use vfs::cred::UserNamespace;
use vfs::mount::MountNamespace;
use vfs::path::Path;

static UTS_CLASS: LockClass = LockClass::new("process.uts", 648);

/// What `uname -r` says.
pub const RELEASE: &str = "5.4.0-tkernel";

/// Host and domain name (`uname(2)`).
pub struct UtsNamespace {
    /// Inode number in `/proc/PID/ns/uts`.
    pub id: u64,
    /// Who may act on it.
    pub user_ns: Arc<UserNamespace>,
    names: SpinLock<UtsName>,
}

fn field(text: &str) -> [u8; 65] {
    let mut out = [0; 65];
    let len = text.len().min(64);
    if let (Some(to), Some(from)) = (out.get_mut(..len), text.as_bytes().get(..len)) {
        to.copy_from_slice(from);
    }
    out
}

impl UtsNamespace {
    fn initial(user_ns: Arc<UserNamespace>) -> UtsNamespace {
        UtsNamespace {
            id: 0xefff_fffe,
            user_ns,
            names: SpinLock::new(
                &UTS_CLASS,
                UtsName {
                    sysname: field("Linux"),
                    nodename: field("(none)"),
                    release: field(RELEASE),
                    version: field("#1 SMP"),
                    machine: field("x86_64"),
                    domainname: field("(none)"),
                },
            ),
        }
    }

    fn duplicate(&self, user_ns: Arc<UserNamespace>) -> UtsNamespace {
        UtsNamespace {
            id: next_namespace_id(),
            user_ns,
            names: SpinLock::new(&UTS_CLASS, *self.names.lock()),
        }
    }

    /// All names.
    pub fn names(&self) -> UtsName {
        *self.names.lock()
    }

    /// Changes a name.
    pub fn update(&self, change: impl FnOnce(&mut UtsName)) {
        change(&mut self.names.lock());
    }
}

/// The namespaces of a task.
#[derive(Clone)]
pub struct NsProxy {
    /// Host names.
    pub uts: Arc<UtsNamespace>,
    /// System V IPC and POSIX message queues.
    pub ipc: Arc<IpcNamespace>,
    /// Mounts.
    pub mounts: Arc<MountNamespace>,
    /// The network.
    pub net: Arc<NetNamespace>,
    /// Control groups.
    pub cgroup: Arc<CgroupNamespace>,
}

static INITIAL: Once<Arc<NsProxy>> = Once::new();
static ROOT: Once<Arc<FsPaths>> = Once::new();

/// Makes the namespaces of the machine around its mount namespace; `root` is the root directory.
pub fn init(mounts: Arc<MountNamespace>, root: Path) -> Arc<NsProxy> {
    crate::ipc::init();
    ROOT.call_once(|| Arc::new(FsPaths { root: root.clone(), cwd: root }));
    INITIAL
        .call_once(|| {
            let user_ns = crate::creds::initial_user_ns();
            Arc::new(NsProxy {
                uts: Arc::new(UtsNamespace::initial(user_ns.clone())),
                ipc: Arc::new(IpcNamespace::new(0xefff_ffff, user_ns.clone())),
                mounts,
                net: crate::net::initial(user_ns.clone()),
                cgroup: Arc::new(CgroupNamespace::initial(user_ns.clone())),
            })
        })
        .clone()
}

/// The namespaces of the machine, once [`init`] has run.
pub fn try_initial() -> Option<&'static Arc<NsProxy>> {
    INITIAL.get()
}

/// The namespaces of the machine. A task exists only after [`init`].
pub(crate) fn initial() -> &'static Arc<NsProxy> {
    INITIAL.wait()
}

/// The directories of a task that has given up its own: the machine's root.
pub(crate) fn detached_paths() -> Arc<FsPaths> {
    ROOT.wait().clone()
}

impl NsProxy {
    /// The namespaces after `clone(2)` or `unshare(2)` with `flags`. The mount namespace is the
    /// caller's to copy, because root and working directory move along with it.
    pub fn copy(
        &self,
        flags: u64,
        user_ns: &Arc<UserNamespace>,
        mounts: Option<Arc<MountNamespace>>,
        cgroups: Option<Arc<crate::cgroup::Set>>,
    ) -> Result<NsProxy> {
        use abi::process::clone;
        let mut new = self.clone();
        if flags & clone::NEWUTS != 0 {
            new.uts = Arc::new(self.uts.duplicate(user_ns.clone()));
        }
        if flags & clone::NEWIPC != 0 {
            new.ipc = Arc::new(IpcNamespace::new(next_namespace_id(), user_ns.clone()));
        }
        if flags & clone::NEWNET != 0 {
            new.net = NetNamespace::new(next_namespace_id(), user_ns.clone());
        }
        if flags & clone::NEWCGROUP != 0 {
            new.cgroup = Arc::new(CgroupNamespace::around(cgroups, user_ns.clone()));
        }
        if let Some(mounts) = mounts {
            new.mounts = mounts;
        }
        Ok(new)
    }
}

/// Every flag that makes a namespace.
pub const NEW_ANY: u64 = {
    use abi::process::clone;
    clone::NEWNS | clone::NEWUTS | clone::NEWIPC | clone::NEWPID | clone::NEWNET | clone::NEWCGROUP
};

/// A namespace as `/proc/PID/ns/…` holds it, for `setns(2)`.
#[derive(Clone)]
pub enum Namespace {
    /// Host names.
    Uts(Arc<UtsNamespace>),
    /// System V IPC.
    Ipc(Arc<IpcNamespace>),
    /// Mounts.
    Mount(Arc<MountNamespace>),
    /// Process numbers.
    Pid(Arc<PidNamespace>),
    /// Users.
    User(Arc<UserNamespace>),
    /// Network.
    Net(Arc<NetNamespace>),
    /// Control groups.
    Cgroup(Arc<CgroupNamespace>),
}

impl Namespace {
    /// Its inode number: what tells two namespaces apart.
    pub fn id(&self) -> u64 {
        match self {
            Namespace::Uts(ns) => ns.id,
            Namespace::Ipc(ns) => ns.id,
            Namespace::Mount(ns) => ns.id,
            Namespace::Pid(ns) => ns.id,
            Namespace::User(ns) => ns.id,
            Namespace::Net(ns) => ns.id,
            Namespace::Cgroup(ns) => ns.id,
        }
    }

    /// The user namespace that owns it; a user namespace's is the one it was made in.
    pub fn owner(&self) -> Option<Arc<UserNamespace>> {
        match self {
            Namespace::Uts(ns) => Some(ns.user_ns.clone()),
            Namespace::Ipc(ns) => Some(ns.user_ns.clone()),
            Namespace::Mount(ns) => Some(ns.user_ns.clone()),
            Namespace::Pid(ns) => Some(ns.user_ns.clone()),
            Namespace::User(ns) => ns.parent.clone(),
            Namespace::Net(ns) => Some(ns.user_ns.clone()),
            Namespace::Cgroup(ns) => Some(ns.user_ns.clone()),
        }
    }

    /// Its name in `/proc/PID/ns` and in the text of the link.
    pub fn kind(&self) -> &'static str {
        match self {
            Namespace::Uts(_) => "uts",
            Namespace::Ipc(_) => "ipc",
            Namespace::Mount(_) => "mnt",
            Namespace::Pid(_) => "pid",
            Namespace::User(_) => "user",
            Namespace::Net(_) => "net",
            Namespace::Cgroup(_) => "cgroup",
        }
    }

    /// The `CLONE_NEW*` flag of its kind.
    pub fn flag(&self) -> u64 {
        use abi::process::clone;
        match self {
            Namespace::Uts(_) => clone::NEWUTS,
            Namespace::Ipc(_) => clone::NEWIPC,
            Namespace::Mount(_) => clone::NEWNS,
            Namespace::Pid(_) => clone::NEWPID,
            Namespace::User(_) => clone::NEWUSER,
            Namespace::Net(_) => clone::NEWNET,
            Namespace::Cgroup(_) => clone::NEWCGROUP,
        }
    }
}

/// man 2 unshare: `EPERM` for a new user namespace in a chroot environment, whose walls full
/// capabilities would open.
pub fn check_not_chrooted(task: &crate::task::Task) -> Result<()> {
    let context = task.vfs_context();
    let (root, top) = (&context.paths.root, context.mounts.root_path()?);
    let is_top = Arc::ptr_eq(&root.mount, &top.mount) && Arc::ptr_eq(&root.dentry, &top.dentry);
    if is_top { Ok(()) } else { Err(Errno::EPERM) }
}

/// Makes a child user namespace for a caller with `creds`; the new credentials have every
/// capability inside it.
pub fn new_user_namespace(creds: &vfs::cred::Creds) -> Result<vfs::cred::Creds> {
    if creds.user_ns.level >= 32 {
        return Err(Errno::ENOSPC);
    }
    let ns = Arc::new(UserNamespace {
        id: next_namespace_id(),
        parent: Some(creds.user_ns.clone()),
        owner: creds.euid,
        group: creds.egid,
        level: creds.user_ns.level + 1,
        uid_map: Once::new(),
        gid_map: Once::new(),
        setgroups_denied: AtomicBool::new(creds.user_ns.setgroups_denied.load(Ordering::Relaxed)),
    });
    let mut new = creds.clone();
    new.user_ns = ns;
    new.securebits = 0;
    new.inheritable = vfs::cred::CapSet::EMPTY;
    new.permitted = vfs::cred::CapSet::FULL;
    new.effective = vfs::cred::CapSet::FULL;
    new.bounding = vfs::cred::CapSet::FULL;
    new.ambient = vfs::cred::CapSet::EMPTY;
    Ok(new)
}
