//! Cost of single kernel operations, in nanoseconds of the guest's clock.
//!
//! Under QEMU's `-icount shift=0` that clock counts instructions, so a row repeats to 0.1 %.
//! `microbench [WORD]...` prints `name<TAB>cost` for every row whose name contains a word.
//!
//! Plain libc calls and no helpers between the clock and the kernel: what is measured is the
//! system call, not a wrapper.

use std::ffi::CString;
use std::ptr;

const PAGE: usize = 4096;

/// Time of the guest's monotonic clock.
fn now_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Starts a measurement. The instruction does nothing; `tools/profiler` counts from here.
fn begin() -> u64 {
    // SAFETY: exchanges a register with itself.
    unsafe { std::arch::asm!("xchg bx, bx", options(nomem, nostack, preserves_flags)) };
    now_ns()
}

/// Ends a measurement that began at `start`; its length.
fn end(start: u64) -> u64 {
    let elapsed_ns = now_ns() - start;
    // SAFETY: exchanges a register with itself.
    unsafe { std::arch::asm!("xchg cx, cx", options(nomem, nostack, preserves_flags)) };
    elapsed_ns
}

/// Runs `body` `count` times after a warm-up and prints the mean cost.
struct Bench {
    words: Vec<String>,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|w| name.contains(w.as_str()))
    }

    fn row(&self, name: &str, count: u64, mut body: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        for _ in 0..(count / 8).max(2) {
            body();
        }
        let start = begin();
        for _ in 0..count {
            body();
        }
        self.report(name, end(start), count);
    }

    fn report(&self, name: &str, elapsed_ns: u64, count: u64) {
        println!("{name}\t{:.1}", elapsed_ns as f64 / count as f64);
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|w| w == "--exit") {
        return;
    }
    let bench = Bench { words };
    // SAFETY: every call below passes valid pointers to buffers that outlive it.
    unsafe {
        entry(&bench);
        files(&bench, "tmpfs", "/dev/shm/microbench");
        files(&bench, "ext4", "/var/tmp/microbench");
        memory(&bench);
        processes(&bench);
        switches(&bench);
        descriptors(&bench);
        names(&bench);
    }
}

unsafe fn entry(bench: &Bench) {
    unsafe {
        bench.row("getppid", 20_000, || {
            libc::syscall(libc::SYS_getppid);
        });
        for (name, clock) in [
            ("clock_gettime realtime", libc::CLOCK_REALTIME),
            ("clock_gettime monotonic", libc::CLOCK_MONOTONIC),
            ("clock_gettime of the process", libc::CLOCK_PROCESS_CPUTIME_ID),
        ] {
            let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            bench.row(name, 20_000, || {
                libc::clock_gettime(clock, &mut t);
            });
        }
        bench.row("getcpu", 20_000, || {
            libc::sched_getcpu();
        });
        let mut byte = 0u8;
        let buffer = ptr::from_mut(&mut byte).cast();
        let zero = open("/dev/zero", libc::O_RDONLY);
        bench.row("read 1 byte of /dev/zero", 10_000, || {
            libc::read(zero, buffer, 1);
        });
        let null = open("/dev/null", libc::O_WRONLY);
        bench.row("write 1 byte to /dev/null", 10_000, || {
            libc::write(null, buffer, 1);
        });
        bench.row("signal install", 5_000, || {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            libc::sigaction(libc::SIGUSR2, &action, ptr::null_mut());
        });
        libc::signal(libc::SIGUSR1, on_signal as *const () as usize);
        let (pid, tid) = (libc::getpid(), libc::syscall(libc::SYS_gettid));
        bench.row("signal delivery", 3_000, || {
            libc::syscall(libc::SYS_tgkill, pid, tid, libc::SIGUSR1);
        });
        let mut ready = [libc::pollfd { fd: zero, events: libc::POLLIN, revents: 0 }; 10];
        bench.row("poll 10 descriptors", 5_000, || {
            libc::poll(ready.as_mut_ptr(), 10, 0);
        });
        libc::close(zero);
        libc::close(null);
    }
}

