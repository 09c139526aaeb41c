//! Wait queues, sleeping locks and RCU on host threads.

#![cfg(not(target_os = "none"))]

use arch::lock::LockClass;
use sched::{Deadline, Mutex, RwLock, WaitError, WaitQueue, rcu};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

static CLASS: LockClass = LockClass::new("test.mutex", 10);

#[test]
fn many_threads_count_right() {
    let sum = Arc::new(Mutex::new(&CLASS, 0u32));
    let shared = Arc::new(RwLock::new(&CLASS, 0u32));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (sum, shared) = (sum.clone(), shared.clone());
            std::thread::spawn(move || {
                for _ in 0..2000 {
                    *sum.lock() += 1;
                    let seen = *shared.read();
                    assert!(seen <= 8000);
                    *shared.write() += 1;
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert_eq!(*sum.lock(), 8000);
    assert_eq!(*shared.read(), 8000);
}

/// Writers change two numbers, one after the other; a reader among them would see them differ.
#[test]
fn nobody_reads_while_somebody_writes_and_all_get_their_turn() {
    const ROUNDS: u32 = 3000;
    let pair = Arc::new(RwLock::new(&CLASS, (0u32, 0u32)));
    let writers = (0..4).map(|number| {
        let pair = pair.clone();
        std::thread::spawn(move || {
            for round in 0..ROUNDS {
                let mut guard = match pair.try_write() {
                    Some(guard) if round % 2 == 0 => guard,
                    taken => {
                        drop(taken);
                        pair.write()
                    }
                };
                guard.0 += 1;
                if (round + number) % 64 == 0 {
                    std::thread::yield_now();
                }
                guard.1 += 1;
            }
        })
    });
    let readers = (0..4).map(|_| {
        let pair = pair.clone();
        std::thread::spawn(move || {
            for round in 0..ROUNDS {
                let guard = pair.read();
                assert_eq!(guard.0, guard.1);
                if round % 64 == 0 {
                    std::thread::yield_now();
                    assert_eq!(guard.0, guard.1);
                }
            }
        })
    });
    let threads: Vec<_> = writers.chain(readers).collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert_eq!(*pair.read(), (4 * ROUNDS, 4 * ROUNDS));
    assert!(pair.try_write().is_some(), "free again");
}

/// Readers come and go so that one always holds it; a writer must come in all the same.
#[test]
fn a_writer_gets_its_turn_among_readers() {
    let lock = Arc::new(RwLock::new(&CLASS, false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let lock = lock.clone();
            std::thread::spawn(move || {
                while !*lock.read() {
                    let guard = lock.read();
                    std::thread::sleep(core::time::Duration::from_micros(200));
                    drop(guard);
                }
            })
        })
        .collect();
    std::thread::sleep(core::time::Duration::from_millis(5));
    *lock.write() = true;
    for reader in readers {
        reader.join().expect("no panic");
    }
}

#[test]
fn waiters_are_woken_and_time_out() {
    let queue = Arc::new(WaitQueue::new());
    let value = Arc::new(AtomicU32::new(0));
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let (queue, value) = (queue.clone(), value.clone());
            std::thread::spawn(move || {
                queue.wait(|| (value.load(Ordering::SeqCst) > 0).then_some(()));
            })
        })
        .collect();
    std::thread::sleep(core::time::Duration::from_millis(20));
    value.store(1, Ordering::SeqCst);
    queue.wake_all();
    for waiter in waiters {
        waiter.join().expect("woken");
    }
    let late = queue.wait_interruptible(|| None::<()>, Some(Deadline::after_ns(5_000_000)));
    assert_eq!(late, Err(WaitError::TimedOut));
    assert!(!queue.has_waiters());
}

#[test]
fn barrier_waits_for_what_was_queued() {
    static RUN: AtomicUsize = AtomicUsize::new(0);
    for round in 1..=3 {
        for _ in 0..10 {
            rcu::call(rcu::Later::call(|| _ = RUN.fetch_add(1, Ordering::SeqCst)));
        }
        rcu::barrier();
        assert_eq!(RUN.load(Ordering::SeqCst), round * 10);
    }
}
