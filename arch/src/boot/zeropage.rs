//! The Linux zero page (`struct boot_params` of `<asm/bootparam.h>`), read one-to-one mapped.

use super::info::{BootInfo, COMMAND_LINE_MAX, Framebuffer, PhysRange, Protocol};
use super::memory::MemoryKind;
use crate::addr::PhysAddr;

/// Entries in the zero page's own E820 table.
const E820_MAX: u64 = 128;
/// `setup_data` types.
const SETUP_E820_EXT: u32 = 1;
const SETUP_RNG_SEED: u32 = 9;
/// `screen_info.orig_video_isVGA` values with a linear framebuffer.
const VIDEO_VESA: u8 = 0x23;
const VIDEO_EFI: u8 = 0x70;

/// Reads a possibly unaligned value at `base + offset`.
///
/// # Safety
/// The address must be mapped one to one and hold a value of the plain integer type `T`.
pub(super) unsafe fn peek<T: Copy>(base: u64, offset: u64) -> T {
    // SAFETY: forwarded from the caller.
    unsafe { (base.wrapping_add(offset) as *const T).read_unaligned() }
}

/// Copies the NUL-terminated command line at `address`.
///
/// # Safety
/// As [`peek`], for every byte up to the NUL.
pub(super) unsafe fn copy_c_string(info: &mut BootInfo, address: u64) {
    let mut line = [0u8; COMMAND_LINE_MAX];
    let mut len = 0;
    for (offset, slot) in (0..).zip(line.iter_mut()) {
        // SAFETY: forwarded from the caller; reading stops at the NUL.
        let byte: u8 = unsafe { peek(address, offset) };
        if byte == 0 {
            break;
        }
        *slot = byte;
        len += 1;
    }
    info.set_command_line(line.get(..len).unwrap_or_default());
}

/// Fills `info` from the zero page at physical `address`.
///
/// # Safety
/// The loader must have put a zero page there, and memory must be mapped one to one.
pub(super) unsafe fn read(info: &mut BootInfo, address: u64) {
    info.protocol = Protocol::Linux;
    // SAFETY: forwarded from the caller; all offsets are inside the zero page.
    unsafe {
        info.loader = peek(address, 0x210);
        let command_line =
            u64::from(peek::<u32>(address, 0x228)) | u64::from(peek::<u32>(address, 0xc8)) << 32;
        if command_line != 0 {
            copy_c_string(info, command_line);
        }
        let initrd =
            u64::from(peek::<u32>(address, 0x218)) | u64::from(peek::<u32>(address, 0xc0)) << 32;
        let initrd_len =
            u64::from(peek::<u32>(address, 0x21c)) | u64::from(peek::<u32>(address, 0xc4)) << 32;
        if initrd != 0 && initrd_len != 0 {
            info.initrd = Some(PhysRange::new(initrd, initrd_len));
        }
        let rsdp: u64 = peek(address, 0x70);
        if rsdp != 0 {
            info.rsdp = Some(PhysAddr(rsdp));
        }
        if matches!(&peek::<[u8; 4]>(address, 0x1c0), b"EL64" | b"EL32") {
            info.protocol = Protocol::Efi;
        }
        let entries = u64::from(peek::<u8>(address, 0x1e8)).min(E820_MAX);
        add_e820(info, address + 0x2d0, entries);
        info.framebuffer = framebuffer(address);
        read_setup_data(info, peek(address, 0x250));
    }
}

/// Adds `entries` packed E820 entries of 20 bytes.
///
/// # Safety
/// As [`peek`] for the whole table.
unsafe fn add_e820(info: &mut BootInfo, table: u64, entries: u64) {
    for entry in (0..entries).map(|index| table + 20 * index) {
        // SAFETY: forwarded from the caller.
        let (start, len, kind) = unsafe { (peek(entry, 0), peek(entry, 8), peek(entry, 16)) };
        info.memory.add(start, len, MemoryKind::from_e820(kind));
    }
}

/// Walks the list of `setup_data`: more memory map, and entropy.
///
/// # Safety
/// As [`peek`] for every member of the list.
unsafe fn read_setup_data(info: &mut BootInfo, mut node: u64) {
    let mut budget = 64;
    while node != 0 && budget > 0 {
        budget -= 1;
        // SAFETY: forwarded from the caller: the header has 16 bytes, then `len` of data.
        unsafe {
            let next = peek::<u64>(node, 0);
            let kind = peek::<u32>(node, 8);
            let len = u64::from(peek::<u32>(node, 12));
            match kind {
                SETUP_E820_EXT => add_e820(info, node + 16, len / 20),
                SETUP_RNG_SEED => {
                    for index in 0..(len / 8) {
                        let word: u64 = peek(node + 16, index * 8);
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
}

/// The linear framebuffer of `screen_info`.
///
/// # Safety
/// As [`peek`] for the first 64 bytes of the zero page.
unsafe fn framebuffer(address: u64) -> Option<Framebuffer> {
    // SAFETY: forwarded from the caller.
    unsafe {
        if !matches!(peek::<u8>(address, 0x0f), VIDEO_VESA | VIDEO_EFI) {
            return None;
        }
        let base = u64::from(peek::<u32>(address, 0x18));
        let high = if peek::<u32>(address, 0x36) & 2 != 0 {
            u64::from(peek::<u32>(address, 0x3a)) << 32
        } else {
            0
        };
        let stride = u32::from(peek::<u16>(address, 0x24));
        let height = u32::from(peek::<u16>(address, 0x14));
        Some(Framebuffer {
            address: PhysAddr(base | high),
            len: u64::from(stride) * u64::from(height),
            width: u32::from(peek::<u16>(address, 0x12)),
            height,
            stride,
            bits_per_pixel: peek::<u16>(address, 0x16) as u8,
            red: (peek(address, 0x27), peek(address, 0x26)),
            green: (peek(address, 0x29), peek(address, 0x28)),
            blue: (peek(address, 0x2b), peek(address, 0x2a)),
        })
    }
}
