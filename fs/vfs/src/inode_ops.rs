//! What a file system implements for its inodes: [`InodeOps`].

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use abi::{Errno, Result};

use crate::context::Context;
use crate::cred::Creds;
use crate::file::FileOps;
use crate::path::Path;
use crate::types::*;

use crate::inode::Inode;

/// What to make in a directory.
#[derive(Clone, Copy, Debug)]
pub struct NewInode<'a> {
    /// Type.
    pub kind: FileKind,
    /// Permission bits (07777), the umask already applied, set-group-id already inherited.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// For devices.
    pub rdev: DeviceNumber,
    /// For symbolic links: the target.
    pub target: &'a [u8],
    /// The time stamp of birth.
    pub now: Time,
}

impl NewInode<'static> {
    /// What stays where `moved` was (`RENAME_WHITEOUT`): a device of number 0, which hides a name below.
    pub fn whiteout(moved: &Inode) -> NewInode<'static> {
        NewInode {
            kind: FileKind::CharDevice,
            mode: 0,
            uid: moved.uid(),
            gid: moved.gid(),
            rdev: DeviceNumber::NONE,
            target: b"",
            now: Time::now(),
        }
    }
}

/// One side of a rename.
#[derive(Clone, Copy, Debug)]
pub struct RenameEnd<'a> {
    /// The directory.
    pub dir: &'a Arc<Inode>,
    /// The name in it.
    pub name: &'a [u8],
}

/// Where a symbolic link leads.
#[derive(Debug)]
pub enum Link {
    /// To a path, resolved from the link's directory.
    Text(Arc<[u8]>),
    /// Straight to an object (`/proc/PID/fd/N`, `/proc/PID/cwd`).
    Jump(Path),
}

