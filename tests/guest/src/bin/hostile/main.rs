//! Hostile behaviour that a kernel has to survive, each with the outcome that Linux gives.
//!
//! `hostile NAME` runs one scenario and prints what happened: the same text on every kernel.

use std::ffi::CString;
use std::io::Write;
use std::ptr;

mod cpu;
mod craft;
mod elf;
mod mix;
mod segments;
mod slab;
mod storm;
mod table;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("wild-pointers") => wild_pointers(),
        Some("many-files") => many_files(number(&words, 1, 100_000)),
        Some("many-threads") => many_threads(number(&words, 1, 10_000)),
        Some("sparse-mapping") => sparse_mapping(number(&words, 1, 200)),
        Some("broken-elf") => {
            let programs = words.get(3..).unwrap_or_default();
            elf::run(number(&words, 1, 500), number(&words, 2, 7) as u64, programs);
        }
        Some("cpu") => cpu::run(words.get(1).map(String::as_str)),
        Some("slab") => slab::run(number(&words, 1, 4000) as u64, number(&words, 2, 0) as u32),
        Some("storm") => {
            let [seconds, workers] = [number(&words, 1, 10), number(&words, 2, 8)];
            storm::run(seconds, workers, number(&words, 3, 1) as u64, number(&words, 4, 0) as u32);
        }
        Some("memory-eater") => memory_eater(),
        Some("table") => {
            let user = Some(number(&words, 4, 0) as u32).filter(|user| *user != 0);
            let (first, last) = (number(&words, 1, 0) as i64, number(&words, 2, 451) as i64);
            table::run(first, last, number(&words, 3, 1) as u64, user);
        }
        Some("mix") => {
            let user = Some(number(&words, 5, 0) as u32).filter(|user| *user != 0);
            let (first, last) = (number(&words, 1, 0) as i64, number(&words, 2, 451) as i64);
            mix::run(first, last, number(&words, 3, 280), number(&words, 4, 1) as u64, user);
        }
        Some("odd-elf") => craft::run(),
        Some("fork-bomb") => fork_bomb(number(&words, 1, 100)),
        other => {
            eprintln!("hostile: unknown scenario {other:?}");
            std::process::exit(2);
        }
    }
}

/// The word at `index` as a number; what is missing or none is the default.
fn number(words: &[String], index: usize, default: usize) -> usize {
    words.get(index).and_then(|w| w.parse().ok()).unwrap_or(default)
}

/// A small generator (xorshift64*), seeded: a run can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Calls every system call with wild arguments, each in a child of its own.
fn wild_pointers() {
    // Calls that end the machine, wait for ever by design or only kill the caller.
    let skipped = [
        15, // rt_sigreturn
        34, // pause
        48, // shutdown
        57, 58, 56, // fork, vfork, clone
        60, 231, // exit, exit_group
        62, 200, 234, 129, 297, // kill and its relatives: -1 is everyone
        88, 169, // reboot
        101, // ptrace
        162, // sync: slow
        166, // umount2
        153, // vhangup
        435, // clone3
        424, // pidfd_send_signal
    ];
    let wild = [1u64, 8, 0xfff, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, u64::MAX, u64::MAX - 4096];
    let mut random = Random(42);
    let mut survived = 0;
    for call in 0..440i64 {
        if skipped.contains(&call) {
            continue;
        }
        let arguments: Vec<[u64; 6]> =
            (0..12).map(|_| [0; 6].map(|_: u64| wild[random.below(wild.len())])).collect();
        // SAFETY: the child has no other threads and leaves by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: that the arguments are wild is the point; only the child can suffer.
            unsafe {
                libc::alarm(2);
                for a in &arguments {
                    libc::syscall(call, a[0], a[1], a[2], a[3], a[4], a[5]);
                }
                libc::_exit(0);
            }
        }
        let mut status = 0;
        // SAFETY: `status` is valid.
        if unsafe { libc::waitpid(child, &mut status, 0) } == child {
            survived += 1;
        }
    }
    println!("{survived} system calls survived wild pointers");
}

