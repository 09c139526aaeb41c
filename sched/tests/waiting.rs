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

/// Each job has one wake-up. A thread that takes a job in its last look before it sleeps, and is chosen for
/// another job while it does, must pass that wake-up on.
#[test]
fn who_takes_a_job_passes_on_the_wake_up_of_another() {
    struct Shop {
        queue: WaitQueue,
        jobs: AtomicU32,
        /// Looks of the thread that sleeps.
        looks: AtomicU32,
        /// Looks of the thread that is slow; it goes on with its second one when told.
        slow_looks: AtomicU32,
        goes_on: AtomicU32,
    }
    impl Shop {
        fn take(&self) -> Option<()> {
            let taken = |jobs: u32| jobs.checked_sub(1);
            self.jobs.fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken).ok().map(|_| ())
        }
    }
    let pause = || std::thread::sleep(core::time::Duration::from_millis(20));
    let until = |counter: &AtomicU32, count: u32| {
        let late = std::time::Instant::now() + core::time::Duration::from_secs(10);
        while counter.load(Ordering::SeqCst) < count {
            assert!(std::time::Instant::now() < late, "nobody came");
            std::thread::yield_now();
        }
    };
    let shop = Arc::new(Shop {
        queue: WaitQueue::new(),
        jobs: AtomicU32::new(0),
        looks: AtomicU32::new(0),
        slow_looks: AtomicU32::new(0),
        goes_on: AtomicU32::new(0),
    });
    let sleeper = {
        let shop = shop.clone();
        std::thread::spawn(move || {
            shop.queue.wait(|| {
                shop.looks.fetch_add(1, Ordering::SeqCst);
                shop.take()
            });
        })
    };
    until(&shop.looks, 2);
    pause();
    shop.jobs.store(1, Ordering::SeqCst);
    let slow = {
        let shop = shop.clone();
        std::thread::spawn(move || {
            shop.queue.wait(|| {
                if shop.slow_looks.fetch_add(1, Ordering::SeqCst) == 0 {
                    return None;
                }
                let job = shop.take();
                until(&shop.goes_on, 1);
                job
            });
        })
    };
    // The slow one takes the first job and is held up; the wake-up for it is the sleeper's.
    until(&shop.slow_looks, 2);
    pause();
    let looks = shop.looks.load(Ordering::SeqCst);
    shop.queue.wake_one();
    until(&shop.looks, looks + 1);
    pause();
    // The second: the slow one is first in the queue now.
    shop.jobs.fetch_add(1, Ordering::SeqCst);
    shop.queue.wake_one();
    shop.goes_on.store(1, Ordering::SeqCst);
    slow.join().expect("no panic");
    let late = std::time::Instant::now() + core::time::Duration::from_secs(5);
    while !sleeper.is_finished() {
        assert!(std::time::Instant::now() < late, "the second job is left");
        pause();
    }
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
fn parked_threads_are_woken_and_time_out() {
    const ROUNDS: u32 = 2000;
    let turn = Arc::new(AtomicU32::new(0));
    let start = Arc::new(std::sync::Barrier::new(2));
    let (sender, receiver) = std::sync::mpsc::channel();
    let other = {
        let (turn, start) = (turn.clone(), start.clone());
        std::thread::spawn(move || {
            sender.send(sched::current().arc()).expect("there is a receiver");
            start.wait();
            for round in 0..ROUNDS {
                let done = || (turn.load(Ordering::SeqCst) > round).then_some(());
                assert_eq!(sched::park_interruptible(done, None), Ok(()));
            }
        })
    };
    let thread = receiver.recv().expect("a sender").expect("it lives");
    start.wait();
    for _ in 0..ROUNDS {
        turn.fetch_add(1, Ordering::SeqCst);
        thread.unpark();
    }
    other.join().expect("no panic");
    let late = sched::park_interruptible(|| None::<()>, Some(Deadline::after_ns(2_000_000)));
    assert_eq!(late, Err(WaitError::TimedOut));
}

#[test]
fn slack_lets_a_wait_begin_late_and_none_end_early() {
    let thread = sched::current();
    for slack in [0, 5_000_000] {
        thread.set_timer_slack_ns(slack);
        let start = arch::time::now_ns();
        let mut looks = 0;
        let look = || {
            looks += 1;
            None::<()>
        };
        let late = sched::park_interruptible(look, Some(Deadline::at_monotonic_ns(start)));
        assert_eq!(late, Err(WaitError::TimedOut));
        // Without slack there is no time to sleep at all.
        assert_eq!(looks > 1, slack > 0);
        let queue = WaitQueue::new();
        let late = queue.wait_interruptible(|| None::<()>, Some(Deadline::after_ns(2_000_000)));
        assert_eq!(late, Err(WaitError::TimedOut));
        assert!(arch::time::now_ns() >= start + 2_000_000);
    }
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
