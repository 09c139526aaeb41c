//! When a read moves the access time: `noatime`, `nodiratime`, `relatime`, `O_NOATIME`.

use abi::fcntl::O_NOATIME;
use abi::mount::*;

use crate::file::File;
use crate::inode::Inode;
use crate::mount::Mount;
use crate::types::{InodeFlags, Time};

const DAY: i64 = 24 * 60 * 60;

/// An access through an open file.
#[inline]
pub fn accessed(file: &File) {
    if file.flags() & O_NOATIME == 0 {
        touch(&file.path.mount, file.inode());
    }
}

/// An access through `mount`.
#[inline]
pub fn touch(mount: &Mount, inode: &Inode) {
    if let Some(now) = due(mount, inode) {
        inode.set_atime(now);
        inode.ops().dirty(inode);
    }
}

/// The access time that an access now is to leave, if another than there is.
#[inline]
pub(crate) fn due(mount: &Mount, inode: &Inode) -> Option<Time> {
    let flags = mount.flags();
    if flags & (MS_NOATIME | MS_RDONLY) != 0
        || inode.has(InodeFlags::NOATIME)
        || inode.sb().flags() & (MS_RDONLY | MS_NOATIME) != 0
        || (flags & MS_NODIRATIME != 0 && inode.is_dir())
    {
        return None;
    }
    let now = Time::now();
    let atime = inode.atime();
    if flags & MS_RELATIME != 0 {
        // mount(8), relatime: if older than the changes, or than a day.
        let fresh = atime > inode.mtime() && atime > inode.ctime() && now.sec - atime.sec < DAY;
        if fresh {
            return None;
        }
    }
    (atime != now).then_some(now)
}
