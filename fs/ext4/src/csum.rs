//! CRC-32C and CRC-16 as ext4 uses them: no final inversion, the caller chains seeds.

const fn table32() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}
static TABLE: [u32; 256] = table32();

/// CRC-32C of `bytes` continued from `crc`.
pub(crate) fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, &b| TABLE[((crc ^ u32::from(b)) & 0xff) as usize] ^ crc >> 8)
}

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
