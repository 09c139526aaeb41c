//! When a controller does not answer: abort, then reset, then give up. And the end: its shutdown.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Result;
use block::TimeoutAction;

use crate::controller::{Controller, Pending, State};

/// How long a command that is past its time is looked for before it is aborted.
const GRACE_NS: u64 = 100_000_000;
/// How long commands that are on their way are waited for before the machine goes off.
const DRAIN_NS: u64 = 2_000_000_000;
/// How often a reset is tried.
const ATTEMPTS: u32 = 3;

impl Controller {
    /// A request is past its time. First it is looked for, as an interrupt may have been lost;
    /// then the controller is asked to abort it; then it is reset.
    pub(crate) fn timed_out(self: &Arc<Self>, queue: usize, tag: usize) -> TimeoutAction {
        if self.state() != State::Live {
            return TimeoutAction::Extend;
        }
        self.look_again(queue, tag);
        let has_been_aborted = {
            let Some(io) = self.queues.get(queue) else { return TimeoutAction::Handled };
            let mut lane = io.lane.lock();
            match lane.pending.get_mut(tag).and_then(Option::as_mut) {
                None => return TimeoutAction::Handled,
                Some(pending) => core::mem::replace(&mut pending.is_aborting, true),
            }
        };
        if !has_been_aborted && !self.registers.is_failed() {
            log::warn!(
                "nvme nvme{}: queue {queue} command {tag} takes too long, aborting",
                self.number
            );
            self.abort(queue, tag);
            return TimeoutAction::Extend;
        }
        log::warn!("nvme nvme{}: queue {queue} command {tag} is stuck, resetting", self.number);
        self.begin_reset();
        TimeoutAction::Extend
    }

    /// Looks for a command's completion for a while, the way a wait without interrupts would. Time
    /// that the clock says has passed is not always time the device has had: under an emulator, or
    /// after the machine was stopped, the time-out may come first.
    fn look_again(&self, queue: usize, tag: usize) {
        let end = arch::time::now_ns() + GRACE_NS;
        loop {
            self.reap(queue);
            let is_pending = self
                .queues
                .get(queue)
                .is_some_and(|io| io.lane.lock().pending.get(tag).is_some_and(Option::is_some));
            if !is_pending || arch::time::now_ns() >= end {
                return;
            }
            crate::controller::pause();
        }
    }

    /// Leaves the state `Live`; whether it was this call that did.
    fn stop(&self, next: State) -> bool {
        // Under every queue's lock, so that whoever saw the old state is done.
        let _guards: Vec<_> = self.queues.iter().map(|queue| queue.lane.lock_nested()).collect();
        self.enter(State::Live, next)
    }

    fn is_busy(&self) -> bool {
        self.queues.iter().any(|queue| queue.lane.lock().pending.iter().any(Option::is_some))
    }

    /// Has the controller finish its work and write its caches to the medium (§7.6.2): the machine
    /// goes off. Requests that come afterwards are not done.
    pub(crate) fn shut_down(&self) {
        let end = arch::time::now_ns().saturating_add(DRAIN_NS);
        while self.state() == State::Live && self.is_busy() && arch::time::now_ns() < end {
            for index in 0..self.queues.len() {
                self.reap(index);
            }
            crate::controller::pause();
        }
        if self.stop(State::Off)
            && let Err(error) = self.registers.shut_down(self.identity.shutdown_us)
        {
            log::warn!("nvme nvme{}: no end of the shutdown: {error:?}", self.number);
        }
    }

    fn begin_reset(self: &Arc<Self>) {
        if !self.stop(State::Resetting) {
            return;
        }
        let this = self.clone();
        sched::spawn_kernel("nvme-reset", move || this.reset());
    }

    fn reset(self: Arc<Self>) {
        for attempt in 1..=ATTEMPTS {
            match self.restart() {
                Ok(()) => {
                    log::warn!("nvme nvme{}: reset, going on", self.number);
                    self.resume();
                    return;
                }
                Err(error) => {
                    log::error!("nvme nvme{}: reset {attempt} failed: {error:?}", self.number);
                }
            }
        }
        self.give_up();
    }

    fn restart(&self) -> Result<()> {
        self.function.enable();
        self.registers.disable()?;
        self.restart_admin()?;
        let wanted = self.queues.len();
        if self.request_queues(wanted)? < wanted {
            return Err(abi::Errno::ENODEV);
        }
        for queue in &self.queues {
            queue.lane.lock().rings.clear();
        }
        self.create_queues()
    }

    /// Issues every unfinished command again.
    fn resume(&self) {
        let mut guards: Vec<_> = self.queues.iter().map(|queue| queue.lane.lock_nested()).collect();
        for lane in &mut guards {
            let lane = &mut **lane;
            for pending in lane.pending.iter_mut().flatten() {
                pending.reissue(&mut lane.rings);
            }
        }
        self.set_state(State::Live);
        for lane in &mut guards {
            lane.rings.ring();
        }
    }

    fn give_up(&self) {
        log::error!("nvme nvme{}: removed", self.number);
        self.set_state(State::Dead);
        // If it still runs, it cannot reach memory any more.
        self.function.disable_master();
        for queue in &self.queues {
            let pending: Vec<Pending> =
                queue.lane.lock().pending.iter_mut().filter_map(Option::take).collect();
            for pending in pending {
                pending.fail();
            }
        }
    }
}
