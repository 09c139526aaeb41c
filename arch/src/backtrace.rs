//! Backtraces by frame pointers, which the kernel is compiled to keep.

use crate::symbols::Symbolised;
use core::fmt;
use machine::stack;

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
        Backtrace { ip: None, frame: stack::frame_pointer() }
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
            let Some([next, address]) = stack::read_frame(frame) else { return };
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
