//! What fits no family: `getrandom(2)`, `reboot(2)`, module and kexec calls, `ioperm(2)`, …

use crate::Cx;
use crate::fsctx::context;
use abi::fcntl::{O_LARGEFILE, O_RDWR};
use abi::{Errno, Result};
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::user;
use vfs::OpenHow;
use vfs::cred::Cap;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

crate::syscalls! {
    139 sysfs => sys_sysfs(option: Dec, arg1: Hex, arg2: Hex);
    153 vhangup => sys_vhangup();
    154 modify_ldt => sys_modify_ldt(func: Dec, data: Hex, len: Dec);
    163 acct => sys_acct(path: Path);
    167 swapon => sys_swapon(path: Path, flags: Hex);
    168 swapoff => sys_swapoff(path: Path);
    169 reboot => sys_reboot(magic1: Hex, magic2: Hex, command: Hex, arg: Hex);
    172 iopl => sys_iopl(level: Dec);
    173 ioperm => sys_ioperm(from: Hex, count: Dec, on: Dec);
    175 init_module => sys_init_module(image: Hex, len: Dec, params: Str);
    176 delete_module => sys_delete_module(name: Str, flags: Hex);
    313 finit_module => sys_finit_module(fd: Fd, params: Str, flags: Hex);
    312 kcmp => sys_kcmp(pid1: Dec, pid2: Dec, kind: Dec, index1: Hex, index2: Hex);
    318 getrandom => sys_getrandom(buffer: Hex, len: Dec, flags: Hex);
}

/// Reads a structure whose size the caller gives (`clone3(2)`, `openat2(2)`): at least `least`
/// bytes; what is missing is zero, what we do not know must be zero (`E2BIG`).
pub(crate) fn read_sized<T: FromBytes + FromZeros + IntoBytes>(
    from: VirtAddr,
    size: usize,
    least: usize,
) -> Result<T> {
    if size > arch::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < least {
        return Err(Errno::EINVAL);
    }
    let mut value = T::new_zeroed();
    let known = size_of::<T>().min(size);
    user::copy_from_user(value.as_mut_bytes().get_mut(..known).ok_or(Errno::EINVAL)?, from)?;
    let mut at = known;
    let mut chunk = [0u8; 64];
    while at < size {
        let part = chunk.get_mut(..(size - at).min(64)).ok_or(Errno::EINVAL)?;
        user::copy_from_user(part, from.wrapping_add(at as u64))?;
        if part.iter().any(|&b| b != 0) {
            return Err(Errno::E2BIG);
        }
        at += part.len();
    }
    Ok(value)
}

/// `PATH_MAX`, with the NUL.
const PATH_MAX: usize = 4096;

/// Reads a path; an empty one is `ENOENT` unless allowed.
pub(crate) fn read_path(from: VirtAddr, allow_empty: bool) -> Result<Vec<u8>> {
    let path = user::read_cstr(from, PATH_MAX).map_err(|error| match error {
        user::StrError::Fault => Errno::EFAULT,
        user::StrError::TooLong => Errno::ENAMETOOLONG,
    })?;
    if path.is_empty() && !allow_empty { Err(Errno::ENOENT) } else { Ok(path) }
}

/// `sysfs(2)`: obsolete; file-system types by index and name.
fn sys_sysfs(_: &mut Cx<'_>, _: i32, _: u64, _: u64) -> Result<usize> {
    Err(Errno::ENOSYS)
}

fn require(cx: &Cx<'_>, cap: Cap) -> Result<()> {
    cx.task.creds().require(cap)
}

fn sys_vhangup(cx: &mut Cx<'_>) -> Result<usize> {
    require(cx, Cap::SYS_TTY_CONFIG)?;
    tty::Tty::virtual_hangup();
    Ok(0)
}

/// `modify_ldt(2)`: there is no LDT; reading one gives nothing.
fn sys_modify_ldt(_: &mut Cx<'_>, func: i32, _: VirtAddr, _: u64) -> Result<usize> {
    match func {
        0 | 2 => Ok(0),
        1 | 0x11 => Err(Errno::EINVAL),
        _ => Err(Errno::ENOSYS),
    }
}

fn sys_acct(cx: &mut Cx<'_>, _: VirtAddr) -> Result<usize> {
    require(cx, Cap::SYS_PACCT)?;
    Err(Errno::ENOSYS)
}

/// Opens what is to be swapped to; its errors come first. Nothing is fit: memory is not swapped.
fn open_swap(cx: &Cx<'_>, path: VirtAddr) -> Result<usize> {
    let name = read_path(path, false)?;
    let ctx = context(cx);
    let ctx = ctx.get();
    vfs::open(&ctx, ctx.cwd, &name, &OpenHow::new(O_RDWR | O_LARGEFILE, 0))?;
    Err(Errno::EINVAL)
}

/// `swapon(2)`: memory is not swapped.
fn sys_swapon(cx: &mut Cx<'_>, path: VirtAddr, flags: u32) -> Result<usize> {
    /// Priority, the bit that says there is one, discard.
    const KNOWN: u32 = 0x7_ffff;
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    require(cx, Cap::SYS_ADMIN)?;
    open_swap(cx, path)
}

