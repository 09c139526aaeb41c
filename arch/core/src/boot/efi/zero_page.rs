//! The zero page (`struct boot_params` of `<asm/bootparam.h>`) as a loader writes it.

use super::memory::Map;
use super::screen::Screen;
use super::{PAGE, text};
use bootinfo::zeropage::{E820_MAX, SETUP_E820_EXT, SETUP_RNG_SEED, VIDEO_EFI};

/// Pages: the zero page, the command line, and lists that do not fit into the zero page.
pub(super) const PAGES: usize = 2 + LIST_PAGES;
const LIST_PAGES: usize = 8;
const LINE: usize = PAGE;
/// The longest command line.
const LINE_MAX: usize = 2047;
/// The seed, as a member of the list of `setup_data`: a header and bytes.
const SEED: usize = LINE + 2048;
const SEED_LEN: usize = 32;
/// The rest of the memory map, likewise.
const LIST: usize = 2 * PAGE;
/// Next, type, length.
const HEADER: usize = 16;
const E820_ENTRY: usize = 20;
/// How the stub names itself as a loader.
const LOADER: u8 = 0x21;

/// The page and what hangs on it, in one block of memory below 4 GiB.
pub(super) struct ZeroPage {
    at: *mut u8,
}

impl ZeroPage {
    /// Makes one in a block of [`PAGES`] pages: empty, or a copy of what a loader passed.
    pub(super) fn new(at: *mut u8, params: u64) -> ZeroPage {
        // SAFETY: the block was allocated; a loader's zero page has 4096 bytes.
        unsafe {
            at.write_bytes(0, PAGES * PAGE);
            if params != 0 {
                at.copy_from_nonoverlapping(params as *const u8, PAGE);
            }
        }
        let mut page = ZeroPage { at };
        if params == 0 {
            page.put(0x210, LOADER);
        }
        page
    }

    pub(super) fn address(&self) -> u64 {
        self.at as u64
    }

    fn put<T: Copy>(&mut self, offset: usize, value: T) {
        debug_assert!(offset + size_of::<T>() <= PAGES * PAGE);
        // SAFETY: all offsets here are inside the block.
        unsafe { self.at.add(offset).cast::<T>().write_unaligned(value) };
    }

    fn get<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: as above, with plain integers.
        unsafe { self.at.add(offset).cast::<T>().read_unaligned() }
    }

    fn put_split(&mut self, low: usize, high: usize, value: u64) {
        self.put(low, value as u32);
        self.put(high, (value >> 32) as u32);
    }

    fn get_split(&self, low: usize, high: usize) -> u64 {
        u64::from(self.get::<u32>(low)) | u64::from(self.get::<u32>(high)) << 32
    }

    /// Takes the command line from UTF-16 text.
    pub(super) fn set_command_line(&mut self, units: *const u16, len: usize) {
        // SAFETY: the firmware says that there are `len` units, perhaps unaligned.
        let units = (0..len).map(|index| unsafe { units.add(index).read_unaligned() });
        // SAFETY: a part of the block that nothing else refers to now.
        let room = unsafe { core::slice::from_raw_parts_mut(self.at.add(LINE), LINE_MAX) };
        text::to_utf8(units, room);
        let address = self.address() + LINE as u64;
        self.put_split(0x228, 0xc8, address);
    }

    /// The command line.
    pub(super) fn command_line(&self) -> &str {
        let at = self.get_split(0x228, 0xc8);
        if at == 0 {
            return "";
        }
        // SAFETY: the stub's or the loader's, which ends in NUL.
        let len = (0..LINE_MAX).take_while(|i| unsafe { *(at as *const u8).add(*i) } != 0).count();
        // SAFETY: as above.
        let bytes = unsafe { core::slice::from_raw_parts(at as *const u8, len) };
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    pub(super) fn has_ramdisk(&self) -> bool {
        self.get_split(0x218, 0xc0) != 0 && self.get_split(0x21c, 0xc4) != 0
    }

    pub(super) fn set_ramdisk(&mut self, at: u64, len: usize) {
        self.put_split(0x218, 0xc0, at);
        self.put_split(0x21c, 0xc4, len as u64);
    }

    pub(super) fn set_rsdp(&mut self, at: u64) {
        self.put(0x70, at);
    }

    /// Fills `screen_info`.
    pub(super) fn set_screen(&mut self, screen: &Screen) {
        self.put(0x0f, VIDEO_EFI);
        self.put(0x12, screen.width as u16);
        self.put(0x14, screen.height as u16);
        self.put(0x16, 32u16);
        self.put_split(0x18, 0x3a, screen.address);
        self.put(0x1c, screen.len as u32);
        self.put(0x24, (screen.stride * 4) as u16);
        for (offset, (position, size)) in
            [(0x26, screen.red), (0x28, screen.green), (0x2a, screen.blue)]
        {
            self.put(offset, size);
            self.put(offset + 1, position);
        }
        // The upper half of the address counts.
        self.put(0x36, 2u32);
    }

    /// Room for randomness; [`ZeroPage::add_seed`] makes it count.
    pub(super) fn seed(&mut self) -> &mut [u8] {
        // SAFETY: a part of the block that nothing else refers to.
        unsafe { core::slice::from_raw_parts_mut(self.at.add(SEED + HEADER), SEED_LEN) }
    }

    pub(super) fn add_seed(&mut self) {
        self.link(SEED, SETUP_RNG_SEED, SEED_LEN);
    }

    /// Puts a member in front of the list of `setup_data`.
    fn link(&mut self, offset: usize, kind: u32, len: usize) {
        let first: u64 = self.get(0x250);
        self.put(offset, first);
        self.put(offset + 8, kind);
        self.put(offset + 12, len as u32);
        let address = self.address() + offset as u64;
        self.put(0x250, address);
    }

    /// Writes the memory map and tells of the firmware. What there is no room for is not used.
    pub(super) fn set_memory(&mut self, map: &Map, system_table: u64) {
        let room = (LIST_PAGES * PAGE - HEADER) / E820_ENTRY;
        let (mut first, mut more) = (0, 0);
        for (start, len, kind) in map.ranges() {
            let at = if first < E820_MAX as usize {
                first += 1;
                0x2d0 + (first - 1) * E820_ENTRY
            } else if more < room {
                more += 1;
                LIST + HEADER + (more - 1) * E820_ENTRY
            } else {
                break;
            };
            self.put(at, start);
            self.put(at + 8, len);
            self.put(at + 16, kind as u32);
        }
        self.put(0x1e8, first as u8);
        if more > 0 {
            self.link(LIST, SETUP_E820_EXT, more * E820_ENTRY);
        }
        self.put(0x1c0, *b"EL64");
        self.put_split(0x1c4, 0x1d8, system_table);
        self.put(0x1c8, map.step as u32);
        self.put(0x1cc, map.version);
        self.put_split(0x1d0, 0x1dc, map.at as u64);
        self.put(0x1d4, map.len as u32);
    }
}
