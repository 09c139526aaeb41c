//! `ptrace(2)`: a child that is traced, and what its tracer sees. Every line printed is the same on
//! Linux: results, errno numbers, wait statuses; never an address or a process number.

mod others;

use std::ffi::c_void;

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The raw call: a peek stores its word, unlike the C library's.
fn ptrace(request: u32, pid: i32, address: usize, data: usize) -> i64 {
    // SAFETY: the callers pass pointers to live memory where the request wants one.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, request as usize, pid, address, data) };
    if result < 0 { -i64::from(errno()) } else { result }
}

fn say(what: &str, value: i64) {
    println!("{what}: {value}");
}

/// Waits for the process or thread; says what became of it.
fn wait(what: &str, pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: a pointer to a live word.
    let got = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    let whose = if got == pid {
        "it"
    } else if got > 0 {
        "another"
    } else {
        "none"
    };
    println!("{what}: {whose} {status:#x}");
    status
}

fn peek_user(pid: i32, at: usize) -> u64 {
    let mut word = 0u64;
    ptrace(3, pid, at, &raw mut word as usize);
    word
}

const ORIG_RAX: usize = 15 * 8;
const RAX: usize = 10 * 8;
const RIP: usize = 16 * 8;

fn message(pid: i32) -> u64 {
    let mut word = 0u64;
    say("message", ptrace(0x4201, pid, 0, &raw mut word as usize));
    word
}

/// `si_signo` and `si_code`.
fn info(pid: i32) {
    let mut words = [0i32; 32];
    let result = ptrace(0x4202, pid, 0, words.as_mut_ptr() as usize);
    println!("info: {result} {} {:#x}", words[0], words[2]);
}

/// A child that runs `body` and ends with 7.
fn child(body: impl FnOnce()) -> i32 {
    // SAFETY: the program has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        body();
        // SAFETY: ends the process.
        unsafe { libc::_exit(7) };
    }
    pid
}

fn raise(signal: i32) {
    // SAFETY: no pointers.
    unsafe { libc::raise(signal) };
}

fn call(number: i64, argument: usize) {
    // SAFETY: calls without pointers only.
    unsafe { libc::syscall(number, argument) };
}

fn nap() {
    std::thread::sleep(std::time::Duration::from_millis(200));
}

fn errors() {
    say("nobody", ptrace(7, 999_999, 0, 0));
    say("self", ptrace(16, std::process::id() as i32, 0, 0));
    let pid = child(|| {
        loop {
            call(libc::SYS_pause, 0);
        }
    });
    for (what, request) in [
        ("cont", 7u32),
        ("regs", 12),
        ("peek", 1),
        ("detach", 17),
        ("kill", 8),
        ("interrupt", 0x4207),
    ] {
        say(what, ptrace(request, pid, 0, 0));
    }
    say("unknown", ptrace(0x9999, pid, 0, 0));
    say("seize with address", ptrace(0x4206, pid, 8, 0));
    say("seize with options", ptrace(0x4206, pid, 0, 1 << 30));
    say("seize", ptrace(0x4206, pid, 0, 0));
    say("attach", ptrace(16, pid, 0, 0));
    say("cont a running one", ptrace(7, pid, 0, 0));
    say("listen to a running one", ptrace(0x4208, pid, 0, 0));
    say("interrupt", ptrace(0x4207, pid, 0, 0));
    wait("interrupted", pid);
    info(pid);
    say("bad options", ptrace(0x4200, pid, 0, 1 << 30));
    say("bad signal", ptrace(7, pid, 0, 65));
    say("unknown", ptrace(0x9999, pid, 0, 0));
    let mut word = 0u64;
    let at = &raw mut word as usize;
    for (what, place) in [("odd", 4), ("behind", 912), ("segments", 26 * 8), ("debug", 848)] {
        say(what, ptrace(3, pid, place, at));
    }
    for (what, place, value) in [
        ("cs", 17, 0x10),
        ("cs as it is", 17, 0x33),
        ("fs base in the kernel", 21, usize::MAX),
        ("behind the registers", 40, 1),
    ] {
        say(what, ptrace(6, pid, place * 8, value));
    }
    say("peek nowhere", ptrace(1, pid, 8, at));
    say("poke nowhere", ptrace(4, pid, 8, 0));
    say("store nowhere", ptrace(12, pid, 0, 8));
    say("kill", ptrace(8, pid, 0, 0));
    wait("killed", pid);
    say("gone", ptrace(7, pid, 0, 0));
}

