//! Frames over the loopback interface.
//!
//! What stays on this machine is handed over without frames: datagrams and messages to the socket, streams from
//! lane to lane (`tcp::direct`). Two things make frames of it:
//!
//! - **A program listens to the interface** (packet(7), tcpdump). Datagrams and messages are still handed over, and
//!   the frames that they would be are made for who listens. Connections that are *made* while somebody
//!   listens, or whose caller or listener has a filter, go over the wire's state machine (`tcp::wire`) and
//!   send real segments through [`transmit`]; connections that are there already stay as they are and are not
//!   seen. So a stream nobody looks at pays nothing, and one that is looked at is what it looks like.
//! - **A program sends a frame** to the interface (`AF_PACKET`): it comes back as from a wire.
//!
//! Segments come back in a worker, in order: who sends holds the lock of its connection, and the receiver takes
//! its own. Who sends a frame delivers it.

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use netdevice::{Chunk, Frame, Interface, Received, Spread};
use packet::Seen;
use smallvec::SmallVec;
use smoltcp::wire::Ipv4Packet;
use socket::NetNamespace;

use crate::ipout::{About, header4, header6};
use crate::stack::Inet;

static CLASS: LockClass = LockClass::new("inet.loopback", 536);

/// Frames that wait at most: more are lost, as in the queue of a device.
const MOST: usize = 1000;
/// The link's header.
const LINK: usize = 14;

#[derive(Default)]
struct Inner {
    /// With whether the protocols here made it.
    frames: VecDeque<(Frame, bool)>,
    /// A worker is on its way, or at work.
    is_served: bool,
}

/// Frames on their way through the loopback interface of a namespace.
pub(crate) struct Queue(SpinLock<Inner>);

impl Default for Queue {
    fn default() -> Self {
        Queue(SpinLock::new(&CLASS, Inner::default()))
    }
}

/// Sends a packet over the interface.
pub(crate) fn transmit(
    inet: &Inet,
    interface: &Interface,
    protocol: u16,
    mut frame: Frame,
) -> Result<()> {
    let bytes = frame.header.push(LINK).ok_or(Errno::ENOBUFS)?;
    if let Some(kind) = bytes.get_mut(12..) {
        kind.copy_from_slice(&protocol.to_be_bytes());
    }
    if packet::is_listening()
        && let Some(namespace) = inet.namespace()
    {
        let bytes = Spread { head: frame.header.bytes(), body: &[], chunks: &frame.payload };
        packet::show(&namespace, interface, &Seen::sent(bytes, LINK, false));
    }
    let len = frame.len() - LINK;
    push(inet, frame, true)?;
    interface.counters.sent(1, len);
    Ok(())
}

/// A frame of a program, the link's header included.
fn send(namespace: &Arc<NetNamespace>, _interface: &Arc<Interface>, frame: Frame) -> Result<()> {
    push(&*Inet::of(namespace).ok_or(Errno::ENETDOWN)?, frame, false)
}

fn push(inet: &Inet, frame: Frame, is_own: bool) -> Result<()> {
    let must_serve = {
        let mut inner = inet.wire.loopback.0.lock();
        if inner.frames.len() >= MOST || inner.frames.try_reserve(1).is_err() {
            return Err(Errno::ENOBUFS);
        }
        inner.frames.push_back((frame, is_own));
        !core::mem::replace(&mut inner.is_served, true)
    };
    if must_serve && is_own {
        let inet = inet.weak();
        sched::work::queue(move || {
            if let Some(inet) = inet.upgrade() {
                serve(&inet);
            }
        });
    } else if must_serve && let Some(inet) = inet.weak().upgrade() {
        serve(&inet);
    }
    Ok(())
}

/// Delivers all that waits.
fn serve(inet: &Arc<Inet>) {
    loop {
        let next = {
            let mut inner = inet.wire.loopback.0.lock();
            let next = inner.frames.pop_front();
            inner.is_served = next.is_some();
            next
        };
        let Some((frame, is_own)) = next else { return };
        let Some(interface) = inet.devices.loopback().filter(|lo| lo.is_up()) else { continue };
        let mut data: SmallVec<[Chunk; 2]> = SmallVec::new();
        let Some(head) = Chunk::from_bytes(frame.header.bytes()) else { continue };
        data.push(head);
        data.extend(frame.payload);
        let received = Received::new(data, is_own);
        let len = crate::ipin::len_of(&received.data);
        interface.counters.received(1, len.saturating_sub(LINK));
        inet.receive_frame(&interface, received);
    }
}

/// Shows the frames that a packet would be which is handed over: as it leaves, and as it comes. `transport` is the
/// beginning of its load, the rest of which is `rest`.
#[cold]
pub(crate) fn show(inet: &Inet, about: &About, transport: &[u8], rest: &Spread<'_>, has_sum: bool) {
    let (Some(namespace), Some(interface)) = (inet.namespace(), inet.devices.loopback()) else {
        return;
    };
    if !packet::is_listening_to(&namespace, interface.index) {
        return;
    }
    let len = transport.len() + rest.len();
    let mut head: SmallVec<[u8; 128]> = SmallVec::from_slice(&[0; 12]);
    if about.to.is_v4() {
        head.extend_from_slice(&[8, 0]);
        let mut own = header4(about, len);
        // A datagram that is not cut says so.
        let mut packet = Ipv4Packet::new_unchecked(&mut own[..]);
        packet.set_dont_frag(about.protocol == 17);
        packet.fill_checksum();
        head.extend_from_slice(&own);
    } else {
        head.extend_from_slice(&[0x86, 0xdd]);
        head.extend_from_slice(&header6(about, len));
    }
    head.extend_from_slice(transport);
    let bytes = Spread { head: &head, ..*rest };
    packet::show(&namespace, &interface, &Seen::sent(bytes, LINK, !has_sum));
    let came = Seen::came(bytes, &interface, false);
    packet::show(&namespace, &interface, &if has_sum { came } else { came.lacking_sum() });
}

/// Frames of programs for the interface come here.
pub(crate) fn init() {
    packet::set_loopback(send);
}
