//! What programs ask of the tree: one function per request, decoded by `syscalls`.

mod attr;
mod entries;
mod open;
mod rename;
mod xattr;

pub use attr::{
    AccessMode, NewTime, access, chdir_target, check_times, chmod, chown, set_times, statfs,
    truncate, truncate_file,
};
pub use entries::{link, link_open_file, mkdir, mknod, readlink, rmdir, symlink, unlink};
pub use open::{OpenHow, open, open_inode, open_path, tmpfile_in};
pub use rename::rename;
pub use xattr::{get_xattr, list_xattr, remove_xattr, set_xattr};

use alloc::sync::Arc;

use abi::Result;
use abi::stat::*;

use crate::acl;
use crate::context::Context;
use crate::cred::Cap;
use crate::inode::Inode;
use crate::inode_ops::NewInode;
use crate::perm::capable_towards;
use crate::types::*;

/// The owner, group and mode of something made in `dir`: set-group-id directories pass on their
/// group, and to directories the bit.
fn new_inode<'a>(
    ctx: &Context<'_>,
    dir: &Inode,
    kind: FileKind,
    mode: u32,
    rdev: DeviceNumber,
    target: &'a [u8],
) -> NewInode<'a> {
    let mut mode = mode & 0o7777;
    // A default list takes the place of the umask; links have no mode to mask.
    if kind != FileKind::Symlink && !dir.has(InodeFlags::DEFAULT_ACL) {
        mode &= !ctx.umask;
    }
    let mut gid = ctx.creds.fsgid;
    if dir.mode() & S_ISGID != 0 {
        gid = dir.gid();
        if kind == FileKind::Directory {
            mode |= S_ISGID;
        } else if mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP
            && !ctx.creds.in_group(gid)
            && !capable_towards(dir, ctx.creds, Cap::FSETID)
        {
            mode &= !S_ISGID;
        }
    }
    NewInode { kind, mode, uid: ctx.creds.fsuid, gid, rdev, target, now: Time::now() }
}

/// Makes something in a directory, with what it inherits.
fn create_in(dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
    let undo = |made: &Arc<Inode>| {
        // The first error is the one to report.
        let _ = if made.is_dir() {
            dir.ops().rmdir(dir, name, made)
        } else {
            dir.ops().unlink(dir, name, made)
        };
    };
    acl::inheriting(dir, new, |new| dir.ops().create(dir, name, new), undo)
}