fn signals() {
    let pid = child(|| {
        ptrace(0, 0, 0, 0);
        println!("again: {}", ptrace(0, 0, 0, 0));
        // SAFETY: no handler.
        unsafe { libc::signal(libc::SIGUSR2, libc::SIG_IGN) };
        raise(libc::SIGSTOP);
        raise(libc::SIGUSR1);
        raise(libc::SIGUSR2);
        raise(libc::SIGTERM);
    });
    wait("stopped", pid);
    info(pid);
    say("cont", ptrace(7, pid, 0, 0));
    wait("usr1", pid);
    info(pid);
    // SAFETY: no pointers.
    say("kill with 0", unsafe { libc::kill(pid, 0) }.into());
    say("cont without it", ptrace(7, pid, 0, 0));
    wait("usr2, ignored", pid);
    say("cont", ptrace(7, pid, 0, libc::SIGUSR2 as usize));
    wait("term", pid);
    let mut record = [0u32; 32];
    ptrace(0x4202, pid, 0, record.as_mut_ptr() as usize);
    say("set info", ptrace(0x4203, pid, 0, record.as_ptr() as usize));
    let mut mask = 0u64;
    say("mask", ptrace(0x420a, pid, 8, &raw mut mask as usize));
    say("mask of another size", ptrace(0x420a, pid, 4, &raw mut mask as usize));
    say("cont with another", ptrace(7, pid, 0, libc::SIGINT as usize));
    wait("ended", pid);
}

fn syscalls(good: bool) {
    let pid = child(|| {
        ptrace(0, 0, 0, 0);
        raise(libc::SIGSTOP);
        call(libc::SYS_getppid, 0);
        call(libc::SYS_umask, 0o123);
        call(libc::SYS_close, 77);
    });
    wait("stopped", pid);
    say("options", ptrace(0x4200, pid, 0, usize::from(good)));
    for step in 0..8 {
        ptrace(24, pid, 0, 0);
        let status = wait("syscall", pid);
        if status & 0xff != 0x7f {
            return;
        }
        let number = peek_user(pid, ORIG_RAX);
        let mut data = [0u8; 88];
        let size = ptrace(0x420e, pid, data.len(), data.as_mut_ptr() as usize);
        println!("  call {number} info {size} op {} arch {:x}", data[0], {
            u32::from_le_bytes(data[4..8].try_into().unwrap())
        });
        info(pid);
        println!("  message {}", message(pid));
        if step % 2 == 0 {
            println!("  enters with {}", peek_user(pid, RAX) as i64);
            if number == libc::SYS_umask as u64 {
                // Another call, then none.
                say("  change", ptrace(6, pid, ORIG_RAX, libc::SYS_getpid as usize));
            } else if number == libc::SYS_close as u64 {
                say("  cancel", ptrace(6, pid, ORIG_RAX, usize::MAX));
                say("  result", ptrace(6, pid, RAX, 5));
            }
        } else {
            let value = peek_user(pid, RAX) as i64;
            println!(
                "  leaves with {}",
                if value == i64::from(pid) || value == i64::from(std::process::id()) {
                    1
                } else {
                    value
                }
            );
        }
    }
    ptrace(7, pid, 0, 0);
    wait("ended", pid);
}

static mut WORD: u64 = 0x1122_3344_5566_7788;
static TEXT: [u64; 600] = [7; 600];

