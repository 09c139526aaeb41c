//! Restartable sequences. To be run with glibc's own registration off
//! (`GLIBC_TUNABLES=glibc.pthread.rseq=0`).

use crate::{errno_name, show};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const SIGNATURE: u32 = 0x5305_3053;
const LEN: u32 = 32;

// A sequence without end: it is left by its abort handlers only.
core::arch::global_asm!(
    ".globl rseq_spin, rseq_start, rseq_end, rseq_abort, rseq_unsigned_abort",
    "rseq_spin:",
    "mov [rdi + 8], rsi",
    "rseq_start:",
    "pause",
    "jmp rseq_start",
    "rseq_end:",
    "mov eax, 1",
    "ret",
    ".long 0x53053053",
    "rseq_abort:",
    "mov eax, 2",
    "ret",
    ".long 0",
    "rseq_unsigned_abort:",
    "mov eax, 3",
    "ret",
);

unsafe extern "C" {
    fn rseq_spin(area: *const Area, sequence: *const Sequence) -> u32;
    fn rseq_start();
    fn rseq_end();
    fn rseq_abort();
    fn rseq_unsigned_abort();
}

#[repr(C, align(32))]
struct Area {
    start: AtomicU32,
    id: AtomicU32,
    sequence: AtomicU64,
    rest: [u64; 2],
}

#[repr(C, align(32))]
struct Sequence {
    version: u32,
    flags: u32,
    start: u64,
    len: u64,
    abort: u64,
}

static AREA: Area = Area::new();
static SAW: AtomicU64 = AtomicU64::new(0);

impl Area {
    const fn new() -> Area {
        Area {
            start: AtomicU32::new(0),
            id: AtomicU32::new(u32::MAX),
            sequence: AtomicU64::new(0),
            rest: [0; 2],
        }
    }
    fn address(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

fn sequence(abort: unsafe extern "C" fn()) -> Sequence {
    let (start, end) = (rseq_start as *const () as u64, rseq_end as *const () as u64);
    Sequence { version: 0, flags: 0, start, len: end - start, abort: abort as *const () as u64 }
}

fn rseq(area: usize, len: u32, flags: u32, signature: u32) -> i64 {
    // SAFETY: the area is never reused.
    unsafe { libc::syscall(334, area, len, flags, signature) }
}

fn spin(sequence: &Sequence) -> u32 {
    // SAFETY: the code above touches the area and two registers.
    unsafe { rseq_spin(&raw const AREA, sequence) }
}

pub fn run() {
    let at = AREA.address();
    show("unaligned", rseq(at + 8, LEN, 0, SIGNATURE));
    show("short", rseq(at, 16, 0, SIGNATURE));
    show("long", rseq(at, 64, 0, SIGNATURE));
    show("unknown flag", rseq(at, LEN, 2, SIGNATURE));
    show("of the kernel", rseq(1 << 63, LEN, 0, SIGNATURE));
    show("not registered", rseq(at, LEN, 1, SIGNATURE));
    show("nothing, not registered", rseq(0, LEN, 1, 0));
    show("register", rseq(at, LEN, 0, SIGNATURE));
    show("again", rseq(at, LEN, 0, SIGNATURE));
    show("again with another length", rseq(at, 64, 0, SIGNATURE));
    show("again with another signature", rseq(at, LEN, 0, 1));
    show("another area", rseq(at + 32, LEN, 0, SIGNATURE));
    show("leave with another length", rseq(at, 16, 1, SIGNATURE));
    show("leave with another signature", rseq(at, LEN, 1, 1));
    show("leave with another flag", rseq(at, LEN, 3, SIGNATURE));
    ids();
    println!("by a signal: {}", by_signal());
    println!("by another process: {}", by_preemption());
    in_children();
    faults();
    show("leave", rseq(at, LEN, 1, SIGNATURE));
    println!(
        "ids after: {} {}",
        AREA.start.load(Ordering::Relaxed),
        AREA.id.load(Ordering::Relaxed) as i32
    );
    show("leave again", rseq(at, LEN, 1, SIGNATURE));
}

fn pin(cpu: usize) -> bool {
    // SAFETY: a set of processors is plain data.
    unsafe {
        let mut set: libc::cpu_set_t = MaybeUninit::zeroed().assume_init();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set) == 0
    }
}

/// The ids are those of the processor, wherever it is.
fn ids() {
    let mut right = true;
    for _ in 0..20 {
        for cpu in (0..64).filter(|&cpu| pin(cpu)) {
            let seen = (AREA.start.load(Ordering::Relaxed), AREA.id.load(Ordering::Relaxed));
            right &= seen == (cpu as u32, cpu as u32);
        }
    }
    println!("ids: {right}");
    pin(0);
}

extern "C" fn on_alarm(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the context of the interrupted code.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let ip = context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64;
    SAW.store(ip, Ordering::Relaxed);
}

/// A handler runs as if the sequence had been aborted before.
fn by_signal() -> String {
    // SAFETY: an action is plain data, and the handler touches an atomic only.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = on_alarm as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        let soon = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
        let once = libc::itimerval {
            it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
            it_value: soon,
        };
        libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const once, 0);
    }
    let result = spin(&sequence(rseq_abort));
    // It may have been preempted before the signal.
    while SAW.load(Ordering::Relaxed) == 0 {
        std::hint::spin_loop();
    }
    let (start, end) = (rseq_start as *const () as u64, rseq_end as *const () as u64);
    let saw_inside = (start..end).contains(&SAW.load(Ordering::Relaxed));
    format!(
        "{result}, saw it inside: {saw_inside}, pointer {}",
        AREA.sequence.load(Ordering::Relaxed)
    )
}

