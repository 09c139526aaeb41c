//! The system use area of a record: Rock Ridge (RRIP 1.12) over the sharing protocol (SUSP 1.12).

use alloc::vec;
use alloc::vec::Vec;

use abi::{Errno, Result};
use vfs::Time;

use crate::record::{date, long_date, u8_at, u32_at};
use crate::volume::Volume;

/// Continuation areas of one record at most; one is usual.
const MAX_AREAS: u32 = 32;
/// The longest name that programs can give, and the longest text of a link.
const MAX_NAME: usize = 255;
const MAX_LINK: usize = 4095;

/// What Rock Ridge says of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct RockRidge {
    /// `PX`: mode, links, owner, group.
    pub(crate) posix: Option<[u32; 4]>,
    /// `NM`.
    pub(crate) name: Vec<u8>,
    /// `SL`: where a symbolic link leads.
    pub(crate) link: Vec<u8>,
    /// `PN`: high and low half of a device number.
    pub(crate) device: Option<(u32, u32)>,
    /// `TF`: last change, access, change of attributes.
    pub(crate) modified: Option<Time>,
    pub(crate) accessed: Option<Time>,
    pub(crate) changed: Option<Time>,
    /// `CL`: the block where the directory is that this stands for.
    pub(crate) child: Option<u32>,
    /// `RE`: a directory that is only here because the tree would be too deep.
    pub(crate) is_relocated: bool,
    /// There was an entry of Rock Ridge at all.
    pub(crate) is_there: bool,
}

/// Bytes to skip in each area, if the first record of a root says that the protocol is in use (SUSP 5.3).
pub(crate) fn skip_of(area: &[u8]) -> Option<usize> {
    // A medium that also is bootable on some machines has 15 bytes before it.
    let found = |at: usize| area.get(at..at + 7).filter(|e| e.starts_with(b"SP\x07\x01\xbe\xef"));
    [0, 15].into_iter().find_map(found).map(|entry| usize::from(u8_at(entry, 6)))
}

/// Calls `each` for the entries of an area; the place of a continuation, if there is one.
fn walk(area: &[u8], mut each: impl FnMut([u8; 2], &[u8])) -> Option<(u32, u32, u32)> {
    let (mut rest, mut next) = (area, None);
    while let [a, b, len, ..] = *rest {
        let Some(entry) = rest.get(..usize::from(len)).filter(|entry| entry.len() >= 4) else {
            break;
        };
        match &[a, b] {
            b"CE" => next = Some((u32_at(entry, 4), u32_at(entry, 12), u32_at(entry, 20))),
            b"ST" => break,
            kind => each(*kind, entry),
        }
        rest = rest.get(entry.len()..).unwrap_or(&[]);
    }
    next
}

impl RockRidge {
    /// What the area of a record and its continuations say.
    pub(crate) fn read(volume: &Volume, area: &[u8], skip: usize) -> Result<RockRidge> {
        let mut found = RockRidge::default();
        let mut parts = Parts::default();
        let area = area.get(skip..).unwrap_or(&[]);
        let mut next = walk(area, |kind, entry| found.take(kind, entry, &mut parts));
        let mut left = MAX_AREAS;
        while let Some((block, offset, len)) = next {
            if left == 0 || u64::from(offset) + u64::from(len) > volume.block_size() {
                return Err(Errno::EIO);
            }
            left -= 1;
            let mut more = vec![0; len as usize];
            volume.read(u64::from(block), u64::from(offset), &mut more)?;
            next = walk(&more, |kind, entry| found.take(kind, entry, &mut parts));
        }
        Ok(found)
    }

    fn take(&mut self, kind: [u8; 2], entry: &[u8], parts: &mut Parts) {
        let at = |place| u32_at(entry, place);
        match &kind {
            b"PX" if entry.len() >= 36 => self.posix = Some([at(4), at(12), at(20), at(28)]),
            b"PN" if entry.len() >= 20 => self.device = Some((at(4), at(12))),
            b"CL" if entry.len() >= 12 => self.child = Some(at(4)),
            b"RE" => self.is_relocated = true,
            b"NM" => self.name(entry),
            b"SL" => self.link(entry, parts),
            b"TF" => self.dates(entry),
            b"RR" => {}
            _ => return,
        }
        self.is_there = true;
    }

