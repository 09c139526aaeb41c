//! Address spaces: mmap, munmap, mprotect, brk, madvise, mlock and the rest.

use crate::Cx;
use abi::process::Resource;
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::user;
use arch::{PAGE_SIZE, VirtAddr};
use process::Task;
use process::exec::READ_IMPLIES_EXEC;
use vfs::MapArgs;
use vfs::cred::Cap;
use vm::{AddressSpace, Limits, MapRequest};

crate::syscalls! {
    9 mmap => sys_mmap(addr: Hex, len: Dec, prot: Prot, flags: MapFlags, fd: Fd, offset: Hex);
    10 mprotect => sys_mprotect(addr: Hex, len: Dec, prot: Prot);
    11 munmap => sys_munmap(addr: Hex, len: Dec);
    12 brk => sys_brk(addr: Hex);
    25 mremap => sys_mremap(old: Hex, old_len: Dec, new_len: Dec, flags: Hex, new: Hex);
    26 msync => sys_msync(addr: Hex, len: Dec, flags: Hex);
    27 mincore => sys_mincore(addr: Hex, len: Dec, out: Hex);
    28 madvise => sys_madvise(addr: Hex, len: Dec, advice: Dec);
    149 mlock => sys_mlock(addr: Hex, len: Dec);
    150 munlock => sys_munlock(addr: Hex, len: Dec);
    151 mlockall => sys_mlockall(flags: Hex);
    152 munlockall => sys_munlockall();
    310 process_vm_readv => sys_process_vm_readv(pid: Dec, local: Hex, nlocal: Dec, remote: Hex, nremote: Dec, flags: Hex);
    311 process_vm_writev => sys_process_vm_writev(pid: Dec, local: Hex, nlocal: Dec, remote: Hex, nremote: Dec, flags: Hex);
    324 membarrier => sys_membarrier(command: Dec, flags: Hex);
    325 mlock2 => sys_mlock2(addr: Hex, len: Dec, flags: Hex);
}

const PROT_WRITE: u32 = 2;
const PROT_EXEC: u32 = 4;
const MAP_SHARED: u32 = 1;
const MAP_PRIVATE: u32 = 2;
const MAP_SHARED_VALIDATE: u32 = 3;
const MAP_TYPE: u32 = 0xf;
const MAP_FIXED: u32 = 0x10;
const MAP_ANONYMOUS: u32 = 0x20;
const MAP_GROWSDOWN: u32 = 0x100;
const MAP_LOCKED: u32 = 0x2000;
const MAP_HUGETLB: u32 = 0x4_0000;
/// Where the flags have the logarithm of a huge page's size.
const MAP_HUGE_SHIFT: u32 = 26;
const MAP_STACK: u32 = 0x2_0000;
const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;
/// What `MAP_SHARED_VALIDATE` accepts.
const MAP_KNOWN: u32 = 0x1f_ff7f;

fn space(task: &Task) -> Result<Arc<AddressSpace>> {
    task.mm().ok_or(Errno::ENOMEM)
}

/// What binds the caller.
pub(crate) fn limits(task: &Task) -> Limits {
    let may_lock = task.capable(Cap::IPC_LOCK);
    Limits {
        space: task.limit(Resource::As),
        data: task.limit(Resource::Data),
        locked: if may_lock { u64::MAX } else { task.limit(Resource::Memlock) },
    }
}

/// Whether huge pages would be of a size that the machine does not have.
fn has_odd_huge_pages(flags: u32) -> bool {
    !matches!(flags >> MAP_HUGE_SHIFT & 0x3f, 0 | 21 | 30)
}

/// Whether a map may lie at this very address.
fn check_fixed(cx: &Cx<'_>, addr: u64, len: u64) -> Result<()> {
    if addr > arch::USER_END - len {
        return Err(Errno::ENOMEM);
    }
    if !addr.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL);
    }
    if addr < vm::MMAP_MIN && !cx.task.capable(Cap::SYS_RAWIO) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// `mmap(2)`. `MAP_HUGETLB` is refused with `ENOMEM`: there are no reserved huge pages.
