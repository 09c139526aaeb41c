//! `ip=` of the command line: `CLIENT:SERVER:GATEWAY:NETMASK:HOST:DEVICE:METHOD`.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use abi::{Errno, Result};
use netdevice::{Address, Devices, Ip, Route, flag};

use crate::control::class_prefix;

/// Sets an interface up as the text says. `EOPNOTSUPP` where it asks for an address from the network.
pub(crate) fn apply(devices: &Devices, text: &str) -> Result<()> {
    let fields: Vec<&str> = text.split(':').collect();
    let field = |index: usize| fields.get(index).copied().filter(|field| !field.is_empty());
    if matches!(fields.as_slice(), ["off" | "none"]) {
        return Ok(());
    }
    let parse = |text: &str| text.parse::<Ipv4Addr>().map_err(|_| Errno::EINVAL);
    // Asking for an address is left to programs: there is no client in the kernel.
    let client = parse(field(0).ok_or(Errno::EOPNOTSUPP)?).map_err(|_| Errno::EOPNOTSUPP)?;
    let prefix = match field(3) {
        Some(mask) => parse(mask)?.to_bits().leading_ones() as u8,
        None => class_prefix(Ip::from(client)),
    };
    let interface = match field(5) {
        Some(name) => devices.by_name(name).ok_or(Errno::ENODEV)?,
        None => {
            let all = devices.all();
            all.into_iter().find(|interface| !interface.is_loopback()).ok_or(Errno::ENODEV)?
        }
    };
    let ip = Ip::from(client);
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    let broadcast = Ip::from(Ipv4Addr::from_bits(client.to_bits() | !mask));
    devices.set_flags(&interface, flag::UP, 0);
    devices.add_address(
        &interface,
        Address {
            ip,
            prefix,
            broadcast: (prefix < 31).then_some(broadcast),
            peer: None,
            scope: 0,
            flags: 0x80,
            label: interface.name(),
            lifetime: None,
        },
    )?;
    if let Some(gateway) = field(2) {
        let gateway = Ip::from(parse(gateway)?);
        devices.add_route(Route::via(Ip::ANY4, 0, gateway, interface.index))?;
    }
    Ok(())
}