    /// RRIP 4.1.4: the current and the parent directory have flags in place of names.
    fn name(&mut self, entry: &[u8]) {
        if u8_at(entry, 4) & 6 == 0 {
            let part = entry.get(5..).unwrap_or(&[]);
            let room = MAX_NAME.saturating_sub(self.name.len());
            self.name.extend_from_slice(part.get(..part.len().min(room)).unwrap_or(&[]));
        }
    }

    /// RRIP 4.1.3: components, each with flags and a length.
    fn link(&mut self, entry: &[u8], parts: &mut Parts) {
        let mut rest = entry.get(5..).unwrap_or(&[]);
        while let [flags, len, ..] = *rest {
            let text = rest.get(2..2 + usize::from(len)).unwrap_or(&[]);
            if parts.has_ended && !self.link.ends_with(b"/") {
                self.link.push(b'/');
            }
            match flags & 0xe {
                2 => self.link.push(b'.'),
                4 => self.link.extend_from_slice(b".."),
                8 => self.link.push(b'/'),
                _ => self.link.extend_from_slice(text),
            }
            self.link.truncate(MAX_LINK);
            parts.has_ended = flags & 1 == 0;
            rest = rest.get(2 + usize::from(len)..).unwrap_or(&[]);
        }
    }

    /// RRIP 4.1.6: one date for each bit, in the order of the bits.
    fn dates(&mut self, entry: &[u8]) {
        let flags = u8_at(entry, 4);
        let (len, read): (usize, fn(&[u8]) -> Time) =
            if flags & 0x80 != 0 { (17, long_date) } else { (7, date) };
        let mut rest = entry.get(5..).unwrap_or(&[]);
        for bit in 0..7 {
            if flags & 1 << bit == 0 {
                continue;
            }
            let Some(bytes) = rest.get(..len) else { return };
            let time = Some(read(bytes));
            match bit {
                1 => self.modified = time,
                2 => self.accessed = time,
                3 => self.changed = time,
                _ => {}
            }
            rest = rest.get(len..).unwrap_or(&[]);
        }
    }
}

/// How far the text of a link has come.
#[derive(Default)]
struct Parts {
    /// The last component is whole: a slash comes before the next.
    has_ended: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(entries: &[&[u8]]) -> Vec<u8> {
        let (mut found, mut parts) = (RockRidge::default(), Parts::default());
        for entry in entries {
            found.take(*b"SL", entry, &mut parts);
        }
        found.link
    }

    #[test]
    fn links_are_put_together() {
        assert_eq!(link(&[b"SL\x0a\x01\0\0\x03abc"]), b"abc");
        assert_eq!(link(&[b"SL\x0a\x01\0\x08\0\0\x01a\0\x01b"]), b"/a/b");
        assert_eq!(link(&[b"SL\x0a\x01\0\x04\0\x04\0\0\x01b"]), b"../../b");
        assert_eq!(link(&[b"SL\x0a\x01\x01\x01\x02ab", b"SL\x0a\x01\0\0\x02cd"]), b"abcd");
        assert_eq!(link(&[b"SL\x0a\x01\0\0\xffab"]), b"");
    }

    #[test]
    fn areas_end_where_they_do_not_fit() {
        let mut seen = Vec::new();
        let next = walk(b"NM\x06\0\0xRR\x05\x01\0ZZ\xff\0", |kind, _| seen.push(kind));
        assert_eq!((seen, next), (vec![*b"NM", *b"RR"], None));
        assert_eq!(skip_of(b"SP\x07\x01\xbe\xef\x03"), Some(3));
        assert_eq!(skip_of(b"SP\x07\x01\xbe\xee\x03"), None);
    }
}
