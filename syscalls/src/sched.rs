//! Scheduling: policies, priorities, affinity, yield.

use crate::Cx;
use abi::process::Resource;
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::cpu::{CpuId, CpuSet};
use arch::user;
use process::Task;
use sched::{Params, Policy};
use vfs::cred::Cap;

crate::syscalls! {
    24 sched_yield => sys_sched_yield();
    140 getpriority => sys_getpriority(which: Dec, who: Dec);
    141 setpriority => sys_setpriority(which: Dec, who: Dec, nice: Dec);
    142 sched_setparam => sys_sched_setparam(pid: Dec, param: Hex);
    143 sched_getparam => sys_sched_getparam(pid: Dec, param: Hex);
    144 sched_setscheduler => sys_sched_setscheduler(pid: Dec, policy: Dec, param: Hex);
    145 sched_getscheduler => sys_sched_getscheduler(pid: Dec);
    146 sched_get_priority_max => sys_sched_get_priority_max(policy: Dec);
    147 sched_get_priority_min => sys_sched_get_priority_min(policy: Dec);
    148 sched_rr_get_interval => sys_sched_rr_get_interval(pid: Dec, interval: Hex);
    203 sched_setaffinity => sys_sched_setaffinity(pid: Dec, len: Dec, mask: Hex);
    204 sched_getaffinity => sys_sched_getaffinity(pid: Dec, len: Dec, mask: Hex);
    251 ioprio_set => sys_ioprio_set(which: Dec, who: Dec, ioprio: Hex);
    252 ioprio_get => sys_ioprio_get(which: Dec, who: Dec);
    309 getcpu => sys_getcpu(cpu: Hex, node: Hex);
    314 sched_setattr => sys_sched_setattr(pid: Dec, attr: Hex, flags: Hex);
    315 sched_getattr => sys_sched_getattr(pid: Dec, attr: Hex, size: Dec, flags: Hex);
}

fn sys_sched_yield(_: &mut Cx<'_>) -> Result<usize> {
    sched::yield_now();
    Ok(0)
}

fn find(cx: &Cx<'_>, pid: i32) -> Result<Arc<Task>> {
    if pid < 0 {
        return Err(Errno::EINVAL);
    }
    if pid == 0 {
        return cx.task.arc().ok_or(Errno::ESRCH);
    }
    cx.task.group.pid_ns().task(pid).ok_or(Errno::ESRCH)
}

fn params(task: &Task) -> Result<Params> {
    Ok(task.thread().ok_or(Errno::ESRCH)?.params())
}

fn may_change(cx: &Cx<'_>, target: &Task) -> Result<()> {
    let (mine, theirs) = (cx.task.creds(), target.creds());
    let same = mine.euid == theirs.euid || mine.euid == theirs.uid;
    if same || mine.ns_capable(&theirs.user_ns, Cap::SYS_NICE) { Ok(()) } else { Err(Errno::EPERM) }
}

/// Like [`find`], for calls to which a negative number is nobody.
fn find_positive(cx: &Cx<'_>, pid: i32) -> Result<Arc<Task>> {
    find(cx, pid).map_err(|error| if pid < 0 { Errno::ESRCH } else { error })
}

/// Whose priorities a call is about.
fn targets(cx: &Cx<'_>, which: i32, who: i32) -> Result<Vec<Arc<Task>>> {
    let ns = cx.task.group.pid_ns();
    Ok(match which {
        0 if who < 0 => return Err(Errno::ESRCH),
        0 => alloc::vec![find(cx, who)?],
        1 => {
            let pgrp =
                if who == 0 { cx.task.group.pgrp() } else { ns.find(who).ok_or(Errno::ESRCH)? };
            pgrp.members().iter().flat_map(|g| g.tasks()).collect()
        }
        2 => {
            let creds = cx.task.creds();
            let uid = if who == 0 {
                creds.uid
            } else {
                creds.user_ns.uid_out(who as u32).map_err(|_| Errno::ESRCH)?
            };
            tasks_of(cx, uid)
        }
        _ => return Err(Errno::EINVAL),
    })
}

