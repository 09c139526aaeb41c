//! `ptrace(2)`.
//!
//! Not supported: `PTRACE_SINGLEBLOCK`, `PTRACE_GET_THREAD_AREA` and `PTRACE_SECCOMP_GET_FILTER` (`EIO`).

use crate::Cx;
use abi::process::rseq;
use abi::ptrace::{regset, request as r, user as area};
use abi::signal::{SigInfo, SigSet};
use abi::{Errno, Result};
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::user;
use process::Task;
use process::ptrace::registers::WORDS;
use process::ptrace::request as tracer;
use process::ptrace::{self, Resume};
use zerocopy::IntoBytes;

crate::syscalls! {
    101 ptrace => sys_ptrace(request: Hex, pid: Dec, address: Hex, data: Hex);
}

fn sys_ptrace(cx: &mut Cx<'_>, request: u64, pid: i32, address: u64, data: u64) -> Result<usize> {
    let own = cx.task;
    // No request has such a number.
    let request = u32::try_from(request).unwrap_or(u32::MAX);
    if request == r::TRACEME {
        return ptrace::trace_me(own).map(|()| 0);
    }
    let target = own.group.pid_ns().task(pid).ok_or(Errno::ESRCH)?;
    match request {
        r::ATTACH => ptrace::attach(own, &target)?,
        r::SEIZE if address != 0 => return Err(Errno::EIO),
        r::SEIZE => ptrace::seize(own, &target, data)?,
        r::KILL => tracer::kill(own, &target)?,
        r::INTERRUPT => tracer::interrupt(own, &target)?,
        r::LISTEN => tracer::listen(own, &target)?,
        r::DETACH => tracer::detach(own, &target, data)?,
        r::CONT => tracer::resume(own, &target, Resume::Continue, data)?,
        r::SYSCALL => tracer::resume(own, &target, Resume::Syscall, data)?,
        r::SINGLESTEP => tracer::resume(own, &target, Resume::Step, data)?,
        r::SYSEMU => tracer::resume(own, &target, Resume::Emulate, data)?,
        r::SYSEMU_SINGLESTEP => tracer::resume(own, &target, Resume::EmulateStep, data)?,
        r::SETOPTIONS | r::OLDSETOPTIONS => tracer::set_options(own, &target, data)?,
        _ => return examine(own, &target, request, address, VirtAddr(data)),
    }
    Ok(0)
}

/// Requests that read or change the state of a stopped thread.
fn examine(own: &Task, target: &Task, request: u32, address: u64, data: VirtAddr) -> Result<usize> {
    match request {
        r::PEEKTEXT | r::PEEKDATA => user::write_val(data, &tracer::peek(own, target, address)?)?,
        r::POKETEXT | r::POKEDATA => tracer::poke(own, target, address, data.0)?,
        r::PEEKUSR => user::write_val(data, &peek_user(own, target, address)?)?,
        r::POKEUSR => poke_user(own, target, address, data.0)?,
        r::GETREGS => {
            let words = tracer::with_registers(own, target, |regs| Ok(regs.words()))?;
            user::write_val(data, &words)?;
        }
        r::SETREGS => {
            tracer::check_stopped(own, target)?;
            let words: [u64; WORDS] = user::read_val(data)?;
            set_words(own, target, &words)?;
        }
        r::GETFPREGS => {
            let image = tracer::with_registers(own, target, |regs| Ok(regs.legacy()))?;
            user::copy_to_user(data, &image)?;
        }
        r::SETFPREGS => {
            tracer::check_stopped(own, target)?;
            let mut image = [0u8; 512];
            user::copy_from_user(&mut image, data)?;
            tracer::with_registers(own, target, |regs| regs.set_xstate(&image))?;
        }
        r::GETREGSET | r::SETREGSET => register_set(own, target, request, address, data)?,
        r::GETEVENTMSG => user::write_val(data, &tracer::message(own, target)?)?,
        r::GETSIGINFO => user::write_val(data, &tracer::info(own, target)?)?,
        r::SETSIGINFO => {
            tracer::check_stopped(own, target)?;
            let info: SigInfo = user::read_val(data)?;
            tracer::set_info(own, target, info)?;
        }
        r::GETSIGMASK | r::SETSIGMASK if address != size_of::<SigSet>() as u64 => {
            tracer::check_stopped(own, target)?;
            return Err(Errno::EINVAL);
        }
        r::GETSIGMASK => user::write_val(data, &tracer::mask(own, target)?.0)?,
        r::SETSIGMASK => {
            tracer::check_stopped(own, target)?;
            tracer::set_mask(own, target, SigSet(user::read_val(data)?))?;
        }
        r::GET_SYSCALL_INFO => {
            let info = tracer::syscall_info(own, target)?;
            let room = usize::try_from(address).unwrap_or(usize::MAX);
            let given = info.get(..room.min(info.len())).unwrap_or_default();
            user::copy_to_user(data, given)?;
            return Ok(info.len());
        }
        r::GET_RSEQ_CONFIGURATION => {
            tracer::check_stopped(own, target)?;
            let given = rseq_configuration(target);
            let given = given.as_bytes();
            let room = usize::try_from(address).unwrap_or(usize::MAX);
            user::copy_to_user(data, given.get(..room).unwrap_or(given))?;
            return Ok(given.len());
        }
        _ => {
            tracer::check_stopped(own, target)?;
            return Err(Errno::EIO);
        }
    }
    Ok(0)
}

