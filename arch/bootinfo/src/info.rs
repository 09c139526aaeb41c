//! The normalised description of what the boot loader handed over.

use super::memory::MemoryMap;
use archtypes::addr::{PhysAddr, VirtAddr};
use arrayvec::ArrayVec;
use core::fmt;

/// The longest command line kept, as on Linux.
pub const COMMAND_LINE_MAX: usize = 2048;

/// A half-open range of physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct PhysRange {
    /// The first byte.
    pub start: PhysAddr,
    /// One past the last byte.
    pub end: PhysAddr,
}

/// One past the highest address that the architecture has room for: SDM vol. 3A 4.1.4.
pub const PHYS_END: u64 = 1 << 52;

impl PhysRange {
    /// The range of `len` bytes at `start`; cut at the end of physical addresses, so that rounding
    /// its edges to pages cannot wrap.
    pub const fn new(start: u64, len: u64) -> PhysRange {
        let end = start.saturating_add(len);
        let end = if end < PHYS_END { end } else { PHYS_END };
        PhysRange { start: PhysAddr(start), end: PhysAddr(end) }
    }
    /// The length in bytes.
    pub const fn len(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }
    /// Whether nothing is in it.
    pub const fn is_empty(&self) -> bool {
        self.end.0 <= self.start.0
    }
    /// Whether the two share a byte.
    pub const fn overlaps(&self, other: &PhysRange) -> bool {
        self.start.0 < other.end.0 && other.start.0 < self.end.0
    }
    /// Whether the address is inside.
    pub const fn contains(&self, addr: PhysAddr) -> bool {
        self.start.0 <= addr.0 && addr.0 < self.end.0
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}-{:#x})", self.start.0, self.end.0)
    }
}

/// Which front-end started the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// The Linux boot protocol: a zero page.
    #[default]
    Linux,
    /// The Linux boot protocol, entered by the EFI stub or by a loader under EFI.
    Efi,
    /// PVH: an ELF file and a start info.
    Pvh,
    /// The `bootloader` crate.
    Bootloader,
}

/// A linear framebuffer set up by the firmware or the loader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Framebuffer {
    /// Where the pixels are.
    pub address: PhysAddr,
    /// Length in bytes.
    pub len: u64,
    /// Pixels in a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Bytes from one line to the next.
    pub stride: u32,
    /// Bits in a pixel.
    pub bits_per_pixel: u8,
    /// (position, size) in bits of red, green and blue.
    pub red: (u8, u8),
    /// See `red`.
    pub green: (u8, u8),
    /// See `red`.
    pub blue: (u8, u8),
}

/// What the boot loader handed over, in one form for all protocols. Holds no pointers: it is
/// filled before the kernel has moved to its final address.
pub struct BootInfo {
    /// The front-end that filled this.
    pub protocol: Protocol,
    /// Physical memory as the firmware describes it: sorted, free of overlaps.
    pub memory: MemoryMap,
    /// Parts of usable memory that hold something: the first MiB, the kernel, the initrd, the boot
    /// page tables. [`usable`](Self::usable) leaves them out.
    pub reserved: ArrayVec<PhysRange, 32>,
    /// Where the initial ramdisk was loaded.
    pub initrd: Option<PhysRange>,
    /// The ACPI root pointer, where the loader told it.
    pub rsdp: Option<PhysAddr>,
    /// The firmware's framebuffer.
    pub framebuffer: Option<Framebuffer>,
    /// Where the image is, up to the end of `.bss`.
    pub kernel: PhysRange,
    /// The virtual address of the image's first byte.
    pub kernel_virt: VirtAddr,
    /// How far the image was moved from its link address.
    pub slide: u64,
    /// The virtual address of physical address zero.
    pub direct_map: VirtAddr,
    /// One past the highest physical address in the direct map.
    pub direct_map_end: PhysAddr,
    /// The first page tables.
    pub tables: PhysRange,
    /// The number by which the loader names itself in the Linux protocol.
    pub loader: u8,
    /// Bytes of entropy from the loader and the processor, for the first seed of the random pool.
    pub seed: [u64; 4],
    command_line: ArrayVec<u8, COMMAND_LINE_MAX>,
}

