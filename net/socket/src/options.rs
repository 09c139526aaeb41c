//! The options of `SOL_SOCKET` (socket(7)).

use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, Ordering};

use abi::socket::*;
use abi::{Errno, Result};
use vfs::Cap;

use crate::ancillary::Cred;
use crate::common::{Common, Flag};
use crate::filter;
use crate::interface::{Call, OptionIn, OptionOut, device_control};
use crate::wait::NO_TIMEOUT;

/// The least `SO_SNDBUF` and `SO_RCVBUF`, as Linux counts a small packet's memory.
const MIN_SNDBUF: i32 = 4608;
const MIN_RCVBUF: i32 = 2304;
/// Time-outs are kept in ticks of the 250 Hz that Linux's kernels of distributions count with.
const TICK_NS: u64 = 4_000_000;
/// The longest name of an interface with its NUL.
const IFNAMSIZ: usize = 16;
/// Programs' view of an error number that has no name there (`ENOTSUPP`).
const ENOTSUPP: Errno = Errno::from_raw(524);

/// Option bits that one number switches.
fn flag_of(name: i32) -> Option<Flag> {
    Some(match name {
        SO_REUSEADDR => Flag::REUSEADDR,
        SO_REUSEPORT => Flag::REUSEPORT,
        SO_DONTROUTE => Flag::DONTROUTE,
        SO_BROADCAST => Flag::BROADCAST,
        SO_KEEPALIVE => Flag::KEEPALIVE,
        SO_OOBINLINE => Flag::OOBINLINE,
        SO_NO_CHECK => Flag::NO_CHECK,
        SO_PASSCRED => Flag::PASSCRED,
        SO_PASSSEC => Flag::PASSSEC,
        SO_RXQ_OVFL => Flag::RXQ_OVFL,
        SO_WIFI_STATUS => Flag::WIFI_STATUS,
        SO_NOFCS => Flag::NOFCS,
        SO_SELECT_ERR_QUEUE => Flag::SELECT_ERR_QUEUE,
        _ => return None,
    })
}

fn may_administer(common: &Common, call: &Call<'_>) -> bool {
    call.creds().ns_capable(&common.namespace.user_ns, Cap::NET_ADMIN)
}

fn require_admin(common: &Common, call: &Call<'_>) -> Result<()> {
    if may_administer(common, call) { Ok(()) } else { Err(Errno::EPERM) }
}

/// Sets a generic option.
pub fn set(common: &Common, call: &Call<'_>, name: i32, value: &mut OptionIn<'_>) -> Result<()> {
    if name == SO_BINDTODEVICE {
        return bind_to_device(common, call, value);
    }
    if name == SO_ATTACH_FILTER {
        return filter::attach(common, value);
    }
    let options = &common.options;
    // What has a longer value starts with an `int` too.
    match name {
        SO_LINGER => {
            // An `int` at least is what every option is read as first.
            let linger: Linger = value.read()?;
            options.linger_s.store(linger.linger, Ordering::Relaxed);
            options.set(Flag::LINGER, linger.onoff != 0);
            return Ok(());
        }
        SO_RCVTIMEO_OLD | SO_RCVTIMEO_NEW => {
            options.rcvtimeo_ns.store(read_timeout(value)?, Ordering::Relaxed);
            return Ok(());
        }
        SO_SNDTIMEO_OLD | SO_SNDTIMEO_NEW => {
            options.sndtimeo_ns.store(read_timeout(value)?, Ordering::Relaxed);
            return Ok(());
        }
        SO_MAX_PACING_RATE if value.len() >= 8 => {
            options.max_pacing_rate.store(value.read()?, Ordering::Relaxed);
            return Ok(());
        }
        _ => {}
    }
    set_int(common, call, name, value.int()?)
}

