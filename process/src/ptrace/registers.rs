//! The registers of a stopped thread, and their layouts for programs.

use crate::task::Task;
use abi::{Errno, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use arch::addr::USER_END;
use arch::thread::{flags, fpu};
use arch::trap::{RFLAGS_TF, TrapFrame};

/// Words of `struct user_regs_struct`.
pub const WORDS: usize = 27;

/// What a stopped thread lays out.
pub struct Registers {
    /// The general registers.
    pub frame: TrapFrame,
    /// The user FS base.
    pub fs_base: u64,
    /// The user GS base.
    pub gs_base: u64,
    /// The extended registers as XSAVE writes them, not compacted.
    pub xstate: Vec<u8>,
    /// The debug registers: DR0 to DR3, DR6 and DR7 in their places.
    debug: [u64; 8],
    has_new_xstate: bool,
    has_new_debug: bool,
}

/// Where XSAVE's header tells which parts are in use (XSTATE_BV), and where Linux puts XCR0 for
/// debuggers: in the bytes that FXSAVE leaves to software.
const XSTATE_BV: usize = 512;
const SOFTWARE_XCR0: usize = 464;
const MXCSR: usize = 24;

/// `struct user_regs_struct`; the data segments are always 0.
pub(crate) fn user_words(frame: &TrapFrame, fs_base: u64, gs_base: u64) -> [u64; WORDS] {
    let f = frame;
    [
        f.r15, f.r14, f.r13, f.r12, f.rbp, f.rbx, f.r11, f.r10, f.r9, f.r8, f.rax, f.rcx, f.rdx,
        f.rsi, f.rdi, f.orig_rax, f.rip, f.cs, f.rflags, f.rsp, f.ss, fs_base, gs_base, 0, 0, 0, 0,
    ]
}

fn selector_is_user(selector: u64) -> bool {
    selector & !0xffff == 0 && selector & 3 == 3
}

impl Registers {
    /// Those of the current thread, stepping hidden.
    pub(super) fn of_current(task: &Task, frame: &TrapFrame) -> Box<Registers> {
        let (fs_base, gs_base) =
            task.thread().map_or((0, 0), |t| (t.arch().fs_base(), t.arch().gs_base()));
        let mut xstate = alloc::vec![0u8; fpu::signal_area_len()];
        fpu::save_for_signal(&mut xstate);
        if let Some(bytes) = xstate.get_mut(SOFTWARE_XCR0..SOFTWARE_XCR0 + 8) {
            bytes.copy_from_slice(&fpu::signal_features().to_le_bytes());
        }
        let mut frame = *frame;
        if task.has_flag(flags::SINGLE_STEP) {
            frame.rflags &= !RFLAGS_TF;
        }
        let [a, b, c, d, control] = task.thread().map_or([0; 5], |t| t.arch().breakpoints());
        let status = task.tracing.debug_status();
        Box::new(Registers {
            frame,
            fs_base,
            gs_base,
            xstate,
            debug: [a, b, c, d, 0, 0, status, control],
            has_new_xstate: false,
            has_new_debug: false,
        })
    }

    /// Makes them those of the current thread.
    pub(super) fn take_over(mut self: Box<Self>, task: &Task, frame: &mut TrapFrame) {
        if let Some(thread) = task.thread() {
            thread.arch().set_fs_base(self.fs_base);
            thread.arch().set_gs_base(self.gs_base);
        }
        *frame = self.frame;
        if self.has_new_debug {
            let [a, b, c, d, _, _, status, control] = self.debug;
            task.tracing.set_debug_status(status);
            // Checked when they were set.
            arch::thread::set_breakpoints([a, b, c, d, control]);
        }
        if self.has_new_xstate {
            if let Some(bytes) = self.xstate.get_mut(SOFTWARE_XCR0..512) {
                bytes.fill(0);
            }
            // Checked when it was set.
            fpu::restore_from_signal(&self.xstate, fpu::signal_features());
        }
    }

    /// `struct user_regs_struct`.
    pub fn words(&self) -> [u64; WORDS] {
        user_words(&self.frame, self.fs_base, self.gs_base)
    }

    /// Sets word `index` of `struct user_regs_struct`; `EIO` for a value that it cannot have.
    pub fn set_word(&mut self, index: usize, value: u64) -> Result<()> {
        let f = &mut self.frame;
        let place = match index {
            0 => &mut f.r15,
            1 => &mut f.r14,
            2 => &mut f.r13,
            3 => &mut f.r12,
            4 => &mut f.rbp,
            5 => &mut f.rbx,
            6 => &mut f.r11,
            7 => &mut f.r10,
            8 => &mut f.r9,
            9 => &mut f.r8,
            10 => &mut f.rax,
            11 => &mut f.rcx,
            12 => &mut f.rdx,
            13 => &mut f.rsi,
            14 => &mut f.rdi,
            15 => &mut f.orig_rax,
            16 => &mut f.rip,
            18 => {
                f.set_user_rflags(value);
                return Ok(());
            }
            19 => &mut f.rsp,
            // The kernel runs 64-bit programs only: their selectors are fixed.
            17 | 20 => return if selector_is_user(value) { Ok(()) } else { Err(Errno::EIO) },
            21 | 22 if value >= USER_END => return Err(Errno::EIO),
            21 => &mut self.fs_base,
            22 => &mut self.gs_base,
            23..=26 => {
                return if value == 0 || selector_is_user(value) {
                    Ok(())
                } else {
                    Err(Errno::EIO)
                };
            }
            _ => return Err(Errno::EIO),
        };
        *place = value;
        Ok(())
    }

    /// Debug register `index`; 4 and 5 do not exist.
    pub fn debug(&self, index: usize) -> u64 {
        self.debug.get(index).copied().unwrap_or(0)
    }

    /// Sets a debug register: `EINVAL` for a breakpoint outside of the program's part of memory or
    /// of a wrong kind, `EIO` for registers that do not exist.
    pub fn set_debug(&mut self, index: usize, value: u64) -> Result<()> {
        let mut new = self.debug;
        match index {
            0..=3 | 6 | 7 => {
                if let Some(register) = new.get_mut(index) {
                    *register = value;
                }
            }
            _ => return Err(Errno::EIO),
        }
        if index < 4 && value >= USER_END {
            return Err(Errno::EINVAL);
        }
        let [a, b, c, d, _, _, _, control] = new;
        if !arch::thread::breakpoints_are_valid(&[a, b, c, d, control]) {
            return Err(Errno::EINVAL);
        }
        self.debug = new;
        self.has_new_debug = true;
        Ok(())
    }

    /// The x87 and SSE part, `struct user_fpregs_struct`.
    pub fn legacy(&self) -> [u8; 512] {
        let mut image = self.xstate.first_chunk().copied().unwrap_or([0; 512]);
        image[SOFTWARE_XCR0..].fill(0);
        image
    }

    /// Replaces the extended registers from the start on; `EINVAL` for reserved bits of MXCSR.
    pub fn set_xstate(&mut self, bytes: &[u8]) -> Result<()> {
        let mxcsr = bytes.get(MXCSR..MXCSR + 4).ok_or(Errno::EINVAL)?;
        if mxcsr.get(2..4).is_some_and(|high| high != [0, 0]) {
            return Err(Errno::EINVAL);
        }
        let len = bytes.len().min(self.xstate.len());
        let (Some(to), Some(from)) = (self.xstate.get_mut(..len), bytes.get(..len)) else {
            return Err(Errno::EINVAL);
        };
        to.copy_from_slice(from);
        if len <= XSTATE_BV {
            // Only these parts were given: they are in use.
            if let Some(bits) = self.xstate.get_mut(XSTATE_BV) {
                *bits |= 3;
            }
        }
        self.has_new_xstate = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Registers {
        Registers {
            frame: TrapFrame::new_user(arch::VirtAddr(0x1000), arch::VirtAddr(0x2000)),
            fs_base: 1,
            gs_base: 2,
            xstate: alloc::vec![0; 576],
            debug: [0; 8],
            has_new_xstate: false,
            has_new_debug: false,
        }
    }

    #[test]
    fn words_are_what_was_set() {
        let mut regs = some();
        for index in (0..17).chain([19, 21, 22]) {
            regs.set_word(index, 0x100 + index as u64).unwrap();
            assert_eq!(regs.words()[index], 0x100 + index as u64);
        }
    }

    #[test]
    fn breakpoints_are_the_programs_own() {
        let mut regs = some();
        assert_eq!(regs.set_debug(0, 1 << 63), Err(Errno::EINVAL));
        assert_eq!(regs.set_debug(4, 0), Err(Errno::EIO));
        regs.set_debug(0, 0x1004).unwrap();
        // Enabled for stores of four bytes; then of eight, for which the place is wrong.
        regs.set_debug(7, 0xd_0001).unwrap();
        assert_eq!(regs.set_debug(7, 0x9_0001), Err(Errno::EINVAL));
        assert_eq!(regs.set_debug(7, 0x2000), Err(Errno::EINVAL));
        assert_eq!((regs.debug(0), regs.debug(7)), (0x1004, 0xd_0001));
    }

    #[test]
    fn programs_get_no_kernel_state() {
        let mut regs = some();
        let before = regs.words();
        assert_eq!(regs.set_word(17, 0x10), Err(Errno::EIO));
        assert_eq!(regs.set_word(20, 0x18), Err(Errno::EIO));
        assert_eq!(regs.set_word(21, 1 << 63), Err(Errno::EIO));
        // IOPL and the interrupt flag are not for programs.
        regs.set_word(18, 0x3000).unwrap();
        assert_eq!(regs.frame.rflags & 0x3200, 0x200);
        assert_eq!((regs.words()[17], regs.words()[20]), (before[17], before[20]));
        let mut image = [0u8; 512];
        image[27] = 0xff;
        assert_eq!(regs.set_xstate(&image), Err(Errno::EINVAL));
        assert_eq!(regs.set_xstate(&image[..10]), Err(Errno::EINVAL));
    }
}
