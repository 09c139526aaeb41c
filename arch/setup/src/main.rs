#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod real_mode {
    use core::arch::global_asm;

    global_asm!(
        r#"
.section .setup, "awx", @progbits
.code16
.globl setup_start
setup_start:
    /* Started as a boot sector: there is no loader here any more. The first two instructions spell
     * MZ, which makes the file an application of UEFI firmware. */
    dec bp
    pop dx
    cli
1:  hlt
    jmp 1b

/* The headers of PE/COFF (PE format, revision 11). What depends on the kernel is filled in by
 * `cargo xtask build`, at the offsets that its `bzimage` has. */
.org 0x3c
    .long pe_header - setup_start
pe_header:
    .ascii "PE"
    .word 0
    .word 0x8664                        /* x86-64 */
    .word 2                             /* sections */
    .long 0, 0, 0
    .word sections - optional_header
    .word 0x0206                        /* executable, no line numbers, no debug information */
optional_header:
    .word 0x20b                         /* PE32+ */
    .byte 0, 0
    .long 0, 0, 0                       /* sizes of code, data, bss */
    .long 0                             /* entry */
    .long 0                             /* code */
    .quad 0                             /* no preferred place */
    .long 4096, 512                     /* alignments in memory and in the file */
    .word 0, 0
    .word 1, 1                          /* takes a RAM disk by protocol and by `initrd=` */
    .word 0, 0
    .long 0
    .long 0, 0                          /* sizes of image, headers */
    .long 0
    .word 10                            /* an EFI application */
    .word 0                             /* no NX_COMPAT: its copy runs in memory it has written */
    .quad 0, 0, 0, 0
    .long 0
    .long 6
    .skip 6 * 8
sections:
    .ascii ".text\0\0\0"
    .skip 28
    .long 0x60000020                    /* code, read, execute */
    .ascii ".data\0\0\0"
    .skip 28
    .long 0xc0000040                    /* data, read, write */

.org 0x1f1
setup_sects:        .byte 0
root_flags:         .word 1
syssize:            .long 0
ram_size:           .word 0
vid_mode:           .word 0xffff
root_dev:           .word 0
boot_flag:          .word 0xaa55
/* 0x200 */
                    .byte 0xeb, (header_end - 0x202) - setup_start
                    .ascii "HdrS"
version:            .word 0x020f
realmode_swtch:     .long 0
start_sys_seg:      .word 0x1000
kernel_version:     .word release - 0x200 - setup_start
type_of_loader:     .byte 0
loadflags:          .byte 0x01
setup_move_size:    .word 0x8000
code32_start:       .long 0x100000
ramdisk_image:      .long 0
ramdisk_size:       .long 0
bootsect_kludge:    .long 0
heap_end_ptr:       .word 0
ext_loader_ver:     .byte 0
ext_loader_type:    .byte 0
cmd_line_ptr:       .long 0
initrd_addr_max:    .long 0x7fffffff
kernel_alignment:   .long 0x1000000
relocatable_kernel: .byte 1
min_alignment:      .byte 21
/* A 64-bit entry, and a 64-bit EFI hand-over entry. */
xloadflags:         .word 9
cmdline_size:       .long 2047
hardware_subarch:   .long 0
hardware_subarch_data: .quad 0
payload_offset:     .long 0
payload_length:     .long 0
setup_data:         .quad 0
pref_address:       .quad 0x1000000
init_size:          .long 0
handover_offset:    .long 0
kernel_info_offset: .long 0
header_end:

start:
    mov ax, ds
    mov es, ax
    cld
    /* A loader that gave another stack segment: use the end of the heap, else of the segment. */
    mov dx, ss
    cmp dx, ax
    mov dx, sp
    je 2f
    mov dx, 0xfff0
    test byte ptr [0x211], 0x80
    jz 2f
    mov dx, word ptr [0x224]
    add dx, 512
2:  and dx, 0xfffc
    jnz 3f
    mov dx, 0xfffc
3:  cli
    mov ss, ax
    movzx esp, dx
    sti
    push ds
    push offset main
    .byte 0xcb                          /* a 16-bit far return */

main:
    mov di, offset setup_bss
    mov cx, offset setup_bss_end
    sub cx, di
    xor ax, ax
    rep stosb
    mov si, 0x1f1
    mov di, offset boot_params + 0x1f1
    mov cx, offset header_end - 0x1f1
    rep movsb

    /* Tell the BIOS which mode the system will run in. */
    mov ax, 0xec00
    mov bx, 2
    int 0x15

    /* INT 15h, E820: one 20-byte entry a call, until the continuation in EBX is zero. */
    xor ebx, ebx
    mov di, offset boot_params + 0x2d0
    xor bp, bp
4:  mov eax, 0xe820
    mov edx, 0x534d4150
    mov ecx, 20
    int 0x15
    jc 5f
    cmp eax, 0x534d4150
    jne 5f
    jcxz 6f
    add di, 20
    inc bp
6:  test ebx, ebx
    jz 5f
    cmp bp, 128
    jb 4b
5:  mov ax, bp
    mov byte ptr [boot_params + 0x1e8], al
    test ax, ax
    jnz 7f

    /* No E820: INT 15h, E801 (KiB from 1 MiB in CX, 64 KiB blocks from 16 MiB in DX). */
    xor cx, cx
    xor dx, dx
    mov ax, 0xe801
    int 0x15
    jc 7f
    jcxz 8f
    mov ax, cx
    mov bx, dx
8:  mov dword ptr [boot_params + 0x2d0 + 8], 0x9f000
    mov dword ptr [boot_params + 0x2d0 + 16], 1
    movzx eax, ax
    shl eax, 10
    mov dword ptr [boot_params + 0x2e4], 0x100000
    mov dword ptr [boot_params + 0x2e4 + 8], eax
    mov dword ptr [boot_params + 0x2e4 + 16], 1
    movzx ebx, bx
    shl ebx, 16
    mov dword ptr [boot_params + 0x2f8], 0x1000000
    mov dword ptr [boot_params + 0x2f8 + 8], ebx
    mov dword ptr [boot_params + 0x2f8 + 16], 1
    mov byte ptr [boot_params + 0x1e8], 3

    /* The text screen: mode, page, columns, lines, cursor. */
7:  mov ah, 0x0f
    int 0x10
    mov byte ptr [boot_params + 0x06], al
    mov byte ptr [boot_params + 0x07], ah
    mov byte ptr [boot_params + 0x04], bh
    mov byte ptr [boot_params + 0x0e], 25
    mov byte ptr [boot_params + 0x0f], 1
    mov word ptr [boot_params + 0x10], 16
    mov ah, 0x03
    int 0x10
    mov byte ptr [boot_params + 0x00], dl
    mov byte ptr [boot_params + 0x01], dh

    /* A20: ask the BIOS, then the chip set. */
    mov ax, 0x2401
    int 0x15
    cli
    in al, 0x92
    test al, 2
    jnz 9f
    or al, 2
    and al, 0xfe
    out 0x92, al
9:  xor eax, eax
    mov ax, ds
    shl eax, 4
    add dword ptr [gdt_base], eax
    add dword ptr [protected_pointer], eax
    mov esi, eax
    add esi, offset boot_params
    mov edi, dword ptr [0x214]
    lgdt [gdt_register]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    jmp 10f
10: .byte 0x66, 0xff, 0x2e
    .word protected_pointer - setup_start

.code32
protected:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov eax, edi
    xor ebx, ebx
    xor ecx, ecx
    xor edx, edx
    xor edi, edi
    xor ebp, ebp
    jmp eax

.balign 8
gdt:
    .quad 0
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
gdt_register:
    .word gdt_register - gdt - 1
gdt_base:
    .long gdt - setup_start
protected_pointer:
    .long protected - setup_start
    .word 0x10

.balign 16
.globl release
release:
    .ascii "@release@"
    .skip 183
    .byte 0

.section .setup.bss, "aw", @nobits
.balign 16
boot_params:
    .skip 4096
.text
"#
    );

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {
            core::hint::spin_loop();
        }
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
