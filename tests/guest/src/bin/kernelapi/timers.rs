//! POSIX timers, interval timers, `RLIMIT_CPU`, timerfd, eventfd.

use crate::show;
use crate::signals::{block, set_of};
use std::mem::zeroed;
use std::ptr;

const MILLI: i64 = 1_000_000;

fn spec(ns: i64) -> libc::timespec {
    libc::timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 }
}

fn setting(first: i64, period: i64) -> libc::itimerspec {
    libc::itimerspec { it_interval: spec(period), it_value: spec(first) }
}

fn nanoseconds(t: &libc::timespec) -> i64 {
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}

fn now(clock: i32) -> i64 {
    let mut t = spec(0);
    // SAFETY: a valid timespec.
    unsafe { libc::clock_gettime(clock, &mut t) };
    nanoseconds(&t)
}

fn sleep_ms(ms: u64) {
    std::thread::sleep(std::time::Duration::from_millis(ms));
}

/// Uses processor time, nearly all of it in user mode.
fn burn(ms: i64) {
    let end = now(libc::CLOCK_THREAD_CPUTIME_ID) + ms * MILLI;
    while now(libc::CLOCK_THREAD_CPUTIME_ID) < end {
        for n in 0..100_000 {
            std::hint::black_box(n);
        }
    }
}

/// Waits up to two seconds for one of the signals; prints its record.
fn take(what: &str, signals: &[i32]) {
    // SAFETY: valid structures.
    unsafe {
        let mut info: libc::siginfo_t = zeroed();
        let got = libc::sigtimedwait(&set_of(signals), &mut info, &spec(2000 * MILLI));
        if got < 0 {
            println!("{what}: {}", crate::errno_name());
        } else if info.si_code == libc::SI_TIMER {
            let words: [u32; 8] = std::mem::transmute_copy(&info);
            let overran = if words[5] == 0 { "no" } else { "some" };
            println!("{what}: signal {got} timer, {overran} overrun, value {}", words[6]);
        } else {
            println!("{what}: signal {got} code {}", info.si_code);
        }
    }
}

unsafe fn create(
    clock: i32,
    kind: i32,
    signal: i32,
    value: usize,
    tid: i32,
) -> Option<libc::timer_t> {
    // SAFETY: valid structures.
    unsafe {
        let mut event: libc::sigevent = zeroed();
        event.sigev_notify = kind;
        event.sigev_signo = signal;
        event.sigev_value = libc::sigval { sival_ptr: value as *mut _ };
        event.sigev_notify_thread_id = tid;
        let mut id = 0i32;
        let result = libc::syscall(libc::SYS_timer_create, clock, &mut event, &mut id);
        if result < 0 {
            println!(
                "timer_create clock {clock} kind {kind} signal {signal}: {}",
                crate::errno_name()
            );
            return None;
        }
        Some(id as usize as libc::timer_t)
    }
}

unsafe fn set(id: libc::timer_t, flags: i32, first: i64, period: i64) -> i64 {
    // SAFETY: valid structures.
    unsafe {
        libc::syscall(
            libc::SYS_timer_settime,
            id as i32,
            flags,
            &setting(first, period),
            ptr::null::<u8>(),
        )
    }
}

unsafe fn get(id: libc::timer_t) -> (i64, i64) {
    // SAFETY: valid structures.
    unsafe {
        let mut value = setting(0, 0);
        libc::syscall(libc::SYS_timer_gettime, id as i32, &mut value);
        (nanoseconds(&value.it_value), nanoseconds(&value.it_interval))
    }
}

unsafe fn overrun(id: libc::timer_t) -> i64 {
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_timer_getoverrun, id as i32) }
}

unsafe fn delete(id: libc::timer_t) -> i64 {
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_timer_delete, id as i32) }
}

