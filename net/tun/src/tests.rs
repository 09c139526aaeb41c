//! Files, devices and headers without a kernel around them.

use std::sync::mpsc::{Receiver as End, Sender, channel};
use std::sync::{Arc, Mutex, Once, OnceLock};

use abi::Errno;
use abi::poll::{POLLERR, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use abi::tun::*;
use arch::uio::{Sink, Source};
use netdevice::{
    ChecksumRequest, Chunk, Devices, Frame, Header, Interface, Offloads, Received, Receiver,
    Segmentation, flag,
};
use proptest::prelude::*;
use socket::NetNamespace;
use vfs::cred::CapSet;
use vfs::{Creds, UserNamespace};

use crate::choose::{Wanted, flow};
use crate::control::attach;
use crate::device::Tun;
use crate::file::TunFile;
use crate::wire::{self, Format};

/// What interfaces of tests deliver, by their namespace.
struct Taker;

static TAKEN: Mutex<Vec<(u64, Sender<Vec<u8>>)>> = Mutex::new(Vec::new());

impl Receiver for Taker {
    fn receive(&self, interface: &Arc<Interface>, frames: &mut dyn Iterator<Item = Received>) {
        let cookie = interface.namespace().map(|namespace| namespace.cookie);
        for frame in frames {
            let mut bytes = vec![0; frame.len()];
            frame.copy_out(0, &mut bytes);
            let taken = TAKEN.lock().unwrap();
            let to = taken.iter().find(|(namespace, _)| Some(*namespace) == cookie);
            to.unwrap().1.send(bytes).unwrap();
        }
    }
}

/// A namespace, with what arrives in it.
struct Fixture {
    namespace: Arc<NetNamespace>,
    devices: Arc<Devices>,
    arrived: End<Vec<u8>>,
}

impl Fixture {
    fn new() -> Fixture {
        static START: Once = Once::new();
        START.call_once(|| {
            frames::init_host(64 << 20);
            netdevice::set_receiver(&Taker);
        });
        let namespace = NetNamespace::new(1, users());
        let devices = namespace.part_arc::<Devices>().unwrap();
        let (sender, arrived) = channel();
        TAKEN.lock().unwrap().push((namespace.cookie, sender));
        Fixture { namespace, devices, arrived }
    }

    fn file(&self) -> TunFile {
        TunFile::new(self.namespace.clone())
    }

    /// A file of an interface that is up.
    fn open(&self, name: &str, flags: u16) -> (TunFile, Arc<Interface>) {
        let file = self.file();
        attach(&file, &root(), name, flags).unwrap();
        let interface = self.devices.by_name(name).unwrap();
        self.devices.set_flags(&interface, flag::UP, 0);
        (file, interface)
    }
}

/// Everybody's user namespace.
fn users() -> Arc<UserNamespace> {
    static USERS: OnceLock<Arc<UserNamespace>> = OnceLock::new();
    USERS.get_or_init(UserNamespace::initial).clone()
}

fn root() -> Creds {
    Creds::root(users())
}

fn somebody(uid: u32, gid: u32) -> Creds {
    let mut creds = root();
    (creds.euid, creds.egid) = (uid, gid);
    creds.effective = CapSet::EMPTY;
    creds
}

fn read(file: &TunFile, room: usize) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; room];
    let count = file.read(true, &mut Sink::kernel(&mut buffer))?;
    buffer.truncate(count);
    Ok(buffer)
}

fn write(file: &TunFile, bytes: &[u8]) -> Result<usize, Errno> {
    file.write(&mut Source::kernel(bytes))
}

fn frame(bytes: &[u8]) -> Frame {
    let mut header = Header::new();
    header.push(bytes.len()).unwrap().copy_from_slice(bytes);
    Frame { protocol: 0x0800, ..Frame::new(header, Default::default()) }
}

#[test]
fn a_stretch_is_no_longer_than_a_packet() {
    let _all = Fixture::new();
    let format = Format { is_tap: false, has_info: false, header: Some(10) };
    let is_cut = |len: usize| {
        // TCP over version 4 from 20 on, in segments of 100 bytes.
        let mut bytes = vec![1, 1, 40, 0, 100, 0, 20, 0, 16, 0, 0x45];
        bytes.resize(10 + len, 0);
        wire::take(format, &mut Source::kernel(&bytes)).unwrap().segmentation.is_some()
    };
    assert!(is_cut(65535));
    assert!(!is_cut(65535 + 19) && !is_cut(1 << 20));
}

