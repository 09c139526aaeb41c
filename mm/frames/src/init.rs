//! Nodes, zones, and how they come to their memory.

use crate::nodes::{self, MAX_NODES, node_of_frame};
use crate::percpu::{Batch, Lists};
use crate::pressure;
use crate::zone::Zone;
use arch::acpi::MemoryNode;
use arch::addr::{Pfn, PhysAddr};
use arch::boot::FreeMemory;
use arch::lock::{IrqLock, LockClass};
use core::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use framemeta::{CHUNK, FreeFrames, FreshRange, MAX_ORDER, Page};

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
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// Usable ranges as frame numbers, for look-ups by address. Written by `init` only.
struct RamRange {
    start: AtomicU64,
    end: AtomicU64,
}
static RAM: [RamRange; MAX_RANGES] =
    [const { RamRange { start: AtomicU64::new(0), end: AtomicU64::new(0) } }; MAX_RANGES];
static RAM_COUNT: AtomicUsize = AtomicUsize::new(0);

/// How many usable frames the machine has.
pub fn total_pages() -> u64 {
    TOTAL.load(Ordering::Relaxed)
}

fn ram_ranges() -> impl Iterator<Item = (u64, u64)> {
    RAM.iter()
        .take(RAM_COUNT.load(Ordering::Acquire))
        .map(|range| (range.start.load(Ordering::Relaxed), range.end.load(Ordering::Relaxed)))
}

/// Whether any byte of a range is memory of this crate.
pub fn contains_ram(start: PhysAddr, end: PhysAddr) -> bool {
    ram_ranges().any(|(from, to)| start.0 < to << 12 && from << 12 < end.0)
}

/// Whether a frame was never handed out.
fn is_fresh(pfn: Pfn) -> bool {
    slot_of(pfn).zone.lock().is_fresh(pfn)
}

#[inline]
fn slot_of(pfn: Pfn) -> &'static ZoneSlot {
    &NODES[node_of_frame(pfn)][usize::from(pfn.0 >= DMA32_END)]
}

/// The zones in the order in which this processor prefers them.
fn preference(dma32: bool) -> impl Iterator<Item = &'static ZoneSlot> {
    nodes::preferred().flat_map(move |node| {
        let [low, high] = &NODES[node];
        let high = (!dma32).then_some(high);
        high.into_iter().chain([low])
    })
}

/// Frames that can be had from the zones.
pub(crate) fn available() -> u64 {
    let slots = NODES[..nodes::node_count()].iter().flatten();
    let sum: i64 = slots.map(|slot| slot.available.load(Ordering::Relaxed)).sum();
    sum.max(0) as u64
}

pub(crate) fn take(order: u8, dma32: bool) -> Option<FreeFrames> {
    for slot in preference(dma32) {
        if slot.available.load(Ordering::Relaxed) < 1 << order {
            continue;
        }
        if let Some(block) = slot.zone.lock().take(order) {
            slot.available.fetch_sub(1 << order, Ordering::Relaxed);
            return Some(block);
        }
    }
    None
}

/// A batch of single frames from one zone; empty when there are none. Adjacent ones where it can,
/// descending, so that a stack hands them out in ascending order.
pub(crate) fn take_batch() -> Batch {
    let mut batch = Batch::new();
    for slot in preference(false) {
        if slot.available.load(Ordering::Relaxed) <= 0 {
            continue;
        }
        let mut zone = slot.zone.lock();
        if let Some(block) = zone.take(Lists::BATCH.ilog2() as u8) {
            batch.extend(block.singles());
        } else {
            while !batch.is_full()
                && let Some(frame) = zone.take(0)
            {
                batch.push(frame);
            }
        }
        drop(zone);
        slot.available.fetch_sub(batch.len() as i64, Ordering::Relaxed);
        if !batch.is_empty() {
            break;
        }
    }
    batch
}

