//! From the entry code to `kernel_main`, one-to-one mapped.
//!
//! Runs relocated for the physical address. The last thing it does is to relocate the image again,
//! for the address it will run at: from then on nothing here that goes through a pointer in the
//! image's data may be used. [`BootInfo`] therefore holds no pointers.

use super::head::{PROTOCOL_BOOTLOADER, PROTOCOL_LINUX, PROTOCOL_PVH};
use super::{bootloader, builtin, die, running, say};
use crate::addr::{PhysAddr, VirtAddr};
use bootinfo::placement::{self, LINK_BASE};
use bootinfo::tables::{self, ImageParts, TableMemory};
use bootinfo::{BootInfo, COMMAND_LINE_MAX, LoaderMemory, PhysRange, pvh, zeropage};
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, _rdtsc};
use core::cell::UnsafeCell;

/// Pages of the stack that `kernel_main` starts on.
const STACK_BYTES: usize = 32 << 10;

struct Global<T>(UnsafeCell<T>);
// SAFETY: written by the boot processor alone before `kernel_main`, read-only afterwards.
unsafe impl<T> Sync for Global<T> {}

#[repr(C, align(4096))]
struct BootStack([u8; STACK_BYTES]);

static INFO: Global<BootInfo> = Global(UnsafeCell::new(BootInfo::new()));
static STACK: Global<BootStack> = Global(UnsafeCell::new(BootStack([0; STACK_BYTES])));
static ROOT: Global<u64> = Global(UnsafeCell::new(0));

unsafe extern "C" {
    static __image_end: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __rela_start: [u64; 3];
    static __rela_end: [u64; 3];
}

unsafe extern "Rust" {
    /// The kernel proper, defined by the image's crate with `arch::entry_point`.
    fn kernel_main(info: &'static BootInfo) -> !;
}

/// What the boot loader handed over.
pub fn info() -> &'static BootInfo {
    // SAFETY: read-only once `kernel_main` runs, and nothing calls this before.
    unsafe { &*INFO.0.get() }
}

/// Whether any of it is memory that the kernel uses: where it is itself, and all that was free.
pub(crate) fn is_kernel_memory(start: PhysAddr, len: usize) -> bool {
    let (info, range) = (info(), PhysRange::new(start.0, len as u64));
    let fixed = [Some(info.kernel), Some(info.tables), info.initrd];
    info.usable().chain(fixed.into_iter().flatten()).any(|used| used.overlaps(&range))
}

/// The initial RAM disk, where the loader put it.
pub fn initrd() -> Option<&'static [u8]> {
    let range = info().initrd?;
    let len = usize::try_from(range.len()).ok()?;
    // SAFETY: `early_main` keeps only one that is in memory, and reserves it, so that it is in no
    // `FreeMemory` and nothing writes there; `tables::build` maps it.
    Some(unsafe { core::slice::from_raw_parts(crate::phys::to_virt(range.start), len) })
}

/// The physical address of the root of the first page tables: kernel, direct map, and the first
/// 4 GiB one to one.
pub fn boot_page_table() -> PhysAddr {
    // SAFETY: as in `info`.
    PhysAddr(unsafe { *ROOT.0.get() })
}

/// The stack that `kernel_main` starts on; it becomes the boot processor's idle thread's.
pub fn boot_stack() -> crate::thread::KernelStackRange {
    let bottom = VirtAddr(STACK.0.get() as u64);
    crate::thread::KernelStackRange { bottom, top: bottom + STACK_BYTES }
}

/// The first 4 GiB as the head mapped them.
struct OneToOne;

impl LoaderMemory for OneToOne {
    fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        // SAFETY: only used here, while memory is mapped one to one, with what the loader passed;
        // any bytes are good. An address that is not mapped stops the machine.
        unsafe { (at as *const [u8; N]).read_unaligned() }
    }
}

impl TableMemory for OneToOne {
    fn clear(&self, frame: u64) {
        // SAFETY: the builder clears only frames of usable memory that nothing occupies, below 4 GiB.
        unsafe { (frame as *mut u8).write_bytes(0, 4096) };
    }
    fn load(&self, at: u64) -> u64 {
        // SAFETY: the builder reads only entries of tables it made of cleared frames.
        unsafe { (at as *const u64).read() }
    }
    fn store(&self, at: u64, entry: u64) {
        // SAFETY: as in `load`; the tables are not used before they are complete.
        unsafe { (at as *mut u64).write(entry) };
    }
}

