//! The EFI stub: the image as an application of the firmware (UEFI 2.10 §2.1.2).
//!
//! Entered by the firmware, with its load options as the command line, or by a boot loader through
//! the hand-over entry with a zero page. While the firmware's services are there it collects what
//! other loaders bring (RAM disk, memory map, ACPI tables, screen, randomness), writes it into a zero
//! page, ends the services and goes on as if the Linux boot protocol had been used, in a copy of the
//! image ([`handover`](super::handover)).
//!
//! It runs where the firmware loaded the image, relocated for that place, on the firmware's stack
//! and page tables, which map memory one to one. `.bss` is not there yet.

mod files;
mod firmware;
mod memory;
mod ramdisk;
mod screen;
mod text;
mod zero_page;

use super::head::PROTOCOL_LINUX;
use super::{builtin, handover, running};
use crate::hooks::machine_early_print as early_print;
use bootinfo::COMMAND_LINE_MAX;
use core::ffi::c_void;
use firmware::{Firmware, LOW};
use uefi_raw::protocol::rng::RngProtocol;
use uefi_raw::table::system::SystemTable;
use uefi_raw::{Guid, Handle, Status, guid};
use zero_page::ZeroPage;

const ACPI_1: Guid = guid!("eb9d2d30-2d88-11d3-9a16-0090273fc14d");
const ACPI_2: Guid = guid!("8868e871-e4f1-11d3-bc22-0080c73c8881");
const PAGE: usize = 4096;
/// Bytes for the memory map as the firmware writes it.
const MAP_LEN: usize = 64 << 10;

/// Entered from the head. `params` is a loader's zero page or 0. Comes back only when it failed.
///
/// # Safety
/// The firmware's handle of this image and its system table, with boot services available.
pub(super) unsafe extern "C" fn efi_main(
    image: Handle,
    table: *const SystemTable,
    params: u64,
) -> Status {
    // SAFETY: forwarded from the caller.
    let Some(firmware) = (unsafe { Firmware::new(image, table) }) else {
        return Status::INVALID_PARAMETER;
    };
    let Err((what, status)) = boot(&firmware, params);
    early_print("EFI stub: ");
    early_print(what);
    early_print("\n");
    status
}

/// What could not be done, and what the firmware said.
type Failure = (&'static str, Status);

fn boot(firmware: &Firmware, params: u64) -> Result<core::convert::Infallible, Failure> {
    let failed = |what| move |status| (what, status);
    if running::has_five_levels() {
        return Err(("the firmware runs on page tables of five levels", Status::UNSUPPORTED));
    }
    let base = place(firmware)?;
    let work = zero_page::PAGES * PAGE + MAP_LEN;
    let work = firmware.allocate(work, LOW).map_err(failed("no memory for the zero page"))?;
    let mut page = ZeroPage::new(work.cast(), params);
    if params == 0 {
        let (options, len) = firmware.load_options();
        page.set_command_line(options, len);
    }
    // The built-in words join the loader's only later, but may name the RAM disk.
    let mut built_in = [0; COMMAND_LINE_MAX];
    let len = builtin::copy_to(&mut built_in);
    let built_in = built_in.get(..len).and_then(|line| core::str::from_utf8(line).ok());
    let lines = [built_in.unwrap_or_default(), page.command_line()];
    if !page.has_ramdisk()
        && let Some((at, len)) = ramdisk::load(firmware, &lines)?
    {
        page.set_ramdisk(at, len);
    }
    if let Some(rsdp) = firmware.table(&ACPI_2).or_else(|| firmware.table(&ACPI_1)) {
        page.set_rsdp(rsdp);
    }
    if let Some(screen) = screen::find(firmware) {
        page.set_screen(&screen);
    }
    add_entropy(firmware, &mut page);

    // From here on nothing may be allocated: the map must be the last word.
    let buffer = work.wrapping_add(zero_page::PAGES * PAGE);
    let map = firmware.leave(buffer.cast(), MAP_LEN).map_err(failed("boot services do not end"))?;
    page.set_memory(&map, firmware.system_table());
    // SAFETY: the place was allocated, and the firmware's page tables map memory one to one.
    unsafe {
        handover::copy(base, base as *mut u8, None);
        handover::enter_mapped(base, PROTOCOL_LINUX, page.address())
    }
}

/// Takes memory for the copy of the image.
fn place(firmware: &Firmware) -> Result<u64, Failure> {
    let map = firmware.allocate(MAP_LEN, LOW).map_err(|status| ("no memory", status))?;
    let free = firmware.memory_map(map.cast(), MAP_LEN).map_err(|s| ("no memory map", s))?;
    let base = handover::place(free.free());
    firmware.free(map, MAP_LEN);
    let base = base.ok_or(("no memory for the kernel", Status::OUT_OF_RESOURCES))?;
    firmware
        .allocate_code_at(base, handover::image_len() as usize)
        .map_err(|status| ("the memory for the kernel is taken", status))?;
    Ok(base)
}

/// Asks the firmware for randomness, which not every one has.
fn add_entropy(firmware: &Firmware, page: &mut ZeroPage) {
    let Some(generator) = firmware.first::<RngProtocol>(&RngProtocol::GUID) else { return };
    let seed = page.seed();
    // SAFETY: the firmware's protocol; no algorithm means its default, and the room is the page's.
    let status = unsafe {
        ((*generator).get_rng)(generator, core::ptr::null(), seed.len(), seed.as_mut_ptr())
    };
    if status == Status::SUCCESS {
        page.add_seed();
    }
}

/// For calls that want a place for a protocol.
type Interface = *mut c_void;
