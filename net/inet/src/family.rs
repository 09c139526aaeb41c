//! `AF_INET` and `AF_INET6` as the socket layer knows them.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::socket::{AF_INET, AF_INET6};
use abi::{Errno, Result};
use netdevice::Ip;
use socket::{Call, Common, Family, Kind, Socket};
use spin::Once;
use vfs::Cap;

use crate::raw::RawSocket;
use crate::stack::{Inet, knob};
use crate::tcp::socket::TcpSocket;
use crate::udp::socket::UdpSocket;

struct Internet {
    number: u16,
}

const IPPROTO_ICMP: i32 = 1;
const IPPROTO_TCP: i32 = 6;
pub(crate) const IPPROTO_UDP: i32 = 17;
const IPPROTO_ICMPV6: i32 = 58;

static AUTOCONFIGURATION: Once<alloc::string::String> = Once::new();

/// Devices that drivers found appear in the machine's namespace; `ip=` sets one up.
fn move_in(namespace: &Arc<socket::NetNamespace>) {
    let Some(inet) = Inet::of(namespace) else { return };
    crate::timers::start();
    netdevice::set_home(&inet.devices);
    if let Some(text) = AUTOCONFIGURATION.get()
        && let Err(error) = crate::autoconf::apply(&inet.devices, text)
    {
        log::warn!("ip={text}: {error}");
    }
}

/// Makes the families known; `ip` is the value of that word of the command line.
pub fn init(ip: Option<&str>) {
    if let Some(text) = ip {
        AUTOCONFIGURATION.call_once(|| text.into());
    }
    socket::namespace::on_initial(move_in);
    static V4: Internet = Internet { number: AF_INET };
    static V6: Internet = Internet { number: AF_INET6 };
    socket::register(&V4);
    socket::register(&V6);
    static CONTROL: crate::control::Control = crate::control::Control;
    socket::set_device_control(&CONTROL);
    static TOLD: crate::rtnetlink::Told = crate::rtnetlink::Told;
    netlink::route::set_network(&TOLD);
    packet::init();
    crate::loopback::init();
    crate::ipin::start();
    crate::proc::init();
    crate::sysctl::init();
}

impl Family for Internet {
    fn number(&self) -> u16 {
        self.number
    }

    fn create(&self, call: &Call<'_>, kind: Kind, protocol: i32) -> Result<Arc<dyn Socket>> {
        if !(0..=262).contains(&protocol) {
            return Err(Errno::EINVAL);
        }
        let echo = if self.number == AF_INET { IPPROTO_ICMP } else { IPPROTO_ICMPV6 };
        let inet = Inet::of(call.namespace).ok_or(Errno::ENOMEM)?;
        let common = |protocol| Common::new(call.namespace, self.number, kind, protocol);
        let socket: Arc<dyn Socket> = match (kind, protocol) {
            (Kind::Stream, 0 | IPPROTO_TCP) => TcpSocket::create(&inet, common(IPPROTO_TCP)),
            (Kind::Datagram, 0 | IPPROTO_UDP) => UdpSocket::create(&inet, common(IPPROTO_UDP)),
            (Kind::Datagram, protocol) if protocol == echo => {
                check_ping(&inet, call)?;
                RawSocket::create(&inet, common(protocol))
            }
            (Kind::Raw, 0) => return Err(Errno::EPROTONOSUPPORT),
            (Kind::Raw, protocol) => {
                if !call.creds().ns_capable(&call.namespace.user_ns, Cap::NET_RAW) {
                    return Err(Errno::EPERM);
                }
                RawSocket::create(&inet, common(protocol))
            }
            (Kind::Stream | Kind::Datagram, _) => return Err(Errno::EPROTONOSUPPORT),
            _ => return Err(Errno::ESOCKTNOSUPPORT),
        };
        Ok(socket)
    }
}

/// icmp(7): `EACCES` for who is in no group of `ping_group_range`.
fn check_ping(inet: &Inet, call: &Call<'_>) -> Result<()> {
    let (low, high) = &inet.knobs.ping_group_range;
    let range = low.load(Ordering::Relaxed)..=high.load(Ordering::Relaxed);
    let creds = call.creds();
    if range.contains(&creds.egid) || creds.groups.iter().any(|group| range.contains(group)) {
        return Ok(());
    }
    Err(Errno::EACCES)
}

/// Whether an address can be bound: `EADDRNOTAVAIL` for what is not this host's.
pub(crate) fn check_bindable(inet: &Inet, ip: Ip) -> Result<()> {
    if ip.is_any() || inet.devices.is_local(ip) || knob(&inet.knobs.ip_nonlocal_bind) != 0 {
        return Ok(());
    }
    Err(Errno::EADDRNOTAVAIL)
}

/// ip(7): `EACCES` for ports below 1024 without the capability.
pub(crate) fn check_port(inet: &Inet, common: &Common, call: &Call<'_>, port: u16) -> Result<()> {
    let first = knob(&inet.knobs.ip_unprivileged_port_start);
    if port == 0
        || i32::from(port) >= first
        || call.creds().ns_capable(&common.namespace.user_ns, Cap::NET_BIND_SERVICE)
    {
        return Ok(());
    }
    Err(Errno::EACCES)
}

static RANDOM: Once<fn() -> u64> = Once::new();

/// Says where random numbers come from.
pub fn set_random(source: fn() -> u64) {
    RANDOM.call_once(|| source);
}

/// A random number.
pub(crate) fn random() -> u64 {
    match RANDOM.get() {
        Some(source) => source(),
        None => arch::time::cycles().wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}
