//! `seccomp(2)`.

use crate::Cx;
use abi::{Errno, Result};
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::user;
use process::seccomp::bpf::{self, Instruction, MAX_LEN, Program};
use process::seccomp::{self, MODE_FILTER, MODE_STRICT, ret};

crate::syscalls! {
    317 seccomp => sys_seccomp(operation: Dec, flags: Hex, args: Hex);
}

/// `struct sock_fprog`: a length and a pointer.
fn read_program(from: VirtAddr) -> Result<Program> {
    let [len, code]: [u64; 2] = user::read_val(from)?;
    let len = usize::from(len as u16);
    if len == 0 || len > MAX_LEN {
        return Err(Errno::EINVAL);
    }
    let mut instructions: Vec<Instruction> = Vec::new();
    instructions.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    for i in 0..len {
        instructions.push(user::read_val(VirtAddr(code).wrapping_add(i as u64 * 8))?);
    }
    bpf::check(instructions)
}

/// `PR_SET_SECCOMP`.
pub(crate) fn set_mode(cx: &Cx<'_>, mode: u64, filter: VirtAddr) -> Result<usize> {
    match u32::try_from(mode).map_err(|_| Errno::EINVAL)? {
        MODE_STRICT => seccomp::set_strict(cx.task)?,
        MODE_FILTER => seccomp::add_filter(cx.task, read_program(filter)?, 0)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `seccomp(2)`. `SECCOMP_FILTER_FLAG_NEW_LISTENER` is refused with `EINVAL`.
fn sys_seccomp(cx: &mut Cx<'_>, operation: u32, flags: u32, args: VirtAddr) -> Result<usize> {
    match operation {
        0 => {
            if flags != 0 || !args.is_null() {
                return Err(Errno::EINVAL);
            }
            seccomp::set_strict(cx.task)?;
        }
        1 => {
            let known = seccomp::FLAG_TSYNC | seccomp::FLAG_LOG | seccomp::FLAG_SPEC_ALLOW;
            if flags & !known != 0 {
                return Err(Errno::EINVAL);
            }
            seccomp::add_filter(cx.task, read_program(args)?, flags)?;
        }
        2 => {
            if flags != 0 {
                return Err(Errno::EINVAL);
            }
            let action: u32 = user::read_val(args)?;
            let known = [
                ret::KILL_PROCESS,
                ret::KILL_THREAD,
                ret::TRAP,
                ret::ERRNO,
                ret::TRACE,
                ret::LOG,
                ret::ALLOW,
            ];
            if !known.contains(&action) {
                return Err(Errno::EOPNOTSUPP);
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
