//! Changes of directories and of what inodes say, on memory and on the disk.

use std::ffi::{CStr, CString};
use std::mem::zeroed;

use crate::meter::{Cost, Failure, each, each_by, now_ns, time_ns};
use crate::rows::Rows;
use crate::scratch::{EXT4, Place, Scratch, TMPFS};
use crate::sys::{Child, closes, ok};

/// Adds the group's rows.
pub fn add(rows: &mut Rows) {
    for place in [TMPFS, EXT4] {
        births(place, rows);
        names(place, rows);
        directories(place, rows);
        attributes(place, rows);
    }
    rows.add(EXT4.row("fsync of a clean file"), || {
        let scratch = EXT4.scratch()?;
        let file = scratch.file("file", 4096)?;
        // SAFETY: no pointers.
        each_without_idling(300, || unsafe { libc::fsync(file.raw()) == 0 })
    });
    rows.add(EXT4.row("write 4 KiB+fsync"), || {
        let scratch = EXT4.scratch()?;
        let (file, block) = (scratch.file("file", 4096)?, [1u8; 4096]);
        // SAFETY: the block is as long as stated.
        each_without_idling(300, || unsafe {
            libc::pwrite(file.raw(), block.as_ptr().cast(), 4096, 0) == 4096
                && libc::fsync(file.raw()) == 0
        })
    });
}

fn births(place: Place, rows: &mut Rows) {
    rows.add(place.row("create+unlink"), move || creates(place, 1_800, &[]));
    rows.add(place.row("create+write 10 KiB+unlink"), move || creates(place, 900, &[7; 10 * 1024]));
    // SAFETY: valid C strings.
    unsafe {
        rows.add(place.row("mkdir+rmdir"), move || {
            let scratch = place.scratch()?;
            let path = scratch.path("new");
            each(1_800 / place.slowness, || {
                libc::mkdir(path.as_ptr(), 0o755) == 0 && libc::rmdir(path.as_ptr()) == 0
            })
        });
        rows.add(place.row("symlink+unlink"), move || {
            let scratch = place.scratch()?;
            let path = scratch.path("new");
            each(1_800 / place.slowness, || {
                libc::symlink(c"/usr".as_ptr(), path.as_ptr()) == 0
                    && libc::unlink(path.as_ptr()) == 0
            })
        });
    }
}

fn creates(place: Place, count: u64, data: &[u8]) -> Cost {
    let scratch = place.scratch()?;
    let path = scratch.path("new");
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    // SAFETY: a valid C string, and data as long as stated.
    each(count / place.slowness, || unsafe {
        let fd = libc::open(path.as_ptr(), flags, 0o644);
        let len = data.len();
        let is_written =
            data.is_empty() || libc::write(fd, data.as_ptr().cast(), len) == len as isize;
        closes(fd) && is_written && libc::unlink(path.as_ptr()) == 0
    })
}

fn names(place: Place, rows: &mut Rows) {
    /// Two paths of which the first is a file.
    fn pair(place: Place) -> Result<(Scratch, [CString; 2]), Failure> {
        let scratch = place.scratch()?;
        scratch.file("old", 100)?;
        let paths = [scratch.path("old"), scratch.path("new")];
        Ok((scratch, paths))
    }
    // SAFETY: valid C strings.
    unsafe {
        rows.add(place.row("rename"), move || {
            let (_scratch, [old, new]) = pair(place)?;
            each(1_500 / place.slowness, || {
                libc::rename(old.as_ptr(), new.as_ptr()) == 0
                    && libc::rename(new.as_ptr(), old.as_ptr()) == 0
            })
        });
        rows.add(place.row("link+unlink"), move || {
            let (_scratch, [old, new]) = pair(place)?;
            each(2_200 / place.slowness, || {
                libc::link(old.as_ptr(), new.as_ptr()) == 0 && libc::unlink(new.as_ptr()) == 0
            })
        });
    }
}

fn directories(place: Place, rows: &mut Rows) {
    for (entries, count) in [(10, 1_800), (1000, 50)] {
        rows.add(place.row(&format!("list {entries} entries")), move || {
            let scratch = place.scratch()?;
            for index in 0..entries {
                scratch.file(&format!("an-entry-{index}"), 0)?;
            }
            let root = scratch.root();
            each(count, || lists(&root))
        });
    }
}

/// Reads a directory from its beginning to its end: whether that worked.
#[inline(always)]
pub fn lists(path: &CStr) -> bool {
    let mut room = [0u64; 4096];
    // SAFETY: a valid C string, and room as stated.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
        let mut last = 1;
        while last > 0 {
            last = libc::syscall(libc::SYS_getdents64, fd, room.as_mut_ptr(), size_of_val(&room));
        }
        closes(fd) && last == 0
    }
}

fn attributes(place: Place, rows: &mut Rows) {
    // SAFETY: valid C strings, and times that outlive the calls.
    unsafe {
        rows.add(place.row("truncate"), move || {
            let scratch = place.scratch()?;
            let file = scratch.file("file", 100)?;
            each(6_000 / place.slowness, || {
                libc::ftruncate(file.raw(), 1 << 16) == 0 && libc::ftruncate(file.raw(), 0) == 0
            })
        });
        rows.add(place.row("chmod"), move || {
            let scratch = place.scratch()?;
            scratch.file("file", 100)?;
            let (path, mut mode) = (scratch.path("file"), 0o600);
            each(5_000, || {
                mode ^= 0o044;
                libc::chmod(path.as_ptr(), mode) == 0
            })
        });
        rows.add(place.row("utimensat"), move || {
            let scratch = place.scratch()?;
            scratch.file("file", 100)?;
            let path = scratch.path("file");
            let mut times: [libc::timespec; 2] = zeroed();
            each(5_000, || {
                times[1].tv_sec += 1;
                libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), 0) == 0
            })
        });
    }
}

/// As [`each`] for operations that wait for the disk, which has no speed that instructions could
/// count: the time in which the processor had nothing else to do is left out. A child process of the
/// lowest priority uses that time up and so knows its length; it also keeps the guest's clock from
/// leaping ahead.
fn each_without_idling(count: u64, operation: impl FnMut() -> bool) -> Cost {
    let idler = Child::start(|| {
        // SAFETY: the parameters are there.
        unsafe {
            let parameters: libc::sched_param = zeroed();
            libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters);
        }
        loop {
            std::hint::spin_loop();
        }
    })?;
    let mut idle = 0;
    // SAFETY: the clock is there.
    ok("clock_getcpuclockid", unsafe { libc::clock_getcpuclockid(idler.pid(), &mut idle) })?;
    each_by(|| now_ns() - time_ns(idle), count, operation)
}
