//! CRC-32C (Castagnoli), with the processor's own instruction where there is one.

/// CRC-32C of `bytes` continued from `crc`, without inversion at either end.
pub fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    machine::crc::crc32c(crc, bytes).unwrap_or_else(|| by_table(crc, bytes))
}

/// `TABLES[n][byte]`: what `byte` does to the sum when `n` bytes follow it.
const fn tables32() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][i] = crc;
        i += 1;
    }
    let mut n = 1;
    while n < 8 {
        let mut i = 0;
        while i < 256 {
            let crc = tables[n - 1][i];
            tables[n][i] = tables[0][(crc & 0xff) as usize] ^ crc >> 8;
            i += 1;
        }
        n += 1;
    }
    tables
}
static TABLES: [[u32; 256]; 8] = tables32();

/// Without the instruction: eight bytes at a time through tables.
fn by_table(crc: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let crc = words.iter().fold(crc, |crc, word| {
        let word = u64::from_le_bytes(*word) ^ u64::from(crc);
        let [a, b, c, d, e, f, g, h] = word.to_le_bytes().map(usize::from);
        let t = &TABLES;
        t[7][a] ^ t[6][b] ^ t[5][c] ^ t[4][d] ^ t[3][e] ^ t[2][f] ^ t[1][g] ^ t[0][h]
    });
    rest.iter().fold(crc, |crc, &b| TABLES[0][((crc ^ u32::from(b)) & 0xff) as usize] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_do_not_depend_on_the_cut() {
        // RFC 3720, appendix B.4: 32 bytes of zeros, of ones, and rising.
        assert_eq!(!crc32c(!0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(!0, &[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(!crc32c(!0, &rising), 0x46dd_794e);
        for cut in 0..32 {
            let (head, tail) = rising.split_at(cut);
            assert_eq!(crc32c(crc32c(!0, head), tail), crc32c(!0, &rising));
            assert_eq!(by_table(by_table(!0, head), tail), crc32c(!0, &rising));
        }
    }
}
