//! `prctl(2)`, `arch_prctl(2)`, `personality(2)`.

use crate::Cx;
use abi::process::securebits;
use abi::signal::Signal;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;
use core::sync::atomic::Ordering;
use process::creds;
use vfs::cred::{Cap, CapSet};

crate::syscalls! {
    135 personality => sys_personality(persona: Hex);
    157 prctl => sys_prctl(option: Dec, arg2: Hex, arg3: Hex, arg4: Hex, arg5: Hex);
    158 arch_prctl => sys_arch_prctl(code: Hex, address: Hex);
}

/// `personality(2)`.
fn sys_personality(cx: &mut Cx<'_>, persona: u32) -> Result<usize> {
    let old = if persona == u32::MAX {
        cx.task.personality.load(Ordering::Relaxed)
    } else {
        cx.task.personality.swap(persona, Ordering::Relaxed)
    };
    Ok(old as usize)
}

/// `arch_prctl(2)`.
fn sys_arch_prctl(cx: &mut Cx<'_>, code: u32, address: VirtAddr) -> Result<usize> {
    let thread = cx.task.thread().ok_or(Errno::EINVAL)?;
    match code {
        0x1001 | 0x1002 => {
            if !address.is_user() {
                return Err(Errno::EPERM);
            }
            if code == 0x1001 {
                thread.arch().set_gs_base(address.0);
            } else {
                thread.arch().set_fs_base(address.0);
            }
        }
        0x1003 => user::write_val(address, &thread.arch().fs_base())?,
        0x1004 => user::write_val(address, &thread.arch().gs_base())?,
        // ARCH_GET_CPUID, ARCH_SET_CPUID: no CPUID faulting.
        0x1011 => return Ok(1),
        0x1012 => return Err(Errno::ENODEV),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn capability(raw: u64) -> Result<u32> {
    u32::try_from(raw).ok().filter(|&c| c <= CapSet::LAST).ok_or(Errno::EINVAL)
}

fn flag(raw: u64) -> Result<bool> {
    match raw {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Errno::EINVAL),
    }
}

fn none(args: &[u64]) -> Result<()> {
    if args.iter().all(|&a| a == 0) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `prctl(2)`. Not supported: `PR_SET_UNALIGN` and its like of other machines, `PR_MPX_*`,
/// `PR_SET_SPECULATION_CTRL`, `PR_TASK_PERF_EVENTS_*` (`EINVAL`).
fn sys_prctl(cx: &mut Cx<'_>, option: i32, a2: u64, a3: u64, a4: u64, a5: u64) -> Result<usize> {
    let task = cx.task;
    let group = &task.group;
    match option {
        1 => {
            let signal = a2 as i32;
            if a2 > 64 {
                return Err(Errno::EINVAL);
            }
            task.set_parent_death_signal(Signal::new(signal));
            Ok(0)
        }
        2 => {
            user::write_val(VirtAddr(a2), &task.parent_death_signal())?;
            Ok(0)
        }
        3 => Ok(group.dumpable.load(Ordering::Relaxed) as usize),
        4 => {
            group.dumpable.store(u32::from(flag(a2)?), Ordering::Relaxed);
            Ok(0)
        }
        7 => Ok(usize::from(task.creds().securebits & securebits::KEEP_CAPS != 0)),
        8 => {
            let keep = flag(a2)?;
            let old = task.creds();
            if old.securebits & securebits::KEEP_CAPS_LOCKED != 0 {
                return Err(Errno::EPERM);
            }
            let mut new = (*old).clone();
            new.securebits &= !securebits::KEEP_CAPS;
            if keep {
                new.securebits |= securebits::KEEP_CAPS;
            }
            creds::commit(task, new);
            Ok(0)
        }
        // PR_GET_TIMING, PR_SET_TIMING: statistical only.
        13 => Ok(0),
        14 => {
            if a2 == 0 {
                Ok(0)
            } else {
                Err(Errno::EINVAL)
            }
        }
        15 => {
            let mut name = [0u8; 16];
            let len = read_name(VirtAddr(a2), &mut name)?;
            task.set_comm(name.get(..len).unwrap_or_default());
            Ok(0)
        }
        16 => {
            let mut name = task.comm();
            name[15] = 0;
            user::copy_to_user(VirtAddr(a2), &name)?;
            Ok(0)
        }
        21 => Ok(task.seccomp_mode() as usize),
        22 => crate::seccomp::set_mode(cx, a2, VirtAddr(a3)),
        23 => {
            let cap = capability(a2)?;
            Ok(usize::from(task.creds().bounding.0 & 1 << cap != 0))
        }
        24 => {
            let cap = capability(a2)?;
            let old = task.creds();
            if !old.ns_capable(&old.user_ns, Cap::SETPCAP) {
                return Err(Errno::EPERM);
            }
            let mut new = (*old).clone();
            new.bounding.0 &= !(1 << cap);
            creds::commit(task, new);
            Ok(0)
        }
        // PR_GET_TSC: always enabled.
        25 => {
            user::write_val(VirtAddr(a2), &1u32)?;
            Ok(0)
        }
        26 => {
            if a2 == 1 {
                Ok(0)
            } else {
                Err(Errno::EINVAL)
            }
        }
        27 => Ok(task.creds().securebits as usize),
        28 => set_securebits(cx, a2),
        29 => {
            let default = task.default_timer_slack_ns.load(Ordering::Relaxed);
            let slack = if a2 as i64 <= 0 { default } else { a2 };
            sched::current().set_timer_slack_ns(slack);
            Ok(0)
        }
        30 => Ok(sched::current().timer_slack_ns() as usize),
        // PR_MCE_KILL, PR_MCE_KILL_GET: the default policy.
        33 => Ok(0),
        34 => none(&[a2, a3, a4, a5]).map(|()| 2),
        35 => set_mm(cx, a2, a3, a4, a5),
        36 => {
            group.set_subreaper(a2 != 0);
            Ok(0)
        }
        37 => {
            user::write_val(VirtAddr(a2), &u32::from(group.is_subreaper()))?;
            Ok(0)
        }
        38 => {
            if a2 != 1 {
                return Err(Errno::EINVAL);
            }
            none(&[a3, a4, a5])?;
            task.set_no_new_privs();
            Ok(0)
        }
        39 => none(&[a2, a3, a4, a5]).map(|()| usize::from(task.no_new_privs())),
        40 => {
            user::write_val(VirtAddr(a2), &task.clear_child_tid().0)?;
            Ok(0)
        }
        41 => {
            none(&[a3, a4, a5])?;
            let mm = task.mm().ok_or(Errno::EINVAL)?;
            mm.set_thp_disabled(a2 != 0);
            Ok(0)
        }
        42 => {
            none(&[a2, a3, a4, a5])?;
            Ok(usize::from(task.mm().is_some_and(|mm| mm.is_thp_disabled())))
        }
        47 => ambient(cx, a2, a3),
        // PR_SET_PTRACER (Yama): no such policy.
        0x5961_6d61 => Err(Errno::EINVAL),
        _ => Err(Errno::EINVAL),
    }
}

fn read_name(from: VirtAddr, name: &mut [u8; 16]) -> Result<usize> {
    let got = user::copy_from_user_partial(name, from);
    let nul = name.get(..got).and_then(|n| n.iter().position(|&b| b == 0));
    match nul {
        Some(len) => Ok(len.min(15)),
        None if got == name.len() => Ok(15),
        None => Err(Errno::EFAULT),
    }
}

/// `PR_SET_SECUREBITS`.
fn set_securebits(cx: &Cx<'_>, raw: u64) -> Result<usize> {
    let old = cx.task.creds();
    let bits = u32::try_from(raw).map_err(|_| Errno::EPERM)?;
    let locked = (old.securebits & securebits::ALL_LOCKS) >> 1;
    let changes_locked = locked & (old.securebits ^ bits) != 0;
    let unlocks = old.securebits & securebits::ALL_LOCKS & !bits != 0;
    let unknown = bits & !(securebits::ALL_BITS | securebits::ALL_LOCKS) != 0;
    if changes_locked || unlocks || unknown || !old.ns_capable(&old.user_ns, Cap::SETPCAP) {
        return Err(Errno::EPERM);
    }
    let mut new = (*old).clone();
    new.securebits = bits;
    creds::commit(cx.task, new);
    Ok(0)
}

/// `PR_CAP_AMBIENT`.
fn ambient(cx: &Cx<'_>, action: u64, raw: u64) -> Result<usize> {
    let old = cx.task.creds();
    if action == 4 {
        none(&[raw])?;
        let mut new = (*old).clone();
        new.ambient = CapSet::EMPTY;
        creds::commit(cx.task, new);
        return Ok(0);
    }
    let cap = capability(raw)?;
    let bit = 1u64 << cap;
    let mut new = (*old).clone();
    match action {
        1 => return Ok(usize::from(old.ambient.0 & bit != 0)),
        2 => {
            let allowed = old.permitted.0 & old.inheritable.0 & bit != 0
                && old.securebits & securebits::NO_CAP_AMBIENT_RAISE == 0;
            if !allowed {
                return Err(Errno::EPERM);
            }
            new.ambient.0 |= bit;
        }
        3 => new.ambient.0 &= !bit,
        _ => return Err(Errno::EINVAL),
    }
    creds::commit(cx.task, new);
    Ok(0)
}

/// `PR_SET_MM`: what `/proc/PID` shows of the layout; with `CAP_SYS_RESOURCE`.
fn set_mm(cx: &Cx<'_>, field: u64, value: u64, len: u64, a5: u64) -> Result<usize> {
    if a5 != 0 || (len != 0 && field != 12 && field != 14 && field != 15) {
        return Err(Errno::EINVAL);
    }
    if !cx.task.capable(Cap::SYS_RESOURCE) {
        return Err(Errno::EPERM);
    }
    if !VirtAddr(value).is_user() {
        return Err(Errno::EINVAL);
    }
    if !(1..=11).contains(&field) {
        return Err(Errno::EINVAL);
    }
    cx.task.group.update_layout(|layout| {
        let slot = match field {
            1 => &mut layout.start_code,
            2 => &mut layout.end_code,
            3 => &mut layout.start_data,
            4 => &mut layout.end_data,
            5 => &mut layout.start_stack,
            6 | 7 => &mut layout.start_brk,
            8 => &mut layout.arg_start,
            9 => &mut layout.arg_end,
            10 => &mut layout.env_start,
            _ => &mut layout.env_end,
        };
        *slot = value;
    });
    Ok(0)
}
