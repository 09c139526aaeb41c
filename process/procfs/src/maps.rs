//! The areas of a program: `maps`, `smaps`, `smaps_rollup`.

use crate::pid::{View, inspect};
use abi::Result;
use alloc::vec::Vec;
use vm::{MapInfo as Area, PageInfo, flag};

fn put_area(area: &Area, out: &mut Vec<u8>) {
    let bit = |bit: u32, letter| if area.prot & bit != 0 { letter } else { '-' };
    let kind = if area.flags & flag::SHARED != 0 { 's' } else { 'p' };
    let about = &area.file;
    let name = about.path.as_str();
    let before = out.len();
    put!(
        out,
        "{:08x}-{:08x} {}{}{}{kind} {:08x} {:02x}:{:02x} {} ",
        area.start,
        area.end,
        bit(1, 'r'),
        bit(2, 'w'),
        bit(4, 'x'),
        area.offset,
        about.dev.0,
        about.dev.1,
        about.ino
    );
    if !name.is_empty() {
        let width = 73usize.saturating_sub(out.len() - before);
        out.resize(out.len() + width, b' ');
        out.extend_from_slice(name.replace('\n', "\\012").as_bytes());
    }
    out.push(b'\n');
}

fn areas(view: &View) -> Result<Vec<Area>> {
    let mut all = Vec::new();
    if let Some(mm) = inspect(&view.task, || view.task.mm())? {
        mm.for_each_vma(|area| all.push(area.clone()));
    }
    Ok(all)
}

pub(crate) fn maps(view: &View, out: &mut Vec<u8>) -> Result<()> {
    for area in areas(view)? {
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

fn put_sizes(out: &mut Vec<u8>, pages: &PageInfo) {
    let shared = pages.rss - pages.private;
    let dirty = pages.dirty.min(pages.private);
    let rows = [
        ("Rss", pages.rss * 4),
        ("Pss", pages.pss / 1024),
        ("Shared_Clean", shared * 4),
        ("Shared_Dirty", 0),
        ("Private_Clean", (pages.private - dirty) * 4),
        ("Private_Dirty", dirty * 4),
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
        ("Locked", 0),
    ];
    for (name, kib) in rows {
        put!(out, "{name}:{kib:>0$} kB\n", 23 - name.len());
    }
}

fn sizes(view: &View, area: &Area) -> PageInfo {
    view.task.mm().map(|mm| mm.page_info(area.start, area.end)).unwrap_or_default()
}

pub(crate) fn smaps(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let vsyscall = view.task.mm().is_some().then(vsyscall);
    for area in areas(view)?.into_iter().chain(vsyscall) {
        put_area(&area, out);
        let pages = sizes(view, &area);
        put!(out, "Size:{:>19} kB\n", (area.end - area.start) / 1024);
        put!(out, "KernelPageSize:{:>9} kB\nMMUPageSize:{:>12} kB\n", 4, 4);
        put_sizes(out, &pages);
        put!(out, "THPeligible:{:>13}\nVmFlags:", u8::from(area.may_be_huge()));
        let flags = [(1, "rd"), (2, "wr"), (4, "ex")];
        for (bit, name) in flags {
            if area.prot & bit != 0 {
                put!(out, " {name}");
            }
        }
        if area.flags & flag::SHARED != 0 {
            put!(out, " sh");
        }
        put!(out, " mr mw me");
        if area.flags & flag::GROWS_DOWN != 0 {
            put!(out, " gd");
        }
        put!(out, " \n");
    }
    Ok(())
}

pub(crate) fn smaps_rollup(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let all = areas(view)?;
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return Ok(()) };
    let (start, end) = (first.start, last.end);
    let before = out.len();
    put!(out, "{start:08x}-{end:08x} ---p 00000000 00:00 0 ");
    let width = 73usize.saturating_sub(out.len() - before);
    out.resize(out.len() + width, b' ');
    put!(out, "[rollup]\n");
    let mut sum = PageInfo::default();
    for area in &all {
        let own = sizes(view, area);
        sum.rss += own.rss;
        sum.private += own.private;
        sum.anon += own.anon;
        sum.dirty += own.dirty;
        sum.referenced += own.referenced;
        sum.pss += own.pss;
        sum.huge += own.huge;
    }
    put_sizes(out, &sum);
    Ok(())
}
