//! Contents of files that are in memory, on memory and on the disk.

use std::ptr;

use crate::area::{MIB, PAGE};
use crate::meter::{Cost, each};
use crate::rows::Rows;
use crate::scratch::{EXT4, Place, TMPFS};
use crate::sys::{Fd, Pipe};

/// Bytes that the calls move that go from file to file.
const LEN: usize = 64 << 10;

/// Adds the group's rows.
pub fn add(rows: &mut Rows) {
    for place in [TMPFS, EXT4] {
        blocks(place, rows);
        rows.add(place.row("append 4 KiB"), move || append(place));
        rows.add(place.row("sendfile 64 KiB"), move || sendfile(place));
        rows.add(place.row("splice 64 KiB"), move || splice(place));
        rows.add(place.row("copy_file_range 64 KiB"), move || copy_file_range(place));
    }
}

fn blocks(place: Place, rows: &mut Rows) {
    for (name, len, count) in
        [("1 B", 1, 24_000), ("4 KiB", PAGE, 18_000), ("64 KiB", LEN, 2_000), ("1 MiB", MIB, 120)]
    {
        // SAFETY: the buffer has room for the length.
        unsafe {
            rows.add(place.row(&format!("pread {name}")), move || {
                let scratch = place.scratch()?;
                let (file, mut data) = (scratch.file("file", MIB)?, vec![0u8; MIB]);
                each(count, || {
                    libc::pread(file.raw(), data.as_mut_ptr().cast(), len, 0) == len as isize
                })
            });
            rows.add(place.row(&format!("pwrite {name}")), move || {
                let scratch = place.scratch()?;
                let (file, data) = (scratch.file("file", MIB)?, vec![1u8; MIB]);
                each(count * 2 / 3, || {
                    libc::pwrite(file.raw(), data.as_ptr().cast(), len, 0) == len as isize
                })
            });
        }
    }
}

fn append(place: Place) -> Cost {
    let scratch = place.scratch()?;
    scratch.file("file", 0)?;
    let file = Fd::open(&scratch.path("file"), libc::O_WRONLY | libc::O_APPEND)?;
    let block = [1u8; PAGE];
    each(4_000, || file.put_all(&block))
}

/// From a file over the beginning of another.
fn sendfile(place: Place) -> Cost {
    let scratch = place.scratch()?;
    let (from, to) = (scratch.file("from", LEN)?, scratch.file("to", LEN)?);
    // SAFETY: the offset is there.
    each(1_000, || unsafe {
        let mut offset = 0;
        libc::lseek(to.raw(), 0, libc::SEEK_SET) == 0
            && libc::sendfile(to.raw(), from.raw(), &mut offset, LEN) == LEN as isize
    })
}

/// From a file through a pipe to nowhere.
fn splice(place: Place) -> Cost {
    let scratch = place.scratch()?;
    let (from, to) = (scratch.file("from", LEN)?, Fd::open(c"/dev/null", libc::O_WRONLY)?);
    let (pipe, here) = (Pipe::new()?, ptr::null_mut());
    // SAFETY: the offset is there.
    each(3_500, || unsafe {
        let mut offset = 0;
        let len = LEN as isize;
        libc::splice(from.raw(), &mut offset, pipe.to.raw(), here, LEN, 0) == len
            && libc::splice(pipe.from.raw(), here, to.raw(), here, LEN, 0) == len
    })
}

/// From one file to another of the same file system.
fn copy_file_range(place: Place) -> Cost {
    let scratch = place.scratch()?;
    let (from, to) = (scratch.file("from", LEN)?, scratch.file("to", LEN)?);
    // SAFETY: the offsets are there.
    each(1_000, || unsafe {
        let (mut source, mut target) = (0, 0);
        let len = LEN as isize;
        libc::copy_file_range(from.raw(), &mut source, to.raw(), &mut target, LEN, 0) == len
    })
}
