//! Restartable sequences (`rseq(2)`, `linux/rseq.h`).
//!
//! A thread registers 32 bytes of its memory. Whenever it goes on in user mode after another
//! thread may have had its processor, or with a signal's handler, the kernel writes the number of
//! the processor there; if the thread stood in the sequence that it announced, it goes on at the
//! sequence's abort handler instead. An area that cannot be written or makes no sense is a SIGSEGV.
//!
//! A switch costs one look at [`flags::RSEQ`] of the thread that comes on; only registered threads
//! take the slow way out ([`flags::RSEQ_RESUME`]).

use crate::signal;
use crate::task::Task;
use abi::process::rseq::{AREA_LEN, CPU_ID_UNINITIALIZED, FLAG_UNREGISTER, Sequence};
use abi::signal::{SigInfo, Signal, si};
use abi::{Errno, Result};
use arch::thread::flags;
use arch::trap::TrapFrame;
use arch::user::{self, Fault};
use arch::{USER_END, VirtAddr};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What a thread has registered. Only the thread itself changes it.
#[derive(Default)]
pub(crate) struct Registration {
    /// The address of the area; 0 for none.
    area: AtomicU64,
    signature: AtomicU32,
}

/// What the program told a tracer's `PTRACE_GET_RSEQ_CONFIGURATION`: the area and its signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registered {
    /// 0 for none.
    pub area: VirtAddr,
    /// What stands before each abort handler.
    pub signature: u32,
}

impl Registration {
    fn get(&self) -> Registered {
        Registered {
            area: VirtAddr(self.area.load(Ordering::Relaxed)),
            signature: self.signature.load(Ordering::Relaxed),
        }
    }
    fn set(&self, to: Registered) {
        self.area.store(to.area.0, Ordering::Relaxed);
        self.signature.store(to.signature, Ordering::Relaxed);
    }
}

const NOTHING: Registered = Registered { area: VirtAddr(0), signature: 0 };

/// `rseq(2)` of the running thread.
///
/// # Errors
/// `EINVAL` for other flags, another length or alignment, another area than the registered one, and
/// an area that was not registered; `EPERM` for another signature; `EBUSY` for a second
/// registration; `EFAULT` for an area that is not the program's.
pub fn register(task: &Task, area: VirtAddr, len: u32, how: u32, signature: u32) -> Result<()> {
    let own = task.rseq.get();
    let is_registered = own.area.0 != 0;
    if how & FLAG_UNREGISTER != 0 {
        if how != FLAG_UNREGISTER || own.area != area || !is_registered || len != AREA_LEN {
            return Err(Errno::EINVAL);
        }
        if own.signature != signature {
            return Err(Errno::EPERM);
        }
        write_ids(area, 0, CPU_ID_UNINITIALIZED)?;
        forget(task);
        return Ok(());
    }
    if how != 0 {
        return Err(Errno::EINVAL);
    }
    if is_registered {
        return Err(match () {
            () if own.area != area || len != AREA_LEN => Errno::EINVAL,
            () if own.signature != signature => Errno::EPERM,
            () => Errno::EBUSY,
        });
    }
    if !area.0.is_multiple_of(u64::from(AREA_LEN)) || len != AREA_LEN {
        return Err(Errno::EINVAL);
    }
    if !user::range_ok(area, AREA_LEN as usize) {
        return Err(Errno::EFAULT);
    }
    task.rseq.set(Registered { area, signature });
    task.set_flag(flags::RSEQ | flags::RSEQ_RESUME);
    Ok(())
}

/// What `task` has registered.
pub fn registered(task: &Task) -> Registered {
    task.rseq.get()
}

/// A new program, or the end of the registration.
pub(crate) fn forget(task: &Task) {
    task.rseq.set(NOTHING);
    task.clear_flag(flags::RSEQ | flags::RSEQ_RESUME);
}

