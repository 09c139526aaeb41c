//! The firmware's services, as far as the stub calls them (UEFI 2.10 §7).

use super::memory::Map;
use super::{Interface, PAGE};
use core::ffi::c_void;
use core::ptr;
use uefi_raw::protocol::device_path::DevicePathProtocol;
use uefi_raw::protocol::loaded_image::LoadedImageProtocol;
use uefi_raw::table::boot::{AllocateType, BootServices, MemoryType};
use uefi_raw::table::system::SystemTable;
use uefi_raw::{Guid, Handle, Status};

/// The highest address for what is read before the kernel has page tables of its own.
pub(super) const LOW: u64 = (4 << 30) - 1;
/// How often the end of boot services is tried: the map may have changed in between.
const TRIES: usize = 8;

/// The firmware, before its boot services end.
pub(super) struct Firmware {
    image: Handle,
    table: *const SystemTable,
    services: *const BootServices,
}

impl Firmware {
    /// # Safety
    /// The handle of the running image, and the system table, with boot services available.
    pub(super) unsafe fn new(image: Handle, table: *const SystemTable) -> Option<Firmware> {
        if table.is_null() {
            return None;
        }
        // SAFETY: the caller vouches for the table.
        let services = unsafe { (*table).boot_services };
        (!services.is_null()).then_some(Firmware { image, table, services })
    }

    fn services(&self) -> &BootServices {
        // SAFETY: valid until `leave`, after which nobody calls services.
        unsafe { &*self.services }
    }

    pub(super) fn system_table(&self) -> u64 {
        self.table as u64
    }

    /// Memory that ends at `limit` at most.
    pub(super) fn allocate(&self, len: usize, limit: u64) -> Result<*mut u8, Status> {
        let mut at = limit;
        let (kind, pages) = (AllocateType::MAX_ADDRESS, len.div_ceil(PAGE));
        // SAFETY: a call of the firmware with a place for its answer.
        let status = unsafe {
            (self.services().allocate_pages)(kind, MemoryType::LOADER_DATA, pages, &mut at)
        };
        if status == Status::SUCCESS { Ok(at as *mut u8) } else { Err(status) }
    }

    /// The memory at this address, for code: the copy of the image starts on the firmware's page
    /// tables, which may forbid to run what was taken for data.
    pub(super) fn allocate_code_at(&self, mut at: u64, len: usize) -> Result<(), Status> {
        let (kind, pages) = (AllocateType::ADDRESS, len.div_ceil(PAGE));
        // SAFETY: as above.
        let status = unsafe {
            (self.services().allocate_pages)(kind, MemoryType::LOADER_CODE, pages, &mut at)
        };
        if status == Status::SUCCESS { Ok(()) } else { Err(status) }
    }

    /// Gives memory back.
    pub(super) fn free(&self, at: *mut u8, len: usize) {
        // SAFETY: it came from `allocate`. If the firmware does not want it, it is only lost.
        let _ = unsafe { (self.services().free_pages)(at as u64, len.div_ceil(PAGE)) };
    }

    /// The memory map, written to the buffer.
    pub(super) fn memory_map(&self, buffer: *mut u8, len: usize) -> Result<Map, Status> {
        let mut map = Map { at: buffer, len, key: 0, step: 0, version: 0 };
        // SAFETY: the buffer has `len` bytes.
        let status = unsafe {
            (self.services().get_memory_map)(
                &mut map.len,
                buffer.cast(),
                &mut map.key,
                &mut map.step,
                &mut map.version,
            )
        };
        match status {
            Status::SUCCESS if map.step >= Map::LEAST_STEP => Ok(map),
            Status::SUCCESS => Err(Status::UNSUPPORTED),
            status => Err(status),
        }
    }

    /// Ends the boot services; the memory map as it is then.
    pub(super) fn leave(&self, buffer: *mut u8, len: usize) -> Result<Map, Status> {
        let mut last = Status::ABORTED;
        for _ in 0..TRIES {
            let map = self.memory_map(buffer, len)?;
            // SAFETY: after success no service is called; the stub uses its own memory only.
            last = unsafe { (self.services().exit_boot_services)(self.image, map.key) };
            if last == Status::SUCCESS {
                return Ok(map);
            }
        }
        Err(last)
    }

    /// A table that the firmware has, by its GUID.
    pub(super) fn table(&self, id: &Guid) -> Option<u64> {
        // SAFETY: the system table lists that many entries.
        unsafe {
            let count = (*self.table).number_of_configuration_table_entries;
            let first = (*self.table).configuration_table;
            let entry =
                (0..count).map(|index| first.add(index)).find(|e| (**e).vendor_guid == *id)?;
            Some((*entry).vendor_table as u64)
        }
    }

    /// A protocol of a handle.
    pub(super) fn protocol<T>(&self, handle: Handle, id: &Guid) -> Option<*mut T> {
        let mut interface: Interface = ptr::null_mut();
        // SAFETY: a call of the firmware with a place for its answer.
        let status = unsafe { (self.services().handle_protocol)(handle, id, &mut interface) };
        (status == Status::SUCCESS && !interface.is_null()).then_some(interface.cast())
    }

    /// The first protocol of a kind.
    pub(super) fn first<T>(&self, id: &Guid) -> Option<*mut T> {
        let mut interface: Interface = ptr::null_mut();
        // SAFETY: as above.
        let status = unsafe { (self.services().locate_protocol)(id, ptr::null(), &mut interface) };
        (status == Status::SUCCESS && !interface.is_null()).then_some(interface.cast())
    }

    /// The handle with this protocol whose device path begins as `path` does; `path` is moved
    /// behind what matched.
    pub(super) fn handle_at(
        &self,
        id: &Guid,
        path: &mut *const DevicePathProtocol,
    ) -> Option<Handle> {
        let mut handle: Handle = ptr::null_mut();
        // SAFETY: as above.
        let status = unsafe { (self.services().locate_device_path)(id, path, &mut handle) };
        (status == Status::SUCCESS).then_some(handle)
    }

    fn loaded_image(&self) -> Option<&LoadedImageProtocol> {
        let image = self.protocol::<LoadedImageProtocol>(self.image, &LoadedImageProtocol::GUID)?;
        // SAFETY: the firmware's description of this image lives as long as the image.
        Some(unsafe { &*image })
    }

    /// The load options: UTF-16 text, and how many units of it.
    pub(super) fn load_options(&self) -> (*const u16, usize) {
        match self.loaded_image() {
            Some(image) if !image.load_options.is_null() => {
                (image.load_options.cast(), image.load_options_size as usize / 2)
            }
            _ => (ptr::null(), 0),
        }
    }

    /// The device that this image was loaded from.
    pub(super) fn boot_device(&self) -> Option<Handle> {
        self.loaded_image().map(|image| image.device_handle).filter(|handle| !handle.is_null())
    }
}

/// A buffer as the firmware's functions take it.
pub(super) fn untyped(at: *mut u8) -> *mut c_void {
    at.cast()
}
