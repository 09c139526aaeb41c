//! NUMA nodes: which memory and which processors belong together, and how far nodes are apart.
//!
//! Everything is node 0's until [`set_nodes`](crate::set_nodes) was told otherwise. A largest block
//! has one node, because blocks merge inside it; one that was begun before stays node 0's.

use arch::acpi::MemoryNode;
use arch::addr::{Pfn, PhysAddr};
use arch::cpu::{CpuId, MAX_CPUS};
use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use framemeta::{CHUNK, FreshRange};

/// The most nodes; memory of others counts as the first's.
pub(crate) const MAX_NODES: usize = 64;
/// The most pieces of memory on other nodes than the first.
const MAX_SPANS: usize = 128;

/// Memory of another node than the first, as frame numbers.
struct Span {
    start: AtomicU64,
    end: AtomicU64,
    node: AtomicU8,
}

static SPANS: [Span; MAX_SPANS] =
    [const { Span { start: AtomicU64::new(0), end: AtomicU64::new(0), node: AtomicU8::new(0) } };
        MAX_SPANS];
static SPAN_COUNT: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(1);
static CPU_NODES: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(0) }; MAX_CPUS];
/// For each node all nodes, the nearest first.
static NEAREST: [[AtomicU8; MAX_NODES]; MAX_NODES] =
    [const { [const { AtomicU8::new(0) }; MAX_NODES] }; MAX_NODES];

/// How many nodes the machine has.
pub fn node_count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// Says which node a processor is on.
pub fn set_cpu_node(cpu: CpuId, node: usize) {
    let node = if node < node_count() { node } else { 0 };
    CPU_NODES[cpu.index()].store(node as u8, Ordering::Relaxed);
}

/// The node a processor is on.
pub fn node_of_cpu(cpu: CpuId) -> usize {
    usize::from(CPU_NODES[cpu.index()].load(Ordering::Relaxed))
}

/// The node a frame is on.
#[inline]
pub fn node_of_frame(pfn: Pfn) -> usize {
    // Acquire: pairs with `add_span`.
    let spans = SPANS.iter().take(SPAN_COUNT.load(Ordering::Acquire));
    let holds = |span: &&Span| {
        span.start.load(Ordering::Relaxed) <= pfn.0 && pfn.0 < span.end.load(Ordering::Relaxed)
    };
    spans.into_iter().find(holds).map_or(0, |span| usize::from(span.node.load(Ordering::Relaxed)))
}

/// The nodes in the order in which this processor prefers their memory.
pub(crate) fn preferred() -> impl Iterator<Item = usize> {
    let count = node_count();
    let own = if count == 1 { 0 } else { node_of_cpu(arch::cpu::id()) };
    NEAREST[own].iter().take(count).map(|node| usize::from(node.load(Ordering::Relaxed)))
}

/// Notes how many nodes there are and how far from each other.
pub(crate) fn set_distances(count: usize, distance: impl Fn(usize, usize) -> u8) {
    let count = count.clamp(1, MAX_NODES);
    for (from, row) in NEAREST.iter().enumerate().take(count) {
        let mut order: [u8; MAX_NODES] = core::array::from_fn(|node| node as u8);
        // Stable: of nodes equally far the one that follows first, so that not all ask the same.
        order[..count].sort_by_key(|&node| {
            let node = usize::from(node);
            (distance(from, node), (node + count - from) % count)
        });
        for (cell, node) in row.iter().zip(order) {
            cell.store(node, Ordering::Relaxed);
        }
    }
    COUNT.store(count, Ordering::Relaxed);
}

/// Notes memory of another node than the first; whether there was room.
pub(crate) fn add_span(range: &FreshRange, node: usize) -> bool {
    let count = SPAN_COUNT.load(Ordering::Relaxed);
    let Some(span) = SPANS.get(count) else { return false };
    span.start.store(range.start(), Ordering::Relaxed);
    span.end.store(range.end(), Ordering::Relaxed);
    span.node.store(node as u8, Ordering::Relaxed);
    // Release: who counts the span sees it.
    SPAN_COUNT.store(count + 1, Ordering::Release);
    true
}

/// Cuts an untouched range into pieces of one node each.
pub(crate) fn split(
    mut range: FreshRange,
    memory: &[MemoryNode],
    mut each: impl FnMut(usize, FreshRange),
) {
    let first_chunk = |at: PhysAddr| at.page_up().pfn().0.next_multiple_of(CHUNK);
    let edges = || memory.iter().flat_map(|part| [part.start, part.end]).map(first_chunk);
    while !range.is_empty() {
        let start = range.start();
        let (node, end) = if start.is_multiple_of(CHUNK) {
            let at = Pfn(start).phys();
            let node = memory.iter().find(|part| part.start <= at && at < part.end);
            (node.map_or(0, |part| part.node), edges().filter(|edge| *edge > start).min())
        } else {
            (0, Some(start.next_multiple_of(CHUNK)))
        };
        let rest = range.split_off(end.unwrap_or(u64::MAX));
        each(if node < MAX_NODES { node } else { 0 }, range);
        range = rest;
    }
}
