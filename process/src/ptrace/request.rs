//! The tracer's side: requests about a stopped thread.

use super::{Kind, Registers, Resume, State, Stop, is_at_group_stop, relation};
use crate::signal;
use crate::task::Task;
use abi::ptrace::{option, syscall_info};
use abi::signal::{SigInfo, SigSet, Signal, si};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::thread::flags;
use arch::trap::TrapFrame;
use core::sync::atomic::Ordering;
use vfs::cred::Cap;
use vm::AddressSpace;

/// Looks at the state of a thread that `caller` traces and that stands still; `ESRCH` otherwise.
fn stopped<R>(caller: &Task, target: &Task, act: impl FnOnce(&mut State) -> R) -> Result<R> {
    let mut state = target.tracing.state.lock();
    let is_mine = state.tracer.as_ref().is_some_and(|t| core::ptr::eq(t.as_ptr(), caller));
    let stands = state.stop.is_some() && state.resume.is_none() && !state.is_listening;
    if is_mine && stands { Ok(act(&mut state)) } else { Err(Errno::ESRCH) }
}

/// Whether `caller` traces `target`, stopped or not; `ESRCH` if not.
fn traced<R>(caller: &Task, target: &Task, act: impl FnOnce(&mut State) -> R) -> Result<R> {
    let mut state = target.tracing.state.lock();
    let is_mine = state.tracer.as_ref().is_some_and(|t| core::ptr::eq(t.as_ptr(), caller));
    if is_mine { Ok(act(&mut state)) } else { Err(Errno::ESRCH) }
}

/// Whether `target` stands still for `caller`.
pub fn check_stopped(caller: &Task, target: &Task) -> Result<()> {
    stopped(caller, target, |_| ())
}

/// Reads or changes the registers.
pub fn with_registers<R>(
    caller: &Task,
    target: &Task,
    act: impl FnOnce(&mut Registers) -> Result<R>,
) -> Result<R> {
    check_stopped(caller, target)?;
    let mut registers = target.tracing.registers.lock();
    act(registers.as_deref_mut().ok_or(Errno::ESRCH)?)
}

fn check_signal(signal: u64) -> Result<i32> {
    let signal = i32::try_from(signal).map_err(|_| Errno::EIO)?;
    if signal == 0 || Signal::new(signal).is_some() { Ok(signal) } else { Err(Errno::EIO) }
}

/// Lets it go on with `signal` (0: none). `EIO` for what is no signal.
pub fn resume(caller: &Task, target: &Task, mode: Resume, signal: u64) -> Result<()> {
    check_stopped(caller, target)?;
    let signal = check_signal(signal)?;
    stopped(caller, target, |state| state.resume = Some((signal, mode)))?;
    target.tracing.resume.wake_all();
    Ok(())
}

/// `PTRACE_DETACH`.
pub fn detach(caller: &Task, target: &Task, signal: u64) -> Result<()> {
    check_stopped(caller, target)?;
    relation::detach(target, check_signal(signal)?);
    Ok(())
}

/// `PTRACE_KILL`.
pub fn kill(caller: &Task, target: &Task) -> Result<()> {
    traced(caller, target, |_| ())?;
    signal::send_to_task(target, SigInfo::new(Signal::SIGKILL, si::KERNEL));
    Ok(())
}

/// `PTRACE_INTERRUPT`; `EIO` unless it was seized.
pub fn interrupt(caller: &Task, target: &Task) -> Result<()> {
    if !traced(caller, target, |state| state.is_seized)? {
        return Err(Errno::EIO);
    }
    relation::interrupt(target);
    Ok(())
}

/// `PTRACE_LISTEN`; `EIO` unless it was seized and its process is stopped.
pub fn listen(caller: &Task, target: &Task) -> Result<()> {
    stopped(caller, target, |state| {
        let fits = state.is_seized && state.stop.as_ref().is_some_and(is_at_group_stop);
        state.is_listening = fits;
        if fits { Ok(()) } else { Err(Errno::EIO) }
    })??;
    // The stop may have ended before.
    target.tracing.poke_listener();
    Ok(())
}

/// `PTRACE_SETOPTIONS`; `EINVAL` for unknown ones.
pub fn set_options(caller: &Task, target: &Task, options: u64) -> Result<()> {
    let known = u32::try_from(options).ok().filter(|options| options & !option::MASK == 0);
    check_stopped(caller, target)?;
    let options = known.ok_or(Errno::EINVAL)?;
    stopped(caller, target, |state| state.options = options)
}

/// `PTRACE_GETEVENTMSG`.
pub fn message(caller: &Task, target: &Task) -> Result<u64> {
    stopped(caller, target, |state| state.message)
}

