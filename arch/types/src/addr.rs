//! Physical and virtual addresses as types that cannot be mixed up, and the layout constants.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

/// log2 of the base page size.
pub const PAGE_SHIFT: u32 = 12;
/// The base page size in bytes.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// log2 of the large page size (2 MiB).
pub const HUGE_SHIFT: u32 = 21;
/// The large page size in bytes.
pub const HUGE_SIZE: usize = 1 << HUGE_SHIFT;
/// One past the highest user address: the last page below the hole stays unmapped, as on Linux,
/// so that a `syscall` instruction can never end at a non-canonical address.
pub const USER_END: u64 = 0x7fff_ffff_f000;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address zero.
            pub const ZERO: Self = Self(0);

            /// Wraps a raw address.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }
            /// The raw address.
            pub const fn as_u64(self) -> u64 {
                self.0
            }
            /// The raw address as an index-sized number.
            pub const fn as_usize(self) -> usize {
                self.0 as usize
            }
            /// Rounds down to a multiple of `align`, a power of two.
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }
            /// Rounds up to a multiple of `align`, a power of two; wraps at the top.
            pub const fn align_up(self, align: u64) -> Self {
                Self(self.0.wrapping_add(align - 1) & !(align - 1))
            }
            /// Whether this is a multiple of `align`, a power of two.
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }
            /// The start of the page this address is in.
            pub const fn page_down(self) -> Self {
                self.align_down(PAGE_SIZE as u64)
            }
            /// The start of the next page, or this address if it starts a page.
            pub const fn page_up(self) -> Self {
                self.align_up(PAGE_SIZE as u64)
            }
            /// The offset inside the page.
            pub const fn page_offset(self) -> usize {
                (self.0 & (PAGE_SIZE as u64 - 1)) as usize
            }
            /// Adds, or `None` past the end of the address space.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
            /// Adds, wrapping.
            pub const fn wrapping_add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }
            /// Whether the address is zero.
            pub const fn is_null(self) -> bool {
                self.0 == 0
            }
        }

        impl Add<u64> for $name {
            type Output = Self;
            fn add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }
        }
        impl Add<usize> for $name {
            type Output = Self;
            fn add(self, bytes: usize) -> Self {
                Self(self.0.wrapping_add(bytes as u64))
            }
        }
        impl AddAssign<u64> for $name {
            fn add_assign(&mut self, bytes: u64) {
                self.0 = self.0.wrapping_add(bytes);
            }
        }
        impl Sub<$name> for $name {
            type Output = u64;
            fn sub(self, other: $name) -> u64 {
                self.0.wrapping_sub(other.0)
            }
        }
        impl Sub<u64> for $name {
            type Output = Self;
            fn sub(self, bytes: u64) -> Self {
                Self(self.0.wrapping_sub(bytes))
            }
        }
        impl From<u64> for $name {
            fn from(raw: u64) -> Self {
                Self(raw)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// An address on the memory bus.
    PhysAddr
}
address! {
    /// A virtual address; what a user program passes is one of these until `user` has checked it.
    VirtAddr
}

impl PhysAddr {
    /// The frame this address is in.
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }
}

impl VirtAddr {
    /// The address of a kernel object.
    pub fn from_ptr<T: ?Sized>(ptr: *const T) -> Self {
        Self(ptr.cast::<u8>() as u64)
    }
    /// As a pointer; following it is the caller's `unsafe`.
    pub const fn as_ptr<T>(self) -> *const T {
        self.0 as *const T
    }
    /// As a mutable pointer; following it is the caller's `unsafe`.
    pub const fn as_mut_ptr<T>(self) -> *mut T {
        self.0 as *mut T
    }
    /// Whether the address lies in the user half.
    pub const fn is_user(self) -> bool {
        self.0 < USER_END
    }
    /// Whether bits 63..47 are all equal.
    pub const fn is_canonical(self) -> bool {
        ((self.0 as i64) << 16 >> 16) as u64 == self.0
    }
}

/// The number of a physical frame: its address divided by the page size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Pfn(pub u64);

impl Pfn {
    /// The frame's first byte.
    pub const fn phys(self) -> PhysAddr {
        PhysAddr(self.0 << PAGE_SHIFT)
    }
    /// The number as an index.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl Add<u64> for Pfn {
    type Output = Self;
    fn add(self, frames: u64) -> Self {
        Self(self.0.wrapping_add(frames))
    }
}

impl Sub<Pfn> for Pfn {
    type Output = u64;
    fn sub(self, other: Pfn) -> u64 {
        self.0.wrapping_sub(other.0)
    }
}

/// Rounds a length up to whole pages; `None` on overflow.
pub const fn pages_up(len: u64) -> Option<u64> {
    match len.checked_add(PAGE_SIZE as u64 - 1) {
        Some(sum) => Some(sum >> PAGE_SHIFT),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_and_canonical_form() {
        assert_eq!(VirtAddr(0x1fff).page_down(), VirtAddr(0x1000));
        assert_eq!(VirtAddr(0x1001).page_up(), VirtAddr(0x2000));
        assert!(VirtAddr(0x7fff_ffff_ffff).is_canonical());
        assert!(!VirtAddr(0x8000_0000_0000).is_canonical());
        assert!(VirtAddr(0xffff_8000_0000_0000).is_canonical());
        assert_eq!(pages_up(1), Some(1));
        assert_eq!(pages_up(u64::MAX), None);
    }
}
