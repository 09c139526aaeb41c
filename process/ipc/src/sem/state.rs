//! The state of a set: values, who waits, and the operations on both.
//!
//! An operation that cannot go on waits at the semaphore that stops it, and moves to another one if
//! a later attempt stops there. `settle` completes whatever a change made possible: it looks only at
//! the semaphores that changed, until nothing changes any more.

use crate::{Perm, Who};
use abi::ipc::{SemBuf, common as ipc, sem};
use abi::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use sched::WaitQueue;

/// One semaphore.
#[derive(Default)]
pub(super) struct Sem {
    pub(super) value: i32,
    /// Who operated on it last.
    pub(super) last: Option<Who>,
    /// Operations that wait for an increase, by arrival.
    pub(super) more: BTreeMap<u64, Arc<Pending>>,
    /// Operations that wait for zero, by arrival.
    pub(super) zero: BTreeMap<u64, Arc<Pending>>,
    /// How many of `zero` do something else before they look at this semaphore: only those may go
    /// on, or fail, at another value.
    mixed: usize,
}

/// An operation that waits.
pub(super) struct Pending {
    ops: Box<[SemBuf]>,
    undo: Option<u64>,
    who: Who,
    arrival: u64,
    /// 1 while it waits, then 0 or a negated error number.
    outcome: AtomicI32,
    /// The semaphore it waits at, with `ZERO` for its zero list. Changed with the set locked.
    place: AtomicU32,
    pub(super) queue: WaitQueue,
}

const WAITING: i32 = 1;
const ZERO: u32 = 1 << 31;

impl Pending {
    /// The result, once there is one.
    pub(super) fn outcome(&self) -> Option<Result<()>> {
        // Acquire: pairs with the Release in `finish`.
        match self.outcome.load(Ordering::Acquire) {
            WAITING => None,
            0 => Some(Ok(())),
            error => Some(Err(Errno::from_raw(-error))),
        }
    }

    /// Whether it does something else before it waits for a semaphore to be zero.
    fn is_mixed(&self, num: usize) -> bool {
        self.ops.first().is_none_or(|first| usize::from(first.num) != num || first.op != 0)
    }

    fn finish(&self, result: Result<()>) {
        let outcome = result.map_or_else(|error| -error.raw(), |()| 0);
        self.outcome.store(outcome, Ordering::Release);
        self.queue.wake_all();
    }
}

/// Where an operation stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// At semaphore `.0`, until it grows.
    More(usize),
    /// At semaphore `.0`, until it is zero.
    Zero(usize),
    /// For good.
    Error(Errno),
}

/// A set's state, under its lock.
pub(super) struct State {
    pub(super) perm: Perm,
    pub(super) otime: i64,
    pub(super) ctime: i64,
    pub(super) sems: Vec<Sem>,
    /// Adjustments at exit by undo list, one per semaphore.
    pub(super) undo: BTreeMap<u64, Box<[i16]>>,
    is_removed: bool,
    arrivals: u64,
    /// Semaphores whose value changed since the last `settle`.
    changed: BTreeSet<usize>,
    waiting: usize,
}

impl State {
    pub(super) fn new(perm: Perm, sems: Vec<Sem>, now: i64) -> State {
        State {
            perm,
            otime: 0,
            ctime: now,
            sems,
            undo: BTreeMap::new(),
            is_removed: false,
            arrivals: 0,
            changed: BTreeSet::new(),
            waiting: 0,
        }
    }

    /// `EIDRM` after the end.
    pub(super) fn check_alive(&self) -> Result<()> {
        if self.is_removed { Err(Errno::EIDRM) } else { Ok(()) }
    }

    fn note_change(&mut self, num: usize) {
        if self.waiting > 0 {
            self.changed.insert(num);
        }
    }

    /// Does all of `ops` or nothing.
    pub(super) fn attempt(
        &mut self,
        ops: &[SemBuf],
        undo: Option<u64>,
        who: &Who,
    ) -> Result<(), Stop> {
        for (done, op) in ops.iter().enumerate() {
            if let Err(stop) = self.step(op, undo) {
                ops.iter().take(done).rev().for_each(|op| self.step_back(op, undo));
                return Err(stop);
            }
        }
        for op in ops {
            let num = usize::from(op.num);
            if let Some(sem) = self.sems.get_mut(num) {
                sem.last = Some(who.clone());
            }
            if op.op != 0 {
                self.note_change(num);
            }
        }
        Ok(())
    }

