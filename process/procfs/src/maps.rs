//! The areas of a program: `maps`, `smaps`, `smaps_rollup`.

use crate::pid::{View, check_inspect};
use abi::Result;
use alloc::string::String;
use alloc::vec::Vec;
use vm::{Area, AreaFlags};

fn put_area(area: &Area, out: &mut Vec<u8>) {
    let bit = |bit: u32, letter| if area.prot & bit != 0 { letter } else { '-' };
    let kind = if area.is_shared() { 's' } else { 'p' };
    let about = area.source.as_ref().map(|source| source.describe()).unwrap_or_default();
    let name: String = if !about.path.is_empty() {
        about.path
    } else if area.flags.contains(AreaFlags::HEAP) {
        "[heap]".into()
    } else if area.flags.contains(AreaFlags::STACK) {
        "[stack]".into()
    } else if area.flags.contains(AreaFlags::VDSO) {
        "[vdso]".into()
    } else {
        String::new()
    };
    let before = out.len();
    let offset = if area.source.is_some() { area.offset } else { 0 };
    put!(
        out,
        "{:08x}-{:08x} {}{}{}{kind} {offset:08x} {:02x}:{:02x} {} ",
        area.start,
        area.end,
        bit(1, 'r'),
        bit(2, 'w'),
        bit(4, 'x'),
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
    check_inspect(&view.task)?;
    let mut all = Vec::new();
    if let Some(mm) = view.task.mm() {
        mm.for_each_area(|area| all.push(area.clone()));
    }
    Ok(all)
}

pub(crate) fn maps(view: &View, out: &mut Vec<u8>) -> Result<()> {
    for area in areas(view)? {
        put_area(&area, out);
    }
    Ok(())
}

fn put_sizes(out: &mut Vec<u8>, rss: u64, anonymous: u64) {
    let rows = [
        ("Rss", rss),
        ("Pss", rss),
        ("Shared_Clean", 0),
        ("Shared_Dirty", 0),
        ("Private_Clean", rss - anonymous),
        ("Private_Dirty", anonymous),
        ("Referenced", rss),
        ("Anonymous", anonymous),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
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

fn sizes(view: &View, area: &Area) -> (u64, u64) {
    let pages = view.task.mm().map_or(0, |mm| mm.resident_pages(area.start, area.end));
    let rss = pages * 4;
    (rss, if area.source.is_none() && !area.is_shared() { rss } else { 0 })
}

pub(crate) fn smaps(view: &View, out: &mut Vec<u8>) -> Result<()> {
    for area in areas(view)? {
        put_area(&area, out);
        let (rss, anonymous) = sizes(view, &area);
        put!(out, "Size:{:>19} kB\n", area.len() / 1024);
        put!(out, "KernelPageSize:{:>9} kB\nMMUPageSize:{:>12} kB\n", 4, 4);
        put_sizes(out, rss, anonymous);
        put!(out, "THPeligible:{:>13}\nVmFlags:", 0);
        let flags = [(1, "rd"), (2, "wr"), (4, "ex")];
        for (bit, name) in flags {
            if area.prot & bit != 0 {
                put!(out, " {name}");
            }
        }
        if area.is_shared() {
            put!(out, " sh");
        }
        put!(out, " mr mw me");
        if area.flags.contains(AreaFlags::GROWS_DOWN) {
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
    let (mut rss, mut anonymous) = (0, 0);
    for area in &all {
        let (own, own_anonymous) = sizes(view, area);
        rss += own;
        anonymous += own_anonymous;
    }
    put_sizes(out, rss, anonymous);
    Ok(())
}