fn memory() {
    let pid = child(|| {
        ptrace(0, 0, 0, 0);
        raise(libc::SIGSTOP);
        // SAFETY: the only thread.
        let seen = unsafe { (&raw const WORD).read_volatile() };
        let text = (&raw const TEXT[300]).cast::<u64>();
        // SAFETY: a live word.
        let text = unsafe { text.read_volatile() };
        println!("child sees {seen:x} {text:x}");
    });
    wait("stopped", pid);
    let at = &raw const WORD as usize;
    let mut word = 0u64;
    say("peek", ptrace(2, pid, at, &raw mut word as usize));
    println!("{word:x}");
    say("peek odd", ptrace(2, pid, at + 3, &raw mut word as usize));
    say("poke", ptrace(5, pid, at, 0x99));
    let text = &raw const TEXT[300] as usize;
    say("poke read-only", ptrace(4, pid, text, 0x77));
    println!("mine: {:x}", TEXT[300]);
    let path = format!("/proc/{pid}/mem");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    use std::os::unix::fs::FileExt;
    say("write mem", file.write_at(&0xabcdu64.to_le_bytes(), text as u64).unwrap() as i64);
    let mut bytes = [0u8; 8];
    say("read mem", file.read_at(&mut bytes, text as u64).unwrap() as i64);
    println!("{bytes:x?}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let tracer = status.lines().find(|l| l.starts_with("TracerPid")).unwrap();
    println!("tracer is me: {}", tracer.ends_with(&format!("\t{}", std::process::id())));
    println!("{}", status.lines().find(|l| l.starts_with("State")).unwrap());
    ptrace(7, pid, 0, 0);
    wait("ended", pid);
}

fn steps() {
    let pid = child(|| {
        ptrace(0, 0, 0, 0);
        raise(libc::SIGSTOP);
        call(libc::SYS_getppid, 0);
    });
    wait("stopped", pid);
    let mut regs = [0u64; 27];
    say("getregs", ptrace(12, pid, 0, regs.as_mut_ptr() as usize));
    println!("cs {:x} ss {:x} orig {}", regs[17], regs[20], regs[15] as i64);
    let mut same = 0;
    for _ in 0..20 {
        let before = peek_user(pid, RIP);
        ptrace(9, pid, 0, 0);
        let mut status = 0;
        // SAFETY: a pointer to a live word.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        if status != 0x57f {
            println!("step: {status:x}");
        }
        same += usize::from(peek_user(pid, RIP) == before);
    }
    println!("stood still {same}");
    info(pid);
    println!("trap flag {:x}", peek_user(pid, 18 * 8) & 0x100);
    say("setregs", ptrace(13, pid, 0, regs.as_ptr() as usize));
    let mut image = [0u8; 512];
    say("getfpregs", ptrace(14, pid, 0, image.as_mut_ptr() as usize));
    println!("fcw {:x?} mxcsr {:x?}", &image[..2], &image[24..28]);
    say("setfpregs", ptrace(15, pid, 0, image.as_ptr() as usize));
    image[27] = 0xff;
    say("bad mxcsr", ptrace(15, pid, 0, image.as_ptr() as usize));
    for (kind, room) in [(1usize, 1000usize), (1, 16), (1, 13), (2, 600), (0x202, 8000), (99, 10)] {
        let mut buffer = vec![0u8; room];
        let mut iovec = [buffer.as_mut_ptr() as usize, room];
        let result = ptrace(0x4204, pid, kind, iovec.as_mut_ptr() as usize);
        let len = if kind == 0x202 { usize::from(iovec[1] > 576) } else { iovec[1] };
        println!("regset {kind:x} {room}: {result} {len}");
    }
    ptrace(7, pid, 0, 0);
    wait("ended", pid);
}

fn breakpoint() {
    let pid = child(|| {
        ptrace(0, 0, 0, 0);
        raise(libc::SIGSTOP);
        call(libc::SYS_getppid, 0);
        // SAFETY: a breakpoint, which the tracer takes.
        unsafe { std::arch::asm!("int3", "nop") };
    });
    wait("stopped", pid);
    ptrace(7, pid, 0, 0);
    wait("breakpoint", pid);
    info(pid);
    let rip = peek_user(pid, RIP) as usize;
    let mut word = 0u64;
    ptrace(1, pid, rip - 1, &raw mut word as usize);
    println!("code {:x}", word & 0xffff);
    say("patch", ptrace(4, pid, rip - 1, (word as usize & !0xff) | 0x90));
    say("back", ptrace(6, pid, RIP, rip - 1));
    ptrace(7, pid, 0, 0);
    wait("ended", pid);
}

