//! `/sys/devices/system`: processors, memory nodes, clock sources.

use crate::tree::Builder;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use arch::cpu::{CpuId, CpuSet};
use frames::NodeStats;

const CPUS: &str = "devices/system/cpu";
const NODES: &str = "devices/system/node";

pub(crate) fn add(tree: &mut Builder) {
    for cpu in arch::cpu::possible().iter() {
        processor(tree, cpu);
    }
    let at = |name: &str| format!("{CPUS}/{name}");
    tree.fixed(&at("kernel_max"), (arch::cpu::MAX_CPUS - 1).to_string());
    tree.line(&at("offline"), || arch::cpu::possible().minus(&arch::cpu::online()).to_string());
    tree.line(&at("online"), || arch::cpu::online().to_string());
    tree.line(&at("possible"), || arch::cpu::possible().to_string());
    tree.line(&at("present"), || arch::cpu::possible().to_string());
    tree.fixed(&at("isolated"), "");
    tree.uevent(CPUS, &[]);
    nodes(tree);
    let clock = "devices/system/clocksource/clocksource0";
    tree.line(&format!("{clock}/available_clocksource"), || {
        arch::time::available_clocksources().join(" ")
    });
    tree.line(&format!("{clock}/current_clocksource"), || arch::time::clocksource_name().into());
    tree.uevent(clock, &[]);
    tree.device(clock, "bus/clocksource", "clocksource0");
    tree.uevent("devices/system/memory", &[]);
}

/// One socket, one thread a core: what the machine's processors are to programs.
fn processor(tree: &mut Builder, cpu: CpuId) {
    let path = format!("{CPUS}/cpu{cpu}");
    let at = |name: &str| format!("{path}/topology/{name}");
    tree.fixed(&at("core_id"), cpu.to_string());
    tree.fixed(&at("die_id"), "0");
    tree.fixed(&at("physical_package_id"), "0");
    for own in ["core_cpus", "thread_siblings"] {
        tree.fixed(&at(own), mask(&CpuSet::single(cpu)));
        tree.fixed(&at(&format!("{own}_list")), cpu.to_string());
    }
    for all in ["core_siblings", "die_cpus", "package_cpus"] {
        tree.line(&at(all), || mask(&arch::cpu::online()));
        tree.line(&at(&format!("{all}_list")), || arch::cpu::online().to_string());
    }
    tree.uevent(&path, &[]);
    tree.device(&path, "bus/cpu", &format!("cpu{cpu}"));
    let node = frames::node_of_cpu(cpu);
    tree.link(&format!("{path}/node{node}"), &format!("{NODES}/node{node}"));
    tree.link(&format!("{NODES}/node{node}/cpu{cpu}"), &path);
}

/// The processors of a node that run.
fn processors_of(node: usize) -> CpuSet {
    arch::cpu::online().iter().filter(|cpu| frames::node_of_cpu(*cpu) == node).collect()
}

fn nodes(tree: &mut Builder) {
    for node in all_nodes() {
        let path = format!("{NODES}/node{node}");
        tree.line(&format!("{path}/cpulist"), move || processors_of(node).to_string());
        tree.line(&format!("{path}/cpumap"), move || mask(&processors_of(node)));
        let affinity = &arch::acpi::platform().affinity;
        let distances: Vec<String> =
            all_nodes().map(|to| affinity.distance(node, to).to_string()).collect();
        tree.fixed(&format!("{path}/distance"), distances.join(" "));
        tree.line(&format!("{path}/meminfo"), move || meminfo(node));
        tree.uevent(&path, &[]);
        tree.device(&path, "bus/node", &format!("node{node}"));
    }
    let has_memory = move |node: &usize| frames::node_stats(*node).is_some();
    let has_processors = move |node: &usize| !processors_of(*node).is_empty();
    tree.line(&format!("{NODES}/has_cpu"), move || ranges(all_nodes().filter(has_processors)));
    for list in ["has_memory", "has_normal_memory"] {
        tree.line(&format!("{NODES}/{list}"), move || ranges(all_nodes().filter(has_memory)));
    }
    for list in ["online", "possible"] {
        tree.fixed(&format!("{NODES}/{list}"), ranges(all_nodes()));
    }
}

fn all_nodes() -> core::ops::Range<usize> {
    0..frames::node_count()
}

/// A node's memory in KiB, as far as it is counted for each.
fn meminfo(node: usize) -> String {
    let NodeStats { total, free } = frames::node_stats(node).unwrap_or_default();
    let line = |name: &str, frames: u64| format!("Node {node} {name:<15} {:>8} kB", frames * 4);
    [line("MemTotal:", total), line("MemFree:", free), line("MemUsed:", total - free.min(total))]
        .join("\n")
}

/// Ascending numbers as a list of ranges.
fn ranges(numbers: impl Iterator<Item = usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

/// A set as comma-separated groups of eight hexadecimal digits; the first group has as many digits
/// as there are processors for.
pub(crate) fn mask(set: &CpuSet) -> String {
    let count = arch::cpu::possible_count().max(1);
    let groups = count.div_ceil(32);
    let words: Vec<String> = (0..groups)
        .rev()
        .map(|group| {
            let word = set.as_words().get(group / 2).copied().unwrap_or(0) >> (group % 2 * 32);
            let digits = (count - group * 32).min(32).div_ceil(4);
            format!("{:0digits$x}", word as u32)
        })
        .collect();
    words.join(",")
}
