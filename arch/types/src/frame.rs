//! What is saved on entry to the kernel, and what the processor says about faults.

use crate::addr::VirtAddr;
use zerocopy::{FromBytes, IntoBytes};

/// The registers of the interrupted program at the top of its kernel stack, in the order of
/// ptrace's `user_regs_struct`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes)]
#[repr(C)]
#[expect(missing_docs, reason = "each field is the register of its name")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The system call number, -1 for other entries (and after signal delivery decided on restart).
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// The code selector of 64-bit programs, as Linux has it.
pub const USER_CS: u64 = 0x33;
/// The stack and data selector of programs.
pub const USER_SS: u64 = 0x2b;
/// The kernel's code selector.
pub const KERNEL_CS: u64 = 0x10;
/// The kernel's data selector.
pub const KERNEL_SS: u64 = 0x18;

/// The bits of `rflags` a program may choose: CF PF AF ZF SF TF DF OF NT RF AC ID.
pub const USER_RFLAGS_MASK: u64 = 0x0025_4dd5;
/// The interrupt flag.
pub const RFLAGS_IF: u64 = 1 << 9;
/// The single-step flag.
pub const RFLAGS_TF: u64 = 1 << 8;

impl TrapFrame {
    /// The frame of a program that starts at `entry` with everything else zero.
    pub fn new_user(entry: VirtAddr, stack: VirtAddr) -> TrapFrame {
        TrapFrame {
            orig_rax: u64::MAX,
            rip: entry.0,
            cs: USER_CS,
            rflags: RFLAGS_IF | 2,
            rsp: stack.0,
            ss: USER_SS,
            ..TrapFrame::default()
        }
    }
    /// Whether the program was in user mode.
    #[inline]
    pub fn is_user(&self) -> bool {
        self.cs & 3 == 3
    }
    /// Whether this is the entry of a system call.
    #[inline]
    pub fn is_syscall(&self) -> bool {
        self.orig_rax as i64 >= 0
    }
    /// The number of the system call.
    #[inline]
    pub fn syscall_number(&self) -> usize {
        self.orig_rax as usize
    }
    /// The six arguments of the system call.
    #[inline]
    pub fn args(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }
    /// Sets the result of the system call.
    #[inline]
    pub fn set_result(&mut self, result: u64) {
        self.rax = result;
    }
    /// Sets `rflags` as far as a program may choose, interrupts staying on.
    pub fn set_user_rflags(&mut self, rflags: u64) {
        let kept = self.rflags & !USER_RFLAGS_MASK;
        self.rflags = kept | rflags & USER_RFLAGS_MASK | RFLAGS_IF | 2;
    }
}

/// The error code of a page fault. SDM vol. 3A 4.7.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultCode(pub u64);

impl FaultCode {
    /// The page was present: a matter of rights.
    pub const PRESENT: u64 = 1;
    /// The access was a write.
    pub const WRITE: u64 = 2;
    /// The access came from user mode.
    pub const USER: u64 = 4;
    /// A page-table entry had reserved bits set.
    pub const RESERVED: u64 = 8;
    /// The access fetched an instruction.
    pub const FETCH: u64 = 16;
    /// A protection key forbade it.
    pub const PROTECTION_KEY: u64 = 32;

    /// Whether the page was present.
    #[inline]
    pub fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }
    /// Whether the access was a write.
    #[inline]
    pub fn is_write(self) -> bool {
        self.0 & Self::WRITE != 0
    }
    /// Whether the access came from user mode.
    #[inline]
    pub fn is_user(self) -> bool {
        self.0 & Self::USER != 0
    }
    /// Whether the access fetched an instruction.
    #[inline]
    pub fn is_fetch(self) -> bool {
        self.0 & Self::FETCH != 0
    }
}

/// What became of a page fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultOutcome {
    /// Try the access again; in user mode also when a signal was queued instead.
    Resolved,
    /// The address is bad. In kernel mode the copy routine returns `Fault`.
    Unresolved,
}

/// Exception vectors. SDM vol. 3A 6.3.1.
#[expect(missing_docs, reason = "each is the exception of its name")]
pub mod vector {
    pub const DIVIDE: u8 = 0;
    pub const DEBUG: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BREAKPOINT: u8 = 3;
    pub const OVERFLOW: u8 = 4;
    pub const BOUND: u8 = 5;
    pub const INVALID_OPCODE: u8 = 6;
    pub const DEVICE_NOT_AVAILABLE: u8 = 7;
    pub const DOUBLE_FAULT: u8 = 8;
    pub const INVALID_TSS: u8 = 10;
    pub const SEGMENT_NOT_PRESENT: u8 = 11;
    pub const STACK: u8 = 12;
    pub const GENERAL_PROTECTION: u8 = 13;
    pub const PAGE_FAULT: u8 = 14;
    pub const FLOATING_POINT: u8 = 16;
    pub const ALIGNMENT: u8 = 17;
    pub const MACHINE_CHECK: u8 = 18;
    pub const SIMD: u8 = 19;
    pub const CONTROL_PROTECTION: u8 = 21;
}
