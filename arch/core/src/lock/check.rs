//! The lock checker of builds with debug assertions.
//!
//! Spinning locks are noted per processor (holders cannot move), sleeping locks per thread. A
//! violation panics on the host, where a test should fail; on the machine it is logged once per
//! class with the call stack, and the work goes on.

use core::fmt;

/// The kind of a lock and its place in the order. Make it a `static`.
pub struct LockClass {
    name: &'static str,
    rank: u32,
    #[cfg(debug_assertions)]
    reported: core::sync::atomic::AtomicBool,
}

impl LockClass {
    /// A class of the given rank; see the rank bands in `ARCHITECTURE.md`.
    pub const fn new(name: &'static str, rank: u32) -> LockClass {
        LockClass {
            name,
            rank,
            #[cfg(debug_assertions)]
            reported: core::sync::atomic::AtomicBool::new(false),
        }
    }
    /// Its name, `"vfs.dentry"` for example.
    pub const fn name(&self) -> &'static str {
        self.name
    }
    /// Its rank.
    pub const fn rank(&self) -> u32 {
        self.rank
    }
}

impl fmt::Debug for LockClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name, self.rank)
    }
}

/// What taking a lock means for the checker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Spins with preemption off.
    Spin,
    /// Spins with interrupts off.
    Irq,
}

#[cfg(not(debug_assertions))]
pub use disabled::*;
#[cfg(debug_assertions)]
pub use enabled::*;

#[cfg(not(debug_assertions))]
mod disabled {
    use super::{Kind, LockClass};