/// Hardware watchpoints and breakpoints.
fn watch() {
    const DEBUG: usize = 848;
    fn touch() {
        // SAFETY: the only thread.
        unsafe { (&raw mut WORD).write_volatile(5) };
        // SAFETY: as above.
        let seen = unsafe { (&raw const WORD).read_volatile() };
        std::hint::black_box(seen);
    }
    let code = touch as fn() as usize;
    let pid = child(|| {
        ptrace(0, 0, 0, 0);
        raise(libc::SIGSTOP);
        std::hint::black_box(touch as fn())();
        call(libc::SYS_getppid, 0);
    });
    wait("stopped", pid);
    let debug = |index: usize| DEBUG + 8 * index;
    let word = &raw const WORD as usize;
    for (what, index, value) in [
        ("kernel address", 0, usize::MAX - 7),
        ("dr4", 4, 1),
        ("dr5", 5, 1),
        ("ports", 7, 0x2_0001),
        ("odd address", 1, word + 1),
        ("eight bytes there", 7, 0x90_0004),
        ("off", 7, 0),
        ("address", 0, word),
        ("stores of eight bytes", 7, 0x9_0001),
        ("code", 1, code),
        ("both", 7, 0x9_0005),
    ] {
        say(what, ptrace(6, pid, debug(index), value));
    }
    let status = || peek_user(pid, debug(6)) & 0x400f;
    println!("control {:x} status {:x}", peek_user(pid, debug(7)), status());
    for _ in 0..3 {
        ptrace(7, pid, 0, 0);
        if wait("trap", pid) & 0xff != 0x7f {
            return;
        }
        info(pid);
        println!("status {:x} at the code {}", status(), peek_user(pid, RIP) as usize == code);
        ptrace(6, pid, debug(6), 0);
    }
}

fn events() {
    const OPTIONS: usize = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40;
    let pid = child(|| {
        ptrace(0, 0, 0, 0);
        raise(libc::SIGSTOP);
        let grandchild = child(|| call(libc::SYS_getppid, 0));
        let mut status = 0;
        // SAFETY: a pointer to a live word.
        unsafe { libc::waitpid(grandchild, &raw mut status, 0) };
        #[expect(deprecated, reason = "the event of this very call is under test")]
        // SAFETY: the child only execs or ends.
        let vforked = unsafe { libc::vfork() };
        if vforked == 0 {
            // SAFETY: ends the process.
            unsafe { libc::_exit(3) };
        }
        // SAFETY: a pointer to a live word.
        unsafe { libc::waitpid(vforked, &raw mut status, 0) };
        let program = c"/bin/true".as_ptr();
        let arguments = [program, std::ptr::null()];
        // SAFETY: live strings.
        unsafe { libc::execv(program, arguments.as_ptr()) };
    });
    wait("stopped", pid);
    say("options", ptrace(0x4200, pid, 0, OPTIONS));
    ptrace(7, pid, 0, 0);
    let mut names = vec![pid];
    for _ in 0..24 {
        let mut status = 0;
        // Children first: what happens in two processes at once has no order.
        let newest = *names.last().unwrap();
        // SAFETY: a pointer to a live word.
        let got = unsafe { libc::waitpid(newest, &raw mut status, libc::__WALL) };
        if got < 0 {
            break;
        }
        println!("{}: {status:#x}", names.len() - 1);
        if status & 0xff != 0x7f {
            names.pop();
            if names.is_empty() {
                break;
            }
            continue;
        }
        let event = status >> 16;
        let mut give = 0;
        match event {
            1..=3 => {
                let new = message(got) as i32;
                ptrace(7, got, 0, 0);
                names.push(new);
                continue;
            }
            4 => println!("old number is its: {}", message(got) == got as u64),
            5 => println!("done: {}", message(got) > 0),
            6 => println!("status {:#x}", message(got)),
            _ if status >> 8 == libc::SIGSTOP | 0x80 << 8 => {}
            _ if status >> 8 == libc::SIGSTOP => {}
            _ => give = status >> 8 & 0xff,
        }
        info(got);
        ptrace(7, got, 0, give as usize);
    }
}

