//! Moving bytes between kernel and user memory.
//!
//! Small copies are straight 8-byte moves. Large ones are `rep movsb` where the processor is fast
//! at it (ERMS or FSRM); else 64 bytes a round, and from [`LONG`] bytes on, where its start-up pays,
//! `rep movsq`, which every processor of this architecture does in more than a word at a time. A
//! fault in a wide move falls back to single bytes from the last whole round or word, so the number
//! of bytes done is exact.

use crate::user::Fault;
use core::arch::global_asm;

/// Bytes from which `rep movsq` beats a loop on processors without ERMS.
const LONG: usize = 512;

/// Not 0 when `rep movsb` and `rep stosb` are the fast way.
#[unsafe(no_mangle)]
static mut user_copy_by_string: u8 = 0;

/// Says that string instructions are fast.
///
/// # Safety
/// At start-up, while one processor runs.
pub(crate) unsafe fn use_string_instructions() {
    // SAFETY: the caller vouches.
    unsafe { (&raw mut user_copy_by_string).write(1) };
}

/// A value and whether it could be had (0) or not.
#[repr(C)]
struct Outcome {
    value: u64,
    failed: u64,
}

unsafe extern "C" {
    /// Copies; the number of bytes not copied.
    fn user_copy(to: *mut u8, from: *const u8, len: usize) -> usize;
    /// Writes zeros; the number of bytes not written.
    fn user_clear(to: *mut u8, len: usize) -> usize;
    /// Stores half words eight bytes apart; how many.
    fn user_scatter_u16(to: u64, values: *const u16, count: usize) -> usize;
    fn user_load_u32(from: u64) -> Outcome;
    fn user_load_u64(from: u64) -> Outcome;
    fn user_exchange_u32(at: u64, value: u32) -> Outcome;
    fn user_cmpxchg_u32(at: u64, old: u32, new: u32) -> Outcome;
}

