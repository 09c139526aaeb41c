//! Memory of several nodes, on the simulated memory.

#![cfg(not(target_os = "none"))]

use arch::acpi::MemoryNode;
use arch::addr::PhysAddr;
use frames::{
    Flags, PageRef, alloc_page, contains_ram, drain_local, init_host, node_of_frame, node_stats,
};

const MIB: u64 = 1 << 20;

#[test]
fn the_near_node_comes_first_and_frames_go_home() {
    init_host(96 << 20);
    // Something is in use before the nodes are known, and stays the first node's.
    let early = alloc_page(Flags::empty()).expect("memory");
    let all = node_stats(0).expect("memory").total;
    // The border is in the middle of a largest block: it goes to the node of its first frame.
    let first = (0..).map(PhysAddr).step_by(MIB as usize);
    let first = first.into_iter().find(|at| contains_ram(*at, PhysAddr(at.0 + MIB))).expect("RAM");
    let middle = PhysAddr(first.0 / (4 * MIB) * (4 * MIB) + 41 * MIB);
    let memory = [
        MemoryNode { start: PhysAddr(0), end: middle, node: 0 },
        MemoryNode { start: middle, end: PhysAddr(u64::MAX), node: 1 },
    ];
    frames::set_nodes(2, &memory, |from, to| if from == to { 10 } else { 20 });
    let totals = [0, 1].map(|node| node_stats(node).expect("memory").total);
    assert_eq!(totals.iter().sum::<u64>(), all);
    assert_eq!(node_of_frame(early.pfn()), 0);

    frames::set_cpu_node(arch::cpu::CpuId::BOOT, 1);
    drain_local();
    let near: Vec<PageRef> =
        (0..1000).map(|_| alloc_page(Flags::empty()).expect("memory")).collect();
    assert!(near.iter().all(|page| node_of_frame(page.pfn()) == 1));
    // When it is full the other node's memory does.
    let mut rest = Vec::new();
    while let Ok(page) = alloc_page(Flags::empty()) {
        rest.push(page);
    }
    for node in [0, 1] {
        assert!(rest.iter().any(|page| node_of_frame(page.pfn()) == node), "node {node}");
    }
    drop((early, near, rest));
    drain_local();
    for (node, total) in totals.into_iter().enumerate() {
        let now = node_stats(node).expect("memory");
        assert_eq!((now.total, now.free), (total, total), "node {node}");
    }
}