unsafe fn posix() {
    // SAFETY: the helpers pass valid structures.
    unsafe {
        let tid = libc::gettid();
        create(99, libc::SIGEV_SIGNAL, 10, 0, 0);
        create(libc::CLOCK_MONOTONIC_RAW, libc::SIGEV_SIGNAL, 10, 0, 0);
        create(libc::CLOCK_MONOTONIC, 77, 10, 0, 0);
        create(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, 65, 0, 0);
        create(libc::CLOCK_MONOTONIC, libc::SIGEV_THREAD_ID, 10, 0, 1);
        show("no timer", set(77 as libc::timer_t, 0, 1, 0));
        show("delete none", delete(77 as libc::timer_t));
        let clocks =
            [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME, libc::CLOCK_TAI];
        for clock in clocks {
            let Some(id) = create(clock, libc::SIGEV_SIGNAL, libc::SIGUSR1, 5, 0) else { continue };
            println!("disarmed: {:?}", get(id));
            show("relative", set(id, 0, 20 * MILLI, 0));
            let (left, period) = get(id);
            println!("left {} period {period}", left > 0 && left <= 20 * MILLI);
            take("expired", &[libc::SIGUSR1]);
            println!("after: {:?} overrun {}", get(id), overrun(id));
            show("absolute", set(id, libc::TIMER_ABSTIME, now(clock) + 20 * MILLI, 0));
            take("expired", &[libc::SIGUSR1]);
            show("past", set(id, libc::TIMER_ABSTIME, now(clock) - 20 * MILLI, 0));
            take("expired", &[libc::SIGUSR1]);
            show("bad value", set(id, 0, -1, 0));
            show("delete", delete(id));
            show("again", delete(id));
        }
        // Periods that nobody waits for.
        if let Some(id) =
            create(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, libc::SIGRTMIN() + 1, 6, 0)
        {
            set(id, 0, 5 * MILLI, 5 * MILLI);
            sleep_ms(100);
            take("periodic", &[libc::SIGRTMIN() + 1]);
            println!("overrun {}", (10..100).contains(&overrun(id)));
            take("periodic again", &[libc::SIGRTMIN() + 1]);
            let (left, period) = get(id);
            println!("left {} period {period}", left > 0 && left <= 5 * MILLI);
            delete(id);
        }
        if let Some(id) = create(libc::CLOCK_MONOTONIC, libc::SIGEV_NONE, 0, 0, 0) {
            set(id, 0, 30 * MILLI, 0);
            println!("silent running: {}", get(id).0 > 0);
            sleep_ms(60);
            println!("silent over: {:?}", get(id));
            set(id, 0, 30 * MILLI, 40 * MILLI);
            sleep_ms(60);
            println!("silent period: {}", (1..=40 * MILLI).contains(&get(id).0));
            delete(id);
        }
        if let Some(id) =
            create(libc::CLOCK_MONOTONIC, libc::SIGEV_THREAD_ID, libc::SIGUSR2, 9, tid)
        {
            set(id, 0, 10 * MILLI, 0);
            take("to a thread", &[libc::SIGUSR2]);
            delete(id);
        }
        for clock in [libc::CLOCK_PROCESS_CPUTIME_ID, libc::CLOCK_THREAD_CPUTIME_ID] {
            let Some(id) = create(clock, libc::SIGEV_SIGNAL, libc::SIGUSR1, 4, 0) else { continue };
            let start = now(clock);
            set(id, 0, 50 * MILLI, 0);
            sleep_ms(100);
            println!("asleep: {}", (1..=50 * MILLI).contains(&get(id).0));
            burn(80);
            take("cpu", &[libc::SIGUSR1]);
            println!("not early: {}", now(clock) - start >= 50 * MILLI);
            println!("over: {:?}", get(id));
            delete(id);
            // Many by one clock, set in no order; one is set anew, one disarmed, one deleted.
            let signal = libc::SIGRTMIN() + 2;
            let make = |turn: usize| {
                let id = create(clock, libc::SIGEV_SIGNAL, signal, turn, 0)?;
                set(id, 0, 10 * MILLI * (1 + turn as i64), 0);
                Some(id)
            };
            let many: Vec<_> = [5, 2, 7, 1, 9, 3, 8, 4, 6].into_iter().filter_map(make).collect();
            let [_, two, seven, .., eight, _, six] = many[..] else { continue };
            set(two, 0, 150 * MILLI, 0);
            set(seven, 0, 0, 0);
            delete(eight);
            burn(200);
            (0..8).for_each(|_| take("many", &[signal]));
            println!("set and gone: {:?} {:?} {:?}", get(two), get(seven), get(six));
            many.into_iter().filter(|id| *id != eight).for_each(|id| {
                delete(id);
            });
        }
        in_its_own_room();
        // Default value and signal; gone after fork, deleted at exec.
        let mut id = 0i32;
        libc::syscall(libc::SYS_timer_create, libc::CLOCK_MONOTONIC, ptr::null::<u8>(), &mut id);
        set(id as usize as libc::timer_t, 0, MILLI, 0);
        let mut info: libc::siginfo_t = zeroed();
        let got = libc::sigtimedwait(&set_of(&[libc::SIGALRM]), &mut info, &spec(2000 * MILLI));
        let words: [u32; 8] = std::mem::transmute_copy(&info);
        println!("default: {got}, the timer's number {}", words[6] == id as u32);
        let child = libc::fork();
        if child == 0 {
            libc::_exit((delete(id as usize as libc::timer_t) == -1).into());
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        println!("child has none: {}", status >> 8);
        delete(id as usize as libc::timer_t);
    }
}

/// A timer counts against `RLIMIT_SIGPENDING`; its signal needs no more than that.
unsafe fn in_its_own_room() {
    // SAFETY: the helpers pass valid structures; the child works on its own data.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::setrlimit(libc::RLIMIT_SIGPENDING, &libc::rlimit { rlim_cur: 1, rlim_max: 1 });
            let signal = libc::SIGRTMIN() + 1;
            let Some(id) = create(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, signal, 8, 0) else {
                libc::_exit(1)
            };
            create(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, signal, 9, 0);
            set(id, 0, 5 * MILLI, 0);
            take("at the limit", &[signal]);
            // Set anew with the signal of the last time still there: one is all there is room for.
            for _ in 0..3 {
                set(id, 0, MILLI, 0);
                sleep_ms(20);
            }
            let mut info: libc::siginfo_t = zeroed();
            let mut next = || libc::sigtimedwait(&set_of(&[signal]), &mut info, &spec(50 * MILLI));
            println!("pending: {} {}", next() == signal, next() == signal);
            set(id, 0, 5 * MILLI, 0);
            take("and once more", &[signal]);
            libc::_exit(0);
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        println!("in its own room: {status}");
    }
}

