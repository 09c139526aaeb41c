//! The journal's blocks as they are on the disk: kinds, features, tags, checksums. All numbers are
//! big-endian. Source: kernel.org, "ext4 Data Structures and Algorithms", "Journal (jbd2)"; what
//! that leaves open is as `debugfs` writes and `e2fsck` accepts it.

use alloc::vec::Vec;

use abi::Result;
use vfs::Time;

use crate::bytes::{be32_at, put_be32};
use crate::csum::crc32c;

/// Begins every block of the journal that is not data.
pub(super) const MAGIC: u32 = 0xc03b_3998;
/// Bytes of the header: magic number, kind, number of the transaction.
const HEADER: usize = 12;

pub(super) mod kind {
    pub(crate) const DESCRIPTOR: u32 = 1;
    pub(crate) const COMMIT: u32 = 2;
    pub(crate) const SUPER_V1: u32 = 3;
    pub(crate) const SUPER_V2: u32 = 4;
    pub(crate) const REVOKE: u32 = 5;
}

pub(super) mod feature {
    pub(crate) const REVOKE: u32 = 1;
    pub(crate) const BIT64: u32 = 2;
    pub(crate) const CSUM_V2: u32 = 8;
    pub(crate) const CSUM_V3: u32 = 16;
    pub(crate) const KNOWN: u32 = REVOKE | BIT64 | CSUM_V2 | CSUM_V3;
    /// Compatible: a checksum over whole transactions, in their commit blocks.
    pub(crate) const COMPAT_CHECKSUM: u32 = 1;
}

mod tag {
    /// The block began with the magic number, which was replaced by zeros.
    pub(super) const ESCAPED: u32 = 1;
    /// No identifier of the file system follows.
    pub(super) const SAME_ID: u32 = 2;
    pub(super) const LAST: u32 = 8;
}

/// A data block that a descriptor names.
pub(super) struct Tag {
    /// Where it belongs.
    pub(super) home: u64,
    pub(super) escaped: bool,
    pub(super) checksum: u32,
}

/// How the blocks of one journal are laid out.
#[derive(Clone, Copy)]
pub(super) struct Format {
    pub(super) block_size: usize,
    pub(super) features: u32,
    /// Of all checksums.
    pub(super) seed: u32,
    pub(super) uuid: [u8; 16],
}

impl Format {
    pub(super) fn has_csum(&self) -> bool {
        self.features & (feature::CSUM_V2 | feature::CSUM_V3) != 0
    }

    fn is_wide(&self) -> bool {
        self.features & feature::BIT64 != 0
    }

    fn tag_len(&self) -> usize {
        if self.features & feature::CSUM_V3 != 0 {
            return 16;
        }
        // With version 2 each tag is followed by two bytes that nothing is in.
        let pad = if self.features & feature::CSUM_V2 != 0 { 2 } else { 0 };
        8 + if self.is_wide() { 4 } else { 0 } + pad
    }

    /// Where the entries of a descriptor or revoke block end.
    fn end(&self) -> usize {
        self.block_size - if self.has_csum() { 4 } else { 0 }
    }

    fn block(&self, kind: u32, sequence: u32) -> Vec<u8> {
        let mut block = alloc::vec![0; self.block_size];
        put_be32(&mut block, 0, MAGIC);
        put_be32(&mut block, 4, kind);
        put_be32(&mut block, 8, sequence);
        block
    }

    fn tail_sum(&self, block: &[u8]) -> u32 {
        let body = crc32c(self.seed, block.get(..block.len() - 4).unwrap_or(&[]));
        crc32c(body, &[0; 4])
    }

    /// Whether the checksum in the last four bytes of a descriptor or revoke block is right.
    pub(super) fn tail_holds(&self, block: &[u8]) -> bool {
        !self.has_csum() || self.tail_sum(block) == be32_at(block, block.len() - 4)
    }

    fn sign_tail(&self, block: &mut [u8]) {
        if self.has_csum() {
            let (sum, at) = (self.tail_sum(block), block.len() - 4);
            put_be32(block, at, sum);
        }
    }

