//! The page below 1 MiB in which a started processor goes from real mode to the kernel.
//!
//! The code is copied there from the image; it is position-independent by taking its segment as
//! the base. The page also holds what it needs to know: the root of page tables that map the page
//! one to one beside the kernel, and a table of (APIC id, CPU number, stack). A call repeated to a
//! processor that is already on its way is ignored by the processor, and each entry is taken once.

use crate::addr::{PhysAddr, VirtAddr};
use crate::boot;
use crate::cpu::{CpuId, MAX_CPUS};
use core::arch::global_asm;

/// Where the page goes at best, and where it may go.
const FAVOURITE: u64 = 0x8000;
const LOWEST: u64 = 0x1000;
const HIGHEST: u64 = 0x9_0000;
/// Code and data take this many pages: 256 entries of 16 bytes, and the code.
const PAGES: u64 = 2;

global_asm!(
    r#"
.section .rodata.trampoline, "a", @progbits
.balign 16
.code16
.globl __trampoline_start
__trampoline_start:
    cli
    cld
    mov ax, cs
    mov ds, ax
    xor ebx, ebx
    mov bx, ax
    shl ebx, 4
    .byte 0x66, 0x0f, 0x01, 0x16                /* lgdt, 32-bit base */
    .word trampoline_gdtr - __trampoline_start
    mov eax, cr0
    or al, 1
    mov cr0, eax
    jmp 1f
1:  .byte 0x66, 0xff, 0x2e                      /* far jump through memory */
    .word trampoline_to_32 - __trampoline_start

.code32
trampoline_32:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, [ebx + trampoline_o_root]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, 0x80010033
    mov cr0, eax
    /* Far jump through memory, 32-bit offset. */
    jmp fword ptr [ebx + trampoline_o_to_64]

.code64
trampoline_64:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov ebx, ebx
    /* The own id: leaf 0xb where there is one, else the eight bits of leaf 1. */
    mov r8, rbx
    xor eax, eax
    cpuid
    cmp eax, 0xb
    jb 2f
    mov eax, 0xb
    xor ecx, ecx
    cpuid
    test ebx, ebx
    jz 2f
    mov r9d, edx
    jmp 3f
2:  mov eax, 1
    cpuid
    shr ebx, 24
    mov r9d, ebx
3:  mov ecx, [r8 + trampoline_o_count]
    lea rdx, [r8 + trampoline_o_table]
4:  test ecx, ecx
    jz 6f
    cmp [rdx], r9d
    je 5f
    add rdx, 16
    dec ecx
    jmp 4b
5:  mov edi, [rdx + 4]
    mov rsp, [rdx + 8]
    xor ebp, ebp
    push rbp
    jmp [r8 + trampoline_o_entry]
6:  hlt
    jmp 6b

.balign 8
trampoline_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
trampoline_gdtr:
    .word trampoline_gdtr - trampoline_gdt - 1
.globl __trampoline_gdt_base
__trampoline_gdt_base:
    .long trampoline_gdt - __trampoline_start
.balign 8
.globl __trampoline_to_32
__trampoline_to_32:
trampoline_to_32:
    .long trampoline_32 - __trampoline_start
    .word 0x10
.balign 8
.globl __trampoline_to_64
__trampoline_to_64:
trampoline_to_64:
    .long trampoline_64 - __trampoline_start
    .word 0x08
.balign 8
.globl __trampoline_root
__trampoline_root:
    .quad 0
.globl __trampoline_entry
__trampoline_entry:
    .quad 0
.globl __trampoline_count
__trampoline_count:
    .quad 0
.balign 16
.globl __trampoline_table
__trampoline_table:
.set trampoline_o_root, __trampoline_root - __trampoline_start
.set trampoline_o_to_64, __trampoline_to_64 - __trampoline_start
.set trampoline_o_count, __trampoline_count - __trampoline_start
.set trampoline_o_entry, __trampoline_entry - __trampoline_start
.set trampoline_o_table, __trampoline_table - __trampoline_start
.text
"#
);

