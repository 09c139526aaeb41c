//! `uname(2)`, `sysinfo(2)`, `syslog(2)`.

use crate::Cx;
use abi::process::SysInfo;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;
use vfs::cred::Cap;

crate::syscalls! {
    63 uname => sys_uname(buffer: Hex);
    99 sysinfo => sys_sysinfo(info: Hex);
    103 syslog => sys_syslog(action: Dec, buffer: Hex, len: Dec);
}

/// `uname(2)`.
fn sys_uname(cx: &mut Cx<'_>, buffer: VirtAddr) -> Result<usize> {
    let mut names = cx.task.ns().uts.names();
    const UNAME26: u32 = 0x002_0000;
    let personality = cx.task.personality.load(core::sync::atomic::Ordering::Relaxed);
    if personality & UNAME26 != 0 {
        let old = b"2.6.44\0";
        if let Some(start) = names.release.get_mut(..old.len()) {
            start.copy_from_slice(old);
        }
    }
    // man 2 personality, PER_LINUX32.
    const PER_MASK: u32 = 0xff;
    const PER_LINUX32: u32 = 8;
    if personality & PER_MASK == PER_LINUX32 {
        let machine = b"i686\0\0";
        if let Some(start) = names.machine.get_mut(..machine.len()) {
            start.copy_from_slice(machine);
        }
    }
    user::write_val(buffer, &names)?;
    Ok(0)
}

/// `sysinfo(2)`.
fn sys_sysinfo(_: &mut Cx<'_>, at: VirtAddr) -> Result<usize> {
    let memory = process::memory_totals();
    let loads = sched::loadavg();
    let info = SysInfo {
        uptime: (sched::clock::boottime_ns() / 1_000_000_000) as i64,
        // Fixed point with 16 bits after the point.
        loads,
        totalram: memory.total_bytes,
        freeram: memory.free_bytes,
        sharedram: memory.shared_bytes,
        bufferram: memory.buffer_bytes,
        procs: process::group::thread_count().min(usize::from(u16::MAX)) as u16,
        mem_unit: 1,
        ..SysInfo::default()
    };
    user::write_val(at, &info)?;
    Ok(0)
}

/// `syslog(2)`.
fn sys_syslog(cx: &mut Cx<'_>, action: i32, buffer: VirtAddr, len: i32) -> Result<usize> {
    let privileged = cx.task.capable(Cap::SYSLOG) || cx.task.capable(Cap::SYS_ADMIN);
    // Reading everything and the size are open to all unless dmesg_restrict says otherwise.
    let is_open = klog::DMESG_RESTRICT.load(core::sync::atomic::Ordering::Relaxed) == 0;
    let is_for_all = is_open && matches!(action, 3 | 10);
    if !privileged && !is_for_all {
        return Err(Errno::EPERM);
    }
    crate::log::syslog(action, buffer, len)
}
