//! Walking the kernel's stack: by frame pointers where the image has them, else by looking for
//! return addresses.

use crate::x86::descriptors;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

crate::percpu! {
    /// Instruction, frame and stack pointer of the exception being reported; zero when none is.
    static START: PerCpu<[AtomicU64; 3]> = [const { AtomicU64::new(0) }; 3];
}

/// Makes the next backtrace of this processor start at an interrupted place.
pub(crate) fn set_start(rip: u64, rbp: u64, rsp: u64) {
    let [a, b, c] = START.this();
    a.store(rip, Ordering::Relaxed);
    b.store(rbp, Ordering::Relaxed);
    c.store(rsp, Ordering::Relaxed);
}

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
}

/// Whether an address lies in the kernel's code.
pub fn is_kernel_text(at: u64) -> bool {
    (&raw const __text_start as u64..&raw const __text_end as u64).contains(&at)
}

/// Passes the return addresses on this processor's stack to `f`, innermost first; at most `limit`.
/// `exact` tells those found by frame pointer from those that only look like one.
pub fn walk(limit: usize, mut f: impl FnMut(u64)) {
    let [rip, rbp, rsp] = START.this();
    let (mut at, mut stack);
    if rip.load(Ordering::Relaxed) != 0 {
        f(rip.load(Ordering::Relaxed));
        at = rbp.load(Ordering::Relaxed);
        stack = rsp.load(Ordering::Relaxed);
    } else {
        // SAFETY: reads two registers.
        unsafe {
            asm!("mov {}, rbp", "mov {}, rsp", out(reg) at, out(reg) stack, options(nostack, nomem, preserves_flags))
        };
    }
    let end = stack_end(stack);
    let mut found = 0;
    // Frame pointers first.
    while found < limit && at >= stack && at & 7 == 0 && at + 16 <= end {
        // SAFETY: inside this processor's stack.
        let (next, back) = unsafe { ((at as *const u64).read(), (at as *const u64).add(1).read()) };
        if !is_kernel_text(back) {
            break;
        }
        f(back);
        found += 1;
        if next <= at {
            break;
        }
        at = next;
    }
    if found >= 2 {
        return;
    }
    // The image was built without them: everything that looks like a return address.
    stack = stack.next_multiple_of(8);
    while found < limit && stack + 8 <= end {
        // SAFETY: inside this processor's stack.
        let word = unsafe { (stack as *const u64).read() };
        if is_kernel_text(word) {
            f(word);
            found += 1;
        }
        stack += 8;
    }
}

/// The end of the stack an address is on.
fn stack_end(at: u64) -> u64 {
    if let Some(end) = descriptors::ist_stack_end(at) {
        return end;
    }
    let thread = crate::thread::try_current().map(|thread| thread.stack());
    match thread {
        Some(stack) if (stack.bottom.0..stack.top.0).contains(&at) => stack.top.0,
        // A boot stack: stay on its page.
        _ => (at | 0xfff) + 1,
    }
}
