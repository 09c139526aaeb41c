//! Reading directories, `getdents(2)`.

use crate::Cx;
use crate::fsctx::*;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;

crate::syscalls! {
    78 getdents => sys_getdents(fd: Fd, buf: Hex, count: Dec);
    217 getdents64 => sys_getdents64(fd: Fd, buf: Hex, count: Dec);
}

/// Packs directory entries into user memory.
struct Records {
    at: VirtAddr,
    left: usize,
    done: usize,
    error: Option<Errno>,
    wide: bool,
}

impl vfs::DirSink for Records {
    fn emit(&mut self, entry: &vfs::DirEntry<'_>) -> bool {
        // `struct linux_dirent64` has the type before the name; the old one has it at the end.
        let head = if self.wide { 19 } else { 18 };
        let need = (head + entry.name.len() + 1 + usize::from(!self.wide)).next_multiple_of(8);
        if need > self.left {
            if self.done == 0 {
                self.error = Some(Errno::EINVAL);
            }
            return false;
        }
        let mut record = [0u8; 19 + 256 + 8 + 2];
        let Some(record) = record.get_mut(..need) else { return false };
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(room) = record.get_mut(at..at + bytes.len()) {
                room.copy_from_slice(bytes);
            }
        };
        put(0, &entry.ino.to_le_bytes());
        put(8, &entry.next.to_le_bytes());
        put(16, &(need as u16).to_le_bytes());
        if self.wide {
            put(18, &[entry.kind]);
        } else {
            put(need - 1, &[entry.kind]);
        }
        put(head, entry.name);
        if user::copy_to_user(self.at, record).is_err() {
            self.error = Some(Errno::EFAULT);
            return false;
        }
        self.at = self.at.wrapping_add(need as u64);
        self.left -= need;
        self.done += need;
        true
    }
}

fn getdents(cx: &Cx<'_>, fd: i32, buf: VirtAddr, count: u32, wide: bool) -> Result<usize> {
    let file = file(cx, fd)?;
    // A number with a sign: what is too large has room for nothing.
    let left = i32::try_from(count).map_or(0, |count| count as usize);
    let mut records = Records { at: buf, left, done: 0, error: None, wide };
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