fn many_files(count: usize) {
    raise_limit(libc::RLIMIT_NOFILE, count as u64 + 100);
    let path = CString::new("/dev/null").expect("no NUL");
    let mut opened = 0;
    for _ in 0..count {
        // SAFETY: the path is a valid C string.
        if unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) } < 0 {
            println!("open: {}", std::io::Error::last_os_error());
            break;
        }
        opened += 1;
    }
    println!("{opened} files opened");
    // SAFETY: closing descriptors of our own.
    unsafe {
        libc::close(count as i32 / 2);
        println!("lowest free is reused: {}", libc::dup(0) == count as i32 / 2);
        let listed = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count());
        println!("all listed: {}", listed >= opened);
        let child = libc::fork();
        if child == 0 {
            libc::_exit(i32::from(libc::dup(count as i32 - 10) < 0));
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        println!("a child has them: {status}");
        let bound = libc::rlimit { rlim_cur: 64, rlim_max: count as u64 };
        libc::setrlimit(libc::RLIMIT_NOFILE, &bound);
        let is_closed = (count as i32 / 3..count as i32 / 2).all(|fd| libc::close(fd) == 0);
        println!("below the new limit: {} {is_closed}", libc::dup(0) < 0);
    }
}

fn many_threads(count: usize) {
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(count + 1));
    let mut threads = Vec::new();
    for _ in 0..count {
        let mine = barrier.clone();
        let builder = std::thread::Builder::new().stack_size(16 * 1024);
        match builder.spawn(move || mine.wait()) {
            Ok(handle) => threads.push(handle),
            Err(why) => {
                println!("thread {}: {why}", threads.len());
                std::process::exit(0);
            }
        }
    }
    let listed = std::fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.count());
    println!("all listed: {}", listed == count + 1);
    if words_say_exit() {
        println!("leaving while they run");
        std::process::exit(3);
    }
    barrier.wait();
    println!("{count} threads ran");
    threads.into_iter().for_each(|t| _ = t.join());
    println!("joined");
}

/// Whether the process is to end with all threads alive.
fn words_say_exit() -> bool {
    std::env::args().any(|word| word == "exit")
}

fn sparse_mapping(gibibytes: usize) {
    let len = gibibytes << 30;
    // SAFETY: a fresh mapping; the touched bytes lie inside it.
    unsafe {
        let base = libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        if base == libc::MAP_FAILED {
            println!("mmap: {}", std::io::Error::last_os_error());
            return;
        }
        let bytes: *mut u8 = base.cast();
        for step in 0..100 {
            let at = bytes.add(step * (len / 100));
            at.write_volatile(step as u8);
            assert_eq!(at.read_volatile(), step as u8);
        }
        let mut resident = [0u8; 16];
        let at = bytes.add(len / 100);
        let told =
            libc::mincore(at.map_addr(|a| a & !4095).cast(), 16 * 4096, resident.as_mut_ptr());
        println!("mincore {told}: {}", resident[0] & 1);
        println!("mprotect {}", libc::mprotect(base, len / 2, libc::PROT_READ));
        let child = libc::fork();
        if child == 0 {
            libc::_exit(i32::from(at.read_volatile()));
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        println!("a child sees {}", libc::WEXITSTATUS(status));
        println!("madvise {}", libc::madvise(base, len, libc::MADV_DONTNEED));
        println!("then {}", at.read_volatile());
        let moved = libc::mremap(base, len, 2 * len, libc::MREMAP_MAYMOVE);
        println!("mremap {}", moved != libc::MAP_FAILED);
        println!("munmap {}", libc::munmap(moved, 2 * len));
    }
}

fn memory_eater() {
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![1u8; 1 << 20]);
        std::hint::black_box(&eaten);
    }
}

/// Forks without end below a process limit of `limit`, as an unprivileged user.
fn fork_bomb(limit: usize) {
    // SAFETY: plain calls; children sleep and are killed with their process group.
    unsafe {
        libc::setpgid(0, 0);
        libc::setgid(12345);
        libc::setuid(12345);
        let bound = libc::rlimit { rlim_cur: limit as u64, rlim_max: limit as u64 };
        libc::setrlimit(libc::RLIMIT_NPROC, &bound);
        let mut children = 0;
        loop {
            let child = libc::fork();
            if child == 0 {
                libc::pause();
                libc::_exit(0);
            }
            if child < 0 {
                println!("fork {children}: {}", std::io::Error::last_os_error());
                break;
            }
            children += 1;
        }
        let _ = std::io::stdout().flush();
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
        libc::kill(0, libc::SIGTERM);
        let mut reaped = 0;
        while libc::waitpid(-1, ptr::null_mut(), 0) > 0 {
            reaped += 1;
        }
        println!("{reaped} reaped");
    }
}

fn raise_limit(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` is valid.
    if unsafe { libc::setrlimit(resource, &limit) } != 0 {
        println!("setrlimit: {}", std::io::Error::last_os_error());
    }
}
