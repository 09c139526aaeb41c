//! The disk: a partition table, a file system, marks.

/// Where the file system begins, and how long it is, in bytes.
pub const FILES: std::ops::Range<u64> = MIB..65 * MIB;
/// Where the marks are.
pub const MARKS: std::ops::Range<u64> = 65 * MIB..66 * MIB;
/// All of it.
pub const LEN: u64 = MARKS.end;

const MIB: u64 = 1 << 20;

/// The first sector: two partitions of a PC's table (type 0x83, first sector, count of sectors).
#[must_use]
pub fn table() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[440..444].copy_from_slice(&0x7077_7263_u32.to_le_bytes());
    for (number, part) in [FILES, MARKS].iter().enumerate() {
        let entry = &mut sector[446 + 16 * number..][..16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&((part.start / 512) as u32).to_le_bytes());
        entry[12..].copy_from_slice(&(((part.end - part.start) / 512) as u32).to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_as_two_partitions() {
        let table = table();
        let read = |offset: u64, buffer: &mut [u8]| {
            buffer.fill(0);
            if offset == 0 {
                let len = buffer.len().min(512);
                buffer[..len].copy_from_slice(&table[..len]);
            }
            Ok(())
        };
        let found = block::partition::scan(LEN / 512, 512, &read).unwrap();
        let places: Vec<_> = found.iter().map(|part| (part.start, part.sectors)).collect();
        assert_eq!(places, [(2048, 64 * 2048), (65 * 2048, 2048)]);
    }
}
