//! `/sys/devices/system`: processors, the memory node, clock sources.

use crate::tree::Builder;
use alloc::format;
use alloc::string::{String, ToString};
use arch::cpu::{CpuId, CpuSet};

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
    node(tree);
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
    tree.link(&format!("{path}/node0"), &format!("{NODES}/node0"));
    tree.link(&format!("{NODES}/node0/cpu{cpu}"), &path);
}

fn node(tree: &mut Builder) {
    let path = format!("{NODES}/node0");
    tree.line(&format!("{path}/cpulist"), || arch::cpu::online().to_string());
    tree.line(&format!("{path}/cpumap"), || mask(&arch::cpu::online()));
    tree.fixed(&format!("{path}/distance"), "10");
    tree.uevent(&path, &[]);
    tree.device(&path, "bus/node", "node0");
    for list in ["has_cpu", "has_memory", "has_normal_memory", "online", "possible"] {
        tree.fixed(&format!("{NODES}/{list}"), "0");
    }
}

/// A set as comma-separated groups of eight hexadecimal digits; the first group has as many digits
/// as there are processors for.
pub(crate) fn mask(set: &CpuSet) -> String {
    let count = arch::cpu::possible_count().max(1);
    let groups = count.div_ceil(32);
    let words: alloc::vec::Vec<String> = (0..groups)
        .rev()
        .map(|group| {
            let word = set.as_words().get(group / 2).copied().unwrap_or(0) >> (group % 2 * 32);
            let digits = (count - group * 32).min(32).div_ceil(4);
            format!("{:0digits$x}", word as u32)
        })
        .collect();
    words.join(",")
}