    fn step(&mut self, op: &SemBuf, undo: Option<u64>) -> Result<(), Stop> {
        let num = usize::from(op.num);
        let Some(sem) = self.sems.get_mut(num) else { return Err(Stop::Error(Errno::EFBIG)) };
        let value = sem.value + i32::from(op.op);
        let stop = match op.op {
            0 if sem.value != 0 => Some(Stop::Zero(num)),
            _ if value < 0 => Some(Stop::More(num)),
            _ => None,
        };
        if let Some(stop) = stop {
            let gives_up = u32::from(op.flags) & ipc::NOWAIT != 0;
            return Err(if gives_up { Stop::Error(Errno::EAGAIN) } else { stop });
        }
        if value > sem::VMX {
            return Err(Stop::Error(Errno::ERANGE));
        }
        if op.flags & sem::UNDO != 0
            && let Some(adjust) = adjustment(&mut self.undo, undo, num)
        {
            let new = i32::from(*adjust) - i32::from(op.op);
            if !(-sem::VMX - 1..=sem::VMX).contains(&new) {
                return Err(Stop::Error(Errno::ERANGE));
            }
            *adjust = new as i16;
        }
        sem.value = value;
        Ok(())
    }

    fn step_back(&mut self, op: &SemBuf, undo: Option<u64>) {
        let num = usize::from(op.num);
        if let Some(sem) = self.sems.get_mut(num) {
            sem.value -= i32::from(op.op);
        }
        if op.flags & sem::UNDO != 0
            && let Some(adjust) = adjustment(&mut self.undo, undo, num)
        {
            *adjust = adjust.wrapping_add(op.op);
        }
    }

    /// Makes an operation wait where it stopped.
    pub(super) fn enqueue(
        &mut self,
        ops: Box<[SemBuf]>,
        undo: Option<u64>,
        who: Who,
        stop: Stop,
    ) -> Arc<Pending> {
        self.arrivals += 1;
        let pending = Arc::new(Pending {
            ops,
            undo,
            who,
            arrival: self.arrivals,
            outcome: AtomicI32::new(WAITING),
            place: AtomicU32::new(0),
            queue: WaitQueue::new(),
        });
        self.waiting += 1;
        self.link(&pending, stop);
        pending
    }

    fn link(&mut self, pending: &Arc<Pending>, stop: Stop) {
        let (num, zero) = match stop {
            Stop::More(num) => (num, 0),
            Stop::Zero(num) => (num, ZERO),
            Stop::Error(_) => return,
        };
        // Relaxed: only with the set locked.
        pending.place.store(num as u32 | zero, Ordering::Relaxed);
        if let Some(sem) = self.sems.get_mut(num) {
            let list = if zero != 0 { &mut sem.zero } else { &mut sem.more };
            list.insert(pending.arrival, pending.clone());
            if zero != 0 && pending.is_mixed(num) {
                sem.mixed += 1;
            }
        }
    }

    /// Takes an operation off its list.
    pub(super) fn unlink(&mut self, pending: &Pending) {
        let place = pending.place.load(Ordering::Relaxed);
        let num = (place & !ZERO) as usize;
        if let Some(sem) = self.sems.get_mut(num) {
            let list = if place & ZERO != 0 { &mut sem.zero } else { &mut sem.more };
            if list.remove(&pending.arrival).is_some() {
                self.waiting -= 1;
                if place & ZERO != 0 && pending.is_mixed(num) {
                    sem.mixed -= 1;
                }
            }
        }
    }

    /// Sets a value: `SETVAL`, `SETALL`. Adjustments of the semaphore are forgotten.
    pub(super) fn assign(&mut self, num: usize, value: i32, who: &Who) {
        for adjustments in self.undo.values_mut() {
            if let Some(adjust) = adjustments.get_mut(num) {
                *adjust = 0;
            }
        }
        if let Some(sem) = self.sems.get_mut(num) {
            sem.value = value;
            sem.last = Some(who.clone());
        }
        self.note_change(num);
    }

