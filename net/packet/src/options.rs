//! Options of `SOL_PACKET`, and memberships.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use abi::{Errno, Result};
use socket::{OptionIn, OptionOut};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::ring::{Request, RxRing, Version};
use crate::sock::PacketSocket;

const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
const RX_RING: i32 = 5;
const STATISTICS: i32 = 6;
const COPY_THRESH: i32 = 7;
pub(crate) const AUXDATA: i32 = 8;
const ORIGDEV: i32 = 9;
const VERSION: i32 = 10;
const HDRLEN: i32 = 11;
const RESERVE: i32 = 12;
const LOSS: i32 = 14;
const VNET_HDR: i32 = 15;
const FANOUT: i32 = 18;
const TX_HAS_OFF: i32 = 19;
const ROLLOVER_STATS: i32 = 21;
const TIMESTAMP: i32 = 17;
const QDISC_BYPASS: i32 = 20;
const IGNORE_OUTGOING: i32 = 23;

const MR_MULTICAST: u16 = 0;
const MR_PROMISC: u16 = 1;
const MR_UNICAST: u16 = 3;

const WANTS_AUXILIARY: u32 = 1;
const WANTS_ORIGIN: u32 = 2;
const LOSES: u32 = 4;
const BYPASSES: u32 = 8;
const IGNORES_OUTGOING: u32 = 16;

/// The options; lone numbers.
#[derive(Default)]
pub(crate) struct Settings {
    flags: AtomicU32,
    copy_thresh: AtomicI32,
    version: AtomicI32,
    reserve: AtomicU32,
    timestamp: AtomicI32,
}

impl Settings {
    #[inline]
    fn has(&self, flag: u32) -> bool {
        // Relaxed here and below: each is a lone number.
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    fn set(&self, flag: u32, on: bool) {
        if on {
            self.flags.fetch_or(flag, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!flag, Ordering::Relaxed);
        }
    }

    pub(crate) fn wants_auxiliary(&self) -> bool {
        self.has(WANTS_AUXILIARY)
    }

    pub(crate) fn ignores_outgoing(&self) -> bool {
        self.has(IGNORES_OUTGOING)
    }
}

/// `struct packet_mreq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Membership {
    index: i32,
    kind: u16,
    len: u16,
    mac: [u8; 8],
}

/// What a socket is a member of, with how often it said so.
#[derive(Default)]
pub(crate) struct Memberships(Vec<(Membership, u32)>);

fn apply(socket: &PacketSocket, member: &Membership, by: i32) {
    let Ok(devices) = socket.devices() else { return };
    if let Some(interface) = devices.by_index(member.index as u32)
        && member.kind == MR_PROMISC
    {
        interface.change_promiscuity(by);
    }
}

fn add_membership(socket: &PacketSocket, member: Membership) -> Result<()> {
    let devices = socket.devices()?;
    devices.by_index(member.index as u32).ok_or(Errno::ENODEV)?;
    // Every link here has addresses of six bytes.
    if member.len > 6 {
        return Err(Errno::EINVAL);
    }
    if matches!(member.kind, MR_MULTICAST | MR_UNICAST) && member.len != 6 {
        return Err(Errno::EINVAL);
    }
    let mut memberships = socket.control.lock();
    if let Some((_, count)) = memberships.0.iter_mut().find(|(other, _)| is_same(other, &member)) {
        *count += 1;
        return Ok(());
    }
    memberships.0.try_reserve(1).map_err(|_| Errno::ENOBUFS)?;
    memberships.0.push((member, 1));
    apply(socket, &member, 1);
    Ok(())
}

fn is_same(a: &Membership, b: &Membership) -> bool {
    let len = usize::from(a.len);
    (a.index, a.kind, a.len) == (b.index, b.kind, b.len) && a.mac.get(..len) == b.mac.get(..len)
}

fn drop_membership(socket: &PacketSocket, member: &Membership) -> Result<()> {
    if usize::from(member.len) > member.mac.len() {
        return Err(Errno::EINVAL);
    }
    let mut memberships = socket.control.lock();
    let found = memberships.0.iter().position(|(other, _)| is_same(other, member));
    // Who is no member has nothing to leave, as on Linux.
    let Some(at) = found else { return Ok(()) };
    let Some((_, count)) = memberships.0.get_mut(at) else { return Ok(()) };
    *count -= 1;
    if *count == 0 {
        memberships.0.swap_remove(at);
        apply(socket, member, -1);
    }
    Ok(())
}

/// The socket goes: it is a member of nothing.
pub(crate) fn drop_all(socket: &PacketSocket, memberships: &mut Memberships) {
    for (member, _) in memberships.0.drain(..) {
        apply(socket, &member, -1);
    }
}

