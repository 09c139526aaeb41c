//! Partition tables: MBR with logical partitions, and GPT with its backup. Everything read is
//! untrusted.

use alloc::string::String;
use alloc::vec::Vec;

use abi::Result;

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// 1-based number, as in `vda1`.
    pub number: u32,
    /// First 512-byte sector.
    pub start: u64,
    /// Length in 512-byte sectors.
    pub sectors: u64,
    /// Text of `PARTUUID=`, lower case.
    pub uuid: String,
    /// Text of `PARTLABEL=` (GPT only).
    pub label: String,
}

/// A reader of blocks: fills the buffer from byte `offset` of the disk.
pub type ReadAt<'a> = dyn Fn(u64, &mut [u8]) -> Result<()> + 'a;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The partitions of a disk of `capacity` sectors with blocks of `block_size` bytes.
pub fn scan(capacity: u64, block_size: u32, read: &ReadAt<'_>) -> Result<Vec<Partition>> {
    let mut mbr = [0; 512];
    if capacity == 0 {
        return Ok(Vec::new());
    }
    read(0, &mut mbr)?;
    if mbr[510] != 0x55 || mbr[511] != 0xaa {
        return Ok(Vec::new());
    }
    let protective = (0..4).any(|entry| mbr[446 + entry * 16 + 4] == 0xee);
    if protective {
        let block = u64::from(block_size);
        let last = (capacity * 512 / block).saturating_sub(1);
        for header in [1, last] {
            if let Some(partitions) = gpt(header, capacity, block, read) {
                return Ok(partitions);
            }
        }
    }
    Ok(mbr_partitions(&mbr, capacity, read))
}

fn mbr_partitions(mbr: &[u8; 512], capacity: u64, read: &ReadAt<'_>) -> Vec<Partition> {
    let disk_id = u32_at(mbr, 440);
    let mut found = Vec::new();
    let mut add = |number: u32, start: u64, sectors: u64| {
        if sectors == 0 || start >= capacity {
            return;
        }
        let sectors = sectors.min(capacity - start);
        let uuid = alloc::format!("{disk_id:08x}-{number:02x}");
        found.push(Partition { number, start, sectors, uuid, label: String::new() });
    };
    let mut extended = None;
    // A file system's boot sector has the same signature: its flag bytes give it away.
    if (0..4).any(|entry| mbr[446 + entry * 16] & 0x7f != 0) {
        return Vec::new();
    }
    for entry in 0..4usize {
        let at = 446 + entry * 16;
        let (kind, start, sectors) =
            (mbr[at + 4], u64::from(u32_at(mbr, at + 8)), u64::from(u32_at(mbr, at + 12)));
        match kind {
            0 => {}
            0x05 | 0x0f | 0x85 => {
                extended = Some(start);
                // Two sectors, enough for a boot loader, as Linux shows them.
                add(entry as u32 + 1, start, sectors.min(2));
            }
            _ => add(entry as u32 + 1, start, sectors),
        }
    }
    let Some(base) = extended else { return found };
    let mut table = base;
    for number in 5..=64 {
        let mut ebr = [0; 512];
        if table >= capacity || read(table * 512, &mut ebr).is_err() {
            break;
        }
        if ebr[510] != 0x55 || ebr[511] != 0xaa {
            break;
        }
        let start = table + u64::from(u32_at(&ebr, 446 + 8));
        add(number, start, u64::from(u32_at(&ebr, 446 + 12)));
        let next = u64::from(u32_at(&ebr, 462 + 8));
        if ebr[462 + 4] == 0 || next == 0 {
            break;
        }
        table = base + next;
    }
    found
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// The text form of a GUID: the first three fields are little-endian.
fn guid(bytes: &[u8]) -> String {
    use core::fmt::Write;
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (place, &at) in ORDER.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{:02x}", bytes.get(at).copied().unwrap_or(0));
    }
    text
}

fn gpt(header_block: u64, capacity: u64, block: u64, read: &ReadAt<'_>) -> Option<Vec<Partition>> {
    let mut header = [0; 512];
    read(header_block.checked_mul(block)?, &mut header).ok()?;
    let size = u32_at(&header, 12) as usize;
    if &header[..8] != b"EFI PART" || !(92..=512).contains(&size) {
        return None;
    }
    let expected = u32_at(&header, 16);
    let mut copy = header;
    copy[16..20].fill(0);
    if crc32(&copy[..size]) != expected || u64_at(&header, 24) != header_block {
        return None;
    }
    let (count, entry) = (u32_at(&header, 80) as usize, u32_at(&header, 84) as usize);
    if !(128..=4096).contains(&entry) || count > 4096 {
        return None;
    }
    let bytes = (count * entry).next_multiple_of(512);
    let mut table = alloc::vec![0; bytes];
    read(u64_at(&header, 72).checked_mul(block)?, &mut table).ok()?;
    if crc32(table.get(..count * entry)?) != u32_at(&header, 88) {
        return None;
    }
    let per_block = block / 512;
    let mut found = Vec::new();
    for (index, entry) in table.chunks_exact(entry).take(count).enumerate() {
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        if entry[..16].iter().all(|&b| b == 0) || last < first {
            continue;
        }
        let Some(start) = first.checked_mul(per_block).filter(|&start| start < capacity) else {
            continue;
        };
        let sectors = (last - first + 1).saturating_mul(per_block).min(capacity - start);
        let label = char::decode_utf16(
            entry[56..128].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])),
        )
        .map_while(|c| c.ok().filter(|&c| c != '\0'))
        .collect();
        let uuid = guid(&entry[16..32]);
        found.push(Partition { number: index as u32 + 1, start, sectors, uuid, label });
    }
    Some(found)
}
