//! Memory: `meminfo`, `vmstat`, `swaps`, `buddyinfo`.

use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use pagecache::stats::{Counter, sum};
use pseudo::{Changes, Put, Text};
use sched::WaitQueue;
use spin::Once;

const PAGE_KIB: u64 = 4;

/// `/proc/meminfo`, proc(5).
pub(crate) fn meminfo(out: &mut Vec<u8>) -> Result<()> {
    use frames::Counter as Frames;
    let frames = frames::stats();
    let heap = heap::stats();
    let buffers = sum(Counter::Buffers);
    let shmem = sum(Counter::Shmem);
    let file = sum(Counter::FilePages) + shmem;
    let (active, inactive) = (sum(Counter::ActiveFile), sum(Counter::InactiveFile));
    let anon = Frames::Anon.get();
    let (committed, limit) = vm::committed();
    let available = frames.available.min(frames.total);
    let huge = Frames::AnonHuge.get();
    let rows: [(&str, u64); 46] = [
        ("MemTotal", frames.total),
        ("MemFree", frames.free),
        ("MemAvailable", available),
        ("Buffers", buffers),
        ("Cached", file),
        ("SwapCached", 0),
        ("Active", active),
        ("Inactive", inactive + anon + shmem),
        ("Active(anon)", 0),
        ("Inactive(anon)", anon + shmem),
        ("Active(file)", active),
        ("Inactive(file)", inactive),
        ("Unevictable", Frames::Mlocked.get()),
        ("Mlocked", Frames::Mlocked.get()),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", sum(Counter::Dirty)),
        ("Writeback", sum(Counter::Writeback)),
        ("AnonPages", anon),
        ("Mapped", Frames::FileMapped.get()),
        ("Shmem", shmem),
        ("KReclaimable", Frames::SlabReclaimable.get()),
        ("Slab", heap.slab),
        ("SReclaimable", Frames::SlabReclaimable.get()),
        ("SUnreclaim", Frames::SlabUnreclaimable.get()),
        ("KernelStack", heap.stacks),
        ("PageTables", frames.tables),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", limit),
        ("Committed_AS", committed),
        ("VmallocTotal", 0x7_ffff_ffff),
        ("VmallocUsed", heap.vmalloc),
        ("VmallocChunk", 0),
        ("Percpu", 0),
        ("HardwareCorrupted", 0),
        ("AnonHugePages", huge),
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
        out.text(name).text(":").dec_in(kib, width).text(" kB\n");
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
    let stats = frames::stats();
    let [huge_alloc, huge_fallback, huge_split] = vm::HugePages::events();
    let rows = [
        ("nr_free_pages", stats.free),
        ("nr_inactive_file", sum(Counter::InactiveFile)),
        ("nr_active_file", sum(Counter::ActiveFile)),
        ("nr_page_table_pages", stats.tables),
        ("nr_file_pages", sum(Counter::FilePages)),
        ("nr_dirty", sum(Counter::Dirty)),
        ("nr_writeback", sum(Counter::Writeback)),
        ("nr_shmem", sum(Counter::Shmem)),
        ("nr_anon_pages", frames::Counter::Anon.get()),
        ("nr_mapped", frames::Counter::FileMapped.get()),
        ("nr_mlock", frames::Counter::Mlocked.get()),
        ("nr_slab_reclaimable", frames::Counter::SlabReclaimable.get()),
        ("nr_slab_unreclaimable", frames::Counter::SlabUnreclaimable.get()),
        ("nr_kernel_stack", frames::Counter::KernelStacks.get() * 4),
        ("nr_dirtied", sum(Counter::Dirtied)),
        ("nr_written", sum(Counter::Written)),
        ("pgpgin", sum(Counter::PgPgIn)),
        ("pgpgout", sum(Counter::PgPgOut)),
        ("pswpin", 0),
        ("pswpout", 0),
        ("pgalloc_normal", stats.allocated_ever),
        ("pgfree", stats.freed_ever),
        ("pgactivate", sum(Counter::Activated)),
        ("pgdeactivate", sum(Counter::Deactivated)),
        ("pgscan_direct", sum(Counter::Scanned)),
        ("pgsteal_direct", sum(Counter::Reclaimed)),
        ("pgfault", vm::AddressSpace::fault_totals().0),
        ("pgmajfault", vm::AddressSpace::fault_totals().1),
        ("oom_kill", process::oom::kills()),
        ("thp_fault_alloc", huge_alloc),
        ("thp_fault_fallback", huge_fallback),
        ("thp_split_pmd", huge_split),
    ];
    for (name, value) in rows {
        out.text(name).text(" ").dec(value).text("\n");
    }
    Ok(())
}

/// `/proc/swaps`: there is no swap. It can be polled, as on Linux, and never changes.
pub(crate) struct Swaps;

impl Text for Swaps {
    fn show(&self, out: &mut Vec<u8>) -> Result<()> {
        out.text("Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n");
        Ok(())
    }

    fn store(&self, _: &[u8]) -> Result<()> {
        Err(Errno::EIO)
    }

    fn changes(&self) -> Option<Changes> {
        static QUEUE: Once<Arc<WaitQueue>> = Once::new();
        let queue = QUEUE.call_once(|| Arc::new(WaitQueue::new())).clone();
        Some(Changes { queue, count: 0 })
    }
}

/// `/proc/buddyinfo`: the free blocks of each order.
pub(crate) fn buddyinfo(out: &mut Vec<u8>) -> Result<()> {
    frames::zone_info(|node, name, _, blocks| {
        put!(out, "Node {node}, zone {name:>8}");
        for count in blocks {
            put!(out, " {count:>6}");
        }
        out.extend_from_slice(b" \n");
    });
    Ok(())
}

/// `/proc/slabinfo`, slabinfo(5): the heap's size classes.
pub(crate) fn slabinfo(out: &mut Vec<u8>) -> Result<()> {
    out.extend_from_slice(
        b"slabinfo - version: 2.1\n\
          # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : \
          tunables <limit> <batchcount> <sharedfactor> : \
          slabdata <active_slabs> <num_slabs> <sharedavail>\n",
    );
    heap::for_each_class(|class| {
        let name = alloc::format!("kmalloc-{}", class.size);
        let pages = (class.size * class.per_slab).div_ceil(4096);
        put!(
            out,
            "{name:<17} {:>6} {:>6} {:>6} {:>4} {:>4} : tunables {:>4} {:>4} {:>4} : \
             slabdata {:>6} {:>6} {:>6}\n",
            class.active,
            class.total,
            class.size,
            class.per_slab,
            pages,
            0,
            0,
            0,
            class.slabs,
            class.slabs,
            0
        );
    });
    Ok(())
}
