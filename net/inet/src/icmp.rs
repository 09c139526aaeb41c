//! ICMP of both versions (RFC 792, RFC 4443): echo, and errors told to sockets.

use alloc::vec::Vec;

use abi::{Errno, Result};
use netdevice::{Endpoint, Ip};
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, Ipv4Packet, Ipv6Packet,
};

use crate::errors::Told;
use crate::ipout::{About, cut};
use crate::raw::Packet;
use crate::stack::{Inet, count, knob};

/// `IPPROTO_ICMP`.
pub(crate) const ICMP4: u8 = 1;
/// `IPPROTO_ICMPV6`.
pub(crate) const ICMP6: u8 = 58;

/// How much of a packet a message about it has at most.
pub(crate) const MOST_QUOTED: usize = 1232;

/// Completes an echo request a program wrote: its identifier and its sum. `EINVAL` if it is something else.
pub(crate) fn finish_echo(bytes: &mut [u8], ident: u16, from: Ip, to: Ip) -> Result<()> {
    if to.is_v4() {
        let mut packet = Icmpv4Packet::new_checked(bytes).map_err(|_| Errno::EINVAL)?;
        if packet.msg_type() != Icmpv4Message::EchoRequest || packet.msg_code() != 0 {
            return Err(Errno::EINVAL);
        }
        packet.set_echo_ident(ident);
        packet.fill_checksum();
        return Ok(());
    }
    let mut packet = Icmpv6Packet::new_checked(bytes).map_err(|_| Errno::EINVAL)?;
    if packet.msg_type() != Icmpv6Message::EchoRequest {
        return Err(Errno::EINVAL);
    }
    packet.set_echo_ident(ident);
    packet.fill_checksum(&v6(from), &v6(to));
    Ok(())
}

/// Computes the sum of a message of version 6.
pub(crate) fn finish_v6(bytes: &mut [u8], from: Ip, to: Ip) -> Result<()> {
    let mut packet = Icmpv6Packet::new_checked(bytes).map_err(|_| Errno::EINVAL)?;
    packet.fill_checksum(&v6(from), &v6(to));
    Ok(())
}

pub(crate) fn v6(ip: Ip) -> core::net::Ipv6Addr {
    core::net::Ipv6Addr::from_bits(ip.bits())
}

/// A message reached this host; an answer, if one is due.
pub(crate) fn receive(inet: &Inet, packet: &Packet<'_>) -> Option<(About, Vec<u8>)> {
    count(&inet.counters.icmp_in);
    if packet.protocol == ICMP4 { receive_v4(inet, packet) } else { receive_v6(inet, packet) }
}

fn answer(packet: &Packet<'_>, to: Ip) -> About {
    About { from: to, to: packet.from, protocol: packet.protocol, hops: 64, tos: packet.tos }
}

fn receive_v4(inet: &Inet, packet: &Packet<'_>) -> Option<(About, Vec<u8>)> {
    let message = Icmpv4Packet::new_checked(packet.payload).ok()?;
    if !message.verify_checksum() {
        return None;
    }
    match message.msg_type() {
        Icmpv4Message::EchoRequest => {
            let is_single = !packet.to.is_multicast() && !inet.devices.is_broadcast(packet.to);
            if !is_single || knob(&inet.knobs.icmp_echo_ignore_all) != 0 {
                return None;
            }
            let mut reply = packet.payload.to_vec();
            let mut out = Icmpv4Packet::new_unchecked(&mut reply);
            out.set_msg_type(Icmpv4Message::EchoReply);
            out.fill_checksum();
            count(&inet.counters.icmp_out);
            Some((answer(packet, packet.to), reply))
        }
        Icmpv4Message::EchoReply => {
            inet.raw.deliver_echo(packet, message.echo_ident());
            None
        }
        Icmpv4Message::DstUnreachable
        | Icmpv4Message::TimeExceeded
        | Icmpv4Message::ParamProblem => {
            let is_problem = message.msg_type() == Icmpv4Message::ParamProblem;
            let is_time = message.msg_type() == Icmpv4Message::TimeExceeded;
            // RFC 1122 §3.2.2.1: a reassembly that failed is no more than that.
            let error = match message.msg_code() {
                _ if is_time => Errno::EHOSTUNREACH,
                _ if is_problem => Errno::EPROTO,
                code => unreachable4(code),
            };
            let quoted = Ipv4Packet::new_unchecked(message.data());
            if message.data().len() < 28 {
                return None;
            }
            let header = usize::from(quoted.header_len());
            let mtu = packet.payload.get(6..8).map(|b| u16::from_be_bytes([b[0], b[1]]));
            let mtu = if message.msg_code() == 4 && !is_time && !is_problem { mtu } else { None };
            let told = Told {
                protocol: quoted.next_header().into(),
                from: Ip::from(quoted.src_addr()),
                to: Ip::from(quoted.dst_addr()),
                quoted: message.data().get(header..)?,
                error,
                mtu: mtu.map(u32::from),
                kind: message.msg_type().into(),
                code: message.msg_code(),
                offender: packet.from,
            };
            tell(inet, &told);
            None
        }
        _ => None,
    }
}

/// The error a program gets (RFC 1122 §4.2.3.9 tells which are final).
fn unreachable4(code: u8) -> Errno {
    match code {
        0 | 6 | 9 | 11 => Errno::ENETUNREACH,
        2 => Errno::ENOPROTOOPT,
        3 => Errno::ECONNREFUSED,
        4 => Errno::EMSGSIZE,
        5 => Errno::EOPNOTSUPP,
        7 => Errno::EHOSTDOWN,
        8 => Errno::ENONET,
        _ => Errno::EHOSTUNREACH,
    }
}