    /// Adds the adjustments of an undo list, within what a value may be.
    pub(super) fn take_back(&mut self, list: u64, who: &Who, now: i64) {
        let Some(adjustments) = self.undo.remove(&list) else { return };
        for (num, &adjust) in adjustments.iter().enumerate().filter(|(_, adjust)| **adjust != 0) {
            if let Some(sem) = self.sems.get_mut(num) {
                sem.value = (sem.value + i32::from(adjust)).clamp(0, sem::VMX);
                sem.last = Some(who.clone());
            }
            self.note_change(num);
        }
        self.otime = now;
        self.settle(now);
    }

    /// Completes what the changes made possible, in the order of arrival.
    pub(super) fn settle(&mut self, now: i64) {
        while let Some(num) = self.changed.pop_first() {
            self.settle_list(num, true, now);
            if !self.changed.contains(&num) {
                self.settle_list(num, false, now);
            }
        }
    }

    fn settle_list(&mut self, num: usize, zero: bool, now: i64) {
        let mut from = 0;
        loop {
            let Some(sem) = self.sems.get(num) else { return };
            // A value that is zero again lets nobody go on who waits for more, and another one few
            // of those who wait for zero: they may take away themselves what is left.
            let is_hopeless = if zero { sem.value != 0 && sem.mixed == 0 } else { sem.value == 0 };
            if is_hopeless {
                return;
            }
            let list = if zero { &sem.zero } else { &sem.more };
            let Some(pending) = list.range(from..).next().map(|(_, pending)| pending.clone())
            else {
                return;
            };
            from = pending.arrival + 1;
            match self.attempt(&pending.ops, pending.undo, &pending.who) {
                Ok(()) => {
                    self.otime = now;
                    self.unlink(&pending);
                    pending.finish(Ok(()));
                    // Its own changes may let others go on: this semaphore's list starts again.
                    if self.changed.contains(&num) {
                        return;
                    }
                }
                Err(Stop::Error(error)) => {
                    self.unlink(&pending);
                    pending.finish(Err(error));
                }
                Err(stop) => {
                    let here = if zero { Stop::Zero(num) } else { Stop::More(num) };
                    if stop != here {
                        self.unlink(&pending);
                        self.waiting += 1;
                        self.link(&pending, stop);
                    }
                }
            }
        }
    }

    /// The set is removed: everybody gets `EIDRM`.
    pub(super) fn end(&mut self) {
        self.is_removed = true;
        for sem in &mut self.sems {
            let lists = [core::mem::take(&mut sem.more), core::mem::take(&mut sem.zero)];
            sem.mixed = 0;
            for pending in lists.iter().flat_map(|list| list.values()) {
                pending.finish(Err(Errno::EIDRM));
            }
        }
        self.waiting = 0;
        self.undo.clear();
    }
}

