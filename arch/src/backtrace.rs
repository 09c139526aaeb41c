//! Backtraces by frame pointers, which the kernel is compiled to keep.

use crate::symbols::Symbolised;
use core::fmt;

/// Frames shown at most; deeper ones are a broken chain or an endless recursion.
const DEPTH_MAX: usize = 48;

/// A chain of frames to print, one line each.
#[derive(Clone, Copy, Debug)]
pub struct Backtrace {
    ip: Option<u64>,
    frame: u64,
}

impl Backtrace {
    /// From the caller on.
    #[inline(never)]
    pub fn here() -> Backtrace {
        let frame: u64;
        // SAFETY: reads a register.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags));
        }
        Backtrace { ip: None, frame }
    }

    /// From a point of interruption: its instruction and frame pointer.
    pub const fn from(ip: u64, frame: u64) -> Backtrace {
        Backtrace { ip: Some(ip), frame }
    }

    /// Calls `visit` with each return address, innermost first.
    pub fn walk(&self, mut visit: impl FnMut(u64)) {
        if let Some(ip) = self.ip {
            visit(ip);
        }
        let mut frame = self.frame;
        for _ in 0..DEPTH_MAX {
            let Some([next, address]) = read_frame(frame) else { return };
            if address == 0 {
                return;
            }
            visit(address);
            // The stack grows down, so callers' frames are above; other stacks (interrupts) may be
            // anywhere, which the limit on the depth covers.
            if next == frame {
                return;
            }
            frame = next;
        }
    }
}

/// The saved frame pointer and return address at `frame`, if that can be read safely.
#[cfg(target_os = "none")]
fn read_frame(frame: u64) -> Option<[u64; 2]> {
    if frame & 7 != 0 || !(0xffff_8000_0000_0000..=u64::MAX - 16).contains(&frame) {
        return None;
    }
    if !crate::boot::is_mapped(frame) || !crate::boot::is_mapped(frame + 8) {
        return None;
    }
    // SAFETY: the page tables map both words; a race with an unmapping of a stack that this chain
    // does not own can only happen in a dying machine.
    Some(unsafe { (frame as *const [u64; 2]).read_volatile() })
}

/// On the host frames belong to the test runner.
#[cfg(not(target_os = "none"))]
fn read_frame(_frame: u64) -> Option<[u64; 2]> {
    None
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut result = Ok(());
        self.walk(|address| {
            if result.is_ok() {
                result = writeln!(f, " {}", Symbolised(address));
            }
        });
        result
    }
}
