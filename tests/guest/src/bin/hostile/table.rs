//! The table: every system call with each pattern of arguments, and what it answered.
//!
//! A line is a call, a base (what the other arguments are), the position that varies, and one
//! answer for each value of [`VALUES`]: an errno, `0`, `+` for more than 0, `!N` for a death by
//! signal N, `?` for a child that had to be killed. The text is the same on every kernel that
//! implements the call; where it is not, the two kernels see the arguments differently.

use std::ffi::CString;
use std::io::Write;
use std::ptr;

use crate::Random;

/// Where the argument memory lies: the same addresses in every run.
pub(crate) const ARENA: usize = 0x2000_0000;
const BUF: u64 = ARENA as u64;
const ONES: u64 = BUF + 0x1_0000;
const READ_ONLY: u64 = BUF + 0x2_0000;
const NO_ACCESS: u64 = BUF + 0x3_0000;
/// The last byte before memory without access.
const LAST_BYTE: u64 = NO_ACCESS - 1;
const WORDS: u64 = BUF + 0x4_0000;
/// The path of a regular file, of a directory, and one that does not exist.
const FILE: u64 = WORDS;
const DIR: u64 = WORDS + 16;
const NEW: u64 = WORDS + 32;

/// What an argument can be. The end of user memory is left out: up to where an address may be a
/// user's changed between versions of Linux.
pub(crate) const VALUES: [u64; 28] = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    16,
    0xfff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff_8000_0000,
    0xffff_ffff,
    u64::MAX,
    (-100i64) as u64,
    (-4096i64) as u64,
    0x8000_0000_0000_0000,
    0xffff_8000_0000_0000,
    0xffff_ffff_8100_0000,
    0x1000_0000,
    BUF,
    ONES,
    READ_ONLY,
    LAST_BYTE,
    FILE,
    NEW,
];

/// What the arguments are that do not vary.
const BASES: [(&str, [u64; 6]); 8] = [
    ("zero", [0; 6]),
    ("buffers", [BUF, BUF + 0x1000, BUF + 0x2000, BUF + 0x3000, BUF + 0x4000, BUF + 0x5000]),
    ("path", [FILE, 0, 0, 0, 0, 0]),
    ("paths", [DIR, NEW, BUF, 16, 0, 0]),
    ("at", [(-100i64) as u64, FILE, BUF, 0, 0, 0]),
    ("file", [3, BUF, 16, 0, 0, 0]),
    ("directory", [4, BUF, 4096, 0, 0, 0]),
    ("ones", [u64::MAX; 6]),
];

/// Rounds with all arguments at random, of one value each for every member of [`VALUES`].
const RANDOM_ROUNDS: usize = 4;

/// Calls that end the machine or the run, or whose answer depends on the moment.
pub(crate) const SKIPPED: &[i64] = &[
    15, // rt_sigreturn: what it restores is chance
    34, // pause
    60, 231, // exit, exit_group: nothing to see
    88, 169, // reboot
    175, // init_module: copies gibibytes
    153, // vhangup
    56, 58, 435, // clone, vfork, clone3: a child on the parent's stack
];

/// Prints the rows of the calls `first..last`, with random arguments made from `seed`.
pub(crate) fn run(first: i64, last: i64, seed: u64, user: Option<u32>) {
    each_call(first, last, |call, shared| rows(call, seed, user, shared));
}

/// Prints the text that `make` has for each call, made by a process in a sandbox of its own.
pub(crate) fn each_call(first: i64, last: i64, make: impl Fn(i64, *mut Shared) -> String) {
    prepare_memory();
    let shared = shared_page();
    for call in (first..last).filter(|call| !SKIPPED.contains(call)) {
        // SAFETY: the child makes a process that does one call's rows, and leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above; the first process of a new namespace is safe from its children.
            let status = unsafe {
                libc::unshare(libc::CLONE_NEWPID);
                let first = libc::fork();
                if first == 0 {
                    part();
                    let text = make(call, shared);
                    let mut stdout = std::io::stdout();
                    let _ = stdout.write_all(text.as_bytes());
                    let _ = stdout.flush();
                    libc::_exit(0);
                }
                wait(first, 900)
            };
            // SAFETY: ends the child.
            unsafe { libc::_exit(status) };
        }
        wait(child, 1000);
    }
}

