//! Sockets without descriptors, on threads of the host.

use alloc::sync::Arc;
use std::thread;
use std::vec;
use std::vec::Vec;

use abi::poll::*;
use abi::socket::*;
use abi::{Errno, Result};
use arch::uio::{Sink, Source};
use socket::{
    Address, Ancillary, Call, Flag, Kind, NetNamespace, RecvMessage, SendMessage, Shutdown, Socket,
};
use vfs::{Context, Creds, File, FsPaths, KernelCaller, MountNamespace, UserNamespace};

use crate::sock::Unix;

struct World {
    creds: Arc<Creds>,
    mounts: Arc<MountNamespace>,
    paths: FsPaths,
    namespace: Arc<NetNamespace>,
}

impl World {
    fn new() -> World {
        frames::init_host(64 << 20);
        let user_ns = UserNamespace::initial();
        let sb = tmpfs::create("tmpfs", tmpfs::Options::default(), (0, 0)).unwrap();
        let mounts = MountNamespace::with_root(3, user_ns.clone(), &sb, b"t", 0).unwrap();
        let root = mounts.root_path().unwrap();
        let namespace = NetNamespace::new(7, user_ns.clone());
        let creds = Arc::new(Creds::root(user_ns));
        World { creds, mounts, paths: FsPaths { root: root.clone(), cwd: root }, namespace }
    }

