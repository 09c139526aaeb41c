//! Extended attributes (squashfs binary format, "The Xattr Table").

use alloc::vec::Vec;

use abi::{Errno, Result};

use crate::layout::{u16_at, u32_at, u64_at};
use crate::volume::Volume;

/// The value is elsewhere: its place is stored.
const ELSEWHERE: u16 = 0x100;
const PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// xattr(7): names have 255 bytes at most, values 64 KiB.
const MAX_NAME: usize = 255;
const MAX_VALUE: usize = 1 << 16;

/// Whether attributes of this kind can be there.
pub(crate) fn is_stored(name: &[u8]) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Where the attributes of a file are, and how many.
struct Set {
    reference: u64,
    count: u32,
    /// Bytes of names and values.
    len: u32,
}

impl Volume {
    fn set(&self, index: u32) -> Result<(u64, Set)> {
        let table = self.sb.xattr_table.ok_or(Errno::ENODATA)?;
        let mut head = [0; 16];
        let end = table.checked_add(16).filter(|end| *end <= self.sb.bytes_used);
        end.ok_or_else(|| self.corrupt("the table of attributes is behind the end"))?;
        self.device.read_at(table, &mut head)?;
        if index >= u32_at(&head, 8) {
            return Err(self.corrupt("a file has attributes that are not there"));
        }
        let entry = self.table_entry::<16>(table + 16, index.into())?;
        let (count, len) = (u32_at(&entry, 8), u32_at(&entry, 12));
        let set = Set { reference: u64_at(&entry, 0), count, len };
        Ok((u64_at(&head, 0), set))
    }

    /// Calls `act` with each name, until it wants that one's value, which is returned.
    fn search(&self, index: u32, mut act: impl FnMut(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let (start, set) = self.set(index)?;
        let mut cursor = self.cursor(self.place(start, set.reference)?);
        for _ in 0..set.count {
            let key = cursor.take::<4>()?;
            let kind = u16_at(&key, 0);
            let rest = cursor.bytes(u16_at(&key, 2).into(), MAX_NAME)?;
            let value_len = u32_at(&cursor.take::<4>()?, 0) as usize;
            let is_wanted = match PREFIXES.get(usize::from(kind & !ELSEWHERE)) {
                Some(prefix) => act(&[prefix, rest.as_slice()].concat()),
                None => false,
            };
            if !is_wanted {
                cursor.skip(value_len.min(MAX_VALUE))?;
                continue;
            }
            if kind & ELSEWHERE == 0 {
                return cursor.bytes(value_len, MAX_VALUE).map(Some);
            }
            let reference = u64_at(&cursor.take::<8>()?, 0);
            let mut value = self.cursor(self.place(start, reference)?);
            let len = u32_at(&value.take::<4>()?, 0) as usize;
            return value.bytes(len, MAX_VALUE).map(Some);
        }
        Ok(None)
    }

    /// Blocks of 512 bytes that the attributes of a file take.
    pub(crate) fn attribute_blocks(&self, index: u32) -> Result<u64> {
        match self.sb.xattr_table {
            Some(_) => Ok(u64::from(self.set(index)?.1.len).div_ceil(512)),
            None => Ok(0),
        }
    }

    /// The value of an attribute; `ENODATA` if the file has none of this name.
    pub(crate) fn attribute(&self, index: u32, name: &[u8]) -> Result<Vec<u8>> {
        self.search(index, |found| found == name)?.ok_or(Errno::ENODATA)
    }

    /// Appends the names of all attributes, each with a NUL.
    pub(crate) fn attribute_names(&self, index: u32, names: &mut Vec<u8>) -> Result<()> {
        // Damage does not make it longer than listxattr(2) can tell.
        const MOST: usize = 1 << 16;
        self.search(index, |name| {
            if names.len() < MOST {
                names.extend_from_slice(name);
                names.push(0);
            }
            names.len() >= MOST
        })?;
        Ok(())
    }
}