extern "C" fn on_signal(_: libc::c_int) {}

unsafe fn files(bench: &Bench, kind: &str, path: &str) {
    let name = |what: &str| format!("{kind} {what}");
    let file = CString::new(path).expect("no NUL");
    let other = CString::new(format!("{path}.new")).expect("no NUL");
    unsafe {
        let fd = open(path, libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC);
        let mut data = vec![7u8; 1 << 20];
        libc::write(fd, data.as_ptr().cast(), data.len());

        bench.row(&name("open+close"), 5_000, || {
            libc::close(libc::open(file.as_ptr(), libc::O_RDONLY));
        });
        let mut stat: libc::stat = std::mem::zeroed();
        bench.row(&name("stat"), 5_000, || {
            libc::stat(file.as_ptr(), &mut stat);
        });
        bench.row(&name("fstat"), 5_000, || {
            libc::fstat(fd, &mut stat);
        });
        let missing = CString::new(format!("{path}.missing")).expect("no NUL");
        bench.row(&name("stat of a missing file"), 5_000, || {
            libc::stat(missing.as_ptr(), &mut stat);
        });
        for (label, len, count) in
            [("pread 1 B", 1, 10_000), ("pread 4 KiB", PAGE, 5_000), ("pread 1 MiB", 1 << 20, 50)]
        {
            bench.row(&name(label), count, || {
                libc::pread(fd, data.as_mut_ptr().cast(), len, 0);
            });
        }
        for (label, len, count) in [("pwrite 1 B", 1, 10_000), ("pwrite 4 KiB", PAGE, 3_000)] {
            bench.row(&name(label), count, || {
                libc::pwrite(fd, data.as_ptr().cast(), len, 0);
            });
        }
        bench.row(&name("create+unlink"), 1_000, || {
            libc::close(libc::open(other.as_ptr(), libc::O_WRONLY | libc::O_CREAT, 0o644));
            libc::unlink(other.as_ptr());
        });
        bench.row(&name("create+write 10 KiB+unlink"), 300, || {
            let fd = libc::open(other.as_ptr(), libc::O_WRONLY | libc::O_CREAT, 0o644);
            libc::write(fd, data.as_ptr().cast(), 10240);
            libc::close(fd);
            libc::unlink(other.as_ptr());
        });
        bench.row(&name("rename"), 1_000, || {
            libc::rename(file.as_ptr(), other.as_ptr());
            libc::rename(other.as_ptr(), file.as_ptr());
        });
        if bench.wants(&name("file page fault")) {
            let (pages, rounds) = (256, 10);
            let mut elapsed = 0;
            for _ in 0..rounds {
                let base = map(pages * PAGE, libc::PROT_READ, libc::MAP_PRIVATE, fd);
                let start = begin();
                touch(base, pages, false);
                elapsed += end(start);
                libc::munmap(base.cast(), pages * PAGE);
            }
            bench.report(&name("file page fault"), elapsed, pages as u64 * rounds);
        }
        libc::close(fd);
        libc::unlink(file.as_ptr());
    }
}

