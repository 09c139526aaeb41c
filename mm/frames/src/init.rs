//! Nodes, zones, and how they come to their memory.

use crate::MAX_ORDER;
use crate::page::{Page, set_table, table};
use crate::pressure;
use crate::zone::{CHUNK, Zone, clear_chunk};
use arch::addr::{PAGE_SIZE, Pfn, PhysAddr};
use arch::boot::{FreeMemory, PhysRange};
use arch::cpu::{CpuId, MAX_CPUS};
use arch::lock::{IrqLock, LockClass};
use core::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};

const MAX_NODES: usize = 8;
const MAX_RANGES: usize = 128;
/// The first frame past 4 GiB.
const DMA32_END: u64 = 1 << 20;
const ZONES: usize = 2;

struct ZoneSlot {
    zone: IrqLock<Zone>,
    /// Frames that can be had; follows the zone without its lock.
    available: AtomicI64,
    total: AtomicU64,
}

static CLASS: LockClass = LockClass::new("frames.zone", 860);
static NODES: [[ZoneSlot; ZONES]; MAX_NODES] = [const {
    [const {
        ZoneSlot {
            zone: IrqLock::new(&CLASS, Zone::new()),
            available: AtomicI64::new(0),
            total: AtomicU64::new(0),
        }
    }; ZONES]
}; MAX_NODES];
static NODE_COUNT: AtomicUsize = AtomicUsize::new(1);
static CPU_NODES: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(0) }; MAX_CPUS];
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// Usable ranges as frame numbers, for look-ups by address. Written by `init` only.
struct RamRange {
    start: AtomicU64,
    end: AtomicU64,
    node: AtomicU8,
}
static RAM: [RamRange; MAX_RANGES] = [const {
    RamRange { start: AtomicU64::new(0), end: AtomicU64::new(0), node: AtomicU8::new(0) }
}; MAX_RANGES];
static RAM_COUNT: AtomicUsize = AtomicUsize::new(0);

/// How many usable frames the machine has.
pub fn total_pages() -> u64 {
    TOTAL.load(Ordering::Relaxed)
}

fn ram_ranges() -> impl Iterator<Item = (u64, u64, u8)> {
    RAM.iter().take(RAM_COUNT.load(Ordering::Acquire)).map(|range| {
        (
            range.start.load(Ordering::Relaxed),
            range.end.load(Ordering::Relaxed),
            range.node.load(Ordering::Relaxed),
        )
    })
}

/// Whether any byte of a range is memory of this crate.
pub fn contains_ram(start: PhysAddr, end: PhysAddr) -> bool {
    ram_ranges().any(|(from, to, _)| start.0 < to << 12 && from << 12 < end.0)
}

/// Whether a frame was never handed out.
pub(crate) fn is_fresh(pfn: Pfn) -> bool {
    slot_of(pfn).zone.lock().is_fresh(pfn)
}

/// Says which node a processor is on.
pub fn set_cpu_node(cpu: CpuId, node: u8) {
    CPU_NODES[cpu.index()].store(node, Ordering::Relaxed);
}

fn local_node() -> usize {
    if NODE_COUNT.load(Ordering::Relaxed) == 1 {
        return 0;
    }
    usize::from(CPU_NODES[arch::cpu::id().index()].load(Ordering::Relaxed)) % MAX_NODES
}

#[inline]
fn slot_of(pfn: Pfn) -> &'static ZoneSlot {
    let node = if NODE_COUNT.load(Ordering::Relaxed) == 1 { 0 } else { node_of(pfn) };
    &NODES[node][usize::from(pfn.0 >= DMA32_END)]
}

fn node_of(pfn: Pfn) -> usize {
    let found = ram_ranges().find(|(from, to, _)| *from <= pfn.0 && pfn.0 < *to);
    found.map_or(0, |(_, _, node)| usize::from(node))
}

/// The zones in the order in which this processor prefers them.
fn preference(dma32: bool) -> impl Iterator<Item = &'static ZoneSlot> {
    let (first, count) = (local_node(), NODE_COUNT.load(Ordering::Relaxed));
    (0..count).flat_map(move |step| {
        let [low, high] = &NODES[(first + step) % count];
        let high = (!dma32).then_some(high);
        high.into_iter().chain([low])
    })
}

