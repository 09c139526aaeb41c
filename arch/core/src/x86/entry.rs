//! The way into the kernel and out again.
//!
//! Every entry leaves a [`TrapFrame`] on the kernel stack. SYSCALL is the short way; interrupts and
//! exceptions come through 256 stubs of [`STUB_SIZE`] bytes. NMI, double fault, machine check and
//! debug exceptions have stacks of their own and find the kernel's GS base at the stack's top,
//! because GS may be anybody's when they strike.
//!
//! The return to user mode looks at the thread's work flags with interrupts off, in a loop, so
//! none is overlooked. SYSRET is used when the frame is one it can restore; everything else goes
//! through IRET.

use crate::thread::flags;
use crate::trap::{TrapFrame, USER_CS, USER_SS};
use crate::x86::local::{CURRENT, STACK_TOP, USER_RSP};
use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicPtr, Ordering};

/// Bytes from one stub to the next.
pub(crate) const STUB_SIZE: usize = 16;

/// The function SYSCALL calls: a `fn(&mut TrapFrame)`.
static SYSCALL_HANDLER: AtomicPtr<()> = AtomicPtr::new(no_syscalls as *mut ());

extern "C" fn no_syscalls(_frame: &mut TrapFrame) {}

/// Sets the function SYSCALL calls.
pub(crate) fn set_syscall_handler(handler: fn(&mut TrapFrame)) {
    // The Rust calling convention passes one pointer as C does; the entry code relies on it, and
    // `syscall_trampoline` would cost another call.
    SYSCALL_HANDLER.store(handler as *mut (), Ordering::Release);
}

unsafe extern "C" {
    static trap_stubs: u8;
    /// Where SYSCALL goes.
    pub(crate) fn syscall_entry();
    /// Where a compatibility-mode SYSCALL goes: there is none, it gets ENOSYS.
    pub(crate) fn syscall32_entry();
    /// Returns to what the frame at the stack pointer describes, interrupts off.
    pub(crate) fn return_from_trap();
}

/// The address of the first stub.
pub(crate) fn stubs_start() -> u64 {
    &raw const trap_stubs as u64
}

const FRAME: usize = size_of::<TrapFrame>();
const RIP: usize = offset_of!(TrapFrame, rip);
const CS: usize = offset_of!(TrapFrame, cs);
const RFLAGS: usize = offset_of!(TrapFrame, rflags);
const SS: usize = offset_of!(TrapFrame, ss);
const RCX: usize = offset_of!(TrapFrame, rcx);
const R11: usize = offset_of!(TrapFrame, r11);
const ORIG: usize = offset_of!(TrapFrame, orig_rax);

