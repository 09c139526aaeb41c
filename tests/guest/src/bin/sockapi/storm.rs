//! Threads that send, receive, connect and close at once, with descriptors in flight.

use crate::message::{Control, recv, send};
use crate::{pair, raw};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const SLOTS: usize = 8;
const WORKERS: usize = 6;
const RUN: Duration = Duration::from_secs(3);

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

struct Arena {
    slots: [Mutex<Arc<[OwnedFd; 2]>>; SLOTS],
    is_over: AtomicBool,
    sent: AtomicUsize,
    received: AtomicUsize,
}

fn step(arena: &Arena, random: &mut Random) {
    const KINDS: [i32; 3] = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET];
    let pick = |random: &mut Random| {
        let slot = &arena.slots[random.below(SLOTS as u64) as usize];
        slot.lock().map(|pair| pair.clone()).expect("nobody panics")
    };
    let sockets = pick(random);
    let (near, far) = (&sockets[random.below(2) as usize], &sockets[random.below(2) as usize]);
    match random.below(10) {
        0..4 => {
            let other = pick(random);
            let fds = (0..random.below(4)).map(|_| raw(&other[random.below(2) as usize])).collect();
            let data = vec![b'x'; 1 + random.below(5000) as usize];
            if send(near, &data, &[Control::Rights(fds)], libc::MSG_DONTWAIT) > 0 {
                arena.sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        4..8 => {
            let room = random.below(64) as usize;
            let peek = if random.below(4) == 0 { libc::MSG_PEEK } else { 0 };
            if recv(far, 3000, room, libc::MSG_DONTWAIT | peek).count > 0 {
                arena.received.fetch_add(1, Ordering::Relaxed);
            }
        }
        8 => {
            // SAFETY: no pointers.
            unsafe { libc::shutdown(raw(near), random.below(3) as i32) };
        }
        _ => {
            let fresh = Arc::new(pair(KINDS[random.below(3) as usize]));
            let slot = &arena.slots[random.below(SLOTS as u64) as usize];
            let old = std::mem::replace(&mut *slot.lock().expect("nobody panics"), fresh);
            drop(old);
        }
    }
}

/// Runs for some seconds; tells whether descriptors came back.
pub fn run() {
    let before = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let arena = Arc::new(Arena {
        slots: std::array::from_fn(|_| Mutex::new(Arc::new(pair(libc::SOCK_STREAM)))),
        is_over: AtomicBool::new(false),
        sent: AtomicUsize::new(0),
        received: AtomicUsize::new(0),
    });
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let arena = arena.clone();
            thread::spawn(move || {
                let mut random = Random(number as u64 + 1);
                while !arena.is_over.load(Ordering::Relaxed) {
                    step(&arena, &mut random);
                }
            })
        })
        .collect();
    thread::sleep(RUN);
    arena.is_over.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().expect("a worker ends"));
    let (sent, received) =
        (arena.sent.load(Ordering::Relaxed), arena.received.load(Ordering::Relaxed));
    println!("sent {} received {}", sent > 100, received > 100);
    drop(arena);
    let after = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    println!("descriptors {}", after == before);
}
