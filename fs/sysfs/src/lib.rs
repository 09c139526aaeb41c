#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use abi::Result;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use arch::cpu::{CpuId, CpuSet};
use pseudo::{Node, Tree, show};
use vfs::{FileSystemType, MountRequest, SuperBlock};

const MAGIC: u64 = 0x6265_6572;

struct Sys;

impl FileSystemType for Sys {
    fn name(&self) -> &'static str {
        "sysfs"
    }
    fn userns_mount(&self) -> bool {
        true
    }
    fn mount(&self, _request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        Ok(pseudo::super_block("sysfs", MAGIC, root()))
    }
}

/// Makes the type known to `mount(2)`.
pub fn init() {
    vfs::register_file_system(&Sys);
}

/// A file with one line.
fn line(text: impl Fn() -> String + Send + Sync + 'static) -> Node {
    show(move |out| {
        out.extend_from_slice(text().as_bytes());
        out.push(b'\n');
        Ok(())
    })
}

fn root() -> Node {
    let kernel =
        Tree::new().dir("debug", Tree::new()).dir("mm", Tree::new()).dir("security", Tree::new());
    Tree::new()
        .dir("block", Tree::new())
        .dir("bus", Tree::new())
        .dir("class", Tree::new())
        .dir("dev", Tree::new().dir("block", Tree::new()).dir("char", Tree::new()))
        .dir("devices", Tree::new().dir("system", system()))
        .dir("firmware", Tree::new())
        .dir("fs", Tree::new().dir("cgroup", Tree::new()))
        .dir("kernel", kernel)
        .dir("module", Tree::new())
        .dir("power", Tree::new())
        .into_node()
}

fn system() -> Tree {
    let mut cpus = Tree::new();
    for cpu in arch::cpu::possible().iter() {
        cpus = cpus.dir(format!("cpu{cpu}"), processor(cpu));
    }
    let cpus = cpus
        .with("kernel_max", line(|| (arch::cpu::MAX_CPUS - 1).to_string()))
        .with("offline", line(|| arch::cpu::possible().minus(&arch::cpu::online()).to_string()))
        .with("online", line(|| arch::cpu::online().to_string()))
        .with("possible", line(|| arch::cpu::possible().to_string()))
        .with("present", line(|| arch::cpu::possible().to_string()));
    let node = Tree::new().with("cpulist", line(|| arch::cpu::online().to_string()));
    let nodes = Tree::new()
        .dir("node0", node)
        .with("has_cpu", line(|| "0".into()))
        .with("online", line(|| "0".into()))
        .with("possible", line(|| "0".into()));
    let available = || arch::time::available_clocksources().join(" ");
    let clock = Tree::new()
        .with("available_clocksource", line(available))
        .with("current_clocksource", line(|| arch::time::clocksource_name().into()));
    Tree::new()
        .dir("clocksource", Tree::new().dir("clocksource0", clock))
        .dir("cpu", cpus)
        .dir("node", nodes)
}

/// One socket, one thread a core: what the machine's processors are to programs.
fn processor(cpu: CpuId) -> Tree {
    let topology = Tree::new()
        .with("core_id", line(move || cpu.to_string()))
        .with("core_siblings", line(|| mask(&arch::cpu::online())))
        .with("core_siblings_list", line(|| arch::cpu::online().to_string()))
        .with("physical_package_id", line(|| "0".into()))
        .with("thread_siblings", line(move || mask(&CpuSet::single(cpu))))
        .with("thread_siblings_list", line(move || cpu.to_string()));
    Tree::new().dir("topology", topology)
}

/// A set as comma-separated groups of eight hexadecimal digits.
fn mask(set: &CpuSet) -> String {
    let groups = arch::cpu::possible_count().div_ceil(32).max(1);
    let words: alloc::vec::Vec<String> = (0..groups)
        .rev()
        .map(|group| {
            let word = set.as_words().get(group / 2).copied().unwrap_or(0) >> (group % 2 * 32);
            format!("{:08x}", word as u32)
        })
        .collect();
    words.join(",")
}
