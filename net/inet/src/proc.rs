//! `/proc/net/{tcp,udp,raw,dev,route,if_inet6,snmp,sockstat,…}` and `/proc/sys/net/ipv4`, as proc(5) and the
//! kernel's documentation of its sysctls describe them.

use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, Result};
use netdevice::{Endpoint, Interface, Ip, RTN_PROHIBIT, RTN_UNREACHABLE};
use socket::NetNamespace;
use socket::trees::{self, PROC_NET};

use crate::neighbour::Known;
use crate::stack::Inet;
use crate::tcp::State;

/// Text that is put together.
struct Text<'a>(&'a mut Vec<u8>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

type Show = fn(&Inet, &mut Text<'_>) -> core::fmt::Result;

fn with(namespace: &NetNamespace, out: &mut Vec<u8>, show: Show) -> Result<()> {
    let inet = Inet::of(namespace).ok_or(Errno::ENOMEM)?;
    show(&inet, &mut Text(out)).map_err(|_| Errno::ENOMEM)
}

macro_rules! files {
    ($($name:literal => $show:expr;)*) => {
        $(PROC_NET.register($name, |namespace| {
            trees::show(namespace, |namespace, out| with(namespace, out, $show))
        });)*
    };
}

/// Makes the files known.
pub(crate) fn init() {
    files! {
        "tcp" => |inet, out| tcp(inet, out, false);
        "tcp6" => |inet, out| tcp(inet, out, true);
        "udp" => |inet, out| udp(inet, out, false);
        "udp6" => |inet, out| udp(inet, out, true);
        "udplite" => |_, out| writeln!(out, "{UDP_HEAD}");
        "udplite6" => |_, out| writeln!(out, "{UDP6_HEAD}");
        "raw" => |inet, out| raw(inet, out, false);
        "raw6" => |inet, out| raw(inet, out, true);
        "dev" => dev;
        "route" => route;
        "arp" => arp;
        "if_inet6" => if_inet6;
        "snmp" => snmp;
        "sockstat" => sockstat;
        "sockstat6" => sockstat6;
    }
}

const ARP_HEAD: &str =
    "IP address       HW type     Flags       HW address            Mask     Device";
const UDP_HEAD: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops             ";
const UDP6_HEAD: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops";
const TCP_HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     ";
const TCP6_HEAD: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";

/// An address as these files show it: words of the machine's order.
fn hex(endpoint: Endpoint, is_v6: bool) -> alloc::string::String {
    let mut text = alloc::string::String::new();
    let _ = if is_v6 {
        let bytes = endpoint.ip.octets6();
        bytes.chunks(4).try_for_each(|word| match word {
            [a, b, c, d] => write!(text, "{:08X}", u32::from_ne_bytes([*a, *b, *c, *d])),
            _ => Ok(()),
        })
    } else {
        write!(text, "{:08X}", u32::from_ne_bytes(endpoint.ip.octets4()))
    };
    let _ = write!(text, ":{:04X}", endpoint.port);
    text
}

/// A line of `/proc/net/tcp`.
struct Line {
    local: Endpoint,
    remote: Endpoint,
    state: State,
    queues: (usize, usize),
    timer: (u8, u64),
    uid: u32,
    ino: u64,
}

fn tcp_line(out: &mut Text<'_>, index: usize, line: &Line, is_v6: bool) -> core::fmt::Result {
    let mut text = alloc::string::String::new();
    write!(
        text,
        "{index:4}: {} {} {:02X} {:08X}:{:08X} {:02X}:{:08X} {:08X} {:5} {:8} {} ",
        hex(line.local, is_v6),
        hex(line.remote, is_v6),
        line.state as u8,
        line.queues.0,
        line.queues.1,
        line.timer.0,
        line.timer.1,
        0,
        line.uid,
        0,
        line.ino,
    )?;
    if line.ino == 0 {
        write!(text, "3 {:016x}", 0)?;
    } else {
        write!(text, "1 {:016x} 20 4 0 10 -1", 0)?;
    }
    if is_v6 { writeln!(out, "{text}") } else { writeln!(out, "{text:<149}") }
}

fn tcp(inet: &Inet, out: &mut Text<'_>, is_v6: bool) -> core::fmt::Result {
    writeln!(out, "{}", if is_v6 { TCP6_HEAD } else { TCP_HEAD })?;
    let mut lines = Vec::new();
    let any = if is_v6 { Ip::ANY6 } else { Ip::ANY4 };
    for listener in inet.tcp.listeners.values().into_iter().flatten() {
        if listener.is_v6 == is_v6 {
            lines.push(Line {
                local: listener.endpoint,
                remote: Endpoint::new(any, 0),
                state: State::Listen,
                queues: (0, listener.ready()),
                timer: (0, 0),
                uid: listener.uid,
                ino: listener.ino,
            });
        }
    }
    for conn in inet.tcp.connections.values() {
        let (tuple, facts) = (conn.tuple(), conn.facts());
        if tuple.local.ip.is_v4() == is_v6 {
            continue;
        }
        lines.push(Line {
            local: tuple.local,
            remote: tuple.remote,
            state: facts.state,
            queues: (facts.unacknowledged, facts.unread),
            timer: (0, 0),
            uid: facts.uid,
            ino: facts.ino,
        });
    }
    for (tuple, state, left_ns) in inet.tcp.time_wait.all() {
        if tuple.local.ip.is_v4() == is_v6 {
            continue;
        }
        lines.push(Line {
            local: tuple.local,
            remote: tuple.remote,
            state,
            queues: (0, 0),
            timer: (3, left_ns / 10_000_000),
            uid: 0,
            ino: 0,
        });
    }
    for (index, line) in lines.iter().enumerate() {
        tcp_line(out, index, line, is_v6)?;
    }
    Ok(())
}

fn udp(inet: &Inet, out: &mut Text<'_>, is_v6: bool) -> core::fmt::Result {
    use socket::Socket;
    writeln!(out, "{}", if is_v6 { UDP6_HEAD } else { UDP_HEAD })?;
    let mut all: Vec<_> =
        inet.udp.by_port.values().into_iter().flatten().map(|entry| entry.socket).collect();
    all.extend(inet.udp.connected.values());
    for (index, socket) in all.iter().filter(|socket| socket.is_v6() == is_v6).enumerate() {
        let (local, remote) = socket.ends();
        let any = Endpoint::new(if is_v6 { Ip::ANY6 } else { Ip::ANY4 }, 0);
        let (weight, drops) = socket.load();
        writeln!(
            out,
            "{index:5}: {} {} {:02X} 00000000:{weight:08X} 00:00000000 00000000 {:5} {:8} {} 2 {:016x} {drops:<7}",
            hex(local, is_v6),
            hex(remote.unwrap_or(any), is_v6),
            if remote.is_some() { 1 } else { 7 },
            0,
            0,
            socket.common().ino,
            0,
        )?;
    }
    Ok(())
}

fn raw(inet: &Inet, out: &mut Text<'_>, is_v6: bool) -> core::fmt::Result {
    use socket::Socket;
    writeln!(out, "{}", if is_v6 { UDP6_HEAD } else { RAW_HEAD })?;
    let family = if is_v6 { 10 } else { 2 };
    let all = inet.raw.all();
    for socket in all.iter().filter(|socket| socket.common().family == family) {
        let protocol = socket.common().protocol as u16;
        let (local, remote, weight) = socket.ends();
        let any = if is_v6 { Ip::ANY6 } else { Ip::ANY4 };
        writeln!(
            out,
            "{protocol:4}: {} {} 07 00000000:{weight:08X} 00:00000000 00000000     0        0 {} 2 {:016x} 0",
            hex(Endpoint::new(local, protocol), is_v6),
            hex(Endpoint::new(remote.unwrap_or(any), 0), is_v6),
            socket.common().ino,
            0,
        )?;
    }
    Ok(())
}

const RAW_HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops";

fn dev(inet: &Inet, out: &mut Text<'_>) -> core::fmt::Result {
    writeln!(out, "Inter-|   Receive                                                |  Transmit")?;
    writeln!(
        out,
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed"
    )?;
    for interface in inet.devices.all() {
        let counters = &interface.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        writeln!(
            out,
            "{:>6}: {:7} {:7} {:4} {:4} {:4} {:5} {:10} {:9} {:8} {:7} {:4} {:4} {:4} {:5} {:7} {:10}",
            interface.name(),
            get(&counters.rx_bytes),
            get(&counters.rx_packets),
            get(&counters.rx_errors),
            get(&counters.rx_dropped),
            0,
            0,
            0,
            get(&counters.multicast),
            get(&counters.tx_bytes),
            get(&counters.tx_packets),
            get(&counters.tx_errors),
            get(&counters.tx_dropped),
            0,
            0,
            0,
            0,
        )?;
    }
    Ok(())
}

fn arp(inet: &Inet, out: &mut Text<'_>) -> core::fmt::Result {
    writeln!(out, "{ARP_HEAD}")?;
    for Known { index, ip, mac, state } in inet.wire.neighbours.all() {
        if !ip.is_v4() {
            continue;
        }
        let [a, b, c, d, e, f] = mac.unwrap_or_default();
        let address = alloc::format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        // ATF_COM, ATF_PERM.
        let flags = if mac.is_some() { 2 | u8::from(state == 128) << 2 } else { 0 };
        let ip = alloc::format!("{ip}");
        let device = name_of(inet, index);
        writeln!(out, "{ip:<16} 0x{:<10x}0x{flags:<10x}{address:<17}     *        {device}", 1)?;
    }
    Ok(())
}

fn name_of(inet: &Inet, index: u32) -> alloc::string::String {
    inet.devices
        .by_index(index)
        .map_or_else(|| "*".into(), |interface: alloc::sync::Arc<Interface>| interface.name())
}

fn route(inet: &Inet, out: &mut Text<'_>) -> core::fmt::Result {
    let head =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    writeln!(out, "{head:<127}")?;
    for route in inet.devices.routes(true) {
        let word = |ip: Ip| u32::from_ne_bytes(ip.octets4());
        let mut flags = 1;
        if route.gateway.is_some() {
            flags |= 2;
        }
        if route.prefix == 32 {
            flags |= 4;
        }
        // RTF_REJECT.
        if matches!(route.kind, RTN_UNREACHABLE | RTN_PROHIBIT) {
            flags |= 0x200;
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(route.prefix)).unwrap_or(0).to_be();
        let line = alloc::format!(
            "{}\t{:08X}\t{:08X}\t{flags:04X}\t0\t0\t{}\t{mask:08X}\t0\t0\t0",
            name_of(inet, route.interface),
            word(route.to),
            word(route.gateway.unwrap_or(Ip::ANY4)),
            route.metric,
        );
        writeln!(out, "{line:<127}")?;
    }
    Ok(())
}

fn if_inet6(inet: &Inet, out: &mut Text<'_>) -> core::fmt::Result {
    for interface in inet.devices.all() {
        for address in interface.addresses().iter().filter(|address| !address.ip.is_v4()) {
            // The scope as RFC 4291 numbers it.
            let scope = match address.scope {
                254 => 0x10,
                253 => 0x20,
                _ => 0,
            };
            writeln!(
                out,
                "{:032x} {:02x} {:02x} {scope:02x} {:02x} {:>8}",
                address.ip.bits(),
                interface.index,
                address.prefix,
                address.flags,
                interface.name(),
            )?;
        }
    }
    Ok(())
}

fn snmp(inet: &Inet, out: &mut Text<'_>) -> core::fmt::Result {
    let c = &inet.counters;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let knobs = &inet.knobs;
    writeln!(
        out,
        "Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates"
    )?;
    writeln!(
        out,
        "Ip: {} {} {} {} 0 0 0 {} {} {} 0 0 0 0 0 0 0 0 0",
        if knobs.ip_forward.load(Ordering::Relaxed) != 0 { 1 } else { 2 },
        knobs.ip_default_ttl.load(Ordering::Relaxed),
        get(&c.ip_in_receives),
        get(&c.ip_in_header_errors),
        get(&c.ip_in_discards),
        get(&c.ip_in_delivers),
        get(&c.ip_out_requests),
    )?;
    writeln!(
        out,
        "Icmp: InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects InEchos InEchoReps InTimestamps InTimestampReps InAddrMasks InAddrMaskReps OutMsgs OutErrors OutDestUnreachs OutTimeExcds OutParmProbs OutSrcQuenchs OutRedirects OutEchos OutEchoReps OutTimestamps OutTimestampReps OutAddrMasks OutAddrMaskReps"
    )?;
    writeln!(
        out,
        "Icmp: {} 0 0 0 0 0 0 0 0 0 0 0 0 0 {} 0 0 0 0 0 0 0 0 0 0 0 0",
        get(&c.icmp_in),
        get(&c.icmp_out)
    )?;
    writeln!(
        out,
        "Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors"
    )?;
    writeln!(
        out,
        "Tcp: 1 200 120000 -1 {} {} {} {} {} {} {} {} {} {} 0",
        get(&c.tcp_active_opens),
        get(&c.tcp_passive_opens),
        get(&c.tcp_attempt_fails),
        get(&c.tcp_estab_resets),
        inet.tcp.connections.len(),
        get(&c.tcp_in_segs),
        get(&c.tcp_out_segs),
        get(&c.tcp_retrans_segs),
        get(&c.tcp_in_errors),
        get(&c.tcp_out_resets),
    )?;
    writeln!(
        out,
        "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti"
    )?;
    writeln!(
        out,
        "Udp: {} {} {} {} {} 0 0 0",
        get(&c.udp_in_datagrams),
        get(&c.udp_no_ports),
        get(&c.udp_in_errors),
        get(&c.udp_out_datagrams),
        get(&c.udp_receive_buffer_errors),
    )?;
    writeln!(
        out,
        "UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti"
    )?;
    writeln!(out, "UdpLite: 0 0 0 0 0 0 0 0")
}

fn sockstat(inet: &Inet, out: &mut Text<'_>) -> core::fmt::Result {
    let connections = inet.tcp.connections.len();
    let listeners: usize = inet.tcp.listeners.values().iter().map(Vec::len).sum();
    let udp: usize = inet.udp.by_port.values().iter().map(Vec::len).sum();
    let udp = udp + inet.udp.connected.len();
    let tcp = connections + listeners;
    writeln!(out, "sockets: used {}", tcp + udp)?;
    let waiting = inet.tcp.time_wait.len();
    writeln!(out, "TCP: inuse {tcp} orphan 0 tw {waiting} alloc {tcp} mem 0")?;
    writeln!(out, "UDP: inuse {udp} mem 0")?;
    writeln!(out, "UDPLITE: inuse 0")?;
    writeln!(out, "RAW: inuse {}", inet.raw.all().len())?;
    writeln!(out, "FRAG: inuse 0 memory 0")
}

fn sockstat6(inet: &Inet, out: &mut Text<'_>) -> core::fmt::Result {
    let listeners = inet.tcp.listeners.values();
    let tcp = listeners.iter().flatten().filter(|listener| listener.is_v6).count();
    writeln!(
        out,
        "TCP6: inuse {tcp}\nUDP6: inuse 0\nUDPLITE6: inuse 0\nRAW6: inuse 0\nFRAG6: inuse 0 memory 0"
    )
}