unsafe fn memory(bench: &Bench) {
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    unsafe {
        bench.row("mmap+munmap 64 KiB", 5_000, || {
            let base = map(16 * PAGE, rw, anonymous, -1);
            libc::munmap(base.cast(), 16 * PAGE);
        });
        let area = map(16 * PAGE, rw, anonymous, -1);
        touch(area, 16, true);
        bench.row("mprotect 64 KiB", 5_000, || {
            libc::mprotect(area.cast(), 16 * PAGE, libc::PROT_READ);
            libc::mprotect(area.cast(), 16 * PAGE, rw);
        });
        libc::munmap(area.cast(), 16 * PAGE);
        for (label, pages, rounds) in
            [("anonymous page fault", 256, 10), ("anonymous fault, large area", 4096, 2)]
        {
            if !bench.wants(label) {
                continue;
            }
            let mut elapsed = 0;
            for _ in 0..rounds {
                let base = map(pages * PAGE, rw, anonymous, -1);
                let start = begin();
                touch(base, pages, true);
                elapsed += end(start);
                libc::munmap(base.cast(), pages * PAGE);
            }
            bench.report(label, elapsed, (pages * rounds) as u64);
        }
        if bench.wants("copy-on-write fault") {
            let (pages, rounds) = (256, 10);
            let base = map(pages * PAGE, rw, anonymous, -1);
            touch(base, pages, true);
            let mut elapsed = 0;
            for _ in 0..rounds {
                let child = libc::fork();
                if child == 0 {
                    libc::pause();
                    libc::_exit(0);
                }
                let start = begin();
                touch(base, pages, true);
                elapsed += end(start);
                libc::kill(child, libc::SIGKILL);
                libc::waitpid(child, ptr::null_mut(), 0);
            }
            bench.report("copy-on-write fault", elapsed, (pages * rounds) as u64);
        }
        let area = map(16 * PAGE, rw, anonymous, -1);
        bench.row("madvise DONTNEED+touch", 3_000, || {
            libc::madvise(area.cast(), 16 * PAGE, libc::MADV_DONTNEED);
            touch(area, 1, true);
        });
        libc::munmap(area.cast(), 16 * PAGE);
        bench.row("brk grow+shrink 64 KiB", 3_000, || {
            let end = libc::sbrk(0);
            libc::brk(end.byte_add(16 * PAGE));
            libc::brk(end);
        });
    }
}

unsafe fn processes(bench: &Bench) {
    let myself = std::env::current_exe().expect("own path");
    let path = CString::new(myself.to_string_lossy().into_owned()).expect("no NUL");
    let flag = CString::new("--exit").expect("no NUL");
    let words = [path.as_ptr(), flag.as_ptr(), ptr::null()];
    let environment = [ptr::null()];
    unsafe {
        bench.row("fork+exit", 200, || {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(0);
            }
            libc::waitpid(child, ptr::null_mut(), 0);
        });
        bench.row("fork+exec", 100, || {
            let child = libc::fork();
            if child == 0 {
                libc::execve(path.as_ptr(), words.as_ptr(), environment.as_ptr());
                libc::_exit(1);
            }
            libc::waitpid(child, ptr::null_mut(), 0);
        });
        bench.row("fork+exec /bin/true", 50, || {
            let child = libc::fork();
            if child == 0 {
                let arguments = [c"/bin/true".as_ptr(), ptr::null()];
                libc::execve(arguments[0], arguments.as_ptr(), environment.as_ptr());
                libc::_exit(1);
            }
            libc::waitpid(child, ptr::null_mut(), 0);
        });
        let none: [*mut libc::c_char; 1] = [ptr::null_mut()];
        bench.row("posix_spawn", 100, || {
            let (mut child, words) = (0, words.as_ptr().cast());
            let (actions, attributes) = (ptr::null(), ptr::null());
            libc::posix_spawn(&mut child, path.as_ptr(), actions, attributes, words, none.as_ptr());
            libc::waitpid(child, ptr::null_mut(), 0);
        });
        if bench.wants("fork+exit of 64 MiB") {
            let len = 64 << 20;
            let rw = libc::PROT_READ | libc::PROT_WRITE;
            let base = map(len, rw, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
            touch(base, len / PAGE, true);
            bench.row("fork+exit of 64 MiB", 20, || {
                let child = libc::fork();
                if child == 0 {
                    libc::_exit(0);
                }
                libc::waitpid(child, ptr::null_mut(), 0);
            });
            libc::munmap(base.cast(), len);
        }
        bench.row("thread create+join", 300, || {
            let _ = std::thread::spawn(|| ()).join();
        });
    }
}