#[test]
fn packets_pass_both_ways_with_what_stands_before_them() {
    let all = Fixture::new();
    let (file, interface) = all.open("t0", IFF_TUN);
    assert_eq!(write(&file, b"\0\0\x08\0E123"), Ok(8));
    assert_eq!(all.arrived.recv().unwrap(), b"E123");
    assert_eq!(write(&file, b"\0\0\x08"), Err(Errno::EINVAL));
    assert_eq!(read(&file, 100), Err(Errno::EAGAIN));
    interface.send(frame(b"Eabc")).unwrap();
    assert_eq!(file.events(), POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM);
    assert_eq!(read(&file, 100).unwrap(), b"\0\0\x08\0Eabc");
    interface.send(frame(b"Eabc")).unwrap();
    assert_eq!(read(&file, 0).unwrap(), b"");
    assert_eq!(read(&file, 6).unwrap(), b"\x01\0\x08\0Ea");
    interface.send(frame(b"Eabc")).unwrap();
    assert_eq!(read(&file, 3), Err(Errno::EINVAL));
    assert_eq!(read(&file, 3), Err(Errno::EAGAIN));
    let sent = &interface.counters.tx_packets;
    assert_eq!(sent.load(std::sync::atomic::Ordering::Relaxed), 2);
    all.devices.set_flags(&interface, 0, flag::UP);
    assert_eq!(write(&file, b"\0\0\x08\0E123"), Err(Errno::EIO));
    assert_eq!(file.events(), 0);
}

