//! The read side of RCU: readers only keep their processor from switching.

/// While it lives, nothing that was found is freed. It keeps preemption off: no sleeping.
#[must_use = "protection ends when the guard is dropped"]
pub struct ReadGuard {
    #[cfg(target_os = "none")]
    _preempt: arch::preempt::PreemptGuard,
    #[cfg(not(target_os = "none"))]
    _host: host::Reader,
}

/// Begins to read.
#[inline]
pub fn read_lock() -> ReadGuard {
    #[cfg(target_os = "none")]
    return ReadGuard { _preempt: arch::preempt::disable() };
    #[cfg(not(target_os = "none"))]
    ReadGuard { _host: host::Reader::new() }
}

/// Waits for those who read now.
#[cfg(not(target_os = "none"))]
pub fn wait_for_readers() {
    host::wait();
}

#[cfg(not(target_os = "none"))]
mod host {
    use std::cell::Cell;
    use std::sync::{RwLock, RwLockReadGuard};

    static GATE: RwLock<()> = RwLock::new(());
    std::thread_local! {
        static DEPTH: Cell<usize> = const { Cell::new(0) };
    }

    /// Holds the gate open for reading; nests.
    pub(super) struct Reader(
        #[expect(dead_code, reason = "held for its drop")] Option<RwLockReadGuard<'static, ()>>,
    );

    impl Reader {
        pub(super) fn new() -> Reader {
            let depth = DEPTH.get();
            DEPTH.set(depth + 1);
            Reader((depth == 0).then(|| GATE.read().unwrap_or_else(|e| e.into_inner())))
        }
    }

    impl Drop for Reader {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }

    pub(super) fn wait() {
        drop(GATE.write().unwrap_or_else(|e| e.into_inner()));
    }
}