fn group_stop() {
    let pid = child(|| {
        loop {
            call(libc::SYS_pause, 0);
        }
    });
    say("seize", ptrace(0x4206, pid, 0, 0));
    // SAFETY: no pointers.
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    wait("signal", pid);
    say("cont with it", ptrace(7, pid, 0, libc::SIGSTOP as usize));
    wait("group stop", pid);
    info(pid);
    say("listen", ptrace(0x4208, pid, 0, 0));
    say("not mine now", ptrace(7, pid, 0, 0));
    // SAFETY: no pointers.
    unsafe { libc::kill(pid, libc::SIGCONT) };
    wait("trapped", pid);
    say("cont", ptrace(7, pid, 0, 0));
    wait("cont signal", pid);
    say("detach", ptrace(17, pid, 0, 0));
    // SAFETY: no pointers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait("killed", pid);
}

fn attach() {
    let mut ends = [0i32; 2];
    // SAFETY: room for two descriptors.
    unsafe { libc::pipe(ends.as_mut_ptr()) };
    let pid = child(|| {
        let mut byte = 0u8;
        // SAFETY: one byte of room.
        unsafe { libc::read(ends[0], (&raw mut byte).cast::<c_void>(), 1) };
    });
    // Until it reads.
    nap();
    say("attach", ptrace(16, pid, 0, 0));
    wait("stopped", pid);
    info(pid);
    println!("in call {}", peek_user(pid, ORIG_RAX));
    say("again", ptrace(16, pid, 0, 0));
    say("detach", ptrace(17, pid, 0, 0));
    say("attach", ptrace(16, pid, 0, 0));
    wait("stopped", pid);
    say("cont", ptrace(7, pid, 0, 0));
    // SAFETY: one live byte.
    unsafe { libc::write(ends[1], (&raw const ends).cast::<c_void>(), 1) };
    wait("ended", pid);
    // A tracer that is not the parent, and ends.
    let pid = child(|| {
        loop {
            call(libc::SYS_pause, 0);
        }
    });
    for kill in [0usize, 1 << 20] {
        let tracer = child(|| {
            println!("seize: {}", ptrace(0x4206, pid, 0, kill));
        });
        wait("tracer", tracer);
        // SAFETY: no pointers.
        println!("alive: {}", unsafe { libc::kill(pid, 0) });
    }
    wait("killed with it", pid);
    // Whose zombie: the tracer's first.
    let pid = child(|| {
        let mut byte = 0u8;
        // SAFETY: one byte of room.
        unsafe { libc::read(ends[0], (&raw mut byte).cast::<c_void>(), 1) };
    });
    let tracer = child(|| {
        println!("seize: {}", ptrace(0x4206, pid, 0, 0));
        // SAFETY: one live byte.
        unsafe { libc::write(ends[1], (&raw const ends).cast::<c_void>(), 1) };
        wait("tracer sees", pid);
        wait("no more", pid);
    });
    wait("tracer", tracer);
    wait("parent sees", pid);
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("errors") => errors(),
        Some("signals") => signals(),
        Some("syscalls") => {
            syscalls(false);
            syscalls(true);
        }
        Some("memory") => memory(),
        Some("steps") => {
            steps();
            breakpoint();
        }
        Some("watch") => watch(),
        Some("events") => events(),
        Some("group-stop") => group_stop(),
        Some("attach") => attach(),
        Some("threads") => others::threads(),
        Some("two-watchers") => others::two_watchers(),
        Some("seccomp") => others::seccomp(),
        Some("hidden") => others::hidden(),
        // SAFETY: no pointers.
        Some("dumpable") => say("dumpable", unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }.into()),
        other => {
            eprintln!("traceapi: no test {other:?}");
            std::process::exit(2);
        }
    }
}
