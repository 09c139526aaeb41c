//! Eaters of kernel memory: each asks for one kind of object until the kernel says no.

use std::ptr;

/// What was said, and whether about as often as `expected` objects were had before.
fn report(name: &str, had: usize, about: usize) {
    let why = std::io::Error::last_os_error();
    let is_about = had + had / 50 + 40 >= about && had <= about + about / 50 + 40;
    println!("{name}: {} after about {about}: {is_about}", why.raw_os_error().unwrap_or(0));
    if !is_about {
        println!("  {had}");
    }
}

fn many(limit: usize, mut make: impl FnMut(usize) -> bool) -> usize {
    (0..limit).take_while(|&index| make(index)).count()
}

/// Runs every eater in a child, with `files` descriptors allowed, as `user` if it is not 0.
pub(crate) fn run(files: u64, user: u32) {
    let eaters: [(&str, fn()); 8] = [
        ("maps", maps),
        ("pipes", pipes),
        ("inotify", inotify),
        ("watches", watches),
        ("epoll", epoll),
        ("timers", timers),
        ("signals", signals),
        ("memfd", memfds),
    ];
    for (name, eater) in eaters {
        // SAFETY: the child leaves by _exit.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                let bound = libc::rlimit { rlim_cur: files, rlim_max: files };
                libc::setrlimit(libc::RLIMIT_NOFILE, &bound);
                let few = libc::rlimit { rlim_cur: 1000, rlim_max: 1000 };
                libc::setrlimit(libc::RLIMIT_SIGPENDING, &few);
                if user != 0 {
                    libc::setgid(user);
                    libc::setuid(user);
                }
                eater();
                libc::_exit(0);
            }
            let mut status = 0;
            libc::waitpid(child, &mut status, 0);
            println!("{name} ended with {status}");
        }
    }
}

fn maps() {
    let had = many(100_000, |index| {
        let prot = if index % 2 == 0 { libc::PROT_READ } else { libc::PROT_NONE };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh mapping.
        unsafe { libc::mmap(ptr::null_mut(), 4096, prot, flags, -1, 0) != libc::MAP_FAILED }
    });
    report("maps", had, 65530);
}

fn pipes() {
    let had = many(100_000, |_| {
        let mut ends = [0; 2];
        // SAFETY: the pointers are valid; what does not fit is not waited for.
        unsafe {
            if libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK) != 0 {
                return false;
            }
            while libc::write(ends[1], [7u8; 4096].as_ptr().cast(), 4096) > 0 {}
            true
        }
    });
    report("pipes", had, 2000);
}

fn inotify() {
    // SAFETY: a plain call.
    let had = many(100_000, |_| unsafe { libc::inotify_init() >= 0 });
    report("inotify", had, 128);
}

fn watches() {
    // SAFETY: plain calls; the paths are C strings.
    unsafe {
        let instance = libc::inotify_init();
        let had = many(3000, |index| {
            let path = std::ffi::CString::new(format!("/tmp/w{index}")).expect("no NUL");
            libc::close(libc::open(path.as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600));
            libc::inotify_add_watch(instance, path.as_ptr(), libc::IN_ALL_EVENTS) > 0
        });
        println!("watches {had}");
        for index in 0..had {
            let path = std::ffi::CString::new(format!("/tmp/w{index}")).expect("no NUL");
            libc::unlink(path.as_ptr());
        }
    }
}

fn epoll() {
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let mut last = libc::epoll_create1(0);
        let had = many(100_000, |_| {
            let next = libc::epoll_create1(0);
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
            if next < 0 || libc::epoll_ctl(next, libc::EPOLL_CTL_ADD, last, &mut event) != 0 {
                return false;
            }
            last = next;
            true
        });
        report("nested epoll", had, 4);
        let hub = libc::epoll_create1(0);
        let had = many(100_000, |_| {
            let one = libc::eventfd(0, 0);
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
            one >= 0 && libc::epoll_ctl(hub, libc::EPOLL_CTL_ADD, one, &mut event) == 0
        });
        report("watched eventfds", had, 4000);
    }
}

fn timers() {
    let had = many(100_000, |_| {
        let mut id: libc::timer_t = ptr::null_mut();
        // SAFETY: the pointers are valid or null.
        unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, ptr::null_mut(), &mut id) == 0 }
    });
    report("timers", had, 1000);
}

fn signals() {
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut());
        let value = libc::sigval { sival_ptr: ptr::null_mut() };
        let had = many(100_000, |_| libc::sigqueue(libc::getpid(), libc::SIGRTMIN(), value) == 0);
        report("signals", had, 1000);
    }
}

fn memfds() {
    // SAFETY: plain calls.
    let had = many(100_000, |_| unsafe {
        let fd = libc::memfd_create(c"m".as_ptr(), 0);
        fd >= 0 && libc::ftruncate(fd, 1 << 40) == 0
    });
    report("memfd", had, 4000);
}