fn sys_swapoff(cx: &mut Cx<'_>, path: VirtAddr) -> Result<usize> {
    require(cx, Cap::SYS_ADMIN)?;
    open_swap(cx, path)
}

fn sys_iopl(cx: &mut Cx<'_>, level: u32) -> Result<usize> {
    if level > 3 {
        return Err(Errno::EINVAL);
    }
    if level == 0 {
        return Ok(0);
    }
    require(cx, Cap::SYS_RAWIO)?;
    Err(Errno::EPERM)
}

fn sys_ioperm(cx: &mut Cx<'_>, from: u64, count: u64, on: i32) -> Result<usize> {
    if from.checked_add(count).is_none_or(|end| end > 65536) || count == 0 {
        return Err(Errno::EINVAL);
    }
    if on == 0 {
        return Ok(0);
    }
    require(cx, Cap::SYS_RAWIO)?;
    Err(Errno::EPERM)
}

fn sys_init_module(cx: &mut Cx<'_>, _: VirtAddr, _: u64, _: VirtAddr) -> Result<usize> {
    require(cx, Cap::SYS_MODULE)?;
    Err(Errno::ENOEXEC)
}

/// `finit_module(2)`: there are no modules for this kernel, so that no file is one.
fn sys_finit_module(cx: &mut Cx<'_>, fd: i32, _: VirtAddr, flags: u32) -> Result<usize> {
    // MODULE_INIT_IGNORE_MODVERSIONS, …_IGNORE_VERMAGIC, …_COMPRESSED_FILE.
    const KNOWN: u32 = 7;
    require(cx, Cap::SYS_MODULE)?;
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let file = crate::fsctx::file(cx, fd)?;
    if !file.can_read() {
        return Err(Errno::EBADF);
    }
    if file.inode().kind != vfs::FileKind::Regular {
        return Err(Errno::EINVAL);
    }
    let _nobody_writes = vfs::DenyWrite::new(&file)?;
    Err(if file.inode().size() == 0 { Errno::EINVAL } else { Errno::ENOEXEC })
}

fn sys_delete_module(cx: &mut Cx<'_>, _: VirtAddr, _: u32) -> Result<usize> {
    require(cx, Cap::SYS_MODULE)?;
    Err(Errno::ENOENT)
}

/// `kcmp(2)`: an order of two tasks' resources: 0 equal, 1 less, 2 greater.
fn sys_kcmp(
    cx: &mut Cx<'_>,
    pid1: i32,
    pid2: i32,
    kind: i32,
    index1: i32,
    index2: i32,
) -> Result<usize> {
    let ns = cx.task.group.pid_ns();
    let one = ns.task(pid1).ok_or(Errno::ESRCH)?;
    let two = ns.task(pid2).ok_or(Errno::ESRCH)?;
    process::task::may_inspect(cx.task, &one)?;
    process::task::may_inspect(cx.task, &two)?;
    let address = |task: &process::Task, index: i32| process::task::resource_id(task, kind, index);
    let (a, b) = (address(&one, index1)?, address(&two, index2)?);
    Ok(match a.cmp(&b) {
        core::cmp::Ordering::Equal => 0,
        core::cmp::Ordering::Less => 1,
        core::cmp::Ordering::Greater => 2,
    })
}

/// `getrandom(2)`.
fn sys_getrandom(_: &mut Cx<'_>, buffer: VirtAddr, len: usize, flags: u32) -> Result<usize> {
    // GRND_NONBLOCK, GRND_RANDOM, GRND_INSECURE: the generator is always ready.
    if flags & !7 != 0 || flags & 6 == 6 {
        return Err(Errno::EINVAL);
    }
    if !user::range_ok(buffer, len.min(i32::MAX as usize)) {
        return Err(Errno::EFAULT);
    }
    let len = len.min(i32::MAX as usize);
    let mut chunk = [0u8; 256];
    let mut done = 0;
    while done < len {
        let part = chunk.get_mut(..(len - done).min(256)).ok_or(Errno::EINVAL)?;
        process::random::fill(part);
        let copied = user::copy_to_user_partial(buffer.wrapping_add(done as u64), part);
        done += copied;
        if copied < part.len() {
            return if done == 0 { Err(Errno::EFAULT) } else { Ok(done) };
        }
        // Long requests end at a signal.
        if done < len && done % 4096 == 0 && process::current().has_signal() {
            return Ok(done);
        }
    }
    Ok(done)
}

const MAGIC1: u32 = 0xfee1_dead;
const MAGIC2: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];

/// `reboot(2)`.
fn sys_reboot(
    cx: &mut Cx<'_>,
    magic1: u32,
    magic2: u32,
    command: u32,
    _arg: VirtAddr,
) -> Result<usize> {
    let ns = cx.task.group.pid_ns().clone();
    if !cx.task.creds().ns_capable(&ns.user_ns, Cap::SYS_BOOT) {
        return Err(Errno::EPERM);
    }
    if magic1 != MAGIC1 || !MAGIC2.contains(&magic2) {
        return Err(Errno::EINVAL);
    }
    process::power::reboot(cx.task, command)
}
