//! The areas of a program: `maps`, `smaps`, `smaps_rollup`.

use crate::pid::{View, inspect};
use abi::Result;
use alloc::vec::Vec;
use pseudo::Put;
use vm::{MapInfo as Area, PageInfo, flag};

/// What most lines of `maps` need at most.
const LINE: usize = 100;

fn put_area(area: &Area, out: &mut Vec<u8>) {
    let bit = |bit: u32, letter| if area.prot & bit != 0 { letter } else { b'-' };
    let kind = if area.flags & flag::SHARED != 0 { b's' } else { b'p' };
    let about = &area.file;
    let name = about.path.as_bytes();
    let before = out.len();
    out.hex(area.start, 8).text("-").hex(area.end, 8);
    out.extend_from_slice(&[b' ', bit(1, b'r'), bit(2, b'w'), bit(4, b'x'), kind, b' ']);
    out.hex(area.offset, 8).text(" ").hex(about.dev.0, 2).text(":").hex(about.dev.1, 2);
    out.text(" ").dec(about.ino).text(" ");
    if !name.is_empty() {
        let width = 73usize.saturating_sub(out.len() - before);
        out.resize(out.len() + width, b' ');
        for (part, piece) in name.split(|byte| *byte == b'\n').enumerate() {
            if part > 0 {
                out.text("\\012");
            }
            out.extend_from_slice(piece);
        }
    }
    out.push(b'\n');
}

fn areas(view: &View) -> Result<Vec<Area>> {
    let Some(mm) = inspect(&view.task, || view.task.mm())? else { return Ok(Vec::new()) };
    let stack = view.task.group.layout().start_stack;
    let mut all = mm.maps(0, usize::MAX);
    // Of the areas that grow only the one that `execve` made has the name.
    let is_stack = |area: &&mut Area| {
        area.flags & flag::GROWS_DOWN != 0
            && area.is_anonymous
            && (area.start..=area.end).contains(&stack)
    };
    for area in all.iter_mut().filter(is_stack) {
        area.file.path = "[stack]".into();
    }
    Ok(all)
}

pub(crate) fn maps(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let all = areas(view)?;
    out.reserve(all.len() * LINE);
    for area in all {
        put_area(&area, out);
    }
    if view.task.mm().is_some() {
        put_area(&vsyscall(), out);
    }
    Ok(())
}

/// The vsyscall page belongs to no address space; its calls are emulated, so it can only be run.
fn vsyscall() -> Area {
    Area {
        start: process::trap::VSYSCALL_PAGE,
        end: process::trap::VSYSCALL_PAGE + 4096,
        prot: 4,
        is_anonymous: false,
        flags: 0,
        offset: 0,
        file: vm::Description { path: "[vsyscall]".into(), ..vm::Description::default() },
    }
}

/// A line `name:`, with the number up to column 24.
fn put_row(out: &mut Vec<u8>, name: &str, number: u64, unit: &str) {
    out.text(name).text(":").dec_in(number, 23usize.saturating_sub(name.len())).text(unit);
}

fn put_sizes(out: &mut Vec<u8>, pages: &PageInfo, locked: u64) {
    let shared = pages.rss - pages.private;
    let rows = [
        ("Rss", pages.rss * 4),
        ("Pss", pages.pss / 1024),
        ("Shared_Clean", (shared - pages.shared_dirty) * 4),
        ("Shared_Dirty", pages.shared_dirty * 4),
        ("Private_Clean", (pages.private - pages.private_dirty) * 4),
        ("Private_Dirty", pages.private_dirty * 4),
        ("Referenced", pages.referenced * 4),
        ("Anonymous", pages.anon * 4),
        ("LazyFree", 0),
        ("AnonHugePages", pages.huge * 4),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", locked / 1024),
    ];
    for (name, kib) in rows {
        put_row(out, name, kib, " kB\n");
    }
}

/// The two letters of each flag, in the order of proc(5).
fn put_flags(out: &mut Vec<u8>, area: &Area) {
    let has = |bit: u32| area.flags & bit != 0;
    let (is_shared, never_writes) = (has(flag::SHARED), has(flag::NEVER_WRITE));
    let letters = [
        (area.prot & 1 != 0, " rd"),
        (area.prot & 2 != 0, " wr"),
        (area.prot & 4 != 0, " ex"),
        (is_shared && !never_writes, " sh"),
        (true, " mr"),
        (!never_writes, " mw"),
        (true, " me"),
        (is_shared, " ms"),
        (has(flag::GROWS_DOWN), " gd"),
        (has(flag::LOCKED), " lo"),
        (has(flag::SEQUENTIAL), " sr"),
        (has(flag::RANDOM), " rr"),
        (has(flag::DONT_FORK), " dc"),
        (has(flag::VDSO | flag::VVAR), " de"),
        (has(flag::ACCOUNTED), " ac"),
        (has(flag::NO_RESERVE), " nr"),
        (has(flag::WIPE_ON_FORK), " wf"),
        (has(flag::DONT_DUMP), " dd"),
        (has(flag::HUGE), " hg"),
        (has(flag::NO_HUGE), " nh"),
    ];
    out.extend_from_slice(b"VmFlags:");
    letters
        .iter()
        .filter(|(is_set, _)| *is_set)
        .for_each(|(_, name)| out.extend_from_slice(name.as_bytes()));
    out.extend_from_slice(b" \n");
}

fn sizes(view: &View, area: &Area) -> PageInfo {
    view.task.mm().map(|mm| mm.page_info(area.start, area.end)).unwrap_or_default()
}

/// What of the area's share cannot leave memory, in 1/4096 pages.
fn locked(area: &Area, pages: &PageInfo) -> u64 {
    if area.flags & flag::LOCKED != 0 { pages.pss } else { 0 }
}

pub(crate) fn smaps(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let vsyscall = view.task.mm().is_some().then(vsyscall);
    for area in areas(view)?.into_iter().chain(vsyscall) {
        put_area(&area, out);
        let pages = sizes(view, &area);
        put_row(out, "Size", (area.end - area.start) / 1024, " kB\n");
        put_row(out, "KernelPageSize", 4, " kB\n");
        put_row(out, "MMUPageSize", 4, " kB\n");
        put_sizes(out, &pages, locked(&area, &pages));
        put_row(out, "THPeligible", u64::from(area.may_be_huge()), "\n");
        put_flags(out, &area);
    }
    Ok(())
}

pub(crate) fn smaps_rollup(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let all = areas(view)?;
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return Ok(()) };
    let (start, end) = (first.start, last.end);
    let before = out.len();
    out.hex(start, 8).text("-").hex(end, 8).text(" ---p 00000000 00:00 0 ");
    let width = 73usize.saturating_sub(out.len() - before);
    out.resize(out.len() + width, b' ');
    out.text("[rollup]\n");
    let (mut sum, mut locked_pss) = (PageInfo::default(), 0);
    for area in &all {
        let own = sizes(view, area);
        locked_pss += locked(area, &own);
        sum.rss += own.rss;
        sum.private += own.private;
        sum.anon += own.anon;
        sum.private_dirty += own.private_dirty;
        sum.shared_dirty += own.shared_dirty;
        sum.referenced += own.referenced;
        sum.pss += own.pss;
        sum.huge += own.huge;
    }
    put_sizes(out, &sum, locked_pss);
    Ok(())
}
