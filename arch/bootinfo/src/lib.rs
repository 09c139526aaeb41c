#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(target_os = "none", no_std)]

mod info;
mod memory;
pub mod placement;
pub mod pvh;
mod size;
pub mod tables;
pub mod zeropage;

pub use info::{BootInfo, COMMAND_LINE_MAX, Framebuffer, PHYS_END, PhysRange, Protocol};
pub use memory::{MemoryKind, MemoryMap, MemoryRegion};
pub use size::parse_size;

/// Memory as the loader left it, by physical address. What is not there reads as anything.
pub trait LoaderMemory {
    /// The bytes at an address.
    fn read<const N: usize>(&self, at: u64) -> [u8; N];

    /// A byte.
    fn u8(&self, at: u64) -> u8 {
        let [byte] = self.read(at);
        byte
    }
    /// A little-endian half word.
    fn u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at))
    }
    /// A little-endian word.
    fn u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.read(at))
    }
    /// A little-endian double word.
    fn u64(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.read(at))
    }
    /// A double word of which the halves are apart.
    fn halves(&self, low: u64, high: u64) -> u64 {
        u64::from(self.u32(low)) | u64::from(self.u32(high)) << 32
    }
}
