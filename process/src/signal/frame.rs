//! The signal frame of x86_64 and `rt_sigreturn(2)`.
//!
//! From the handler's stack pointer upwards: return address, `ucontext`, `siginfo`, then, aligned
//! to 64 bytes, the extended registers in XSAVE's standard format with the software bytes that
//! tell user space (and us, on the way back) how large it is.

use crate::task::Task;
use abi::signal::{
    FP_XSTATE_MAGIC1, FP_XSTATE_MAGIC2, FpxSwBytes, MINSIGSTKSZ, RtSigFrame, SS_AUTODISARM,
    SS_DISABLE, SS_ONSTACK, SigAction, SigContext, SigInfo, SigSet, Signal, StackT, UC_FP_XSTATE,
    UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS, UContext, sa,
};
use abi::{Errno, Result};
use alloc::vec;
use arch::VirtAddr;
use arch::thread::fpu;
use arch::trap::{TrapFrame, USER_CS, USER_SS};
use arch::user;
use core::sync::atomic::Ordering;

/// Bytes below the stack pointer that a leaf function may use.
const RED_ZONE: u64 = 128;
/// Direction, resume and trap flags: clear when a handler starts.
const HANDLER_CLEARED_FLAGS: u64 = 1 << 10 | 1 << 16 | 1 << 8;
/// The flags that a frame sets: CF PF AF ZF SF TF DF OF RF AC, and not NT and ID.
const RESTORED_FLAGS: u64 = 0x0005_0dd5;
/// The privilege level of programs, in a selector.
const RING: u64 = 3;
/// Where the software bytes lie in the FXSAVE image.
const SW_BYTES_AT: usize = 464;
/// The size of the FXSAVE image.
const FXSAVE_LEN: usize = 512;

/// Whether `sp` is on the alternate stack.
pub fn on_altstack(stack: &StackT, sp: u64) -> bool {
    stack.flags & SS_AUTODISARM == 0
        && stack.size != 0
        && sp > stack.sp
        && sp - stack.sp <= stack.size
}

/// The `ss_flags` that describe where `sp` is.
pub fn altstack_flags(stack: &StackT, sp: u64) -> i32 {
    if stack.size == 0 {
        SS_DISABLE
    } else if on_altstack(stack, sp) {
        SS_ONSTACK
    } else {
        0
    }
}

/// The alternate stack as `sigaltstack(2)` reports it to a caller at `sp`.
pub fn shown_altstack(task: &Task, sp: u64) -> StackT {
    let stack = *task.altstack.lock();
    StackT { flags: altstack_shown(&stack, sp), ..stack }
}

/// `sigaltstack(2)`.
pub fn set_altstack(task: &Task, new: StackT, sp: u64) -> Result<()> {
    let mut stack = task.altstack.lock();
    if on_altstack(&stack, sp) {
        return Err(Errno::EPERM);
    }
    let mode = new.flags & !SS_AUTODISARM;
    if mode != 0 && mode != SS_DISABLE && mode != SS_ONSTACK {
        return Err(Errno::EINVAL);
    }
    if mode == SS_DISABLE {
        *stack = StackT { sp: 0, flags: new.flags, pad: 0, size: 0 };
        return Ok(());
    }
    if new.size < MINSIGSTKSZ {
        return Err(Errno::ENOMEM);
    }
    *stack = StackT { pad: 0, ..new };
    Ok(())
}

/// Writes the frame for `signal` below the stack pointer and points the registers at the handler.
// Called at one place, with much that is passed in memory otherwise.
#[inline(always)]
pub(crate) fn push(
    task: &Task,
    regs: &mut TrapFrame,
    signal: Signal,
    info: &SigInfo,
    action: &SigAction,
    mask: SigSet,
) -> Result<()> {
    // Without a restorer the handler could not return.
    if action.flags & sa::RESTORER == 0 {
        return Err(Errno::EFAULT);
    }
    let stack = *task.altstack.lock();
    let was_on = on_altstack(&stack, regs.rsp);
    let mut sp = regs.rsp.wrapping_sub(RED_ZONE);
    let mut enters = false;
    if action.flags & sa::ONSTACK != 0 && !was_on && stack.size != 0 {
        sp = stack.sp.wrapping_add(stack.size);
        enters = true;
    }
    let area_len = fpu::signal_area_len();
    let fp_at = sp.wrapping_sub((area_len + 4) as u64) & !63;
    let frame_at = ((fp_at - size_of::<RtSigFrame>() as u64) & !15).wrapping_sub(8);
    if (enters || was_on) && stack.size != 0 && (frame_at <= stack.sp) {
        return Err(Errno::EFAULT);
    }
    write_fpu(fp_at, area_len)?;
    let shown = StackT { flags: altstack_shown(&stack, regs.rsp), ..stack };
    let frame = RtSigFrame {
        pretcode: action.restorer,
        uc: UContext {
            flags: UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
            link: 0,
            stack: shown,
            mcontext: context(task, regs, fp_at, mask),
            sigmask: mask,
        },
        info: *info,
    };
    user::write_val(VirtAddr(frame_at), &frame)?;
    if stack.flags & SS_AUTODISARM != 0 {
        *task.altstack.lock() = StackT { sp: 0, flags: SS_DISABLE, pad: 0, size: 0 };
    }
    let uc_at = frame_at + core::mem::offset_of!(RtSigFrame, uc) as u64;
    let info_at = frame_at + core::mem::offset_of!(RtSigFrame, info) as u64;
    regs.rdi = u64::from(signal.raw());
    regs.rsi = info_at;
    regs.rdx = uc_at;
    regs.rax = 0;
    regs.rip = action.handler;
    regs.rsp = frame_at;
    regs.cs = USER_CS;
    regs.ss = USER_SS;
    regs.rflags &= !HANDLER_CLEARED_FLAGS;
    regs.orig_rax = u64::MAX;
    Ok(())
}

