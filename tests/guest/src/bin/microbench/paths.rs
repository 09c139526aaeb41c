//! Walks along paths, on memory and on the disk.

use std::ffi::CStr;
use std::mem::zeroed;

use crate::meter::{Cost, Failure, each, errno};
use crate::rows::Rows;
use crate::scratch::{EXT4, Place, Scratch, TMPFS};
use crate::sys::{Fd, closes};

/// Below the scratch directory, which is three components deep.
const DEEP_8: &str = "4/5/6/7/file";
const DEEP_16: &str = "4/5/6/7/8/9/10/11/12/13/14/15/file";
/// Symbolic links that lead to each other.
const CHAIN: usize = 8;

/// Adds the group's rows.
pub fn add(rows: &mut Rows) {
    [TMPFS, EXT4].into_iter().for_each(|place| on(place, rows));
    anywhere(rows);
}

fn on(place: Place, rows: &mut Rows) {
    let mut add = |what: &str, name: &'static str, operation: fn(&CStr) -> bool, count| {
        rows.add(place.row(what), move || walk(place, name, operation, count));
    };
    add("open+close", "file", opens, 4_600);
    add("stat", "file", stats, 7_000);
    add("stat of a missing file", "missing", is_missing, 6_000);
    add("stat, 8 deep", DEEP_8, stats, 5_600);
    add("stat, 16 deep", DEEP_16, stats, 3_800);
    add("stat through a symlink", "link-0", stats, 6_000);
    add("stat through 8 symlinks", "link-7", stats, 3_400);
    add("access", "file", has_access, 6_600);
    add("readlink", "link-0", reads_link, 7_600);
    // SAFETY: the buffers outlive the calls.
    unsafe {
        rows.add(place.row("fstat"), move || {
            let scratch = place.scratch()?;
            let (file, mut stat) = (scratch.file("file", 100)?, zeroed());
            each(12_000, || libc::fstat(file.raw(), &mut stat) == 0)
        });
        rows.add(place.row("fstatat"), move || {
            let scratch = place.scratch()?;
            let (_file, mut stat) = (scratch.file("file", 100)?, zeroed());
            let at = Fd::open(&scratch.root(), libc::O_PATH)?;
            each(10_000, || libc::fstatat(at.raw(), c"file".as_ptr(), &mut stat, 0) == 0)
        });
    }
}

fn walk(place: Place, name: &str, operation: fn(&CStr) -> bool, count: u64) -> Cost {
    let scratch = tree(place)?;
    let path = scratch.path(name);
    each(count, || operation(&path))
}

/// A directory with all that the paths lead along.
fn tree(place: Place) -> Result<Scratch, Failure> {
    let scratch = place.scratch()?;
    for file in [DEEP_8, DEEP_16] {
        scratch.directory(file.trim_end_matches("/file"))?;
        scratch.file(file, 100)?;
    }
    scratch.file("file", 100)?;
    scratch.link("link-0", "file")?;
    for index in 1..CHAIN {
        scratch.link(&format!("link-{index}"), &format!("link-{}", index - 1))?;
    }
    Ok(scratch)
}

fn opens(path: &CStr) -> bool {
    // SAFETY: a valid C string.
    closes(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) })
}

fn stats(path: &CStr) -> bool {
    // SAFETY: a valid C string and room for the result.
    unsafe {
        let mut stat: libc::stat = zeroed();
        libc::stat(path.as_ptr(), &mut stat) == 0
    }
}

fn is_missing(path: &CStr) -> bool {
    !stats(path) && errno() == libc::ENOENT
}

fn has_access(path: &CStr) -> bool {
    // SAFETY: a valid C string.
    unsafe { libc::access(path.as_ptr(), libc::R_OK) == 0 }
}

fn reads_link(path: &CStr) -> bool {
    let mut room = [0u8; 64];
    // SAFETY: a valid C string and room as stated.
    unsafe { libc::readlink(path.as_ptr(), room.as_mut_ptr().cast(), room.len()) == 4 }
}

fn anywhere(rows: &mut Rows) {
    rows.add("stat, eight components", || {
        each(5_000, || stats(c"/usr/../usr/lib/../lib/../lib/../bin"))
    });
    // SAFETY: valid C strings, and room as stated.
    unsafe {
        rows.add("getcwd", || {
            let mut room = [0; 4096];
            each(22_000, || !libc::getcwd(room.as_mut_ptr(), room.len()).is_null())
        });
        rows.add("chdir", || each(10_000, || libc::chdir(c"/usr/lib".as_ptr()) == 0));
    }
}