fn set_int(common: &Common, call: &Call<'_>, name: i32, value: i32) -> Result<()> {
    let options = &common.options;
    let core = &common.namespace.core;
    let on = value != 0;
    if let Some(flag) = flag_of(name) {
        options.set(flag, on);
        return Ok(());
    }
    match name {
        SO_DEBUG => {
            if on {
                require_admin(common, call).map_err(|_| Errno::EACCES)?;
            }
            options.set(Flag::DEBUG, on);
        }
        SO_SNDBUF => set_sndbuf(common, value.min(core.wmem_max.load(Ordering::Relaxed))),
        SO_RCVBUF => set_rcvbuf(common, value.min(core.rmem_max.load(Ordering::Relaxed))),
        SO_SNDBUFFORCE => {
            require_admin(common, call)?;
            set_sndbuf(common, value.max(0));
        }
        SO_RCVBUFFORCE => {
            require_admin(common, call)?;
            set_rcvbuf(common, value.max(0));
        }
        SO_PRIORITY => {
            if !(0..=6).contains(&value) {
                require_admin(common, call)?;
            }
            options.priority.store(value, Ordering::Relaxed);
        }
        SO_RCVLOWAT => {
            let low = if value < 0 { i32::MAX } else { value.max(1) };
            options.rcvlowat.store(low, Ordering::Relaxed);
        }
        SO_MARK => {
            require_admin(common, call)?;
            options.mark.store(value as u32, Ordering::Relaxed);
        }
        SO_TIMESTAMP_OLD | SO_TIMESTAMP_NEW | SO_TIMESTAMPNS_OLD | SO_TIMESTAMPNS_NEW => {
            options.set(Flag::TIMESTAMP, on);
            let nanoseconds = matches!(name, SO_TIMESTAMPNS_OLD | SO_TIMESTAMPNS_NEW);
            options.set(Flag::TIMESTAMPNS, on && nanoseconds);
            let new = matches!(name, SO_TIMESTAMP_NEW | SO_TIMESTAMPNS_NEW);
            options.set(Flag::TIMESTAMP_NEW, on && new);
        }
        SO_TIMESTAMPING_OLD | SO_TIMESTAMPING_NEW => {
            // The flags of Linux 5.4 end at bit 14.
            if value & !0x7fff != 0 {
                return Err(Errno::EINVAL);
            }
            options.timestamping.store(value as u32, Ordering::Relaxed);
        }
        SO_BUSY_POLL => {
            if value > options.busy_poll.load(Ordering::Relaxed) {
                require_admin(common, call)?;
            }
            if value < 0 {
                return Err(Errno::EINVAL);
            }
            options.busy_poll.store(value, Ordering::Relaxed);
        }
        SO_MAX_PACING_RATE => {
            let rate = if value == -1 { u64::MAX } else { u64::from(value as u32) };
            options.max_pacing_rate.store(rate, Ordering::Relaxed);
        }
        SO_INCOMING_CPU => options.incoming_cpu.store(value, Ordering::Relaxed),
        SO_BINDTOIFINDEX => {
            let bound = options.bound_device.load(Ordering::Relaxed);
            may_bind_to_device(common, call, bound)?;
            if value < 0 {
                return Err(Errno::EINVAL);
            }
            options.bound_device.store(value, Ordering::Relaxed);
        }
        SO_BSDCOMPAT => {}
        SO_DETACH_FILTER => {
            return filter::detach(common);
        }
        SO_LOCK_FILTER => {
            if options.has(Flag::LOCK_FILTER) && !on {
                return Err(Errno::EPERM);
            }
            options.set(Flag::LOCK_FILTER, on);
        }
        SO_PEEK_OFF => return Err(Errno::EOPNOTSUPP),
        SO_ZEROCOPY => return Err(ENOTSUPP),
        SO_CNX_ADVICE if value != 1 => return Err(Errno::EOPNOTSUPP),
        SO_CNX_ADVICE => {}
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

fn set_sndbuf(common: &Common, value: i32) {
    let bytes = value.min(i32::MAX / 2).saturating_mul(2).max(MIN_SNDBUF);
    common.options.sndbuf.store(bytes, Ordering::Relaxed);
    common.options.set(Flag::SNDBUF_LOCKED, true);
}

fn set_rcvbuf(common: &Common, value: i32) {
    let bytes = value.min(i32::MAX / 2).saturating_mul(2).max(MIN_RCVBUF);
    common.options.rcvbuf.store(bytes, Ordering::Relaxed);
    common.options.set(Flag::RCVBUF_LOCKED, true);
}

/// `struct timeval`: nothing is no time-out, less than nothing is no waiting.
fn read_timeout(value: &mut OptionIn<'_>) -> Result<u64> {
    let time: Timeval = value.read()?;
    if !(0..1_000_000).contains(&time.usec) {
        return Err(Errno::EDOM);
    }
    if time.sec < 0 {
        return Ok(0);
    }
    if time.sec == 0 && time.usec == 0 {
        return Ok(NO_TIMEOUT);
    }
    let ns = (time.sec as u64)
        .checked_mul(1_000_000_000)
        .and_then(|ns| ns.checked_add(time.usec as u64 * 1000))
        .and_then(|ns| ns.checked_next_multiple_of(TICK_NS));
    Ok(ns.unwrap_or(NO_TIMEOUT))
}

fn timeout_value(ns: u64) -> Timeval {
    if ns == NO_TIMEOUT {
        return Timeval::default();
    }
    Timeval { sec: (ns / 1_000_000_000) as i64, usec: (ns / 1000 % 1_000_000) as i64 }
}

fn may_bind_to_device(common: &Common, call: &Call<'_>, bound: i32) -> Result<()> {
    if bound != 0 && !call.creds().ns_capable(&common.namespace.user_ns, Cap::NET_RAW) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

fn bind_to_device(common: &Common, call: &Call<'_>, value: &mut OptionIn<'_>) -> Result<()> {
    let bound = &common.options.bound_device;
    may_bind_to_device(common, call, bound.load(Ordering::Relaxed))?;
    let mut name = [0; IFNAMSIZ];
    let room = name.get_mut(..IFNAMSIZ - 1).unwrap_or_default();
    let len = value.bytes(room)?;
    let name = name.get(..len).unwrap_or_default();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let index = match name {
        [] => 0,
        name => device_control()
            .and_then(|devices| devices.index_of(&common.namespace, name))
            .ok_or(Errno::ENODEV)?,
    };
    bound.store(index, Ordering::Relaxed);
    Ok(())
}

/// Reads a generic option.
pub fn get(common: &Common, call: &Call<'_>, name: i32, value: &mut OptionOut<'_>) -> Result<()> {
    let options = &common.options;
    let number = |word: &AtomicI32| word.load(Ordering::Relaxed);
    if let Some(flag) = flag_of(name) {
        return value.int(i32::from(options.has(flag)));
    }
    let is_stamped = |needed: Flag, refused: Flag| {
        i32::from(options.has(needed) && (refused.is_empty() || !options.has(refused)))
    };
    match name {
        SO_DEBUG => value.int(i32::from(options.has(Flag::DEBUG))),
        SO_TYPE => value.int(common.kind as i32),
        SO_PROTOCOL => value.int(common.protocol),
        SO_DOMAIN => value.int(i32::from(common.family)),
        SO_ERROR => value.int(common.take_error().map_or(0, Errno::raw)),
        SO_SNDBUF => value.int(number(&options.sndbuf)),
        SO_RCVBUF => value.int(number(&options.rcvbuf)),
        SO_PRIORITY => value.int(number(&options.priority)),
        SO_LINGER => value.value(&Linger {
            onoff: i32::from(options.has(Flag::LINGER)),
            linger: number(&options.linger_s),
        }),
        SO_BSDCOMPAT => value.int(0),
        SO_RCVLOWAT => value.int(number(&options.rcvlowat)),
        SO_SNDLOWAT => value.int(1),
        SO_RCVTIMEO_OLD | SO_RCVTIMEO_NEW => {
            value.value(&timeout_value(options.rcvtimeo_ns.load(Ordering::Relaxed)))
        }
        SO_SNDTIMEO_OLD | SO_SNDTIMEO_NEW => {
            value.value(&timeout_value(options.sndtimeo_ns.load(Ordering::Relaxed)))
        }
        SO_TIMESTAMP_OLD => {
            value.int(is_stamped(Flag::TIMESTAMP, Flag::TIMESTAMPNS | Flag::TIMESTAMP_NEW))
        }
        SO_TIMESTAMPNS_OLD => value.int(is_stamped(Flag::TIMESTAMPNS, Flag::TIMESTAMP_NEW)),
        SO_TIMESTAMP_NEW => value.int(is_stamped(Flag::TIMESTAMP_NEW, Flag::TIMESTAMPNS)),
        SO_TIMESTAMPNS_NEW => {
            value.int(is_stamped(Flag::TIMESTAMPNS | Flag::TIMESTAMP_NEW, Flag::empty()))
        }
        // `struct so_timestamping`: the flags, and no clock of a device.
        SO_TIMESTAMPING_OLD | SO_TIMESTAMPING_NEW => {
            value.value(&[options.timestamping.load(Ordering::Relaxed), 0])
        }
        // `struct sock_txtime`: off, as it cannot be switched on.
        SO_TXTIME => value.value(&[0u32; 2]),
        SO_PEERCRED => {
            let nobody = Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
            let seen = |cred: &Cred| cred.seen_from(&call.creds().user_ns);
            value.value(&common.peer().map_or(nobody, |peer| seen(&peer.cred)))
        }
        SO_PEERGROUPS => peer_groups(common, call, value),
        SO_ACCEPTCONN => value.int(i32::from(common.is_listening())),
        SO_PEERSEC => Err(Errno::ENOPROTOOPT),
        SO_MARK => value.int(options.mark.load(Ordering::Relaxed) as i32),
        SO_PEEK_OFF => Err(Errno::EOPNOTSUPP),
        SO_BINDTODEVICE => bound_device(common, value),
        // `SO_GET_FILTER` is the same number.
        SO_ATTACH_FILTER => filter::get(common, value),
        SO_LOCK_FILTER => value.int(i32::from(options.has(Flag::LOCK_FILTER))),
        SO_BPF_EXTENSIONS => value.int(64),
        SO_BUSY_POLL => value.int(number(&options.busy_poll)),
        SO_MAX_PACING_RATE => {
            let rate = options.max_pacing_rate.load(Ordering::Relaxed);
            if value.room() >= 8 {
                value.value(&rate)
            } else {
                value.int(u32::try_from(rate).unwrap_or(u32::MAX) as i32)
            }
        }
        SO_INCOMING_CPU => value.int(number(&options.incoming_cpu)),
        SO_MEMINFO => {
            let (rcvbuf, sndbuf) = (number(&options.rcvbuf), number(&options.sndbuf));
            value.value(&[0, rcvbuf, 0, sndbuf, 0, 0, 0, 0, 0])
        }
        SO_INCOMING_NAPI_ID => value.int(0),
        SO_COOKIE if value.room() < 8 => Err(Errno::EINVAL),
        SO_COOKIE => value.value(&common.cookie()),
        SO_ZEROCOPY => value.int(i32::from(options.has(Flag::ZEROCOPY))),
        SO_BINDTOIFINDEX => value.int(number(&options.bound_device)),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

fn peer_groups(common: &Common, call: &Call<'_>, value: &mut OptionOut<'_>) -> Result<()> {
    let peer = common.peer().ok_or(Errno::ENODATA)?;
    let bytes = peer.groups.len() * size_of::<u32>();
    if value.room() < bytes {
        value.tell_len(bytes);
        return Err(Errno::ERANGE);
    }
    let user_ns = &call.creds().user_ns;
    let mut out = Vec::new();
    out.try_reserve_exact(bytes).map_err(|_| Errno::ENOMEM)?;
    peer.groups.iter().for_each(|gid| out.extend_from_slice(&user_ns.gid_in(*gid).to_ne_bytes()));
    value.bytes(&out)
}

fn bound_device(common: &Common, value: &mut OptionOut<'_>) -> Result<()> {
    let index = common.options.bound_device.load(Ordering::Relaxed);
    if index == 0 {
        value.tell_len(0);
        return Ok(());
    }
    if value.room() < IFNAMSIZ {
        return Err(Errno::EINVAL);
    }
    let mut name = Vec::new();
    let devices = device_control().ok_or(Errno::ENODEV)?;
    if !devices.name_of(&common.namespace, index, &mut name) {
        return Err(Errno::ENODEV);
    }
    name.push(0);
    value.bytes(&name)
}
