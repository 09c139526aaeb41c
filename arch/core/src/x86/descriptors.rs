//! Descriptor tables: GDT and TSS of each processor, the IDT of all. SDM vol. 3A 3.4, 6.14, 7.2.
//!
//! Selectors are Linux's: programs see them (`cs` 0x33, `ss` 0x2b) in signal frames and core files.

use crate::cpu::CpuId;
use crate::x86::regs;
use core::arch::asm;
use core::cell::UnsafeCell;

const TSS_SELECTOR: u16 = 0x40;
const GDT_ENTRIES: usize = 16;
/// Bytes of each interrupt stack.
const IST_STACK: usize = 8192;
/// Interrupt stack numbers: NMI, double fault, machine check, debug.
pub(crate) const IST_NMI: u8 = 1;
pub(crate) const IST_DOUBLE_FAULT: u8 = 2;
pub(crate) const IST_MACHINE_CHECK: u8 = 3;
pub(crate) const IST_DEBUG: u8 = 4;
const IST_COUNT: usize = 4;
/// Bytes of the stack that device interrupts are handled on.
const IRQ_STACK: usize = 16384;

/// A 64-bit task state segment.
#[repr(C, packed(4))]
struct Tss {
    _reserved0: u32,
    rsp: [u64; 3],
    _reserved1: u64,
    ist: [u64; 7],
    _reserved2: u64,
    _reserved3: u16,
    iomap: u16,
}

/// An interrupt stack; its last 16 bytes hold the processor's GS base for the entry code.
#[repr(C, align(16))]
struct IstStack([u8; IST_STACK]);

#[repr(C, align(64))]
struct Tables {
    gdt: [u64; GDT_ENTRIES],
    tss: Tss,
}

struct Descriptors {
    tables: UnsafeCell<Tables>,
    stacks: UnsafeCell<[IstStack; IST_COUNT]>,
}

// SAFETY: written by the processor itself (or before it starts).
unsafe impl Sync for Descriptors {}

crate::percpu! {
    static DESCRIPTORS: PerCpu<Descriptors> = Descriptors {
        tables: UnsafeCell::new(Tables {
            gdt: [
                0,
                0x00cf_9b00_0000_ffff, // 0x08 kernel code, 32-bit
                0x00af_9b00_0000_ffff, // 0x10 kernel code
                0x00cf_9300_0000_ffff, // 0x18 kernel data
                0x00cf_fb00_0000_ffff, // 0x23 user code, 32-bit
                0x00cf_f300_0000_ffff, // 0x2b user data
                0x00af_fb00_0000_ffff, // 0x33 user code
                0,
                0, 0, // 0x40 TSS
                0, 0,
                0, 0, 0, // TLS of 32-bit programs
                0x0040_f500_0000_0000, // 0x7b processor number in the limit: the vDSO reads it
            ],
            tss: Tss {
                _reserved0: 0,
                rsp: [0; 3],
                _reserved1: 0,
                ist: [0; 7],
                _reserved2: 0,
                _reserved3: 0,
                iomap: size_of::<Tss>() as u16,
            },
        }),
        stacks: UnsafeCell::new([const { IstStack([0; IST_STACK]) }; IST_COUNT]),
    };
}

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Fills and loads this processor's GDT and TSS.
///
/// # Safety
/// Once for each processor, at its start, interrupts off, per-CPU data in place.
pub(crate) unsafe fn load(cpu: CpuId) {
    let descriptors = DESCRIPTORS.this();
    // SAFETY: only this processor runs here, once; GS stays as the per-CPU code set it because no
    // segment register but CS, SS, DS and ES is loaded.
    unsafe {
        let tables = &mut *descriptors.tables.get();
        let stacks = descriptors.stacks.get().cast::<IstStack>();
        let gs_base = regs::rdmsr(regs::msr::GS_BASE);
        for index in 0..IST_COUNT {
            let top = stacks.add(index + 1).cast::<u64>().sub(2);
            top.write(gs_base);
            tables.tss.ist[index] = top as u64;
        }
        let base = (&raw const tables.tss) as u64;
        let limit = size_of::<Tss>() as u64 - 1;
        tables.gdt[8] = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        tables.gdt[9] = base >> 32;
        let number = u64::from(cpu.as_u32());
        tables.gdt[15] |= number & 0xffff | (number & 0xf_0000) << 32;
        let pointer =
            TablePointer { limit: (GDT_ENTRIES * 8 - 1) as u16, base: tables.gdt.as_ptr() as u64 };
        asm!(
            "lgdt [{pointer}]",
            "push 0x10",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov {scratch:e}, 0x18",
            "mov ss, {scratch:e}",
            "xor {scratch:e}, {scratch:e}",
            "mov ds, {scratch:e}",
            "mov es, {scratch:e}",
            pointer = in(reg) &raw const pointer,
            scratch = out(reg) _,
        );
        asm!("ltr {:x}", in(reg) TSS_SELECTOR, options(nostack, preserves_flags));
        asm!("lldt {:x}", in(reg) 0u16, options(nostack, preserves_flags));
    }
}

