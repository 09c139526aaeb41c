//! The vsyscall page of old static programs: three functions at fixed addresses, emulated when
//! their fetch faults. The page itself is never mapped.

use crate::addr::VirtAddr;
use crate::trap::{self, TrapFrame};
use crate::user;

/// Where the page is.
pub const PAGE: u64 = 0xffff_ffff_ff60_0000;
/// `gettimeofday`, `time` and `getcpu`, each 1 KiB from the one before.
const NUMBERS: [u64; 3] = [96, 201, 309];

/// Emulates a call into the page; whether the faulting address was one of its entries. The
/// arguments are in place: the functions are system calls with the same registers.
pub(crate) fn emulate(frame: &mut TrapFrame, at: VirtAddr) -> bool {
    let offset = at.0.wrapping_sub(PAGE);
    if offset >= 0x1000 || offset & 0x3ff != 0 || frame.rip != at.0 {
        return false;
    }
    let Some(number) = NUMBERS.get((offset >> 10) as usize).copied() else { return false };
    crate::irq::enable();
    let done = call(frame, number);
    crate::irq::disable_unguarded();
    done
}

fn call(frame: &mut TrapFrame, number: u64) -> bool {
    let Ok(back) = user::read_val::<u64>(VirtAddr(frame.rsp)) else { return false };
    let Some(handlers) = trap::handlers() else { return false };
    frame.orig_rax = number;
    frame.rax = number;
    (handlers.syscall)(frame);
    frame.orig_rax = u64::MAX;
    frame.rip = back;
    frame.rsp = frame.rsp.wrapping_add(8);
    true
}