    fn with<R>(&self, work: impl FnOnce(&Call<'_>) -> R) -> R {
        let fs = Context {
            creds: &self.creds,
            root: &self.paths.root,
            cwd: &self.paths.cwd,
            umask: 0,
            mounts: &self.mounts,
            caller: &KernelCaller,
        };
        work(&Call { fs: &fs, namespace: &self.namespace })
    }

    fn socket(&self, kind: Kind) -> Arc<Unix> {
        Unix::new(&self.namespace, kind)
    }

    fn pair(&self, kind: Kind) -> [Arc<Unix>; 2] {
        let pair = [self.socket(kind), self.socket(kind)];
        crate::connect::join(&pair[0], &pair[1]);
        pair
    }

    fn file(&self, socket: &Arc<Unix>) -> Arc<File> {
        self.with(|call| socket::file_of(call.fs, socket.clone(), 0)).unwrap()
    }

    fn send_rights(&self, from: &Unix, files: Vec<Arc<File>>) -> Result<usize> {
        self.with(|call| {
            let control = vec![Ancillary::Rights(files)];
            let mut message = SendMessage { control, call: Some(call), ..SendMessage::default() };
            from.send(&mut Source::kernel(b"x"), &mut message)
        })
    }
}

fn named(name: &[u8]) -> Address {
    let mut bytes = AF_UNIX.to_ne_bytes().to_vec();
    bytes.extend_from_slice(name);
    Address::from_bytes(&bytes)
}

fn send(socket: &Unix, bytes: &[u8], flags: u32) -> Result<usize> {
    let mut message = SendMessage { flags, ..SendMessage::default() };
    socket.send(&mut Source::kernel(bytes), &mut message)
}

fn recv(socket: &Unix, len: usize, flags: u32) -> Result<Vec<u8>> {
    let mut buffer = vec![0; len];
    let mut message = RecvMessage { flags, ..RecvMessage::default() };
    let count = socket.recv(&mut Sink::kernel(&mut buffer), &mut message)?;
    buffer.truncate(count);
    Ok(buffer)
}

#[test]
fn bytes_of_a_stream_pass_in_order() {
    let world = World::new();
    let [a, b] = world.pair(Kind::Stream);
    assert_eq!(recv(&b, 1, MSG_DONTWAIT), Err(Errno::EAGAIN));
    assert_eq!(send(&a, b"hello ", 0), Ok(6));
    assert_eq!(send(&a, b"world", 0), Ok(5));
    assert_eq!(recv(&b, 3, MSG_PEEK).unwrap(), b"hel");
    assert_eq!(recv(&b, 100, 0).unwrap(), b"hello world");
    let big: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    assert_eq!(send(&a, &big, 0), Ok(big.len()));
    let mut back = Vec::new();
    while back.len() < big.len() {
        back.extend(recv(&b, 7777, 0).unwrap());
    }
    assert_eq!(back, big);
    a.shutdown(Shutdown::Write).unwrap();
    assert_eq!(recv(&b, 1, 0).unwrap(), b"");
    assert_eq!(send(&a, b"x", 0), Err(Errno::EPIPE));
    assert_eq!(send(&b, b"x", 0), Ok(1));
    a.release();
    assert_eq!(b.poll(None) & (POLLHUP | POLLIN), POLLHUP | POLLIN);
    assert_eq!(recv(&b, 1, 0), Err(Errno::ECONNRESET));
    assert_eq!(recv(&b, 1, 0).unwrap(), b"");
}

#[test]
fn a_full_stream_blocks_and_goes_on() {
    let world = World::new();
    let [a, b] = world.pair(Kind::Stream);
    let mut sent = 0;
    while let Ok(count) = send(&a, &[7; 4096], MSG_DONTWAIT) {
        sent += count;
    }
    assert_eq!(sent, a.sndbuf());
    assert_eq!(a.poll(None) & POLLOUT, 0);
    let writer = thread::spawn(move || {
        let count = send(&a, &[8; 10_000], 0);
        (a, count)
    });
    let mut got = 0;
    while got < sent + 10_000 {
        got += recv(&b, 5000, 0).unwrap().len();
    }
    let (a, count) = writer.join().unwrap();
    assert_eq!(count, Ok(10_000));
    assert_ne!(a.poll(None) & POLLOUT, 0);
}

#[test]
fn packets_keep_their_bounds() {
    let world = World::new();
    for kind in [Kind::Datagram, Kind::SeqPacket] {
        let [a, b] = world.pair(kind);
        for packet in [&b"one"[..], b"", &[9; 10_000]] {
            assert_eq!(send(&a, packet, 0), Ok(packet.len()));
        }
        assert_eq!(recv(&b, 2, 0).unwrap(), b"on");
        assert_eq!(recv(&b, 2, 0).unwrap(), b"");
        let mut buffer = [0; 4];
        let mut message = RecvMessage { flags: MSG_TRUNC, ..RecvMessage::default() };
        assert_eq!(b.recv(&mut Sink::kernel(&mut buffer), &mut message), Ok(10_000));
        assert_eq!((message.result_flags, buffer), (MSG_TRUNC, [9; 4]));
        assert_eq!(recv(&b, 2, MSG_DONTWAIT), Err(Errno::EAGAIN));
        assert_eq!(a.charged.load(core::sync::atomic::Ordering::Relaxed), 0);
    }
}

#[test]
fn names_lead_to_listeners() {
    let world = World::new();
    for name in [&b"/socket"[..], b"\0abstract"] {
        let address = named(name);
        let listener = world.socket(Kind::Stream);
        let client = world.socket(Kind::Stream);
        world.with(|call| {
            assert!(client.connect(call, &address, false).is_err());
            listener.bind(call, &address).unwrap();
            assert_eq!(world.socket(Kind::Stream).bind(call, &address), Err(Errno::EADDRINUSE));
            assert_eq!(client.connect(call, &address, false), Err(Errno::ECONNREFUSED));
            listener.listen(call, 1).unwrap();
            client.connect(call, &address, false).unwrap();
            assert_eq!(client.connect(call, &address, false), Err(Errno::EISCONN));
            assert_eq!(send(&client, b"early", 0), Ok(5));
            let server = listener.accept(call, false).unwrap();
            let server = Unix::of(&*server).unwrap();
            assert_eq!(recv(server, 9, 0).unwrap(), b"early");
            assert_eq!(listener.accept(call, true).err(), Some(Errno::EAGAIN));
            let waiting = [world.socket(Kind::Stream), world.socket(Kind::Stream)];
            for socket in &waiting {
                socket.connect(call, &address, true).unwrap();
            }
            let late = world.socket(Kind::Stream);
            assert_eq!(late.connect(call, &address, true), Err(Errno::EAGAIN));
            listener.release();
            assert_eq!(recv(&waiting[0], 1, 0), Err(Errno::ECONNRESET));
            assert_eq!(late.connect(call, &address, true), Err(Errno::ECONNREFUSED));
        });
    }
}

#[test]
fn credentials_keep_writers_apart() {
    let world = World::new();
    let [a, b] = world.pair(Kind::Stream);
    send(&a, b"before", 0).unwrap();
    b.common().options.set(Flag::PASSCRED, true);
    send(&a, b"after", 0).unwrap();
    send(&a, b"wards", 0).unwrap();
    assert_eq!(recv(&b, 100, 0).unwrap(), b"before");
    assert_eq!(recv(&b, 100, 0).unwrap(), b"afterwards");
}

#[test]
fn what_is_sent_before_the_accept_tells_its_sender() {
    let world = World::new();
    for kind in [Kind::Stream, Kind::SeqPacket] {
        let address = named(b"\0early");
        let [listener, client] = [world.socket(kind), world.socket(kind)];
        world.with(|call| {
            listener.bind(call, &address).unwrap();
            listener.listen(call, 1).unwrap();
            client.connect(call, &address, true).unwrap();
            send(&client, b"early", 0).unwrap();
            let server = listener.accept(call, true).unwrap();
            send(&client, b"late", 0).unwrap();
            server.common().options.set(Flag::PASSCRED, true);
            let sender = || {
                let mut message = RecvMessage { wants_control: true, ..RecvMessage::default() };
                let mut buffer = [0; 8];
                server.recv(&mut Sink::kernel(&mut buffer), &mut message).unwrap();
                match message.control.pop() {
                    Some(Ancillary::Credentials(cred)) => Some(cred.uid),
                    _ => None,
                }
            };
            assert_eq!((sender(), sender()), (Some(0), Some(65534)));
        });
    }
}

#[test]
fn what_is_lost_is_freed() {
    let world = World::new();
    let weak = {
        let [a, b] = world.pair(Kind::Stream);
        let (file_a, file_b) = (world.file(&a), world.file(&b));
        world.send_rights(&a, vec![file_a.clone(), file_b.clone()]).unwrap();
        world.send_rights(&b, vec![file_a.clone()]).unwrap();
        [Arc::downgrade(&file_a), Arc::downgrade(&file_b)]
    };
    crate::rights::collect();
    assert!(weak.iter().all(|file| file.upgrade().is_none()));
}

#[test]
fn what_can_be_reached_stays() {
    let world = World::new();
    let [a, b] = world.pair(Kind::Stream);
    let [c, d] = world.pair(Kind::Stream);
    let (_kept_a, _kept_b) = (world.file(&a), world.file(&b));
    {
        let (file_c, file_d) = (world.file(&c), world.file(&d));
        world.send_rights(&a, vec![file_c.clone(), file_d]).unwrap();
        world.send_rights(&d, vec![file_c]).unwrap();
    }
    crate::rights::collect();
    let mut message = RecvMessage { wants_control: true, ..RecvMessage::default() };
    let mut buffer = [0; 4];
    assert_eq!(b.recv(&mut Sink::kernel(&mut buffer), &mut message), Ok(1));
    let Some(Ancillary::Rights(files)) = message.control.pop() else { panic!("no descriptors") };
    assert_eq!(files.len(), 2);
    let mut inner = RecvMessage { wants_control: true, ..RecvMessage::default() };
    assert_eq!(c.recv(&mut Sink::kernel(&mut buffer), &mut inner), Ok(1));
    assert_eq!(inner.control.len(), 1);
}

#[test]
fn threads_pass_bytes_through_streams() {
    let world = World::new();
    let [a, b] = world.pair(Kind::Stream);
    let sender = thread::spawn(move || {
        let mut next = 0u8;
        for len in (1..400).map(|n| n * 37 % 5000 + 1) {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    next = next.wrapping_add(1);
                    next
                })
                .collect();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let count = send(&a, rest, 0).unwrap();
                rest = &rest[count..];
            }
        }
        a.shutdown(Shutdown::Write).unwrap();
        a
    });
    let mut expected = 0u8;
    loop {
        let bytes = recv(&b, 3000, 0).unwrap();
        if bytes.is_empty() {
            break;
        }
        for byte in bytes {
            expected = expected.wrapping_add(1);
            assert_eq!(byte, expected);
        }
    }
    drop(sender.join().unwrap());
}

