//! System calls that do little: what remains is the way into the kernel and back. The clocks that the
//! vDSO reads do not even go there.

use std::mem::zeroed;
use std::ptr;

use crate::meter::each;
use crate::rows::Rows;
use crate::sys::Fd;

/// Adds the group's rows.
pub fn add(rows: &mut Rows) {
    identity(rows);
    clocks(rows);
    devices(rows);
    process(rows);
    machine(rows);
}

fn identity(rows: &mut Rows) {
    // SAFETY: calls without pointers.
    unsafe {
        rows.add("getppid", || each(100_000, || libc::syscall(libc::SYS_getppid) > 0));
        rows.add("getuid", || {
            let me = libc::getuid();
            each(100_000, || libc::getuid() == me)
        });
    }
}

fn clocks(rows: &mut Rows) {
    for (name, clock, count) in [
        ("clock_gettime realtime", libc::CLOCK_REALTIME, 400_000),
        ("clock_gettime monotonic", libc::CLOCK_MONOTONIC, 400_000),
        ("clock_gettime coarse", libc::CLOCK_MONOTONIC_COARSE, 500_000),
        ("clock_gettime of the process", libc::CLOCK_PROCESS_CPUTIME_ID, 35_000),
    ] {
        rows.add(name, move || {
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the time is there.
            each(count, || unsafe { libc::clock_gettime(clock, &mut time) == 0 })
        });
    }
    // SAFETY: the calls get pointers to buffers that outlive them, or null.
    unsafe {
        rows.add("clock_gettime by system call", || {
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let (number, clock) = (libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC);
            each(75_000, || libc::syscall(number, clock, &raw mut time) == 0)
        });
        rows.add("getcpu", || each(1_500_000, || libc::sched_getcpu() >= 0));
    }
}

fn devices(rows: &mut Rows) {
    rows.add("read 1 byte of /dev/zero", || {
        let zero = Fd::open(c"/dev/zero", libc::O_RDONLY)?;
        each(50_000, || zero.take())
    });
    rows.add("write 1 byte to /dev/null", || {
        let null = Fd::open(c"/dev/null", libc::O_WRONLY)?;
        each(50_000, || null.put())
    });
    rows.add("getrandom 16 B", || {
        let mut room = [0u8; 16];
        // SAFETY: the room is as long as stated.
        each(16_000, || unsafe { libc::getrandom(room.as_mut_ptr().cast(), 16, 0) == 16 })
    });
}

fn process(rows: &mut Rows) {
    // SAFETY: the calls get pointers to buffers that outlive them, or null.
    unsafe {
        rows.add("getrusage", || {
            let mut usage: libc::rusage = zeroed();
            each(30_000, || libc::getrusage(libc::RUSAGE_SELF, &mut usage) == 0)
        });
        rows.add("times", || {
            let mut times: libc::tms = zeroed();
            each(36_000, || libc::times(&mut times) != -1)
        });
        rows.add("prctl PR_GET_NAME", || {
            let mut name = [0u8; 16];
            each(56_000, || libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) == 0)
        });
        rows.add("sigprocmask twice", || {
            let mut mask: libc::sigset_t = zeroed();
            libc::sigaddset(&mut mask, libc::SIGUSR2);
            each(36_000, || {
                libc::sigprocmask(libc::SIG_BLOCK, &mask, ptr::null_mut()) == 0
                    && libc::sigprocmask(libc::SIG_UNBLOCK, &mask, ptr::null_mut()) == 0
            })
        });
        rows.add("sched_getaffinity", || {
            let mut set: libc::cpu_set_t = zeroed();
            let len = size_of_val(&set);
            each(34_000, || libc::sched_getaffinity(0, len, &mut set) == 0)
        });
    }
}

fn machine(rows: &mut Rows) {
    // SAFETY: the calls get pointers to buffers that outlive them.
    unsafe {
        rows.add("uname", || {
            let mut names: libc::utsname = zeroed();
            each(56_000, || libc::uname(&mut names) == 0)
        });
        rows.add("sysinfo", || {
            let mut info: libc::sysinfo = zeroed();
            each(46_000, || libc::sysinfo(&mut info) == 0)
        });
    }
}
