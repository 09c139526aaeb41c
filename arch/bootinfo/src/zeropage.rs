//! The Linux zero page (`struct boot_params` of `<asm/bootparam.h>`).

use super::info::{BootInfo, COMMAND_LINE_MAX, Framebuffer, PhysRange, Protocol};
use super::memory::MemoryKind;
use crate::LoaderMemory;
use archtypes::addr::PhysAddr;

/// Entries in the zero page's own E820 table.
pub const E820_MAX: u64 = 128;
/// `setup_data` type: more entries of the memory map.
pub const SETUP_E820_EXT: u32 = 1;
/// `setup_data` type: randomness.
pub const SETUP_RNG_SEED: u32 = 9;
/// `screen_info.orig_video_isVGA` for a linear framebuffer of EFI.
pub const VIDEO_EFI: u8 = 0x70;
/// `screen_info.orig_video_isVGA` for a linear framebuffer of VESA.
const VIDEO_VESA: u8 = 0x23;
/// Memory is mapped one to one up to here.
const REACH: u64 = 4 << 30;
/// Names of the ACPI root pointer in the firmware's list of tables (UEFI 2.10 §4.6.1): the one of
/// ACPI 2.0, and that of 1.0.
const ACPI_TABLES: [[u8; 16]; 2] = [
    [0x71, 0xe8, 0x68, 0x88, 0xf1, 0xe4, 0xd3, 0x11, 0xbc, 0x22, 0, 0x80, 0xc7, 0x3c, 0x88, 0x81],
    [0x30, 0x2d, 0x9d, 0xeb, 0x88, 0x2d, 0xd3, 0x11, 0x9a, 0x16, 0, 0x90, 0x27, 0x3f, 0xc1, 0x4d],
];

/// Copies the NUL-terminated command line at `address`.
pub(crate) fn copy_c_string(info: &mut BootInfo, memory: &impl LoaderMemory, address: u64) {
    let mut line = [0u8; COMMAND_LINE_MAX];
    let mut len = 0;
    for (offset, slot) in (0..).zip(line.iter_mut()) {
        let byte = memory.u8(address.wrapping_add(offset));
        if byte == 0 {
            break;
        }
        *slot = byte;
        len += 1;
    }
    info.set_command_line(line.get(..len).unwrap_or_default());
}

/// Fills `info` from the zero page at physical `address`.
pub fn read(info: &mut BootInfo, memory: &impl LoaderMemory, address: u64) {
    info.protocol = Protocol::Linux;
    let at = |offset: u64| address.wrapping_add(offset);
    info.loader = memory.u8(at(0x210));
    let command_line = memory.halves(at(0x228), at(0xc8));
    if command_line != 0 {
        copy_c_string(info, memory, command_line);
    }
    let initrd = memory.halves(at(0x218), at(0xc0));
    let initrd_len = memory.halves(at(0x21c), at(0xc4));
    if initrd != 0 && initrd_len != 0 {
        info.initrd = Some(PhysRange::new(initrd, initrd_len));
    }
    let rsdp = memory.u64(at(0x70));
    if rsdp != 0 {
        info.rsdp = Some(PhysAddr(rsdp));
    }
    if matches!(&memory.read::<4>(at(0x1c0)), b"EL64" | b"EL32") {
        info.protocol = Protocol::Efi;
    }
    if info.rsdp.is_none() && &memory.read::<4>(at(0x1c0)) == b"EL64" {
        info.rsdp = rsdp_of_firmware(memory, memory.halves(at(0x1c4), at(0x1d8)));
    }
    let entries = u64::from(memory.u8(at(0x1e8))).min(E820_MAX);
    add_e820(info, memory, at(0x2d0), entries);
    info.framebuffer = framebuffer(memory, address);
    read_setup_data(info, memory, memory.u64(at(0x250)));
}

/// The ACPI root pointer, from a loader that ended the firmware's services and left the search to
/// the kernel: it passes the address of the firmware's system table (UEFI 2.10 §4.3).
fn rsdp_of_firmware(memory: &impl LoaderMemory, table: u64) -> Option<PhysAddr> {
    const ENTRY: u64 = 24;
    let is_reachable = |at: u64, len: u64| at != 0 && at < REACH && len <= REACH - at;
    if !is_reachable(table, 120) {
        return None;
    }
    let (count, list) = (memory.u64(table + 104), memory.u64(table + 112));
    if !is_reachable(list, count.checked_mul(ENTRY)?) {
        return None;
    }
    ACPI_TABLES.iter().find_map(|name| {
        let mut entries = (0..count).map(|index| list + index * ENTRY);
        let entry = entries.find(|entry| memory.read::<16>(*entry) == *name)?;
        Some(PhysAddr(memory.u64(entry + 16)))
    })
}

/// Adds `entries` packed E820 entries of 20 bytes.
fn add_e820(info: &mut BootInfo, memory: &impl LoaderMemory, table: u64, entries: u64) {
    for entry in (0..entries).map(|index| table.wrapping_add(20 * index)) {
        let (start, len) = (memory.u64(entry), memory.u64(entry.wrapping_add(8)));
        let kind = MemoryKind::from_e820(memory.u32(entry.wrapping_add(16)));
        info.memory.add(start, len, kind);
    }
}

