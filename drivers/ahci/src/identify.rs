//! What a device says of itself: ATA8-ACS §7.16 (IDENTIFY DEVICE), §7.17 (IDENTIFY PACKET DEVICE).

use abi::{Errno, Result};
use alloc::string::String;

/// Words of the data.
pub(crate) const WORDS: usize = 256;
pub(crate) const BYTES: usize = WORDS * 2;

/// Blocks have a number of 48 bits.
const MAX_BLOCKS: u64 = 1 << 48;

/// The text fields that every device has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) model: String,
    pub(crate) serial: String,
    pub(crate) firmware: String,
}

/// How many blocks a command can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// 28 bits, 256 blocks a command.
    Short,
    /// 48 bits, 65,536 blocks a command.
    Long,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: Name,
    pub(crate) blocks: u64,
    pub(crate) reach: Reach,
    /// Bytes of a logical and a physical block.
    pub(crate) logical: u32,
    pub(crate) physical: u32,
    /// Commands in the device's queue; 0 without NCQ.
    pub(crate) queue_depth: usize,
    /// The write cache is there and on.
    pub(crate) has_write_cache: bool,
    pub(crate) has_fua: bool,
    /// The flush takes 48-bit commands.
    pub(crate) has_long_flush: bool,
    /// 512-byte blocks of ranges a TRIM may have; 0 without TRIM.
    pub(crate) trim_blocks: u32,
    pub(crate) is_rotational: bool,
}

struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn get(&self, word: usize) -> u16 {
        let bytes = self.0.get(word * 2..word * 2 + 2).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
    }

    fn has(&self, word: usize, bit: u32) -> bool {
        self.get(word) >> bit & 1 != 0
    }

    /// Words 83, 84, 87 and 106 say in their upper bits that they mean something: 01.
    fn is_valid(&self, word: usize) -> bool {
        self.get(word) >> 14 == 1
    }

    fn number(&self, word: usize, words: usize) -> u64 {
        (0..words).rev().fold(0, |sum, index| sum << 16 | u64::from(self.get(word + index)))
    }

    /// Two characters a word, the first in the upper byte.
    fn text(&self, word: usize, words: usize) -> String {
        let mut text = String::new();
        for word in (word..word + words).map(|word| self.get(word)) {
            for byte in word.to_be_bytes() {
                text.push(if byte.is_ascii_graphic() { char::from(byte) } else { ' ' });
            }
        }
        String::from(text.trim())
    }

    fn name(&self) -> Name {
        Name { serial: self.text(10, 10), firmware: self.text(23, 4), model: self.text(27, 20) }
    }
}

/// The model, serial number and firmware of a drive with removable media.
///
/// # Errors
/// `ENODEV` if it is no CD-ROM drive.
pub(crate) fn packet_device(data: &[u8; BYTES]) -> Result<Name> {
    let words = Words(data);
    let (protocol, kind) = (words.get(0) >> 14, words.get(0) >> 8 & 31);
    if protocol != 2 || kind != 5 {
        return Err(Errno::ENODEV);
    }
    Ok(words.name())
}

/// Whether a drive takes packets of 12 or of 16 bytes.
pub(crate) fn packet_len(data: &[u8; BYTES]) -> usize {
    if Words(data).get(0) & 3 == 1 { 16 } else { 12 }
}

/// A disk's data.
///
/// # Errors
/// `ENODEV` for what is no disk with logical block numbers and DMA, `EINVAL` for a size that cannot be.
pub(crate) fn disk(data: &[u8; BYTES]) -> Result<Identity> {
    let words = Words(data);
    let (is_packet, has_dma, has_blocks) = (words.has(0, 15), words.has(49, 8), words.has(49, 9));
    if is_packet || !has_dma || !has_blocks {
        return Err(Errno::ENODEV);
    }
    let has = |bit| words.is_valid(83) && words.has(83, bit);
    let is_long = has(10);
    let (blocks, reach) = match words.number(100, 4) {
        blocks if is_long && blocks != 0 => (blocks, Reach::Long),
        _ => (words.number(60, 2), Reach::Short),
    };
    let (logical, physical) = block_sizes(&words);
    if blocks == 0 || blocks > MAX_BLOCKS || !(512..=4096).contains(&logical) {
        return Err(Errno::EINVAL);
    }
    let has_queue = words.get(76) != 0xffff && words.has(76, 8);
    let has_trim = words.has(169, 0);
    Ok(Identity {
        name: words.name(),
        blocks,
        reach,
        logical,
        physical,
        queue_depth: if has_queue { usize::from(words.get(75) & 31) + 1 } else { 0 },
        has_write_cache: words.has(85, 5),
        has_fua: is_long && words.is_valid(84) && words.has(84, 6),
        has_long_flush: is_long && has(13),
        // A device that says nothing takes one.
        trim_blocks: if has_trim { u32::from(words.get(105)).max(1) } else { 0 },
        is_rotational: words.get(217) != 1,
    })
}

