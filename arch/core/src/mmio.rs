//! Registers of devices in memory.

use crate::addr::PhysAddr;
use crate::paging::{self, MapError, PteFlags};

/// Device registers, mapped for ever.
#[derive(Clone, Copy)]
pub struct Registers {
    base: *mut u8,
    len: usize,
}

// SAFETY: the pointer is device memory that all processors have mapped; accesses are volatile.
unsafe impl Send for Registers {}
// SAFETY: as above.
unsafe impl Sync for Registers {}

impl Registers {
    /// Maps `len` bytes of registers of a device, which are no RAM: of the machine's own that the
    /// firmware's tables name, or of one whose range its driver claimed. Devices reach memory only
    /// through addresses that drivers take from buffers they hold. The kernel's memory is refused.
    pub fn map(phys: PhysAddr, len: usize) -> Result<Registers, MapError> {
        if crate::boot::is_kernel_memory(phys, len) {
            return Err(MapError::Occupied);
        }
        let base = paging::kernel::ioremap(phys, len, PteFlags::UNCACHED)?;
        Ok(Registers { base, len })
    }

    #[inline]
    fn at<T>(&self, offset: usize) -> *mut T {
        let inside = offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.len);
        assert!(inside && offset.is_multiple_of(size_of::<T>()), "no such register");
        self.base.wrapping_add(offset).cast()
    }
}

macro_rules! access {
    ($read:ident, $write:ident, $ty:ty) => {
        impl Registers {
            /// Reads a register.
            #[inline]
            pub fn $read(&self, offset: usize) -> $ty {
                // SAFETY: inside the mapping (checked), which stays.
                unsafe { self.at::<$ty>(offset).read_volatile() }
            }
            /// Writes a register.
            #[inline]
            pub fn $write(&self, offset: usize, value: $ty) {
                // SAFETY: as in the read; see `map` for what devices may do.
                unsafe { self.at::<$ty>(offset).write_volatile(value) };
            }
        }
    };
}
access!(read8, write8, u8);
access!(read16, write16, u16);
access!(read32, write32, u32);
access!(read64, write64, u64);