fn altstack_shown(stack: &StackT, sp: u64) -> i32 {
    altstack_flags(stack, sp) | (stack.flags & SS_AUTODISARM)
}

fn context(task: &Task, regs: &TrapFrame, fpstate: u64, mask: SigSet) -> SigContext {
    let trap = |i: usize| task.last_trap.get(i).map_or(0, |w| w.load(Ordering::Relaxed));
    SigContext {
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.r11,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
        rdi: regs.rdi,
        rsi: regs.rsi,
        rbp: regs.rbp,
        rbx: regs.rbx,
        rdx: regs.rdx,
        rax: regs.rax,
        rcx: regs.rcx,
        rsp: regs.rsp,
        rip: regs.rip,
        eflags: regs.rflags,
        cs: regs.cs as u16,
        gs: 0,
        fs: 0,
        ss: regs.ss as u16,
        err: trap(1),
        trapno: trap(0),
        oldmask: mask.0,
        cr2: trap(2),
        fpstate,
        reserved: [0; 8],
    }
}

fn write_fpu(at: u64, len: usize) -> Result<()> {
    // Straight from the registers' save area, unless a page of the stack has to be made first.
    if !fpu::save_to_user(VirtAddr(at)) {
        let mut area = vec![0u8; len];
        fpu::save_for_signal(&mut area);
        user::copy_to_user(VirtAddr(at), &area)?;
    }
    let software = FpxSwBytes {
        magic1: FP_XSTATE_MAGIC1,
        extended_size: (len + 4) as u32,
        xfeatures: fpu::signal_features(),
        xstate_size: len as u32,
        padding: [0; 7],
    };
    user::write_val(VirtAddr(at + SW_BYTES_AT as u64), &software)?;
    user::write_val(VirtAddr(at + len as u64), &FP_XSTATE_MAGIC2)?;
    Ok(())
}

/// `rt_sigreturn(2)`: restores what [`push`] saved. Everything in the frame is the program's own:
/// selectors are made a program's, flags limited. What the processor then refuses, an address
/// without a program or a selector that names no segment, is a fault of the program at its next
/// instruction. Returns what `rax` is to be.
pub fn sigreturn(task: &Task, regs: &mut TrapFrame) -> Result<u64> {
    // `ret` has taken the return address off.
    let frame_at = regs.rsp.wrapping_sub(8);
    let uc_at = frame_at.wrapping_add(core::mem::offset_of!(RtSigFrame, uc) as u64);
    let Ok(uc) = user::read_val::<UContext>(VirtAddr(uc_at)) else {
        return bad_frame(task, regs);
    };
    let m = &uc.mcontext;
    if m.fpstate != 0 && !read_fpu(m.fpstate) {
        return bad_frame(task, regs);
    }
    super::set_blocked(task, uc.sigmask);
    regs.r8 = m.r8;
    regs.r9 = m.r9;
    regs.r10 = m.r10;
    regs.r11 = m.r11;
    regs.r12 = m.r12;
    regs.r13 = m.r13;
    regs.r14 = m.r14;
    regs.r15 = m.r15;
    regs.rdi = m.rdi;
    regs.rsi = m.rsi;
    regs.rbp = m.rbp;
    regs.rbx = m.rbx;
    regs.rdx = m.rdx;
    regs.rcx = m.rcx;
    regs.rsp = m.rsp;
    regs.rip = m.rip;
    regs.cs = u64::from(m.cs) | RING;
    regs.ss = stack_selector(&uc);
    regs.set_user_rflags(m.eflags & RESTORED_FLAGS | regs.rflags & !RESTORED_FLAGS);
    regs.orig_rax = u64::MAX;
    let disarmed = uc.stack.flags & SS_AUTODISARM != 0;
    if disarmed || uc.stack.size != 0 {
        let _ = set_altstack(task, uc.stack, regs.rsp);
    }
    Ok(m.rax)
}