/// `getpriority(2)`: 20 minus the lowest nice value.
fn sys_getpriority(cx: &mut Cx<'_>, which: i32, who: i32) -> Result<usize> {
    let nice = targets(cx, which, who)?
        .iter()
        .filter_map(|t| params(t).ok())
        .map(|p| i32::from(p.nice))
        .min()
        .ok_or(Errno::ESRCH)?;
    Ok((20 - nice) as usize)
}

fn sys_setpriority(cx: &mut Cx<'_>, which: i32, who: i32, nice: i32) -> Result<usize> {
    let nice = nice.clamp(-20, 19);
    let mut outcome = Err(Errno::ESRCH);
    for task in targets(cx, which, who)? {
        let step = (|| {
            let (mine, theirs) = (cx.task.creds(), task.creds());
            if mine.euid != theirs.euid && mine.euid != theirs.uid {
                may_change(cx, &task)?;
            }
            let old = params(&task)?;
            let floor = 20 - task.limit(Resource::Nice).min(40) as i32;
            if nice < i32::from(old.nice) && nice < floor && !cx.task.capable(Cap::SYS_NICE) {
                return Err(Errno::EACCES);
            }
            task.thread().ok_or(Errno::ESRCH)?.set_params(Params { nice: nice as i8, ..old });
            Ok(())
        })();
        match step {
            Ok(()) if outcome == Err(Errno::ESRCH) => outcome = Ok(0),
            Ok(()) => {}
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

/// Changes policy and real-time priority.
fn set_policy(
    cx: &Cx<'_>,
    pid: i32,
    policy: Option<Policy>,
    priority: i32,
    nice: Option<i8>,
) -> Result<usize> {
    let task = find(cx, pid)?;
    let old = params(&task)?;
    let policy = policy.unwrap_or(old.policy);
    let valid = if policy.is_realtime() { (1..=99).contains(&priority) } else { priority == 0 };
    if !valid {
        return Err(Errno::EINVAL);
    }
    may_change(cx, &task)?;
    if !cx.task.capable(Cap::SYS_NICE) {
        let limit = task.limit(Resource::Rtprio);
        let raises = policy.is_realtime()
            && (!old.policy.is_realtime() || priority > i32::from(old.rt_priority));
        if raises && priority as u64 > limit {
            return Err(Errno::EPERM);
        }
    }
    let new = Params { policy, nice: nice.unwrap_or(old.nice), rt_priority: priority as u8 };
    task.thread().ok_or(Errno::ESRCH)?.set_params(new);
    Ok(0)
}

/// `SCHED_RESET_ON_FORK`: accepted.
const RESET_ON_FORK: u32 = 0x4000_0000;

fn sys_sched_setscheduler(
    cx: &mut Cx<'_>,
    pid: i32,
    policy: u32,
    param: VirtAddr,
) -> Result<usize> {
    if param.is_null() || (policy as i32) < 0 || pid < 0 {
        return Err(Errno::EINVAL);
    }
    let priority: i32 = user::read_val(param)?;
    find(cx, pid)?;
    let policy = Policy::from_raw(policy & !RESET_ON_FORK).ok_or(Errno::EINVAL)?;
    set_policy(cx, pid, Some(policy), priority, None)
}

fn sys_sched_setparam(cx: &mut Cx<'_>, pid: i32, param: VirtAddr) -> Result<usize> {
    if param.is_null() || pid < 0 {
        return Err(Errno::EINVAL);
    }
    let priority: i32 = user::read_val(param)?;
    set_policy(cx, pid, None, priority, None)
}

fn sys_sched_getparam(cx: &mut Cx<'_>, pid: i32, param: VirtAddr) -> Result<usize> {
    if param.is_null() {
        return Err(Errno::EINVAL);
    }
    let priority = i32::from(params(&*find(cx, pid)?)?.rt_priority);
    user::write_val(param, &priority)?;
    Ok(0)
}

fn sys_sched_getscheduler(cx: &mut Cx<'_>, pid: i32) -> Result<usize> {
    Ok(params(&*find(cx, pid)?)?.policy as usize)
}

fn sys_sched_get_priority_max(_: &mut Cx<'_>, policy: u32) -> Result<usize> {
    let policy = if policy == 6 { Some(Policy::Normal) } else { Policy::from_raw(policy) };
    Ok(if policy.ok_or(Errno::EINVAL)?.is_realtime() { 99 } else { 0 })
}

fn sys_sched_get_priority_min(_: &mut Cx<'_>, policy: u32) -> Result<usize> {
    let policy = if policy == 6 { Some(Policy::Normal) } else { Policy::from_raw(policy) };
    Ok(usize::from(policy.ok_or(Errno::EINVAL)?.is_realtime()))
}

fn sys_sched_rr_get_interval(cx: &mut Cx<'_>, pid: i32, at: VirtAddr) -> Result<usize> {
    let ns = match params(&*find(cx, pid)?)?.policy {
        Policy::Fifo => 0,
        Policy::RoundRobin => 100_000_000,
        _ => 4_000_000,
    };
    crate::time::write_timespec(at, ns)?;
    Ok(0)
}

/// Bytes of the mask that the kernel uses: one bit for each possible processor.
fn mask_len() -> usize {
    arch::cpu::possible_count().div_ceil(64) * 8
}

fn sys_sched_setaffinity(cx: &mut Cx<'_>, pid: i32, len: usize, mask: VirtAddr) -> Result<usize> {
    let mut words = [0u64; 4];
    let mut bytes = [0u8; 32];
    let used = (len as u32 as usize).min(mask_len()).min(32);
    user::copy_from_user(bytes.get_mut(..used).ok_or(Errno::EINVAL)?, mask)?;
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk.iter().rev().fold(0, |w, &b| w << 8 | u64::from(b));
    }
    let task = find_positive(cx, pid)?;
    may_change(cx, &task)?;
    let wanted: CpuSet = (0..256)
        .filter(|&i| words.get(i / 64).is_some_and(|w| w >> (i % 64) & 1 != 0))
        .filter_map(CpuId::new)
        .collect();
    let own = process::cgroup::cpuset::cpus_of(&task);
    let allowed = wanted.and(&arch::cpu::online()).and(&own);
    if allowed.is_empty() {
        return Err(Errno::EINVAL);
    }
    task.thread().ok_or(Errno::ESRCH)?.set_affinity(allowed);
    Ok(0)
}

fn sys_sched_getaffinity(cx: &mut Cx<'_>, pid: i32, len: usize, mask: VirtAddr) -> Result<usize> {
    let len = len as u32 as usize;
    // The number of bits is one of 32 bits.
    let bits = (len as u32).wrapping_mul(8) as usize;
    if !len.is_multiple_of(8) || bits < arch::cpu::possible_count() {
        return Err(Errno::EINVAL);
    }
    let task = find_positive(cx, pid)?;
    let set = task.thread().ok_or(Errno::ESRCH)?.affinity().and(&arch::cpu::online());
    let used = len.min(mask_len());
    for (i, word) in set.as_words().iter().take(used / 8).enumerate() {
        user::write_val(mask.wrapping_add(i as u64 * 8), word)?;
    }
    Ok(used)
}

fn sys_getcpu(_: &mut Cx<'_>, cpu: VirtAddr, node: VirtAddr) -> Result<usize> {
    if !cpu.is_null() {
        user::write_val(cpu, &arch::cpu::id().as_u32())?;
    }
    if !node.is_null() {
        user::write_val(node, &0u32)?;
    }
    Ok(0)
}

/// Like [`targets`], whose numbers start at 0 and not at 1, and where user 0 is root and not the caller's user.
fn io_targets(cx: &Cx<'_>, which: i32, who: i32) -> Result<Vec<Arc<Task>>> {
    const USER: i32 = 3;
    if which == USER && who == 0 {
        let root = cx.task.creds().user_ns.uid_out(0).map_err(|_| Errno::ESRCH)?;
        return Ok(tasks_of(cx, root));
    }
    targets(cx, which.wrapping_sub(1), who)
}

fn tasks_of(cx: &Cx<'_>, uid: u32) -> Vec<Arc<Task>> {
    let groups = cx.task.group.pid_ns().groups();
    groups.iter().flat_map(|g| g.tasks()).filter(|t| t.creds().uid == uid).collect()
}

fn sys_ioprio_set(cx: &mut Cx<'_>, which: i32, who: i32, ioprio: u32) -> Result<usize> {
    // Three bits of class, three of level; what is beside them means nothing.
    let (class, level) = (ioprio >> 13 & 7, ioprio & 7);
    match class {
        0 if level != 0 => return Err(Errno::EINVAL),
        1 if !cx.task.capable(Cap::SYS_ADMIN) && !cx.task.capable(Cap::SYS_NICE) => {
            return Err(Errno::EPERM);
        }
        0..=3 => {}
        _ => return Err(Errno::EINVAL),
    }
    let tasks = io_targets(cx, which, who)?;
    if tasks.is_empty() {
        return Err(Errno::ESRCH);
    }
    for task in tasks {
        may_change(cx, &task)?;
        task.ioprio.store(ioprio, core::sync::atomic::Ordering::Relaxed);
    }
    Ok(0)
}

fn sys_ioprio_get(cx: &mut Cx<'_>, which: i32, who: i32) -> Result<usize> {
    let best = io_targets(cx, which, who)?
        .iter()
        .map(|t| t.ioprio.load(core::sync::atomic::Ordering::Relaxed))
        .min()
        .ok_or(Errno::ESRCH)?;
    Ok(best as usize)
}

/// `struct sched_attr`, version 0.
const ATTR_LEN: usize = 48;

/// Whether a `struct sched_attr` of `size` bytes (0 stands for the first version) says nothing that
/// this kernel does not know; if it does, the caller is told the size that is known.
fn check_attr_size(attr: VirtAddr, size: u32) -> Result<()> {
    let fits = match size as usize {
        0 => true,
        size @ ATTR_LEN..=arch::PAGE_SIZE => {
            let mut rest = alloc::vec![0u8; size - ATTR_LEN];
            user::copy_from_user(&mut rest, attr.wrapping_add(ATTR_LEN as u64))?;
            // The clamps of utilisation, which have no effect here.
            rest.iter().skip(8).all(|&byte| byte == 0)
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    user::write_val(attr, &(ATTR_LEN as u32 + 8))?;
    Err(Errno::E2BIG)
}

fn sys_sched_setattr(cx: &mut Cx<'_>, pid: i32, attr: VirtAddr, flags: u32) -> Result<usize> {
    if flags != 0 || attr.is_null() || pid < 0 {
        return Err(Errno::EINVAL);
    }
    let size: u32 = user::read_val(attr)?;
    check_attr_size(attr, size)?;
    let [_, policy]: [u32; 2] = user::read_val(attr)?;
    let [nice, priority]: [i32; 2] = user::read_val(attr.wrapping_add(16))?;
    let policy = Policy::from_raw(policy).ok_or(Errno::EINVAL)?;
    set_policy(cx, pid, Some(policy), priority, Some(nice.clamp(-20, 19) as i8))
}

fn sys_sched_getattr(
    cx: &mut Cx<'_>,
    pid: i32,
    attr: VirtAddr,
    size: usize,
    flags: u32,
) -> Result<usize> {
    let fits = (ATTR_LEN..=arch::PAGE_SIZE).contains(&size);
    if flags != 0 || !fits || attr.is_null() || pid < 0 {
        return Err(Errno::EINVAL);
    }
    let now = params(&*find(cx, pid)?)?;
    let mut words = [0u32; ATTR_LEN / 4];
    words[0] = ATTR_LEN as u32;
    words[1] = now.policy as u32;
    words[4] = i32::from(now.nice) as u32;
    words[5] = u32::from(now.rt_priority);
    user::write_val(attr, &words)?;
    Ok(0)
}
