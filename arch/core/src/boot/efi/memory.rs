//! The firmware's memory map (UEFI 2.10 §7.2.3).

use super::super::bootloader::from_uefi;
use bootinfo::MemoryKind;
use uefi_raw::table::boot::{MemoryDescriptor, MemoryType};

const PAGE: u64 = 4096;

/// The map in the buffer that the firmware wrote it to.
pub(super) struct Map {
    pub(super) at: *mut u8,
    pub(super) len: usize,
    pub(super) key: usize,
    /// Bytes from one descriptor to the next.
    pub(super) step: usize,
    pub(super) version: u32,
}

impl Map {
    /// What we know of a descriptor; the firmware's may be longer.
    pub(super) const LEAST_STEP: usize = size_of::<MemoryDescriptor>();

    fn descriptors(&self) -> impl Iterator<Item = MemoryDescriptor> + '_ {
        (0..self.len / self.step).map(|index| {
            // SAFETY: the firmware wrote `len` bytes of descriptors, `step` bytes each.
            unsafe { self.at.add(index * self.step).cast::<MemoryDescriptor>().read_unaligned() }
        })
    }

    /// Memory that nobody uses, `(start, end)`.
    pub(super) fn free(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.descriptors().filter(|region| region.ty == MemoryType::CONVENTIONAL).map(|region| {
            (
                region.phys_start,
                region.phys_start.saturating_add(region.page_count.saturating_mul(PAGE)),
            )
        })
    }

    /// Ranges as E820 has them, `(start, length, kind)`, neighbours of a kind as one.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (u64, u64, MemoryKind)> + '_ {
        let mut rest = self.descriptors().map(|region| {
            (region.phys_start, region.page_count.saturating_mul(PAGE), from_uefi(region.ty))
        });
        let mut current = rest.next();
        core::iter::from_fn(move || {
            let (start, mut len, kind) = current?;
            for next in rest.by_ref() {
                if next.0 != start.saturating_add(len) || next.2 != kind {
                    current = Some(next);
                    return Some((start, len, kind));
                }
                len = len.saturating_add(next.1);
            }
            current = None;
            Some((start, len, kind))
        })
    }
}
