//! Decompression of one block: gzip (zlib), xz, lz4 and zstd.
//!
//! The decoders keep many KiB of tables in their frames. None of them is inlined, so that one kernel
//! stack need hold only those of the format at hand.

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::{Errno, Result};

/// The largest window of a zstd frame that is taken: blocks have no more than 1 MiB.
const MAX_WINDOW: u64 = 8 << 20;

/// How blocks are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Compressor {
    Gzip,
    Xz,
    Lz4,
    Zstd,
}

impl Compressor {
    /// By its number in the super block; 2 is lzma and 3 lzo, which are not supported.
    pub(crate) fn numbered(number: u16) -> Option<Compressor> {
        Some(match number {
            1 => Compressor::Gzip,
            4 => Compressor::Xz,
            5 => Compressor::Lz4,
            6 => Compressor::Zstd,
            _ => return None,
        })
    }

    /// Decompresses a block that has at most `limit` bytes then. `EIO` if it is none.
    pub(crate) fn decompress(self, bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
        let mut out = buffer(limit)?;
        let len = match self {
            Compressor::Gzip => gzip(bytes, &mut out),
            Compressor::Xz => xz(bytes, &mut out),
            Compressor::Lz4 => lz4(bytes, &mut out),
            Compressor::Zstd => zstd(bytes, &mut out),
        };
        out.truncate(len.ok_or(Errno::EIO)?);
        Ok(out)
    }
}

/// Zeros, or `ENOMEM`.
pub(crate) fn buffer(len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// RFC 1950.
#[inline(never)]
fn gzip(bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    use miniz_oxide::inflate::TINFLStatus;
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
    let mut state = Box::<DecompressorOxide>::default();
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF
        | inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER;
    let (status, _, written) = decompress(&mut state, bytes, out, 0, flags);
    (status == TINFLStatus::Done).then_some(written)
}

#[inline(never)]
fn lz4(bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    lz4_flex::block::decompress_into(bytes, out).ok()
}

#[inline(never)]
fn zstd(bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    use ruzstd::decoding::StreamingDecoder;
    use ruzstd::io::Read;
    if zstd_window(bytes)? > MAX_WINDOW {
        return None;
    }
    let mut decoder = Box::new(StreamingDecoder::new(bytes).ok()?);
    fill(out, |room| decoder.read(room).ok())
}

/// The window that a frame asks for (RFC 8878, 3.1.1.1).
fn zstd_window(bytes: &[u8]) -> Option<u64> {
    if crate::layout::u32_at(bytes, 0) != 0xfd2f_b528 {
        return None;
    }
    let descriptor = *bytes.get(4)?;
    if descriptor & 0x20 == 0 {
        let window = *bytes.get(5)?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // A single segment: the window is what the frame holds.
    let at = 5 + [0, 1, 2, 4][usize::from(descriptor & 3)];
    Some(match descriptor >> 6 {
        0 => u64::from(*bytes.get(at)?),
        1 => u64::from(crate::layout::u16_at(bytes, at)) + 256,
        2 => u64::from(crate::layout::u32_at(bytes, at)),
        _ => crate::layout::u64_at(bytes, at),
    })
}

/// Reads until the end or until `out` is full, at which there must be nothing more.
fn fill(out: &mut [u8], mut read: impl FnMut(&mut [u8]) -> Option<usize>) -> Option<usize> {
    let mut done = 0;
    while done < out.len() {
        match read(out.get_mut(done..)?)? {
            0 => return Some(done),
            count => done += count,
        }
    }
    let mut more = [0];
    (read(&mut more)? == 0).then_some(done)
}

/// The .xz file format 1.1.0, 3.1: one block, with an LZMA2 filter and perhaps one for the code of a processor.
#[inline(never)]
fn xz(bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    use lzma_rust2::filter::bcj::BcjReader;
    use lzma_rust2::{Lzma2Reader, Read};
    if bytes.get(..6)? != b"\xfd7zXZ\0" {
        return None;
    }
    let header = XzHeader::parse(bytes.get(12..)?)?;
    let stream = bytes.get(12 + header.len..)?;
    // Nothing lies further back than the block has bytes.
    let dict = header.dict.min(out.len().max(4096) as u32);
    let mut reader = Box::new(Lzma2Reader::new(stream, dict, None));
    let Some(filter) = header.filter else {
        return fill(out, |room| reader.read(room).ok());
    };
    let mut reader = match filter {
        4 => BcjReader::new_x86(reader, 0),
        5 => BcjReader::new_ppc(reader, 0),
        6 => BcjReader::new_ia64(reader, 0),
        7 => BcjReader::new_arm(reader, 0),
        8 => BcjReader::new_arm_thumb(reader, 0),
        9 => BcjReader::new_sparc(reader, 0),
        _ => return None,
    };
    fill(out, |room| reader.read(room).ok())
}

/// The header of a block of xz.
struct XzHeader {
    len: usize,
    dict: u32,
    /// The filter before LZMA2, if there is one.
    filter: Option<u64>,
}

impl XzHeader {
    fn parse(bytes: &[u8]) -> Option<XzHeader> {
        let size = usize::from(*bytes.first()?);
        let len = (size + 1) * 4;
        let bytes = bytes.get(..len).filter(|_| size > 0)?;
        let flags = *bytes.get(1)?;
        let mut at = 2;
        for bit in [0x40, 0x80] {
            if flags & bit != 0 {
                number(bytes, &mut at)?;
            }
        }
        let filter = match flags & 3 {
            0 => None,
            1 => {
                let id = number(bytes, &mut at)?;
                // It could begin elsewhere than at 0, which nobody makes it do.
                if number(bytes, &mut at)? != 0 {
                    return None;
                }
                Some(id)
            }
            _ => return None,
        };
        let id = number(bytes, &mut at)?;
        let props = number(bytes, &mut at)?;
        let dict = u32::from(*bytes.get(at)?);
        if id != 0x21 || props != 1 || dict > 40 {
            return None;
        }
        let dict = if dict == 40 { u32::MAX } else { (2 | (dict & 1)) << (dict / 2 + 11) };
        Some(XzHeader { len, dict, filter })
    }
}

/// A number of variable length (1.2).
fn number(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