fn make_ring(socket: &PacketSocket, value: &mut OptionIn<'_>) -> Result<()> {
    let version = Version::new(socket.settings.version.load(Ordering::Relaxed))?;
    let request: Request = if version == Version::V3 {
        value.read()?
    } else {
        let [block_size, block_nr, frame_size, frame_nr]: [u32; 4] = value.read()?;
        Request { block_size, block_nr, frame_size, frame_nr, ..Request::default() }
    };
    let _turn = socket.control.lock();
    let is_busy = |ring: &RxRing| ring.is_mapped() || request.block_nr != 0;
    if socket.queue.lock().ring.as_ref().is_some_and(is_busy) {
        return Err(Errno::EBUSY);
    }
    let reserve = socket.settings.reserve.load(Ordering::Relaxed) as usize;
    let ring = RxRing::new(&request, version, reserve)?;
    let old = core::mem::replace(&mut socket.queue.lock().ring, ring);
    drop(old);
    // What came before is not in the ring, and is not to be received.
    socket.forget();
    Ok(())
}

/// Sets an option.
pub(crate) fn set(socket: &PacketSocket, name: i32, value: &mut OptionIn<'_>) -> Result<()> {
    let settings = &socket.settings;
    let has_ring = || socket.queue.lock().ring.is_some();
    match name {
        ADD_MEMBERSHIP => add_membership(socket, value.read()?)?,
        DROP_MEMBERSHIP => drop_membership(socket, &value.read()?)?,
        RX_RING => make_ring(socket, value)?,
        COPY_THRESH => settings.copy_thresh.store(exact(value)?, Ordering::Relaxed),
        VERSION => {
            let version = exact(value)?;
            Version::new(version)?;
            let _turn = socket.control.lock();
            if has_ring() {
                return Err(Errno::EBUSY);
            }
            settings.version.store(version, Ordering::Relaxed);
        }
        RESERVE => {
            let reserve = exact(value)? as u32;
            if reserve > i32::MAX as u32 {
                return Err(Errno::EINVAL);
            }
            let _turn = socket.control.lock();
            if has_ring() {
                return Err(Errno::EBUSY);
            }
            settings.reserve.store(reserve, Ordering::Relaxed);
        }
        LOSS => {
            let on = exact(value)? != 0;
            if has_ring() {
                return Err(Errno::EBUSY);
            }
            settings.set(LOSES, on);
        }
        AUXDATA => settings.set(WANTS_AUXILIARY, value.int()? != 0),
        ORIGDEV => settings.set(WANTS_ORIGIN, value.int()? != 0),
        TIMESTAMP => settings.timestamp.store(exact(value)?, Ordering::Relaxed),
        QDISC_BYPASS => settings.set(BYPASSES, exact(value)? != 0),
        IGNORE_OUTGOING => {
            let on = exact(value)?;
            if !(0..=1).contains(&on) {
                return Err(Errno::EINVAL);
            }
            settings.set(IGNORES_OUTGOING, on != 0);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// An `int` and nothing behind it.
fn exact(value: &mut OptionIn<'_>) -> Result<i32> {
    if value.len() != size_of::<i32>() {
        return Err(Errno::EINVAL);
    }
    value.int()
}

/// Reads an option.
pub(crate) fn get(socket: &PacketSocket, name: i32, value: &mut OptionOut<'_>) -> Result<()> {
    let settings = &socket.settings;
    let flag = |flag: u32| i32::from(settings.has(flag));
    match name {
        STATISTICS => statistics(socket, value),
        AUXDATA => value.int(flag(WANTS_AUXILIARY)),
        ORIGDEV => value.int(flag(WANTS_ORIGIN)),
        VERSION => value.int(settings.version.load(Ordering::Relaxed)),
        HDRLEN => {
            if value.room() < size_of::<i32>() {
                return Err(Errno::EINVAL);
            }
            let version = Version::new(value.given()?)?;
            value.int(version.header_len() as i32)
        }
        RESERVE => value.int(settings.reserve.load(Ordering::Relaxed) as i32),
        LOSS => value.int(flag(LOSES)),
        TIMESTAMP => value.int(settings.timestamp.load(Ordering::Relaxed)),
        QDISC_BYPASS => value.int(flag(BYPASSES)),
        // Off, as they cannot be switched on.
        VNET_HDR | FANOUT | TX_HAS_OFF => value.int(0),
        ROLLOVER_STATS => Err(Errno::EINVAL),
        IGNORE_OUTGOING => value.int(flag(IGNORES_OUTGOING)),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// `PACKET_STATISTICS`: what is told is counted from 0 again.
fn statistics(socket: &PacketSocket, value: &mut OptionOut<'_>) -> Result<()> {
    let drops = socket.drops.swap(0, Ordering::Relaxed);
    // Those that were lost had come.
    let packets = socket.packets.swap(0, Ordering::Relaxed).wrapping_add(drops);
    let freezes = {
        let mut queue = socket.queue.lock();
        let ring = queue.ring.as_mut();
        ring.map(|ring| core::mem::take(&mut ring.freezes)).unwrap_or(0)
    };
    if settings_are_v3(socket) {
        value.value(&[packets, drops, freezes])
    } else {
        value.value(&[packets, drops])
    }
}

fn settings_are_v3(socket: &PacketSocket) -> bool {
    socket.settings.version.load(Ordering::Relaxed) == Version::V3 as i32
}