impl BootInfo {
    /// A description of nothing.
    pub const fn new() -> BootInfo {
        BootInfo {
            protocol: Protocol::Linux,
            memory: MemoryMap::new(),
            reserved: ArrayVec::new_const(),
            initrd: None,
            rsdp: None,
            framebuffer: None,
            kernel: PhysRange::new(0, 0),
            kernel_virt: VirtAddr(0),
            slide: 0,
            direct_map: VirtAddr(0),
            direct_map_end: PhysAddr(0),
            tables: PhysRange::new(0, 0),
            loader: 0,
            seed: [0; 4],
            command_line: ArrayVec::new_const(),
        }
    }

    /// The command line. Bytes that are not UTF-8 end it.
    pub fn command_line(&self) -> &str {
        match core::str::from_utf8(&self.command_line) {
            Ok(line) => line,
            Err(error) => {
                let valid = self.command_line.get(..error.valid_up_to()).unwrap_or_default();
                core::str::from_utf8(valid).unwrap_or_default()
            }
        }
    }

    /// Replaces the command line; what is too long is cut off.
    pub fn set_command_line(&mut self, bytes: &[u8]) {
        self.command_line.clear();
        for byte in bytes.iter().take(COMMAND_LINE_MAX - 1) {
            self.command_line.push(*byte);
        }
    }

    /// Puts words before those of the loader; what is too long is cut off.
    pub fn prepend_command_line(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let given = self.command_line.clone();
        self.set_command_line(bytes);
        for byte in b" ".iter().chain(&given) {
            if self.command_line.len() < COMMAND_LINE_MAX - 1 {
                self.command_line.push(*byte);
            }
        }
    }

    /// Forgets a RAM disk that is not in memory as the map has it; whether that was so.
    pub fn drop_bad_initrd(&mut self) -> bool {
        let is_bad = self.initrd.is_some_and(|range| !self.memory.is_memory(range));
        if is_bad {
            self.initrd = None;
        }
        is_bad
    }

    /// Takes a range out of what [`usable`](Self::usable) yields.
    pub fn reserve(&mut self, range: PhysRange) {
        if range.is_empty() {
            return;
        }
        if self.reserved.is_full() {
            // Merge with the nearest: losing memory is better than handing out used memory.
            if let Some(last) = self.reserved.last_mut() {
                last.start = last.start.min(range.start);
                last.end = last.end.max(range.end);
            }
        } else {
            self.reserved.push(range);
        }
        self.reserved.sort_unstable_by_key(|range| range.start);
    }

    /// The page-aligned ranges of memory that nothing occupies, ascending.
    pub fn usable(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.memory.usable().flat_map(|region| {
            let mut cursor = region.start.page_up();
            let end = region.end.page_down();
            let mut holes = self.reserved.iter();
            core::iter::from_fn(move || {
                loop {
                    if cursor >= end {
                        return None;
                    }
                    let Some(hole) = holes.find(|hole| hole.end > cursor) else {
                        let range = PhysRange { start: cursor, end };
                        cursor = end;
                        return Some(range);
                    };
                    let range = PhysRange { start: cursor, end: hole.start.page_down().min(end) };
                    cursor = hole.end.page_up();
                    if !range.is_empty() {
                        return Some(range);
                    }
                }
            })
        })
    }
}

