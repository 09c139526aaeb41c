//! The `newc` archive format (`cpio(5)`).

use crate::unpack::Error;

const HEADER: usize = 110;

/// One entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) ino: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) mtime: u32,
    pub(crate) dev: (u32, u32),
    pub(crate) rdev: (u32, u32),
    pub(crate) name: &'a [u8],
    pub(crate) data: &'a [u8],
}

/// Whether an archive starts here.
pub(crate) fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(b"070701") || bytes.starts_with(b"070702")
}

fn hex(bytes: &[u8], field: usize) -> Option<u32> {
    let digits = bytes.get(6 + field * 8..14 + field * 8)?;
    u32::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
}

/// The entry at `at` of the archive, and where the next one starts. `None` is the trailer.
pub(crate) fn entry(archive: &[u8], at: usize) -> Result<Option<(Entry<'_>, usize)>, Error> {
    let bad = Error::Malformed(at);
    let head = archive.get(at..).and_then(|b| b.get(..HEADER)).ok_or(bad)?;
    if !is_archive(head) {
        return Err(bad);
    }
    let field = |n| hex(head, n).ok_or(Error::Malformed(at));
    let (size, name_len) = (field(6)? as usize, field(11)? as usize);
    let name_at = at + HEADER;
    let name_end = name_at.checked_add(name_len).ok_or(Error::Malformed(at))?;
    let name = archive.get(name_at..name_end).and_then(|n| n.split_last());
    let (_, name) = name.filter(|(nul, _)| **nul == 0).ok_or(Error::Malformed(at))?;
    let data_at = name_end.next_multiple_of(4);
    let data_end = data_at.checked_add(size).ok_or(Error::Malformed(at))?;
    if name == b"TRAILER!!!" {
        return Ok(None);
    }
    let data = archive.get(data_at..data_end).ok_or(Error::Malformed(at))?;
    let entry = Entry {
        ino: field(0)?,
        mode: field(1)?,
        uid: field(2)?,
        gid: field(3)?,
        nlink: field(4)?,
        mtime: field(5)?,
        dev: (field(7)?, field(8)?),
        rdev: (field(9)?, field(10)?),
        name,
        data,
    };
    Ok(Some((entry, data_end.next_multiple_of(4))))
}

/// Where the archive at `at` ends, its trailer included.
pub(crate) fn end_of_trailer(archive: &[u8], at: usize) -> usize {
    let name_len = archive.get(at..).and_then(|h| hex(h, 11)).unwrap_or(0) as usize;
    (at + HEADER + name_len).next_multiple_of(4).min(archive.len())
}
