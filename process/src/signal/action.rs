//! Handlers: `sigaction(2)` and the default actions of `signal(7)`.

use abi::signal::{SIG_DFL, SIG_IGN, SigAction, SigSet, Signal, sa};
use arch::lock::{IrqLock, LockClass};

static CLASS: LockClass = LockClass::new("process.sighand", 625);

/// What a signal does without a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Ends the process.
    Terminate,
    /// Ends the process with a core dump.
    Core,
    /// Does nothing.
    Ignore,
    /// Stops the process.
    Stop,
    /// Does nothing beyond having continued the process.
    Continue,
}

/// The default action of `signal`.
pub const fn default_action(signal: Signal) -> Disposition {
    match signal {
        Signal::SIGCHLD | Signal::SIGURG | Signal::SIGWINCH => Disposition::Ignore,
        Signal::SIGCONT => Disposition::Continue,
        Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU => Disposition::Stop,
        Signal::SIGQUIT
        | Signal::SIGILL
        | Signal::SIGTRAP
        | Signal::SIGABRT
        | Signal::SIGBUS
        | Signal::SIGFPE
        | Signal::SIGSEGV
        | Signal::SIGXCPU
        | Signal::SIGXFSZ
        | Signal::SIGSYS => Disposition::Core,
        _ => Disposition::Terminate,
    }
}

/// The handlers of a process.
pub struct SigHand {
    actions: IrqLock<[SigAction; 64]>,
}

const NO_ACTION: SigAction =
    SigAction { handler: SIG_DFL, flags: 0, restorer: 0, mask: SigSet::EMPTY };

impl Default for SigHand {
    fn default() -> Self {
        Self::new()
    }
}

impl SigHand {
    /// Every signal does its default.
    pub const fn new() -> SigHand {
        SigHand { actions: IrqLock::new(&CLASS, [NO_ACTION; 64]) }
    }

    /// A copy (`fork(2)`).
    pub fn duplicate(&self) -> SigHand {
        SigHand { actions: IrqLock::new(&CLASS, *self.actions.lock()) }
    }

    /// The action of `signal`.
    pub fn get(&self, signal: Signal) -> SigAction {
        self.actions.lock().get(index(signal)).copied().unwrap_or(NO_ACTION)
    }

    /// Replaces the action of `signal` and returns the old one.
    pub fn set(&self, signal: Signal, action: SigAction) -> SigAction {
        let mut actions = self.actions.lock();
        match actions.get_mut(index(signal)) {
            Some(slot) => core::mem::replace(slot, action),
            None => NO_ACTION,
        }
    }

    /// `execve(2)`: handlers become the default, what is ignored stays ignored.
    pub fn reset_handlers(&self) {
        for action in self.actions.lock().iter_mut() {
            let handler = if action.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
            *action = SigAction { handler, ..NO_ACTION };
        }
    }

    /// Everything back to the default (`CLONE_CLEAR_SIGHAND`).
    pub fn clear(&self) {
        for action in self.actions.lock().iter_mut() {
            if action.handler != SIG_IGN {
                *action = NO_ACTION;
            }
        }
    }

    /// Whether `signal` would have no effect at all.
    pub fn ignores(&self, signal: Signal) -> bool {
        is_ignored(&self.get(signal), signal)
    }

    /// Takes the action for a delivery: `SA_RESETHAND` puts the default in its place.
    pub fn take_for_delivery(&self, signal: Signal) -> SigAction {
        let mut actions = self.actions.lock();
        let Some(slot) = actions.get_mut(index(signal)) else { return NO_ACTION };
        let action = *slot;
        if action.handler > SIG_IGN && action.flags & sa::RESETHAND != 0 {
            slot.handler = SIG_DFL;
        }
        action
    }

    /// The sets of ignored and of caught signals (`/proc/PID/status`).
    pub fn summary(&self) -> (SigSet, SigSet) {
        let (mut ignored, mut caught) = (SigSet::EMPTY, SigSet::EMPTY);
        for (i, action) in self.actions.lock().iter().enumerate() {
            match action.handler {
                SIG_DFL => {}
                SIG_IGN => ignored.0 |= 1 << i,
                _ => caught.0 |= 1 << i,
            }
        }
        (ignored, caught)
    }
}

fn index(signal: Signal) -> usize {
    signal.raw() as usize - 1
}

/// Whether `action` makes `signal` vanish.
pub fn is_ignored(action: &SigAction, signal: Signal) -> bool {
    match action.handler {
        SIG_IGN => true,
        SIG_DFL => matches!(default_action(signal), Disposition::Ignore | Disposition::Continue),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_keeps_what_is_ignored() {
        let hand = SigHand::new();
        hand.set(Signal::SIGINT, SigAction { handler: SIG_IGN, ..NO_ACTION });
        hand.set(Signal::SIGTERM, SigAction { handler: 0x1000, flags: sa::RESTART, ..NO_ACTION });
        hand.reset_handlers();
        assert!(hand.ignores(Signal::SIGINT));
        assert_eq!(hand.get(Signal::SIGTERM), NO_ACTION);
        assert!(hand.ignores(Signal::SIGCHLD));
        assert!(!hand.ignores(Signal::SIGHUP));
    }
}
