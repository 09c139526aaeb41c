//! Device memory.

use alloc::sync::Arc;

use abi::{Errno, Result};
use arch::PhysAddr;
#[cfg(target_os = "none")]
use arch::mmio::Registers;

use crate::resources;

/// A claimed range of device memory, mapped uncached. Offsets outside it or not aligned to their
/// width read as all ones, and writes there do nothing.
#[derive(Clone)]
pub struct Mmio {
    inner: Arc<Inner>,
    offset: usize,
    len: usize,
}

enum Access {
    #[cfg(target_os = "none")]
    Mapped(Registers),
    #[cfg(not(target_os = "none"))]
    Model(Arc<dyn crate::sim::Model>),
}

struct Inner {
    access: Access,
    phys: u64,
    is_claimed: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.is_claimed {
            resources::release_memory(self.phys);
        }
    }
}

impl Mmio {
    /// Claims and maps `len` bytes of device memory from `phys` on.
    ///
    /// # Errors
    /// `EBUSY` when a part of it is in use, `EINVAL` when a part of it is RAM, `ENOMEM`.
    #[cfg(target_os = "none")]
    pub fn map(name: &str, phys: PhysAddr, len: usize) -> Result<Self> {
        let end = phys.0.checked_add(len as u64).ok_or(Errno::EINVAL)?;
        if len == 0 || frames::contains_ram(phys, PhysAddr(end)) {
            return Err(Errno::EINVAL);
        }
        resources::claim_memory(phys.0, len as u64, name)?;
        let Ok(registers) = Registers::map(phys, len) else {
            resources::release_memory(phys.0);
            return Err(Errno::ENOMEM);
        };
        let inner = Inner { access: Access::Mapped(registers), phys: phys.0, is_claimed: true };
        Ok(Self { inner: Arc::new(inner), offset: 0, len })
    }

    /// There is no device memory on the host: see [`Mmio::simulated`].
    ///
    /// # Errors
    /// Always `ENODEV`.
    #[cfg(not(target_os = "none"))]
    pub fn map(_: &str, _: PhysAddr, _: usize) -> Result<Self> {
        Err(Errno::ENODEV)
    }

    /// Device memory that is a test's model.
    #[cfg(not(target_os = "none"))]
    pub fn simulated(model: Arc<dyn crate::sim::Model>, len: usize) -> Self {
        let inner = Inner { access: Access::Model(model), phys: 0, is_claimed: false };
        Self { inner: Arc::new(inner), offset: 0, len }
    }

    /// A part of this range.
    ///
    /// # Errors
    /// `EINVAL` when it is not inside.
    pub fn part(&self, offset: usize, len: usize) -> Result<Self> {
        let end = offset.checked_add(len).ok_or(Errno::EINVAL)?;
        if end > self.len {
            return Err(Errno::EINVAL);
        }
        Ok(Self { inner: self.inner.clone(), offset: self.offset + offset, len })
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The physical address.
    pub fn phys(&self) -> PhysAddr {
        PhysAddr(self.inner.phys + self.offset as u64)
    }

    #[inline]
    fn at(&self, offset: usize, width: usize) -> Option<usize> {
        let is_inside = offset.checked_add(width).is_some_and(|end| end <= self.len);
        (is_inside && offset.is_multiple_of(width)).then(|| self.offset + offset)
    }

    /// A register that is used often: its offset is checked once.
    ///
    /// # Errors
    /// `EINVAL` when it is not inside or not aligned.
    pub fn register32(&self, offset: usize) -> Result<Register32> {
        self.at(offset, 4).ok_or(Errno::EINVAL)?;
        Ok(Register32 { mmio: self.clone(), offset })
    }
}

/// A register of 32 bits.
#[derive(Clone)]
pub struct Register32 {
    mmio: Mmio,
    offset: usize,
}

impl Register32 {
    /// Reads it.
    #[inline]
    pub fn read(&self) -> u32 {
        self.mmio.read32(self.offset)
    }

    /// Writes it.
    #[inline]
    pub fn write(&self, value: u32) {
        self.mmio.write32(self.offset, value);
    }
}

macro_rules! accessors {
    ($read:ident, $write:ident, $ty:ty) => {
        impl Mmio {
            /// Reads a register.
            #[inline]
            pub fn $read(&self, offset: usize) -> $ty {
                const WIDTH: usize = size_of::<$ty>();
                let Some(at) = self.at(offset, WIDTH) else { return !0 };
                match &self.inner.access {
                    #[cfg(target_os = "none")]
                    Access::Mapped(registers) => registers.$read(at),
                    #[cfg(not(target_os = "none"))]
                    Access::Model(model) => model.read(at, WIDTH) as $ty,
                }
            }

            /// Writes a register.
            #[inline]
            pub fn $write(&self, offset: usize, value: $ty) {
                const WIDTH: usize = size_of::<$ty>();
                let Some(at) = self.at(offset, WIDTH) else { return };
                match &self.inner.access {
                    #[cfg(target_os = "none")]
                    Access::Mapped(registers) => registers.$write(at, value),
                    #[cfg(not(target_os = "none"))]
                    Access::Model(model) => model.write(at, WIDTH, u64::from(value)),
                }
            }
        }
    };
}
accessors!(read8, write8, u8);
accessors!(read16, write16, u16);
accessors!(read32, write32, u32);
accessors!(read64, write64, u64);
