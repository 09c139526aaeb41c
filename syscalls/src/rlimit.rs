//! Resource limits and usage.

use crate::Cx;
use abi::process::{RLimit, Resource};
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::user;
use process::Task;
use process::usage::Usage;
use vfs::cred::Cap;

crate::syscalls! {
    97 getrlimit => sys_getrlimit(resource: Dec, limit: Hex);
    98 getrusage => sys_getrusage(who: Dec, usage: Hex);
    100 times => sys_times(buffer: Hex);
    160 setrlimit => sys_setrlimit(resource: Dec, limit: Hex);
    302 prlimit64 => sys_prlimit64(pid: Dec, resource: Dec, new: Hex, old: Hex);
}

fn resource(raw: u32) -> Result<Resource> {
    Resource::from_raw(raw).ok_or(Errno::EINVAL)
}

fn sys_getrlimit(cx: &mut Cx<'_>, raw: u32, limit: VirtAddr) -> Result<usize> {
    user::write_val(limit, &cx.task.group.limits.get(resource(raw)?))?;
    Ok(0)
}

fn set(caller: &Task, target: &Task, resource: Resource, new: RLimit) -> Result<()> {
    let may_raise = caller.capable(Cap::SYS_RESOURCE);
    target.group.limits.set(resource, new, may_raise)?;
    if resource == Resource::Cpu {
        process::timers::limit_changed(&target.group);
    }
    Ok(())
}

fn sys_setrlimit(cx: &mut Cx<'_>, raw: u32, limit: VirtAddr) -> Result<usize> {
    let new: RLimit = user::read_val(limit)?;
    set(cx.task, cx.task, resource(raw)?, new)?;
    Ok(0)
}

/// `prlimit(2)`.
fn sys_prlimit64(
    cx: &mut Cx<'_>,
    pid: i32,
    raw: u32,
    new: VirtAddr,
    old: VirtAddr,
) -> Result<usize> {
    let new: Option<RLimit> = if new.is_null() { None } else { Some(user::read_val(new)?) };
    let other: Arc<Task>;
    let target = if pid == 0 || pid == cx.task.tid() {
        cx.task
    } else {
        other = cx.task.group.pid_ns().task(pid).ok_or(Errno::ESRCH)?;
        let (mine, theirs) = (cx.task.creds(), other.creds());
        let same = [theirs.uid, theirs.euid, theirs.suid].iter().all(|&id| id == mine.uid)
            && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|&id| id == mine.gid);
        if !same && !mine.ns_capable(&theirs.user_ns, Cap::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
        &other
    };
    let resource = resource(raw)?;
    let before = target.group.limits.get(resource);
    if let Some(new) = new {
        set(cx.task, target, resource, new)?;
    }
    if !old.is_null() {
        user::write_val(old, &before)?;
    }
    Ok(0)
}

/// `getrusage(2)`.
fn sys_getrusage(cx: &mut Cx<'_>, who: i32, at: VirtAddr) -> Result<usize> {
    let group = &cx.task.group;
    let usage = match who {
        0 => group.usage(),
        -1 => group.children_usage(),
        1 => Usage { max_rss_kib: group.usage().max_rss_kib, ..Usage::of(cx.task) },
        _ => return Err(Errno::EINVAL),
    };
    user::write_val(at, &usage.to_rusage())?;
    Ok(0)
}

/// `times(2)`.
fn sys_times(cx: &mut Cx<'_>, at: VirtAddr) -> Result<usize> {
    if !at.is_null() {
        let (own, children) = (cx.task.group.usage(), cx.task.group.children_usage());
        let ticks =
            [own.utime_ticks(), own.stime_ticks(), children.utime_ticks(), children.stime_ticks()];
        user::write_val(at, &ticks)?;
    }
    Ok((sched::clock::boottime_ns() / 10_000_000) as usize)
}
