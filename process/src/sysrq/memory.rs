//! What memory went to, for the log.

use pagecache::stats::{Counter, sum};

const PAGE_KIB: u64 = 4;

/// Logs how much memory there is of each kind, and which blocks are free.
pub(crate) fn show() {
    use frames::Counter as Frames;
    let stats = frames::stats();
    let anon = Frames::Anon.get();
    let shmem = sum(Counter::Shmem);
    let (active, inactive) = (sum(Counter::ActiveFile), sum(Counter::InactiveFile));
    let (dirty, writeback) = (sum(Counter::Dirty), sum(Counter::Writeback));
    log::info!(
        "Mem-Info:\n\
         active_anon:0 inactive_anon:{anon} isolated_anon:0\n \
         active_file:{active} inactive_file:{inactive} isolated_file:0\n \
         unevictable:{} dirty:{dirty} writeback:{writeback}\n \
         slab_reclaimable:{} slab_unreclaimable:{}\n \
         mapped:{} shmem:{shmem} pagetables:{}\n \
         free:{} kernel_stack:{}kB anon_thp:{}",
        Frames::Mlocked.get(),
        Frames::SlabReclaimable.get(),
        Frames::SlabUnreclaimable.get(),
        Frames::FileMapped.get(),
        stats.tables,
        stats.free,
        Frames::KernelStacks.get() * 4 * PAGE_KIB,
        Frames::AnonHuge.get(),
    );
    show_zones();
    log::info!("{} total pagecache pages", sum(Counter::FilePages) + shmem);
    log::info!("0 pages in swap cache");
    log::info!("Free swap  = 0kB");
    log::info!("Total swap = 0kB");
    log::info!("{} pages RAM", stats.total);
}

/// A line per zone: so many free blocks of each size.
fn show_zones() {
    frames::zone_info(|node, name, total, counts| {
        let line = Blocks(counts);
        log::info!("Node {node} {name}: {line}= {}kB of {}kB", line.kib(), total * PAGE_KIB);
    });
}

/// Free blocks by order.
struct Blocks<'a>(&'a [u64]);

impl Blocks<'_> {
    fn kib(&self) -> u64 {
        self.0.iter().enumerate().map(|(order, count)| (count * PAGE_KIB) << order).sum()
    }
}

impl core::fmt::Display for Blocks<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (order, count) in self.0.iter().enumerate() {
            write!(f, "{count}*{}kB ", PAGE_KIB << order)?;
        }
        Ok(())
    }
}
