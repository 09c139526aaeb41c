//! Directories (squashfs binary format, "The Directory Table"): headers, each with the entries whose
//! inodes are in one block; long ones have an index by name.

use alloc::vec::Vec;

use abi::{Errno, Result};
use vfs::FileKind;

use crate::inode::{Listing, kind_of};
use crate::layout::{u16_at, u32_at};
use crate::volume::{META, Place, Volume};

/// Most entries behind one header.
const MAX_ENTRIES: u32 = 256;
/// Longest name.
const MAX_NAME: usize = 256;
const HEADER: u64 = 12;
const ENTRY: u64 = 8;

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Where it begins and ends, in bytes of the directory.
    pub(crate) at: u64,
    pub(crate) end: u64,
    pub(crate) name: Vec<u8>,
    pub(crate) kind: FileKind,
    pub(crate) ino: u32,
    /// Where its inode is.
    pub(crate) reference: u64,
}

/// What comes after an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Go {
    On,
    Stop,
}

impl Volume {
    /// The name in a directory.
    pub(crate) fn find(&self, listing: &Listing, name: &[u8]) -> Result<Option<Entry>> {
        let mut found = None;
        let (start, at) = self.start(listing, |_, first| first <= name)?;
        self.each(listing, (start, at), |entry| {
            // Names are in order.
            if entry.name.as_slice() < name {
                return Go::On;
            }
            if entry.name == name {
                found = Some(entry);
            }
            Go::Stop
        })?;
        Ok(found)
    }

    /// Calls `act` with the entries from a byte of the directory on.
    pub(crate) fn list(
        &self,
        listing: &Listing,
        from: u64,
        mut act: impl FnMut(Entry) -> Go,
    ) -> Result<()> {
        let start = self.start(listing, |at, _| at <= from)?;
        self.each(listing, start, |entry| if entry.at < from { Go::On } else { act(entry) })
    }

    /// The last header of the index that `is_before` (its byte in the directory, the name after it), or
    /// the first header; where it is, and its byte in the directory.
    fn start(
        &self,
        listing: &Listing,
        is_before: impl Fn(u64, &[u8]) -> bool,
    ) -> Result<(Place, u64)> {
        let mut best = (listing.start, 0);
        let Some((index, count)) = listing.index else { return Ok(best) };
        let mut cursor = self.cursor(index);
        for _ in 0..count {
            let head = cursor.take::<12>()?;
            let at = u64::from(u32_at(&head, 0));
            let len = u32_at(&head, 8) as usize;
            let name = cursor.bytes(len.saturating_add(1), MAX_NAME)?;
            if !is_before(at, &name) {
                break;
            }
            let block = self.place(self.sb.dir_table, u64::from(u32_at(&head, 4)) << 16)?.block;
            let offset = (listing.start.offset as u64).wrapping_add(at) as usize % META;
            best = (Place { block, offset }, at);
        }
        Ok(best)
    }

    fn each(
        &self,
        listing: &Listing,
        (start, at): (Place, u64),
        mut act: impl FnMut(Entry) -> Go,
    ) -> Result<()> {
        let mut cursor = self.cursor(start);
        let mut at = at;
        while at < listing.len {
            let head = cursor.take::<12>()?;
            at += HEADER;
            let count = u32_at(&head, 0).saturating_add(1);
            if count > MAX_ENTRIES {
                return Err(self.corrupt("too many entries behind a header of a directory"));
            }
            let block = u64::from(u32_at(&head, 4));
            let base = u32_at(&head, 8);
            for _ in 0..count {
                let raw = cursor.take::<8>()?;
                let len = usize::from(u16_at(&raw, 6)) + 1;
                let name = cursor.bytes(len, MAX_NAME)?;
                let end = at + ENTRY + len as u64;
                let entry = self.entry(&raw, name, (block, base), (at, end))?;
                if act(entry) == Go::Stop {
                    return Ok(());
                }
                at = end;
            }
        }
        Ok(())
    }

    fn entry(
        &self,
        raw: &[u8; 8],
        name: Vec<u8>,
        (block, base): (u64, u32),
        (at, end): (u64, u64),
    ) -> Result<Entry> {
        let bad = || -> Errno { self.corrupt("bad entry of a directory") };
        let kind = kind_of(u16_at(raw, 4)).ok_or_else(bad)?;
        let is_name = !name.contains(&b'/') && !name.contains(&0);
        if !is_name || name == b"." || name == b".." {
            return Err(bad());
        }
        // The difference may be negative.
        let ino = base.wrapping_add_signed(i32::from(u16_at(raw, 2) as i16));
        let reference = block << 16 | u64::from(u16_at(raw, 0));
        Ok(Entry { at, end, name, kind, ino, reference })
    }
}
