//! Puts the bzImage together: setup code with its headers filled in, then the flat kernel image.
//!
//! The file is at the same time a PE application for UEFI firmware. As a page of the file is a page
//! in memory there, the setup code fills whole pages, and the two sections are what the kernel maps
//! read-only and writable.

use crate::Result;
use crate::elf::{Elf, Segment};

const SECTOR: usize = 512;
const PAGE: usize = 4096;
const MARK: &[u8] = b"@release@";
const VERSION_MAX: usize = 180;
/// Where the 64-bit entry is in the kernel image; the hand-over entry's offset counts from it.
const STARTUP_64: u64 = 0x200;

/// The bytes of `vmlinuz` from the linked setup code and the linked kernel.
pub(crate) fn assemble(setup: &[u8], kernel: &[u8], version: &str) -> Result<Vec<u8>> {
    let mut head = Elf::parse(setup)?.flatten()?;
    let at = head.windows(MARK.len()).position(|window| window == MARK);
    let at = at.ok_or("setup code has no place for the version")?;
    let mut text: Vec<u8> = version.bytes().take(VERSION_MAX).collect();
    text.resize(VERSION_MAX, 0);
    head[at..at + VERSION_MAX].copy_from_slice(&text);
    head.resize(head.len().next_multiple_of(PAGE), 0);

    let kernel = Elf::parse(kernel)?;
    let mut payload = kernel.flatten()?;
    payload.resize(payload.len().next_multiple_of(SECTOR), 0);
    // Room for the move to the next multiple of 16 MiB is not counted: the loader leaves it.
    let init_size = kernel.memory_len().next_multiple_of(4096) as u32;

    let places = Places::find(&kernel)?;
    head[0x1f1] = (head.len() / SECTOR - 1) as u8;
    put_u32(&mut head, 0x1f4, (payload.len() / 16) as u32);
    put_u32(&mut head, 0x260, init_size);
    put_u32(&mut head, 0x264, places.handover.wrapping_sub(STARTUP_64) as u32);
    let info = payload.windows(4).take(4096).position(|window| window == b"LToP");
    put_u32(&mut head, 0x268, info.ok_or("kernel image has no kernel_info")? as u32);
    describe(&mut head, &places, payload.len());
    head.extend(payload);
    Ok(head)
}

/// Offsets from the first byte of the kernel image.
struct Places {
    start: u64,
    handover: u64,
    data: u64,
    end: u64,
}

impl Places {
    fn find(kernel: &Elf<'_>) -> Result<Places> {
        let base = kernel.segments.iter().map(|s| s.address).min().unwrap_or(0);
        let symbols = kernel.symbols()?;
        let offset_of = |name: &str| -> Result<u64> {
            let symbol = symbols.iter().find(|symbol| symbol.name == name);
            Ok(symbol.ok_or_else(|| format!("kernel has no {name}"))?.address - base)
        };
        let data: Option<&Segment> = kernel.segments.iter().max_by_key(|s| s.address);
        Ok(Places {
            start: offset_of("efi_start")?,
            handover: offset_of("efi_handover")?,
            data: data.map_or(0, |segment| segment.address - base),
            end: kernel.memory_len().next_multiple_of(PAGE as u64),
        })
    }
}

/// Fills in the PE headers (PE format, revision 11): addresses count from the file's first byte.
fn describe(head: &mut [u8], places: &Places, payload_len: usize) {
    let base = head.len() as u32;
    let pe = u32::from_le_bytes([head[0x3c], head[0x3d], head[0x3e], head[0x3f]]) as usize;
    let optional = pe + 24;
    let (data, end) = (places.data as u32, places.end as u32);
    let file_len = payload_len as u32;
    put_u32(head, optional + 4, data);
    put_u32(head, optional + 8, file_len - data);
    put_u32(head, optional + 12, end - file_len);
    put_u32(head, optional + 16, base + places.start as u32);
    put_u32(head, optional + 20, base);
    put_u32(head, optional + 56, base + end);
    put_u32(head, optional + 60, base);
    let sections = optional + 112 + 6 * 8;
    for (index, start, memory, file) in [(0, 0, data, data), (1, data, end - data, file_len - data)]
    {
        let section = sections + 40 * index;
        put_u32(head, section + 8, memory);
        put_u32(head, section + 12, base + start);
        put_u32(head, section + 16, file);
        put_u32(head, section + 20, base + start);
    }
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