pub(crate) fn give(block: FreeFrames) {
    let slot = slot_of(block.first());
    let frames = 1 << block.order();
    slot.zone.lock().give(block);
    slot.available.fetch_add(frames, Ordering::Relaxed);
}

/// Gives single frames back, taking each zone's lock once per run of frames of it.
pub(crate) fn give_batch(batch: Batch) {
    let mut rest = batch.into_iter().peekable();
    while let Some(first) = rest.peek() {
        let slot = slot_of(first.first());
        let mut zone = slot.zone.lock();
        let mut count = 0;
        while let Some(frame) = rest.next_if(|next| core::ptr::eq(slot_of(next.first()), slot)) {
            zone.give(frame);
            count += 1;
        }
        drop(zone);
        slot.available.fetch_add(count, Ordering::Relaxed);
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
/// source of page-table frames with `arch`.
pub fn init(memory: FreeMemory) {
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
        count += 1;
    }
    RAM_COUNT.store(count, Ordering::Release);
    framemeta::adopt(memory, find_home, add_fresh);
    let kib = available() * 4;
    let min = (4 * kib.isqrt()).clamp(128, 65536) / 4;
    pressure::set_min(min.min(available() / 32));
    arch::paging::set_table_frames(&crate::tables::TABLES);
}

/// Where the table goes: the end of the highest range that has room, so that low memory stays for
/// those who need it low.
fn find_home(frames: u64) -> Option<u64> {
    let align = frames.next_power_of_two().min(CHUNK);
    ram_ranges()
        .filter_map(|(start, end)| {
            let at = end.checked_sub(frames)? & !(align - 1);
            (at >= start).then_some(at)
        })
        .max()
}

/// Gives a range to the zones that it lies in.
fn add_fresh(mut low: FreshRange) {
    let high = low.split_off(DMA32_END);
    for (zone, range) in [(0, low), (1, high)] {
        add_to(&NODES[0][zone], range);
    }
}

fn add_to(slot: &ZoneSlot, range: FreshRange) {
    let frames = range.len();
    if frames > 0 && slot.zone.lock().add_fresh(range) {
        slot.available.fetch_add(frames as i64, Ordering::Relaxed);
        slot.total.fetch_add(frames, Ordering::Relaxed);
        TOTAL.fetch_add(frames, Ordering::Relaxed);
    }
}

/// Gives each node its memory; `count` nodes, and `distance` between two of them. What was handed out
/// before, and the rest of a largest block of it, stays the first node's. Once, before a second
/// processor runs.
pub fn set_nodes(count: usize, memory: &[MemoryNode], distance: impl Fn(usize, usize) -> u8) {
    if count < 2 {
        return;
    }
    nodes::set_distances(count, distance);
    for (zone, first) in NODES[0].iter().enumerate() {
        let fresh = first.zone.lock().take_fresh();
        let frames: u64 = fresh.iter().map(FreshRange::len).sum();
        first.available.fetch_sub(frames as i64, Ordering::Relaxed);
        first.total.fetch_sub(frames, Ordering::Relaxed);
        TOTAL.fetch_sub(frames, Ordering::Relaxed);
        for range in fresh {
            nodes::split(range, memory, |node, part| {
                let is_noted = node == 0 || nodes::add_span(&part, node);
                add_to(&NODES[if is_noted { node } else { 0 }][zone], part);
            });
        }
    }
}

/// The metadata of a frame, if it is RAM that was handed out before and has an owner now.
pub fn page_if_ram(pfn: Pfn) -> Option<&'static Page> {
    let start = pfn.phys();
    if !contains_ram(start, PhysAddr(start.0.checked_add(1)?)) || is_fresh(pfn) {
        return None;
    }
    Some(framemeta::page(pfn))
}

/// Makes the simulated machine's memory, for tests of this and other crates; the first call
/// decides the size.
#[cfg(not(target_os = "none"))]
pub fn init_host(bytes: usize) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if let Some(memory) = arch::host::take_memory(bytes) {
            init(memory);
        }
    });
}
