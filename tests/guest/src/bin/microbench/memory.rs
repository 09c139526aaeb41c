//! Mappings: made, changed and removed.

use std::ffi::c_void;

use crate::area::{ANONYMOUS, Area, MIB, PAGE, RW, maps};
use crate::meter::{Cost, begin, each, end, rounds};
use crate::rows::Rows;
use crate::scratch::TMPFS;
use crate::sys::sure;

/// Bytes of the area that most rows are about.
const LEN: usize = 16 * PAGE;

/// Adds the group's rows about calls; page faults are in `faults`.
pub fn add(rows: &mut Rows) {
    maps_and_unmaps(rows);
    protections(rows);
    contents(rows);
    moves(rows);
    queries(rows);
}

fn maps_and_unmaps(rows: &mut Rows) {
    rows.add("mmap+munmap 64 KiB", || each(2_500, || maps(LEN, RW, ANONYMOUS, -1)));
    rows.add("mmap+munmap 64 MiB", || each(2_200, || maps(64 * MIB, RW, ANONYMOUS, -1)));
    rows.add("mmap+touch+munmap 1 MiB", || {
        each(30, || Area::filled(MIB).is_ok_and(|area| area.len() == MIB))
    });
    rows.add("mmap populate+munmap 1 MiB", || {
        each(30, || maps(MIB, RW, ANONYMOUS | libc::MAP_POPULATE, -1))
    });
    rows.add("mmap+munmap among 1000", || {
        let neighbours = Area::anonymous(2000 * PAGE)?;
        for page in (0..2000).step_by(2) {
            protect(&neighbours, page * PAGE, PAGE, libc::PROT_NONE);
        }
        each(1_800, || maps(LEN, RW, ANONYMOUS, -1))
    });
}

/// `mprotect(2)` of a part: whether it worked.
#[inline(always)]
fn protect(area: &Area, offset: usize, len: usize, protection: i32) -> bool {
    // SAFETY: only our own memory.
    unsafe { libc::mprotect(area.start().add(offset).cast(), len, protection) == 0 }
}

fn protections(rows: &mut Rows) {
    for (name, len, count) in [
        ("mprotect 4 KiB", PAGE, 5_000),
        ("mprotect 64 KiB", LEN, 2_800),
        ("mprotect 1 MiB", MIB, 360),
    ] {
        rows.add(name, move || {
            let area = Area::filled(len)?;
            each(count, || protect(&area, 0, len, libc::PROT_READ) && protect(&area, 0, len, RW))
        });
    }
    rows.add("mprotect in the middle", || {
        let area = Area::filled(LEN)?;
        each(1_700, || {
            protect(&area, 4 * PAGE, PAGE, libc::PROT_READ) && protect(&area, 4 * PAGE, PAGE, RW)
        })
    });
    rows.add("mlock+munlock 64 KiB", || {
        let area = Area::filled(LEN)?;
        // SAFETY: only our own memory.
        each(900, || unsafe {
            libc::mlock(area.address(), LEN) == 0 && libc::munlock(area.address(), LEN) == 0
        })
    });
}

fn contents(rows: &mut Rows) {
    rows.add("madvise DONTNEED+touch", || {
        let area = Area::filled(LEN)?;
        each(4_800, || {
            let is_dropped = area.advise(libc::MADV_DONTNEED);
            // SAFETY: inside the mapping.
            unsafe { area.start().write_volatile(1) };
            is_dropped
        })
    });
    rows.add("madvise DONTNEED 1 MiB", || {
        let area = Area::anonymous(MIB)?;
        rounds(30, 1, || {
            area.write();
            let start = begin();
            let is_dropped = area.advise(libc::MADV_DONTNEED);
            let elapsed_ns = end(start);
            sure("madvise", is_dropped)?;
            Ok(elapsed_ns)
        })
    });
    rows.add("msync 1 MiB", || {
        let scratch = TMPFS.scratch()?;
        let file = scratch.file("file", MIB)?;
        let area = Area::of_file(MIB, RW, libc::MAP_SHARED, &file)?;
        area.write();
        // SAFETY: only our own memory.
        each(50_000, || unsafe { libc::msync(area.address(), MIB, libc::MS_SYNC) == 0 })
    });
    // SAFETY: the memory above the old end belongs to nobody: nothing is allocated in between.
    unsafe {
        rows.add("brk grow+shrink 64 KiB", || {
            let end = libc::sbrk(0);
            each(2_000, || libc::brk(end.byte_add(LEN)) == 0 && libc::brk(end) == 0)
        });
    }
}

fn moves(rows: &mut Rows) {
    rows.add("mremap grow+shrink", || {
        let area = Area::filled(LEN)?;
        // SAFETY: nothing is above the area.
        each(1_800, || unsafe {
            libc::mremap(area.address(), LEN, 2 * LEN, 0) == area.address()
                && libc::mremap(area.address(), 2 * LEN, LEN, 0) == area.address()
        })
    });
    rows.add("mremap move 1 MiB", || mremap_move(700));
}

/// Moves touched memory to another place and back.
fn mremap_move(count: u64) -> Cost {
    let area = Area::filled(MIB)?;
    let (here, there) = (area.address(), area.address().wrapping_byte_add(16 * MIB));
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: nothing is in the other place.
    let shift = |from: *mut c_void, to: *mut c_void| unsafe {
        libc::mremap(from, MIB, MIB, flags, to) == to
    };
    each(count, || shift(here, there) && shift(there, here))
}

fn queries(rows: &mut Rows) {
    rows.add("mincore 1 MiB", || {
        let (area, mut present) = (Area::filled(MIB)?, [0u8; MIB / PAGE]);
        // SAFETY: a byte for every page.
        each(4_000, || unsafe {
            libc::mincore(area.address(), MIB, present.as_mut_ptr()) == 0 && present[255] == 1
        })
    });
}
