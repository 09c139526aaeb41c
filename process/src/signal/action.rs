//! Handlers: `sigaction(2)` and the default actions of `signal(7)`.

use abi::signal::{SIG_DFL, SIG_IGN, SigAction, SigSet, Signal, sa};
use alloc::sync::Arc;
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

/// Signals whose actions lie in one block.
const BLOCK: usize = 16;
const BLOCKS: usize = 64 / BLOCK;

type Block = Arc<[SigAction; BLOCK]>;

/// The handlers of a process.
///
/// A program that was just started and one that handles few signals need little: what `execve` leaves is a set,
/// and actions lie in blocks that are made when one of theirs is set. After `fork` parent and child share the
/// blocks until one of them changes an action, which most children never do.
pub struct SigHand {
    actions: IrqLock<Actions>,
}

#[derive(Clone)]
struct Actions {
    /// Where a signal has no block: whether it is ignored or has its default action.
    ignored: SigSet,
    blocks: [Option<Block>; BLOCKS],
}

const NO_ACTION: SigAction =
    SigAction { handler: SIG_DFL, flags: 0, restorer: 0, mask: SigSet::EMPTY };

impl Actions {
    const NONE: Actions = Actions { ignored: SigSet::EMPTY, blocks: [const { None }; BLOCKS] };

    fn get(&self, signal: Signal) -> SigAction {
        let (block, place) = position(signal);
        match &self.blocks[block] {
            Some(block) => block[place],
            None => plain(self.ignored.contains(signal)),
        }
    }

    /// The place of `signal`'s action if it is in a block that no other process shares.
    fn own_slot(&mut self, signal: Signal) -> Option<&mut SigAction> {
        let (block, place) = position(signal);
        Arc::get_mut(self.blocks[block].as_mut()?).map(|block| &mut block[place])
    }

    /// The place of `signal`'s action, in a block of its own.
    fn slot(&mut self, signal: Signal) -> &mut SigAction {
        let (block, place) = position(signal);
        let ignored = self.ignored;
        let block = self.blocks[block].get_or_insert_with(|| Arc::new(spread(ignored, block)));
        &mut Arc::make_mut(block)[place]
    }

    /// The signals whose handler is one for which `is` says so.
    fn set_of(&self, is: impl Fn(u64) -> bool) -> SigSet {
        let mut set = SigSet::EMPTY;
        for (i, block) in self.blocks.iter().enumerate() {
            match block {
                Some(block) => {
                    for (j, action) in block.iter().enumerate() {
                        set.0 |= u64::from(is(action.handler)) << (i * BLOCK + j);
                    }
                }
                None if is(SIG_IGN) => set.0 |= self.ignored.0 & (BLOCK_MASK << (i * BLOCK)),
                None => {}
            }
        }
        set
    }
}

const BLOCK_MASK: u64 = (1 << BLOCK) - 1;

/// The action without a handler.
const fn plain(ignored: bool) -> SigAction {
    SigAction { handler: if ignored { SIG_IGN } else { SIG_DFL }, ..NO_ACTION }
}

/// What block number `block` holds while its signals have no handlers.
fn spread(ignored: SigSet, block: usize) -> [SigAction; BLOCK] {
    core::array::from_fn(|i| plain(ignored.0 >> (block * BLOCK + i) & 1 != 0))
}

fn position(signal: Signal) -> (usize, usize) {
    let index = (signal.raw() as usize - 1) % 64;
    (index / BLOCK, index % BLOCK)
}

impl Default for SigHand {
    fn default() -> Self {
        Self::new()
    }
}

impl SigHand {
    /// Every signal does its default.
    pub const fn new() -> SigHand {
        SigHand { actions: IrqLock::new(&CLASS, Actions::NONE) }
    }

    /// A copy (`fork(2)`).
    pub fn duplicate(&self) -> SigHand {
        SigHand { actions: IrqLock::new(&CLASS, self.actions.lock().clone()) }
    }

    /// The action of `signal`.
    pub fn get(&self, signal: Signal) -> SigAction {
        self.actions.lock().get(signal)
    }

    /// Makes what [`try_swap`](Self::try_swap) lacks, while the caller may wait for memory.
    pub fn prepare(&self, signal: Signal) {
        let (block, _) = position(signal);
        let mut fresh = Arc::new([NO_ACTION; BLOCK]);
        let mut actions = self.actions.lock();
        if actions.own_slot(signal).is_some() {
            return;
        }
        if let Some(own) = Arc::get_mut(&mut fresh) {
            *own = match &actions.blocks[block] {
                Some(shared) => **shared,
                None => spread(actions.ignored, block),
            };
        }
        let old = actions.blocks[block].replace(fresh);
        drop(actions);
        drop(old);
    }

