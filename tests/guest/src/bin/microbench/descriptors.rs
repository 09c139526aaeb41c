//! Descriptors, what waits for many of them, and what servers do with them all day.

use std::mem::zeroed;
use std::ptr;

use crate::meter::{Cost, Failure, each};
use crate::rows::Rows;
use crate::scratch::TMPFS;
use crate::sys::{Fd, Pipe, closes, ok};

/// Whether the descriptors that are waited for have something to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Idle,
}

/// Adds the group's rows.
pub fn add(rows: &mut Rows) {
    numbers(rows);
    offsets(rows);
    locks(rows);
    waits(rows);
    events(rows);
}

fn numbers(rows: &mut Rows) {
    // SAFETY: the calls get no pointers, or one to a number that outlives them.
    unsafe {
        rows.add("dup+close", || {
            let zero = Fd::open(c"/dev/zero", libc::O_RDONLY)?;
            each(34_000, || closes(libc::dup(zero.raw())))
        });
        rows.add("fcntl F_GETFL", || {
            let zero = Fd::open(c"/dev/zero", libc::O_RDONLY)?;
            each(70_000, || libc::fcntl(zero.raw(), libc::F_GETFL) >= 0)
        });
        rows.add("ioctl FIONREAD", || {
            let (pipe, mut count) = (Pipe::new()?, 0);
            each(50_000, || libc::ioctl(pipe.from.raw(), libc::FIONREAD, &raw mut count) == 0)
        });
    }
}

fn offsets(rows: &mut Rows) {
    // SAFETY: the pieces' memory outlives the calls.
    unsafe {
        rows.add("lseek", || {
            let scratch = TMPFS.scratch()?;
            let file = scratch.file("file", 4096)?;
            each(80_000, || libc::lseek(file.raw(), 5, libc::SEEK_SET) == 5)
        });
        rows.add("readv 4 pieces", || {
            let zero = Fd::open(c"/dev/zero", libc::O_RDONLY)?;
            let mut word = 0u32;
            let pieces = [libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 4 }; 4];
            each(24_000, || libc::readv(zero.raw(), pieces.as_ptr(), 4) == 16)
        });
        rows.add("writev 4 pieces", || {
            let zero = Fd::open(c"/dev/zero", libc::O_WRONLY)?;
            let mut word = 0u32;
            let pieces = [libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 4 }; 4];
            each(30_000, || libc::writev(zero.raw(), pieces.as_ptr(), 4) == 16)
        });
    }
}

fn locks(rows: &mut Rows) {
    // SAFETY: the locks outlive the calls.
    unsafe {
        rows.add("fcntl lock+unlock", || {
            let scratch = TMPFS.scratch()?;
            let file = scratch.file("file", 4096)?;
            let mut lock: libc::flock = zeroed();
            lock.l_len = 16;
            each(8_000, || {
                lock.l_type = libc::F_WRLCK as i16;
                let is_locked = libc::fcntl(file.raw(), libc::F_SETLK, &lock) == 0;
                lock.l_type = libc::F_UNLCK as i16;
                is_locked && libc::fcntl(file.raw(), libc::F_SETLK, &lock) == 0
            })
        });
        rows.add("flock lock+unlock", || {
            let scratch = TMPFS.scratch()?;
            let file = scratch.file("file", 4096)?;
            each(15_000, || {
                libc::flock(file.raw(), libc::LOCK_EX) == 0
                    && libc::flock(file.raw(), libc::LOCK_UN) == 0
            })
        });
    }
}

fn waits(rows: &mut Rows) {
    type Wait = fn(usize, u64, State) -> Cost;
    let calls: [(&str, Wait); 3] = [("select", select), ("poll", poll), ("epoll_wait", epoll_wait)];
    for (call, wait) in calls {
        for (count, rounds) in [(10, 14_000), (100, 2_400), (1000, 250)] {
            rows.add(format!("{call} {count} descriptors"), move || {
                wait(count, rounds, State::Ready)
            });
            // What nobody is ready for costs `epoll_wait` nothing but the call.
            let rounds = if call == "epoll_wait" { 75_000 } else { rounds };
            rows.add(format!("{call} {count} idle descriptors"), move || {
                wait(count, rounds, State::Idle)
            });
        }
    }
}

