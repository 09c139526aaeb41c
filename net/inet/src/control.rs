//! Device control of interfaces and routes (netdevice(7), rtentry of ip(7)), as `ifconfig` and `route` use it.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::addr::VirtAddr;
use arch::user;
use netdevice::{Address, Devices, Interface, Ip, Route, flag};
use socket::interface::DeviceControl;
use socket::{Call, NetNamespace, Socket};
use vfs::Cap;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const SIOCADDRT: u32 = 0x890b;
const SIOCDELRT: u32 = 0x890c;
const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCSIFADDR: u32 = 0x8916;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCSIFBRDADDR: u32 = 0x891a;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCSIFNETMASK: u32 = 0x891c;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCSIFMTU: u32 = 0x8922;
const SIOCSIFNAME: u32 = 0x8923;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCSIFTXQLEN: u32 = 0x8943;
const SIOCGIFMAP: u32 = 0x8970;
const SIOCBRADDBR: u32 = 0x89a0;
const SIOCBRDELBR: u32 = 0x89a1;
const SIOCBRADDIF: u32 = 0x89a2;
const SIOCBRDELIF: u32 = 0x89a3;

const NAME: usize = 16;
const AF_INET: u16 = 2;

/// `struct ifreq`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct IfReq {
    name: [u8; NAME],
    data: [u8; 24],
}

/// `struct rtentry`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RtEntry {
    pad1: u64,
    dst: [u8; 16],
    gateway: [u8; 16],
    genmask: [u8; 16],
    flags: u16,
    pad2: [u8; 6],
    pad3: u64,
    pad4: u64,
    metric: u16,
    pad5: [u8; 6],
    dev: u64,
    mtu: u64,
    window: u64,
    irtt: u16,
    pad6: [u8; 6],
}

/// `struct ifconf`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct IfConf {
    len: i32,
    pad: u32,
    buffer: u64,
}

const RTF_GATEWAY: u16 = 2;
const RTF_HOST: u16 = 4;
const RTF_REJECT: u16 = 0x200;

fn sockaddr(ip: Ip) -> [u8; 16] {
    let mut raw = [0; 16];
    let [a, b, c, d] = ip.octets4();
    let [low, high] = AF_INET.to_ne_bytes();
    raw.iter_mut().zip([low, high, 0, 0, a, b, c, d]).for_each(|(to, from)| *to = from);
    raw
}

fn address_of(raw: &[u8; 16]) -> (u16, Ip) {
    let [f0, f1, _, _, a, b, c, d, ..] = *raw;
    (u16::from_ne_bytes([f0, f1]), Ip::v4([a, b, c, d]))
}

fn mask(prefix: u8) -> Ip {
    let bits = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    Ip::v4(bits.to_be_bytes())
}

fn prefix_of(mask: Ip) -> Result<u8> {
    let bits = u32::from_be_bytes(mask.octets4());
    if bits.leading_ones() + bits.trailing_zeros().min(32 - bits.leading_ones()) != 32 {
        return Err(Errno::EINVAL);
    }
    Ok(bits.leading_ones() as u8)
}

/// The network an address had before networks were told by prefixes: what `SIOCSIFADDR` assumes.
pub(crate) fn class_prefix(ip: Ip) -> u8 {
    match ip.octets4()[0] {
        0 => 0,
        1..=127 => 8,
        128..=191 => 16,
        192..=223 => 24,
        _ => 32,
    }
}

impl IfReq {
    fn name(&self) -> String {
        let name = self.name.split(|byte| *byte == 0).next().unwrap_or(&[]);
        // An alias (`eth0:1`) is the interface with another label.
        let text = String::from_utf8_lossy(name);
        String::from(text.split(':').next().unwrap_or(""))
    }