/// The stack's selector that a frame asks for: taken as it is if it is the one of programs, if the
/// frame insists, or with a code segment other than programs have; else the one of programs.
/// asm/ucontext.h, `UC_STRICT_RESTORE_SS`.
fn stack_selector(uc: &UContext) -> u64 {
    let asked = u64::from(uc.mcontext.ss) | RING;
    let insists = uc.flags & UC_STRICT_RESTORE_SS != 0;
    let is_64_bit = u64::from(uc.mcontext.cs) | RING == USER_CS;
    if insists || !is_64_bit { asked } else { USER_SS }
}

fn bad_frame(task: &Task, regs: &TrapFrame) -> Result<u64> {
    log::debug!("bad signal frame at {:x}, rip {:x}", regs.rsp, regs.rip);
    super::force(task, SigInfo::new(Signal::SIGSEGV, abi::signal::si::KERNEL));
    Ok(0)
}

/// Loads the extended registers from a frame; whether they were acceptable.
fn read_fpu(at: u64) -> bool {
    let software = user::read_val(VirtAddr(at.wrapping_add(SW_BYTES_AT as u64)));
    let Ok(sw): Result<FpxSwBytes, _> = software else { return false };
    let full = fpu::signal_area_len();
    let has_extension = sw.magic1 == FP_XSTATE_MAGIC1
        && sw.xstate_size as usize >= FXSAVE_LEN + 64
        && sw.xstate_size as usize <= full
        && sw.xstate_size <= sw.extended_size
        && has_magic2(at, sw.xstate_size);
    if has_extension && !has_sound_header(at) {
        return false;
    }
    let (len, features) = if has_extension {
        (sw.xstate_size as usize, sw.xfeatures & fpu::signal_features())
    } else {
        // An old-style frame: x87 and SSE only.
        (FXSAVE_LEN, 3)
    };
    if fpu::restore_from_user(VirtAddr(at), len, features) {
        return true;
    }
    let mut area = vec![0u8; len];
    user::copy_from_user(&mut area, VirtAddr(at)).is_ok()
        && fpu::restore_from_signal(&area, features)
}

/// Whether XRSTOR would take the header that follows the FXSAVE image: no features that the processor
/// does not save, and the standard format. SDM vol. 1 13.8.1. What is loaded is made sound once
/// more, since the program can change the frame meanwhile.
fn has_sound_header(at: u64) -> bool {
    let header = user::read_val::<[u64; 3]>(VirtAddr(at.wrapping_add(FXSAVE_LEN as u64)));
    header.is_ok_and(|[saved, compaction, reserved]| {
        saved & !fpu::signal_features() == 0 && compaction == 0 && reserved == 0
    })
}

fn has_magic2(at: u64, size: u32) -> bool {
    user::load_u32(VirtAddr(at.wrapping_add(u64::from(size)))) == Ok(FP_XSTATE_MAGIC2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_has_the_size_programs_expect() {
        // asm/ucontext.h: 304 bytes; siginfo 128; return address 8.
        assert_eq!(size_of::<SigContext>(), 256);
        assert_eq!(size_of::<UContext>(), 304);
        assert_eq!(size_of::<RtSigFrame>(), 440);
        assert_eq!(size_of::<FpxSwBytes>(), 48);
    }

    #[test]
    fn stack_selectors_of_frames() {
        let of = |flags, cs, ss| {
            let mut uc = UContext { flags, ..UContext::default() };
            (uc.mcontext.cs, uc.mcontext.ss) = (cs, ss);
            stack_selector(&uc)
        };
        // What a frame from before the field had one there says nothing.
        assert_eq!(of(UC_FP_XSTATE, USER_CS as u16, 0), USER_SS);
        assert_eq!(of(UC_STRICT_RESTORE_SS, USER_CS as u16, 0), 3);
        assert_eq!(of(UC_STRICT_RESTORE_SS, USER_CS as u16, 0x18), 0x1b);
        assert_eq!(of(0, 0x23, 0x10), 0x13);
    }

    #[test]
    fn altstack_bounds() {
        let stack = StackT { sp: 0x1000, flags: 0, pad: 0, size: 0x1000 };
        assert!(!on_altstack(&stack, 0x1000));
        assert!(on_altstack(&stack, 0x1001));
        assert!(on_altstack(&stack, 0x2000));
        assert!(!on_altstack(&stack, 0x2001));
        assert_eq!(altstack_flags(&StackT::default(), 5), SS_DISABLE);
    }
}