#[test]
fn a_receive_of_all_takes_what_comes_meanwhile() {
    const COUNT: usize = 20_000;
    let world = World::new();
    let [a, b] = world.pair(Kind::Stream);
    let sender = thread::spawn(move || {
        for _ in 0..COUNT {
            assert_eq!(send(&a, b"x", 0), Ok(1));
        }
        a
    });
    for _ in 0..COUNT / 100 {
        assert_eq!(recv(&b, 100, MSG_WAITALL).unwrap().len(), 100);
    }
    drop(sender.join().unwrap());
}

#[test]
fn marks_in_a_stream_count_against_the_sender() {
    let world = World::new();
    let [a, b] = world.pair(Kind::Stream);
    let payload = world.file(&world.socket(Kind::Datagram));
    let mut sent = 0;
    let refused = loop {
        let outcome = world.with(|call| {
            let control = vec![Ancillary::Rights(vec![payload.clone()])];
            let flags = MSG_DONTWAIT;
            let mut message = SendMessage { flags, control, call: Some(call), address: None };
            a.send(&mut Source::kernel(b"x"), &mut message)
        });
        match outcome {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, Errno::EAGAIN);
    assert!((200..400).contains(&sent), "{sent} pages");
    assert_eq!(a.poll(None) & POLLOUT, 0);
    for _ in 0..sent {
        assert_eq!(recv(&b, 10, 0).unwrap(), b"x");
    }
    assert_eq!(recv(&b, 10, MSG_DONTWAIT), Err(Errno::EAGAIN));
    assert_ne!(a.poll(None) & POLLOUT, 0);
    assert_eq!(send(&a, &[0; 4096], MSG_DONTWAIT), Ok(4096));
}

/// A file whose last close takes long.
struct Slow(Arc<std::sync::Barrier>);

impl vfs::FileOps for Slow {
    fn release(&self, _file: &File) {
        self.0.wait();
        self.0.wait();
    }
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

#[test]
fn who_discards_does_not_wait_for_what_another_closes() {
    let world = World::new();
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let path = world.paths.root.clone();
    let slow = File::new(vfs::FileInit {
        ops: Arc::new(Slow(barrier.clone())),
        inode: path.inode().unwrap(),
        path,
        creds: world.creds.clone(),
        flags: 0,
        mode: vfs::FileMode::QUIET,
    });
    let [a, b] = world.pair(Kind::Datagram);
    world.send_rights(&a, vec![slow]).unwrap();
    let closer = thread::spawn(move || b.release());
    barrier.wait();
    // The other thread is in the middle of closing what nobody received.
    let [c, d] = world.pair(Kind::Datagram);
    let socket = world.socket(Kind::Stream);
    let file = world.file(&socket);
    world.send_rights(&c, vec![file]).unwrap();
    d.release();
    assert!(socket.has(crate::sock::DEAD));
    barrier.wait();
    closer.join().unwrap();
}

#[test]
fn a_protocol_is_looked_at_before_the_type() {
    use socket::Family;
    let family = crate::UnixFamily;
    assert_eq!(family.check_protocol(2), Err(Errno::EPROTONOSUPPORT));
    assert_eq!(family.check_protocol(i32::from(AF_UNIX)), Ok(()));
    let world = World::new();
    world.with(|call| {
        let refused = family.create(call, Kind::Rdm, 0).err();
        assert_eq!(refused, Some(Errno::ESOCKTNOSUPPORT));
    });
}

#[test]
fn options_that_are_not_for_local_sockets_are_refused() {
    let world = World::new();
    let socket = world.socket(Kind::Stream);
    let set = |name, value: i32| {
        world.with(|call| {
            let bytes = value.to_ne_bytes();
            let mut value = socket::OptionIn::new(Source::kernel(&bytes), 4);
            socket.set_socket_option(call, name, &mut value)
        })
    };
    assert_eq!(set(SO_REUSEPORT, 1), Err(Errno::EOPNOTSUPP));
    assert_eq!(set(SO_REUSEPORT, 0), Ok(()));
    assert_eq!(set(SO_ZEROCOPY, 1), Err(Errno::EOPNOTSUPP));
    for name in [SO_TIMESTAMPING_OLD, SO_TIMESTAMPING_NEW, SO_TXTIME] {
        for room in [16, 8, 4] {
            let mut bytes = [9; 16];
            let mut out = socket::OptionOut::new(Sink::kernel(&mut bytes), room);
            world.with(|call| socket.get_socket_option(call, name, &mut out)).unwrap();
            assert_eq!(out.len(), room.min(8));
            assert!(bytes[..room.min(8)].iter().all(|byte| *byte == 0));
        }
    }
}