fn interval(which: u32, first: i64, period: i64) {
    let part =
        |ns: i64| libc::timeval { tv_sec: ns / 1_000_000_000, tv_usec: ns % 1_000_000_000 / 1000 };
    let value = libc::itimerval { it_interval: part(period), it_value: part(first) };
    // SAFETY: a valid structure.
    let result = unsafe { libc::syscall(libc::SYS_setitimer, which, &value, ptr::null::<u8>()) };
    show("setitimer", result);
}

fn intervals() {
    interval(7, MILLI, 0);
    interval(0, -MILLI * 5000, 0);
    interval(0, 20 * MILLI, 20 * MILLI);
    take("real", &[libc::SIGALRM]);
    take("real", &[libc::SIGALRM]);
    interval(0, 0, 20 * MILLI);
    // SAFETY: a valid structure.
    unsafe {
        let mut value: libc::itimerval = zeroed();
        libc::syscall(libc::SYS_getitimer, 0, &mut value);
        println!("off: {} {}", value.it_value.tv_usec, value.it_interval.tv_usec);
    }
    for (which, signal) in [(1, libc::SIGVTALRM), (2, libc::SIGPROF)] {
        interval(which, 30 * MILLI, 30 * MILLI);
        burn(200);
        take("counted", &[signal]);
        burn(200);
        take("counted", &[signal]);
        interval(which, 0, 0);
    }
}

fn cpu_limit() {
    // SAFETY: the child works on its own data.
    unsafe {
        for hard in [2, 3] {
            let child = libc::fork();
            if child == 0 {
                let limit = libc::rlimit { rlim_cur: 1, rlim_max: hard };
                libc::setrlimit(libc::RLIMIT_CPU, &limit);
                if hard == 3 {
                    libc::signal(libc::SIGXCPU, libc::SIG_IGN);
                }
                loop {
                    burn(10);
                }
            }
            let mut status = 0;
            let mut usage: libc::rusage = zeroed();
            libc::wait4(child, &mut status, 0, &mut usage);
            let part = |t: libc::timeval| t.tv_sec * 1000 + t.tv_usec / 1000;
            let used = part(usage.ru_utime) + part(usage.ru_stime);
            println!("limit {hard}: signal {} after {} s", status & 0x7f, (used + 500) / 1000);
        }
    }
}