/// Parts with the mounts, names and session of the others.
fn part() {
    // SAFETY: plain calls; the paths are C strings.
    unsafe {
        libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC);
        libc::mount(
            ptr::null(),
            c"/".as_ptr(),
            ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            ptr::null(),
        );
        libc::setsid();
    }
}

/// All rows of one call.
fn rows(call: i64, seed: u64, user: Option<u32>, shared: *mut Shared) -> String {
    let mut out = String::new();
    for (name, base) in BASES {
        for position in 0..6 {
            let vectors = VALUES.map(|value| {
                let mut arguments = base;
                arguments[position] = value;
                arguments
            });
            row(&mut out, call, &format!("{name} {position}"), &vectors, user, shared);
        }
    }
    let mut random = Random(seed + 1);
    for round in 0..RANDOM_ROUNDS {
        let vectors = VALUES.map(|_| [0; 6].map(|_: u64| VALUES[random.below(VALUES.len())]));
        row(&mut out, call, &format!("random {round}"), &vectors, user, shared);
    }
    out
}

/// One line: the answers to `vectors`, by as many children as die on the way.
pub(crate) fn row(
    out: &mut String,
    call: i64,
    name: &str,
    vectors: &[[u64; 6]],
    user: Option<u32>,
    shared: *mut Shared,
) {
    use std::fmt::Write as _;
    let _ = write!(out, "{call} {name}:");
    let mut done = 0;
    while done < vectors.len() {
        // SAFETY: `shared` is a live mapping; only this child writes to it meanwhile.
        let child = unsafe {
            (*shared).next = done;
            libc::fork()
        };
        if child == 0 {
            perform(call, &vectors[done..], user, shared);
        }
        let death = wait(child, 20);
        // SAFETY: the child has ended.
        let (next, answers) = unsafe { ((*shared).next, (*shared).answers) };
        for answer in &answers[done..next.clamp(done, vectors.len())] {
            let _ = match answer {
                0 => write!(out, " 0"),
                1.. => write!(out, " +"),
                -4095..=-1 => write!(out, " {}", -answer),
                _ => write!(out, " -"),
            };
        }
        done = next.clamp(done, vectors.len());
        if done < vectors.len() {
            let _ = match death {
                9 => write!(out, " ?"),
                signal => write!(out, " !{signal}"),
            };
            done += 1;
        }
    }
    out.push('\n');
}

/// In the child: the calls, one after the other.
fn perform(call: i64, vectors: &[[u64; 6]], user: Option<u32>, shared: *mut Shared) -> ! {
    enter_sandbox(user);
    // SAFETY: that the arguments are wild is the point: only this child suffers.
    unsafe {
        for arguments in vectors {
            let answer = call_raw(call, arguments);
            let index = (*shared).next;
            (*shared).answers[index] = answer;
            (*shared).next = index + 1;
        }
        libc::_exit(0)
    }
}

/// Makes the call. A child of it leaves at once, without touching memory.
///
/// # Safety
///
/// Whatever the call does to the process must be fine with the caller.
pub(crate) unsafe fn call_raw(call: i64, a: &[u64; 6]) -> i64 {
    let answer: i64;
    // SAFETY: by the caller; the registers that SYSCALL changes are declared.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jne 2f",
            "cmp {call}, 57",
            "jne 2f",
            "mov eax, 60",
            "xor edi, edi",
            "syscall",
            "2:",
            call = in(reg) call,
            inlateout("rax") call => answer,
            inlateout("rdi") a[0] => _,
            in("rsi") a[1],
            in("rdx") a[2],
            in("r10") a[3],
            in("r8") a[4],
            in("r9") a[5],
            out("rcx") _,
            out("r11") _,
        );
    }
    answer
}

