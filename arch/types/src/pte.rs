//! One page-table entry. SDM vol. 3A 4.5.4.

use crate::addr::{HUGE_SIZE, PAGE_SIZE, PhysAddr};

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

bitflags::bitflags! {
    /// The bits of an entry beside the address.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PteFlags: u64 {
        /// Maps something.
        const PRESENT = 1;
        /// May be written.
        const WRITE = 1 << 1;
        /// User mode may use it.
        const USER = 1 << 2;
        /// Write-through; selects the memory type with `NO_CACHE` and `PAT`.
        const WRITE_THROUGH = 1 << 3;
        /// Not cached; selects the memory type with `WRITE_THROUGH` and `PAT`.
        const NO_CACHE = 1 << 4;
        /// Was used; set by the processor.
        const ACCESSED = 1 << 5;
        /// Was written; set by the processor.
        const DIRTY = 1 << 6;
        /// A large page (in a directory).
        const HUGE = 1 << 7;
        /// Stays in the TLB across address-space switches.
        const GLOBAL = 1 << 8;
        /// Free for the owner of the table.
        const SOFT0 = 1 << 9;
        /// Maps something that no access, not even the kernel's, may reach: set in place of
        /// `PRESENT`. The processor ignores the rest of such an entry.
        const HIDDEN = 1 << 10;
        /// In a directory: the table below is shared between address spaces. Free in leaves.
        const SHARED = 1 << 11;
        /// Free for the owner of the table.
        const SOFT2 = 1 << 52;
        /// Free for the owner of the table.
        const SOFT3 = 1 << 53;
        /// Free for the owner of the table.
        const SOFT4 = 1 << 54;
        /// Instructions may not be fetched.
        const NO_EXECUTE = 1 << 63;

        /// What entries that point to tables carry.
        const TABLE = 1 | 1 << 1 | 1 << 2 | 1 << 5;
        /// Write-combining memory: PAT entry 1.
        const WRITE_COMBINING = 1 << 3;
        /// Device memory.
        const UNCACHED = 1 << 3 | 1 << 4;
        /// Kernel data.
        const KERNEL_DATA = 1 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 63;
    }
}

/// The size of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// 4 KiB.
    Page,
    /// 2 MiB.
    Huge,
}

impl Level {
    /// The size in bytes.
    pub const fn size(self) -> usize {
        match self {
            Level::Page => PAGE_SIZE,
            Level::Huge => HUGE_SIZE,
        }
    }
}

/// An entry: nothing, a page, a table, or (not present) whatever the owner stores.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Pte(pub u64);

impl Pte {
    /// Nothing.
    pub const NONE: Pte = Pte(0);

    /// A page.
    pub const fn leaf(to: PhysAddr, flags: PteFlags, level: Level) -> Pte {
        let huge = match level {
            Level::Page => 0,
            Level::Huge => PteFlags::HUGE.bits(),
        };
        Pte(to.0 & ADDRESS | flags.bits() | huge)
    }
    /// A pointer to a table.
    pub const fn table(table: PhysAddr, flags: PteFlags) -> Pte {
        Pte(table.0 & ADDRESS | flags.bits())
    }
    /// Whether nothing at all is stored.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
    /// Whether it maps something, be it hidden.
    pub const fn is_present(self) -> bool {
        self.0 & (PteFlags::PRESENT.bits() | PteFlags::HIDDEN.bits()) != 0
    }
    /// Whether it may be written.
    pub const fn is_writable(self) -> bool {
        self.0 & PteFlags::WRITE.bits() != 0
    }
    /// Whether it was written.
    pub const fn is_dirty(self) -> bool {
        self.0 & PteFlags::DIRTY.bits() != 0
    }
    /// Whether it was used.
    pub const fn is_accessed(self) -> bool {
        self.0 & PteFlags::ACCESSED.bits() != 0
    }
    /// Whether it is a large page (in a directory).
    pub const fn is_huge(self) -> bool {
        self.0 & PteFlags::HUGE.bits() != 0
    }
    /// The frame or table.
    pub const fn address(self) -> PhysAddr {
        PhysAddr(self.0 & ADDRESS)
    }
    /// The flags.
    pub const fn flags(self) -> PteFlags {
        PteFlags::from_bits_truncate(self.0 & !ADDRESS)
    }
    /// The same frame with other flags.
    pub const fn with_flags(self, flags: PteFlags) -> Pte {
        Pte(self.0 & ADDRESS | flags.bits())
    }
}

impl core::fmt::Debug for Pte {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Pte({:#x} {:?})", self.address(), self.flags())
    }
}
