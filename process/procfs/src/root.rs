//! The root directory: files of the whole system, then one directory per process.

use crate::options::Shown;
use crate::{cpu, global, interrupts, locks, mem, memory, pid, sysctl, sysrq, sysvipc};
use abi::Result;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use process::Task;
use process::pid::PidNamespace;
use pseudo::{Body, Directory, Identity, Lister, Node, Put, Target, Tree, link, show};

/// Cursors from here on are process numbers.
const FIRST_PID: u64 = 256;

struct Root {
    fixed: Tree,
    shown: Arc<Shown>,
}

/// Names of the root that are about processes.
const OWN_LINKS: [&[u8]; 2] = [b"self", b"thread-self"];

/// The root of a mount.
pub(crate) fn node(shown: Arc<Shown>) -> Node {
    let ns = shown.ns.clone();
    let fixed = Tree::new()
        .with("buddyinfo", show(memory::buddyinfo))
        .with("cmdline", show(global::cmdline))
        .with("consoles", show(global::consoles))
        .with("cgroups", show(global::cgroups))
        .with("cpuinfo", show(cpu::cpuinfo))
        .with("devices", show(global::devices))
        .with("diskstats", show(global::diskstats))
        .with("filesystems", show(global::filesystems))
        .with("interrupts", show(interrupts::interrupts))
        .with("kallsyms", show(mem::kallsyms))
        .with("loadavg", show(global::loadavg))
        .with("locks", locks_of(ns.clone()))
        .with("meminfo", show(memory::meminfo))
        .with("misc", show(|_| Ok(())))
        .with("modules", show(|_| Ok(())))
        .with("mounts", link("self/mounts"))
        .with("net", link("self/net"))
        .with("partitions", show(global::partitions))
        .with("self", self_link(ns.clone(), false))
        .with("slabinfo", Node { mode: 0o400, ..show(memory::slabinfo) })
        .with("softirqs", show(interrupts::softirqs))
        .with("stat", show(cpu::stat))
        .with("swaps", pseudo::file(0o444, memory::Swaps))
        .with("sys", sysctl::node())
        .with("sysrq-trigger", sysrq::trigger())
        .dir("sysvipc", sysvipc::tree())
        .with("thread-self", self_link(ns.clone(), true))
        .dir("tty", global::terminals())
        .with("uptime", show(global::uptime))
        .with("version", show(global::version))
        .with("vmstat", show(memory::vmstat));
    let root = Root { fixed, shown };
    Node { ino: 1, mode: 0o555, owner: (0, 0), body: Body::Dir(Arc::new(root)) }
}

fn locks_of(ns: Arc<PidNamespace>) -> Node {
    show(move |out| locks::show(&ns, out))
}

impl Root {
    /// The thread that leads the process `number`, or another, if the running task sees it.
    fn task(&self, number: i32) -> Option<Arc<Task>> {
        self.shown.ns.task(number).filter(|task| self.shown.sees(task))
    }
}

impl Directory for Root {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        if let Some(number) = pid::parse_number(name) {
            let task = self.task(number);
            return Ok(task.map(|task| pid::process_node(&task, &self.shown)));
        }
        let is_there = self.shown.has_system_files() || OWN_LINKS.contains(&name);
        if is_there { self.fixed.lookup(name) } else { Ok(None) }
    }

    fn identify(&self, name: &[u8]) -> Result<Option<Identity>> {
        if let Some(number) = pid::parse_number(name) {
            return Ok(self.task(number).map(|task| pid::process_identity(&task)));
        }
        let is_there = self.shown.has_system_files() || OWN_LINKS.contains(&name);
        if is_there { self.fixed.identify(name) } else { Ok(None) }
    }

    fn list(&self, cursor: u64, out: &mut Lister<'_>) -> Result<()> {
        if cursor < FIRST_PID {
            let mut is_full = false;
            let has_all = self.shown.has_system_files();
            self.fixed.list(cursor, &mut |next, name, ino, kind| {
                if !has_all && !OWN_LINKS.contains(&name) {
                    return true;
                }
                is_full = !out(next, name, ino, kind);
                !is_full
            })?;
            if is_full {
                return Ok(());
            }
        }
        let mut from = i32::try_from(cursor.saturating_sub(FIRST_PID)).unwrap_or(i32::MAX).max(1);
        while let Some((number, group)) = self.shown.ns.next_group(from) {
            let Some(next) = number.checked_add(1) else { break };
            from = next;
            let Some(task) = group.leader().filter(|task| self.shown.sees(task)) else { continue };
            let ino = pid::process_ino(&task);
            let name = format!("{number}");
            if !out(FIRST_PID + next as u64, name.as_bytes(), ino, 4) {
                break;
            }
        }
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }
}

struct SelfLink {
    ns: Arc<PidNamespace>,
    thread: bool,
}

fn self_link(ns: Arc<PidNamespace>, thread: bool) -> Node {
    let ino = if thread { 0xf000_0000 - 1 } else { 0xf000_0000 - 2 };
    let body = Body::Link(Arc::new(SelfLink { ns, thread }));
    Node { ino, mode: 0o777, owner: (0, 0), body }
}

impl Target for SelfLink {
    fn text(&self) -> Result<Vec<u8>> {
        let task = process::try_current().ok_or(abi::Errno::ENOENT)?;
        let group = task.group.pid().number_in(&self.ns);
        let own = task.pid().number_in(&self.ns);
        if group == 0 || own == 0 {
            return Err(abi::Errno::ENOENT);
        }
        let mut text = Vec::with_capacity(32);
        text.dec(group);
        if self.thread {
            text.text("/task/").dec(own);
        }
        Ok(text)
    }
}
