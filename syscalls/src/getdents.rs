//! Reading directories, `getdents(2)`.

use alloc::vec;

use crate::Cx;
use crate::fsctx::*;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;

crate::syscalls! {
    78 getdents => sys_getdents(fd: Fd, buf: Hex, count: Dec);
    217 getdents64 => sys_getdents64(fd: Fd, buf: Hex, count: Dec);
}

/// Bytes before the name in `struct linux_dirent64`; the old one has the type at its end.
const HEAD: usize = 19;
/// The longest record: a name with its zero, the old one's type, and up to a multiple of eight.
const LONGEST: usize = (HEAD + 256 + 1).next_multiple_of(8);

/// Packs directory entries into user memory.
struct Records {
    at: VirtAddr,
    left: usize,
    done: usize,
    error: Option<Errno>,
    wide: bool,
    /// The record at hand.
    record: [u8; LONGEST],
}

/// Puts a field into a record.
#[inline(always)]
fn put<const LEN: usize>(record: &mut [u8], at: usize, bytes: [u8; LEN]) {
    if let Some(field) = record.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = bytes;
    }
}

/// Lays a record out in the bytes that there are; its length.
#[inline(always)]
fn pack(record: &mut [u8], wide: bool, entry: &vfs::DirEntry<'_>) -> Option<usize> {
    let head = if wide { HEAD } else { HEAD - 1 };
    let end = head + entry.name.len();
    let need = (end + 1 + usize::from(!wide)).next_multiple_of(8);
    let record = record.get_mut(..need)?;
    put(record, 0, entry.ino.to_le_bytes());
    put(record, 8, entry.next.to_le_bytes());
    put(record, 16, (need as u16).to_le_bytes());
    put(record, 18, [entry.kind]);
    record.get_mut(head..end)?.copy_from_slice(entry.name);
    record.get_mut(end..)?.fill(0);
    if !wide {
        put(record, need - 1, [entry.kind]);
    }
    Some(need)
}

impl Records {
    /// Takes an entry whose name is longer than those of most file systems can be.
    #[cold]
    fn emit_long(&mut self, entry: &vfs::DirEntry<'_>) -> bool {
        let mut record = vec![0; entry.name.len() + 2 * HEAD];
        let Some(need) = pack(&mut record, self.wide, entry) else { return false };
        self.give(need, Some(&record))
    }

    /// Passes the first `need` bytes of a record on, if there is room: of `long`, or of that at hand.
    #[inline(always)]
    fn give(&mut self, need: usize, long: Option<&[u8]>) -> bool {
        if need > self.left {
            if self.done == 0 {
                self.error = Some(Errno::EINVAL);
            }
            return false;
        }
        let record = long.unwrap_or(&self.record);
        if user::copy_to_user(self.at, record.get(..need).unwrap_or_default()).is_err() {
            self.error = Some(Errno::EFAULT);
            return false;
        }
        self.at = self.at.wrapping_add(need as u64);
        self.left -= need;
        self.done += need;
        true
    }
}

impl vfs::DirSink for Records {
    fn emit(&mut self, entry: &vfs::DirEntry<'_>) -> bool {
        match pack(&mut self.record, self.wide, entry) {
            Some(need) => self.give(need, None),
            None => self.emit_long(entry),
        }
    }
}

fn getdents(cx: &Cx<'_>, fd: i32, buf: VirtAddr, count: u32, wide: bool) -> Result<usize> {
    let file = file(cx, fd)?;
    // A number with a sign: what is too large has room for nothing.
    let left = i32::try_from(count).map_or(0, |count| count as usize);
    let mut records = Records { at: buf, left, done: 0, error: None, wide, record: [0; LONGEST] };
    vfs::rw::read_dir(&file, &mut records)?;
    match records.error {
        Some(error) if records.done == 0 => Err(error),
        _ => Ok(records.done),
    }
}

/// `getdents(2)`.
fn sys_getdents(cx: &mut Cx<'_>, fd: i32, buf: VirtAddr, count: u32) -> Result<usize> {
    getdents(cx, fd, buf, count, false)
}

/// `getdents64(2)`.
fn sys_getdents64(cx: &mut Cx<'_>, fd: i32, buf: VirtAddr, count: u32) -> Result<usize> {
    getdents(cx, fd, buf, count, true)
}