/// Bytes of a logical and of a physical block (words 106, 117).
fn block_sizes(words: &Words<'_>) -> (u32, u32) {
    if !words.is_valid(106) {
        return (512, 512);
    }
    let logical = match words.has(106, 12) {
        true => u32::try_from(words.number(117, 2).saturating_mul(2)).unwrap_or(u32::MAX),
        false => 512,
    };
    if !logical.is_power_of_two() {
        return (0, 0);
    }
    let exponent = if words.has(106, 13) { u32::from(words.get(106) & 15) } else { 0 };
    (logical, logical.saturating_mul(1 << exponent).min(1 << 20))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn set(data: &mut [u8; BYTES], word: usize, value: u16) {
        data[word * 2..word * 2 + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// A disk of 48-bit blocks with a queue of 32, write cache, TRIM.
    pub(crate) fn modern(blocks: u64) -> [u8; BYTES] {
        let mut data = [0; BYTES];
        for (word, value) in [
            (49, 0x300),
            (75, 31),
            (76, 1 << 8),
            (83, 1 << 14 | 1 << 13 | 1 << 12 | 1 << 10),
            (84, 1 << 14 | 1 << 6),
            (85, 1 << 5),
            (105, 8),
            (106, 1 << 14 | 1 << 13 | 3),
            (169, 1),
            (217, 1),
        ] {
            set(&mut data, word, value);
        }
        set(&mut data, 60, u16::MAX);
        set(&mut data, 61, 0xfff);
        for index in 0..4 {
            set(&mut data, 100 + index, (blocks >> (16 * index)) as u16);
        }
        for (index, pair) in b"DISK OF TESTS       ".chunks(2).enumerate() {
            set(&mut data, 27 + index, u16::from_be_bytes([pair[0], pair[1]]));
        }
        data
    }

    #[test]
    fn a_modern_disk() {
        let found = disk(&modern(1 << 40)).unwrap();
        assert_eq!((found.blocks, found.reach), (1 << 40, Reach::Long));
        assert_eq!((found.logical, found.physical, found.queue_depth), (512, 4096, 32));
        assert_eq!((found.trim_blocks, found.is_rotational), (8, false));
        assert!(found.has_write_cache && found.has_fua && found.has_long_flush);
        assert_eq!(found.name.model, "DISK OF TESTS");
    }

    #[test]
    fn an_old_disk() {
        let mut data = [0; BYTES];
        set(&mut data, 49, 0x300);
        set(&mut data, 60, 0x1000);
        let found = disk(&data).unwrap();
        assert_eq!((found.blocks, found.reach, found.queue_depth), (0x1000, Reach::Short, 0));
        assert!(!found.has_write_cache && !found.has_fua && found.is_rotational);
        assert_eq!((found.logical, found.physical, found.trim_blocks), (512, 512, 0));
    }

    #[test]
    fn blocks_of_4096_bytes() {
        let mut data = modern(1000);
        set(&mut data, 106, 1 << 14 | 1 << 12);
        set(&mut data, 117, 2048);
        assert_eq!(disk(&data).map(|found| (found.logical, found.physical)), Ok((4096, 4096)));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(disk(&[0; BYTES]), Err(Errno::ENODEV));
        assert!(disk(&[0xff; BYTES]).is_err());
        let mut data = modern(0);
        set(&mut data, 60, 0);
        set(&mut data, 61, 0);
        assert_eq!(disk(&data), Err(Errno::EINVAL), "no blocks");
        assert_eq!(disk(&modern(u64::MAX)), Err(Errno::EINVAL), "too many");
        let mut data = modern(1000);
        set(&mut data, 106, 1 << 14 | 1 << 12);
        for odd in [0, 3, 100] {
            set(&mut data, 117, odd);
            assert_eq!(disk(&data), Err(Errno::EINVAL));
        }
        set(&mut data, 118, 0xffff);
        assert_eq!(disk(&data), Err(Errno::EINVAL));
        assert_eq!(packet_device(&modern(1000)), Err(Errno::ENODEV));
        let mut data = [0; BYTES];
        set(&mut data, 0, 0x8580);
        assert!(packet_device(&data).is_ok());
        assert_eq!(packet_len(&data), 12);
    }
}