fn by_preemption() -> u32 {
    child(
        || loop {
            std::hint::spin_loop();
        },
        |pid| {
            let result = spin(&sequence(rseq_abort));
            // SAFETY: our own child.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            result
        },
    )
    .0
}

/// Runs `inside` in a child and `meanwhile` here; what that gave and the child's status.
fn child<R>(inside: impl FnOnce(), meanwhile: impl FnOnce(i32) -> R) -> (R, i32) {
    // SAFETY: the child has one thread, as we have, and ends here.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        inside();
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    let result = meanwhile(pid);
    let mut status = 0;
    // SAFETY: the status is ours.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    (result, status)
}

/// A copy of the memory keeps the registration, a thread starts without one.
fn in_children() {
    let at = AREA.address();
    child(|| show("in a child", rseq(at, LEN, 0, SIGNATURE)), |_| ());
    let own = Box::leak(Box::new(Area::new())).address();
    let thread = std::thread::spawn(move || {
        let fresh = rseq(own, LEN, 0, 7);
        (fresh, rseq(own, LEN, 0, 7), errno_name())
    });
    println!("in a thread: {:?}", thread.join().ok());
    let program = std::process::Command::new("/proc/self/exe").arg("rseq-fresh").status();
    println!("in another program: {}", program.map_or(-1, |s| s.code().unwrap_or(-1)));
}

/// In a program that has just started.
pub fn fresh() {
    show("not registered", rseq(AREA.address(), LEN, 1, SIGNATURE));
    show("register", rseq(AREA.address(), LEN, 0, SIGNATURE));
}

/// Sleeps until the kernel has looked at the sequence: one sleep may be over before it begins.
fn look_at_sequence() {
    for _ in 0..20 {
        // SAFETY: a plain call.
        unsafe { libc::usleep(2000) };
    }
}

/// Sequences without sense are a SIGSEGV at the next look, in the sequence or not.
fn faults() {
    let try_it = |what: &str, sequence: Sequence| {
        let inside = || {
            AREA.sequence.store(std::ptr::from_ref(&sequence) as u64, Ordering::Relaxed);
            look_at_sequence();
        };
        println!("{what}: status {}", child(inside, |_| ()).1);
    };
    try_it("elsewhere", sequence(rseq_abort));
    try_it("version 1", Sequence { version: 1, ..sequence(rseq_abort) });
    try_it("flags 1", Sequence { flags: 1, ..sequence(rseq_abort) });
    try_it("unsigned", sequence(rseq_unsigned_abort));
    try_it("aborts into itself", sequence(rseq_start));
    try_it("aborts into nothing", Sequence { abort: 8, ..sequence(rseq_abort) });
    try_it("kernel's code", Sequence { start: 1 << 63, ..sequence(rseq_abort) });
    try_it("without end", Sequence { len: u64::MAX - 4096, ..sequence(rseq_abort) });
    let inside = || {
        AREA.sequence.store(8, Ordering::Relaxed);
        look_at_sequence();
    };
    println!("pointer to nothing: status {}", child(inside, |_| ()).1);
    let spins = |what: &str, sequence: Sequence| {
        let inside = || println!("inside, {what}: {}", spin(&sequence));
        let status = child(inside, |pid| {
            // SAFETY: our own child, which may never come out.
            unsafe {
                libc::usleep(50_000);
                libc::kill(pid, libc::SIGALRM);
                libc::usleep(500_000);
                libc::kill(pid, libc::SIGKILL);
            }
        });
        println!("inside, {what}: status {}", status.1);
    };
    spins("unsigned", sequence(rseq_unsigned_abort));
}
