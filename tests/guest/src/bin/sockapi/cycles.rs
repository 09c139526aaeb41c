//! Sockets that are only in their own queues: their memory comes back, and so does what they hold.

use crate::message::{Control, recv, send};
use crate::{pair, pipe, raw, show};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Waits until the reader of a pipe sees its end: every copy of the writer is closed.
fn sees_end(reader: &OwnedFd) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    let mut byte = [0u8; 1];
    while Instant::now() < end {
        // SAFETY: one byte.
        let count = unsafe { libc::read(raw(reader), byte.as_mut_ptr().cast(), 1) };
        if count == 0 {
            return true;
        }
        // A socket that is closed makes the kernel look.
        drop(pair(libc::SOCK_STREAM));
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// A writer's descriptor in the queue of a socket that is only in its own queue.
fn own_queue(kind: i32) {
    let [reader, writer] = pipe();
    let [a, b] = pair(kind);
    send(&a, b"x", &[Control::Rights(vec![raw(&writer)])], 0);
    send(&a, b"x", &[Control::Rights(vec![raw(&a), raw(&b)])], 0);
    send(&b, b"x", &[Control::Rights(vec![raw(&b), raw(&a)])], 0);
    drop((a, b, writer));
    println!("own queue of {kind}: {}", sees_end(&reader));
}

/// Pairs in a ring, each in the queue of the next.
fn ring(count: usize) {
    let [reader, writer] = pipe();
    let pairs: Vec<_> = (0..count).map(|_| pair(libc::SOCK_DGRAM)).collect();
    for (index, [from, _]) in pairs.iter().enumerate() {
        let next = &pairs[(index + 1) % count];
        let fds = vec![raw(&next[0]), raw(&next[1])];
        send(from, b"x", &[Control::Rights(fds)], 0);
    }
    send(&pairs[0][0], b"x", &[Control::Rights(vec![raw(&writer)])], 0);
    drop((pairs, writer));
    println!("ring of {count}: {}", sees_end(&reader));
}

/// One socket in the next: closing the first closes all.
fn chain(count: usize) {
    let [reader, writer] = pipe();
    let mut inner = pair(libc::SOCK_STREAM);
    send(&inner[0], b"x", &[Control::Rights(vec![raw(&writer)])], 0);
    drop(writer);
    for _ in 0..count {
        let outer = pair(libc::SOCK_STREAM);
        let fds = vec![raw(&inner[0]), raw(&inner[1])];
        if send(&outer[0], b"x", &[Control::Rights(fds)], 0) < 0 {
            break;
        }
        inner = outer;
    }
    drop(inner);
    println!("chain: {}", sees_end(&reader));
}

/// What can still be reached stays.
fn kept() {
    let [reader, writer] = pipe();
    let [a, b] = pair(libc::SOCK_STREAM);
    let [c, d] = pair(libc::SOCK_STREAM);
    send(&a, b"x", &[Control::Rights(vec![raw(&c), raw(&d)])], 0);
    send(&c, b"y", &[Control::Rights(vec![raw(&writer), raw(&c)])], 0);
    drop((c, d, writer));
    for _ in 0..20 {
        drop(pair(libc::SOCK_STREAM));
        std::thread::sleep(Duration::from_millis(2));
    }
    let got = recv(&b, 10, 100, 0);
    println!("kept {}", got.fds.len());
    let inner = recv(&got.fds[1], 10, 100, 0);
    println!("inside {} {:?}", inner.fds.len(), String::from_utf8_lossy(&inner.data));
    // SAFETY: one byte of a string.
    show("write", unsafe { libc::write(raw(&inner.fds[0]), b"z".as_ptr().cast(), 1) });
    drop((inner, got));
    let mut byte = [0u8; 1];
    // SAFETY: one byte.
    show("read", unsafe { libc::read(raw(&reader), byte.as_mut_ptr().cast(), 1) });
    println!("end {}", sees_end(&reader));
}

/// Runs all.
pub fn run() {
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        own_queue(kind);
    }
    ring(2);
    ring(50);
    chain(3);
    kept();
}
