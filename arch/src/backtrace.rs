//! Backtraces by frame pointers, which the kernel is compiled to keep.

use crate::symbols::Symbolised;
use arrayvec::ArrayVec;
use core::fmt;
use machine::stack;
use machine::thread::{KernelStackRange, Rest};
use machine::trap::TrapFrame;

/// Frames shown at most; deeper ones are a broken chain or an endless recursion.
const DEPTH_MAX: usize = 48;
/// What a frame takes: the caller's frame pointer and the return address.
const FRAME: u64 = 16;
const ANYWHERE: (u64, u64) = (0, u64::MAX);

/// A chain of frames to print, one line each.
#[derive(Clone, Copy, Debug)]
pub struct Backtrace {
    ip: Option<u64>,
    frame: u64,
    /// Frames lie here.
    stack: (u64, u64),
}

/// What a [`Backtrace`] says, when the stack may change after.
#[derive(Clone, Debug, Default)]
pub struct Trace(ArrayVec<u64, DEPTH_MAX>);

fn bounds(stack: KernelStackRange) -> (u64, u64) {
    (stack.bottom.0, stack.top.0.saturating_sub(FRAME))
}

impl Backtrace {
    /// From the caller on.
    #[inline(never)]
    pub fn here() -> Backtrace {
        Backtrace { ip: None, frame: stack::frame_pointer(), stack: ANYWHERE }
    }

    /// From the caller on, on the running thread's own stack only: what its program had in the frame
    /// pointer is not followed.
    #[inline(never)]
    pub fn on_own_stack() -> Backtrace {
        let own = machine::thread::current().stack();
        Backtrace { ip: None, frame: stack::frame_pointer(), stack: bounds(own) }
    }

    /// From a point of interruption: its instruction and frame pointer.
    pub const fn from(ip: u64, frame: u64) -> Backtrace {
        Backtrace { ip: Some(ip), frame, stack: ANYWHERE }
    }

    /// From where a thread rests that is on no processor. What lies beyond its own stack is not
    /// looked at: at the end of the chain is what the program had in the register.
    pub fn of(rest: &Rest, stack: KernelStackRange) -> Backtrace {
        Backtrace { ip: Some(rest.ip), frame: rest.frame_pointer, stack: bounds(stack) }
    }

    /// From a point of interruption; nothing if that was in a program.
    pub fn interrupted(frame: &TrapFrame) -> Option<Backtrace> {
        (!frame.is_user()).then(|| Backtrace::from(frame.rip, frame.rbp))
    }

    /// Calls `visit` with each return address, innermost first.
    pub fn walk(&self, mut visit: impl FnMut(u64)) {
        if let Some(ip) = self.ip {
            visit(ip);
        }
        let mut frame = self.frame;
        for _ in 0..DEPTH_MAX {
            if !(self.stack.0..=self.stack.1).contains(&frame) {
                return;
            }
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

impl Trace {
    /// The addresses, innermost first.
    pub fn addresses(&self) -> &[u64] {
        &self.0
    }
}

impl From<Backtrace> for Trace {
    fn from(backtrace: Backtrace) -> Trace {
        let mut trace = Trace::default();
        // What does not fit is cut.
        backtrace.walk(|address| {
            let _ = trace.0.try_push(address);
        });
        trace
    }
}

impl FromIterator<u64> for Trace {
    fn from_iter<I: IntoIterator<Item = u64>>(addresses: I) -> Trace {
        Trace(addresses.into_iter().take(DEPTH_MAX).collect())
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
