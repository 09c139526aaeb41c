//! `lseek(2)`.

use abi::fcntl::*;
use abi::{Errno, Result};

use crate::file::{File, FileMode};

/// `lseek(2)`: moves the position.
pub fn lseek(file: &File, offset: i64, whence: u32) -> Result<u64> {
    if whence > SEEK_HOLE {
        return Err(Errno::EINVAL);
    }
    if !file.mode().contains(FileMode::SEEK) {
        return Err(Errno::ESPIPE);
    }
    let mut position = file.position().lock();
    let to = file.ops().seek(file, position.get(), offset, whence)?;
    position.set(to);
    Ok(to)
}

/// Seeking in a file of known size that has no holes as far as this function knows.
pub fn generic_seek(file: &File, current: u64, offset: i64, whence: u32) -> Result<u64> {
    let inode = file.inode();
    seek_within(current, offset, whence, inode.size(), inode.sb().max_file_size)
}

/// Seeking with a given size and largest position.
pub fn seek_within(current: u64, offset: i64, whence: u32, size: u64, max: u64) -> Result<u64> {
    let base = match whence {
        SEEK_SET => 0,
        SEEK_CUR => current,
        SEEK_END => size,
        SEEK_DATA | SEEK_HOLE => {
            if offset < 0 || offset as u64 >= size {
                return Err(Errno::ENXIO);
            }
            return Ok(if whence == SEEK_DATA { offset as u64 } else { size });
        }
        _ => return Err(Errno::EINVAL),
    };
    let target = (base as i64).checked_add(offset).ok_or(Errno::EINVAL)?;
    if target < 0 || target as u64 > max {
        return Err(Errno::EINVAL);
    }
    Ok(target as u64)
}

/// Seeking in a directory whose cursors are numbers of the file system: `SEEK_SET` and `SEEK_CUR`.
pub fn seek_cursor(current: u64, offset: i64, whence: u32) -> Result<u64> {
    let target = match whence {
        SEEK_SET => offset,
        SEEK_CUR => (current as i64).checked_add(offset).ok_or(Errno::EINVAL)?,
        _ => return Err(Errno::EINVAL),
    };
    u64::try_from(target).map_err(|_| Errno::EINVAL)
}
