//! Segments and descriptor tables: jumps to selectors that a program may not use, and the
//! instructions that UMIP takes from programs.

use core::arch::asm;

use super::cpu::{DATA, NOTHING, try_it};

/// What a far transfer may name: nothing, the kernel's code and data, a program's data, a task
/// state, what lies past the table, and what lies in a local table, which is empty.
const SELECTORS: [u16; 7] = [0, 3, 0x10, 0x2b, 0x40, 0xf8, 0xffff];

/// Runs all of it.
pub(super) fn run() {
    for selector in SELECTORS.map(u64::from) {
        far_transfers(selector);
        loads(selector);
    }
    stores();
}

/// `retfq`, `jmp far`, `call far` and `iretq` to a code selector, and `iretq` with it as the stack's.
fn far_transfers(selector: u64) {
    // SAFETY: in a child, for which a trap is the aim.
    try_it(&format!("far return to {selector:x}"), || unsafe {
        asm!("push {0}", "lea {1}, [rip + 2f]", "push {1}", "retfq", "2:", in(reg) selector, out(reg) _);
    });
    let pointer = [0u64, selector];
    // SAFETY: as above.
    try_it(&format!("far jump to {selector:x}"), || unsafe {
        asm!("rex64 jmp fword ptr [{}]", in(reg) &pointer, options(noreturn));
    });
    // SAFETY: as above.
    try_it(&format!("far call to {selector:x}"), || unsafe {
        asm!("rex64 call fword ptr [{}]", in(reg) &pointer, options(noreturn));
    });
    // SAFETY: as above.
    try_it(&format!("iret to {selector:x}"), || unsafe {
        asm!("push 0x2b", "lea {1}, [rsp - 64]", "push {1}", "push 0x202", "push {0}", "lea {1}, [rip + 2f]",
            "push {1}", "iretq", "2:", "ud2", in(reg) selector, in(reg) 0u64, options(noreturn));
    });
    // SAFETY: as above.
    try_it(&format!("iret with stack {selector:x}"), || unsafe {
        asm!("push {0}", "lea {1}, [rsp - 64]", "push {1}", "push 0x202", "push 0x33", "lea {1}, [rip + 2f]",
            "push {1}", "iretq", "2:", "ud2", in(reg) selector, in(reg) 0u64, options(noreturn));
    });
}

/// Loads of the data segment registers.
fn loads(selector: u64) {
    macro_rules! load {
        ($register:literal) => {
            // SAFETY: in a child, for which a trap is the aim.
            try_it(&format!("{} = {selector:x}", $register), || unsafe {
                asm!(concat!("mov ", $register, ", {0:x}"), in(reg) selector);
            })
        };
    }
    load!("ds");
    load!("es");
    load!("fs");
    load!("gs");
    load!("ss");
}

/// `sgdt` and its relatives, to memory and to registers. What processors answer would differ from
/// one to the next; what the kernel answers in their place does not.
fn stores() {
    // Bytes that must stay as they are show how much is written.
    let mut place = [0xa5u8; 32];
    macro_rules! to_memory {
        ($name:expr, $text:expr) => {
            try_it(concat!($name, " to memory"), || {
                // SAFETY: as above.
                unsafe { asm!($text, in("rdi") place.as_mut_ptr(), in("rcx") 1usize) };
                println!("  {place:x?}");
            })
        };
    }
    macro_rules! to_register {
        ($name:expr, $text:expr) => {
            try_it(concat!($name, " to a register"), || {
                let answer: u64;
                // SAFETY: as above.
                unsafe { asm!($text, inlateout("rax") 0xa5a5_a5a5_a5a5_a5a5u64 => answer) };
                println!("  {answer:x}");
            })
        };
    }
    to_memory!("sgdt", "sgdt [rdi]");
    to_memory!("sgdt", "sgdt [rdi + 8*rcx + 4]");
    to_memory!("sidt", "sidt [rdi - 0x40 + 8*rcx + 0x40]");
    to_memory!("smsw", "smsw [rdi]");
    to_memory!("sldt", "sldt [rdi]");
    to_memory!("str", "str [rdi]");
    to_register!("smsw", "smsw rax");
    to_register!("smsw", "smsw eax");
    to_register!("smsw", "smsw ax");
    to_register!("sldt", "sldt rax");
    to_register!("sldt", "sldt eax");
    to_register!("sldt", "sldt ax");
    to_register!("str", "str rax");
    to_register!("str", "str eax");
    to_register!("str", "str ax");
    to_register!("str", "mov r9, rax\nstr r9\nmov rax, r9");
    for (name, at) in [("null", 0), ("nothing", NOTHING), ("the last byte", DATA + 0xffff)] {
        // SAFETY: as above.
        try_it(&format!("sgdt to {name}"), || unsafe { asm!("sgdt [{}]", in(reg) at) });
        // SAFETY: as above.
        try_it(&format!("smsw to {name}"), || unsafe { asm!("smsw [{}]", in(reg) at) });
        // SAFETY: as above.
        try_it(&format!("str to {name}"), || unsafe { asm!("str [{}]", in(reg) at) });
    }
    // SAFETY: as above; the thread's segment starts elsewhere.
    try_it("sidt in another segment", || unsafe {
        asm!("sub rsp, 16", "wrgsbase {0}", "sidt gs:[8]", "add rsp, 16", in(reg) DATA);
        println!("  {:x?}", (DATA as *const [u8; 24]).read_volatile());
    });
    // SAFETY: as above.
    try_it("sgdt by the instruction's place", || unsafe {
        asm!("sgdt [rip + {}]", sym WRITABLE);
        println!("  {:x?}", (&raw const WRITABLE).read_volatile());
    });
    // SAFETY: as above.
    try_it("sgdt with a short address", || unsafe {
        asm!("sgdt [edi]", in("rdi") DATA | 0xffff_0000_0000_0000);
        println!("  {:x?}", (DATA as *const [u8; 24]).read_volatile());
    });
}

static mut WRITABLE: [u8; 16] = [0; 16];
