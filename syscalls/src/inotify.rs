//! inotify. `fanotify_init(2)` is `ENOSYS`, as without `CONFIG_FANOTIFY`.

use crate::Cx;
use crate::event::cloexec;
use crate::fsctx::{any_file, context, install, read_path};
use abi::fcntl::{O_CLOEXEC, O_NONBLOCK};
use abi::inotify::{IN_ALL_EVENTS, IN_DONT_FOLLOW, IN_MASK_ADD, IN_MASK_CREATE, IN_ONLYDIR};
use abi::{Errno, Result};
use anon::inotify;
use arch::VirtAddr;
use vfs::{Walk, walk};

crate::syscalls! {
    253 inotify_init => sys_inotify_init();
    254 inotify_add_watch => sys_inotify_add_watch(fd: Fd, path: Path, mask: Hex);
    255 inotify_rm_watch => sys_inotify_rm_watch(fd: Fd, wd: Dec);
    294 inotify_init1 => sys_inotify_init1(flags: OpenFlags);
}

fn sys_inotify_init(cx: &mut Cx<'_>) -> Result<usize> {
    sys_inotify_init1(cx, 0)
}

fn sys_inotify_init1(cx: &mut Cx<'_>, flags: u32) -> Result<usize> {
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = inotify::create(&context(cx).get(), flags & O_NONBLOCK)?;
    install(cx, file, cloexec(flags))
}

/// `inotify_add_watch(2)`. Bits that mean nothing are `EINVAL`.
fn sys_inotify_add_watch(cx: &mut Cx<'_>, fd: i32, path: VirtAddr, mask: u32) -> Result<usize> {
    const KNOWN: u32 = IN_ALL_EVENTS | 0xf700_e000;
    if mask & !KNOWN != 0 || mask == 0 {
        return Err(Errno::EINVAL);
    }
    if mask & IN_MASK_ADD != 0 && mask & IN_MASK_CREATE != 0 {
        return Err(Errno::EINVAL);
    }
    let file = any_file(cx, fd)?;
    let instance = inotify::inotify_of(&file)?;
    let name = read_path(path, false)?;
    let mut how = Walk::empty();
    how.set(Walk::FOLLOW, mask & IN_DONT_FOLLOW == 0);
    how.set(Walk::DIRECTORY, mask & IN_ONLYDIR != 0);
    let context = context(cx);
    let ctx = context.get();
    let inode = walk(&ctx, ctx.cwd, &name, how)?.inode()?;
    vfs::perm::permission(&inode, vfs::Access::READ, ctx.creds)?;
    Ok(instance.add(inode, mask)? as usize)
}

fn sys_inotify_rm_watch(cx: &mut Cx<'_>, fd: i32, wd: i32) -> Result<usize> {
    let file = any_file(cx, fd)?;
    inotify::inotify_of(&file)?.remove(wd)?;
    Ok(0)
}
