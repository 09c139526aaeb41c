//! What the kernel tells of itself, in files of `/proc`, and directories that all systems have.

use std::ffi::CStr;

use crate::files::lists;
use crate::meter::{Cost, each};
use crate::rows::Rows;
use crate::sys::Fd;

/// Adds the group's rows.
pub fn add(rows: &mut Rows) {
    for (name, path, count) in [
        ("read /proc/self/stat", c"/proc/self/stat", 1_500),
        ("read /proc/self/status", c"/proc/self/status", 800),
        ("read /proc/self/maps", c"/proc/self/maps", 1_000),
        ("read /proc/meminfo", c"/proc/meminfo", 1_100),
        ("read /proc/stat", c"/proc/stat", 1_400),
    ] {
        rows.add(name, move || reads(path, count));
    }
    rows.add("list /proc", || each(400, || lists(c"/proc")));
    rows.add("list /proc/self/fd", || each(2_000, || lists(c"/proc/self/fd")));
    rows.add("list /usr", || each(1_150, || lists(c"/usr")));
    rows.add("readlink /proc/self/exe", || {
        let mut room = [0u8; 256];
        // SAFETY: a valid C string and room as stated.
        each(4_500, || unsafe {
            let path = c"/proc/self/exe".as_ptr();
            libc::readlink(path, room.as_mut_ptr().cast(), room.len()) > 0
        })
    });
}

/// Opens a file and reads it to its end.
fn reads(path: &CStr, count: u64) -> Cost {
    let mut room = vec![0u8; 1 << 16];
    each(count, || {
        let Ok(file) = Fd::open(path, libc::O_RDONLY) else {
            return false;
        };
        let mut total = 0;
        loop {
            let len = file.take_some(&mut room);
            total += len;
            if len <= 0 {
                return len == 0 && total > 0;
            }
        }
    })
}