/// What a file system does for its inodes. `self` is the file system's own part of the inode;
/// [`Inode::private`] gets it back from an inode of the same file system.
///
/// The VFS has checked permission, read-only mounts, name length and existence before it calls,
/// and holds the locks said below. Errors are passed to the program unchanged.
#[expect(unused_variables, reason = "the defaults ignore their arguments")]
pub trait InodeOps: Any + Send + Sync {
    /// Finds `name` in the directory. The directory's lock is held (shared or exclusively).
    /// Must return the same `Arc` for the same file as long as that lives (see [`InodeCache`]).
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        Err(Errno::ENOTDIR)
    }

    /// The one spelling that the dentry cache keeps of `name`, if that is there under another: so
    /// that a file has one dentry, however it is asked for. Called with
    /// [`InodeFlags::FOLDS_NAMES`], the directory's lock held, before a look-up and after a change.
    fn canonical_name(&self, dir: &Inode, name: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// Makes a file, directory, link or node. Directory locked exclusively, `name` is absent.
    /// Updates the directory's times and link count.
    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        Err(Errno::EPERM)
    }

    /// Adds a name for `target`, whose lock is held as well; raises its link count.
    fn link(&self, dir: &Arc<Inode>, name: &[u8], target: &Arc<Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes a name of something that is not a directory; lowers `victim`'s link count.
    /// Both are locked exclusively.
    fn unlink(&self, dir: &Arc<Inode>, name: &[u8], victim: &Arc<Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes a directory; `ENOTEMPTY` if it has entries. Sets its link count to zero and lowers
    /// the parent's. Both are locked exclusively.
    fn rmdir(&self, dir: &Arc<Inode>, name: &[u8], victim: &Arc<Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Renames `old` (which is `moved`) to `new` (which now is `replaced`, if anything). With
    /// `EXCHANGE` the two swap. Both directories and `replaced` are locked exclusively. A replaced
    /// directory must be empty (`ENOTEMPTY`).
    fn rename(
        &self,
        old: RenameEnd<'_>,
        moved: &Arc<Inode>,
        new: RenameEnd<'_>,
        replaced: Option<&Arc<Inode>>,
        flags: RenameFlags,
    ) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// An inode without a name (`O_TMPFILE`): link count zero.
    fn tmpfile(&self, dir: &Arc<Inode>, new: &NewInode<'_>) -> Result<Arc<Inode>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Where a symbolic link leads. Called while walking: must be cheap when cached.
    fn follow(&self, inode: &Arc<Inode>, ctx: &Context<'_>) -> Result<Link> {
        Err(Errno::EINVAL)
    }

    /// The text of a symbolic link if it is at hand. Asked under RCU: must not wait. Without it, or with
    /// `None`, the walk leaves RCU and asks [`InodeOps::follow`].
    fn link_text(&self) -> Option<Arc<[u8]>> {
        None
    }

    /// The text `readlink(2)` returns; the default is the text of [`InodeOps::follow`].
    fn readlink(&self, inode: &Arc<Inode>, ctx: &Context<'_>) -> Result<Arc<[u8]>> {
        match self.follow(inode, ctx)? {
            Link::Text(text) => Ok(text),
            Link::Jump(path) => Ok(crate::dpath::describe(&path, ctx.root).into()),
        }
    }

    /// Whether `name`, which the dentry cache says is `child`, still is. Asked when the directory
    /// has [`InodeFlags::REVALIDATE`]; must not sleep. `false` drops the dentry.
    fn revalidate(&self, dir: &Inode, name: &[u8], child: Option<&Inode>) -> bool {
        true
    }

    /// Fills in what the inode does not keep itself. Called with [`InodeFlags::OWN_GETATTR`].
    fn getattr(&self, inode: &Inode, attr: &mut Attr) -> Result<()> {
        Ok(())
    }

    /// Changes attributes; permission is checked, set-id bits are dealt with. The inode is locked
    /// exclusively. The default suits file systems in memory.
    fn setattr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        if let Some(size) = change.size {
            match inode.mapping() {
                Some(mapping) => mapping.truncate(size)?,
                None => inode.set_size(size),
            }
        }
        inode.apply(change);
        Ok(())
    }

    /// Told that a time stamp changed in the inode (reads and writes do that without `setattr`).
    fn dirty(&self, inode: &Inode) {}

    /// A permission rule of its own. Called with [`InodeFlags::OWN_PERMISSION`].
    fn permission(&self, inode: &Inode, access: Access, creds: &Creds) -> Result<()> {
        crate::perm::generic_permission(inode, access, creds)
    }

    /// Whether `creds`, who do not own the file, may all the same set its times to others than now.
    fn may_set_times(&self, inode: &Inode, creds: &Creds) -> bool {
        false
    }

    /// The value of an extended attribute, by full name (`user.x`): copies what fits into `value`
    /// and returns the whole length; an empty `value` asks for the length.
    fn get_xattr(&self, inode: &Arc<Inode>, name: &[u8], value: &mut Vec<u8>) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Sets an extended attribute; `flags` are `XATTR_CREATE` and `XATTR_REPLACE`.
    fn set_xattr(&self, inode: &Arc<Inode>, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Removes an extended attribute; `ENODATA` if there is none.
    fn remove_xattr(&self, inode: &Arc<Inode>, name: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Appends the NUL-terminated names of all extended attributes.
    fn list_xattr(&self, inode: &Arc<Inode>, names: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    /// What an open of this inode works with. Called for regular files and directories (and for
    /// what the file system makes itself); device nodes, fifos and sockets go elsewhere.
    /// Should hand out one shared object per inode: an open then costs a reference count.
    fn open(&self, inode: &Arc<Inode>, flags: u32, ctx: &Context<'_>) -> Result<Arc<dyn FileOps>> {
        Err(Errno::ENXIO)
    }

    /// The last user of an inode without links has gone: free what it occupied.
    fn evict(&self, inode: &Arc<Inode>) {}

    /// Bytes that name this inode for `name_to_handle_at(2)`; `None` where that is unsupported.
    fn file_handle(&self, inode: &Arc<Inode>) -> Option<(i32, Vec<u8>)> {
        None
    }

    /// For downcasts to the file system's own type.
    fn as_any(&self) -> &dyn Any;
}
