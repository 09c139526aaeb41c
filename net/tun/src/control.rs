//! Device control of `/dev/net/tun` (tuntap.txt of Linux's documentation, `linux/if_tun.h`).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::tun::*;
use abi::{Errno, Result};
use arch::addr::VirtAddr;
use arch::user;
use netdevice::Devices;
use spin::Once;
use vfs::{Cap, Context, Creds};

use crate::choose::Wanted;
use crate::device::{Handle, Tun};
use crate::file::{TURN, TunFile};
use crate::wire::LEAST_HEADER;

/// What `TUNGETFEATURES` tells.
const FEATURES: u32 = (IFF_TUN
    | IFF_TAP
    | IFF_NO_PI
    | IFF_ONE_QUEUE
    | IFF_VNET_HDR
    | IFF_MULTI_QUEUE
    | IFF_NAPI
    | IFF_NAPI_FRAGS
    | IFF_NO_CARRIER) as u32;

static RANDOM: Once<fn() -> u64> = Once::new();

pub(crate) fn set_random(random: fn() -> u64) {
    RANDOM.call_once(|| random);
}

fn random() -> [u8; 16] {
    let word = || RANDOM.get().map_or_else(arch::time::cycles, |random| random());
    (u128::from(word()) << 64 | u128::from(word())).to_ne_bytes()
}

