//! Credentials: `set*id(2)`, groups, `capget(2)`, `capset(2)`.

use crate::Cx;
use abi::{Errno, Result};
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::user;
use process::creds;
use vfs::cred::{CapSet, Creds};

crate::syscalls! {
    102 getuid => sys_getuid();
    104 getgid => sys_getgid();
    105 setuid => sys_setuid(uid: Dec);
    106 setgid => sys_setgid(gid: Dec);
    107 geteuid => sys_geteuid();
    108 getegid => sys_getegid();
    113 setreuid => sys_setreuid(ruid: Dec, euid: Dec);
    114 setregid => sys_setregid(rgid: Dec, egid: Dec);
    115 getgroups => sys_getgroups(size: Dec, list: Hex);
    116 setgroups => sys_setgroups(size: Dec, list: Hex);
    117 setresuid => sys_setresuid(ruid: Dec, euid: Dec, suid: Dec);
    118 getresuid => sys_getresuid(ruid: Hex, euid: Hex, suid: Hex);
    119 setresgid => sys_setresgid(rgid: Dec, egid: Dec, sgid: Dec);
    120 getresgid => sys_getresgid(rgid: Hex, egid: Hex, sgid: Hex);
    122 setfsuid => sys_setfsuid(uid: Dec);
    123 setfsgid => sys_setfsgid(gid: Dec);
    125 capget => sys_capget(header: Hex, data: Hex);
    126 capset => sys_capset(header: Hex, data: Hex);
}

/// `NGROUPS_MAX`.
const NGROUPS_MAX: usize = 65536;

fn sys_getuid(cx: &mut Cx<'_>) -> Result<usize> {
    let creds = cx.task.creds();
    Ok(creds.user_ns.uid_in(creds.uid) as usize)
}

fn sys_geteuid(cx: &mut Cx<'_>) -> Result<usize> {
    let creds = cx.task.creds();
    Ok(creds.user_ns.uid_in(creds.euid) as usize)
}

fn sys_getgid(cx: &mut Cx<'_>) -> Result<usize> {
    let creds = cx.task.creds();
    Ok(creds.user_ns.gid_in(creds.gid) as usize)
}

fn sys_getegid(cx: &mut Cx<'_>) -> Result<usize> {
    let creds = cx.task.creds();
    Ok(creds.user_ns.gid_in(creds.egid) as usize)
}

fn change(cx: &Cx<'_>, rule: impl FnOnce(&Creds) -> Result<Creds>) -> Result<usize> {
    let new = rule(&cx.task.creds())?;
    creds::commit(cx.task, new);
    Ok(0)
}

fn sys_setuid(cx: &mut Cx<'_>, uid: u32) -> Result<usize> {
    change(cx, |old| creds::setuid(old, uid))
}

fn sys_setgid(cx: &mut Cx<'_>, gid: u32) -> Result<usize> {
    change(cx, |old| creds::setgid(old, gid))
}

fn sys_setreuid(cx: &mut Cx<'_>, real: u32, effective: u32) -> Result<usize> {
    change(cx, |old| creds::setreuid(old, real, effective))
}

fn sys_setregid(cx: &mut Cx<'_>, real: u32, effective: u32) -> Result<usize> {
    change(cx, |old| creds::setregid(old, real, effective))
}

fn sys_setresuid(cx: &mut Cx<'_>, real: u32, effective: u32, saved: u32) -> Result<usize> {
    change(cx, |old| creds::setresuid(old, [real, effective, saved]))
}

fn sys_setresgid(cx: &mut Cx<'_>, real: u32, effective: u32, saved: u32) -> Result<usize> {
    change(cx, |old| creds::setresgid(old, [real, effective, saved]))
}

fn sys_getresuid(cx: &mut Cx<'_>, r: VirtAddr, e: VirtAddr, s: VirtAddr) -> Result<usize> {
    let creds = cx.task.creds();
    for (at, id) in [(r, creds.uid), (e, creds.euid), (s, creds.suid)] {
        user::write_val(at, &creds.user_ns.uid_in(id))?;
    }
    Ok(0)
}

fn sys_getresgid(cx: &mut Cx<'_>, r: VirtAddr, e: VirtAddr, s: VirtAddr) -> Result<usize> {
    let creds = cx.task.creds();
    for (at, id) in [(r, creds.gid), (e, creds.egid), (s, creds.sgid)] {
        user::write_val(at, &creds.user_ns.gid_in(id))?;
    }
    Ok(0)
}

