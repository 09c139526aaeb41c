//! Into the common entry code from where it cannot be reached by a jump: out of the address space
//! of the `bootloader` crate, or from an image that the firmware put anywhere.
//!
//! The image is copied to memory where large pages can map it; the boot page tables in the copy are
//! filled; the copy is entered with these. Relocations and `.bss` of the copy are as the image's
//! now are, which does not matter: the entry code does both anew.

use core::arch::asm;

const IMAGE_ALIGN: u64 = 2 << 20;
/// Nothing is put below: loaders and firmware leave things there.
const LOWEST: u64 = 16 << 20;
/// The boot page tables reach this far.
const REACH: u64 = 4 << 30;
const PAGE: u64 = 4096;
const ENTRIES: usize = 512;
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 0x80;

unsafe extern "C" {
    static __image_start: u8;
    static __file_end: u8;
    static __image_end: u8;
    static boot_pml4: u8;
    static boot_pdpt: u8;
    static common_64: u8;
    static enter_copy: u8;
}

/// Bytes of memory that a running image occupies.
pub(super) fn image_len() -> u64 {
    offset_of(&raw const __image_end).next_multiple_of(PAGE)
}

/// How far a place is from the image's first byte.
fn offset_of(place: *const u8) -> u64 {
    (place as u64).wrapping_sub(&raw const __image_start as u64)
}

/// The lowest good place for the image among these ranges of free memory, `(start, end)`.
pub(super) fn place(free: impl Iterator<Item = (u64, u64)>) -> Option<u64> {
    let len = image_len();
    let fits = |(start, end): (u64, u64)| {
        let start = start.max(LOWEST).checked_next_multiple_of(IMAGE_ALIGN)?;
        let last = start.checked_add(len)?;
        (last <= end.min(REACH)).then_some(start)
    };
    free.filter_map(fits).min()
}

/// Copies the image to physical address `base`, which `window` is the mapping of, and makes the
/// copy's page tables: the first 4 GiB one to one, and the upper half of `kept`.
///
/// # Safety
/// The memory must be free for [`image_len`] bytes and mapped writable at `window`; `kept` must be
/// a readable root of page tables.
pub(super) unsafe fn copy(base: u64, window: *mut u8, kept: Option<*const u64>) {
    let entry = |table: u64, index: usize| {
        window.wrapping_add(table as usize).cast::<u64>().wrapping_add(index)
    };
    let (root, middle) = (offset_of(&raw const boot_pml4), offset_of(&raw const boot_pdpt));
    // SAFETY: the caller lends the memory; the tables lie in the image's file part, as `head` has
    // them: the root, the one below it, and four of large pages behind that.
    unsafe {
        let len = offset_of(&raw const __file_end) as usize;
        core::ptr::copy_nonoverlapping(&raw const __image_start, window, len);
        entry(root, 0).write((base + middle) | PRESENT_WRITABLE);
        for index in 1..ENTRIES {
            let value = match kept {
                Some(kept) if index >= ENTRIES / 2 => kept.add(index).read(),
                _ => 0,
            };
            entry(root, index).write(value);
        }
        for index in 0..4 {
            let table = base + middle + PAGE * (index as u64 + 1);
            entry(middle, index).write(table | PRESENT_WRITABLE);
        }
        for index in 0..4 * ENTRIES {
            let page = (index as u64) << 21;
            entry(middle + PAGE, index).write(page | PRESENT_WRITABLE | LARGE);
        }
    }
}

/// Enters the copy at `base` from an address space that maps it one to one.
///
/// # Safety
/// The copy must have been made by [`copy`], and `argument` be what the protocol wants.
pub(super) unsafe fn enter_mapped(base: u64, protocol: u32, argument: u64) -> ! {
    // SAFETY: the copy's code loads the copy's tables, which map it where it is running.
    unsafe {
        asm!(
            "cli",
            "mov rbx, {base}",
            "jmp rax",
            base = in(reg) base,
            in("rax") base + offset_of(&raw const enter_copy),
            in("rcx") base + offset_of(&raw const boot_pml4),
            in("edi") protocol,
            in("rsi") argument,
            options(noreturn)
        )
    }
}

/// Enters the copy at `base` from code in the upper half, which the copy's tables keep.
///
/// # Safety
/// As [`enter_mapped`].
pub(super) unsafe fn enter_from_above(base: u64, protocol: u32, argument: u64) -> ! {
    // SAFETY: the copy's tables map the instructions here as before, and the copy one to one.
    unsafe {
        asm!(
            "cli",
            "mov rbx, {base}",
            "mov cr3, rcx",
            "jmp rax",
            base = in(reg) base,
            in("rax") base + offset_of(&raw const common_64),
            in("rcx") base + offset_of(&raw const boot_pml4),
            in("edi") protocol,
            in("rsi") argument,
            options(noreturn)
        )
    }
}
