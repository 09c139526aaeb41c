//! Calls with one buffer: `sendto(2)` and `recvfrom(2)`.

use super::{Open, read_address, with_call, write_address};
use crate::Cx;
use crate::fsctx::{sink, source};
use abi::socket::MSG_NOSIGNAL;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::uio::Source;
use socket::{RecvMessage, SendMessage, Socket};
use vfs::Caller;

const SIGPIPE: u32 = 13;

/// Sends, and raises `SIGPIPE` where a send on a broken connection does.
#[inline]
pub(super) fn send(
    cx: &Cx<'_>,
    socket: &dyn Socket,
    source: &mut Source<'_>,
    message: &mut SendMessage<'_>,
) -> Result<usize> {
    let sent = socket.send(source, message);
    if sent == Err(Errno::EPIPE) && message.flags & MSG_NOSIGNAL == 0 && socket.raises_sigpipe() {
        cx.task.raise(SIGPIPE);
    }
    sent
}

/// `sendto(2)`.
pub(super) fn sys_sendto(
    cx: &mut Cx<'_>,
    fd: i32,
    buf: VirtAddr,
    len: usize,
    flags: u32,
    address: VirtAddr,
    address_len: i32,
) -> Result<usize> {
    let mut source = source(buf, len)?;
    let open = Open::new(cx, fd)?;
    let flags = flags | open.flags();
    let socket = open.socket()?;
    if address.is_null() {
        let mut message = SendMessage { flags, ..SendMessage::default() };
        return send(cx, socket, &mut source, &mut message);
    }
    let address = read_address(address, address_len)?;
    with_call(cx, |call| {
        let mut message = SendMessage { flags, ..SendMessage::default() };
        (message.address, message.call) = (Some(&address), Some(call));
        send(cx, socket, &mut source, &mut message)
    })
}

/// `recvfrom(2)`.
pub(super) fn sys_recvfrom(
    cx: &mut Cx<'_>,
    fd: i32,
    buf: VirtAddr,
    len: usize,
    flags: u32,
    address: VirtAddr,
    address_len: VirtAddr,
) -> Result<usize> {
    let mut sink = sink(buf, len)?;
    let open = Open::new(cx, fd)?;
    let mut message = RecvMessage {
        flags: flags | open.flags(),
        wants_address: !address.is_null(),
        ..RecvMessage::default()
    };
    let count = open.socket()?.recv(&mut sink, &mut message)?;
    if !address.is_null() {
        write_address(&message.address, address, address_len)?;
    }
    Ok(count)
}
