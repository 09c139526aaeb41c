//! The object itself: ELF header, tables for the dynamic linker, code. ELF-64 specification; symbol
//! versions as in the LSB's "Symbol Versioning".

use core::arch::global_asm;

unsafe extern "C" {
    static vdso_image_start: u8;
    static vdso_image_end: u8;
}

/// The bytes of the object, whole pages.
pub fn bytes() -> &'static [u8] {
    let start = &raw const vdso_image_start;
    let len = &raw const vdso_image_end as usize - start as usize;
    // SAFETY: the assembly below put the object between the two symbols; it is never written.
    unsafe { core::slice::from_raw_parts(start, len) }
}

// On the host the object is executable in place, for its tests; below it is a data page that
// says, by an odd sequence, that the counter is not to be read.
#[cfg(target_os = "none")]
macro_rules! section {
    () => {
        ".section .vdso, \"a\", @progbits\n.balign 4096\n"
    };
}
#[cfg(not(target_os = "none"))]
macro_rules! section {
    () => {
        ".section .text.vdso, \"ax\", @progbits\n.balign 4096\n.long 1\n.skip 4092\n"
    };
}

global_asm!(
    section!(),
    r#"
.globl vdso_image_start
vdso_image_start:
.set DATA, vdso_image_start - 4096

/* ELF header. */
    .byte 0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0
    .quad 0
    .short 3, 62
    .long 1
    .quad 0
    .quad vdso_phdr - vdso_image_start
    .quad 0
    .long 0
    .short 64, 56, 3, 64, 0, 0

vdso_phdr:
/* PT_LOAD, R+X: everything. */
    .long 1, 5
    .quad 0, 0, 0
    .quad vdso_content_end - vdso_image_start
    .quad vdso_content_end - vdso_image_start
    .quad 4096
/* PT_DYNAMIC */
    .long 2, 4
    .quad vdso_dynamic - vdso_image_start
    .quad vdso_dynamic - vdso_image_start
    .quad vdso_dynamic - vdso_image_start
    .quad vdso_dynamic_end - vdso_dynamic
    .quad vdso_dynamic_end - vdso_dynamic
    .quad 8
/* PT_NOTE */
    .long 4, 4
    .quad vdso_note - vdso_image_start
    .quad vdso_note - vdso_image_start
    .quad vdso_note - vdso_image_start
    .quad vdso_note_end - vdso_note
    .quad vdso_note_end - vdso_note
    .quad 4

.macro SYMBOL name, function, end, binding
    .long \name - vdso_strings
    .byte (\binding << 4) | 2
    .byte 0
    .short 1
    .quad \function - vdso_image_start
    .quad \end - \function
.endm

.balign 8
vdso_symbols:
    .quad 0, 0, 0
    SYMBOL vdso_s1, vdso_clock_gettime, vdso_clock_gettime_end, 1
    SYMBOL vdso_s2, vdso_gettimeofday, vdso_gettimeofday_end, 1
    SYMBOL vdso_s3, vdso_time, vdso_time_end, 1
    SYMBOL vdso_s4, vdso_getcpu, vdso_getcpu_end, 1
    SYMBOL vdso_s5, vdso_clock_getres, vdso_clock_getres_end, 1
    SYMBOL vdso_w1, vdso_clock_gettime, vdso_clock_gettime_end, 2
    SYMBOL vdso_w2, vdso_gettimeofday, vdso_gettimeofday_end, 2
    SYMBOL vdso_w3, vdso_time, vdso_time_end, 2
    SYMBOL vdso_w4, vdso_getcpu, vdso_getcpu_end, 2
    SYMBOL vdso_w5, vdso_clock_getres, vdso_clock_getres_end, 2
/* The version's own symbol. */
    .long vdso_version - vdso_strings
    .byte 0x11, 0
    .short 0xfff1
    .quad 0, 0

/* One bucket: a chain through all symbols. */
.balign 8
vdso_hash:
    .long 1, 12
    .long 1
    .long 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0

.balign 8
vdso_versions:
    .short 0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2

.balign 8
vdso_definitions:
/* The object itself. */
    .short 1, 1, 1, 1
    .long 0xdeebfa1
    .long 20, 28
    .long vdso_soname - vdso_strings, 0
/* LINUX_2.6 */
    .short 1, 0, 2, 1
    .long 0x03ae75f6
    .long 20, 0
    .long vdso_version - vdso_strings, 0

vdso_strings:
    .byte 0
vdso_s1: .ascii "__vdso_"
vdso_w1: .asciz "clock_gettime"
vdso_s2: .ascii "__vdso_"
vdso_w2: .asciz "gettimeofday"
vdso_s3: .ascii "__vdso_"
vdso_w3: .asciz "time"
vdso_s4: .ascii "__vdso_"
vdso_w4: .asciz "getcpu"
vdso_s5: .ascii "__vdso_"
vdso_w5: .asciz "clock_getres"
vdso_soname: .asciz "linux-vdso.so.1"
vdso_version: .asciz "LINUX_2.6"
vdso_strings_end:

.balign 4
vdso_note:
/* NT_VERSION of "Linux": 5.4.0. */
    .long 6, 4, 0
    .asciz "Linux"
    .balign 4
    .long 0x00050400
vdso_note_end:

.balign 8
vdso_dynamic:
    .quad 14, vdso_soname - vdso_strings
    .quad 4, vdso_hash - vdso_image_start
    .quad 5, vdso_strings - vdso_image_start
    .quad 6, vdso_symbols - vdso_image_start
    .quad 10, vdso_strings_end - vdso_strings
    .quad 11, 24
    .quad 0x6ffffffc, vdso_definitions - vdso_image_start
    .quad 0x6ffffffd, 2
    .quad 0x6ffffff0, vdso_versions - vdso_image_start
    .quad 0, 0
vdso_dynamic_end:

/* The clock whose id is in edi, in nanoseconds in rax; r8 is the data page. Uses rcx, rdx, r9. */
.macro READ_CLOCK fallback
70: mov r9d, [r8]
    test r9d, 1
    jnz 71f
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, [r8 + 8]
    jns 72f
    xor eax, eax
72: mul qword ptr [r8 + 16]
    shrd rax, rdx, 32
    add rax, [r8 + 24]
    mov ecx, edi
    add rax, [r8 + rcx * 8 + 32]
    cmp r9d, [r8]
    je 73f
    /* Being changed, or the counter is not to be read. */
71: cmp dword ptr [r8 + 4], 1
    jne \fallback
    pause
    jmp 70b
73:
.endm

/* rax nanoseconds to rdx seconds: a division by 10^9. Uses rcx. */
.macro SECONDS
    shr rax, 9
    movabs rdx, 0x44b82fa09b5a53
    mul rdx
    shr rdx, 11
.endm

.balign 64
vdso_clock_gettime:
    lea ecx, [rdi - 5]
    cmp ecx, 1
    jbe 14f
    cmp edi, 11
    ja 2f
    /* Clocks 0, 1, 4, 7 and 11. */
    mov eax, 0x893
    bt eax, edi
    jnc 2f
    lea r8, [rip + DATA]
    READ_CLOCK 2f
    mov rcx, rax
    SECONDS
    mov [rsi], rdx
    imul rdx, rdx, 1000000000
    sub rcx, rdx
    mov [rsi + 8], rcx
    xor eax, eax
    ret
    /* The coarse clocks, 5 and 6, stand still for 4 ms: a second is 250 times that, so that what is
       left of it is rounded down, by a division by 15625 * 2^8. */
14: lea r8, [rip + DATA]
    READ_CLOCK 2f
    mov rcx, rax
    SECONDS
    mov [rsi], rdx
    imul rdx, rdx, 1000000000
    sub rcx, rdx
    shr ecx, 8
    imul rcx, rcx, 4398047
    shr rcx, 36
    imul ecx, ecx, 4000000
    mov [rsi + 8], rcx
    xor eax, eax
    ret
2:  mov eax, 228
    syscall
    ret
vdso_clock_gettime_end:

.balign 16
vdso_gettimeofday:
    test rsi, rsi
    jnz 3f
    test rdi, rdi
    jz 4f
    mov r10, rdi
    xor edi, edi
    lea r8, [rip + DATA]
    READ_CLOCK 5f
    mov rcx, rax
    SECONDS
    mov [r10], rdx
    imul rdx, rdx, 1000000000
    sub rcx, rdx
    /* Divide by 1000. */
    imul rcx, rcx, 274877907
    shr rcx, 38
    mov [r10 + 8], rcx
4:  xor eax, eax
    ret
5:  mov rdi, r10
3:  mov eax, 96
    syscall
    ret
vdso_gettimeofday_end:

.balign 16
vdso_time:
    mov r10, rdi
    xor edi, edi
    lea r8, [rip + DATA]
    READ_CLOCK 6f
    SECONDS
    mov rax, rdx
    test r10, r10
    jz 7f
    mov [r10], rax
7:  ret
6:  mov rdi, r10
    mov eax, 201
    syscall
    ret
vdso_time_end:

/* The limit of the segment 0x7b: number in 12 bits, node above. */
.balign 16
vdso_getcpu:
    mov ecx, 0x7b
    lsl eax, ecx
    jnz 8f
    test rdi, rdi
    jz 9f
    mov ecx, eax
    and ecx, 0xfff
    mov [rdi], ecx
9:  test rsi, rsi
    jz 12f
    shr eax, 12
    mov [rsi], eax
12: xor eax, eax
    ret
8:  mov eax, 309
    syscall
    ret
vdso_getcpu_end:

.balign 16
vdso_clock_getres:
    cmp edi, 11
    ja 13f
    /* Clocks 0, 1, 4, 7 and 11 tick in nanoseconds. */
    mov eax, 0x893
    bt eax, edi
    jnc 13f
    test rsi, rsi
    jz 14f
    mov qword ptr [rsi], 0
    mov qword ptr [rsi + 8], 1
14: xor eax, eax
    ret
13: mov eax, 229
    syscall
    ret
vdso_clock_getres_end:

vdso_content_end:
.balign 4096
.globl vdso_image_end
vdso_image_end:
.text
"#
);