    fn commit_sum(&self, block: &[u8]) -> u32 {
        let head = crc32c(self.seed, block.get(..16).unwrap_or(&[]));
        crc32c(crc32c(head, &[0; 4]), block.get(20..).unwrap_or(&[]))
    }

    pub(super) fn commit_holds(&self, block: &[u8]) -> bool {
        !self.has_csum() || self.commit_sum(block) == be32_at(block, 16)
    }

    /// The checksum of a data block as it is in the log; 0 where there are none.
    pub(super) fn data_sum(&self, sequence: u32, data: &[u8]) -> u32 {
        if !self.has_csum() {
            return 0;
        }
        let sum = crc32c(crc32c(self.seed, &sequence.to_be_bytes()), data);
        if self.features & feature::CSUM_V3 != 0 { sum } else { sum & 0xffff }
    }

    /// The tags of a descriptor block.
    pub(super) fn tags(&self, block: &[u8]) -> Result<Vec<Tag>> {
        let (len, end) = (self.tag_len(), self.end());
        let (wide, v3) = (self.is_wide(), self.features & feature::CSUM_V3 != 0);
        let mut tags = Vec::new();
        let mut at = HEADER;
        loop {
            if at + len > end {
                // A descriptor without a last tag ends where the next would not fit.
                return Ok(tags);
            }
            let (flags, checksum, high) = if v3 {
                (be32_at(block, at + 4), be32_at(block, at + 12), be32_at(block, at + 8))
            } else {
                let word = be32_at(block, at + 4);
                (word & 0xffff, word >> 16, if wide { be32_at(block, at + 8) } else { 0 })
            };
            let high = if wide { u64::from(high) << 32 } else { 0 };
            let home = u64::from(be32_at(block, at)) | high;
            tags.push(Tag { home, escaped: flags & tag::ESCAPED != 0, checksum });
            at += len + if flags & tag::SAME_ID == 0 { 16 } else { 0 };
            if flags & tag::LAST != 0 {
                return Ok(tags);
            }
        }
    }

    /// Most tags of a descriptor block.
    pub(super) fn tags_per_block(&self) -> usize {
        (self.end() - HEADER - 16) / self.tag_len()
    }

    /// A descriptor block.
    pub(super) fn descriptor(&self, sequence: u32, tags: &[Tag]) -> Vec<u8> {
        let mut block = self.block(kind::DESCRIPTOR, sequence);
        let mut at = HEADER;
        for (index, tag) in tags.iter().enumerate() {
            let mut flags = 0;
            if tag.escaped {
                flags |= tag::ESCAPED;
            }
            if index > 0 {
                flags |= tag::SAME_ID;
            }
            if index + 1 == tags.len() {
                flags |= tag::LAST;
            }
            put_be32(&mut block, at, tag.home as u32);
            let high = (tag.home >> 32) as u32;
            if self.features & feature::CSUM_V3 != 0 {
                put_be32(&mut block, at + 4, flags);
                put_be32(&mut block, at + 8, high);
                put_be32(&mut block, at + 12, tag.checksum);
            } else {
                put_be32(&mut block, at + 4, tag.checksum << 16 | flags);
                if self.is_wide() {
                    put_be32(&mut block, at + 8, high);
                }
            }
            at += self.tag_len();
            if index == 0 {
                if let Some(place) = block.get_mut(at..at + 16) {
                    place.copy_from_slice(&self.uuid);
                }
                at += 16;
            }
        }
        self.sign_tail(&mut block);
        block
    }

    fn revoke_len(&self) -> usize {
        if self.is_wide() { 8 } else { 4 }
    }

    /// Most blocks that a revoke block names.
    pub(super) fn revokes_per_block(&self) -> usize {
        (self.end() - 16) / self.revoke_len()
    }

    /// A revoke block: what transactions up to this one hold of `blocks` is not to be copied.
    pub(super) fn revoke(&self, sequence: u32, blocks: &[u64]) -> Vec<u8> {
        let mut block = self.block(kind::REVOKE, sequence);
        let len = self.revoke_len();
        put_be32(&mut block, HEADER, (16 + blocks.len() * len) as u32);
        for (index, &home) in blocks.iter().enumerate() {
            let at = 16 + index * len;
            if self.is_wide() {
                put_be32(&mut block, at, (home >> 32) as u32);
                put_be32(&mut block, at + 4, home as u32);
            } else {
                put_be32(&mut block, at, home as u32);
            }
        }
        self.sign_tail(&mut block);
        block
    }

