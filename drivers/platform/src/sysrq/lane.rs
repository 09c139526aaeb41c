//! A thread that does what keys ask for, one after the other.

use arch::lock::{IrqLock, LockClass};
use arrayvec::ArrayVec;
use sched::{Params, Policy, WaitQueue};

static CLASS: LockClass = LockClass::new("platform.sysrq_lane", 588);

/// Keys that wait at most; nobody presses more while one is served.
const ROOM: usize = 32;

/// Keys that wait for their thread.
pub(super) struct Lane {
    keys: IrqLock<ArrayVec<u8, ROOM>>,
    pressed: WaitQueue,
}

impl Lane {
    pub(super) const fn new() -> Lane {
        Lane { keys: IrqLock::new(&CLASS, ArrayVec::new_const()), pressed: WaitQueue::new() }
    }

    /// Has the key served soon. In any context.
    pub(super) fn push(&self, key: u8) {
        let is_taken = self.keys.lock().try_push(key).is_ok();
        if is_taken {
            self.pressed.wake_one();
        } else {
            log::warn!("sysrq: too many keys wait, {:?} is dropped", char::from(key));
        }
    }

    fn pop(&self) -> Option<u8> {
        let mut keys = self.keys.lock();
        (!keys.is_empty()).then(|| keys.remove(0))
    }

    /// Starts the thread. Programs of real time do not keep it from running, and what it allocates may
    /// come from the reserve: these are what keys are pressed against.
    pub(super) fn start(&'static self, name: &str) {
        let thread = sched::spawn_kernel(name, || {
            arch::thread::current().set_flag(arch::thread::flags::OOM_VICTIM);
            loop {
                super::perform(self.pressed.wait(|| self.pop()));
            }
        });
        thread.set_params(Params { policy: Policy::Fifo, nice: 0, rt_priority: 99 });
    }
}