unsafe extern "C" {
    static __trampoline_start: u8;
    static __trampoline_gdt_base: u8;
    static __trampoline_to_32: u8;
    static __trampoline_to_64: u8;
    static __trampoline_root: u8;
    static __trampoline_entry: u8;
    static __trampoline_count: u8;
    static __trampoline_table: u8;
}

/// The distance of a label from the start of the trampoline.
fn offset(label: *const u8) -> usize {
    (label as usize).wrapping_sub(&raw const __trampoline_start as usize)
}

/// The page in place.
pub struct Trampoline {
    base: PhysAddr,
    virt: *mut u8,
}

impl Trampoline {
    /// Copies the code below 1 MiB.
    pub fn install() -> Option<Trampoline> {
        let base = find_page()?;
        let trampoline = Trampoline { base, virt: crate::phys::to_virt(base) };
        let len = offset(&raw const __trampoline_table);
        // SAFETY: the pages are usable memory that the boot code keeps out of the frame allocator.
        unsafe {
            trampoline.virt.copy_from_nonoverlapping(&raw const __trampoline_start, len);
        }
        // The linear addresses in it move with the page.
        for label in [
            &raw const __trampoline_gdt_base,
            &raw const __trampoline_to_32,
            &raw const __trampoline_to_64,
        ] {
            let slot = trampoline.slot::<u32>(offset(label));
            // SAFETY: inside the copied code.
            unsafe { slot.write_unaligned(slot.read_unaligned() + base.0 as u32) };
        }
        let entry = super::start::secondary as *const () as u64;
        // SAFETY: as above.
        unsafe {
            let root = offset(&raw const __trampoline_root);
            trampoline.slot::<u64>(root).write(boot::trampoline_tables().0);
            trampoline.slot::<u64>(offset(&raw const __trampoline_entry)).write(entry);
            trampoline.slot::<u64>(offset(&raw const __trampoline_count)).write(0);
        }
        Some(trampoline)
    }

    fn slot<T>(&self, at: usize) -> *mut T {
        self.virt.wrapping_add(at).cast()
    }

    /// The page's number, as SIPI wants it.
    pub fn page(&self) -> u8 {
        (self.base.0 >> 12) as u8
    }

    /// Adds a processor, whose per-CPU data was made and to which the stack belongs from now on, to
    /// the table; whether there was room.
    pub fn add(&self, apic_id: u32, cpu: CpuId, stack: VirtAddr) -> bool {
        if !super::local::is_made(cpu) {
            return false;
        }
        let count = self.slot::<u64>(offset(&raw const __trampoline_count));
        // SAFETY: inside the two pages, as the table has room for all CPUs: checked.
        unsafe {
            let used = count.read() as usize;
            let at = offset(&raw const __trampoline_table) + used * 16;
            if used >= MAX_CPUS || at + 16 > (PAGES << 12) as usize {
                return false;
            }
            self.slot::<u32>(at).write(apic_id);
            self.slot::<u32>(at + 4).write(cpu.as_u32());
            // A function expects its stack 8 below a multiple of 16, after the pushed return
            // address; the code pushes one word.
            self.slot::<u64>(at + 8).write(stack.0 & !15);
            count.write(used as u64 + 1);
        }
        true
    }
}

/// Pages in usable memory below the BIOS's own.
fn find_page() -> Option<PhysAddr> {
    let len = PAGES << 12;
    let fits = |start: u64| {
        let usable = |range: boot::PhysRange| range.start.0 <= start && start + len <= range.end.0;
        boot::info().memory.usable().any(usable)
    };
    let candidates = (LOWEST..HIGHEST).step_by(4096);
    core::iter::once(FAVOURITE).chain(candidates).find(|start| fits(*start)).map(PhysAddr)
}