global_asm!(
    r#"
/* A place for CLAC or STAC: three bytes of nothing until the processor is known to have them. */
.macro SMAP_SITE which
    .pushsection .smap_sites, "a", @progbits
    .long 99f - .
    .long \which
    .popsection
99: .byte 0x0f, 0x1f, 0x00
.endm

.macro PUSH_R8_TO_R15
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
.endm

/* After orig_rax and rdi. */
.macro PUSH_REST
    push rdx
    push rcx
    push rax
    PUSH_R8_TO_R15
.endm

.macro POP_ALL
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
.endm

.section .text.entry, "ax", @progbits

.balign 64
.globl syscall_entry
syscall_entry:
    swapgs
    mov gs:[{user_rsp}], rsp
    mov rsp, gs:[{stack_top}]
    push {user_ss}
    push qword ptr gs:[{user_rsp}]
    push r11
    push {user_cs}
    push rcx
    push rax
    push rdi
    push rsi
    push rdx
    push rcx
    push -38
    PUSH_R8_TO_R15
    mov rdi, rsp
    sub rsp, 8
    sti
    call qword ptr [rip + {handler}]
    add rsp, 8
    cli
    mov rax, gs:[{current}]
    test dword ptr [rax], {work}
    jnz 2f
7:  mov rcx, [rsp + {rip}]
    mov r11, [rsp + {rflags}]
    cmp rcx, [rsp + {rcx}]
    jne return_to_user
    cmp r11, [rsp + {r11}]
    jne return_to_user
    mov rdx, rcx
    shr rdx, 47
    jnz return_to_user
    cmp dword ptr [rsp + {cs}], {user_cs}
    jne return_to_user
    cmp dword ptr [rsp + {ss}], {user_ss}
    jne return_to_user
    test r11d, 0x10100
    jnz return_to_user
    POP_ALL
    mov rsp, [rsp + 32]
    swapgs
    sysretq

2:  mov rdi, rsp
    sub rsp, 8
    call {exit_work}
    add rsp, 8
    jmp 7b

.balign 16
.globl syscall32_entry
syscall32_entry:
    mov eax, -38
    .byte 0x0f, 0x07

.balign 16
.globl return_from_trap
return_from_trap:
    test byte ptr [rsp + {cs}], 3
    jz return_to_kernel
return_to_user:
    POP_ALL
    add rsp, 8
    swapgs
.globl user_iret
user_iret:
    iretq

return_to_kernel:
    POP_ALL
    add rsp, 8
    iretq

/* Stack: vector, error code or -1, rip, cs, rflags, rsp, ss. */
.balign 16
common_exception:
    push rsi
    mov esi, [rsp + 8]
    mov [rsp + 8], rdi
    PUSH_REST
    cld
    SMAP_SITE 0
    test byte ptr [rsp + {cs}], 3
    jz 3f
    swapgs
4:  mov rdx, [rsp + {orig}]
    mov qword ptr [rsp + {orig}], -1
    mov rdi, rsp
    sub rsp, 8
    call {exception}
    add rsp, 8
    jmp return_from_trap
3:  lea rax, [rip + user_iret]
    cmp rax, [rsp + {rip}]
    jne 4b
    /* The frame to return to was bad: GS is the user's already. Blame the program. */
    swapgs
    mov ebx, esi
    mov r12, [rsp + {orig}]
    mov rdi, rsp
    sub rsp, 8
    call {bad_iret}
    mov rsp, rax
    mov esi, ebx
    mov [rsp + {orig}], r12
    jmp 4b

.balign 16
common_interrupt:
    push rsi
    mov esi, [rsp + 8]
    mov [rsp + 8], rdi
    PUSH_REST
    cld
    SMAP_SITE 0
    test byte ptr [rsp + {cs}], 3
    jz 5f
    swapgs
5:  mov rdi, rsp
    sub rsp, 8
    call {interrupt}
    add rsp, 8
    jmp return_from_trap

/* On a stack of its own. GS is put right by value and put back by value. */
.balign 16
common_paranoid:
    push rsi
    mov esi, [rsp + 8]
    mov [rsp + 8], rdi
    PUSH_REST
    cld
    SMAP_SITE 0
    mov ebx, esi
    cmp ebx, 1
    jne 6f
    test byte ptr [rsp + {cs}], 3
    jnz debug_from_user
6:  mov ecx, 0xc0000101
    rdmsr
    shl rdx, 32
    mov r12d, eax
    or r12, rdx
    mov rdx, [rsp + {frame}]
    mov eax, edx
    shr rdx, 32
    wrmsr
    mov esi, ebx
    mov rdx, [rsp + {orig}]
    mov rdi, rsp
    sub rsp, 8
    call {paranoid}
    add rsp, 8
    mov ecx, 0xc0000101
    mov rdx, r12
    mov eax, edx
    shr rdx, 32
    wrmsr
    jmp return_to_kernel

/* A debug exception of a program moves to the thread's stack and is one like all others. */
debug_from_user:
    swapgs
    mov rsi, rsp
    mov rdi, gs:[{stack_top}]
    sub rdi, {frame}
    mov rsp, rdi
    mov ecx, {frame} / 8
    rep movsq
    mov esi, ebx
    jmp 4b

.balign 16
.globl trap_stubs
trap_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)
    push -1
    .endif
    .byte 0x68
    .long vector
    .if (vector == 1) || (vector == 2) || (vector == 8) || (vector == 18)
    jmp common_paranoid
    .elseif vector < 32
    jmp common_exception
    .else
    jmp common_interrupt
    .endif
    .set vector, vector + 1
.endr
.text
"#,
    user_rsp = const USER_RSP,
    stack_top = const STACK_TOP,
    current = const CURRENT,
    user_ss = const USER_SS,
    user_cs = const USER_CS,
    work = const flags::WORK_MASK,
    handler = sym SYSCALL_HANDLER,
    exit_work = sym crate::hooks::machine_exit_work,
    exception = sym crate::hooks::machine_exception,
    interrupt = sym crate::hooks::machine_interrupt,
    paranoid = sym crate::hooks::machine_paranoid,
    bad_iret = sym super::switch::bad_iret,
    frame = const FRAME,
    rip = const RIP,
    cs = const CS,
    rflags = const RFLAGS,
    ss = const SS,
    rcx = const RCX,
    r11 = const R11,
    orig = const ORIG,
);
