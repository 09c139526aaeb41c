//! `NETLINK_SOCK_DIAG` (sock_diag(7)) of local sockets: what `ss -x` shows.

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::socket::AF_UNIX;
use abi::{Errno, Result};
use unix::Shown;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::kernel::{Outcome, Request};
use crate::sock::Netlink;
use crate::wire::{Header, Message, flag};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SHOW_NAME: u32 = 1;
const SHOW_PEER: u32 = 4;
const SHOW_RQLEN: u32 = 16;
const ESTABLISHED: u8 = 1;
const CLOSED: u8 = 7;
const LISTENING: u8 = 10;

/// `struct unix_diag_req`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct UnixRequest {
    family: u8,
    protocol: u8,
    pad: u16,
    states: u32,
    ino: u32,
    show: u32,
    cookie: [u32; 2],
}

/// `struct unix_diag_msg`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct UnixMessage {
    family: u8,
    kind: u8,
    state: u8,
    pad: u8,
    ino: u32,
    cookie: [u32; 2],
}

fn state_of(shown: &Shown) -> u8 {
    match (shown.is_listening, shown.is_connected) {
        (true, _) => LISTENING,
        (_, true) => ESTABLISHED,
        _ => CLOSED,
    }
}

fn encode(shown: &Shown, show: u32, flags: u16, request: &Header) -> Vec<u8> {
    let body = UnixMessage {
        family: AF_UNIX as u8,
        kind: shown.kind as u8,
        state: state_of(shown),
        pad: 0,
        ino: shown.ino as u32,
        cookie: [shown.cookie as u32, (shown.cookie >> 32) as u32],
    };
    let mut out = Message::new(SOCK_DIAG_BY_FAMILY, flags, request).with(&body);
    if let Some(name) = shown.name.filter(|_| show & SHOW_NAME != 0) {
        // A path without its NUL, an abstract name as it is.
        let name = name.bytes().get(2..).unwrap_or_default();
        let name =
            if name.first() == Some(&0) { name } else { name.strip_suffix(&[0]).unwrap_or(name) };
        out.attribute(0, name);
    }
    if show & SHOW_PEER != 0 && shown.peer_ino != 0 {
        out.number(2, shown.peer_ino as u32);
    }
    if show & SHOW_RQLEN != 0 {
        out.attribute(4, [shown.waiting as u32, 0].as_bytes());
    }
    out.attribute(6, &[0]);
    out.finish()
}

/// Serves a request of sock_diag.
pub(crate) fn serve(socket: &Netlink, request: &Request<'_>) -> Result<Outcome> {
    if request.header.kind != SOCK_DIAG_BY_FAMILY {
        return Err(Errno::EINVAL);
    }
    let family = request.payload.first().copied().ok_or(Errno::EINVAL)?;
    if u16::from(family) != AF_UNIX {
        return Err(Errno::ENOENT);
    }
    let wanted: UnixRequest = request.read()?;
    let header = request.header;
    if request.is_dump() {
        let mut sockets = unix::sockets(socket.namespace());
        sockets.retain(|shown| shown.ino != 0 && wanted.states & 1 << state_of(shown) != 0);
        let messages =
            sockets.into_iter().map(move |shown| encode(&shown, wanted.show, flag::MULTI, &header));
        return Ok(Outcome::Dump(Box::new(messages)));
    }
    if wanted.ino == 0 {
        return Err(Errno::EINVAL);
    }
    let found = unix::find(socket.namespace(), wanted.ino.into()).ok_or(Errno::ENOENT)?;
    Ok(Outcome::Answer([encode(&found, wanted.show, 0, &header)].to_vec()))
}