    fn label(&self) -> String {
        let name = self.name.split(|byte| *byte == 0).next().unwrap_or(&[]);
        String::from_utf8_lossy(name).into_owned()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.data.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn int(&self) -> i32 {
        let [a, b, c, d, ..] = self.data;
        i32::from_ne_bytes([a, b, c, d])
    }

    fn sockaddr(&self) -> (u16, Ip) {
        let mut raw = [0; 16];
        raw.iter_mut().zip(self.data).for_each(|(to, from)| *to = from);
        address_of(&raw)
    }
}

/// The names and numbers of interfaces, for all sockets.
pub(crate) struct Control;

fn devices(namespace: &NetNamespace) -> Result<Arc<Devices>> {
    namespace.part_arc::<Devices>().ok_or(Errno::ENODEV)
}

impl DeviceControl for Control {
    fn ioctl(
        &self,
        socket: &dyn Socket,
        call: &Call<'_>,
        cmd: u32,
        arg: VirtAddr,
    ) -> Result<usize> {
        let namespace = &socket.common().namespace;
        let is_admin = || {
            let may = call.creds().ns_capable(&namespace.user_ns, Cap::NET_ADMIN);
            if may { Ok(()) } else { Err(Errno::EPERM) }
        };
        let devices = devices(namespace)?;
        match cmd {
            SIOCGIFCONF => return list(&devices, arg),
            SIOCADDRT | SIOCDELRT => {
                is_admin()?;
                return route(&devices, cmd == SIOCADDRT, user::read_val(arg)?);
            }
            SIOCBRADDBR | SIOCBRDELBR => {
                is_admin()?;
                return bridge(&devices, cmd == SIOCBRADDBR, user::read_val(arg)?);
            }
            _ => {}
        }
        let known = matches!(cmd, SIOCGIFNAME | SIOCGIFFLAGS..=SIOCGIFMETRIC)
            || matches!(cmd, SIOCGIFMTU..=SIOCSIFNAME | SIOCGIFHWADDR | SIOCGIFINDEX)
            || matches!(cmd, SIOCGIFTXQLEN | SIOCSIFTXQLEN | SIOCGIFMAP)
            || matches!(cmd, SIOCBRADDIF | SIOCBRDELIF);
        if !known {
            return Err(Errno::ENOTTY);
        }
        let mut request: IfReq = user::read_val(arg)?;
        if cmd == SIOCGIFNAME {
            let interface = devices.by_index(request.int() as u32).ok_or(Errno::ENODEV)?;
            request.name = [0; NAME];
            let name = interface.name();
            request.name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        } else {
            let interface = devices.by_name(&request.name()).ok_or(Errno::ENODEV)?;
            if get(&interface, cmd, &mut request)?.is_none() {
                is_admin()?;
                set(&devices, &interface, cmd, &request)?;
                return Ok(0);
            }
        }
        user::write_val(arg, &request)?;
        Ok(0)
    }

    fn index_of(&self, namespace: &NetNamespace, name: &[u8]) -> Option<i32> {
        let name = core::str::from_utf8(name).ok()?;
        devices(namespace).ok()?.by_name(name).map(|interface| interface.index as i32)
    }