#[test]
fn what_is_no_packet_is_refused() {
    let all = Fixture::new();
    let (file, _) = all.open("t0", IFF_TUN | IFF_NO_PI);
    assert_eq!(write(&file, b""), Err(Errno::EINVAL));
    assert_eq!(write(&file, b"\x15xx"), Err(Errno::EINVAL));
    assert_eq!(write(&file, b"\x65xx"), Ok(3));
    let (file, _) = all.open("t1", IFF_TAP | IFF_NO_PI);
    assert_eq!(write(&file, &[0; 13]), Err(Errno::EINVAL));
    assert_eq!(write(&file, &[0; 14]), Ok(14));
    let (file, _) = all.open("t2", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    assert_eq!(write(&file, &[0; 9]), Err(Errno::EINVAL));
    assert_eq!(write(&file, &[0; 23]), Err(Errno::EINVAL));
    assert_eq!(write(&file, &[0; 24]), Ok(24));
}

#[test]
fn a_queue_is_bounded_by_its_length() {
    let all = Fixture::new();
    let (file, interface) = all.open("t0", IFF_TUN | IFF_NO_PI);
    assert_eq!(interface.tx_queue_len(), 500);
    for _ in 0..600 {
        let _ = interface.send(frame(b"E"));
    }
    let dropped = interface.counters.tx_dropped.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(dropped, 100);
    let mut count = 0;
    while read(&file, 100).is_ok() {
        count += 1;
    }
    assert_eq!(count, 500);
    interface.set_tx_queue_len(3);
    assert_eq!((0..9).filter(|_| interface.send(frame(b"E")).is_ok()).count(), 3);
}

#[test]
fn an_interface_ends_with_its_last_file_unless_it_is_to_stay() {
    let all = Fixture::new();
    let (file, interface) = all.open("t0", IFF_TUN | IFF_NO_PI);
    let second = all.file();
    assert_eq!(attach(&file, &root(), "x", IFF_TUN), Err(Errno::EEXIST));
    assert_eq!(attach(&second, &root(), "t0", IFF_TUN), Err(Errno::EBUSY));
    assert_eq!(attach(&second, &root(), "t0", IFF_TAP), Err(Errno::EINVAL));
    assert_eq!(attach(&second, &root(), "t0", IFF_TUN | IFF_MULTI_QUEUE), Err(Errno::EINVAL));
    assert_eq!(attach(&second, &root(), "t0", IFF_TUN | IFF_TUN_EXCL), Err(Errno::EBUSY));
    assert_eq!(attach(&second, &root(), "lo", IFF_TUN), Err(Errno::EINVAL));
    assert_eq!(attach(&second, &root(), "n", 0), Err(Errno::EINVAL));
    assert_eq!(interface.oper_state(), 0);
    file.tun().unwrap().set_persistent(true);
    file.close();
    assert!(all.devices.by_name("t0").is_some() && !interface.is_running());
    assert_eq!(interface.oper_state(), 2);
    attach(&second, &root(), "t0", IFF_TUN).unwrap();
    assert!(interface.is_running() && interface.oper_state() == 6);
    second.tun().unwrap().set_persistent(false);
    second.close();
    assert!(all.devices.by_name("t0").is_none());
    assert_eq!(second.events(), POLLERR);
}

#[test]
fn files_outlive_their_interface() {
    let all = Fixture::new();
    let (file, interface) = all.open("t0", IFF_TUN | IFF_NO_PI);
    interface.send(frame(b"Eabc")).unwrap();
    all.devices.remove(interface.index).unwrap();
    interface.device.as_ref().unwrap().removed();
    assert_eq!(read(&file, 10), Err(Errno::EBADFD));
    assert_eq!(write(&file, b"Eabc"), Err(Errno::EBADFD));
    assert_eq!(file.events(), POLLERR);
    assert_eq!(attach(&file, &root(), "", IFF_TUN).as_deref(), Ok("tun0"));
    assert_eq!(read(&file, 10), Err(Errno::EAGAIN));
    file.close();
    assert_eq!(all.devices.all().len(), 1);
}

#[test]
fn queues_are_shared_and_taken_out_of_service() {
    let all = Fixture::new();
    let flags = IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE;
    let (first, interface) = all.open("m0", flags);
    let second = all.file();
    attach(&second, &root(), "m0", flags).unwrap();
    let packet = |port: u8| {
        let mut bytes = [0; 28];
        (bytes[0], bytes[9], bytes[21]) = (0x45, 17, port);
        frame(&bytes)
    };
    for port in 0..100 {
        interface.send(packet(port)).unwrap();
        interface.send(packet(port)).unwrap();
    }
    let count = |file: &TunFile| std::iter::from_fn(|| read(file, 100).ok()).count();
    let counts = (count(&first), count(&second));
    assert!(counts.0 + counts.1 == 200 && counts.0 % 2 == 0 && counts.0.min(counts.1) > 20);
    let tun = first.tun().unwrap();
    tun.disable(&first.queue).unwrap();
    assert_eq!(tun.disable(&first.queue), Err(Errno::EINVAL));
    (0..100).for_each(|port| interface.send(packet(port)).unwrap());
    assert_eq!((count(&first), count(&second)), (0, 100));
    tun.enable(&first.queue).unwrap();
    assert_eq!(tun.enable(&first.queue), Err(Errno::EINVAL));
    let mut others = Vec::new();
    let refused = loop {
        let file = all.file();
        match attach(&file, &root(), "m0", flags) {
            Ok(_) => others.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!((others.len(), refused), (254, Errno::E2BIG));
    others.iter().chain([&first, &second]).for_each(TunFile::close);
    assert!(all.devices.by_name("m0").is_none());
}

#[test]
fn who_may_use_a_device() {
    let all = Fixture::new();
    let (file, _) = all.open("t0", IFF_TUN);
    let tun = file.tun().unwrap();
    tun.set_persistent(true);
    file.close();
    let may = |uid, gid| tun.may_be_used(&somebody(uid, gid));
    assert!(may(1000, 1000) && tun.may_be_used(&root()));
    tun.set_owners(|owners| owners.user = Some(1000));
    assert!(may(1000, 7) && !may(1001, 7) && tun.may_be_used(&root()));
    tun.set_owners(|owners| owners.group = Some(8));
    assert!(!may(1000, 7) && may(1000, 8) && !may(1001, 8));
    let made = attach(&all.file(), &somebody(1000, 8), "new", IFF_TUN);
    assert_eq!(made, Err(Errno::EPERM));
    let taken = all.file();
    assert_eq!(attach(&taken, &somebody(1001, 8), "t0", IFF_TUN), Err(Errno::EPERM));
    assert!(attach(&taken, &somebody(1000, 8), "t0", IFF_TUN).is_ok());
    assert!(Tun::of(&taken.interface().unwrap()).is_some());
}

#[test]
fn sums_and_segments_are_left_to_who_takes_them() {
    let all = Fixture::new();
    let (file, interface) = all.open("t0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    let offloads = || interface.device.as_ref().unwrap().offloads();
    assert_eq!(offloads(), Offloads::empty());
    let mut bytes = [0; 54];
    (bytes[12], bytes[14], bytes[23], bytes[46]) = (8, 0x45, 6, 0x50);
    let data: Vec<Chunk> = (0..4).map(|_| Chunk::from_bytes(&[7; 500]).unwrap()).collect();
    let asked = Frame {
        payload: data.into_iter().collect(),
        checksum: Some(ChecksumRequest { start: 34, offset: 16 }),
        segmentation: Some(Segmentation { is_v6: false, size: 800 }),
        ..frame(&bytes)
    };
    interface.send(asked.clone()).unwrap();
    let lens: Vec<usize> = (0..3).map(|_| read(&file, 5000).unwrap().len()).collect();
    assert_eq!(lens, [864, 864, 464]);
    let tun = file.tun().unwrap();
    let taken = TUN_F_CSUM | TUN_F_TSO4;
    tun.offloads.store(taken, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(offloads(), Offloads::CHECKSUM | Offloads::SEGMENT4);
    interface.send(asked).unwrap();
    let whole = read(&file, 5000).unwrap();
    assert_eq!(whole.len(), 2064);
    assert_eq!(whole[..10], [1, 1, 54, 0, 0x20, 3, 34, 0, 16, 0]);
}

#[test]
fn addresses_that_are_not_wanted_are_not_read() {
    let mac = |last| [2, 0, 0, 0, 0, last];
    let group = [3, 0, 0, 0, 0, 1];
    let (wanted, told) = Wanted::new(0, &[mac(1), mac(2), group]).unwrap();
    let wanted = wanted.unwrap();
    assert!(wanted.has(mac(1)) && wanted.has(group) && !wanted.has(mac(3)));
    assert!(told == 3 && !wanted.has([0xff; 6]));
    let (wanted, _) = Wanted::new(TUN_FLT_ALLMULTI, &[mac(1)]).unwrap();
    assert!(wanted.unwrap().has([0xff; 6]));
    assert!(Wanted::new(0, &[]).unwrap().0.is_none());
    let many: Vec<[u8; 6]> = (0..10).map(mac).collect();
    assert!(Wanted::new(0, &many).unwrap().0.is_none());
}

proptest! {
    #[test]
    fn no_bytes_do_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        shape in any::<[bool; 3]>(),
        header in 10usize..40,
        room in 0usize..300,
    ) {
        frames::init_host(64 << 20);
        let [is_tap, has_info, has_header] = shape;
        let format = Format { is_tap, has_info, header: has_header.then_some(header) };
        let mut source = Source::kernel(&bytes);
        if let Ok(received) = wire::take(format, &mut source) {
            prop_assert!(!is_tap || received.len() >= 14);
            let len = received.len();
            let frame = received.into_frame();
            prop_assert_eq!(frame.len(), len);
            flow(&frame.bytes(), if is_tap { 14 } else { 0 });
            let before = if has_info { 4 } else { 0 } + if has_header { header } else { 0 };
            let mut buffer = vec![0; room];
            match wire::put(format, &frame, &mut Sink::kernel(&mut buffer)) {
                Ok(count) => prop_assert_eq!(count, room.min(before + len)),
                Err(error) => prop_assert!(error == Errno::EINVAL && room < before),
            }
            let sent = netdevice::lower(frame, Offloads::empty(), 14, &mut |_| Ok(()));
            prop_assert!(matches!(sent, Ok(()) | Err(Errno::EINVAL | Errno::ENOBUFS)));
        }
    }
}
