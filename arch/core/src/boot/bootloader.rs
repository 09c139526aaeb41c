//! The `bootloader` crate: an ELF file entered in the loader's address space, with a
//! `bootloader_api::BootInfo`.
//!
//! The loader maps the file's pages where the program headers want them, which is not one block of
//! physical memory, and leaves no one-to-one map. So the entry copies the image to a block and
//! enters the copy ([`handover`]); what the loader says is read there, while the loader's mapping
//! of the upper half still stands.
//!
//! This protocol has no command line; there is the one built into the image.

use super::head::PROTOCOL_BOOTLOADER;
use super::{die, handover, running, say};
use crate::addr::PhysAddr;
use bootinfo::{BootInfo, Framebuffer, MemoryKind, PhysRange, Protocol};
use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::info::{FrameBuffer, MemoryRegionKind, PixelFormat};
use uefi_raw::table::boot::MemoryType;

const PAGE: u64 = 4096;

static CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    // Where the file is linked: the offset is added to the addresses in its headers.
    config.mappings.kernel_base = Mapping::FixedAddress(0);
    config.mappings.physical_memory = Some(Mapping::Dynamic);
    // The lower half becomes the one-to-one map.
    config.mappings.dynamic_range_start = Some(0xffff_8000_0000_0000);
    config
};

bootloader_api::entry_point!(start, config = &CONFIG);

/// Entered by the loader, in its address space.
fn start(boot: &'static mut bootloader_api::BootInfo) -> ! {
    let Some(window) = boot.physical_memory_offset.into_option() else {
        die("the loader did not map physical memory");
    };
    let free = boot.memory_regions.iter().filter(|region| region.kind == MemoryRegionKind::Usable);
    let Some(base) = handover::place(free.map(|region| (region.start, region.end))) else {
        die("no memory for the kernel");
    };
    let copy = window.wrapping_add(base) as *mut u8;
    let root = window.wrapping_add(running::root()) as *const u64;
    // SAFETY: the loader says that the memory is usable, and maps all of it at the window; this code
    // and the information are in the upper half, as the configuration asks.
    unsafe {
        handover::copy(base, copy, Some(root));
        handover::enter_from_above(base, PROTOCOL_BOOTLOADER, &raw const *boot as u64)
    }
}

/// Fills `info` from the loader's information at virtual `address`.
///
/// # Safety
/// The information must be what the loader passed, and its mapping of the upper half be in force.
pub(super) unsafe fn read(info: &mut BootInfo, address: u64) {
    info.protocol = Protocol::Bootloader;
    // SAFETY: the caller vouches for it, and only this processor runs.
    let boot = unsafe { &*(address as *const bootloader_api::BootInfo) };
    for region in boot.memory_regions.iter() {
        let kind = match region.kind {
            // What the loader used is free once this function has returned, except for the RAM disk.
            MemoryRegionKind::Usable | MemoryRegionKind::Bootloader => MemoryKind::Usable,
            MemoryRegionKind::UnknownUefi(kind) => from_uefi(MemoryType(kind)),
            MemoryRegionKind::UnknownBios(kind) => MemoryKind::from_e820(kind),
            _ => MemoryKind::Reserved,
        };
        info.memory.add(region.start, region.end.saturating_sub(region.start), kind);
    }
    info.rsdp = boot.rsdp_addr.into_option().map(PhysAddr);
    let Some(window) = boot.physical_memory_offset.into_option() else { return };
    if let Some(ramdisk) = boot.ramdisk_addr.into_option() {
        // SAFETY: the loader's tables are in force, and the window maps physical memory.
        match unsafe { block(window, ramdisk, boot.ramdisk_len) } {
            Some(range) => info.initrd = Some(range),
            None => say("the RAM disk is not one block of memory"),
        }
    }
    if let Some(framebuffer) = boot.framebuffer.as_ref() {
        // SAFETY: as above.
        info.framebuffer = unsafe { describe(window, framebuffer) };
    }
}

/// The kind of memory for a type of the firmware's (UEFI 2.10 §7.2.3, table 7.10).
pub(super) fn from_uefi(kind: MemoryType) -> MemoryKind {
    match kind {
        MemoryType::LOADER_CODE
        | MemoryType::LOADER_DATA
        | MemoryType::BOOT_SERVICES_CODE
        | MemoryType::BOOT_SERVICES_DATA
        | MemoryType::CONVENTIONAL => MemoryKind::Usable,
        MemoryType::ACPI_RECLAIM => MemoryKind::AcpiReclaimable,
        MemoryType::ACPI_NON_VOLATILE => MemoryKind::AcpiNvs,
        MemoryType::UNUSABLE => MemoryKind::Unusable,
        MemoryType::PERSISTENT_MEMORY => MemoryKind::Persistent,
        _ => MemoryKind::Reserved,
    }
}

/// The physical block behind virtual memory, if it is one.
///
/// # Safety
/// The loader's page tables must be in force and `window` map physical memory.
unsafe fn block(window: u64, address: u64, len: u64) -> Option<PhysRange> {
    // SAFETY: forwarded from the caller.
    let first = unsafe { translate(window, address)? };
    for offset in (0..len).step_by(PAGE as usize) {
        // SAFETY: forwarded from the caller.
        if unsafe { translate(window, address + offset)? } != first + offset {
            return None;
        }
    }
    Some(PhysRange::new(first, len))
}

/// Walks the page tables in force.
///
/// # Safety
/// `window` must map the tables' memory.
unsafe fn translate(window: u64, address: u64) -> Option<u64> {
    // SAFETY: slots of tables in force, seen through the window.
    running::walk(address, |slot| unsafe { (window.wrapping_add(slot) as *const u64).read() })
}

/// # Safety
/// As [`block`].
unsafe fn describe(window: u64, framebuffer: &FrameBuffer) -> Option<Framebuffer> {
    let info = framebuffer.info();
    let bits = (info.bytes_per_pixel * 8) as u8;
    let (red, green, blue) = match info.pixel_format {
        PixelFormat::Rgb => (0, 8, 16),
        PixelFormat::Bgr => (16, 8, 0),
        PixelFormat::Unknown { red_position, green_position, blue_position } => {
            (red_position, green_position, blue_position)
        }
        _ => (0, 0, 0),
    };
    // SAFETY: forwarded from the caller.
    let address = unsafe { translate(window, framebuffer.buffer().as_ptr() as u64)? };
    Some(Framebuffer {
        address: PhysAddr(address),
        len: info.byte_len as u64,
        width: info.width as u32,
        height: info.height as u32,
        stride: (info.stride * info.bytes_per_pixel) as u32,
        bits_per_pixel: bits,
        red: (red, 8),
        green: (green, 8),
        blue: (blue, 8),
    })
}
