//! Record locks, open-file-description locks, `flock`, leases, `SIGIO` owners, `F_NOTIFY`.

use crate::{call, close, fill, open, show};
use std::sync::atomic::{AtomicU32, Ordering};

const F_OFD_GETLK: i32 = 36;
const F_OFD_SETLK: i32 = 37;
const F_SETLEASE: i32 = 1024;
const F_GETLEASE: i32 = 1025;
const F_NOTIFY: i32 = 1026;
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

fn lock(fd: i32, command: i32, kind: i32, start: i64, len: i64) -> (i64, libc::flock) {
    let mut arg =
        libc::flock { l_type: kind as i16, l_whence: 0, l_start: start, l_len: len, l_pid: 0 };
    let at = &raw mut arg as usize;
    (call(libc::SYS_fcntl, &[fd as usize, command as usize, at]), arg)
}

fn control(fd: i32, command: i32, arg: usize) -> i64 {
    call(libc::SYS_fcntl, &[fd as usize, command as usize, arg])
}

/// Runs `body` in a child and waits for it.
fn child(body: impl FnOnce()) {
    // SAFETY: the program has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        body();
        std::io::Write::flush(&mut std::io::stdout()).unwrap();
        std::process::exit(0);
    }
    let mut status = 0;
    // SAFETY: a pointer to a live word.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {}
}

/// All of it.
pub fn run() {
    fill("f", &[0; 100]);
    let fd = open("f", libc::O_RDWR, 0);
    for (kind, start, len) in
        [(1, 0, 10), (0, 5, 10), (1, 50, 0), (2, 3, 4), (1, -1, 1), (7, 0, 1), (1, 10, -5)]
    {
        show(&format!("lock {kind} {start} {len}"), lock(fd, libc::F_SETLK, kind, start, len).0);
    }
    child(|| {
        let other = open("f", libc::O_RDWR, 0);
        for (kind, start, len) in
            [(1, 0, 100), (0, 0, 100), (0, 8, 2), (1, 3, 2), (0, 60, 1), (1, 4, 0)]
        {
            let (result, found) = lock(other, libc::F_GETLK, kind, start, len);
            let facts = (found.l_type, found.l_start, found.l_len, found.l_pid != 0);
            println!("get {kind} {start} {len}: {result} {facts:?}");
            show("set", lock(other, libc::F_SETLK, kind, start, len).0);
        }
        let (result, found) = lock(other, F_OFD_GETLK, 1, 0, 1);
        println!("OFD get: {result} {} {}", found.l_type, found.l_pid != 0);
        show("OFD set", lock(other, F_OFD_SETLK, 1, 0, 1).0);
    });
    // Closing any descriptor of the file drops the process's locks.
    close(open("f", libc::O_RDONLY, 0));
    child(|| show("after close", lock(open("f", libc::O_RDWR, 0), libc::F_SETLK, 1, 0, 0).0));
    let read = open("f", libc::O_RDONLY, 0);
    show("write lock on read-only", lock(read, libc::F_SETLK, 1, 0, 1).0);
    let write = open("f", libc::O_WRONLY, 0);
    show("read lock on write-only", lock(write, libc::F_SETLK, 0, 0, 1).0);
    let second = open("f", libc::O_RDWR, 0);
    show("OFD", lock(fd, F_OFD_SETLK, 1, 0, 10).0);
    show("OFD conflict", lock(second, F_OFD_SETLK, 1, 5, 10).0);
    show("OFD beside", lock(second, F_OFD_SETLK, 1, 10, 10).0);
    show("POSIX against OFD", lock(second, libc::F_SETLK, 1, 0, 1).0);
    show("OFD unlock", lock(fd, F_OFD_SETLK, 2, 0, 0).0);
    deadlock(fd);
    for (fd, what) in [
        (fd, libc::LOCK_EX),
        (second, libc::LOCK_SH | libc::LOCK_NB),
        (fd, libc::LOCK_SH),
        (second, libc::LOCK_SH | libc::LOCK_NB),
        (second, libc::LOCK_EX | libc::LOCK_NB),
        (fd, libc::LOCK_UN),
        (second, libc::LOCK_EX | libc::LOCK_NB),
        (fd, 0),
        (fd, 99),
    ] {
        show(&format!("flock {what}"), call(libc::SYS_flock, &[fd as usize, what as usize]));
    }
    close(second);
    close(write);
    leases(fd, read);
    owners(fd);
}