    /// The blocks a revoke block names.
    pub(super) fn revoked<'b>(&self, block: &'b [u8]) -> impl Iterator<Item = u64> + use<'b> {
        let (wide, size) = (self.is_wide(), self.revoke_len());
        let used = (be32_at(block, HEADER) as usize).min(block.len());
        let entries = block.get(16..used).unwrap_or(&[]);
        entries.chunks_exact(size).map(move |entry| {
            let first = u64::from(be32_at(entry, 0));
            if wide { first << 32 | u64::from(be32_at(entry, 4)) } else { first }
        })
    }

    /// The block that makes a transaction whole.
    pub(super) fn commit(&self, sequence: u32, now: Time) -> Vec<u8> {
        let mut block = self.block(kind::COMMIT, sequence);
        put_be32(&mut block, 0x30, (now.sec >> 32) as u32);
        put_be32(&mut block, 0x34, now.sec as u32);
        put_be32(&mut block, 0x38, now.nsec);
        if self.has_csum() {
            let sum = self.commit_sum(&block);
            put_be32(&mut block, 16, sum);
        }
        block
    }
}

/// The checksum of a journal's super block.
pub(super) fn super_sum(head: &[u8]) -> u32 {
    let start = crc32c(!0, head.get(..0xfc).unwrap_or(&[]));
    crc32c(crc32c(start, &[0; 4]), head.get(0x100..1024).unwrap_or(&[]))
}

/// Whether transaction `a` is later than `b`: their numbers wrap.
pub(super) fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formats() -> impl Iterator<Item = Format> {
        let sums = [0, feature::CSUM_V2, feature::CSUM_V3];
        let all = sums.into_iter().flat_map(|sum| [sum, sum | feature::BIT64]);
        all.flat_map(|features| {
            [1024, 2048, 4096].map(|block_size| Format {
                block_size,
                features: features | feature::REVOKE,
                seed: 0x1234_5678,
                uuid: [7; 16],
            })
        })
    }

    #[test]
    fn full_descriptors_are_read_back() {
        for format in formats() {
            let count = format.tags_per_block();
            let high = if format.is_wide() { 3u64 << 32 } else { 0 };
            let tags: Vec<Tag> = (0..count)
                .map(|n| Tag {
                    home: (n as u64 * 77) | high,
                    escaped: n % 5 == 0,
                    checksum: if format.has_csum() { n as u32 } else { 0 },
                })
                .collect();
            let mut block = format.descriptor(9, &tags);
            assert!(format.tail_holds(&block));
            let found = format.tags(&block).unwrap();
            assert_eq!(found.len(), count);
            for (a, b) in found.iter().zip(&tags) {
                assert_eq!((a.home, a.escaped, a.checksum), (b.home, b.escaped, b.checksum));
            }
            block[20] ^= 1;
            assert_eq!(format.tail_holds(&block), !format.has_csum());
        }
    }

    #[test]
    fn full_revoke_blocks_are_read_back() {
        for format in formats() {
            let high = if format.is_wide() { 5u64 << 32 } else { 0 };
            let count = format.revokes_per_block() as u64;
            let blocks: Vec<u64> = (1..=count).map(|n| (n * 3) | high).collect();
            let block = format.revoke(4, &blocks);
            assert!(format.tail_holds(&block));
            assert!(format.revoked(&block).eq(blocks.iter().copied()));
        }
    }

    #[test]
    fn commit_blocks_are_signed() {
        for format in formats() {
            let mut block = format.commit(3, Time::new(1_700_000_000, 5));
            assert!(format.commit_holds(&block));
            block[0x38] ^= 1;
            assert_eq!(format.commit_holds(&block), !format.has_csum());
        }
    }

    #[test]
    fn numbers_wrap() {
        assert!(is_after(0, u32::MAX));
        assert!(is_after(5, 4));
        assert!(!is_after(4, 4));
        assert!(!is_after(u32::MAX, 3));
    }
}
