//! `unshare(2)`, `setns(2)` and host names.

use crate::Cx;
use abi::process::clone;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;
use vfs::cred::Cap;

crate::syscalls! {
    170 sethostname => sys_sethostname(name: Str, len: Dec);
    171 setdomainname => sys_setdomainname(name: Str, len: Dec);
    272 unshare => sys_unshare(flags: CloneFlags);
    308 setns => sys_setns(fd: Fd, kind: CloneFlags);
}

fn read_name(cx: &Cx<'_>, from: VirtAddr, len: i32) -> Result<[u8; 65]> {
    let uts = cx.task.ns().uts.clone();
    if !cx.task.creds().ns_capable(&uts.user_ns, Cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let len = usize::try_from(len).ok().filter(|&n| n <= 64).ok_or(Errno::EINVAL)?;
    let mut name = [0u8; 65];
    user::copy_from_user(name.get_mut(..len).ok_or(Errno::EINVAL)?, from)?;
    Ok(name)
}

fn sys_sethostname(cx: &mut Cx<'_>, name: VirtAddr, len: i32) -> Result<usize> {
    let name = read_name(cx, name, len)?;
    cx.task.ns().uts.update(|names| names.nodename = name);
    Ok(0)
}

fn sys_setdomainname(cx: &mut Cx<'_>, name: VirtAddr, len: i32) -> Result<usize> {
    let name = read_name(cx, name, len)?;
    cx.task.ns().uts.update(|names| names.domainname = name);
    Ok(0)
}

/// `unshare(2)`.
fn sys_unshare(cx: &mut Cx<'_>, flags: u64) -> Result<usize> {
    let known = process::nsproxy::NEW_ANY
        | clone::NEWUSER
        | clone::FS
        | clone::FILES
        | clone::SIGHAND
        | clone::THREAD
        | clone::VM
        | clone::SYSVSEM;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    process::namespaces::unshare(cx.task, flags)?;
    Ok(0)
}

/// `setns(2)`.
fn sys_setns(cx: &mut Cx<'_>, fd: i32, kind: u64) -> Result<usize> {
    let files = cx.task.files().ok_or(Errno::EBADF)?;
    let file = files.get(fd)?;
    let namespace =
        file.private::<process::nsfs::NamespaceFile>().map(|f| f.0.clone()).ok_or(Errno::EINVAL)?;
    if kind != 0 && kind != namespace.flag() {
        return Err(Errno::EINVAL);
    }
    process::namespaces::enter(cx.task, &namespace)?;
    Ok(0)
}
