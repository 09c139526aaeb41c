//! Messages as bytes, and sockets on threads of the host.

use crate::sock::Netlink;
use crate::wire::{self, Header, Message, attributes, flag};
use abi::socket::*;
use abi::{Errno, Result};
use arch::uio::{Sink, Source};
use socket::{Address, Kind, NetNamespace, RecvMessage, SendMessage, Socket};
use std::boxed::Box;
use std::sync::Arc;
use std::thread;
use std::vec;
use std::vec::Vec;
use zerocopy::FromBytes;

#[test]
fn attributes_are_read_as_they_were_written() {
    let request = Header { seq: 7, port: 9, ..Header::default() };
    let mut message = Message::new(20, flag::MULTI, &request).with(&[1u8, 2, 3, 4]);
    message.name(3, "lo");
    message.number(4, 65536);
    message.attribute(5, &[1, 2, 3, 4, 5]);
    let bytes = message.finish();
    let (header, _) = Header::read_from_prefix(&bytes).unwrap();
    assert_eq!((header.len as usize, header.seq, header.port), (bytes.len(), 7, 9));
    let found: Vec<_> = attributes(&bytes[wire::HEADER..], 4).collect();
    let wanted: [(u16, &[u8]); 3] = [(3, b"lo\0"), (4, &[0, 0, 1, 0]), (5, &[1, 2, 3, 4, 5])];
    assert_eq!(found, wanted);
}

#[test]
fn damaged_attributes_end_the_walk() {
    for bytes in [&[0u8, 0, 1, 0][..], &[3, 0, 1, 0], &[200, 0, 1, 0, 5], &[8, 0, 1]] {
        assert_eq!(attributes(bytes, 0).count(), 0);
    }
    assert_eq!(attributes(&[4, 0, 1, 0, 9, 0, 0, 0], 0).count(), 1);
}

#[test]
fn an_error_carries_the_request() {
    let request = Header { len: 20, kind: 99, flags: 5, seq: 3, port: 4 };
    let whole = [7u8; 20];
    let refused = wire::acknowledge(&request, &whole, Some(abi::Errno::EPERM), false);
    assert_eq!(
        (refused.len(), i32::from_ne_bytes([refused[16], refused[17], refused[18], refused[19]])),
        (40, -1)
    );
    assert_eq!(wire::acknowledge(&request, &whole, None, false).len(), 36);
}

fn sockets() -> [Arc<Netlink>; 2] {
    let namespace = NetNamespace::new(7, vfs::UserNamespace::initial());
    [(); 2].map(|()| Netlink::new(&namespace, Kind::Raw, crate::ROUTE))
}

/// Receives into a buffer of `room` bytes, all that came or nothing.
fn recv(socket: &Netlink, room: usize, flags: u32) -> Result<Vec<u8>> {
    let mut bytes = vec![0; room];
    let mut message = RecvMessage { flags, ..RecvMessage::default() };
    let count = socket.recv(&mut Sink::kernel(&mut bytes), &mut message)?;
    assert_eq!(message.result_flags & MSG_TRUNC, 0);
    bytes.truncate(count);
    Ok(bytes)
}

fn send(socket: &Netlink, to: &Address, bytes: &[u8], flags: u32) -> Result<usize> {
    let mut message = SendMessage { flags, address: Some(to), ..SendMessage::default() };
    socket.send(&mut Source::kernel(bytes), &mut message)
}

/// The address of a socket, which gets a port with the first send: nothing, to the kernel.
fn address_of(socket: &Netlink) -> Address {
    let kernel = socket.peer_address().unwrap();
    assert_eq!(send(socket, &kernel, &[], 0), Ok(0));
    socket.local_address().unwrap()
}

#[test]
fn a_dump_fits_the_buffers_it_is_received_into() {
    let [socket, _] = sockets();
    for (room, pieces) in [(4096, 25..28), (1 << 16, 6..9)] {
        socket.start_dump(Box::new((0..1000).map(|_| vec![7; 100]))).unwrap();
        let refused = socket.start_dump(Box::new(core::iter::empty()));
        assert_eq!(refused, Err(Errno::EBUSY));
        let mut sizes = Vec::new();
        while let Ok(bytes) = recv(&socket, room, MSG_DONTWAIT) {
            sizes.push(bytes.len());
        }
        assert_eq!(sizes.iter().sum::<usize>(), 100_000);
        assert!(pieces.contains(&sizes.len()), "{sizes:?}");
    }
}

#[test]
fn a_sender_waits_until_the_receiver_has_room() {
    let [a, b] = sockets();
    let to = address_of(&b);
    let mut sent = 0;
    while send(&a, &to, &[0; 1000], MSG_DONTWAIT).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 92);
    assert_eq!(send(&a, &to, &[0; 1000], MSG_DONTWAIT), Err(Errno::EAGAIN));
    assert!(!b.common().has_error());
    let waits = || {
        let sender = a.clone();
        thread::spawn(move || send(&sender, &to, &[0; 1000], 0))
    };
    let waiting = waits();
    assert_eq!(recv(&b, 2000, 0).unwrap().len(), 1000);
    assert_eq!(waiting.join().unwrap(), Ok(1000));
    // One that waits is told when the receiver is closed, and one that comes later.
    let waiting = waits();
    thread::sleep(core::time::Duration::from_millis(20));
    b.release();
    assert_eq!(waiting.join().unwrap(), Err(Errno::ECONNREFUSED));
    assert_eq!(send(&a, &to, &[0; 1000], 0), Err(Errno::ECONNREFUSED));
}

#[test]
fn a_group_is_told_while_a_socket_is_its_member() {
    let [a, b] = sockets();
    let namespace = a.namespace().clone();
    let tell = || crate::multicast(&namespace, crate::ROUTE, 5, b"event");
    assert!(!tell());
    a.join(5).unwrap();
    a.join(5).unwrap();
    b.join(5).unwrap();
    assert!(tell());
    for socket in [&a, &b] {
        assert_eq!(recv(socket, 100, MSG_DONTWAIT).unwrap(), b"event");
        assert_eq!(recv(socket, 100, MSG_DONTWAIT), Err(Errno::EAGAIN));
    }
    a.leave(5).unwrap();
    assert!(tell());
    assert_eq!(recv(&a, 100, MSG_DONTWAIT), Err(Errno::EAGAIN));
    b.release();
    assert!(!tell());
}

#[test]
fn threads_that_join_and_leave_at_once_leave_nothing() {
    let [a, _] = sockets();
    let threads = [true, false].map(|joins| {
        let socket = a.clone();
        thread::spawn(move || {
            for _ in 0..10_000 {
                if joins { socket.join(9) } else { socket.leave(9) }.unwrap();
            }
        })
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    a.release();
    let members = crate::ports::of(a.namespace()).unwrap().members(crate::ROUTE, 9);
    assert!(members.is_empty());
}
