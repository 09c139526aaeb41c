//! Sockets: `socket(2)` and its relatives.

pub(crate) mod message;
mod options;
mod transfer;

use crate::Cx;
use crate::fsctx::{context, file, files};
use abi::process::Resource;
use abi::socket::*;
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::user;
use core::sync::atomic::Ordering;
use message::{sys_recvmmsg, sys_recvmsg, sys_sendmmsg, sys_sendmsg};
use options::{sys_getsockopt, sys_setsockopt};
use socket::{Address, Call, Shutdown, Socket, socket_of};
use transfer::{sys_recvfrom, sys_sendto};
use vfs::{CloseOnExec, File};

crate::syscalls! {
    41 socket => sys_socket(domain: Dec, kind: Hex, protocol: Dec);
    42 connect => sys_connect(fd: Fd, address: Hex, len: Dec);
    43 accept => sys_accept(fd: Fd, address: Hex, len: Hex);
    44 sendto => sys_sendto(fd: Fd, buf: Data, len: Dec, flags: Hex, address: Hex, address_len: Dec);
    45 recvfrom => sys_recvfrom(fd: Fd, buf: Hex, len: Dec, flags: Hex, address: Hex, address_len: Hex);
    46 sendmsg => sys_sendmsg(fd: Fd, message: Hex, flags: Hex);
    47 recvmsg => sys_recvmsg(fd: Fd, message: Hex, flags: Hex);
    48 shutdown => sys_shutdown(fd: Fd, how: Dec);
    49 bind => sys_bind(fd: Fd, address: Hex, len: Dec);
    50 listen => sys_listen(fd: Fd, backlog: Dec);
    51 getsockname => sys_getsockname(fd: Fd, address: Hex, len: Hex);
    52 getpeername => sys_getpeername(fd: Fd, address: Hex, len: Hex);
    53 socketpair => sys_socketpair(domain: Dec, kind: Hex, protocol: Dec, fds: Hex);
    54 setsockopt => sys_setsockopt(fd: Fd, level: Dec, name: Dec, value: Hex, len: Dec);
    55 getsockopt => sys_getsockopt(fd: Fd, level: Dec, name: Dec, value: Hex, len: Hex);
    288 accept4 => sys_accept4(fd: Fd, address: Hex, len: Hex, flags: Hex);
    299 recvmmsg => sys_recvmmsg(fd: Fd, messages: Hex, count: Dec, flags: Hex, timeout: Timespec);
    307 sendmmsg => sys_sendmmsg(fd: Fd, messages: Hex, count: Dec, flags: Hex);
}

/// An open socket, which keeps its file.
struct Open {
    file: Arc<File>,
}

impl Open {
    /// `EBADF` for what is not open, `ENOTSOCK` for what is no socket.
    fn new(cx: &Cx<'_>, fd: i32) -> Result<Open> {
        let file = file(cx, fd)?;
        socket_of(&file)?;
        Ok(Open { file })
    }

    #[inline]
    fn socket(&self) -> Result<&dyn Socket> {
        socket_of(&self.file).map(|socket| &**socket)
    }

    fn is_nonblocking(&self) -> bool {
        self.file.is_nonblocking()
    }

    /// `MSG_DONTWAIT` if the file must not wait.
    #[inline]
    fn flags(&self) -> u32 {
        socket::file::blocking_flags(&self.file)
    }
}

/// Runs `work` with the caller's context.
fn with_call<R>(cx: &Cx<'_>, work: impl FnOnce(&Call<'_>) -> R) -> R {
    let (fs, namespaces) = (context(cx), cx.task.ns());
    work(&Call { fs: &fs.get(), namespace: &namespaces.net })
}

/// An address that the caller gives: `EINVAL` for a length no address has.
fn read_address(at: VirtAddr, len: i32) -> Result<Address> {
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    Address::fill(
        len,
        |bytes| {
            if bytes.is_empty() { Ok(()) } else { user::copy_from_user(bytes, at) }
        },
    )
}

/// Gives the caller an address: as much as fits in the room that `len_at` tells, and its length.
fn write_address(address: &Address, at: VirtAddr, len_at: VirtAddr) -> Result<()> {
    let room: i32 = user::read_val(len_at)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let bytes = address.bytes();
    let shown = bytes.get(..room.min(bytes.len())).unwrap_or_default();
    if !shown.is_empty() {
        user::copy_to_user(at, shown)?;
    }
    user::write_val(len_at, &(bytes.len() as i32))?;
    Ok(())
}

