//! The initial RAM disk: from the loader by a protocol under a device path that is agreed on, else
//! the files that `initrd=` names on the device of the image.

use super::Failure;
use super::files::{File, Volume};
use super::firmware::{Firmware, untyped};
use super::text;
use uefi_raw::protocol::device_path::DevicePathProtocol;
use uefi_raw::protocol::media::LoadFile2Protocol;
use uefi_raw::{Boolean, Guid, Status, guid};

/// Names a device path for the RAM disk that a loader offers.
const INITRD_MEDIA: Guid = guid!("5568e427-68fc-4f3d-ac74-ca555231cc68");
/// Archives follow each other at multiples of this.
const ALIGN: usize = 4;

/// A vendor-defined media path (UEFI 2.10 §10.3.5.3) and the end of the path.
#[repr(C, packed)]
struct Path {
    kind: u8,
    subtype: u8,
    len: u16,
    vendor: Guid,
    end: [u8; 4],
}

const PATH: Path =
    Path { kind: 4, subtype: 3, len: 20, vendor: INITRD_MEDIA, end: [0x7f, 0xff, 4, 0] };

/// Where it was loaded and how long it is.
pub(super) fn load(firmware: &Firmware, lines: &[&str]) -> Result<Option<(u64, usize)>, Failure> {
    if words(lines).any(|word| word == "noinitrd") {
        return Ok(None);
    }
    match offered(firmware).map_err(|status| ("the loader's RAM disk cannot be read", status))? {
        Some(found) => Ok(Some(found)),
        None => named(firmware, lines),
    }
}

fn words<'a>(lines: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    lines.iter().flat_map(|line| line.split_ascii_whitespace())
}

fn offered(firmware: &Firmware) -> Result<Option<(u64, usize)>, Status> {
    let path = PATH;
    let mut rest = (&raw const path).cast::<DevicePathProtocol>();
    let id = &LoadFile2Protocol::GUID;
    let Some(handle) = firmware.handle_at(id, &mut rest) else { return Ok(None) };
    let Some(loader) = firmware.protocol::<LoadFile2Protocol>(handle, id) else { return Ok(None) };
    let mut len = 0;
    let call = |len: &mut usize, at: *mut u8| {
        // SAFETY: the loader's protocol; `at` has room for `len` bytes, or is null with none.
        unsafe { ((*loader).load_file)(loader, rest, Boolean::FALSE, len, untyped(at)) }
    };
    match call(&mut len, core::ptr::null_mut()) {
        Status::BUFFER_TOO_SMALL => {}
        Status::SUCCESS | Status::NOT_FOUND => return Ok(None),
        status => return Err(status),
    }
    let at = firmware.allocate(len, u64::MAX)?;
    match call(&mut len, at) {
        Status::SUCCESS => Ok(Some((at as u64, len))),
        status => Err(status),
    }
}

/// The files of all `initrd=` words, one after the other.
fn named(firmware: &Firmware, lines: &[&str]) -> Result<Option<(u64, usize)>, Failure> {
    let paths = || words(lines).filter_map(|word| word.strip_prefix("initrd="));
    if paths().next().is_none() {
        return Ok(None);
    }
    let no_file = |status| ("a file that initrd= names cannot be read", status);
    let volume = Volume::of_boot_device(firmware).ok_or(no_file(Status::NOT_FOUND))?;
    let open = |path: &str| -> Result<(File, usize), Status> {
        let path = text::to_path(path).ok_or(Status::INVALID_PARAMETER)?;
        let file = volume.open(&path)?;
        let len = file.len()?;
        Ok((file, len))
    };
    let mut total = 0usize;
    for path in paths() {
        let (_, len) = open(path).map_err(no_file)?;
        let start = total.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
        total = start.saturating_add(len);
    }
    if total == 0 {
        return Ok(None);
    }
    let at = firmware.allocate(total, u64::MAX).map_err(|s| ("no memory for the RAM disk", s))?;
    // SAFETY: just allocated; what lies between the files must be zero.
    unsafe { at.write_bytes(0, total) };
    let mut done = 0usize;
    for path in paths() {
        let (file, len) = open(path).map_err(no_file)?;
        let start = done.next_multiple_of(ALIGN);
        let end = start.checked_add(len).filter(|end| *end <= total);
        let end = end.ok_or(no_file(Status::MEDIA_CHANGED))?;
        file.read(at.wrapping_add(start), len).map_err(no_file)?;
        done = end;
    }
    Ok(Some((at as u64, total)))
}