fn sys_mmap(
    cx: &mut Cx<'_>,
    addr: u64,
    len: u64,
    mut prot: u32,
    mut flags: u32,
    fd: i32,
    offset: u64,
) -> Result<usize> {
    if !offset.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL);
    }
    let file = if flags & MAP_ANONYMOUS != 0 {
        None
    } else {
        Some(cx.task.files().ok_or(Errno::EBADF)?.get(fd)?)
    };
    // Files have no huge pages.
    if len == 0 || flags & MAP_HUGETLB != 0 && (file.is_some() || has_odd_huge_pages(flags)) {
        return Err(Errno::EINVAL);
    }
    let pages = len.div_ceil(PAGE_SIZE as u64);
    if pages > u64::MAX / PAGE_SIZE as u64 {
        return Err(Errno::ENOMEM);
    }
    if len > arch::USER_END {
        return Err(Errno::ENOMEM);
    }
    let limits = limits(cx.task);
    if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
        check_fixed(cx, addr, len)?;
    }
    if flags & MAP_LOCKED != 0 {
        if limits.locked == 0 {
            return Err(Errno::EPERM);
        }
        if len.saturating_add(space(cx.task)?.locked_bytes()) > limits.locked {
            return Err(Errno::EAGAIN);
        }
    }
    // No file has bytes there.
    if file.is_some() && offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
        return Err(Errno::EOVERFLOW);
    }
    let kind = flags & MAP_TYPE;
    match kind {
        MAP_SHARED | MAP_PRIVATE => {}
        MAP_SHARED_VALIDATE if flags & MAP_ANONYMOUS == 0 => {
            if flags & !MAP_KNOWN != 0 {
                return Err(Errno::EOPNOTSUPP);
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    if flags & MAP_HUGETLB != 0 {
        return Err(Errno::ENOMEM);
    }
    // A map that only looks like a stack grows nowhere.
    if flags & MAP_GROWSDOWN == 0 {
        flags &= !MAP_STACK;
    }
    let personality = cx.task.personality.load(core::sync::atomic::Ordering::Relaxed);
    if personality & READ_IMPLIES_EXEC != 0 && prot & 1 != 0 {
        prot |= PROT_EXEC;
    }
    let mm = space(cx.task)?;
    let source = match file {
        None => None,
        Some(file) => {
            if !file.can_read() {
                return Err(Errno::EACCES);
            }
            let shared = kind != MAP_PRIVATE;
            if shared && prot & PROT_WRITE != 0 && !file.can_write() {
                return Err(Errno::EACCES);
            }
            if shared && !file.can_write() {
                flags |= vm::MAP_NEVER_WRITE;
            }
            if prot & PROT_EXEC != 0 && file.path.mount.has(abi::mount::MS_NOEXEC) {
                return Err(Errno::EPERM);
            }
            Some(file.ops().mmap(&file, &MapArgs { offset, len, prot, flags })?)
        }
    };
    let offset = source.as_ref().map_or(offset, |source| source.first_byte(offset));
    let request = MapRequest { addr, len, prot, flags, source, offset };
    Ok(mm.mmap_within(&request, &limits)? as usize)
}

fn sys_munmap(cx: &mut Cx<'_>, addr: u64, len: u64) -> Result<usize> {
    space(cx.task)?.munmap(addr, len)?;
    Ok(0)
}

/// `mprotect(2)`.
fn sys_mprotect(cx: &mut Cx<'_>, addr: u64, len: u64, prot: u64) -> Result<usize> {
    const GROWS: u64 = 0x0300_0000;
    if prot & GROWS == GROWS || !addr.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let whole = len.wrapping_add(PAGE_SIZE as u64 - 1) & !(PAGE_SIZE as u64 - 1);
    if addr.checked_add(whole).is_none_or(|end| end <= addr) {
        return Err(Errno::ENOMEM);
    }
    if prot & !(GROWS | 0xf) != 0 {
        return Err(Errno::EINVAL);
    }
    let prot = prot as u32;
    let personality = cx.task.personality.load(core::sync::atomic::Ordering::Relaxed);
    let implied = personality & READ_IMPLIES_EXEC != 0 && prot & 1 != 0;
    let prot = prot | if implied { PROT_EXEC } else { 0 };
    space(cx.task)?.mprotect(addr, len, prot, &limits(cx.task))?;
    Ok(0)
}

fn sys_brk(cx: &mut Cx<'_>, addr: u64) -> Result<usize> {
    Ok(space(cx.task)?.brk(addr, &limits(cx.task)) as usize)
}

fn sys_mremap(
    cx: &mut Cx<'_>,
    old: u64,
    old_len: u64,
    new_len: u64,
    flags: u64,
    new: u64,
) -> Result<usize> {
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    if !old.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL);
    }
    let limits = limits(cx.task);
    Ok(space(cx.task)?.mremap(old, old_len, new_len, flags, new, &limits)? as usize)
}

