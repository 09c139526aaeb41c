//! Memory: `meminfo`, `vmstat`, `swaps`, `buddyinfo`.

use abi::Result;
use alloc::vec::Vec;
use pagecache::stats::{Counter, sum};

const PAGE_KIB: u64 = 4;

/// `/proc/meminfo`, proc(5).
pub(crate) fn meminfo(out: &mut Vec<u8>) -> Result<()> {
    let frames = frames::stats();
    let buffers = sum(Counter::Buffers);
    let shmem = sum(Counter::Shmem);
    let file = sum(Counter::FilePages);
    let cached = file.saturating_sub(buffers);
    let (active, inactive) = (sum(Counter::ActiveFile), sum(Counter::InactiveFile));
    let anon = frames.total.saturating_sub(frames.free).saturating_sub(file + frames.tables);
    let clean = active + inactive;
    let available = (frames.available.max(frames.free) + clean / 2).min(frames.total);
    let rows: [(&str, u64); 46] = [
        ("MemTotal", frames.total),
        ("MemFree", frames.free),
        ("MemAvailable", available),
        ("Buffers", buffers),
        ("Cached", cached),
        ("SwapCached", 0),
        ("Active", active),
        ("Inactive", inactive + shmem),
        ("Active(anon)", 0),
        ("Inactive(anon)", shmem),
        ("Active(file)", active),
        ("Inactive(file)", inactive),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", sum(Counter::Dirty)),
        ("Writeback", sum(Counter::Writeback)),
        ("AnonPages", anon),
        ("Mapped", 0),
        ("Shmem", shmem),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", process::group::thread_count() as u64 * 4),
        ("PageTables", frames.tables),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", frames.total / 2),
        ("Committed_AS", anon),
        ("VmallocTotal", 0x7_ffff_ffff),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("Percpu", 0),
        ("HardwareCorrupted", 0),
        ("AnonHugePages", 0),
        ("ShmemHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FileHugePages", 0),
        ("FilePmdMapped", 0),
        ("Hugetlb", 0),
        ("DirectMap4k", 0),
        ("DirectMap2M", frames.total),
        ("DirectMap1G", 0),
    ];
    for (name, pages) in rows {
        let kib = if name == "VmallocTotal" { pages } else { pages * PAGE_KIB };
        let width = 24usize.saturating_sub(name.len() + 1);
        put!(out, "{name}:{kib:>width$} kB\n");
        if name == "FilePmdMapped" {
            for huge in ["Total", "Free", "Rsvd", "Surp"] {
                put!(out, "HugePages_{huge}:{:>1$}\n", 0, 13 - huge.len());
            }
            put!(out, "Hugepagesize:{:>11} kB\n", 2048);
        }
    }
    Ok(())
}

/// `/proc/vmstat`.
pub(crate) fn vmstat(out: &mut Vec<u8>) -> Result<()> {
    let frames = frames::stats();
    let rows = [
        ("nr_free_pages", frames.free),
        ("nr_inactive_file", sum(Counter::InactiveFile)),
        ("nr_active_file", sum(Counter::ActiveFile)),
        ("nr_page_table_pages", frames.tables),
        ("nr_file_pages", sum(Counter::FilePages)),
        ("nr_dirty", sum(Counter::Dirty)),
        ("nr_writeback", sum(Counter::Writeback)),
        ("nr_shmem", sum(Counter::Shmem)),
        ("nr_dirtied", sum(Counter::Dirtied)),
        ("nr_written", sum(Counter::Written)),
        ("pgpgin", sum(Counter::PgPgIn)),
        ("pgpgout", sum(Counter::PgPgOut)),
        ("pswpin", 0),
        ("pswpout", 0),
        ("pgalloc_normal", frames.allocated_ever),
        ("pgfree", frames.freed_ever),
        ("pgactivate", sum(Counter::Activated)),
        ("pgdeactivate", sum(Counter::Deactivated)),
        ("pgscan_direct", sum(Counter::Scanned)),
        ("pgsteal_direct", sum(Counter::Reclaimed)),
    ];
    for (name, value) in rows {
        put!(out, "{name} {value}\n");
    }
    Ok(())
}

/// `/proc/swaps`: there is no swap.
pub(crate) fn swaps(out: &mut Vec<u8>) -> Result<()> {
    put!(out, "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n");
    Ok(())
}

/// `/proc/buddyinfo`: all free frames as single pages.
pub(crate) fn buddyinfo(out: &mut Vec<u8>) -> Result<()> {
    put!(out, "Node 0, zone   Normal {:>6}", frames::stats().free);
    for _ in 1..11 {
        put!(out, " {:>6}", 0);
    }
    out.extend_from_slice(b" \n");
    Ok(())
}
