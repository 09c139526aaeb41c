//! The files behind `/proc/PID/ns/*`: each stands for a namespace and keeps it alive.
//!
//! The inode number is the namespace's, so that two links to one namespace are the same file, as
//! namespaces(7) promises.

use crate::nsproxy::Namespace;
use abi::fcntl::O_RDONLY;
use abi::{Errno, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use core::any::Any;
use spin::Once;
use vfs::{
    Context, Dentry, File, FileInit, FileMode, FileOps, FsStat, Inode, InodeInit, InodeOps, Mount,
    Path, SuperBlock, SuperInit, SuperOps,
};

const NSFS_MAGIC: u64 = 0x6e73_6673;

/// man 2 ioctl_ns.
mod request {
    pub(super) const GET_USERNS: u32 = 0xb701;
    pub(super) const GET_PARENT: u32 = 0xb702;
    pub(super) const GET_NSTYPE: u32 = 0xb703;
    pub(super) const GET_OWNER_UID: u32 = 0xb704;
}

struct Super;

impl SuperOps for Super {
    fn statfs(&self, _sb: &SuperBlock) -> Result<FsStat> {
        Ok(FsStat { magic: NSFS_MAGIC, block_size: 4096, name_max: 255, ..FsStat::default() })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An inode or open file that stands for a namespace; `setns(2)` finds it by this type.
pub struct NamespaceFile(pub Namespace);

struct Place(Namespace);

impl InodeOps for Place {
    fn open(&self, _: &Arc<Inode>, flags: u32, _: &Context<'_>) -> Result<Arc<dyn FileOps>> {
        if flags & abi::fcntl::O_ACCMODE != O_RDONLY {
            return Err(Errno::EPERM);
        }
        Ok(Arc::new(NamespaceFile(self.0.clone())))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn mount() -> Result<&'static Arc<Mount>> {
    static MOUNT: Once<Arc<Mount>> = Once::new();
    MOUNT.try_call_once(|| {
        let sb = SuperBlock::new(SuperInit::pseudo("nsfs", NSFS_MAGIC), Box::new(Super));
        struct Root;
        impl InodeOps for Root {
            fn as_any(&self) -> &dyn Any {
                self
            }
        }
        sb.set_root(Inode::new(&sb, &InodeInit::pseudo(1, 0o040555), Arc::new(Root), None));
        Mount::internal(&sb)
    })
}

/// The place of a namespace: what a link of `/proc/PID/ns` leads to.
pub fn path(namespace: &Namespace) -> Result<Path> {
    let mount = mount()?;
    let init = InodeInit::pseudo(namespace.id(), 0o100444);
    let inode = Inode::new(&mount.sb, &init, Arc::new(Place(namespace.clone())), None);
    let dentry = Dentry::new_disconnected(inode, text(namespace).as_bytes());
    Ok(Path { mount: mount.clone(), dentry })
}

/// The text of the link, `uts:[4026531838]`.
pub fn text(namespace: &Namespace) -> alloc::string::String {
    format!("{}:[{}]", namespace.kind(), namespace.id())
}

impl NamespaceFile {
    /// A descriptor of the running task for another namespace.
    pub(crate) fn open_other(ctx: &Context<'_>, namespace: Namespace) -> Result<usize> {
        vfs::filecount::check(ctx.creds)?;
        let path = path(&namespace)?;
        let inode = path.dentry.inode().ok_or(Errno::ENOENT)?;
        let file = File::new(FileInit {
            ops: Arc::new(NamespaceFile(namespace)),
            inode,
            path,
            creds: ctx.creds.clone(),
            flags: O_RDONLY,
            mode: FileMode::empty(),
        });
        let task = crate::try_current().ok_or(Errno::EBADF)?;
        let files = task.files().ok_or(Errno::EBADF)?;
        let limit = task.group.limits.soft(abi::process::Resource::Nofile);
        Ok(files.add(file, 0, limit, vfs::fdtable::CloseOnExec::Yes)? as usize)
    }

    /// The parent, for the two kinds that form a tree; only as far as the caller's own reaches.
    fn parent(&self, ctx: &Context<'_>) -> Result<Namespace> {
        let parent = match &self.0 {
            Namespace::Pid(ns) => ns.parent.clone().map(Namespace::Pid),
            Namespace::User(ns) => ns.parent.clone().map(Namespace::User),
            _ => return Err(Errno::EINVAL),
        };
        let parent = parent.ok_or(Errno::EPERM)?;
        let is_visible = match &parent {
            Namespace::Pid(ns) => {
                let task = crate::try_current().ok_or(Errno::EPERM)?;
                task.group.pid_ns().contains(ns)
            }
            Namespace::User(ns) => ctx.creds.user_ns.is_or_contains(ns),
            _ => true,
        };
        if is_visible { Ok(parent) } else { Err(Errno::EPERM) }
    }
}

impl FileOps for NamespaceFile {
    /// man 2 ioctl_ns.
    fn ioctl(&self, _: &Arc<File>, ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        match cmd {
            request::GET_NSTYPE => Ok(self.0.flag() as usize),
            request::GET_USERNS => {
                let owner = self.0.owner().ok_or(Errno::EPERM)?;
                if !ctx.creds.user_ns.is_or_contains(&owner) {
                    return Err(Errno::EPERM);
                }
                Self::open_other(ctx, Namespace::User(owner))
            }
            request::GET_PARENT => Self::open_other(ctx, self.parent(ctx)?),
            request::GET_OWNER_UID => {
                let Namespace::User(ns) = &self.0 else { return Err(Errno::EINVAL) };
                let uid = ctx.creds.user_ns.uid_in(ns.owner);
                arch::user::write_val(arch::VirtAddr(arg as u64), &uid)?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