unsafe fn switches(bench: &Bench) {
    unsafe {
        let mut byte = 0u8;
        let buffer: *mut libc::c_void = ptr::from_mut(&mut byte).cast();
        let (near, far) = (pipe(), pipe());
        bench.row("pipe write+read", 5_000, || {
            libc::write(near[1], buffer, 1);
            libc::read(near[0], buffer, 1);
        });
        if bench.wants("context switch over pipes") {
            let child = libc::fork();
            if child == 0 {
                libc::close(near[1]);
                while libc::read(near[0], buffer, 1) == 1 {
                    libc::write(far[1], buffer, 1);
                }
                libc::_exit(0);
            }
            libc::close(near[0]);
            let exchange = || {
                libc::write(near[1], buffer, 1);
                libc::read(far[0], buffer, 1);
            };
            (0..100).for_each(|_| exchange());
            let (rounds, start) = (3_000, begin());
            (0..rounds).for_each(|_| exchange());
            bench.report("context switch over pipes", end(start), rounds * 2);
            libc::close(near[1]);
            libc::waitpid(child, ptr::null_mut(), 0);
        }
        bench.row("sched_yield", 5_000, || {
            libc::sched_yield();
        });
        let word = 0u32;
        bench.row("futex wake nobody", 5_000, || {
            libc::syscall(libc::SYS_futex, &raw const word, libc::FUTEX_WAKE | 128, 1);
        });
    }
}

/// Descriptors, events, and what else servers do all day.
unsafe fn descriptors(bench: &Bench) {
    unsafe {
        let mut byte = 0u64;
        let buffer: *mut libc::c_void = ptr::from_mut(&mut byte).cast();
        let zero = open("/dev/zero", libc::O_RDWR);
        bench.row("dup+close", 5_000, || {
            libc::close(libc::dup(zero));
        });
        bench.row("fcntl F_GETFL", 5_000, || {
            libc::fcntl(zero, libc::F_GETFL);
        });
        let pieces = [libc::iovec { iov_base: buffer, iov_len: 4 }; 4];
        bench.row("writev 4 pieces", 5_000, || {
            libc::writev(zero, pieces.as_ptr(), 4);
        });
        let event = libc::eventfd(0, 0);
        events(bench, event);
        let mut set: libc::fd_set = std::mem::zeroed();
        let mut now = libc::timeval { tv_sec: 0, tv_usec: 0 };
        bench.row("select one descriptor", 5_000, || {
            libc::FD_SET(zero, &mut set);
            libc::select(zero + 1, &mut set, ptr::null_mut(), ptr::null_mut(), &mut now);
        });
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut mask, libc::SIGUSR2);
        bench.row("sigprocmask twice", 5_000, || {
            libc::sigprocmask(libc::SIG_BLOCK, &mask, ptr::null_mut());
            libc::sigprocmask(libc::SIG_UNBLOCK, &mask, ptr::null_mut());
        });
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        bench.row("clock_gettime", 20_000, || {
            libc::clock_gettime(libc::CLOCK_REALTIME, &mut time);
        });
        let mut usage: libc::rusage = std::mem::zeroed();
        bench.row("getrusage", 5_000, || {
            libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        });
        let (long, mut block) = (pipe(), vec![1u8; 1 << 16]);
        bench.row("pipe write+read 64 KiB", 300, || {
            libc::write(long[1], block.as_ptr().cast(), block.len());
            libc::read(long[0], block.as_mut_ptr().cast(), block.len());
        });
        bench.row("pipe create+close", 1_000, || {
            let ends = pipe();
            libc::close(ends[0]);
            libc::close(ends[1]);
        });
        for fd in [zero, event, long[0], long[1]] {
            libc::close(fd);
        }
    }
}

