//! Frames that programs send.

use alloc::sync::Arc;

use abi::{Errno, Result};
use arch::uio::Source;
use netdevice::{Chunk, Devices, Frame, Header, Interface, Spread};
use smallvec::SmallVec;
use socket::{Kind, NetNamespace, SendMessage};
use spin::Once;

use crate::capture::LinkAddress;
use crate::sock::PacketSocket;
use crate::table::{self, Seen};

/// The link's header.
const LINK: usize = 14;
/// A tag that makes a frame longer than the MTU says.
const TAG: usize = 4;

/// Takes frames for the loopback interface.
type Loopback = fn(&Arc<NetNamespace>, &Arc<Interface>, Frame) -> Result<()>;

static LOOPBACK: Once<Loopback> = Once::new();

/// Says who takes frames that are sent to the loopback interface.
pub fn set_loopback(taker: Loopback) {
    LOOPBACK.call_once(|| taker);
}

/// The interface, the protocol and the receiver's hardware address of a message.
fn target(
    socket: &PacketSocket,
    message: &SendMessage<'_>,
) -> Result<(Arc<Interface>, u16, LinkAddress)> {
    let bound = socket.bound();
    let (index, protocol, address) = match message.address {
        None => (bound.index, bound.protocol, LinkAddress::default()),
        Some(given) => {
            let address: LinkAddress = given.read()?;
            if given.len() < 12 + usize::from(address.len) {
                return Err(Errno::EINVAL);
            }
            (address.index as u32, u16::from_be(address.protocol), address)
        }
    };
    let devices = socket.devices()?;
    let interface = devices.by_index(index).ok_or(Errno::ENXIO)?;
    if !interface.is_up() {
        return Err(Errno::ENETDOWN);
    }
    Ok((interface, protocol, address))
}

/// `send(2)` and its relatives.
pub(crate) fn send(
    socket: &PacketSocket,
    source: &mut Source<'_>,
    message: &SendMessage<'_>,
) -> Result<usize> {
    let (interface, protocol, address) = target(socket, message)?;
    let len = source.remaining();
    // Without a link's header both kinds of sockets send packets as they are.
    let is_raw = socket.common.kind == Kind::Raw && interface.has_address();
    let most = interface.mtu() as usize + if is_raw { LINK } else { 0 };
    if len > most + if is_raw { TAG } else { 0 } {
        return Err(Errno::EMSGSIZE);
    }
    let mut header = Header::new();
    let room = header.push(interface.link_len()).ok_or(Errno::ENOBUFS)?;
    if is_raw {
        if len < LINK {
            return Err(Errno::EINVAL);
        }
        source.take_all(room)?;
        // A tag makes a frame longer; nothing else does.
        if len > most && !matches!(room.get(12..), Some([0x81, 0])) {
            return Err(Errno::EMSGSIZE);
        }
    } else if interface.has_address() {
        let (to, rest) = room.split_at_mut(6);
        let (from, kind) = rest.split_at_mut(6);
        if message.address.is_some() {
            to.iter_mut().zip(address.mac).for_each(|(to, from)| *to = from);
        }
        from.copy_from_slice(&interface.mac());
        kind.copy_from_slice(&protocol.to_be_bytes());
    }
    let mut payload: SmallVec<[Chunk; 4]> = SmallVec::new();
    while let Some(chunk) = Chunk::from_source(source)? {
        let is_short = chunk.len() < 4096 && !source.is_empty();
        payload.push(chunk);
        if is_short {
            return Err(Errno::EFAULT);
        }
    }
    let mut frame = Frame::new(header, payload);
    frame.protocol = protocol;
    transmit(socket, &interface, frame)?;
    Ok(len)
}

fn transmit(socket: &PacketSocket, interface: &Arc<Interface>, frame: Frame) -> Result<()> {
    let namespace = &socket.common.namespace;
    let total = frame.len();
    if table::is_listening() {
        let bytes = Spread { head: frame.header.bytes(), body: &[], chunks: &frame.payload };
        let seen = Seen::sent(bytes, interface.link_len(), false).of_protocol(frame.protocol);
        table::show_but(namespace, interface, &seen, Some(socket));
    }
    if !interface.is_loopback() {
        return interface.send(frame);
    }
    let sent = LOOPBACK.get().ok_or(Errno::ENETDOWN)?(namespace, interface, frame);
    match sent {
        Ok(()) => interface.counters.sent(1, total),
        Err(_) => {
            // Relaxed: a counter.
            interface.counters.tx_dropped.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
    }
    sent
}

impl PacketSocket {
    /// The interfaces of its namespace.
    pub(crate) fn devices(&self) -> Result<Arc<Devices>> {
        self.common.namespace.part_arc::<Devices>().ok_or(Errno::ENODEV)
    }
}