/// Frames that can be had from the zones.
pub(crate) fn available() -> u64 {
    let count = NODE_COUNT.load(Ordering::Relaxed);
    let sum: i64 =
        NODES[..count].iter().flatten().map(|slot| slot.available.load(Ordering::Relaxed)).sum();
    sum.max(0) as u64
}

pub(crate) fn take(order: u8, dma32: bool) -> Option<Pfn> {
    for slot in preference(dma32) {
        if slot.available.load(Ordering::Relaxed) < 1 << order {
            continue;
        }
        if let Some(pfn) = slot.zone.lock().take(order) {
            slot.available.fetch_sub(1 << order, Ordering::Relaxed);
            return Some(pfn);
        }
    }
    None
}

/// Fills `batch` from one zone; how many frames. Adjacent ones where it can.
pub(crate) fn take_batch(batch: &mut [Pfn]) -> usize {
    for slot in preference(false) {
        if slot.available.load(Ordering::Relaxed) <= 0 {
            continue;
        }
        let mut zone = slot.zone.lock();
        let mut count = 0;
        let whole = batch.len().ilog2() as u8;
        if let Some(first) = zone.take(whole) {
            count = 1 << whole;
            // Descending, so that the stack hands them out in ascending order.
            for (step, to) in batch.iter_mut().take(count).enumerate() {
                *to = first + (count - 1 - step) as u64;
            }
        } else {
            while let Some(to) = batch.get_mut(count)
                && let Some(pfn) = zone.take(0)
            {
                *to = pfn;
                count += 1;
            }
        }
        drop(zone);
        slot.available.fetch_sub(count as i64, Ordering::Relaxed);
        if count > 0 {
            return count;
        }
    }
    0
}

pub(crate) fn give(pfn: Pfn, order: u8) {
    let slot = slot_of(pfn);
    slot.zone.lock().give(pfn, order);
    slot.available.fetch_add(1 << order, Ordering::Relaxed);
}

/// Gives single frames back, taking each zone's lock once per run of frames of it.
pub(crate) fn give_batch(batch: &[Pfn]) {
    let mut rest = batch;
    while let Some(first) = rest.first() {
        let slot = slot_of(*first);
        let same = rest.iter().take_while(|pfn| core::ptr::eq(slot_of(**pfn), slot)).count();
        let (run, others) = rest.split_at(same);
        let mut zone = slot.zone.lock();
        run.iter().for_each(|pfn| zone.give(*pfn, 0));
        drop(zone);
        slot.available.fetch_add(same as i64, Ordering::Relaxed);
        rest = others;
    }
}

pub(crate) fn node_totals(node: usize) -> Option<(u64, u64)> {
    let zones = NODES.get(node)?;
    let total: u64 = zones.iter().map(|slot| slot.total.load(Ordering::Relaxed)).sum();
    let free: i64 = zones.iter().map(|slot| slot.available.load(Ordering::Relaxed)).sum();
    (total > 0).then_some((total, free.max(0) as u64))
}