/// A child with its own copy of the memory goes on with the parent's registration.
pub(crate) fn inherit(parent: &Task, child: &Task) {
    let own = parent.rseq.get();
    if own.area.0 != 0 {
        child.rseq.set(own);
        child.set_flag(flags::RSEQ | flags::RSEQ_RESUME);
    }
}

/// Before the return to user mode: the thread may have lost its processor in between.
pub(crate) fn resume(task: &Task, frame: &mut TrapFrame) {
    task.clear_flag(flags::RSEQ_RESUME);
    let own = task.rseq.get();
    if own.area.0 != 0 && bring_up_to_date(own, frame).is_err() {
        signal::force(task, SigInfo::new(Signal::SIGSEGV, si::KERNEL));
    }
}

fn bring_up_to_date(own: Registered, frame: &mut TrapFrame) -> Result<()> {
    // A thread that moves on from here comes back: its flag is set at the switch.
    let cpu = arch::cpu::id().index() as u32;
    write_ids(own.area, cpu, cpu)?;
    leave_sequence(own, frame)
}

/// Sends the thread to the abort handler of the sequence that it is in, if it is in one. With any of
/// the flags, which are deprecated, it stays where it is: Linux 6.1 does that, or ends it, as it happens.
fn leave_sequence(own: Registered, frame: &mut TrapFrame) -> Result<()> {
    let pointer = own.area.wrapping_add(Sequence::POINTER_AT);
    let at: u64 = user::read_val(pointer)?;
    if at == 0 {
        return Ok(());
    }
    let sequence: Sequence = user::read_val(VirtAddr(at))?;
    let stands_inside = check(&sequence, frame.rip)?;
    // It is aligned to nothing.
    let signature: u32 = user::read_val(VirtAddr(sequence.abort_ip.wrapping_sub(4)))?;
    if signature != own.signature {
        return Err(Errno::EINVAL);
    }
    if stands_inside && sequence.flags != 0 {
        return Ok(());
    }
    user::write_val(pointer, &0u64)?;
    if stands_inside {
        frame.rip = sequence.abort_ip;
    }
    Ok(())
}

/// Whether `ip` is in the sequence; `EINVAL` for one that makes no sense.
fn check(sequence: &Sequence, ip: u64) -> Result<bool> {
    let Sequence { version, start_ip, post_commit_offset: len, abort_ip, .. } = *sequence;
    let end = start_ip.checked_add(len).filter(|&end| end < USER_END);
    let is_inside = |ip: u64| ip.wrapping_sub(start_ip) < len;
    if version != 0 || end.is_none() || abort_ip >= USER_END || is_inside(abort_ip) {
        return Err(Errno::EINVAL);
    }
    Ok(is_inside(ip))
}

fn write_ids(area: VirtAddr, start: u32, id: u32) -> core::result::Result<(), Fault> {
    user::write_val(area, &[start, id])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQUENCE: Sequence = Sequence {
        version: 0,
        flags: 0,
        start_ip: 0x1000,
        post_commit_offset: 16,
        abort_ip: 0x2000,
    };

    #[test]
    fn only_instructions_between_start_and_commit_are_inside() {
        for (ip, inside) in [(0xfff, false), (0x1000, true), (0x100f, true), (0x1010, false)] {
            assert_eq!(check(&SEQUENCE, ip), Ok(inside), "{ip:#x}");
        }
    }

    #[test]
    fn sequences_without_sense_are_refused() {
        let refused = |change: fn(&mut Sequence)| {
            let mut sequence = SEQUENCE;
            change(&mut sequence);
            assert_eq!(check(&sequence, 0x1000), Err(Errno::EINVAL), "{sequence:?}");
        };
        refused(|s| s.version = 1);
        refused(|s| s.start_ip = USER_END);
        refused(|s| s.post_commit_offset = u64::MAX);
        refused(|s| s.abort_ip = 0x1008);
        refused(|s| s.abort_ip = USER_END);
    }
}