/// So many event descriptors.
fn event_fds(count: usize, state: State) -> Result<Vec<Fd>, Failure> {
    let enough = libc::rlimit { rlim_cur: 4096, rlim_max: 4096 };
    // SAFETY: the limit is there.
    ok("setrlimit", unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &enough) })?;
    let value = u32::from(state == State::Ready);
    // SAFETY: no pointers.
    (0..count).map(|_| Fd::new("eventfd", unsafe { libc::eventfd(value, 0) })).collect()
}

/// How many of the descriptors such a call should find ready.
fn expected(count: usize, state: State) -> i32 {
    if state == State::Ready { count as i32 } else { 0 }
}

fn select(count: usize, rounds: u64, state: State) -> Cost {
    let fds = event_fds(count, state)?;
    let (nothing, found) = (ptr::null_mut(), expected(count, state));
    let mut now = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let end = fds.iter().map(Fd::raw).max().unwrap_or(0) + 1;
    // SAFETY: the sets outlive the calls, and the numbers are below `FD_SETSIZE`.
    unsafe {
        let mut all: libc::fd_set = zeroed();
        fds.iter().for_each(|fd| libc::FD_SET(fd.raw(), &mut all));
        each(rounds, || {
            let mut set = all;
            libc::select(end, &mut set, nothing, nothing, &mut now) == found
        })
    }
}

fn poll(count: usize, rounds: u64, state: State) -> Cost {
    let fds = event_fds(count, state)?;
    let wanted = |fd: &Fd| libc::pollfd { fd: fd.raw(), events: libc::POLLIN, revents: 0 };
    let mut list: Vec<libc::pollfd> = fds.iter().map(wanted).collect();
    let (len, found) = (list.len() as u64, expected(count, state));
    // SAFETY: the list is as long as stated.
    each(rounds, || unsafe { libc::poll(list.as_mut_ptr(), len, 0) == found })
}

fn epoll_wait(count: usize, rounds: u64, state: State) -> Cost {
    let fds = event_fds(count, state)?;
    let poller = poller(&fds)?;
    let mut list = vec![libc::epoll_event { events: 0, u64: 0 }; count];
    let (len, found) = (count as i32, expected(count, state));
    // SAFETY: the list is as long as stated.
    each(rounds, || unsafe { libc::epoll_wait(poller.raw(), list.as_mut_ptr(), len, 0) == found })
}

/// An epoll descriptor that waits for these.
fn poller(fds: &[Fd]) -> Result<Fd, Failure> {
    // SAFETY: no pointers.
    let poller = Fd::new("epoll_create1", unsafe { libc::epoll_create1(0) })?;
    for fd in fds {
        ok("epoll_ctl", control(&poller, libc::EPOLL_CTL_ADD, fd))?;
    }
    Ok(poller)
}

/// `epoll_ctl(2)`.
#[inline(always)]
fn control(poller: &Fd, operation: i32, fd: &Fd) -> i32 {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 7 };
    // SAFETY: the event outlives the call.
    unsafe { libc::epoll_ctl(poller.raw(), operation, fd.raw(), &mut event) }
}

fn events(rows: &mut Rows) {
    rows.add("epoll_wait, one ready", || epoll_wait(1, 45_000, State::Ready));
    rows.add("epoll_ctl mod", || {
        let fds = event_fds(1, State::Ready)?;
        let poller = poller(&fds)?;
        each(46_000, || control(&poller, libc::EPOLL_CTL_MOD, &fds[0]) == 0)
    });
    rows.add("epoll_ctl add+del", || {
        let fds = event_fds(1, State::Idle)?;
        let poller = poller(&[])?;
        each(12_000, || {
            control(&poller, libc::EPOLL_CTL_ADD, &fds[0]) == 0
                && control(&poller, libc::EPOLL_CTL_DEL, &fds[0]) == 0
        })
    });
    rows.add("eventfd write+read", || {
        let fds = event_fds(1, State::Idle)?;
        let (one, mut count) = (1u64.to_ne_bytes(), [0; 8]);
        each(20_000, || fds[0].put_all(&one) && fds[0].take_some(&mut count) == 8)
    });
}
