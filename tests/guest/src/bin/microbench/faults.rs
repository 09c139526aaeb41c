//! Page faults. A figure is what the first touch of one page costs.

use crate::area::{ANONYMOUS, Area, MIB, PAGE, RW};
use crate::meter::{Cost, begin, end, rounds};
use crate::rows::Rows;
use crate::scratch::{EXT4, Place, TMPFS};
use crate::sys::{Child, ok, sure};

/// Pages of a huge page.
const HUGE: u64 = 512;

/// How pages are touched.
type Touch = fn(&Area);

/// Adds the rows about page faults to the group of memory.
pub fn add(rows: &mut Rows) {
    rows.add("anonymous page fault", || anonymous(MIB, 40, Area::write, None));
    rows.add("anonymous read fault", || anonymous(MIB, 80, Area::read, None));
    rows.add("anonymous fault, large area", || anonymous(16 * MIB, 6, Area::write, None));
    rows.add("anonymous fault, 4 KiB pages", || {
        anonymous(16 * MIB, 5, Area::write, Some(libc::MADV_NOHUGEPAGE))
    });
    rows.add("huge-page fault", || {
        let advice = Some(libc::MADV_HUGEPAGE);
        anonymous(16 * MIB, 7, Area::write, advice).map(|cost_ns| cost_ns * HUGE as f64)
    });
    rows.add("copy-on-write fault", copy_on_write);
    for place in [TMPFS, EXT4] {
        let add = |rows: &mut Rows, what, count, protection, flags, touch: Touch| {
            rows.add(place.row(what), move || file(place, count, protection, flags, touch));
        };
        let (private, shared) = (libc::MAP_PRIVATE, libc::MAP_SHARED);
        add(rows, "file page fault", 200, libc::PROT_READ, private, Area::read);
        add(rows, "shared write fault", 40, RW, shared, Area::write);
        add(rows, "private write fault", 30, RW, private, Area::write);
    }
}

/// Touches new memory `count` times.
fn anonymous(len: usize, count: usize, touch: Touch, advice: Option<i32>) -> Cost {
    rounds(count, (len / PAGE) as u64, || {
        let area = Area::at(0, len, RW, ANONYMOUS, -1)?;
        sure("madvise", advice.is_none_or(|advice| area.advise(advice)))?;
        Ok(touched(&area, touch))
    })
}

/// How long touching every page takes.
#[inline(always)]
fn touched(area: &Area, touch: Touch) -> u64 {
    let start = begin();
    touch(area);
    end(start)
}

/// Writes what a child process shares, which waits.
fn copy_on_write() -> Cost {
    let area = Area::filled(MIB)?;
    rounds(30, area.pages() as u64, || {
        let child = Child::start(|| {
            // SAFETY: no pointers.
            unsafe { libc::pause() };
            false
        })?;
        let elapsed_ns = touched(&area, Area::write);
        // Signal 0 only asks: the pages were shared all the time.
        // SAFETY: no pointers.
        ok("kill", unsafe { libc::kill(child.pid(), 0) })?;
        Ok(elapsed_ns)
    })
}

/// Touches a mapped file that is in memory.
fn file(place: Place, count: usize, protection: i32, flags: i32, touch: Touch) -> Cost {
    let scratch = place.scratch()?;
    let file = scratch.file("file", MIB)?;
    rounds(count, (MIB / PAGE) as u64, || {
        let area = Area::of_file(MIB, protection, flags, &file)?;
        Ok(touched(&area, touch))
    })
}