/// `msync(2)`.
fn sys_msync(cx: &mut Cx<'_>, addr: u64, len: u64, flags: u32) -> Result<usize> {
    space(cx.task)?.msync(addr, len, flags)?;
    Ok(0)
}

fn sys_mincore(cx: &mut Cx<'_>, addr: u64, len: u64, out: VirtAddr) -> Result<usize> {
    if !addr.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL);
    }
    if !user::range_ok(VirtAddr(addr), len as usize) {
        return Err(Errno::ENOMEM);
    }
    let count = len.div_ceil(PAGE_SIZE as u64);
    if !user::range_ok(out, count as usize) {
        return Err(Errno::EFAULT);
    }
    let mm = space(cx.task)?;
    let end = mm.range_end(addr, len).map_err(|_| Errno::ENOMEM)?;
    // In steps: the answer for a large range need not be held as a whole.
    const STEP: u64 = 4096 * PAGE_SIZE as u64;
    let (mut at, mut to) = (addr, out);
    while at < end {
        let pages = mm.mincore(at, end.min(at.saturating_add(STEP)))?;
        user::copy_to_user(to, &pages)?;
        to = to.wrapping_add(pages.len() as u64);
        // As far as was told: an area may end before.
        at += pages.len() as u64 * PAGE_SIZE as u64;
    }
    Ok(0)
}

fn sys_madvise(cx: &mut Cx<'_>, addr: u64, len: u64, advice: i32) -> Result<usize> {
    if len > u64::MAX - PAGE_SIZE as u64 + 1 {
        return Err(Errno::EINVAL);
    }
    space(cx.task)?.madvise(addr, len, advice)?;
    Ok(0)
}

fn lock(cx: &Cx<'_>, addr: u64, len: u64, on_fault: bool) -> Result<usize> {
    let mm = space(cx.task)?;
    let limits = limits(cx.task);
    if limits.locked == 0 {
        return Err(Errno::EPERM);
    }
    // In whole pages, where the very longest is nothing; what is no range at all is mostly more than
    // may be locked in the first place.
    let page = PAGE_SIZE as u64;
    let whole = len.wrapping_add(addr % page).wrapping_add(page - 1) & !(page - 1);
    if whole > limits.locked {
        return Err(Errno::ENOMEM);
    }
    if whole == 0 {
        return Ok(0);
    }
    mm.mlock(addr, len, on_fault, &limits)?;
    Ok(0)
}

fn sys_mlock(cx: &mut Cx<'_>, addr: u64, len: u64) -> Result<usize> {
    lock(cx, addr, len, false)
}

fn sys_mlock2(cx: &mut Cx<'_>, addr: u64, len: u64, flags: u32) -> Result<usize> {
    if flags & !1 != 0 {
        return Err(Errno::EINVAL);
    }
    lock(cx, addr, len, flags & 1 != 0)
}

fn sys_munlock(cx: &mut Cx<'_>, addr: u64, len: u64) -> Result<usize> {
    space(cx.task)?.munlock(addr, len)?;
    Ok(0)
}

fn sys_mlockall(cx: &mut Cx<'_>, flags: u32) -> Result<usize> {
    // MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT.
    if flags == 0 || flags & !7 != 0 || flags == 4 {
        return Err(Errno::EINVAL);
    }
    if !cx.task.capable(Cap::IPC_LOCK) && cx.task.limit(Resource::Memlock) == 0 {
        return Err(Errno::EPERM);
    }
    let current = (flags & 1 != 0).then_some(true);
    let mm = space(cx.task)?;
    if current.is_some() && mm.stats().total * PAGE_SIZE as u64 > limits(cx.task).locked {
        return Err(Errno::ENOMEM);
    }
    mm.mlock_all(current, flags & 2 != 0, flags & 4 != 0)?;
    Ok(0)
}

