//! Instructions and signal frames that no good program has: which signal each ends in.
//!
//! Left out is what depends on the processor: addresses between the user halves of four and five
//! levels of page tables.

use core::arch::asm;
use std::ptr;

/// A page that may be written and not executed, a page of nothing, and what is no user memory.
pub(super) const DATA: usize = 0x2100_0000;
pub(super) const NOTHING: usize = 0x2200_0000;
const KERNEL: usize = 0xffff_8800_0000_0000;
const NOT_CANONICAL: usize = 0x0100_0000_0000_0000;

/// Says which signal came, with which code and address, and ends the process.
extern "C" fn tell(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes both; the process ends here.
    unsafe {
        let context: &libc::ucontext_t = &*context.cast();
        let rip = context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize;
        let trap = context.uc_mcontext.gregs[libc::REG_TRAPNO as usize];
        let error = context.uc_mcontext.gregs[libc::REG_ERR as usize];
        let at = (*info).si_addr() as usize;
        let place = match at {
            _ if at == rip && at > 0x1000 && (at >> 44) != 0xfffff => {
                "at the instruction".to_string()
            }
            _ => format!("at {at:x}"),
        };
        println!("  signal {signal} code {} {place} trap {trap} error {error:x}", (*info).si_code);
        libc::_exit(0);
    }
}

/// Runs `body` in a child and says how it ended.
pub(super) fn try_it(name: &str, body: impl FnOnce()) {
    println!("{name}");
    // SAFETY: the child leaves by _exit.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::alarm(3);
            let stack = libc::mmap(
                ptr::null_mut(),
                1 << 16,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            let other = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: 1 << 16 };
            libc::sigaltstack(&other, ptr::null_mut());
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = tell as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
                libc::sigaction(signal, &action, ptr::null_mut());
            }
            body();
            println!("  went on");
            libc::_exit(0);
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        if status != 0 {
            println!("  status {status:x}");
        }
    }
}

macro_rules! instruction {
    ($name:expr, $($text:tt)*) => {
        // SAFETY: in a child, for which a trap is the aim.
        try_it($name, || unsafe { asm!($($text)*, out("rax") _, out("rcx") _, out("rdx") _, out("r11") _) })
    };
}

/// Runs one part, `instructions`, `segments`, `addresses` or `frames`, or all of them.
pub(crate) fn run(part: Option<&str>) {
    // SAFETY: a fresh mapping at a free place.
    unsafe {
        libc::mmap(
            DATA as *mut _,
            0x1_0000,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        );
    }
    let parts: [(&str, fn()); 4] = [
        ("instructions", instructions),
        ("segments", super::segments::run),
        ("addresses", addresses),
        ("frames", frames),
    ];
    for (name, run) in parts {
        if part.is_none_or(|part| part == name) {
            run();
        }
    }
}