fn adjustment(
    undo: &mut BTreeMap<u64, Box<[i16]>>,
    list: Option<u64>,
    num: usize,
) -> Option<&mut i16> {
    undo.get_mut(&list?)?.get_mut(num)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(num: u16, op: i16, flags: u16) -> SemBuf {
        SemBuf { num, op, flags }
    }

    fn sems(count: usize) -> Vec<Sem> {
        core::iter::repeat_with(Sem::default).take(count).collect()
    }

    #[test]
    fn a_waiter_for_zero_may_take_the_rest_itself() {
        let mut state = State::new(Perm::default(), sems(1), 0);
        state.assign(0, 2, &who());
        let waits = wait(&mut state, &[op(0, -1, 0), op(0, 0, 0)]);
        state.attempt(&[op(0, -1, 0)], None, &who()).expect("free");
        state.settle(1);
        assert_eq!(waits.outcome(), Some(Ok(())));
        assert_eq!(state.sems[0].value, 0);
    }

    #[test]
    fn who_waits_for_zero_alone_is_left_alone_at_other_values() {
        let mut state = State::new(Perm::default(), sems(2), 0);
        state.assign(0, 9, &who());
        let plain =
            [wait(&mut state, &[op(0, 0, 0)]), wait(&mut state, &[op(0, 0, 0), op(0, 1, 0)])];
        assert_eq!((state.sems[0].zero.len(), state.sems[0].mixed), (2, 0));
        let mixed = [
            wait(&mut state, &[op(0, -3, 0), op(0, 0, 0)]),
            wait(&mut state, &[op(1, 1, 0), op(0, 0, 0)]),
        ];
        assert_eq!((state.sems[0].zero.len(), state.sems[0].mixed), (4, 2));
        state.unlink(&mixed[1]);
        assert_eq!((state.sems[0].zero.len(), state.sems[0].mixed), (3, 1));
        // The one that takes the rest itself lets the others go on.
        state.attempt(&[op(0, -6, 0)], None, &who()).expect("free");
        state.settle(1);
        for pending in [&mixed[0], &plain[0], &plain[1]] {
            assert_eq!(pending.outcome(), Some(Ok(())));
        }
        assert_eq!((state.sems[0].value, state.sems[0].mixed, state.waiting), (1, 0, 0));
    }

    fn who() -> Who {
        Arc::new(())
    }

    fn wait(state: &mut State, ops: &[SemBuf]) -> Arc<Pending> {
        let stop = state.attempt(ops, None, &who()).expect_err("stops");
        state.enqueue(ops.into(), None, who(), stop)
    }

    #[test]
    fn all_or_nothing() {
        let mut state = State::new(Perm::default(), sems(3), 0);
        state.undo.insert(9, alloc::vec![0; 3].into());
        let ops = [op(0, 2, sem::UNDO), op(1, -1, 0)];
        assert_eq!(state.attempt(&ops, Some(9), &who()), Err(Stop::More(1)));
        assert_eq!((state.sems[0].value, state.undo[&9][0]), (0, 0));
        state.assign(1, 1, &who());
        assert_eq!(state.attempt(&ops, Some(9), &who()), Ok(()));
        assert_eq!((state.sems[0].value, state.sems[1].value, state.undo[&9][0]), (2, 0, -2));
        state.take_back(9, &who(), 5);
        assert_eq!((state.sems[0].value, state.otime), (0, 5));
        let most = [op(0, 32767, 0), op(0, 1, 0)];
        assert_eq!(state.attempt(&most, None, &who()), Err(Stop::Error(Errno::ERANGE)));
        let never = [op(2, -1, ipc::NOWAIT as u16)];
        assert_eq!(state.attempt(&never, None, &who()), Err(Stop::Error(Errno::EAGAIN)));
    }

    #[test]
    fn waiters_go_on_in_order_and_move_between_semaphores() {
        let mut state = State::new(Perm::default(), sems(2), 0);
        let both = wait(&mut state, &[op(0, -1, 0), op(1, -1, 0)]);
        let one = wait(&mut state, &[op(0, -1, 0)]);
        let zero = wait(&mut state, &[op(1, 3, 0), op(1, 0, 0)]);
        assert_eq!((state.sems[0].more.len(), state.sems[1].zero.len()), (2, 1));
        state.attempt(&[op(0, 1, 0)], None, &who()).expect("free");
        state.settle(1);
        // The first stops at the other semaphore now, so the second gets it.
        assert_eq!(both.outcome(), None);
        assert_eq!(one.outcome(), Some(Ok(())));
        assert_eq!((state.sems[0].more.len(), state.sems[1].more.len()), (0, 1));
        state.attempt(&[op(0, 1, 0), op(1, 1, 0)], None, &who()).expect("free");
        state.settle(2);
        assert_eq!(both.outcome(), Some(Ok(())));
        state.end();
        assert_eq!(zero.outcome(), Some(Err(Errno::EIDRM)));
    }

    #[test]
    fn a_chain_of_waiters_settles_at_once() {
        let mut state = State::new(Perm::default(), sems(3), 0);
        let last = wait(&mut state, &[op(2, -1, 0)]);
        let middle = wait(&mut state, &[op(1, -1, 0), op(2, 1, 0)]);
        let first = wait(&mut state, &[op(0, -1, 0), op(1, 1, 0)]);
        state.attempt(&[op(0, 1, 0)], None, &who()).expect("free");
        state.settle(1);
        for pending in [first, middle, last] {
            assert_eq!(pending.outcome(), Some(Ok(())));
        }
        assert!(state.sems.iter().all(|sem| sem.value == 0) && state.waiting == 0);
    }
}