fn sys_munlockall(cx: &mut Cx<'_>) -> Result<usize> {
    space(cx.task)?.mlock_all(Some(false), false, false)?;
    Ok(0)
}

/// `membarrier(2)`: the commands that a barrier on every processor satisfies.
fn sys_membarrier(_: &mut Cx<'_>, command: i32, flags: u32) -> Result<usize> {
    const GLOBAL: i32 = 1;
    const KNOWN: usize = 0x1f;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    match command {
        0 => Ok(KNOWN),
        // Registrations need no state: the barrier goes to everybody.
        4 | 16 => Ok(0),
        GLOBAL | 2 | 8 => {
            sched::rcu::synchronize();
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// One `struct iovec`.
fn segments(from: VirtAddr, count: usize) -> Result<Vec<(VirtAddr, usize)>> {
    if count > 1024 {
        return Err(Errno::EINVAL);
    }
    (0..count)
        .map(|i| {
            let [base, len]: [u64; 2] = user::read_val(from.wrapping_add(i as u64 * 16))?;
            let len = isize::try_from(len).map_err(|_| Errno::EINVAL)?;
            Ok((VirtAddr(base), len as usize))
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    FromRemote,
    ToRemote,
}

fn transfer(
    cx: &Cx<'_>,
    pid: i32,
    (local, nlocal): (VirtAddr, usize),
    (remote, nremote): (VirtAddr, usize),
    flags: u64,
    direction: Direction,
) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    // Of the numbers of segments the lower half counts.
    let (nlocal, nremote) = (nlocal as u32 as usize, nremote as u32 as usize);
    let local = segments(local, nlocal)?;
    if local.iter().all(|(_, len)| *len == 0) {
        return Ok(0);
    }
    let remote = segments(remote, nremote)?;
    let target = cx.task.group.pid_ns().task(pid).ok_or(Errno::ESRCH)?;
    let mm = process::task::inspect(cx.task, &target, || target.mm())?.ok_or(Errno::ESRCH)?;
    let mut here = local.into_iter();
    let mut current = (VirtAddr(0), 0usize);
    let mut buffer = [0u8; PAGE_SIZE];
    let mut done = 0;
    for (mut at, mut len) in remote {
        while len > 0 {
            while current.1 == 0 {
                match here.next() {
                    Some(next) => current = next,
                    None => return Ok(done),
                }
            }
            let n = len.min(current.1).min(PAGE_SIZE - at.page_offset());
            let part = buffer.get_mut(..n).ok_or(Errno::EFAULT)?;
            let outcome = match direction {
                Direction::FromRemote => {
                    mm.read_remote(at, part).and_then(|_| Ok(user::copy_to_user(current.0, part)?))
                }
                Direction::ToRemote => user::copy_from_user(part, current.0)
                    .map_err(Errno::from)
                    .and_then(|()| mm.write_remote(at, part).map(drop)),
            };
            if let Err(error) = outcome {
                return if done > 0 { Ok(done) } else { Err(error) };
            }
            done += n;
            len -= n;
            at = at.wrapping_add(n as u64);
            current = (current.0.wrapping_add(n as u64), current.1 - n);
        }
    }
    Ok(done)
}

fn sys_process_vm_readv(
    cx: &mut Cx<'_>,
    pid: i32,
    local: VirtAddr,
    nlocal: usize,
    remote: VirtAddr,
    nremote: usize,
    flags: u64,
) -> Result<usize> {
    transfer(cx, pid, (local, nlocal), (remote, nremote), flags, Direction::FromRemote)
}

fn sys_process_vm_writev(
    cx: &mut Cx<'_>,
    pid: i32,
    local: VirtAddr,
    nlocal: usize,
    remote: VirtAddr,
    nremote: usize,
    flags: u64,
) -> Result<usize> {
    transfer(cx, pid, (local, nlocal), (remote, nremote), flags, Direction::ToRemote)
}