pub(crate) fn for_each_zone(
    mut emit: impl FnMut(usize, &'static str, u64, &[u64; MAX_ORDER as usize + 1]),
) {
    for (node, zones) in NODES.iter().enumerate() {
        for (slot, name) in zones.iter().zip(["DMA32", "Normal"]) {
            let total = slot.total.load(Ordering::Relaxed);
            if total > 0 {
                let counts = slot.zone.lock().block_counts();
                emit(node, name, total, &counts);
            }
        }
    }
}

/// Takes over the machine's usable memory; before any other function of the crate. Registers the
/// source of page-table frames with `arch`. `node_of` says to which node a range belongs.
pub fn init(memory: FreeMemory, node_of: impl Fn(&PhysRange) -> u8) {
    let mut count = 0;
    for range in memory.ranges() {
        let start = range.start.page_up().pfn().0.max(1);
        let end = range.end.page_down().pfn().0;
        if start >= end || count == MAX_RANGES {
            continue;
        }
        let slot = &RAM[count];
        slot.start.store(start, Ordering::Relaxed);
        slot.end.store(end, Ordering::Relaxed);
        let node = node_of(range).min(MAX_NODES as u8 - 1);
        slot.node.store(node, Ordering::Relaxed);
        count += 1;
        let nodes = NODE_COUNT.load(Ordering::Relaxed).max(usize::from(node) + 1);
        NODE_COUNT.store(nodes, Ordering::Relaxed);
    }
    RAM_COUNT.store(count, Ordering::Release);
    let top = ram_ranges().map(|(_, end, _)| end).max().unwrap_or(0).next_multiple_of(CHUNK);
    let bytes = top * size_of::<Page>() as u64;
    let Some(home) = find_home(bytes) else {
        // Nothing can work without the table; the boot code prints what memory there is.
        panic!("frames: no room for {bytes} bytes of metadata");
    };
    set_table(arch::phys::to_virt(home).cast());
    let table_frames = (home.pfn().0, home.pfn().0 + bytes.div_ceil(PAGE_SIZE as u64));
    clear_partial_chunks();
    for (start, end, node) in ram_ranges() {
        // What lies before the table, behind it, and the parts of it that describe holes.
        add_range(start, end.min(table_frames.0), node);
        add_range(start.max(table_frames.1), end, node);
    }
    give_table_holes(home, top);
    let kib = available() * 4;
    let min = (4 * kib.isqrt()).clamp(128, 65536) / 4;
    pressure::set_min(min.min(available() / 32));
    arch::paging::set_table_frames(&crate::tables::TABLES);
}

/// Where the table goes: the end of the highest range that has room, so that low memory stays for
/// those who need it low.
fn find_home(bytes: u64) -> Option<PhysAddr> {
    let frames = bytes.div_ceil(PAGE_SIZE as u64);
    let align = frames.next_power_of_two().min(CHUNK);
    ram_ranges()
        .filter_map(|(start, end, _)| {
            let at = end.checked_sub(frames)? & !(align - 1);
            (at >= start).then_some(at)
        })
        .max()
        .map(|pfn| Pfn(pfn).phys())
}

/// Clears the metadata of chunks that are only partly usable; whole ones wait until they are
/// carved.
fn clear_partial_chunks() {
    for (start, end, _) in ram_ranges() {
        for edge in [start, end] {
            if edge % CHUNK != 0 {
                clear_chunk(edge & !(CHUNK - 1));
            }
        }
    }
}

fn add_range(start: u64, end: u64, node: u8) {
    // Never across the zone border.
    for (zone, from, to) in [(0, start, end.min(DMA32_END)), (1, start.max(DMA32_END), end)] {
        if from >= to {
            continue;
        }
        for edge in [from, to] {
            // The table's own edges make partial chunks too.
            if edge % CHUNK != 0 {
                clear_chunk_once(edge & !(CHUNK - 1));
            }
        }
        let slot = &NODES[usize::from(node)][zone];
        if slot.zone.lock().add_fresh(from, to) {
            slot.available.fetch_add((to - from) as i64, Ordering::Relaxed);
            slot.total.fetch_add(to - from, Ordering::Relaxed);
            TOTAL.fetch_add(to - from, Ordering::Relaxed);
        }
    }
}

/// Clears a chunk's metadata while nothing of it was handed out yet: `init` runs alone.
fn clear_chunk_once(first: u64) {
    clear_chunk(first);
}

/// Gives away the parts of the table whose chunks contain no usable memory.
fn give_table_holes(home: PhysAddr, top: u64) {
    let chunk_bytes = CHUNK * size_of::<Page>() as u64;
    let frames = chunk_bytes / PAGE_SIZE as u64;
    let mut run: Option<u64> = None;
    for chunk in 0..=top / CHUNK {
        let first = chunk * CHUNK;
        let is_hole =
            chunk < top / CHUNK && !contains_ram(Pfn(first).phys(), Pfn(first + CHUNK).phys());
        match (is_hole, run) {
            (true, None) => run = Some(chunk),
            (false, Some(start)) => {
                let from = home.pfn().0 + start * frames;
                let to = home.pfn().0 + chunk * frames;
                add_range(from, to, node_of(Pfn(from)) as u8);
                run = None;
            }
            _ => {}
        }
    }
    debug_assert!(!table().is_null());
}

/// Makes the simulated machine's memory, for tests of this and other crates; the first call
/// decides the size.
#[cfg(not(target_os = "none"))]
pub fn init_host(bytes: usize) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if let Some(memory) = arch::host::take_memory(bytes) {
            init(memory, |_| 0);
        }
    });
}
