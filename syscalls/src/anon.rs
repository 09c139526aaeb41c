//! Pipes and the other descriptors without a file.

use crate::Cx;
use crate::fsctx::{context, files};
use abi::process::Resource;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;
use vfs::CloseOnExec;

crate::syscalls! {
    22 pipe => sys_pipe(fds: Hex);
    293 pipe2 => sys_pipe2(fds: Hex, flags: OpenFlags);
}

fn make(cx: &Cx<'_>, fds: VirtAddr, flags: u32) -> Result<usize> {
    const O_DIRECT: u32 = 0o40000;
    const O_NONBLOCK: u32 = 0o4000;
    const O_CLOEXEC: u32 = 0o2000000;
    if flags & !(O_DIRECT | O_NONBLOCK | O_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    let (reader, writer) = anon::pipe::pipe(&context(cx).get(), flags & !O_CLOEXEC)?;
    let files = files(cx)?;
    let limit = cx.task.limit(Resource::Nofile);
    let cloexec = if flags & O_CLOEXEC != 0 { CloseOnExec::Yes } else { CloseOnExec::No };
    let first = files.reserve(0, limit, cloexec)?;
    let second = match files.reserve(0, limit, cloexec) {
        Ok(second) => second,
        Err(error) => {
            files.cancel(first);
            return Err(error);
        }
    };
    if let Err(fault) = user::write_val(fds, &[first, second]) {
        files.cancel(first);
        files.cancel(second);
        return Err(fault.into());
    }
    files.install(first, reader);
    files.install(second, writer);
    Ok(0)
}

fn sys_pipe(cx: &mut Cx<'_>, fds: VirtAddr) -> Result<usize> {
    make(cx, fds, 0)
}

fn sys_pipe2(cx: &mut Cx<'_>, fds: VirtAddr, flags: u32) -> Result<usize> {
    make(cx, fds, flags)
}