/// What `PTRACE_GET_RSEQ_CONFIGURATION` gives.
fn rseq_configuration(target: &Task) -> rseq::Configuration {
    let own = process::rseq::registered(target);
    rseq::Configuration {
        area: own.area.0,
        len: rseq::AREA_LEN,
        signature: own.signature,
        flags: 0,
        pad: 0,
    }
}

/// A word of `struct user`.
fn peek_user(own: &Task, target: &Task, at: u64) -> Result<u64> {
    tracer::check_stopped(own, target)?;
    if !at.is_multiple_of(8) || at >= area::LEN {
        return Err(Errno::EIO);
    }
    tracer::with_registers(own, target, |regs| {
        if (area::DEBUGREG..area::DEBUGREG_END).contains(&at) {
            return Ok(regs.debug(((at - area::DEBUGREG) / 8) as usize));
        }
        Ok(regs.words().get((at / 8) as usize).copied().unwrap_or(0))
    })
}

fn poke_user(own: &Task, target: &Task, at: u64, value: u64) -> Result<()> {
    tracer::check_stopped(own, target)?;
    if !at.is_multiple_of(8) || at >= area::LEN {
        return Err(Errno::EIO);
    }
    if (area::DEBUGREG..area::DEBUGREG_END).contains(&at) {
        let index = ((at - area::DEBUGREG) / 8) as usize;
        return tracer::with_registers(own, target, |regs| regs.set_debug(index, value));
    }
    if at >= area::REGS_LEN {
        return Err(Errno::EIO);
    }
    tracer::with_registers(own, target, |regs| regs.set_word((at / 8) as usize, value))
}

fn set_words(own: &Task, target: &Task, words: &[u64]) -> Result<()> {
    tracer::with_registers(own, target, |regs| {
        words.iter().enumerate().try_for_each(|(index, word)| regs.set_word(index, *word))
    })
}

/// `PTRACE_GETREGSET`, `PTRACE_SETREGSET`: the buffer is given as an `iovec`, whose length becomes
/// how much there was.
fn register_set(own: &Task, target: &Task, request: u32, kind: u64, iovec: VirtAddr) -> Result<()> {
    tracer::check_stopped(own, target)?;
    let [base, len]: [u64; 2] = user::read_val(iovec)?;
    let (whole, unit) = match u32::try_from(kind).unwrap_or(u32::MAX) {
        regset::PRSTATUS => {
            let words = tracer::with_registers(own, target, |regs| Ok(regs.words()))?;
            (words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>(), 8)
        }
        regset::PRFPREG => {
            (tracer::with_registers(own, target, |regs| Ok(regs.legacy()))?.to_vec(), 8)
        }
        regset::X86_XSTATE if arch::thread::fpu::signal_features() != 0 => {
            // Room is made before: the registers lie behind a spin lock.
            let mut room = alloc::vec![0; arch::thread::fpu::signal_area_len()];
            tracer::with_registers(own, target, |regs| {
                room.iter_mut().zip(&regs.xstate).for_each(|(to, from)| *to = *from);
                Ok(())
            })?;
            (room, 8)
        }
        _ => return Err(Errno::EINVAL),
    };
    if len % unit != 0 {
        return Err(Errno::EINVAL);
    }
    let count = usize::try_from(len).unwrap_or(usize::MAX).min(whole.len());
    if request == r::GETREGSET {
        user::copy_to_user(VirtAddr(base), whole.get(..count).unwrap_or_default())?;
    } else {
        let mut bytes = alloc::vec![0u8; count];
        user::copy_from_user(&mut bytes, VirtAddr(base))?;
        if kind == u64::from(regset::PRSTATUS) {
            let words: Vec<u64> = bytes
                .chunks_exact(8)
                .filter_map(|word| word.try_into().ok().map(u64::from_le_bytes))
                .collect();
            set_words(own, target, &words)?;
        } else {
            tracer::with_registers(own, target, |regs| regs.set_xstate(&bytes))?;
        }
    }
    user::write_val(iovec.wrapping_add(8), &(count as u64))?;
    Ok(())
}