/// Event descriptors and epoll; nothing where the kernel has none.
unsafe fn events(bench: &Bench, event: libc::c_int) {
    unsafe {
        let poller = libc::epoll_create1(0);
        if event < 0 || poller < 0 {
            return;
        }
        let (one, mut count) = (1u64, 0u64);
        let (from, to) = ((&raw const one).cast(), (&raw mut count).cast());
        bench.row("eventfd write+read", 5_000, || {
            libc::write(event, from, 8);
            libc::read(event, to, 8);
        });
        libc::write(event, from, 8);
        let mut ready = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 7 };
        libc::epoll_ctl(poller, libc::EPOLL_CTL_ADD, event, &mut ready);
        bench.row("epoll_wait, one ready", 5_000, || {
            libc::epoll_wait(poller, &mut ready, 1, 0);
        });
        bench.row("epoll_ctl mod", 5_000, || {
            libc::epoll_ctl(poller, libc::EPOLL_CTL_MOD, event, &mut ready);
        });
        libc::close(poller);
    }
}

/// Names that are not files' contents.
unsafe fn names(bench: &Bench) {
    unsafe {
        let mut room = [0 as libc::c_char; 4096];
        bench.row("getcwd", 5_000, || {
            libc::getcwd(room.as_mut_ptr(), room.len());
        });
        let directory = c"/dev/shm/microbench.dir";
        bench.row("tmpfs mkdir+rmdir", 1_000, || {
            libc::mkdir(directory.as_ptr(), 0o755);
            libc::rmdir(directory.as_ptr());
        });
        let link = c"/dev/shm/microbench.link";
        bench.row("tmpfs symlink+unlink", 1_000, || {
            libc::symlink(c"/usr".as_ptr(), link.as_ptr());
            libc::unlink(link.as_ptr());
        });
        libc::symlink(c"/usr".as_ptr(), link.as_ptr());
        bench.row("readlink", 5_000, || {
            libc::readlink(link.as_ptr(), room.as_mut_ptr(), room.len());
        });
        bench.row("access through a symlink", 5_000, || {
            libc::access(c"/dev/shm/microbench.link/bin".as_ptr(), libc::R_OK);
        });
        libc::unlink(link.as_ptr());
        bench.row("stat, eight components", 5_000, || {
            let mut stat: libc::stat = std::mem::zeroed();
            libc::stat(c"/usr/../usr/lib/../lib/../lib/../bin".as_ptr(), &mut stat);
        });
        bench.row("list /usr", 300, || {
            let fd = libc::open(c"/usr".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
            while libc::syscall(libc::SYS_getdents64, fd, room.as_mut_ptr(), room.len()) > 0 {}
            libc::close(fd);
        });
        bench.row("read /proc/self/stat", 500, || {
            let fd = libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY);
            libc::read(fd, room.as_mut_ptr().cast(), room.len());
            libc::close(fd);
        });
    }
}

fn open(path: &str, flags: libc::c_int) -> libc::c_int {
    let path = CString::new(path).expect("no NUL");
    // SAFETY: the path is a valid C string.
    let fd = unsafe { libc::open(path.as_ptr(), flags, 0o644) };
    assert!(fd >= 0, "open {path:?}: {}", std::io::Error::last_os_error());
    fd
}

fn pipe() -> [libc::c_int; 2] {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    ends
}

fn map(len: usize, protection: i32, flags: i32, fd: i32) -> *mut u8 {
    // SAFETY: a new mapping at an address of the kernel's choice harms nobody.
    let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, fd, 0) };
    assert_ne!(base, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    base.cast()
}

/// Reads or writes the first byte of every page.
///
/// # Safety
/// `base` maps `pages` pages that may be read, and written when `write` is set.
unsafe fn touch(base: *mut u8, pages: usize, write: bool) {
    for page in 0..pages {
        // SAFETY: inside the mapping, by the caller's promise.
        unsafe {
            let byte = base.add(page * PAGE);
            if write { byte.write_volatile(1) } else { _ = byte.read_volatile() }
        }
    }
}