/// Serves a command. What is there before `TUNSETIFF` comes first; the rest is `EBADFD` then.
pub(crate) fn ioctl(file: &TunFile, ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
    let at = VirtAddr::new(arg as u64);
    match cmd {
        TUNGETFEATURES => {
            user::write_val(at, &FEATURES)?;
            return Ok(0);
        }
        TUNSETIFF => return set_iff(file, ctx, at),
        TUNSETIFINDEX => return set_index(file, at),
        TUNSETQUEUE => return set_queue(file, ctx, at),
        _ => {}
    }
    let tun = file.tun()?;
    match cmd {
        TUNSETOFFLOAD => set_offloads(&tun, arg as u32)?,
        TUNSETPERSIST => {
            let _turn = TURN.lock();
            tun.set_persistent(arg != 0);
        }
        TUNSETOWNER => {
            let user = ctx.creds.user_ns.uid_out(arg as u32)?;
            tun.set_owners(|owners| owners.user = Some(user));
        }
        TUNSETGROUP => {
            let group = ctx.creds.user_ns.gid_out(arg as u32)?;
            tun.set_owners(|owners| owners.group = Some(group));
        }
        // Without effect, as tuntap.txt says.
        TUNSETNOCSUM | TUNSETDEBUG => {}
        TUNSETLINK => set_link(file, arg)?,
        TUNSETCARRIER => tun.set_carrier(user::read_val::<u32>(at)? != 0),
        TUNSETTXFILTER => return set_wanted(&tun, at),
        TUNSETVNETHDRSZ | TUNGETVNETHDRSZ | TUNSETVNETLE | TUNGETVNETLE | TUNSETSNDBUF
        | TUNGETSNDBUF => number(&tun, cmd, at)?,
        TUNGETIFF | SIOCGIFHWADDR | SIOCSIFHWADDR => interface(file, &tun, cmd, at)?,
        TUNATTACHFILTER | TUNDETACHFILTER | TUNGETFILTER => filter(&tun, cmd, at)?,
        TUNSETSTEERINGEBPF | TUNSETFILTEREBPF => no_program(ctx, at)?,
        TUNGETDEVNETNS | SIOCGSKNS => return namespace(file, ctx),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `TUNSETIFINDEX`: before there is an interface.
fn set_index(file: &TunFile, at: VirtAddr) -> Result<usize> {
    if file.tun().is_ok() {
        return Err(Errno::EPERM);
    }
    let index: u32 = user::read_val(at)?;
    if index > i32::MAX as u32 {
        return Err(Errno::EINVAL);
    }
    file.index.store(index, Ordering::Relaxed);
    Ok(0)
}

/// `TUNSETIFF`: finds the interface, or makes it.
fn set_iff(file: &TunFile, ctx: &Context<'_>, at: VirtAddr) -> Result<usize> {
    let mut request: IfReq = user::read_val(at)?;
    let name = core::str::from_utf8(request.name_bytes()).map_err(|_| Errno::EINVAL)?;
    let name = attach(file, ctx.creds, name, request.flags())?;
    request.set_name(&name);
    user::write_val(at, &request)?;
    Ok(0)
}

/// Makes a file one of the interface that is meant; that one's name.
///
/// # Errors
/// `EEXIST` if it is one already, `EBUSY` if the interface has its file or is there against what is asked,
/// `EINVAL` for another type or name, `EPERM`, `E2BIG`.
pub(crate) fn attach(file: &TunFile, creds: &Creds, name: &str, flags: u16) -> Result<String> {
    let _turn = TURN.lock();
    if file.tun().is_ok() {
        return Err(Errno::EEXIST);
    }
    let devices = file.namespace.part_arc::<Devices>().ok_or(Errno::ENOMEM)?;
    match devices.by_name(name) {
        Some(interface) => {
            let tun = join(file, creds, &interface, flags)?;
            file.set_tun(&tun);
            devices.touch(&interface);
            Ok(interface.name())
        }
        None => make(file, creds, &devices, name, flags),
    }
}

fn join(
    file: &TunFile,
    creds: &Creds,
    interface: &netdevice::Interface,
    flags: u16,
) -> Result<Arc<Tun>> {
    if flags & IFF_TUN_EXCL != 0 {
        return Err(Errno::EBUSY);
    }
    let tun = Tun::of(interface).ok_or(Errno::EINVAL)?;
    let wants_tap = flags & IFF_TUN == 0;
    if tun.is_tap != wants_tap || (wants_tap && flags & IFF_TAP == 0) {
        return Err(Errno::EINVAL);
    }
    if tun.is_multi != (flags & IFF_MULTI_QUEUE != 0) {
        return Err(Errno::EINVAL);
    }
    if !tun.may_be_used(creds) {
        return Err(Errno::EPERM);
    }
    file.queue.clear();
    tun.attach(&file.queue)?;
    tun.set_flags(flags);
    Ok(tun)
}

fn make(
    file: &TunFile,
    creds: &Creds,
    devices: &Devices,
    name: &str,
    flags: u16,
) -> Result<String> {
    if !creds.ns_capable(&file.namespace.user_ns, Cap::NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    let pattern = match flags & (IFF_TUN | IFF_TAP) {
        0 => return Err(Errno::EINVAL),
        IFF_TAP => "tap%d",
        _ => "tun%d",
    };
    let frags = flags & (IFF_NAPI | IFF_NAPI_FRAGS | IFF_TUN);
    if flags & IFF_NAPI_FRAGS != 0 && frags != IFF_NAPI | IFF_NAPI_FRAGS {
        return Err(Errno::EINVAL);
    }
    file.queue.clear();
    file.queue.is_disabled.store(false, Ordering::Relaxed);
    let tun = Tun::new(flags, &file.queue, random());
    // It counts once, whatever comes of it.
    let index = file.index.swap(0, Ordering::Relaxed);
    let name = if name.is_empty() { pattern } else { name };
    let interface = devices.add_with(name, index, Arc::new(Handle(tun.clone())), |_| {})?;
    file.set_tun(&tun);
    Ok(interface.name())
}

/// `TUNSETQUEUE`: takes the file's queue out of service, or into service again.
fn set_queue(file: &TunFile, ctx: &Context<'_>, at: VirtAddr) -> Result<usize> {
    let request: IfReq = user::read_val(at)?;
    let _turn = TURN.lock();
    let tun = file.tun().map_err(|_| Errno::EINVAL)?;
    match request.flags() & (IFF_ATTACH_QUEUE | IFF_DETACH_QUEUE) {
        IFF_ATTACH_QUEUE if !tun.may_be_used(ctx.creds) => Err(Errno::EPERM),
        IFF_ATTACH_QUEUE => tun.enable(&file.queue).map(|()| 0),
        IFF_DETACH_QUEUE => tun.disable(&file.queue).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

/// `TUNSETOFFLOAD`: without sums nothing else is possible, nor does a congested link tell of itself without segments.
fn set_offloads(tun: &Tun, wanted: u32) -> Result<()> {
    let has_segments = wanted & (TUN_F_TSO4 | TUN_F_TSO6) != 0;
    let with_segments = if has_segments { TUN_F_TSO_ECN } else { 0 };
    let with_sums = if wanted & TUN_F_CSUM != 0 {
        TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_UFO | with_segments
    } else {
        0
    };
    if wanted & !(TUN_F_CSUM | with_sums) != 0 {
        return Err(Errno::EINVAL);
    }
    tun.offloads.store(wanted, Ordering::Relaxed);
    Ok(())
}

fn set_link(file: &TunFile, arg: usize) -> Result<()> {
    let interface = file.interface()?;
    if interface.is_up() {
        return Err(Errno::EBUSY);
    }
    interface.set_kind(arg as u16);
    Ok(())
}

/// `TUNSETTXFILTER`: `struct tun_filter` with the addresses behind it.
fn set_wanted(tun: &Tun, at: VirtAddr) -> Result<usize> {
    if !tun.is_tap {
        return Err(Errno::EINVAL);
    }
    let [flags, count]: [u16; 2] = user::read_val(at)?;
    let mut addresses: Vec<[u8; 6]> = Vec::new();
    addresses.try_reserve_exact(usize::from(count)).map_err(|_| Errno::ENOMEM)?;
    for number in 0..u64::from(count) {
        addresses.push(user::read_val(VirtAddr::new(at.as_u64().wrapping_add(4 + 6 * number)))?);
    }
    let (wanted, told) = Wanted::new(flags, &addresses)?;
    tun.set_wanted(wanted);
    Ok(told)
}

/// What is one number.
fn number(tun: &Tun, cmd: u32, at: VirtAddr) -> Result<()> {
    match cmd {
        TUNGETVNETHDRSZ => user::write_val(at, &(tun.header.load(Ordering::Relaxed) as u32))?,
        TUNSETVNETHDRSZ => {
            let size = usize::try_from(user::read_val::<i32>(at)?).map_err(|_| Errno::EINVAL)?;
            if size < LEAST_HEADER {
                return Err(Errno::EINVAL);
            }
            tun.header.store(size, Ordering::Relaxed);
        }
        TUNGETSNDBUF => user::write_val(at, &tun.send_buffer.load(Ordering::Relaxed))?,
        TUNSETSNDBUF => {
            let size: i32 = user::read_val(at)?;
            if size <= 0 {
                return Err(Errno::EINVAL);
            }
            tun.send_buffer.store(size, Ordering::Relaxed);
        }
        TUNSETVNETLE => {
            let is_little = user::read_val::<i32>(at)? != 0;
            tun.is_little_endian.store(is_little, Ordering::Relaxed);
        }
        // Whatever it says, this machine's order is that one.
        _ => user::write_val(at, &i32::from(tun.is_little_endian.load(Ordering::Relaxed)))?,
    }
    Ok(())
}

/// What is told in a `struct ifreq`.
fn interface(file: &TunFile, tun: &Tun, cmd: u32, at: VirtAddr) -> Result<()> {
    let interface = file.interface()?;
    let mut request: IfReq = user::read_val(at)?;
    match cmd {
        TUNGETIFF => {
            let is_disabled = file.queue.is_disabled.load(Ordering::Relaxed);
            let detached = if is_disabled { IFF_DETACH_QUEUE } else { 0 };
            request.set_name(&interface.name());
            // Linux says so whether or not it is so (case `tun-flags`).
            request.set_flags(tun.flags() | IFF_NO_PI | detached);
        }
        SIOCGIFHWADDR => request.set_hardware(interface.kind(), interface.mac()),
        _ => {
            let (kind, mac) = request.hardware();
            if !tun.is_tap {
                return Err(Errno::EOPNOTSUPP);
            }
            if kind != interface.kind() {
                return Err(Errno::EINVAL);
            }
            interface.set_mac(mac)?;
            if let Some(devices) = interface.namespace().and_then(|n| n.part_arc::<Devices>()) {
                devices.touch(&interface);
            }
            return Ok(());
        }
    }
    user::write_val(at, &request)?;
    Ok(())
}

/// `TUNATTACHFILTER` and what goes with it: classic BPF that says which frames of a TAP are to be read.
fn filter(tun: &Tun, cmd: u32, at: VirtAddr) -> Result<()> {
    if !tun.is_tap {
        return Err(Errno::EINVAL);
    }
    match cmd {
        TUNGETFILTER => user::write_val(at, &tun.fprog())?,
        TUNDETACHFILTER => {
            drop(tun.filter.replace(None));
            tun.set_fprog([0; 16]);
        }
        _ => {
            let fprog: [u64; 2] = user::read_val(at)?;
            let program = socket::filter::read_program(fprog[0] as u16, fprog[1])?;
            drop(tun.filter.replace(Some(Arc::new(program))));
            let mut bytes = [0; 16];
            let given = fprog.into_iter().flat_map(u64::to_ne_bytes);
            bytes.iter_mut().zip(given).for_each(|(to, from)| *to = from);
            tun.set_fprog(bytes);
        }
    }
    Ok(())
}

/// eBPF programs: there are none that could be attached; `-1` takes the one away that is there.
fn no_program(ctx: &Context<'_>, at: VirtAddr) -> Result<()> {
    match user::read_val::<i32>(at)? {
        -1 => Ok(()),
        fd => ctx.caller.open_file(fd).and(Err(Errno::EINVAL)),
    }
}

/// `TUNGETDEVNETNS`, `SIOCGSKNS`: a descriptor of the interface's namespace.
fn namespace(file: &TunFile, ctx: &Context<'_>) -> Result<usize> {
    let namespace = file.interface()?.namespace().ok_or(Errno::EBADFD)?;
    if !ctx.creds.ns_capable(&namespace.user_ns, Cap::NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    socket::identity::open_namespace(ctx, &namespace)
}