#[repr(C, align(16))]
struct IrqStack(UnsafeCell<[u8; IRQ_STACK]>);

// SAFETY: each processor uses its own, from interrupts only, which do not nest.
unsafe impl Sync for IrqStack {}
// SAFETY: plain bytes.
unsafe impl Send for IrqStack {}

crate::percpu! {
    static IRQ_STACKS: PerCpu<IrqStack> = IrqStack(UnsafeCell::new([0; IRQ_STACK]));
}

/// Calls `handler` on this processor's interrupt stack, so that what an interrupt needs does not
/// add to what the interrupted thread has used of its own.
///
/// Interrupts are off and stay off for the call: the stack has one user at a time.
#[inline(always)]
pub fn on_irq_stack(handler: extern "C" fn(u64), argument: u64) {
    let top = IRQ_STACKS.this().0.get() as u64 + IRQ_STACK as u64;
    // SAFETY: the stack is this processor's and unused: interrupts are off and do not nest. The
    // old stack pointer is kept in a register that the callee preserves.
    unsafe {
        asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "call {handler}",
            "mov rsp, r12",
            top = in(reg) top,
            handler = in(reg) handler,
            in("rdi") argument,
            out("r12") _,
            clobber_abi("C"),
        );
    }
}

/// Sets the stack that entries from user mode start on.
///
/// # Safety
/// `top` is the top of the running thread's kernel stack; preemption is off.
#[inline(always)]
pub(crate) unsafe fn set_entry_stack(top: u64) {
    // SAFETY: this processor's TSS, read by it alone.
    unsafe {
        let tss = &raw mut (*DESCRIPTORS.this().tables.get()).tss.rsp;
        tss.cast::<u64>().write_unaligned(top);
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

#[repr(C, align(4096))]
struct Idt(UnsafeCell<[Gate; 256]>);

// SAFETY: written once by the boot processor before others start.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([Gate { low: 0, high: 0 }; 256]));

/// Fills the IDT; the boot processor, once.
///
/// # Safety
/// Before interrupts and before other processors.
pub(crate) unsafe fn fill_idt() {
    use crate::trap::vector;
    let stubs = super::entry::stubs_start();
    for number in 0..256usize {
        let entry = stubs + (number * super::entry::STUB_SIZE) as u64;
        let ist = match number as u8 {
            vector::NMI => IST_NMI,
            vector::DOUBLE_FAULT => IST_DOUBLE_FAULT,
            vector::MACHINE_CHECK => IST_MACHINE_CHECK,
            vector::DEBUG => IST_DEBUG,
            _ => 0,
        };
        let privilege = match number as u8 {
            vector::BREAKPOINT | vector::OVERFLOW => 3u64,
            _ => 0,
        };
        let low = entry & 0xffff
            | crate::trap::KERNEL_CS << 16
            | u64::from(ist) << 32
            | (0x8e | privilege << 5) << 40
            | (entry >> 16 & 0xffff) << 48;
        // SAFETY: the caller vouches that nobody reads it yet.
        unsafe { (*IDT.0.get())[number] = Gate { low, high: entry >> 32 } };
    }
}

/// Loads the IDT on this processor.
pub(crate) fn load_idt() {
    let pointer = TablePointer { limit: 256 * 16 - 1, base: IDT.0.get() as u64 };
    // SAFETY: the table is filled and lives for ever.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags)) };
}