fn receive_v6(inet: &Inet, packet: &Packet<'_>) -> Option<(About, Vec<u8>)> {
    let message = Icmpv6Packet::new_checked(packet.payload).ok()?;
    if !message.verify_checksum(&v6(packet.from), &v6(packet.to)) {
        return None;
    }
    match message.msg_type() {
        Icmpv6Message::EchoRequest => {
            let to = if packet.to.is_multicast() {
                inet.devices.way(packet.from, None, packet.interface).ok()?.source
            } else {
                packet.to
            };
            let mut reply = packet.payload.to_vec();
            let mut out = Icmpv6Packet::new_unchecked(&mut reply);
            out.set_msg_type(Icmpv6Message::EchoReply);
            out.fill_checksum(&v6(to), &v6(packet.from));
            count(&inet.counters.icmp_out);
            Some((answer(packet, to), reply))
        }
        Icmpv6Message::EchoReply => {
            inet.raw.deliver_echo(packet, message.echo_ident());
            None
        }
        Icmpv6Message::DstUnreachable
        | Icmpv6Message::PktTooBig
        | Icmpv6Message::TimeExceeded
        | Icmpv6Message::ParamProblem => {
            let error = match (message.msg_type(), message.msg_code()) {
                (Icmpv6Message::DstUnreachable, 0) => Errno::ENETUNREACH,
                (Icmpv6Message::DstUnreachable, 1 | 5 | 6) => Errno::EACCES,
                (Icmpv6Message::DstUnreachable, 4) => Errno::ECONNREFUSED,
                (Icmpv6Message::PktTooBig, _) => Errno::EMSGSIZE,
                (Icmpv6Message::ParamProblem, _) => Errno::EPROTO,
                _ => Errno::EHOSTUNREACH,
            };
            let is_big = message.msg_type() == Icmpv6Message::PktTooBig;
            let mtu = is_big.then(|| message.pkt_too_big_mtu());
            let quoted = packet.payload.get(8..)?;
            if quoted.len() < 48 {
                return None;
            }
            let header = Ipv6Packet::new_unchecked(quoted);
            let told = Told {
                protocol: header.next_header().into(),
                from: Ip::from(header.src_addr()),
                to: Ip::from(header.dst_addr()),
                quoted: quoted.get(40..)?,
                error,
                mtu,
                kind: message.msg_type().into(),
                code: message.msg_code(),
                offender: packet.from,
            };
            tell(inet, &told);
            None
        }
        _ => None,
    }
}

/// A message that a packet, which begins like this, does not arrive: kind and code.
pub(crate) fn complain(
    from: Ip,
    to: Ip,
    (kind, code): (u8, u8),
    mut packet: Vec<u8>,
) -> Option<(About, Vec<u8>)> {
    let is_v4 = to.is_v4();
    // RFC 1812 §4.3.2.3, RFC 4443 §2.4: no more than every link carries.
    packet.truncate(if is_v4 { 548 } else { MOST_QUOTED });
    let mut message = alloc::vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.append(&mut packet);
    if is_v4 {
        Icmpv4Packet::new_checked(&mut message[..]).ok()?.fill_checksum();
    } else {
        finish_v6(&mut message, from, to).ok()?;
    }
    let protocol = if is_v4 { ICMP4 } else { ICMP6 };
    Some((About { from, to, protocol, hops: 64, tos: 0 }, message))
}

/// Tells this host that the next hop of a packet does not answer: its socket and whoever listens to ICMP.
pub(crate) fn tell_unreachable(inet: &Inet, frame: &netdevice::Frame) {
    let mut packet = frame.header.bytes().to_vec();
    packet.extend(crate::ipin::to_vec(&cut(&frame.payload, 0, MOST_QUOTED)));
    let (from, how) = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => {
            let header = Ipv4Packet::new_unchecked(&packet);
            // RFC 1122 §3.2.2: the first part of a packet speaks for all, and nobody complains of complaints.
            let is_error = u8::from(header.next_header()) == ICMP4
                && matches!(packet.get(20), Some(3 | 4 | 5 | 11 | 12));
            if header.frag_offset() != 0 || is_error {
                return;
            }
            (Ip::from(header.src_addr()), (3, 1))
        }
        Some(6) if packet.len() >= 40 => {
            let header = Ipv6Packet::new_unchecked(&packet);
            if u8::from(header.next_header()) == ICMP6
                && packet.get(40).is_some_and(|kind| *kind < 128)
            {
                return;
            }
            (Ip::from(header.src_addr()), (1, 3))
        }
        _ => return,
    };
    let is_own = inet.devices.is_local(from);
    if let Some((about, message)) = complain(from, from, how, packet).filter(|_| is_own) {
        count(&inet.counters.icmp_out);
        crate::ipout::deliver(inet, &about, 1, &message);
    }
}

/// Tells the sockets that sent the quoted packet.
fn tell(inet: &Inet, told: &Told<'_>) {
    inet.raw.tell(told);
    let [a, b, c, d, rest @ ..] = told.quoted else { return };
    let local = Endpoint::new(told.from, u16::from_be_bytes([*a, *b]));
    let remote = Endpoint::new(told.to, u16::from_be_bytes([*c, *d]));
    match told.protocol {
        17 => {
            if let Some(socket) = inet.udp.find(remote, local, 0) {
                socket.fail(told, remote);
            }
        }
        6 => {
            let Some(sequence) = rest.first_chunk::<4>() else { return };
            let sequence = u32::from_be_bytes(*sequence);
            inet.tcp.unreachable(local, remote, sequence, told.error, told.mtu);
        }
        _ => {}
    }
}