fn deadlock(fd: i32) {
    lock(fd, libc::F_SETLK, 1, 0, 1);
    let mut ends = [0i32; 2];
    call(libc::SYS_pipe2, &[ends.as_mut_ptr() as usize, 0]);
    // SAFETY: the program has one thread.
    let pid = unsafe { libc::fork() };
    let mut byte = 0u8;
    let at = &raw mut byte as usize;
    if pid == 0 {
        lock(fd, libc::F_SETLK, 1, 1, 1);
        call(libc::SYS_write, &[ends[1] as usize, at, 1]);
        lock(fd, libc::F_SETLKW, 1, 0, 1);
        std::process::exit(0);
    }
    call(libc::SYS_read, &[ends[0] as usize, at, 1]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    show("deadlock", lock(fd, libc::F_SETLKW, 1, 1, 1).0);
    lock(fd, libc::F_SETLK, 2, 0, 0);
    let mut status = 0;
    // SAFETY: a pointer to a live word.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    println!("the other got it: {status}");
}

fn leases(fd: i32, read: i32) {
    show("no lease", control(fd, F_GETLEASE, 0));
    show("read lease on writer", control(fd, F_SETLEASE, 0));
    show("write lease of several", control(fd, F_SETLEASE, 1));
    show("bad lease", control(fd, F_SETLEASE, 9));
    close(fd);
    show("write lease with reader", control(read, F_SETLEASE, 1));
    show("read lease", control(read, F_SETLEASE, 0));
    show("get", control(read, F_GETLEASE, 0));
    // SAFETY: installs a handler that only counts.
    unsafe { libc::signal(libc::SIGIO, count as extern "C" fn(i32) as usize) };
    let before = SIGNALS.load(Ordering::Relaxed);
    child(|| {
        show("open for reading", i64::from(open("f", libc::O_RDONLY, 0) >= 0));
        show("open for writing", i64::from(open("f", libc::O_RDWR | libc::O_NONBLOCK, 0)));
    });
    println!("signals {}", SIGNALS.load(Ordering::Relaxed) - before);
    show("get while breaking", control(read, F_GETLEASE, 0));
    show("give up", control(read, F_SETLEASE, 2));
    child(|| show("open now", i64::from(open("f", libc::O_RDWR | libc::O_NONBLOCK, 0) >= 0)));
    show("get none", control(read, F_GETLEASE, 0));
}

fn owners(_: i32) {
    let dir = open(".", libc::O_RDONLY, 0);
    let before = SIGNALS.load(Ordering::Relaxed);
    show("F_NOTIFY", control(dir, F_NOTIFY, 0x8000_0004));
    fill("noticed", b"");
    println!("noticed {}", SIGNALS.load(Ordering::Relaxed) - before);
    show("F_NOTIFY off", control(dir, F_NOTIFY, 0));
    let file = open("f", libc::O_RDONLY, 0);
    show("F_NOTIFY file", control(file, F_NOTIFY, 4));
    let mut ends = [0i32; 2];
    call(libc::SYS_pipe2, &[ends.as_mut_ptr() as usize, libc::O_NONBLOCK as usize]);
    let end = ends[0];
    show("F_GETOWN", control(end, libc::F_GETOWN, 0));
    // SAFETY: no pointers.
    let me = unsafe { libc::getpid() };
    show("F_SETOWN", control(end, libc::F_SETOWN, me as usize));
    println!("owner is me: {}", control(end, libc::F_GETOWN, 0) == i64::from(me));
    show("F_SETOWN nobody", control(end, libc::F_SETOWN, 4_000_000));
    show("F_GETSIG", control(end, F_GETSIG, 0));
    show("F_SETSIG 99", control(end, F_SETSIG, 99));
    show("F_SETSIG", control(end, F_SETSIG, libc::SIGUSR1 as usize));
    show("F_GETSIG", control(end, F_GETSIG, 0));
    show("F_SETSIG 0", control(end, F_SETSIG, 0));
    let mut pair = [9i32, me];
    show("F_SETOWN_EX bad", control(end, F_SETOWN_EX, pair.as_ptr() as usize));
    pair[0] = 1;
    show("F_SETOWN_EX", control(end, F_SETOWN_EX, pair.as_ptr() as usize));
    let mut got = [7i32; 2];
    show("F_GETOWN_EX", control(end, F_GETOWN_EX, got.as_mut_ptr() as usize));
    println!("{} {}", got[0], got[1] == me);
    show("O_ASYNC", control(end, libc::F_SETFL, (libc::O_ASYNC | libc::O_NONBLOCK) as usize));
    let before = SIGNALS.load(Ordering::Relaxed);
    call(libc::SYS_write, &[ends[1] as usize, [1u8].as_ptr() as usize, 1]);
    println!("signals {}", SIGNALS.load(Ordering::Relaxed) - before);
}
