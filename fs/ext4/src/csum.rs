//! CRC-32C and CRC-16 as ext4 uses them: no final inversion, the caller chains seeds.

pub(crate) use arch::checksum::crc32c;

/// CRC-16 (polynomial 0x8005 reflected) of `bytes` continued from `crc`.
pub(crate) fn crc16(crc: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(crc, |mut crc, &b| {
        crc ^= u16::from(b);
        for _ in 0..8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0xa001 } else { crc >> 1 };
        }
        crc
    })
}
