//! Pipes and memory files.

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
    319 memfd_create => sys_memfd_create(name: Str, flags: Hex);
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

/// The longest name: `memfd:` before it makes a file name of 255 bytes.
const MEMFD_NAME_MAX: usize = 249;

/// `memfd_create(2)`; `MFD_HUGETLB` is refused as where no huge pages are configured.
fn sys_memfd_create(cx: &mut Cx<'_>, name: VirtAddr, flags: u32) -> Result<usize> {
    tmpfs::check_memfd_flags(flags)?;
    let name = user::read_cstr(name, MEMFD_NAME_MAX + 1).map_err(|error| match error {
        user::StrError::Fault => Errno::EFAULT,
        user::StrError::TooLong => Errno::EINVAL,
    })?;
    let file = tmpfs::memfd_create(&context(cx).get(), &name, flags)?;
    let cloexec =
        if flags & abi::fcntl::MFD_CLOEXEC != 0 { CloseOnExec::Yes } else { CloseOnExec::No };
    crate::fsctx::install(cx, file, cloexec)
}
