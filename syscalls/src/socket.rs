//! Socket calls of a kernel without protocol families.
//!
//! No family is registered, so a socket cannot be made and no descriptor is one. The answers are
//! those of a Linux without the families: programs that probe for one (audit, syslog, name service)
//! go on without it.

use crate::Cx;
use abi::{Errno, Result};

crate::syscalls! {
    41 socket => sys_socket(domain: Dec, kind: Hex, protocol: Dec);
    42 connect => sys_on_socket(fd: Fd);
    43 accept => sys_on_socket(fd: Fd);
    44 sendto => sys_on_socket(fd: Fd);
    45 recvfrom => sys_on_socket(fd: Fd);
    46 sendmsg => sys_on_socket(fd: Fd);
    47 recvmsg => sys_on_socket(fd: Fd);
    48 shutdown => sys_on_socket(fd: Fd);
    49 bind => sys_on_socket(fd: Fd);
    50 listen => sys_on_socket(fd: Fd);
    51 getsockname => sys_on_socket(fd: Fd);
    52 getpeername => sys_on_socket(fd: Fd);
    53 socketpair => sys_socket(domain: Dec, kind: Hex, protocol: Dec);
    54 setsockopt => sys_on_socket(fd: Fd);
    55 getsockopt => sys_on_socket(fd: Fd);
    288 accept4 => sys_on_socket(fd: Fd);
    299 recvmmsg => sys_on_socket(fd: Fd);
    307 sendmmsg => sys_on_socket(fd: Fd);
}

/// `SOCK_NONBLOCK | SOCK_CLOEXEC`.
const FLAGS: u32 = 0o2_004_000;
/// The bits of `type` that name it; every other one must be a flag.
const TYPE_MASK: u32 = 0xf;
/// One past the last socket type (`SOCK_PACKET`).
const TYPE_END: u32 = 11;

/// man 2 socket, man 2 socketpair: `EINVAL` for unknown flags or types, else `EAFNOSUPPORT`.
fn sys_socket(_: &mut Cx<'_>, _domain: i32, kind: u32, _protocol: i32) -> Result<usize> {
    if kind & !TYPE_MASK & !FLAGS != 0 || kind & TYPE_MASK >= TYPE_END {
        return Err(Errno::EINVAL);
    }
    Err(Errno::EAFNOSUPPORT)
}

/// Every other call: `EBADF` for what is not open, `ENOTSOCK` for what is.
fn sys_on_socket(cx: &mut Cx<'_>, fd: i32) -> Result<usize> {
    cx.task.files().ok_or(Errno::EBADF)?.get(fd)?;
    Err(Errno::ENOTSOCK)
}
