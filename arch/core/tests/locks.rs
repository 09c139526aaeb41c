//! Spinning locks on host threads.

#![cfg(not(target_os = "none"))]

use machine::lock::{IrqLock, LockClass, RwSpinLock, SeqLock, SpinLock};
use machine::{irq, preempt};
use std::sync::Arc;

static LOW: LockClass = LockClass::new("test.low", 10);
static HIGH: LockClass = LockClass::new("test.high", 20);

#[test]
fn many_threads_count_right() {
    static COUNT: LockClass = LockClass::new("test.count", 10);
    let lock = Arc::new(SpinLock::new(&COUNT, 0u64));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let lock = lock.clone();
            std::thread::spawn(move || (0..10_000).for_each(|_| *lock.lock() += 1))
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(*lock.lock(), 40_000);
}

#[test]
fn try_lock_and_state() {
    let lock = IrqLock::new(&LOW, ());
    let guard = lock.lock();
    assert!(!irq::are_enabled());
    assert!(lock.is_locked() && lock.try_lock().is_none());
    drop(guard);
    assert!(irq::are_enabled());
    assert_eq!(preempt::count(), 0);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "out of order")]
fn wrong_order_is_reported() {
    let low = SpinLock::new(&LOW, ());
    let high = SpinLock::new(&HIGH, ());
    let _high = high.lock();
    let _low = low.lock();
}

#[test]
fn readers_share_writers_do_not() {
    static CLASS: LockClass = LockClass::new("test.rw", 5);
    let lock = RwSpinLock::new(&CLASS, 0u64);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..5_000).for_each(|_| *lock.write() += 2));
            scope.spawn(|| (0..5_000).for_each(|_| assert_eq!(*lock.read() % 2, 0)));
        }
    });
    assert_eq!(*lock.read(), 20_000);
}

#[test]
fn copies_are_never_torn() {
    static CLASS: LockClass = LockClass::new("test.seq", 5);
    let lock = SeqLock::new(&CLASS, [0u64; 4]);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..20_000u64).for_each(|n| lock.write(|v| *v = [n; 4])));
        scope.spawn(|| {
            (0..20_000).for_each(|_| {
                let v = lock.read();
                assert!(v.iter().all(|x| *x == v[0]));
            });
        });
    });
}