global_asm!(
    r#"
.macro USER_SMAP_SITE which
    .pushsection .smap_sites, "a", @progbits
    .long 97f - .
    .long \which
    .popsection
97: .byte 0x0f, 0x1f, 0x00
.endm

.macro MAY_FAULT fixup
    .pushsection .extable, "a", @progbits
    .long 98f - .
    .long \fixup - .
    .popsection
98:
.endm

.section .text.usercopy, "ax", @progbits

.balign 16
.globl user_access_start
user_access_start:
.globl user_copy
user_copy:
    USER_SMAP_SITE 1
    cmp rdx, 8
    jb 5f
    cmp rdx, 64
    jae 60f
    /* 8 to 63 bytes, or the last of more: words, then a word that ends at the end. */
61: sub rdx, 8
    jb 3f
2:
    MAY_FAULT 32f
    mov rax, [rsi]
    MAY_FAULT 32f
    mov [rdi], rax
    add rsi, 8
    add rdi, 8
    sub rdx, 8
    jae 2b
3:  add rdx, 8
    jz 9f
    MAY_FAULT 30f
    mov rax, [rsi + rdx - 8]
    MAY_FAULT 30f
    mov [rdi + rdx - 8], rax
9:  xor eax, eax
    USER_SMAP_SITE 0
    ret

    /* Fewer than 8 bytes. */
5:  test edx, edx
    jz 9b
    cmp edx, 4
    jb 6f
    MAY_FAULT 30f
    mov eax, [rsi]
    MAY_FAULT 30f
    mov ecx, [rsi + rdx - 4]
    MAY_FAULT 30f
    mov [rdi], eax
    MAY_FAULT 30f
    mov [rdi + rdx - 4], ecx
    jmp 9b
6:  cmp edx, 1
    je 7f
    MAY_FAULT 30f
    movzx eax, word ptr [rsi]
    MAY_FAULT 30f
    mov cl, [rsi + rdx - 1]
    MAY_FAULT 30f
    mov [rdi], ax
    MAY_FAULT 30f
    mov [rdi + rdx - 1], cl
    jmp 9b
7:
    MAY_FAULT 31f
    mov al, [rsi]
    MAY_FAULT 31f
    mov [rdi], al
    jmp 9b

    /* 64 bytes or more. */
60: cmp byte ptr [rip + user_copy_by_string], 0
    jne 20f
    cmp rdx, {long}
    jae 21f
    .balign 16
62:
    MAY_FAULT 30f
    mov rax, [rsi]
    MAY_FAULT 30f
    mov rcx, [rsi + 8]
    MAY_FAULT 30f
    mov r8, [rsi + 16]
    MAY_FAULT 30f
    mov r9, [rsi + 24]
    MAY_FAULT 30f
    mov [rdi], rax
    MAY_FAULT 30f
    mov [rdi + 8], rcx
    MAY_FAULT 30f
    mov [rdi + 16], r8
    MAY_FAULT 30f
    mov [rdi + 24], r9
    MAY_FAULT 30f
    mov rax, [rsi + 32]
    MAY_FAULT 30f
    mov rcx, [rsi + 40]
    MAY_FAULT 30f
    mov r8, [rsi + 48]
    MAY_FAULT 30f
    mov r9, [rsi + 56]
    MAY_FAULT 30f
    mov [rdi + 32], rax
    MAY_FAULT 30f
    mov [rdi + 40], rcx
    MAY_FAULT 30f
    mov [rdi + 48], r8
    MAY_FAULT 30f
    mov [rdi + 56], r9
    add rsi, 64
    add rdi, 64
    sub rdx, 64
    cmp rdx, 64
    jae 62b
    test rdx, rdx
    jz 9b
    /* The bytes before are copied: a last word may overlap them. */
    jmp 61b

20: mov rcx, rdx
    MAY_FAULT 33f
    rep movsb
    jmp 9b

    /* Words, then what is left below 8 bytes as a word that ends at the end. */
21: mov rcx, rdx
    shr rcx, 3
    and edx, 7
    MAY_FAULT 34f
    rep movsq
    test edx, edx
    jz 9b
    MAY_FAULT 30f
    mov rax, [rsi + rdx - 8]
    MAY_FAULT 30f
    mov [rdi + rdx - 8], rax
    jmp 9b

    /* Faults. rdx is what is left, but 8 more when a word loop counted ahead. */
34: lea rdx, [rdx + rcx * 8]
    jmp 30f
32: add rdx, 8
30: MAY_FAULT 31f
    mov al, [rsi]
    MAY_FAULT 31f
    mov [rdi], al
    inc rsi
    inc rdi
    dec rdx
    jnz 30b
31: mov rax, rdx
    USER_SMAP_SITE 0
    ret
33: mov rax, rcx
    USER_SMAP_SITE 0
    ret

.balign 16
.globl user_clear
user_clear:
    USER_SMAP_SITE 1
    xor eax, eax
    mov rcx, rsi
    cmp byte ptr [rip + user_copy_by_string], 0
    je 40f
    cmp rsi, 64
    jb 40f
    MAY_FAULT 33b
    rep stosb
    xor eax, eax
    USER_SMAP_SITE 0
    ret
40: cmp rcx, {long}
    jae 51f
    sub rcx, 64
    jb 42f
41:
    MAY_FAULT 46f
    mov [rdi], rax
    MAY_FAULT 46f
    mov [rdi + 8], rax
    MAY_FAULT 46f
    mov [rdi + 16], rax
    MAY_FAULT 46f
    mov [rdi + 24], rax
    MAY_FAULT 46f
    mov [rdi + 32], rax
    MAY_FAULT 46f
    mov [rdi + 40], rax
    MAY_FAULT 46f
    mov [rdi + 48], rax
    MAY_FAULT 46f
    mov [rdi + 56], rax
    add rdi, 64
    sub rcx, 64
    jae 41b
42: add rcx, 64
    sub rcx, 8
    jb 44f
43:
    MAY_FAULT 47f
    mov [rdi], rax
    add rdi, 8
    sub rcx, 8
    jae 43b
44: add rcx, 8
53: test rcx, rcx
    jz 49f
45:
    MAY_FAULT 48f
    mov [rdi], al
    inc rdi
    dec rcx
    jnz 45b
49: xor eax, eax
    USER_SMAP_SITE 0
    ret
51: mov rdx, rcx
    and edx, 7
    shr rcx, 3
    MAY_FAULT 52f
    rep stosq
    mov rcx, rdx
    jmp 53b
52: lea rcx, [rdx + rcx * 8]
    jmp 45b
46: add rcx, 64
    jmp 45b
47: add rcx, 8
    jmp 45b
48: mov rax, rcx
    USER_SMAP_SITE 0
    ret

/* Half words from rsi, rdx of them and at least one, to every eighth byte from rdi on: how many. */
.balign 16
.globl user_scatter_u16
user_scatter_u16:
    USER_SMAP_SITE 1
    xor eax, eax
56: movzx ecx, word ptr [rsi + rax * 2]
    MAY_FAULT 57f
    mov [rdi + rax * 8], cx
    inc rax
    cmp rax, rdx
    jb 56b
57: USER_SMAP_SITE 0
    ret

.balign 16
.globl user_load_u32
user_load_u32:
    USER_SMAP_SITE 1
    xor edx, edx
    MAY_FAULT 50f
    mov eax, [rdi]
    USER_SMAP_SITE 0
    ret
.balign 16
.globl user_load_u64
user_load_u64:
    USER_SMAP_SITE 1
    xor edx, edx
    MAY_FAULT 50f
    mov rax, [rdi]
    USER_SMAP_SITE 0
    ret
.balign 16
.globl user_exchange_u32
user_exchange_u32:
    USER_SMAP_SITE 1
    mov eax, esi
    xor edx, edx
    MAY_FAULT 50f
    xchg [rdi], eax
    USER_SMAP_SITE 0
    ret
.balign 16
.globl user_cmpxchg_u32
user_cmpxchg_u32:
    USER_SMAP_SITE 1
    mov eax, esi
    mov ecx, edx
    xor edx, edx
    MAY_FAULT 50f
    lock cmpxchg [rdi], ecx
    USER_SMAP_SITE 0
    ret
50: mov edx, 1
    USER_SMAP_SITE 0
    ret
.globl user_access_end
user_access_end:
.text
"#,
    long = const LONG,
);