/// A timer with a period that no reader keeps up with, and what an edge-triggered epoll says of it.
fn unread(fd: i32) {
    // SAFETY: system calls on local data.
    unsafe {
        let mut ticks = 0u64;
        let at = (&raw mut ticks).cast();
        let epoll = libc::epoll_create1(0);
        let mut event =
            libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 7 };
        libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event);
        libc::timerfd_settime(fd, 0, &setting(1000, 1000), ptr::null_mut());
        show("first edge", libc::epoll_wait(epoll, &mut event, 1, 2000).into());
        show("no edge unread", libc::epoll_wait(epoll, &mut event, 1, 100).into());
        burn(20);
        show("read", libc::read(fd, at, 8) as i64);
        println!("many ticks {}", (100_000..60_000_000).contains(&ticks));
        show("next edge", libc::epoll_wait(epoll, &mut event, 1, 2000).into());
        libc::close(epoll);
        libc::timerfd_settime(fd, 0, &setting(MILLI, 400 * MILLI), ptr::null_mut());
        sleep_ms(450);
        let mut now = setting(0, 0);
        libc::timerfd_gettime(fd, &mut now);
        println!("left {}", (1..=400 * MILLI).contains(&now.it_value.tv_nsec));
        show("read both", libc::read(fd, at, 8) as i64);
        println!("ticks {}", (2..5).contains(&ticks));
        libc::timerfd_settime(fd, 0, &setting(0, 0), ptr::null_mut());
    }
}

fn descriptors() {
    // SAFETY: system calls on local data.
    unsafe {
        show("clock", libc::timerfd_create(99, 0).into());
        show("flags", libc::timerfd_create(libc::CLOCK_MONOTONIC, 1).into());
        let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK);
        let mut ticks = 0u64;
        let at = (&raw mut ticks).cast();
        show("early", libc::read(fd, at, 8) as i64);
        libc::timerfd_settime(fd, 0, &setting(10 * MILLI, 10 * MILLI), ptr::null_mut());
        sleep_ms(55);
        show("read", libc::read(fd, at, 8) as i64);
        println!("ticks {}", (4..10).contains(&ticks));
        show("short", libc::read(fd, at, 4) as i64);
        let mut old = setting(0, 0);
        show("disarm", libc::timerfd_settime(fd, 0, &setting(0, 0), &mut old).into());
        println!("old period {} left {}", old.it_interval.tv_nsec, old.it_value.tv_nsec > 0);
        unread(fd);
        show("wrong flags", libc::timerfd_settime(fd, 8, &setting(0, 0), ptr::null_mut()).into());
        show("not one", libc::timerfd_settime(0, 0, &setting(0, 0), ptr::null_mut()).into());
        let real = libc::timerfd_create(libc::CLOCK_REALTIME, libc::TFD_NONBLOCK);
        let far = setting(now(libc::CLOCK_REALTIME) + 3_600_000 * MILLI, 0);
        show("watch the clock", libc::timerfd_settime(real, 3, &far, ptr::null_mut()).into());
        show("unset", libc::read(real, at, 8) as i64);
        let t = spec(now(libc::CLOCK_REALTIME));
        libc::clock_settime(libc::CLOCK_REALTIME, &t);
        let mut entry = libc::pollfd { fd: real, events: libc::POLLIN, revents: 0 };
        show("ready", libc::poll(&mut entry, 1, 1000).into());
        let result = libc::read(real, at, 8);
        println!(
            "cancelled {result} {}",
            std::io::Error::last_os_error().raw_os_error() == Some(libc::ECANCELED)
        );

        let fd = libc::eventfd(3, libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE);
        show("semaphore", libc::read(fd, at, 8) as i64);
        println!("one: {ticks}");
        let plain = libc::eventfd(0, libc::EFD_NONBLOCK);
        show("empty", libc::read(plain, at, 8) as i64);
        let value = 5u64;
        show("write", libc::write(plain, (&raw const value).cast(), 8) as i64);
        show("write", libc::write(plain, (&raw const value).cast(), 8) as i64);
        show("read", libc::read(plain, at, 8) as i64);
        println!("sum: {ticks}");
        show("eventfd flags", libc::eventfd(0, 2).into());
    }
}

/// Runs one part.
pub fn run(part: &str) {
    block(&[
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGRTMIN() + 1,
    ]);
    match part {
        // SAFETY: see there.
        "posix" => unsafe { posix() },
        "interval" => intervals(),
        "limit" => cpu_limit(),
        _ => descriptors(),
    }
}
