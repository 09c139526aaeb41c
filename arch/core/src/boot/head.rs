//! The first instructions of the kernel, for every way into it.
//!
//! | entry        | mode              | argument                                    |
//! |--------------|-------------------|---------------------------------------------|
//! | `startup_32` | 32-bit, no paging | `esi` = Linux zero page (image offset 0)     |
//! | `startup_64` | 64-bit, identity  | `rsi` = Linux zero page (image offset 0x200) |
//! | `pvh_start`  | 32-bit, no paging | `ebx` = PVH start info                      |
//! | `efi_start`  | 64-bit, identity  | `rcx`, `rdx` = EFI handle, system table     |
//! | `efi_handover` | 64-bit, identity | `rdi`, `rsi` likewise, `rdx` = zero page   |
//! | `enter_copy` | 64-bit, identity  | from [`handover`](super::handover)          |
//!
//! All of them end in [`early_main`](super::early::early_main) at a 2 MiB aligned physical address,
//! in long mode with the first 4 GiB mapped one to one, interrupts off, `.bss` zeroed, relocated
//! for the physical address. A loader that put the image at an unaligned address (QEMU and old
//! loaders: 1 MiB) finds it moved up to the next multiple of 16 MiB, as `kernel_alignment` in the
//! boot header announces.
//!
//! The boot page tables and stack live in the head itself, below everything the move overwrites.

use core::arch::global_asm;

/// Value of the first argument of `early_main`: a Linux zero page follows.
pub(super) const PROTOCOL_LINUX: u32 = 1;
/// Value of the first argument of `early_main`: a PVH start info follows.
pub(super) const PROTOCOL_PVH: u32 = 2;
/// Value of the first argument of `early_main`: a `bootloader_api::BootInfo` follows, by its
/// address in the loader's mapping.
pub(super) const PROTOCOL_BOOTLOADER: u32 = 3;