    /// Exchanges the action of `signal` and `action`. False: [`prepare`](Self::prepare) comes first.
    pub fn try_swap(&self, signal: Signal, action: &mut SigAction) -> bool {
        let mut actions = self.actions.lock();
        let Some(slot) = actions.own_slot(signal) else { return false };
        core::mem::swap(slot, action);
        true
    }

    /// The handler of `signal` becomes the default.
    pub fn reset(&self, signal: Signal) {
        self.actions.lock().slot(signal).handler = SIG_DFL;
    }

    /// `execve(2)`: handlers become the default, what is ignored stays ignored.
    pub fn reset_handlers(&self) {
        let mut actions = self.actions.lock();
        let ignored = actions.set_of(|handler| handler == SIG_IGN);
        let old = core::mem::replace(&mut *actions, Actions { ignored, ..Actions::NONE });
        drop(actions);
        drop(old);
    }

    /// Whether `signal` would have no effect at all.
    pub fn ignores(&self, signal: Signal) -> bool {
        is_ignored(&self.get(signal), signal)
    }

    /// Takes the action for a delivery: `SA_RESETHAND` puts the default in its place.
    pub fn take_for_delivery(&self, signal: Signal) -> SigAction {
        let mut actions = self.actions.lock();
        let action = actions.get(signal);
        if action.handler > SIG_IGN && action.flags & sa::RESETHAND != 0 {
            actions.slot(signal).handler = SIG_DFL;
        }
        action
    }

    /// The sets of ignored and of caught signals (`/proc/PID/status`).
    pub fn summary(&self) -> (SigSet, SigSet) {
        let actions = self.actions.lock();
        (actions.set_of(|handler| handler == SIG_IGN), actions.set_of(|handler| handler > SIG_IGN))
    }
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

    fn set(hand: &SigHand, signal: Signal, mut action: SigAction) -> SigAction {
        hand.prepare(signal);
        assert!(hand.try_swap(signal, &mut action));
        action
    }

    #[test]
    fn exec_keeps_what_is_ignored() {
        let hand = SigHand::new();
        set(&hand, Signal::SIGINT, SigAction { handler: SIG_IGN, ..NO_ACTION });
        set(&hand, Signal::SIGTERM, SigAction { handler: 0x1000, flags: sa::RESTART, ..NO_ACTION });
        hand.reset_handlers();
        assert!(hand.ignores(Signal::SIGINT));
        assert_eq!(hand.get(Signal::SIGTERM), NO_ACTION);
        assert!(hand.ignores(Signal::SIGCHLD));
        assert!(!hand.ignores(Signal::SIGHUP));
        assert!(hand.actions.lock().blocks.iter().all(Option::is_none));
        assert_eq!(hand.summary(), (SigSet::of(Signal::SIGINT), SigSet::EMPTY));
        // What exec left as a set is there when a neighbour gets a block.
        set(&hand, Signal::SIGTERM, SigAction { handler: 0x1000, ..NO_ACTION });
        assert!(hand.ignores(Signal::SIGINT));
        assert_eq!(hand.summary(), (SigSet::of(Signal::SIGINT), SigSet::of(Signal::SIGTERM)));
    }

    #[test]
    fn fork_shares_blocks_until_one_changes() {
        let parent = SigHand::new();
        let handler = |address| SigAction { handler: address, ..NO_ACTION };
        set(&parent, Signal::SIGUSR1, handler(0x1000));
        let child = parent.duplicate();
        let first = |hand: &SigHand| hand.actions.lock().blocks[0].as_ref().map(Arc::as_ptr);
        assert_eq!(first(&parent), first(&child));
        assert!(!child.try_swap(Signal::SIGUSR1, &mut handler(0x2000)));
        assert_eq!(set(&child, Signal::SIGUSR1, handler(0x2000)), handler(0x1000));
        assert_ne!(first(&parent), first(&child));
        assert_eq!(parent.get(Signal::SIGUSR1), handler(0x1000));
        assert_eq!(child.get(Signal::SIGUSR1), handler(0x2000));
    }

    #[test]
    fn a_delivery_resets_what_asked_for_it_in_one_process_alone() {
        let parent = SigHand::new();
        let once = SigAction { handler: 0x1000, flags: sa::RESETHAND, ..NO_ACTION };
        set(&parent, Signal::SIGSEGV, once);
        let child = parent.duplicate();
        assert_eq!(child.take_for_delivery(Signal::SIGSEGV), once);
        assert_eq!(child.get(Signal::SIGSEGV).handler, SIG_DFL);
        assert_eq!(parent.get(Signal::SIGSEGV), once);
    }
}