    /// The sleeping locks a thread holds; empty in this build.
    #[derive(Default)]
    pub struct HeldLocks;
    impl HeldLocks {
        /// Nothing held.
        pub const fn new() -> HeldLocks {
            HeldLocks
        }
    }
    /// Notes that a spinning lock is about to be taken.
    #[inline(always)]
    pub fn spin_acquire(_: &'static LockClass, _: Kind, _: bool) {}
    /// Notes that a spinning lock was taken without waiting.
    #[inline(always)]
    pub fn spin_acquired_try(_: &'static LockClass, _: Kind) {}
    /// Notes that a spinning lock was released.
    #[inline(always)]
    pub fn spin_release(_: &'static LockClass) {}
    /// Notes that a sleeping lock is about to be taken.
    #[inline(always)]
    pub fn sleep_acquire(_: &'static LockClass, _: bool) {}
    /// Notes that a sleeping lock was taken without waiting.
    #[inline(always)]
    pub fn sleep_acquired_try(_: &'static LockClass) {}
    /// Notes that a sleeping lock was released.
    #[inline(always)]
    pub fn sleep_release(_: &'static LockClass) {}
    /// Checks that the caller may sleep.
    #[inline(always)]
    pub fn might_sleep() {}
}

#[cfg(debug_assertions)]
mod enabled {
    use super::{Kind, LockClass};
    use core::cell::UnsafeCell;
    use core::sync::atomic::Ordering;

    const DEPTH: usize = 48;

    #[derive(Clone, Copy)]
    struct Held {
        class: &'static LockClass,
        kind: Option<Kind>,
        in_irq: bool,
    }

    struct Stack {
        held: [Option<Held>; DEPTH],
        len: usize,
    }

    impl Stack {
        const fn new() -> Stack {
            Stack { held: [None; DEPTH], len: 0 }
        }
        fn push(&mut self, entry: Held) {
            if let Some(slot) = self.held.get_mut(self.len) {
                *slot = Some(entry);
                self.len += 1;
            }
        }
        /// Takes the latest entry of the class out: releases come in any order.
        fn remove(&mut self, class: &'static LockClass) {
            for index in (0..self.len).rev() {
                if self.held[index].is_some_and(|held| core::ptr::eq(held.class, class)) {
                    self.held.copy_within(index + 1..self.len, index);
                    self.len -= 1;
                    self.held[self.len] = None;
                    return;
                }
            }
        }
        fn highest(&self, filter: impl Fn(&Held) -> bool) -> Option<Held> {
            let held = self.held[..self.len].iter().flatten().filter(|held| filter(held));
            held.max_by_key(|held| held.class.rank).copied()
        }
    }

    /// The sleeping locks a thread holds.
    pub struct HeldLocks {
        stack: UnsafeCell<Stack>,
    }

    // SAFETY: only the thread that owns it looks at it, with interrupts off.
    unsafe impl Sync for HeldLocks {}
    // SAFETY: it holds references to statics only.
    unsafe impl Send for HeldLocks {}

    impl HeldLocks {
        /// Nothing held.
        pub const fn new() -> HeldLocks {
            HeldLocks { stack: UnsafeCell::new(Stack::new()) }
        }
        fn with<R>(&self, f: impl FnOnce(&mut Stack) -> R) -> R {
            let _irq = crate::irq::disable();
            // SAFETY: interrupts are off and nobody else looks at this thread's (or processor's)
            // list, and `f` does not take locks.
            f(unsafe { &mut *self.stack.get() })
        }
    }

    impl Default for HeldLocks {
        fn default() -> HeldLocks {
            HeldLocks::new()
        }
    }

    // On the host the "processor" of a test is its thread: several may share one number.
    #[cfg(not(target_os = "none"))]
    std::thread_local! {
        static SPINS: HeldLocks = const { HeldLocks::new() };
        static SLEEPS: HeldLocks = const { HeldLocks::new() };
    }
    #[cfg(target_os = "none")]
    crate::percpu! { static SPINS: PerCpu<HeldLocks> = HeldLocks::new(); }

    #[cfg(not(target_os = "none"))]
    fn with_spins<R>(f: impl FnOnce(&mut Stack) -> R) -> Option<R> {
        SPINS.try_with(|held| held.with(f)).ok()
    }
    #[cfg(not(target_os = "none"))]
    fn with_sleeps<R>(f: impl FnOnce(&mut Stack) -> R) -> Option<R> {
        SLEEPS.try_with(|held| held.with(f)).ok()
    }
    #[cfg(target_os = "none")]
    fn with_spins<R>(f: impl FnOnce(&mut Stack) -> R) -> Option<R> {
        let _irq = crate::irq::disable();
        Some(SPINS.this().with(f))
    }
    #[cfg(target_os = "none")]
    fn with_sleeps<R>(f: impl FnOnce(&mut Stack) -> R) -> Option<R> {
        crate::thread::try_current().map(|thread| thread.held_locks().with(f))
    }

    /// Notes that a spinning lock is about to be taken. `nested`: an equal rank is right here.
    #[track_caller]
    pub fn spin_acquire(class: &'static LockClass, kind: Kind, nested: bool) {
        let in_irq = crate::preempt::in_hardirq();
        if kind == Kind::Spin && in_irq {
            report(class, "taken in an interrupt handler, but interrupts stay on under it", None);
        }
        let above = with_spins(|spins| {
            let offender = spins.highest(|held| held.in_irq == in_irq);
            let irq_held = spins.highest(|held| held.kind == Some(Kind::Irq));
            spins.push(Held { class, kind: Some(kind), in_irq });
            (offender, irq_held)
        });
        let Some((offender, irq_held)) = above else { return };
        if let Some(holder) = irq_held.filter(|_| kind == Kind::Spin) {
            report(class, "taken under a lock that interrupt handlers take", Some(holder.class));
        }
        check_rank(class, nested, offender);
        if !in_irq {
            check_rank(class, nested, with_sleeps(|held| held.highest(|_| true)).flatten());
        }
    }

    /// Notes that a spinning lock was taken without waiting: no order to keep.
    pub fn spin_acquired_try(class: &'static LockClass, kind: Kind) {
        let in_irq = crate::preempt::in_hardirq();
        with_spins(|spins| spins.push(Held { class, kind: Some(kind), in_irq }));
    }

    /// Notes that a spinning lock was released.
    pub fn spin_release(class: &'static LockClass) {
        with_spins(|spins| spins.remove(class));
    }

    /// Notes that a sleeping lock is about to be taken. `nested`: an equal rank is right here.
    #[track_caller]
    pub fn sleep_acquire(class: &'static LockClass, nested: bool) {
        if let Some(Some(holder)) = with_spins(|spins| spins.highest(|_| true)) {
            report(class, "may sleep, but was taken under a spinning lock", Some(holder.class));
        }
        let highest = with_sleeps(|sleeps| {
            let highest = sleeps.highest(|_| true);
            sleeps.push(Held { class, kind: None, in_irq: false });
            highest
        });
        check_rank(class, nested, highest.flatten());
    }

    /// Notes that a sleeping lock was taken without waiting.
    pub fn sleep_acquired_try(class: &'static LockClass) {
        with_sleeps(|sleeps| sleeps.push(Held { class, kind: None, in_irq: false }));
    }

    /// Notes that a sleeping lock was released.
    pub fn sleep_release(class: &'static LockClass) {
        with_sleeps(|sleeps| sleeps.remove(class));
    }

    /// Checks that the caller may sleep.
    #[track_caller]
    pub fn might_sleep() {
        if let Some(Some(holder)) = with_spins(|spins| spins.highest(|_| true)) {
            report(holder.class, "held by code that may sleep", None);
        }
    }

    #[track_caller]
    fn check_rank(class: &'static LockClass, nested: bool, holder: Option<Held>) {
        let Some(holder) = holder else { return };
        let holder = holder.class;
        if holder.rank > class.rank || (holder.rank == class.rank && !nested) {
            report(class, "taken out of order", Some(holder));
        }
    }

    #[cold]
    #[track_caller]
    fn report(class: &'static LockClass, what: &str, other: Option<&'static LockClass>) {
        if class.reported.swap(true, Ordering::Relaxed) {
            return;
        }
        let place = core::panic::Location::caller();
        #[cfg(not(target_os = "none"))]
        if !std::thread::panicking() {
            panic!("lock check: {class:?} {what} (holding {other:?}) at {place}");
        }
        log::error!("lock check: {class:?} {what} (holding {other:?}) at {place}");
    }
}