global_asm!(
    r#"
.section .head.text, "ax", @progbits
.code32
.globl startup_32
startup_32:
__head:
    cli
    cld
    /* The zero page lends four bytes of stack (its scratch field). */
    lea esp, [esi + 0x1e8]
    call here
here:
    pop ebp
    sub ebp, offset o_here
    mov edi, {linux}
    jmp common_32

.org 0x200
.code64
.globl startup_64
startup_64:
    cli
    cld
    lea rbx, [rip + __head]
    mov edi, {linux}
    jmp common_64

.code32
.globl pvh_start
pvh_start:
    cli
    cld
    mov ebp, 0x1000000
    mov esi, ebx
    mov edi, {pvh}

common_32:
    lea eax, [ebp + o_boot_gdt]
    mov [ebp + o_boot_gdtr_base], eax
    lgdt [ebp + o_boot_gdtr]
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    lea esp, [ebp + o_boot_stack_top]

    /* PML4[0] -> PDPT, PDPT[0..4] -> PD, 2048 entries of 2 MiB. */
    lea ecx, [ebp + o_boot_pdpt]
    lea eax, [ecx + 3]
    mov [ebp + o_boot_pml4], eax
    lea eax, [ecx + 0x1003]
    mov [ecx], eax
    add eax, 0x1000
    mov [ecx + 8], eax
    add eax, 0x1000
    mov [ecx + 16], eax
    add eax, 0x1000
    mov [ecx + 24], eax
    add ecx, 0x1000
    mov eax, 0x83
    mov edx, 2048
2:  mov [ecx], eax
    add eax, 0x200000
    add ecx, 8
    dec edx
    jnz 2b

    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    lea eax, [ebp + o_boot_pml4]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, 0x80000011
    mov cr0, eax
    push 0x10
    lea eax, [ebp + o_long_mode]
    push eax
    retf

.code64
long_mode:
    mov ebx, ebp
    mov esi, esi
    mov edi, edi
    jmp common_64

/* The firmware's calling convention is Microsoft's: rsi and rdi are kept, too. */
.globl efi_start
efi_start:
    push rsi
    push rdi
    mov rdi, rcx
    mov rsi, rdx
    xor edx, edx
    jmp 9f

/* The hand-over entry, by the ordinary convention. */
.globl efi_handover
efi_handover:
    push rsi
    push rdi
9:  push rbx
    lea rbx, [rip + __head]
    mov rcx, rdx
    call relocate_here
    mov rdx, rcx
    call {efi_main}
    pop rbx
    pop rdi
    pop rsi
    ret

/* Relocates the image at rbx for that address: every r_addend becomes a one-to-one pointer. Keeps
 * rcx, rdi, rsi and what calls keep. */
relocate_here:
    lea rax, [rip + __image_table]
    mov r8, [rax + 24]
    mov r9, [rax + 32]
    add r8, rbx
    add r9, r8
    mov r10, -0x80000000
    mov r11, rbx
    sub r11, r10
5:  cmp r8, r9
    jae 6f
    mov rax, [r8]
    mov rdx, [r8 + 16]
    cmp dword ptr [r8 + 8], 8
    jne 7f
    add rdx, r11
    mov [rax + r11], rdx
7:  add r8, 24
    jmp 5b
6:  ret

/* rbx = this image's base, edi and rsi as below, rcx = the filled boot tables. */
.globl enter_copy
enter_copy:
    mov cr3, rcx

/* rbx = base of the image, edi = protocol, rsi = argument. */
.globl common_64
common_64:
    mov r12d, edi
    mov r13, rsi
    lea rsi, [rip + __image_table]

    /* Move to an address that large pages can map. */
    test ebx, 0x1fffff
    jz settled
    lea r8, [rbx + 0xffffff]
    and r8, -0x1000000
    mov rcx, [rsi]
    lea rsi, [rbx + rcx - 8]
    lea rdi, [r8 + rcx - 8]
    shr rcx, 3
    std
    rep movsq
    cld
    mov rbx, r8
    lea rax, [r8 + o_settled]
    jmp rax

settled:
    lea rsp, [rip + boot_stack_top]
    lea rax, [rip + boot_gdt]
    mov [rip + boot_gdtr_base], rax
    lgdt [rip + boot_gdtr]
    push 0x10
    lea rax, [rip + 4f]
    push rax
    retfq
4:  mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax

    lea rsi, [rip + __image_table]
    mov rdi, [rsi + 8]
    mov rcx, [rsi + 16]
    add rdi, rbx
    shr rcx, 3
    rep stosq

    call relocate_here
    mov edi, r12d
    mov rsi, r13
    mov rdx, rbx
    xor ebp, ebp
    call {early_main}
8:  hlt
    jmp 8b

.balign 16
boot_gdt:
    .quad 0
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdt_end:
boot_gdtr:
    .word boot_gdt_end - boot_gdt - 1
boot_gdtr_base:
    .quad 0

/* struct kernel_info of protocol 2.15: sizes without and with variable data, largest setup_data
 * type understood. */
.balign 16
kernel_info:
    .ascii "LToP"
    .long 16
    .long 16
    .long 9

.balign 4096
.globl boot_pml4
boot_pml4:
    .skip 4096
.globl boot_pdpt
boot_pdpt:
    .skip 4096
    .skip 4 * 4096
.globl boot_stack
boot_stack:
    .skip 8 * 4096
boot_stack_top:
.set o_boot_gdt, boot_gdt - __head
.set o_boot_gdtr_base, boot_gdtr_base - __head
.set o_boot_gdtr, boot_gdtr - __head
.set o_boot_stack_top, boot_stack_top - __head
.set o_boot_pdpt, boot_pdpt - __head
.set o_boot_pml4, boot_pml4 - __head
.set o_long_mode, long_mode - __head
.set o_here, here - __head
.set o_settled, settled - __head
.text
"#,
    linux = const PROTOCOL_LINUX,
    pvh = const PROTOCOL_PVH,
    early_main = sym super::early::early_main,
    efi_main = sym super::efi::efi_main,
);
