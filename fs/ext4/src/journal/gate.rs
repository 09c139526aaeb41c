//! The gate that operations pass: those inside belong to the running transaction. To commit it the
//! gate is closed until the last of them has left, the transaction is taken, and the gate opens for
//! the next: only that is waited for, not the device.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use sched::WaitQueue;

/// In the count of those inside: nobody else may enter.
const CLOSED: u32 = 1 << 31;

/// What came of an attempt to enter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// Inside: [`Gate::leave`] has to follow.
    Inside,
    /// This transaction has no room: it is to be committed first.
    Full(u64),
}

/// Counts operations and what they may still add to the running transaction.
pub(crate) struct Gate {
    state: AtomicU32,
    /// The gate opened, or the last one left a closed gate.
    moved: WaitQueue,
    /// The running transaction, from 1.
    running: AtomicU64,
    /// Blocks that those inside may still add.
    promised: AtomicU32,
    /// Most blocks of a transaction.
    limit: AtomicU32,
    /// The last transaction that was found to be filling.
    told: AtomicU64,
}

impl Gate {
    pub(super) fn new() -> Gate {
        Gate {
            state: AtomicU32::new(0),
            moved: WaitQueue::new(),
            running: AtomicU64::new(1),
            promised: AtomicU32::new(0),
            limit: AtomicU32::new(u32::MAX),
            told: AtomicU64::new(0),
        }
    }

    pub(super) fn set_limit(&self, blocks: u32) {
        self.limit.store(blocks, Ordering::Relaxed);
    }

    /// Most blocks of a transaction.
    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// The running transaction.
    pub(crate) fn running(&self) -> u64 {
        self.running.load(Ordering::Acquire)
    }

    /// Enters with the promise to add `blocks` at most to the `charged` that the running transaction
    /// has. Sleeps while the gate is closed; the caller holds nothing that a commit takes.
    pub(crate) fn enter(&self, blocks: u32, charged: &AtomicU32) -> Entry {
        // Acquire: pairs with the Release of `open`.
        while self.state.fetch_add(1, Ordering::AcqRel) & CLOSED != 0 {
            self.step_out();
            self.moved.wait(|| (self.state.load(Ordering::Acquire) & CLOSED == 0).then_some(()));
        }
        // Relaxed: an estimate, with room for what two see at the same time.
        let others = self.promised.fetch_add(blocks, Ordering::Relaxed);
        let used = charged.load(Ordering::Relaxed).saturating_add(others);
        // Whoever is alone in an empty transaction gets in, whatever it needs.
        if used != 0 && used.saturating_add(blocks) > self.limit() {
            let full = self.running();
            self.leave(blocks);
            return Entry::Full(full);
        }
        Entry::Inside
    }

    /// Whether the running transaction should soon be committed: once for each.
    #[inline]
    pub(crate) fn is_filling(&self, charged: &AtomicU32) -> bool {
        if charged.load(Ordering::Relaxed) < self.limit() / 2 {
            return false;
        }
        let running = self.running();
        self.told.swap(running, Ordering::Relaxed) != running
    }

    /// Leaves; `blocks` as when entering.
    pub(crate) fn leave(&self, blocks: u32) {
        self.promised.fetch_sub(blocks, Ordering::Relaxed);
        self.step_out();
    }

    #[inline]
    fn step_out(&self) {
        // Release: who closes the gate sees all that was done inside.
        if self.state.fetch_sub(1, Ordering::AcqRel) == CLOSED + 1 {
            self.moved.wake_all();
        }
    }

    /// Closes the gate and waits until nobody is inside. One at a time.
    pub(super) fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        self.moved.wait(|| (self.state.load(Ordering::Acquire) == CLOSED).then_some(()));
        // Who notes a change without having entered does so for the next transaction from here on.
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    /// Opens the gate for the next transaction.
    pub(super) fn open(&self) {
        self.state.fetch_and(!CLOSED, Ordering::AcqRel);
        self.moved.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_transaction_takes_what_fits() {
        let (gate, charged) = (Gate::new(), AtomicU32::new(0));
        gate.set_limit(100);
        assert_eq!(gate.enter(500, &charged), Entry::Inside);
        assert_eq!(gate.enter(1, &charged), Entry::Full(1));
        gate.leave(500);
        charged.store(60, Ordering::Relaxed);
        assert_eq!(gate.enter(30, &charged), Entry::Inside);
        assert_eq!(gate.enter(20, &charged), Entry::Full(1));
        gate.leave(30);
        gate.close();
        charged.store(0, Ordering::Relaxed);
        gate.open();
        assert_eq!(gate.running(), 2);
        assert_eq!(gate.enter(500, &charged), Entry::Inside);
        gate.leave(500);
    }

    #[test]
    fn nobody_is_inside_a_closed_gate() {
        frames::init_host(512 << 20);
        let gate = Arc::new(Gate::new());
        let inside = Arc::new(AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let charged = AtomicU32::new(0);
                    for _ in 0..20_000 {
                        assert_eq!(gate.enter(1, &charged), Entry::Inside);
                        inside.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        gate.leave(1);
                    }
                });
            }
            for _ in 0..500 {
                gate.close();
                assert_eq!(inside.load(Ordering::SeqCst), 0);
                gate.open();
            }
        });
        assert_eq!(gate.running(), 501);
    }
}
