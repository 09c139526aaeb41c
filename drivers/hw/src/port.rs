//! I/O ports.

use abi::Result;

use crate::resources;

/// A claimed range of I/O ports. Offsets outside it read as all ones and writes there do nothing.
#[derive(Debug)]
pub struct PortRange {
    first: u16,
    len: u16,
}

impl PortRange {
    /// Claims `len` ports from `first` on.
    ///
    /// # Errors
    /// `EBUSY` when one of them is in use, or belongs to the kernel's own devices.
    pub fn claim(name: &str, first: u16, len: u16) -> Result<Self> {
        resources::claim_ports(first, len, name)?;
        Ok(Self { first, len })
    }

    /// The first port.
    pub fn first(&self) -> u16 {
        self.first
    }

    fn port(&self, offset: u16, width: u16) -> Option<u16> {
        (offset.checked_add(width)? <= self.len).then(|| self.first.wrapping_add(offset))
    }

    /// Reads a byte.
    #[inline]
    pub fn read8(&self, offset: u16) -> u8 {
        self.port(offset, 1).map_or(!0, imp::read8)
    }

    /// Reads two bytes.
    #[inline]
    pub fn read16(&self, offset: u16) -> u16 {
        self.port(offset, 2).map_or(!0, imp::read16)
    }

    /// Reads four bytes.
    #[inline]
    pub fn read32(&self, offset: u16) -> u32 {
        self.port(offset, 4).map_or(!0, imp::read32)
    }

    /// Writes a byte.
    #[inline]
    pub fn write8(&self, offset: u16, value: u8) {
        if let Some(port) = self.port(offset, 1) {
            imp::write8(port, value);
        }
    }

    /// Writes two bytes.
    #[inline]
    pub fn write16(&self, offset: u16, value: u16) {
        if let Some(port) = self.port(offset, 2) {
            imp::write16(port, value);
        }
    }

    /// Writes four bytes.
    #[inline]
    pub fn write32(&self, offset: u16, value: u32) {
        if let Some(port) = self.port(offset, 4) {
            imp::write32(port, value);
        }
    }
}

impl Drop for PortRange {
    fn drop(&mut self) {
        resources::release_ports(self.first);
    }
}

#[cfg(target_os = "none")]
mod imp {
    use arch::x86::port::Port;

    macro_rules! port {
        ($read:ident, $write:ident, $port_read:ident, $port_write:ident, $ty:ty) => {
            #[inline]
            pub(super) fn $read(port: u16) -> $ty {
                Port::of_driver(port).$port_read()
            }
            #[inline]
            pub(super) fn $write(port: u16, value: $ty) {
                Port::of_driver(port).$port_write(value);
            }
        };
    }
    port!(read8, write8, read, write, u8);
    port!(read16, write16, read16, write16, u16);
    port!(read32, write32, read32, write32, u32);
}

#[cfg(not(target_os = "none"))]
mod imp {
    pub(super) use crate::sim::{
        port_read8 as read8, port_read16 as read16, port_read32 as read32, port_write8 as write8,
        port_write16 as write16, port_write32 as write32,
    };
}
