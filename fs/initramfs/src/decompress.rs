//! Compressed archives: gzip, xz and zstd.

use alloc::vec::Vec;

use crate::unpack::Error;

/// The compression that the first bytes announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Gzip,
    Xz,
    Zstd,
}

/// Recognises a format.
pub(crate) fn format(bytes: &[u8]) -> Option<Format> {
    match bytes {
        [0x1f, 0x8b, ..] => Some(Format::Gzip),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Format::Xz),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Format::Zstd),
        _ => None,
    }
}

/// Decompresses the stream at the start of `bytes`; returns the contents and the stream's length.
///
/// The decoders keep many KiB of tables in their frames. None of them is inlined, so that one
/// kernel stack need hold only those of the format at hand.
pub(crate) fn decompress(format: Format, bytes: &[u8]) -> Result<(Vec<u8>, usize), Error> {
    match format {
        Format::Gzip => gzip(bytes),
        Format::Xz => xz(bytes),
        Format::Zstd => zstd(bytes),
    }
}

/// RFC 1952: header, deflate stream, CRC and length.
#[inline(never)]
fn gzip(bytes: &[u8]) -> Result<(Vec<u8>, usize), Error> {
    let bad = || Error::Corrupt("gzip");
    let flags = *bytes.get(3).ok_or_else(bad)?;
    let mut at = 10usize;
    if flags & 4 != 0 {
        let low = *bytes.get(at).ok_or_else(bad)?;
        let high = *bytes.get(at + 1).ok_or_else(bad)?;
        at += 2 + usize::from(u16::from_le_bytes([low, high]));
    }
    for bit in [8, 16] {
        if flags & bit != 0 {
            let text = bytes.get(at..).ok_or_else(bad)?;
            at += text.iter().position(|&b| b == 0).ok_or_else(bad)? + 1;
        }
    }
    if flags & 2 != 0 {
        at += 2;
    }
    let stream = bytes.get(at..).ok_or_else(bad)?;
    let (out, used) = inflate(stream)?;
    Ok((out, (at + used + 8).min(bytes.len())))
}

#[inline(never)]
fn inflate(stream: &[u8]) -> Result<(Vec<u8>, usize), Error> {
    use miniz_oxide::inflate::TINFLStatus;
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
    let mut out: Vec<u8> = Vec::new();
    grow(&mut out, stream.len().saturating_mul(3).max(1 << 16))?;
    let mut state = alloc::boxed::Box::<DecompressorOxide>::default();
    let (mut used, mut done) = (0, 0);
    loop {
        let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let input = stream.get(used..).unwrap_or(&[]);
        let (status, read, written) = decompress(&mut state, input, &mut out, done, flags);
        used += read;
        done += written;
        match status {
            TINFLStatus::Done => {
                out.truncate(done);
                return Ok((out, used));
            }
            TINFLStatus::HasMoreOutput => {
                let size = out.len().saturating_mul(2);
                grow(&mut out, size)?;
            }
            _ => return Err(Error::Corrupt("gzip")),
        }
    }
}

/// Makes room, or says that there is none.
fn grow(out: &mut Vec<u8>, size: usize) -> Result<(), Error> {
    out.try_reserve_exact(size.saturating_sub(out.len())).map_err(|_| Error::NoMemory)?;
    out.resize(size, 0);
    Ok(())
}

/// A variable-length integer of the xz format.
fn vli(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
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

/// The .xz file format 1.1.0: blocks with one LZMA2 filter.
#[inline(never)]
fn xz(bytes: &[u8]) -> Result<(Vec<u8>, usize), Error> {
    let bad = || Error::Corrupt("xz");
    let check_len = match bytes.get(7).ok_or_else(bad)? & 15 {
        0 => 0,
        1..=3 => 4,
        4..=6 => 8,
        7..=9 => 16,
        10..=12 => 32,
        _ => 64,
    };
    let mut out = Vec::new();
    let mut at = 12;
    loop {
        let head = at;
        let size = usize::from(*bytes.get(head).ok_or_else(bad)?);
        if size == 0 {
            break;
        }
        let flags = *bytes.get(head + 1).ok_or_else(bad)?;
        if flags & 3 != 0 {
            return Err(bad());
        }
        let mut field = head + 2;
        for bit in [0x40, 0x80] {
            if flags & bit != 0 {
                vli(bytes, &mut field).ok_or_else(bad)?;
            }
        }
        let id = vli(bytes, &mut field).ok_or_else(bad)?;
        let props = vli(bytes, &mut field).ok_or_else(bad)?;
        let dict = u32::from(*bytes.get(field).ok_or_else(bad)?);
        if id != 0x21 || props != 1 || dict > 40 {
            return Err(bad());
        }
        let dict = if dict == 40 { u32::MAX } else { (2 | (dict & 1)) << (dict / 2 + 11) };
        let start = head + (size + 1) * 4;
        let used = lzma2(bytes.get(start..).ok_or_else(bad)?, dict, &mut out)?;
        at = (start + used).next_multiple_of(4) + check_len;
    }
    // The index: a count, two numbers for each block, padding, a checksum; then the footer.
    at += 1;
    let blocks = vli(bytes, &mut at).ok_or_else(bad)?;
    for _ in 0..blocks.saturating_mul(2) {
        vli(bytes, &mut at).ok_or_else(bad)?;
    }
    Ok((out, (at.next_multiple_of(4) + 4 + 12).min(bytes.len())))
}

/// One LZMA2 stream, appended to `out`; its compressed length.
#[inline(never)]
fn lzma2(bytes: &[u8], dict: u32, out: &mut Vec<u8>) -> Result<usize, Error> {
    use lzma_rust2::{Lzma2Reader, Read};
    let mut reader = Lzma2Reader::new(bytes, dict, None);
    let mut done = out.len();
    loop {
        if done == out.len() {
            let size = (out.len() * 2).max(1 << 20);
            grow(out, size)?;
        }
        let room = out.get_mut(done..).unwrap_or(&mut []);
        match reader.read(room) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(_) => return Err(Error::Corrupt("xz")),
        }
    }
    out.truncate(done);
    let rest = reader.into_inner();
    Ok(bytes.len() - rest.len())
}

#[inline(never)]
fn zstd(bytes: &[u8]) -> Result<(Vec<u8>, usize), Error> {
    use ruzstd::decoding::StreamingDecoder;
    use ruzstd::io::Read;
    let mut rest = bytes;
    let mut out = Vec::new();
    let mut done = 0;
    {
        let mut decoder = StreamingDecoder::new(&mut rest).map_err(|_| Error::Corrupt("zstd"))?;
        loop {
            if done == out.len() {
                let size = (out.len() * 2).max(1 << 20);
                grow(&mut out, size)?;
            }
            let room = out.get_mut(done..).unwrap_or(&mut []);
            match decoder.read(room) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(_) => return Err(Error::Corrupt("zstd")),
            }
        }
    }
    out.truncate(done);
    Ok((out, bytes.len() - rest.len()))
}
