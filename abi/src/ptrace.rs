//! Numbers and layouts of `ptrace(2)`.

#![expect(missing_docs, reason = "the names are Linux's; the man pages document them")]

/// Requests.
pub mod request {
    pub const TRACEME: u32 = 0;
    pub const PEEKTEXT: u32 = 1;
    pub const PEEKDATA: u32 = 2;
    pub const PEEKUSR: u32 = 3;
    pub const POKETEXT: u32 = 4;
    pub const POKEDATA: u32 = 5;
    pub const POKEUSR: u32 = 6;
    pub const CONT: u32 = 7;
    pub const KILL: u32 = 8;
    pub const SINGLESTEP: u32 = 9;
    pub const GETREGS: u32 = 12;
    pub const SETREGS: u32 = 13;
    pub const GETFPREGS: u32 = 14;
    pub const SETFPREGS: u32 = 15;
    pub const ATTACH: u32 = 16;
    pub const DETACH: u32 = 17;
    pub const OLDSETOPTIONS: u32 = 21;
    pub const SYSCALL: u32 = 24;
    pub const ARCH_PRCTL: u32 = 30;
    pub const SYSEMU: u32 = 31;
    pub const SYSEMU_SINGLESTEP: u32 = 32;
    pub const SETOPTIONS: u32 = 0x4200;
    pub const GETEVENTMSG: u32 = 0x4201;
    pub const GETSIGINFO: u32 = 0x4202;
    pub const SETSIGINFO: u32 = 0x4203;
    pub const GETREGSET: u32 = 0x4204;
    pub const SETREGSET: u32 = 0x4205;
    pub const SEIZE: u32 = 0x4206;
    pub const INTERRUPT: u32 = 0x4207;
    pub const LISTEN: u32 = 0x4208;
    pub const PEEKSIGINFO: u32 = 0x4209;
    pub const GETSIGMASK: u32 = 0x420a;
    pub const SETSIGMASK: u32 = 0x420b;
    pub const GET_SYSCALL_INFO: u32 = 0x420e;
    pub const GET_RSEQ_CONFIGURATION: u32 = 0x420f;
}

/// `PTRACE_O_*`.
pub mod option {
    pub const TRACESYSGOOD: u32 = 1;
    pub const TRACEFORK: u32 = 2;
    pub const TRACEVFORK: u32 = 4;
    pub const TRACECLONE: u32 = 8;
    pub const TRACEEXEC: u32 = 0x10;
    pub const TRACEVFORKDONE: u32 = 0x20;
    pub const TRACEEXIT: u32 = 0x40;
    pub const TRACESECCOMP: u32 = 0x80;
    pub const EXITKILL: u32 = 1 << 20;
    /// Those that are known; `PTRACE_O_SUSPEND_SECCOMP` is not.
    pub const MASK: u32 = 0xff | EXITKILL;
}

/// `PTRACE_EVENT_*`.
pub mod event {
    pub const FORK: u32 = 1;
    pub const VFORK: u32 = 2;
    pub const CLONE: u32 = 3;
    pub const EXEC: u32 = 4;
    pub const VFORK_DONE: u32 = 5;
    pub const EXIT: u32 = 6;
    pub const SECCOMP: u32 = 7;
    pub const STOP: u32 = 128;
}

/// `PTRACE_SYSCALL_INFO_*`.
pub mod syscall_info {
    pub const NONE: u8 = 0;
    pub const ENTRY: u8 = 1;
    pub const EXIT: u8 = 2;
    pub const SECCOMP: u8 = 3;
}

/// Kinds of registers for `PTRACE_GETREGSET`: notes of core files.
pub mod regset {
    pub const PRSTATUS: u32 = 1;
    pub const PRFPREG: u32 = 2;
    pub const X86_XSTATE: u32 = 0x202;
}

/// `struct user` of `sys/user.h`: where its parts are.
pub mod user {
    pub const REGS_LEN: u64 = 27 * 8;
    pub const DEBUGREG: u64 = 848;
    pub const DEBUGREG_END: u64 = 912;
    pub const LEN: u64 = 928;
}

/// `AUDIT_ARCH_X86_64`.
pub const ARCH_X86_64: u32 = 0xc000_003e;