/// `setfsuid(2)`: returns the old id whether or not it changes.
fn sys_setfsuid(cx: &mut Cx<'_>, uid: u32) -> Result<usize> {
    let old = cx.task.creds();
    if let Some(new) = creds::setfsuid(&old, uid) {
        creds::commit(cx.task, new);
    }
    Ok(old.user_ns.uid_in(old.fsuid) as usize)
}

/// `setfsgid(2)`: returns the old id whether or not it changes.
fn sys_setfsgid(cx: &mut Cx<'_>, gid: u32) -> Result<usize> {
    let old = cx.task.creds();
    if let Some(new) = creds::setfsgid(&old, gid) {
        creds::commit(cx.task, new);
    }
    Ok(old.user_ns.gid_in(old.fsgid) as usize)
}

fn sys_getgroups(cx: &mut Cx<'_>, size: i32, list: VirtAddr) -> Result<usize> {
    let creds = cx.task.creds();
    let room = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    let count = creds.groups.len();
    if room == 0 {
        return Ok(count);
    }
    if room < count {
        return Err(Errno::EINVAL);
    }
    let seen: Vec<u32> = creds.groups.iter().map(|&g| creds.user_ns.gid_in(g)).collect();
    user::write_val(list, seen.as_slice())?;
    Ok(count)
}

fn sys_setgroups(cx: &mut Cx<'_>, size: i32, list: VirtAddr) -> Result<usize> {
    let old = cx.task.creds();
    let may = old.ns_capable(&old.user_ns, vfs::cred::Cap::SETGID) && old.user_ns.may_setgroups();
    if !may {
        return Err(Errno::EPERM);
    }
    let count = usize::try_from(size).ok().filter(|&n| n <= NGROUPS_MAX).ok_or(Errno::EINVAL)?;
    let mut groups: Vec<u32> = Vec::new();
    groups.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    for i in 0..count {
        groups.push(user::read_val(list.wrapping_add(i as u64 * 4))?);
    }
    change(cx, |old| creds::setgroups(old, &groups))
}

/// `_LINUX_CAPABILITY_VERSION_1`: one word per set.
const VERSION_1: u32 = 0x1998_0330;
const VERSION_2: u32 = 0x2007_1026;
const VERSION_3: u32 = 0x2008_0522;

/// Reads the header: words per set and the process. An unknown version is answered with ours.
fn cap_header(header: VirtAddr) -> Result<(usize, i32)> {
    let [version, pid]: [u32; 2] = user::read_val(header)?;
    let words = match version {
        VERSION_1 => 1,
        VERSION_2 | VERSION_3 => 2,
        _ => {
            user::write_val(header, &VERSION_3)?;
            return Err(Errno::EINVAL);
        }
    };
    Ok((words, pid as i32))
}

/// `capget(2)`.
fn sys_capget(cx: &mut Cx<'_>, header: VirtAddr, data: VirtAddr) -> Result<usize> {
    let (words, pid) = match cap_header(header) {
        // A null data pointer asks for the version only.
        Err(Errno::EINVAL) if data.is_null() => return Ok(0),
        other => other?,
    };
    if pid < 0 {
        return Err(Errno::EINVAL);
    }
    let creds = if pid == 0 {
        cx.task.creds()
    } else {
        cx.task.group.pid_ns().task(pid).ok_or(Errno::ESRCH)?.creds()
    };
    if data.is_null() {
        return Ok(0);
    }
    let sets = [creds.effective.0, creds.permitted.0, creds.inheritable.0];
    for word in 0..words {
        let triple = sets.map(|set| (set >> (32 * word)) as u32);
        user::write_val(data.wrapping_add(word as u64 * 12), &triple)?;
    }
    Ok(0)
}

/// `capset(2)`.
fn sys_capset(cx: &mut Cx<'_>, header: VirtAddr, data: VirtAddr) -> Result<usize> {
    let (words, pid) = cap_header(header)?;
    if pid != 0 && pid != cx.task.tid() {
        return Err(Errno::EPERM);
    }
    let mut sets = [0u64; 3];
    for word in 0..words {
        let triple: [u32; 3] = user::read_val(data.wrapping_add(word as u64 * 12))?;
        for (set, part) in sets.iter_mut().zip(triple) {
            *set |= u64::from(part) << (32 * word);
        }
    }
    let [effective, permitted, inheritable] = sets.map(|set| CapSet(set & CapSet::FULL.0));
    change(cx, |old| creds::capset(old, effective, inheritable, permitted))
}
