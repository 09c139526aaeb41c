//! Checksums that end directory blocks. Blocks are signed when they are written to the disk, not at
//! each change: a directory that gains a thousand names is summed once.

use crate::bytes::{put16, put32, u16_at, u32_at};
use crate::csum::crc32c;

/// Bytes of the checksum entry at the end of a block of names.
pub(crate) const TAIL: usize = 12;

/// How a metadata block is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    /// By whoever changes it, or not at all.
    None,
    /// A directory block of names.
    Names,
    /// A block of a directory's index.
    Index,
}

/// Where the count of an index block lies: behind the dot entries in the root, behind an empty
/// entry that fills the block elsewhere.
pub(crate) fn index_base(block: &[u8]) -> usize {
    let is_node = u32_at(block, 0) == 0 && usize::from(u16_at(block, 4)) == block.len();
    if is_node { 8 } else { 32 }
}

fn names_sum(block: &[u8], seed: u32) -> u32 {
    crc32c(seed, block.get(..block.len() - TAIL).unwrap_or(&[]))
}

/// The checksum of an index block and where it is kept; `None` if the block makes no sense.
fn index_sum(block: &[u8], seed: u32) -> Option<(u32, usize)> {
    let base = index_base(block);
    let (limit, count) = (usize::from(u16_at(block, base)), usize::from(u16_at(block, base + 2)));
    let tail = base + limit * 8;
    if count > limit || tail + 8 > block.len() {
        return None;
    }
    let used = crc32c(seed, block.get(..base + count * 8)?);
    // The tail counts with its own checksum taken as zero.
    Some((crc32c(crc32c(used, block.get(tail..tail + 4)?), &[0; 4]), tail + 4))
}

/// Ends a block of names with the entry that keeps the checksum.
pub(crate) fn put_tail(block: &mut [u8]) {
    let at = block.len() - TAIL;
    put32(block, at, 0);
    put16(block, at + 4, TAIL as u16);
    put16(block, at + 6, 0xde00);
}

/// Signs a block.
pub(crate) fn apply(seal: Seal, block: &mut [u8], seed: u32) {
    match seal {
        Seal::None => {}
        Seal::Names => {
            put_tail(block);
            let at = block.len() - TAIL;
            let sum = names_sum(block, seed);
            put32(block, at + 8, sum);
        }
        Seal::Index => {
            if let Some((sum, at)) = index_sum(block, seed) {
                put32(block, at, sum);
            }
        }
    }
}

/// Whether the signature is right.
pub(crate) fn holds(seal: Seal, block: &[u8], seed: u32) -> bool {
    match seal {
        Seal::None => true,
        Seal::Names => names_sum(block, seed) == u32_at(block, block.len() - 4),
        Seal::Index => index_sum(block, seed).is_some_and(|(sum, at)| u32_at(block, at) == sum),
    }
}