/// Walks the list of `setup_data`: more memory map, and entropy.
fn read_setup_data(info: &mut BootInfo, memory: &impl LoaderMemory, mut node: u64) {
    let mut budget = 64;
    while node != 0 && budget > 0 {
        budget -= 1;
        // A header of 16 bytes, then `len` of data.
        let next = memory.u64(node);
        let kind = memory.u32(node.wrapping_add(8));
        let len = u64::from(memory.u32(node.wrapping_add(12)));
        let data = node.wrapping_add(16);
        match kind {
            SETUP_E820_EXT => add_e820(info, memory, data, len / 20),
            SETUP_RNG_SEED => {
                for index in 0..(len / 8) {
                    let word = memory.u64(data.wrapping_add(index * 8));
                    if let Some(seed) = info.seed.get_mut(index as usize % 4) {
                        *seed = seed.rotate_left(17) ^ word;
                    }
                }
            }
            _ => {}
        }
        info.reserve(PhysRange::new(node, len + 16));
        node = next;
    }
}

/// The linear framebuffer of `screen_info`.
fn framebuffer(memory: &impl LoaderMemory, address: u64) -> Option<Framebuffer> {
    let at = |offset: u64| address.wrapping_add(offset);
    if !matches!(memory.u8(at(0x0f)), VIDEO_VESA | VIDEO_EFI) {
        return None;
    }
    let base = u64::from(memory.u32(at(0x18)));
    let has_high = memory.u32(at(0x36)) & 2 != 0;
    let high = if has_high { u64::from(memory.u32(at(0x3a))) << 32 } else { 0 };
    let stride = u32::from(memory.u16(at(0x24)));
    let height = u32::from(memory.u16(at(0x14)));
    let field = |offset: u64| (memory.u8(at(offset + 1)), memory.u8(at(offset)));
    Some(Framebuffer {
        address: PhysAddr(base | high),
        len: u64::from(stride) * u64::from(height),
        width: u32::from(memory.u16(at(0x12))),
        height,
        stride,
        bits_per_pixel: memory.u8(at(0x16)),
        red: field(0x26),
        green: field(0x28),
        blue: field(0x2a),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page at an address; elsewhere zeros.
    struct Page(u64, [u8; 4096]);

    impl LoaderMemory for Page {
        fn read<const N: usize>(&self, at: u64) -> [u8; N] {
            core::array::from_fn(|index| {
                let offset = (at + index as u64).wrapping_sub(self.0) as usize;
                self.1.get(offset).copied().unwrap_or(0)
            })
        }
    }

    impl Page {
        fn put(&mut self, at: usize, bytes: &[u8]) {
            self.1[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    #[test]
    fn a_zero_page_is_read() {
        let mut page = Page(0x9_0000, [0; 4096]);
        page.put(0x210, &[0xb0]);
        page.put(0x228, &0x9_0f00u32.to_le_bytes());
        page.put(0xf00, b"root=/dev/vda1 quiet\0junk");
        page.put(0x218, &0x400_0000u32.to_le_bytes());
        page.put(0x21c, &0x1234u32.to_le_bytes());
        page.put(0x1e8, &[1]);
        page.put(0x2d0, &0x10_0000u64.to_le_bytes());
        page.put(0x2d8, &0x800_0000u64.to_le_bytes());
        page.put(0x2e0, &1u32.to_le_bytes());
        let mut info = BootInfo::new();
        read(&mut info, &page, 0x9_0000);
        info.memory.normalise();
        assert_eq!(info.command_line(), "root=/dev/vda1 quiet");
        assert_eq!(info.initrd, Some(PhysRange::new(0x400_0000, 0x1234)));
        assert_eq!((info.loader, info.memory.usable_bytes()), (0xb0, 0x800_0000));
        assert_eq!((info.rsdp, info.framebuffer), (None, None));
    }

    #[test]
    fn acpi_is_found_through_the_firmware() {
        let mut page = Page(0x9_0000, [0; 4096]);
        page.put(0x1c0, b"EL64");
        page.put(0x1c4, &0x9_0800u32.to_le_bytes());
        page.put(0x800 + 104, &2u64.to_le_bytes());
        page.put(0x800 + 112, &0x9_0a00u64.to_le_bytes());
        page.put(0xa00, &ACPI_TABLES[1]);
        page.put(0xa10, &0x111u64.to_le_bytes());
        page.put(0xa18, &ACPI_TABLES[0]);
        page.put(0xa28, &0x222u64.to_le_bytes());
        let mut info = BootInfo::new();
        read(&mut info, &page, 0x9_0000);
        assert_eq!((info.protocol, info.rsdp), (Protocol::Efi, Some(PhysAddr(0x222))));
        // A list outside the mapped memory is left alone.
        page.put(0x800 + 112, &0xffff_ffffu64.to_le_bytes());
        let mut info = BootInfo::new();
        read(&mut info, &page, 0x9_0000);
        assert_eq!(info.rsdp, None);
    }
}