#[inline(always)]
pub(crate) unsafe fn copy_in(to: *mut u8, from: u64, len: usize) -> usize {
    // SAFETY: the caller vouches for the destination; faults on the source are caught.
    len - unsafe { user_copy(to, from as *const u8, len) }
}

#[inline(always)]
pub(crate) unsafe fn copy_out(to: u64, from: *const u8, len: usize) -> usize {
    // SAFETY: the caller vouches for the source; faults on the destination are caught.
    len - unsafe { user_copy(to as *mut u8, from, len) }
}

#[inline(always)]
pub(crate) unsafe fn clear(to: u64, len: usize) -> usize {
    // SAFETY: faults on the destination are caught.
    len - unsafe { user_clear(to as *mut u8, len) }
}

impl Outcome {
    #[inline(always)]
    fn get(self) -> Result<u64, Fault> {
        if self.failed == 0 { Ok(self.value) } else { Err(Fault) }
    }
}

#[inline(always)]
pub(crate) unsafe fn scatter_u16(to: u64, values: &[u16]) -> usize {
    if values.is_empty() {
        return 0;
    }
    // SAFETY: user addresses; faults are caught. There is a value at least.
    unsafe { user_scatter_u16(to, values.as_ptr(), values.len()) }
}

#[inline(always)]
pub(crate) unsafe fn load_u32(from: u64) -> Result<u32, Fault> {
    // SAFETY: a user address; faults are caught.
    unsafe { user_load_u32(from) }.get().map(|value| value as u32)
}

#[inline(always)]
pub(crate) unsafe fn load_u64(from: u64) -> Result<u64, Fault> {
    // SAFETY: a user address; faults are caught.
    unsafe { user_load_u64(from) }.get()
}

#[inline(always)]
pub(crate) unsafe fn exchange_u32(at: u64, value: u32) -> Result<u32, Fault> {
    // SAFETY: a user address; faults are caught.
    unsafe { user_exchange_u32(at, value) }.get().map(|value| value as u32)
}

#[inline(always)]
pub(crate) unsafe fn cmpxchg_u32(at: u64, old: u32, new: u32) -> Result<u32, Fault> {
    // SAFETY: a user address; faults are caught.
    unsafe { user_cmpxchg_u32(at, old, new) }.get().map(|value| value as u32)
}