/// A directory in memory with a file, a directory and nothing else; descriptors 0 to 7.
pub(crate) fn enter_sandbox(user: Option<u32>) {
    // SAFETY: plain calls; the paths are C strings.
    unsafe {
        libc::setsid();
        libc::mount(
            c"t".as_ptr(),
            c"/mnt".as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            c"mode=777,size=1m".as_ptr().cast(),
        );
        libc::chdir(c"/mnt".as_ptr());
        libc::chroot(c"/mnt".as_ptr());
        libc::mkdir(c"/dir".as_ptr(), 0o777);
        for descriptor in 0..3 {
            libc::close(descriptor);
            libc::open(c"/null".as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o666);
        }
        for descriptor in 3..32 {
            libc::close(descriptor);
        }
        libc::open(c"/file".as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o666);
        libc::write(3, [7u8; 100].as_ptr().cast(), 100);
        libc::open(c"/dir".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
        let mut pipe = [0; 2];
        libc::pipe(pipe.as_mut_ptr());
        libc::eventfd(0, 0);
        if let Some(user) = user {
            libc::setgroups(0, ptr::null());
            libc::setgid(user);
            libc::setuid(user);
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = interrupted as *const () as usize;
        libc::sigaction(libc::SIGALRM, &action, ptr::null_mut());
        let tick = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
        let timer = libc::itimerval { it_interval: tick, it_value: tick };
        libc::setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut());
    }
}

extern "C" fn interrupted(_: i32) {}

/// The argument memory, at its fixed place.
pub(crate) fn prepare_memory() {
    // SAFETY: a fresh fixed mapping; the writes lie inside it.
    unsafe {
        let base = libc::mmap(
            ARENA as *mut _,
            0x5_0000,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        );
        assert_eq!(base as usize, ARENA, "the arena's place is free");
        ptr::write_bytes(ONES as *mut u8, 0xff, 0x1_0000);
        ptr::write_bytes((NO_ACCESS - 0x1000) as *mut u8, 0, 0x1000);
        for (at, text) in [(FILE, "file"), (DIR, "dir"), (NEW, "new")] {
            let text = CString::new(text).expect("no NUL");
            ptr::copy_nonoverlapping(text.as_ptr(), at as *mut _, text.count_bytes() + 1);
        }
        libc::mprotect(READ_ONLY as *mut _, 0x8000, libc::PROT_READ);
        libc::mprotect(NO_ACCESS as *mut _, 0x1_0000, libc::PROT_NONE);
    }
}

/// What a child tells its parent.
pub(crate) struct Shared {
    next: usize,
    answers: [i64; VALUES.len()],
}

fn shared_page() -> *mut Shared {
    // SAFETY: a fresh mapping, large enough and zeroed.
    unsafe {
        let page = libc::mmap(
            0x3000_0000 as *mut _,
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        );
        assert_ne!(page, libc::MAP_FAILED, "a page is there");
        page.cast()
    }
}

/// Waits for `child`, at most `limit_s`; returns the signal it died of, or 0.
fn wait(child: i32, limit_s: u64) -> i32 {
    let mut status = 0;
    let start = std::time::Instant::now();
    loop {
        // SAFETY: `status` is valid.
        if unsafe { libc::waitpid(child, &mut status, libc::WNOHANG | libc::__WALL) } == child {
            return if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 };
        }
        if start.elapsed().as_secs() >= limit_s {
            // SAFETY: our own child.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
        // SAFETY: a plain call.
        unsafe {
            if start.elapsed().as_millis() > 20 {
                libc::usleep(5000)
            } else {
                libc::sched_yield()
            };
        }
    }
}