fn instructions() {
    instruction!("hlt", "hlt");
    instruction!("cli", "cli");
    instruction!("in", "in al, 0x60");
    instruction!("out", "mov al, 1", "out 0x60, al");
    instruction!("rdmsr", "mov ecx, 0x1b", "rdmsr");
    instruction!("read cr0", "mov rax, cr0");
    instruction!("write cr3", "xor eax, eax", "mov cr3, rax");
    instruction!("debug register", "mov rax, dr7");
    instruction!("wbinvd", "wbinvd");
    instruction!("invlpg", "invlpg [rsp]");
    instruction!("ltr", "mov eax, 8", "ltr ax");
    instruction!("lgdt", "lgdt [rsp]");
    instruction!("swapgs", "swapgs");
    instruction!("sysret", "sysretq");
    instruction!("ud2", "ud2");
    instruction!("int3", "int3");
    instruction!("icebp", ".byte 0xf1");
    instruction!("int 0", "int 0");
    instruction!("int 2", "int 2");
    instruction!("int 13", "int 13");
    instruction!("int 14", "int 14");
    instruction!("int 0x20", "int 0x20");
    instruction!("int 0xff", "int 0xff");
    instruction!("int 4", "int 4");
    instruction!("divide by zero", "xor ecx, ecx", "mov eax, 1", "cdq", "div ecx");
    instruction!("divide overflow", "mov ecx, -1", "mov eax, 0x80000000", "cdq", "idiv ecx");
    instruction!(
        "alignment",
        "pushfq",
        "or qword ptr [rsp], 0x40000",
        "popfq",
        "mov rax, [rsp + 1]"
    );
    instruction!("single step", "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop");
    instruction!(
        "single step of a call",
        "pushfq",
        "or qword ptr [rsp], 0x100",
        "mov eax, 39",
        "popfq",
        "syscall",
        "nop"
    );
    instruction!("selector in ds", "mov eax, 0xffff", "mov ds, ax");
    instruction!("kernel selector in ds", "mov eax, 0x10", "mov ds, ax");
    instruction!("tss selector in es", "mov eax, 0x40", "mov es, ax");
    instruction!("kernel selector in ss", "mov eax, 0x18", "mov ss, ax");
    instruction!("null in ss", "xor eax, eax", "mov ss, ax");
    instruction!("null in gs", "xor eax, eax", "mov gs, ax");
    instruction!(
        "iret to the kernel",
        "push 0x18",
        "push rsp",
        "push 2",
        "push 0x10",
        "push 0",
        "iretq"
    );
    instruction!("far return to nothing", "push 0xf8", "push 0", "retfq");
    instruction!("lldt", "mov eax, 0x2b", "lldt ax");
    instruction!(
        "mxcsr",
        "sub rsp, 8",
        "mov dword ptr [rsp], 0xffffffff",
        "ldmxcsr [rsp]",
        "add rsp, 8"
    );
    instruction!(
        "sse divide",
        "sub rsp, 8",
        "mov dword ptr [rsp], 0x1d80",
        "ldmxcsr [rsp]",
        "xorps xmm0, xmm0",
        "mov eax, 1",
        "cvtsi2ss xmm1, eax",
        "divss xmm1, xmm0",
        "add rsp, 8"
    );
    instruction!(
        "x87 divide",
        "sub rsp, 8",
        "mov dword ptr [rsp], 0x37b",
        "fldcw [rsp]",
        "fld1",
        "fldz",
        "fdivp",
        "fwait",
        "add rsp, 8"
    );
    instruction!("xsetbv", "xor ecx, ecx", "xgetbv", "xsetbv");
    instruction!(
        "xrstor of rubbish",
        "mov eax, -1",
        "mov edx, -1",
        "mov r11, 0x21000001",
        "xrstor [r11]"
    );
    instruction!("fs base", "mov rax, 0x1000000000000", "wrfsbase rax");
    instruction!(
        "gs base in the kernel",
        "mov rax, 0xffff800000000000",
        "wrgsbase rax",
        "mov rax, gs:[0]"
    );
}

fn jump(to: usize) {
    // SAFETY: in a child, for which a trap is the aim.
    unsafe { asm!("jmp {}", in(reg) to) }
}

fn stack(at: usize) {
    // SAFETY: as above.
    unsafe { asm!("mov rsp, {0}", "push rax", "ud2", in(reg) at) }
}

fn addresses() {
    for (name, at) in [
        ("null", 0),
        ("data", DATA),
        ("nothing", NOTHING),
        ("kernel", KERNEL),
        ("kernel text", 0xffff_ffff_8100_0000),
        ("top", usize::MAX - 7),
        ("vsyscall", 0xffff_ffff_ff60_0000),
    ] {
        // SAFETY: as above.
        try_it(&format!("read {name}"), || unsafe { _ = (at as *const u64).read_volatile() });
        // SAFETY: as above.
        try_it(&format!("write {name}"), || unsafe { (at as *mut u64).write_volatile(1) });
        if at != 0xffff_ffff_ff60_0000 {
            try_it(&format!("run {name}"), || jump(at));
        }
        try_it(&format!("stack at {name}"), || stack(at));
        // SAFETY: as above; the handler for SIGUSR1 needs a stack that is not there.
        try_it(&format!("signal on a stack at {name}"), || unsafe {
            libc::signal(libc::SIGUSR1, interrupted as *const () as usize);
            asm!("mov rsp, {0}", "mov eax, 39", "syscall", "mov edi, eax", "mov esi, 10", "mov eax, 62", "syscall",
                "mov edi, 5", "mov eax, 60", "syscall", in(reg) at, options(noreturn));
        });
        // SAFETY: as above.
        try_it(&format!("fs base {name}"), || unsafe {
            println!("  {}", libc::syscall(libc::SYS_arch_prctl, 0x1003, 0));
            let answer: i64;
            asm!("syscall", inlateout("rax") 158i64 => answer, in("rdi") 0x1001, in("rsi") at, out("rcx") _, out("r11") _);
            println!("  gs base: {answer}");
        });
    }
    for offset in [1, 0x3ff, 0x800, 0xc00, 0xfff] {
        try_it(&format!("vsyscall + {offset:x}"), || jump(0xffff_ffff_ff60_0000 + offset));
    }
    for (name, at) in [("null", 0), ("nothing", NOTHING), ("kernel", KERNEL), ("good", DATA)] {
        // SAFETY: as above.
        try_it(&format!("vsyscall gettimeofday {name}"), || unsafe {
            asm!("call rax", inlateout("rax") 0xffff_ffff_ff60_0000u64 => _, in("rdi") at, in("rsi") 0,
                out("rcx") _, out("r11") _);
        });
    }
}