    fn name_of(&self, namespace: &NetNamespace, index: i32, out: &mut Vec<u8>) -> bool {
        let found = devices(namespace).ok().and_then(|devices| devices.by_index(index as u32));
        found.is_some_and(|interface| {
            out.extend_from_slice(interface.name().as_bytes());
            true
        })
    }
}

fn first_v4(interface: &Interface) -> Result<Address> {
    interface.find_address(|address| address.ip.is_v4()).ok_or(Errno::EADDRNOTAVAIL)
}

/// Answers a question; `None` for what is none.
fn get(interface: &Interface, cmd: u32, request: &mut IfReq) -> Result<Option<()>> {
    match cmd {
        SIOCGIFFLAGS => request.put(&(interface.flags() as u16).to_ne_bytes()),
        SIOCGIFADDR => request.put(&sockaddr(first_v4(interface)?.ip)),
        SIOCGIFDSTADDR => {
            let address = first_v4(interface)?;
            request.put(&sockaddr(address.peer.unwrap_or(address.ip)));
        }
        SIOCGIFBRDADDR => {
            let broadcast = first_v4(interface)?.broadcast;
            request.put(&sockaddr(broadcast.unwrap_or(Ip::ANY4)));
        }
        SIOCGIFNETMASK => request.put(&sockaddr(mask(first_v4(interface)?.prefix))),
        SIOCGIFMETRIC => request.put(&0i32.to_ne_bytes()),
        SIOCGIFMTU => request.put(&(interface.mtu() as i32).to_ne_bytes()),
        SIOCGIFHWADDR => {
            let mut raw = [0; 24];
            let [a, b, c, d, e, f] = interface.mac();
            let [low, high] = interface.kind().to_ne_bytes();
            raw.iter_mut().zip([low, high, a, b, c, d, e, f]).for_each(|(to, from)| *to = from);
            request.data = raw;
        }
        SIOCGIFINDEX => request.put(&(interface.index as i32).to_ne_bytes()),
        SIOCGIFTXQLEN => request.put(&(interface.tx_queue_len() as i32).to_ne_bytes()),
        SIOCGIFMAP => request.data = [0; 24],
        _ => return Ok(None),
    }
    Ok(Some(()))
}

fn set(devices: &Devices, interface: &Arc<Interface>, cmd: u32, request: &IfReq) -> Result<()> {
    match cmd {
        SIOCSIFFLAGS => {
            let [low, high, ..] = request.data;
            let wanted = u32::from(u16::from_ne_bytes([low, high]));
            let may = flag::UP | flag::PROMISC | flag::ALLMULTI | flag::NOARP;
            devices.set_flags(interface, wanted & may, !wanted & may);
            Ok(())
        }
        SIOCSIFADDR => {
            let (family, ip) = request.sockaddr();
            if family != AF_INET {
                return Err(Errno::EINVAL);
            }
            set_address(devices, interface, ip, class_prefix(ip), None, request.label())
        }
        SIOCSIFNETMASK => {
            let prefix = prefix_of(request.sockaddr().1)?;
            let old = first_v4(interface)?;
            set_address(devices, interface, old.ip, prefix, None, old.label)
        }
        SIOCSIFBRDADDR => {
            let broadcast = request.sockaddr().1;
            let old = first_v4(interface)?;
            set_address(devices, interface, old.ip, old.prefix, Some(broadcast), old.label)
        }
        SIOCSIFMTU => {
            interface.set_mtu(u32::try_from(request.int()).map_err(|_| Errno::EINVAL)?)?;
            devices.touch(interface);
            Ok(())
        }
        SIOCSIFTXQLEN => {
            let len = u32::try_from(request.int()).map_err(|_| Errno::EINVAL)?;
            interface.set_tx_queue_len(len);
            Ok(())
        }
        SIOCSIFNAME => {
            let name = request.data.get(..NAME).unwrap_or(&[]);
            let name = name.split(|byte| *byte == 0).next().unwrap_or(&[]);
            devices.rename(interface, core::str::from_utf8(name).map_err(|_| Errno::EINVAL)?)
        }
        SIOCBRADDIF | SIOCBRDELIF => {
            let device = interface.device.as_ref().ok_or(Errno::EOPNOTSUPP)?;
            device.forwarding().ok_or(Errno::EOPNOTSUPP)?;
            let port = devices.by_index(request.int() as u32).ok_or(Errno::EINVAL)?;
            if cmd == SIOCBRADDIF {
                device.take_port(&port)?;
            } else {
                device.give_up_port(&port)?;
            }
            devices.touch(&port);
            Ok(())
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// Gives an interface its first address of version 4 instead of the one it has; none for the any address.
fn set_address(
    devices: &Devices,
    interface: &Arc<Interface>,
    ip: Ip,
    prefix: u8,
    broadcast: Option<Ip>,
    label: String,
) -> Result<()> {
    if let Ok(old) = first_v4(interface) {
        devices.remove_address(interface, old.ip, Some(old.prefix))?;
    }
    if ip.is_any() {
        return Ok(());
    }
    let is_lo = interface.is_loopback();
    let all = Ip::v4(
        (u32::from_be_bytes(ip.octets4()) | !u32::from_be_bytes(mask(prefix).octets4()))
            .to_be_bytes(),
    );
    let broadcast = match broadcast {
        Some(given) => Some(given),
        None if is_lo || prefix >= 31 => None,
        None => Some(all),
    };
    let scope = if is_lo { 254 } else { 0 };
    let flags = 0x80;
    devices.add_address(
        interface,
        Address { ip, prefix, broadcast, peer: None, scope, flags, label, lifetime: None },
    )?;
    if !interface.is_up() {
        devices.set_flags(interface, flag::UP, 0);
    }
    Ok(())
}

/// `SIOCGIFCONF`: the addresses of version 4 of all interfaces.
fn list(devices: &Devices, arg: VirtAddr) -> Result<usize> {
    let mut conf: IfConf = user::read_val(arg)?;
    let mut entries = Vec::new();
    for interface in devices.all() {
        for address in interface.addresses().iter().filter(|address| address.ip.is_v4()) {
            let mut entry = IfReq { name: [0; NAME], data: [0; 24] };
            let label =
                if address.label.is_empty() { interface.name() } else { address.label.clone() };
            entry
                .name
                .iter_mut()
                .zip(label.bytes().take(NAME - 1))
                .for_each(|(to, from)| *to = from);
            entry.put(&sockaddr(address.ip));
            entries.push(entry);
        }
    }
    if conf.buffer != 0 {
        let room = usize::try_from(conf.len).map_err(|_| Errno::EINVAL)? / size_of::<IfReq>();
        entries.truncate(room);
        for (index, entry) in entries.iter().enumerate() {
            user::write_val(
                VirtAddr::new(conf.buffer.wrapping_add((index * size_of::<IfReq>()) as u64)),
                entry,
            )?;
        }
    }
    conf.len = (entries.len() * size_of::<IfReq>()) as i32;
    user::write_val(arg, &conf)?;
    Ok(0)
}

/// `SIOCBRADDBR`, `SIOCBRDELBR`: makes a bridge of this name, or takes it away while it is down.
fn bridge(devices: &Devices, is_add: bool, name: [u8; NAME]) -> Result<usize> {
    let name = name.split(|byte| *byte == 0).next().unwrap_or(&[]);
    let name = core::str::from_utf8(name).map_err(|_| Errno::EINVAL)?;
    if is_add {
        let [a, b, c, d, e, f, ..] = crate::random().to_ne_bytes();
        let kind = netdevice::kind("bridge").ok_or(Errno::EOPNOTSUPP)?;
        devices.add(name, kind.make([a & !1 | 2, b, c, d, e, f], &[])?)?;
        return Ok(0);
    }
    let interface = devices.by_name(name).ok_or(Errno::ENXIO)?;
    let device = interface.device.clone().filter(|device| device.forwarding().is_some());
    let device = device.ok_or(Errno::EPERM)?;
    if interface.is_up() {
        return Err(Errno::EBUSY);
    }
    devices.remove(interface.index)?;
    device.removed();
    Ok(0)
}

/// `SIOCADDRT`, `SIOCDELRT`.
fn route(devices: &Devices, is_add: bool, entry: RtEntry) -> Result<usize> {
    let (family, to) = address_of(&entry.dst);
    let (_, gateway) = address_of(&entry.gateway);
    let (_, netmask) = address_of(&entry.genmask);
    if family != AF_INET {
        return Err(Errno::EAFNOSUPPORT);
    }
    let prefix = if entry.flags & RTF_HOST != 0 { 32 } else { prefix_of(netmask)? };
    if to.masked(prefix) != to {
        return Err(Errno::EINVAL);
    }
    let mut interface = None;
    if entry.dev != 0 {
        let mut name = [0u8; NAME];
        for (index, byte) in name.iter_mut().take(NAME - 1).enumerate() {
            *byte = user::read_val(VirtAddr::new(entry.dev.wrapping_add(index as u64)))?;
            if *byte == 0 {
                break;
            }
        }
        let name = name.split(|byte| *byte == 0).next().unwrap_or(&[]);
        let name = core::str::from_utf8(name).map_err(|_| Errno::ENODEV)?;
        interface = Some(devices.by_name(name).ok_or(Errno::ENODEV)?);
    }
    let has_gateway = entry.flags & RTF_GATEWAY != 0 && !gateway.is_any();
    // A metric is one more than programs mean.
    let metric = u32::from(entry.metric).saturating_sub(1);
    if !is_add {
        let gone = devices.remove_routes(true, |route| {
            route.to == to
                && route.prefix == prefix
                && (!has_gateway || route.gateway == Some(gateway))
                && interface.as_ref().is_none_or(|interface| interface.index == route.interface)
                && (metric == 0 || route.metric == metric)
        });
        return if gone > 0 { Ok(0) } else { Err(Errno::ESRCH) };
    }
    let interface = match interface {
        Some(interface) => interface,
        None if has_gateway => {
            let way = devices.way(gateway, None, 0)?;
            if way.next_hop != gateway {
                return Err(Errno::ENETUNREACH);
            }
            way.interface
        }
        None if entry.flags & RTF_REJECT != 0 => devices.loopback().ok_or(Errno::ENODEV)?,
        None => return Err(Errno::ENODEV),
    };
    if !interface.is_up() {
        return Err(Errno::ENETDOWN);
    }
    let mut route = if has_gateway {
        Route::via(to, prefix, gateway, interface.index)
    } else {
        Route { protocol: 3, ..Route::on_link(to, prefix, interface.index) }
    };
    if entry.flags & RTF_REJECT != 0 {
        route.kind = netdevice::RTN_UNREACHABLE;
    }
    route.metric = metric;
    devices.add_route(route)?;
    Ok(0)
}