/// `PTRACE_GETSIGINFO`; `EINVAL` at a group stop.
pub fn info(caller: &Task, target: &Task) -> Result<SigInfo> {
    stopped(caller, target, |state| state.stop.and_then(|stop| stop.info))?.ok_or(Errno::EINVAL)
}

/// `PTRACE_SETSIGINFO`.
pub fn set_info(caller: &Task, target: &Task, info: SigInfo) -> Result<()> {
    stopped(caller, target, |state| match &mut state.stop {
        Some(stop) if stop.info.is_some() => {
            stop.info = Some(info);
            Ok(())
        }
        _ => Err(Errno::EINVAL),
    })?
}

/// `PTRACE_GETSIGMASK`.
pub fn mask(caller: &Task, target: &Task) -> Result<SigSet> {
    check_stopped(caller, target)?;
    Ok(target.blocked())
}

/// `PTRACE_SETSIGMASK`.
pub fn set_mask(caller: &Task, target: &Task, mask: SigSet) -> Result<()> {
    check_stopped(caller, target)?;
    let _signals = target.group.signals.lock();
    target.store_blocked(mask.minus(SigSet::UNBLOCKABLE));
    target.set_flag(flags::SIGPENDING);
    Ok(())
}

/// `PTRACE_GET_SYSCALL_INFO`: `struct ptrace_syscall_info` as far as it has a meaning.
pub fn syscall_info(caller: &Task, target: &Task) -> Result<Vec<u8>> {
    // As stops at system calls look like any SIGTRAP otherwise.
    let (kind, message) = stopped(caller, target, |state| {
        let is_told_apart =
            |stop: &Stop| state.options & option::TRACESYSGOOD != 0 || stop.kind == Kind::Seccomp;
        (state.stop.filter(is_told_apart).map(|stop| stop.kind), state.message)
    })?;
    let frame = with_registers(caller, target, |registers| Ok(registers.frame))?;
    Ok(describe_call(kind, message, &frame))
}

/// `struct ptrace_syscall_info` for a stop of this kind.
fn describe_call(kind: Option<Kind>, message: u64, frame: &TrapFrame) -> Vec<u8> {
    let op = match kind {
        Some(Kind::SyscallEnter(..)) => syscall_info::ENTRY,
        Some(Kind::SyscallExit) => syscall_info::EXIT,
        Some(Kind::Seccomp) => syscall_info::SECCOMP,
        _ => syscall_info::NONE,
    };
    let mut out = alloc::vec![op, 0, 0, 0];
    out.extend_from_slice(&abi::ptrace::ARCH_X86_64.to_le_bytes());
    out.extend_from_slice(&frame.rip.to_le_bytes());
    out.extend_from_slice(&frame.rsp.to_le_bytes());
    match kind {
        Some(Kind::SyscallEnter(..) | Kind::Seccomp) => {
            out.extend_from_slice(&frame.orig_rax.to_le_bytes());
            frame.args().iter().for_each(|arg| out.extend_from_slice(&arg.to_le_bytes()));
            if kind == Some(Kind::Seccomp) {
                out.extend_from_slice(&(message as u32).to_le_bytes());
            }
        }
        Some(Kind::SyscallExit) => {
            out.extend_from_slice(&frame.rax.to_le_bytes());
            let is_error = (-4095..0).contains(&(frame.rax as i64));
            out.push(u8::from(is_error));
        }
        _ => {}
    }
    out
}

/// The memory of a stopped thread. What its program hides is hidden from its tracer as well, unless
/// that has `CAP_SYS_PTRACE`: `EIO`.
fn memory(caller: &Task, target: &Task) -> Result<Arc<AddressSpace>> {
    check_stopped(caller, target)?;
    // Relaxed: the thread stands still.
    let is_open = target.group.dumpable.load(Ordering::Relaxed) == 1
        || caller.creds().ns_capable(&target.creds().user_ns, Cap::SYS_PTRACE);
    target.mm().filter(|_| is_open).ok_or(Errno::EIO)
}

/// A word of memory; `EIO` if it is not there.
pub fn peek(caller: &Task, target: &Task, at: u64) -> Result<u64> {
    let mut word = [0u8; 8];
    match memory(caller, target)?.read_remote(VirtAddr(at), &mut word) {
        Ok(8) => Ok(u64::from_le_bytes(word)),
        _ => Err(Errno::EIO),
    }
}

/// Changes a word of memory, whatever its protection; `EIO` if it is not there.
pub fn poke(caller: &Task, target: &Task, at: u64, word: u64) -> Result<()> {
    match memory(caller, target)?.write_forced(VirtAddr(at), &word.to_le_bytes()) {
        Ok(8) => Ok(()),
        _ => Err(Errno::EIO),
    }
}