extern "C" fn interrupted(_: i32) {}

/// `rt_sigreturn(2)` from frames of our own making.
fn frames() {
    for (name, at) in
        [("null", 0), ("nothing", NOTHING), ("kernel", KERNEL), ("not canonical", NOT_CANONICAL)]
    {
        // SAFETY: in a child, for which a trap is the aim.
        try_it(&format!("sigreturn at {name}"), || unsafe {
            asm!("mov rsp, {0}", "mov eax, 15", "syscall", "ud2", in(reg) at, options(noreturn));
        });
    }
    // The layout of the frame: struct ucontext, whose registers start at 40.
    let fields: [(&str, usize, &[u64]); 7] = [
        ("rip", 40 + 16 * 8, &[0, NOT_CANONICAL as u64, KERNEL as u64, DATA as u64, u64::MAX]),
        ("rsp", 40 + 15 * 8, &[0, NOT_CANONICAL as u64, KERNEL as u64]),
        (
            "selectors",
            40 + 18 * 8,
            &[0, u64::MAX, 0x0010_0000_0000_0010, 0x002b_0000_0000_0033, 0x0018_0000_0000_0033],
        ),
        ("flags", 40 + 17 * 8, &[0, !0x100, 0x4_0000, 0x3000]),
        (
            "fpstate",
            40 + 23 * 8,
            &[0, 1, NOTHING as u64, KERNEL as u64, DATA as u64, DATA as u64 + 0x8000],
        ),
        ("mask", 296, &[u64::MAX]),
        ("stack size", 32, &[0, 1, u64::MAX]),
    ];
    for (name, at, values) in fields {
        for value in values {
            try_it(&format!("frame {name} = {value:x}"), || frame(at, *value));
        }
    }
    // Frames that do not insist on their stack selector.
    for selector in [0u64, 0x18, 0x2b, 0xffff] {
        try_it(&format!("loose stack selector {selector:x}"), || {
            CHANGES.with(|changes| {
                let selectors = selector << 48 | 0x33;
                changes.set([(0, 1, false), (40 + 18 * 8, selectors, false)]);
            });
            raise();
        });
    }
    // What the extended registers' image may not be.
    for (name, at, value) in [
        ("mxcsr", 24, 0xffff_ffffu64),
        ("magic", 464, 0),
        ("size", 472, u64::MAX),
        ("features", 472 - 8 + 8, 0xffff_ffff),
        ("header", 512, u64::MAX),
        ("compaction", 520, 1 << 63),
        ("reserved", 528, 1),
    ] {
        try_it(&format!("image {name}"), || image(at, value));
    }
}

/// A handler's frame in which one word is changed before it is given back.
fn frame(at: usize, value: u64) {
    CHANGES.with(|changes| changes.set([(at, value, false); 2]));
    raise();
}

fn image(at: usize, value: u64) {
    CHANGES.with(|changes| changes.set([(at, value, true); 2]));
    raise();
}

/// Where in the frame, or in the extended registers' image, which word goes.
type Change = (usize, u64, bool);

thread_local! {
    static CHANGES: std::cell::Cell<[Change; 2]> = const { std::cell::Cell::new([(0, 0, false); 2]) };
}

extern "C" fn change(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    for (at, value, is_image) in CHANGES.with(std::cell::Cell::get) {
        // SAFETY: the kernel made the frame; the offset lies in it.
        unsafe {
            let base: *mut u8 = if is_image {
                (*context.cast::<libc::ucontext_t>()).uc_mcontext.fpregs.cast()
            } else {
                context.cast()
            };
            base.add(at).cast::<u64>().write_unaligned(value);
        }
    }
}

fn raise() {
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = change as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut());
        libc::raise(libc::SIGUSR1);
        let flags: u64;
        asm!("pushfq", "pop {}", out(reg) flags);
        println!("  flags {:x}", flags & !0x8d5);
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_BLOCK, ptr::null(), &mut mask);
        println!(
            "  usr1 blocked {} kill blocked {}",
            libc::sigismember(&mask, libc::SIGUSR1),
            libc::sigismember(&mask, libc::SIGKILL)
        );
    }
}
