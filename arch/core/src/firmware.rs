//! Reaching the firmware's tables.

use crate::addr::PhysAddr;
use crate::paging::{self, PteFlags};
use acpi::sdt::{SdtHeader, Signature};
use acpi::{AcpiError, AcpiHandler, AcpiTable, AcpiTables, PhysicalMapping};
use core::ptr::NonNull;

/// Maps tables: memory is in the direct map, what is elsewhere gets a mapping for good.
#[derive(Clone, Copy)]
pub struct Mapper;

/// A kernel address of `len` bytes of physical memory.
fn map(address: PhysAddr, len: usize) -> Option<NonNull<u8>> {
    if crate::boot::is_in_direct_map(address, len) {
        return NonNull::new(crate::phys::to_virt(address));
    }
    NonNull::new(paging::kernel::ioremap(address, len, PteFlags::empty()).ok()?)
}

/// What is read in place of a table that cannot be mapped.
#[repr(align(16))]
struct Empty([u8; 4096]);
static EMPTY: Empty = Empty([0; 4096]);

impl AcpiHandler for Mapper {
    unsafe fn map_physical_region<T>(
        &self,
        address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        let (start, size) = match map(PhysAddr(address as u64), size) {
            Some(start) => (start, size),
            None => (NonNull::from(&EMPTY.0).cast(), size.min(EMPTY.0.len())),
        };
        // SAFETY: the mapping is at least `size` bytes and stays; zeroes are no valid table.
        unsafe { PhysicalMapping::new(address, start.cast(), size, size, *self) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

macro_rules! raw_table {
    ($name:ident, $signature:ident) => {
        /// A table of which only the header is laid out.
        #[repr(C)]
        pub struct $name {
            header: SdtHeader,
        }

        // SAFETY: every table starts with the header; nothing else is in the type.
        unsafe impl AcpiTable for $name {
            const SIGNATURE: Signature = Signature::$signature;
            fn header(&self) -> &SdtHeader {
                &self.header
            }
        }
    };
}
raw_table!(Srat, SRAT);
raw_table!(Slit, SLIT);

/// The bytes of a table.
pub fn bytes<T>(mapping: &PhysicalMapping<Mapper, T>) -> &[u8] {
    let start = mapping.virtual_start().as_ptr().cast::<u8>();
    // SAFETY: the mapping covers the whole table and stays.
    unsafe { core::slice::from_raw_parts(start, mapping.region_length()) }
}

/// The bytes of a table at an address that another table names; none where the kernel's own memory
/// is.
pub fn bytes_at(address: PhysAddr, len: usize) -> Option<&'static [u8]> {
    if crate::boot::is_kernel_memory(address, len) {
        return None;
    }
    let start = map(address, len)?;
    // SAFETY: the mapping covers the table and stays; it is no memory that the kernel uses, and the
    // firmware's tables do not change.
    Some(unsafe { core::slice::from_raw_parts(start.as_ptr(), len) })
}

/// The tables, from the loader's root pointer or a search for it.
pub fn tables(rsdp: Option<PhysAddr>) -> Result<AcpiTables<Mapper>, AcpiError> {
    // SAFETY: the loader's pointer, or a search where a BIOS puts it; both are validated there.
    unsafe {
        match rsdp {
            Some(address) => AcpiTables::from_rsdp(Mapper, address.as_usize()),
            None => AcpiTables::search_for_rsdp_bios(Mapper),
        }
    }
}