/// Splits flags from a type; `EINVAL` for unknown flags.
pub(crate) fn split_type(kind: u32) -> Result<(u32, u32, CloseOnExec)> {
    let flags = kind & !SOCK_TYPE_MASK;
    if flags & !(SOCK_CLOEXEC | SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let cloexec = CloseOnExec::from_flags(flags, SOCK_CLOEXEC);
    Ok((kind & SOCK_TYPE_MASK, flags & SOCK_NONBLOCK, cloexec))
}

/// `socket(2)`.
fn sys_socket(cx: &mut Cx<'_>, domain: i32, kind: u32, protocol: i32) -> Result<usize> {
    let (kind, flags, cloexec) = split_type(kind)?;
    let file = with_call(cx, |call| {
        let socket = socket::create(call, domain, kind, protocol)?;
        socket::file_of(call.fs, socket, flags)
    })?;
    crate::fsctx::install(cx, file, cloexec)
}

/// Two descriptors that are taken but mean nothing yet.
struct Reserved {
    table: Arc<vfs::FdTable>,
    fds: [u32; 2],
}

impl Reserved {
    fn new(cx: &Cx<'_>, cloexec: CloseOnExec) -> Result<Reserved> {
        let table = files(cx)?;
        let limit = cx.task.limit(Resource::Nofile);
        let first = table.reserve(0, limit, cloexec)?;
        match table.reserve(0, limit, cloexec) {
            Ok(second) => Ok(Reserved { table, fds: [first, second] }),
            Err(error) => {
                table.cancel(first);
                Err(error)
            }
        }
    }

    fn cancel(self) {
        self.fds.into_iter().for_each(|fd| self.table.cancel(fd));
    }

    fn install(self, files: [Arc<File>; 2]) {
        for (fd, file) in self.fds.into_iter().zip(files) {
            self.table.install(fd, file);
        }
    }
}

/// `socketpair(2)`.
fn sys_socketpair(
    cx: &mut Cx<'_>,
    domain: i32,
    kind: u32,
    protocol: i32,
    fds: VirtAddr,
) -> Result<usize> {
    let (kind, flags, cloexec) = split_type(kind)?;
    // The numbers are told before there are sockets: what cannot be told makes none.
    let reserved = Reserved::new(cx, cloexec)?;
    let made = user::write_val(fds, &reserved.fds).map_err(Errno::from).and_then(|()| {
        with_call(cx, |call| {
            let (first, second) = socket::create_pair(call, domain, kind, protocol)?;
            let first = socket::file_of(call.fs, first, flags);
            let second = socket::file_of(call.fs, second, flags);
            Ok([first?, second?])
        })
    });
    match made {
        Ok(files) => {
            reserved.install(files);
            Ok(0)
        }
        Err(error) => {
            reserved.cancel();
            Err(error)
        }
    }
}

/// `bind(2)`.
fn sys_bind(cx: &mut Cx<'_>, fd: i32, address: VirtAddr, len: i32) -> Result<usize> {
    let open = Open::new(cx, fd)?;
    let address = read_address(address, len)?;
    with_call(cx, |call| open.socket()?.bind(call, &address))?;
    Ok(0)
}

/// `listen(2)`: a negative backlog is a long one.
fn sys_listen(cx: &mut Cx<'_>, fd: i32, backlog: i32) -> Result<usize> {
    let open = Open::new(cx, fd)?;
    let socket = open.socket()?;
    let most = socket.common().namespace.core.somaxconn.load(Ordering::Relaxed);
    let backlog = (backlog as u32).min(most.max(0) as u32);
    with_call(cx, |call| socket.listen(call, backlog))?;
    Ok(0)
}

fn accept(cx: &Cx<'_>, fd: i32, address: VirtAddr, len: VirtAddr, flags: u32) -> Result<usize> {
    let open = Open::new(cx, fd)?;
    let table = files(cx)?;
    let cloexec = CloseOnExec::from_flags(flags, SOCK_CLOEXEC);
    let reserved = table.reserve(0, cx.task.limit(Resource::Nofile), cloexec)?;
    let made = with_call(cx, |call| {
        let socket = open.socket()?.accept(call, open.is_nonblocking())?;
        let file = socket::file_of(call.fs, socket.clone(), flags & SOCK_NONBLOCK)?;
        if !address.is_null() {
            let peer = socket.peer_address().map_err(|_| Errno::ECONNABORTED)?;
            write_address(&peer, address, len)?;
        }
        Ok(file)
    });
    match made {
        Ok(file) => {
            table.install(reserved, file);
            Ok(reserved as usize)
        }
        Err(error) => {
            table.cancel(reserved);
            Err(error)
        }
    }
}

/// `accept(2)`.
fn sys_accept(cx: &mut Cx<'_>, fd: i32, address: VirtAddr, len: VirtAddr) -> Result<usize> {
    accept(cx, fd, address, len, 0)
}

/// `accept4(2)`.
fn sys_accept4(
    cx: &mut Cx<'_>,
    fd: i32,
    address: VirtAddr,
    len: VirtAddr,
    flags: u32,
) -> Result<usize> {
    if flags & !(SOCK_CLOEXEC | SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    accept(cx, fd, address, len, flags)
}

/// `connect(2)`.
fn sys_connect(cx: &mut Cx<'_>, fd: i32, address: VirtAddr, len: i32) -> Result<usize> {
    let open = Open::new(cx, fd)?;
    let address = read_address(address, len)?;
    with_call(cx, |call| open.socket()?.connect(call, &address, open.is_nonblocking()))?;
    Ok(0)
}

/// `getsockname(2)`.
fn sys_getsockname(cx: &mut Cx<'_>, fd: i32, address: VirtAddr, len: VirtAddr) -> Result<usize> {
    let open = Open::new(cx, fd)?;
    write_address(&open.socket()?.local_address()?, address, len)?;
    Ok(0)
}

/// `getpeername(2)`.
fn sys_getpeername(cx: &mut Cx<'_>, fd: i32, address: VirtAddr, len: VirtAddr) -> Result<usize> {
    let open = Open::new(cx, fd)?;
    write_address(&open.socket()?.peer_address()?, address, len)?;
    Ok(0)
}

/// `shutdown(2)`.
fn sys_shutdown(cx: &mut Cx<'_>, fd: i32, how: u32) -> Result<usize> {
    let open = Open::new(cx, fd)?;
    open.socket()?.shutdown(Shutdown::new(how)?)?;
    Ok(0)
}