/// Entered from the head. `base` is where the image is, one-to-one mapped.
pub(super) unsafe extern "C" fn early_main(protocol: u32, argument: u64, base: u64) -> ! {
    if running::has_five_levels() {
        die("page tables of five levels are in use");
    }
    // SAFETY: only the boot processor runs, and this is the one reference while it fills the info.
    let info = unsafe { &mut *INFO.0.get() };
    let image_len = (&raw const __image_end as u64).wrapping_sub(base);

    match protocol {
        PROTOCOL_LINUX => zeropage::read(info, &OneToOne, argument),
        PROTOCOL_PVH => pvh::read(info, &OneToOne, argument),
        // SAFETY: the entry passes what the loader gave it, whose mapping it has kept.
        PROTOCOL_BOOTLOADER => unsafe { bootloader::read(info, argument) },
        _ => die("unknown entry protocol"),
    }
    let mut built_in = [0; COMMAND_LINE_MAX];
    let len = builtin::copy_to(&mut built_in);
    info.prepend_command_line(built_in.get(..len).unwrap_or_default());
    info.memory.normalise();
    if info.memory.usable_bytes() == 0 {
        die("the loader passed no memory map");
    }
    if info.memory.lost() > 0 {
        say("the memory map is too long, its end is not used");
    }
    if info.drop_bad_initrd() {
        say("the RAM disk is not in memory, it is not used");
    }
    info.kernel = PhysRange::new(base, image_len);
    let kernel = info.kernel;
    info.reserve(kernel);
    info.reserve(PhysRange::new(0, 1 << 20));
    if let Some(initrd) = info.initrd {
        info.reserve(initrd);
    }
    stir(info);
    placement::choose(info, image_len, crate::phys::DEFAULT_BASE);
    if let Some(limit) = placement::memory_limit(info.command_line()) {
        info.memory.limit(PhysAddr(limit));
    }

    let Some((root, tables)) = build_tables(info) else { die("no memory for page tables") };
    info.tables = tables;
    info.reserve(tables);
    // SAFETY: only the boot processor runs.
    unsafe { *ROOT.0.get() = root };

    let shift = info.kernel_virt.0.wrapping_sub(base);
    let (mut stack, mut entry): (u64, u64);
    // SAFETY: computes two addresses. Relative to the instruction, since a pointer loaded from the
    // image's data may be loaded after the second relocation, and would then be moved twice.
    unsafe {
        asm!("lea {}, [rip + {}]", out(reg) stack, sym STACK, options(nomem, nostack, preserves_flags));
        asm!("lea {}, [rip + {}]", out(reg) entry, sym at_final_address, options(nomem, nostack, preserves_flags));
    }
    stack = stack.wrapping_add(STACK_BYTES as u64).wrapping_add(shift);
    entry = entry.wrapping_add(shift);
    enable_no_execute();
    // SAFETY: the tables map the image at its final address and the code running now one to one.
    // After `relocate` nothing but registers is used until the jump.
    unsafe {
        relocate(base, info.kernel_virt.0);
        asm!(
            "mov cr3, {root}",
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "push 0",
            "jmp {entry}",
            root = in(reg) root,
            stack = in(reg) stack,
            entry = in(reg) entry,
            options(noreturn)
        );
    }
}

/// The first code at the final address.
unsafe extern "C" fn at_final_address() -> ! {
    let info = info();
    crate::phys::set_base(info.direct_map.0);
    crate::phys::set_image_offset(info.kernel_virt.0.wrapping_sub(info.kernel.start.0));
    // SAFETY: this is the first step, taken once; the image's crate defines `kernel_main` with this
    // signature.
    unsafe {
        crate::x86::start::boot();
        kernel_main(info)
    }
}

/// Applies the relative relocations of the image at `base` for running at `target`.
///
/// # Safety
/// `base` must be the writable image. Pointers in its data are good at `target` only afterwards.
unsafe fn relocate(base: u64, target: u64) {
    const R_X86_64_RELATIVE: u32 = 8;
    let delta = target.wrapping_sub(LINK_BASE);
    let place = base.wrapping_sub(LINK_BASE);
    let mut entry = &raw const __rela_start;
    let end = &raw const __rela_end;
    while entry < end {
        // SAFETY: the linker put well-formed entries between the two symbols, and they point into
        // the image.
        unsafe {
            let [offset, kind, addend] = *entry;
            if kind as u32 == R_X86_64_RELATIVE {
                *(place.wrapping_add(offset) as *mut u64) = addend.wrapping_add(delta);
            }
            entry = entry.add(1);
        }
    }
}

/// Turns on the no-execute bit, global pages and write protection for the kernel itself.
fn enable_no_execute() {
    const EFER: u32 = 0xc000_0080;
    const EFER_NXE: u32 = 1 << 11;
    // SAFETY: every x86_64 processor has these; the tables use the bits as they are defined.
    unsafe {
        asm!(
            "rdmsr",
            "or eax, {nxe}",
            "wrmsr",
            nxe = const EFER_NXE,
            in("ecx") EFER,
            out("eax") _,
            out("edx") _,
        );
        asm!(
            "mov {0}, cr0",
            "or {0:e}, 0x10000",
            "mov cr0, {0}",
            "mov {0}, cr4",
            "or {0}, 0x80",
            "mov cr4, {0}",
            out(reg) _,
        );
    }
}

/// Maps the kernel, the direct map and the first 4 GiB.
fn build_tables(info: &mut BootInfo) -> Option<(u64, PhysRange)> {
    let base = info.kernel.start.0;
    let parts = ImageParts {
        text: (&raw const __text_end as u64) - base,
        rodata: (&raw const __rodata_end as u64) - base,
    };
    let has_1g =
        __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).edx & (1 << 26) != 0;
    tables::build(info, OneToOne, has_1g, parts)
}

/// Fills the seed with what the processor and the loader have of randomness.
fn stir(info: &mut BootInfo) {
    let has_rdrand = __cpuid(1).ecx & (1 << 30) != 0;
    let has_rdseed = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & (1 << 18) != 0;
    let mut state = info.memory.usable_bytes() ^ info.initrd.map_or(0, |range| range.start.0);
    for byte in info.command_line().bytes() {
        state = state.rotate_left(7) ^ u64::from(byte);
    }
    for word in &mut info.seed {
        // SAFETY: RDTSC exists on every x86_64 processor; the other two were checked for.
        unsafe {
            state ^= _rdtsc();
            let mut hardware = 0u64;
            if has_rdseed {
                asm!("rdseed {}", out(reg) hardware);
            } else if has_rdrand {
                asm!("rdrand {}", out(reg) hardware);
            }
            state = placement::mix(state ^ hardware);
        }
        *word = placement::mix(*word ^ state);
    }
}