impl Default for BootInfo {
    fn default() -> BootInfo {
        BootInfo::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryKind;

    #[test]
    fn reserved_ranges_are_cut_out() {
        let mut info = BootInfo::new();
        info.memory.add(0, 0x9fc00, MemoryKind::Usable);
        info.memory.add(0x100000, 0x10_0000_0000, MemoryKind::Usable);
        info.memory.normalise();
        info.reserve(PhysRange::new(0x100_0000, 0x20_0000));
        info.reserve(PhysRange::new(0x800_0123, 0x1000));
        info.reserve(PhysRange::new(0, 0x10_0000));
        let got: Vec<_> = info.usable().map(|r| (r.start.0, r.end.0)).collect();
        assert_eq!(
            got,
            [(0x10_0000, 0x100_0000), (0x120_0000, 0x800_0000), (0x800_2000, 0x10_0010_0000)]
        );
    }

    #[test]
    fn reserved_ranges_may_overlap() {
        let mut info = BootInfo::new();
        info.memory.add(0, 0x10_0000, MemoryKind::Usable);
        info.memory.normalise();
        info.reserve(PhysRange::new(0x1000, 0x8000));
        info.reserve(PhysRange::new(0x2000, 0x1000));
        let got: Vec<_> = info.usable().map(|r| (r.start.0, r.end.0)).collect();
        assert_eq!(got, [(0, 0x1000), (0x9000, 0x10_0000)]);
    }

    #[test]
    fn a_mad_ram_disk_hides_memory_and_nothing_else() {
        let mut info = BootInfo::new();
        info.memory.add(0, 0x1000_0000, MemoryKind::Usable);
        info.memory.add(u64::MAX - 0xfff, 0x1000, MemoryKind::Usable);
        info.memory.normalise();
        let kernel = PhysRange::new(0x100_0000, 0x20_0000);
        info.reserve(kernel);
        let mad = PhysRange::new(0x800_0000, u64::MAX);
        info.reserve(mad);
        let got: Vec<_> = info.usable().map(|r| (r.start.0, r.end.0)).collect();
        assert_eq!(got, [(0, 0x100_0000), (0x120_0000, 0x800_0000)]);
        info.initrd = Some(mad);
        assert!(info.drop_bad_initrd());
        assert_eq!(info.initrd, None);
    }

    #[test]
    fn a_ram_disk_must_lie_in_memory() {
        let mut info = BootInfo::new();
        info.memory.add(0x10_0000, 0x10_0000, MemoryKind::Usable);
        info.memory.add(0x20_0000, 0x10_0000, MemoryKind::AcpiReclaimable);
        info.memory.add(0x40_0000, 0x10_0000, MemoryKind::Usable);
        info.memory.normalise();
        let is_bad = |info: &mut BootInfo, start, len| {
            info.initrd = Some(PhysRange::new(start, len));
            info.drop_bad_initrd()
        };
        assert!(!is_bad(&mut info, 0x10_0000, 0x20_0000));
        assert!(!is_bad(&mut info, 0x4f_f000, 0x1000));
        assert!(is_bad(&mut info, 0x2f_f000, 0x2000));
        assert!(is_bad(&mut info, 0xf_f000, 0x2000));
        assert!(is_bad(&mut info, 0x1000_0000, 0x1000));
        assert!(is_bad(&mut info, 1 << 60, 0x1000));
    }

    #[test]
    fn built_in_words_come_first() {
        let mut info = BootInfo::new();
        info.set_command_line(b"quiet");
        info.prepend_command_line(b"");
        assert_eq!(info.command_line(), "quiet");
        info.prepend_command_line(b"console=ttyS0");
        assert_eq!(info.command_line(), "console=ttyS0 quiet");
        info.prepend_command_line(&[b'a'; 2040]);
        assert_eq!(info.command_line().len(), COMMAND_LINE_MAX - 1);
    }

    #[test]
    fn command_line_is_cut_and_ends_at_bad_bytes() {
        let mut info = BootInfo::new();
        info.set_command_line(b"root=/dev/vda1 \xff quiet");
        assert_eq!(info.command_line(), "root=/dev/vda1 ");
        info.set_command_line(&[b'a'; 5000]);
        assert_eq!(info.command_line().len(), COMMAND_LINE_MAX - 1);
    }
}
