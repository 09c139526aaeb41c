//! `/proc/PID` and `/proc/PID/task/TID`: one table of files serves both.

use crate::options::Shown;
use crate::{fds, idmap, kernel_side, maps, mem, mounts, status};
use abi::{Errno, Result};
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use process::Task;
use process::pid::{PidNamespace, ProcessDirectory};
use pseudo::{Body, Directory, Identity, Lister, Node, Target, Text};
use vfs::cred::Creds;

/// A thread, or the process it leads.
pub(crate) struct View {
    pub(crate) task: Arc<Task>,
    /// The numbers of the whole process are wanted.
    pub(crate) whole: bool,
    pub(crate) ns: Arc<PidNamespace>,
    /// Who opened the file.
    pub(crate) opener: Option<Arc<Creds>>,
}

/// Produces a file.
type Show = fn(&View, &mut Vec<u8>) -> Result<()>;
/// Takes what is written to a file.
type Store = fn(&View, &[u8]) -> Result<()>;

/// Opens a file that is not text.
type Open = fn(&View) -> Result<Arc<dyn vfs::FileOps>>;

enum Kind {
    File(u32, Show),
    Knob(u32, Show, Store),
    Link(fds::Where),
    Dir(u32),
    /// A file with operations of its own.
    Raw(u32, Open),
}

const FILES: &[(&str, Kind)] = &[
    ("task", Kind::Dir(0o555)),
    ("fd", Kind::Dir(0o500)),
    ("fdinfo", Kind::Dir(0o500)),
    ("ns", Kind::Dir(0o511)),
    ("net", Kind::Dir(0o555)),
    ("auxv", Kind::File(0o400, status::auxv)),
    ("cgroup", Kind::File(0o444, status::cgroup)),
    ("cpuset", Kind::File(0o444, status::cpuset)),
    ("cmdline", Kind::File(0o444, status::cmdline)),
    ("comm", Kind::Knob(0o644, status::comm, status::set_comm)),
    ("coredump_filter", Kind::Knob(0o644, status::coredump_filter, status::set_coredump_filter)),
    ("cwd", Kind::Link(fds::Where::Cwd)),
    ("environ", Kind::File(0o400, status::environ)),
    ("exe", Kind::Link(fds::Where::Exe)),
    ("gid_map", Kind::Knob(0o644, idmap::gid_map, idmap::set_gid_map)),
    ("io", Kind::File(0o400, status::io)),
    ("limits", Kind::File(0o444, status::limits)),
    ("loginuid", Kind::Knob(0o644, status::loginuid, status::set_loginuid)),
    ("maps", Kind::File(0o444, maps::maps)),
    ("mem", Kind::Raw(0o600, mem::open_mem)),
    ("mountinfo", Kind::Raw(0o444, mounts::mountinfo)),
    ("mounts", Kind::Raw(0o444, mounts::mounts)),
    ("mountstats", Kind::File(0o400, mounts::mountstats)),
    ("oom_adj", Kind::Knob(0o644, status::oom_adj, status::set_oom_adj)),
    ("oom_score", Kind::File(0o444, status::oom_score)),
    ("oom_score_adj", Kind::Knob(0o644, status::oom_score_adj, status::set_oom_score_adj)),
    ("pagemap", Kind::Raw(0o400, mem::open_pagemap)),
    ("personality", Kind::File(0o400, status::personality)),
    ("root", Kind::Link(fds::Where::Root)),
    ("sched", Kind::File(0o444, status::sched)),
    ("schedstat", Kind::File(0o444, status::schedstat)),
    ("sessionid", Kind::File(0o444, status::sessionid)),
    ("setgroups", Kind::Knob(0o644, idmap::setgroups, idmap::set_setgroups)),
    ("smaps", Kind::File(0o444, maps::smaps)),
    ("smaps_rollup", Kind::File(0o444, maps::smaps_rollup)),
    ("stack", Kind::File(0o400, kernel_side::stack)),
    ("stat", Kind::File(0o444, status::stat)),
    ("statm", Kind::File(0o444, status::statm)),
    ("status", Kind::File(0o444, status::status)),
    ("syscall", Kind::File(0o400, kernel_side::syscall)),
    ("uid_map", Kind::Knob(0o644, idmap::uid_map, idmap::set_uid_map)),
    ("wchan", Kind::File(0o444, status::wchan)),
];

/// The names of the table, each with its permission bits.
pub(crate) fn files() -> impl Iterator<Item = (&'static str, u32)> {
    FILES.iter().map(|(name, kind)| match kind {
        Kind::File(mode, _) | Kind::Raw(mode, _) | Kind::Knob(mode, ..) | Kind::Dir(mode) => {
            (*name, *mode)
        }
        Kind::Link(_) => (*name, 0o444),
    })
}

/// Files take these numbers below a thread's identity; descriptors come above.
const SLOT_BITS: u32 = 26;
const THREAD_SLOT: u64 = 0x80;

fn base_ino(task: &Task) -> u64 {
    let identity = task.thread().map_or(task.start_time_ns, |thread| thread.id);
    (identity + 1).wrapping_shl(SLOT_BITS) | 1 << 63
}

/// Who `/proc/PID` is.
pub(crate) fn process_identity(task: &Task) -> Identity {
    Identity { ino: base_ino(task), owner: owner_of(task) }
}

/// The inode number of `/proc/PID`.
pub(crate) fn process_ino(task: &Task) -> u64 {
    base_ino(task)
}

/// A canonical decimal number.
pub(crate) fn parse_number(name: &[u8]) -> Option<i32> {
    if name.is_empty() || name.starts_with(b"0") && name.len() > 1 {
        return None;
    }
    name.iter().try_fold(0i32, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

fn owner_of(task: &Task) -> (u32, u32) {
    let creds = task.creds();
    (creds.euid, creds.egid)
}

struct TaskDir {
    task: Weak<Task>,
    whole: bool,
    ns: Arc<PidNamespace>,
    /// Only for the directory of a process.
    process: Option<ProcessDirectory>,
    /// What its mount shows; for the directory of a process as well.
    shown: Option<Arc<Shown>>,
}

/// `/proc/PID`.
pub(crate) fn process_node(task: &Arc<Task>, shown: &Arc<Shown>) -> Node {
    dir_node(task, &shown.ns, Some(shown.clone()))
}

fn dir_node(task: &Arc<Task>, ns: &Arc<PidNamespace>, shown: Option<Arc<Shown>>) -> Node {
    let whole = shown.is_some();
    let slot = if whole { 0 } else { THREAD_SLOT };
    let process = whole.then(|| ProcessDirectory(task.pid().clone()));
    let dir = TaskDir { task: task.weak(), whole, ns: ns.clone(), process, shown };
    let body = Body::Dir(Arc::new(dir));
    Node { ino: base_ino(task) | slot, mode: 0o555, owner: owner_of(task), body }
}

impl TaskDir {
    /// The task, if the running one may look inside.
    fn enter(&self) -> Result<Arc<Task>> {
        let task = self.task.upgrade().ok_or(Errno::ENOENT)?;
        if self.shown.as_ref().is_some_and(|shown| !shown.may_enter(&task)) {
            return Err(Errno::EPERM);
        }
        Ok(task)
    }

    /// The entry of this name with its place in the table.
    fn find(&self, name: &[u8]) -> Option<(usize, &'static str, &'static Kind)> {
        let mut files = FILES.iter().enumerate();
        let (index, (own, kind)) = files.find(|(_, (own, _))| own.as_bytes() == name)?;
        self.is_shown(own).then_some((index, own, kind))
    }

    fn ino(&self, task: &Task, index: usize) -> u64 {
        let slot = if self.whole { 0 } else { THREAD_SLOT };
        base_ino(task) | (slot + 1 + index as u64)
    }

    fn is_shown(&self, name: &str) -> bool {
        self.whole || name != "task"
    }
}

impl Directory for TaskDir {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let task = &self.enter()?;
        let Some((index, own, kind)) = self.find(name) else { return Ok(None) };
        let ino = self.ino(task, index);
        let text = |show, store| {
            let weak = self.task.clone();
            Arc::new(TaskText { task: weak, whole: self.whole, ns: self.ns.clone(), show, store })
        };
        let (mode, body) = match kind {
            Kind::File(mode, show) => (*mode, Body::File(text(*show, None))),
            Kind::Knob(mode, show, store) => (*mode, Body::File(text(*show, Some(*store)))),
            Kind::Raw(mode, open) => {
                let weak = self.task.clone();
                let raw =
                    TaskRaw { task: weak, whole: self.whole, ns: self.ns.clone(), open: *open };
                (*mode, Body::File(Arc::new(raw)))
            }
            Kind::Link(place) => {
                let link = TaskLink { task: self.task.clone(), place: *place };
                (0o777, Body::Link(Arc::new(link)))
            }
            Kind::Dir(_) if own == "net" => {
                // The namespace's, whoever of it is asked.
                return Ok(Some(socket::trees::proc_net(&task.ns().net)));
            }
            Kind::Dir(mode) => {
                let weak = self.task.clone();
                let dir: Arc<dyn Directory> = match own {
                    "task" => Arc::new(Threads { task: weak, ns: self.ns.clone() }),
                    "fd" => Arc::new(fds::Fds { task: weak, info: false, base: base_ino(task) }),
                    "fdinfo" => Arc::new(fds::Fds { task: weak, info: true, base: base_ino(task) }),
                    _ => Arc::new(fds::Namespaces { task: weak, base: base_ino(task) }),
                };
                (*mode, Body::Dir(dir))
            }
        };
        Ok(Some(Node { ino, mode, owner: owner_of(task), body }))
    }

    fn identify(&self, name: &[u8]) -> Result<Option<Identity>> {
        let task = self.enter()?;
        let Some((index, own, _)) = self.find(name) else { return Ok(None) };
        if own == "net" {
            let net = socket::trees::proc_net(&task.ns().net);
            return Ok(Some(Identity { ino: net.ino, owner: net.owner }));
        }
        Ok(Some(Identity { ino: self.ino(&task, index), owner: owner_of(&task) }))
    }

    fn list(&self, cursor: u64, out: &mut Lister<'_>) -> Result<()> {
        let task = self.enter()?;
        let first = usize::try_from(cursor).unwrap_or(usize::MAX);
        for (index, (name, kind)) in FILES.iter().enumerate().skip(first) {
            if !self.is_shown(name) {
                continue;
            }
            let kind = match kind {
                Kind::Dir(_) => 4,
                Kind::Link(_) => 10,
                _ => 8,
            };
            if !out(index as u64 + 1, name.as_bytes(), self.ino(&task, index), kind) {
                break;
            }
        }
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }

    fn subject(&self) -> Option<&dyn Any> {
        self.process.as_ref().map(|process| process as &dyn Any)
    }
}

/// `/proc/PID/task`.
struct Threads {
    task: Weak<Task>,
    ns: Arc<PidNamespace>,
}

impl Directory for Threads {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let leader = self.task.upgrade().ok_or(Errno::ENOENT)?;
        let Some(number) = parse_number(name) else { return Ok(None) };
        let thread = self.ns.task(number);
        let thread = thread.filter(|task| Arc::ptr_eq(&task.group, &leader.group));
        Ok(thread.map(|task| dir_node(&task, &self.ns, None)))
    }

    fn list(&self, cursor: u64, out: &mut Lister<'_>) -> Result<()> {
        let leader = self.task.upgrade().ok_or(Errno::ENOENT)?;
        let mut numbers: Vec<(i32, u64)> = leader
            .group
            .tasks()
            .iter()
            .map(|task| (task.pid().number_in(&self.ns), base_ino(task) | THREAD_SLOT))
            .collect();
        numbers.sort_unstable();
        for (number, ino) in numbers {
            if number as u64 <= cursor {
                continue;
            }
            if !out(number as u64, format!("{number}").as_bytes(), ino, 4) {
                break;
            }
        }
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }
}

struct TaskText {
    task: Weak<Task>,
    whole: bool,
    ns: Arc<PidNamespace>,
    show: Show,
    store: Option<Store>,
}

impl TaskText {
    fn view(&self) -> Result<View> {
        let task = self.task.upgrade().ok_or(Errno::ESRCH)?;
        Ok(View { task, whole: self.whole, ns: self.ns.clone(), opener: None })
    }
}

impl Text for TaskText {
    fn show(&self, out: &mut Vec<u8>) -> Result<()> {
        (self.show)(&self.view()?, out)
    }
    fn show_as(&self, out: &mut Vec<u8>, opener: &Arc<Creds>) -> Result<()> {
        (self.show)(&View { opener: Some(opener.clone()), ..self.view()? }, out)
    }
    fn store_as(&self, bytes: &[u8], opener: &Arc<Creds>) -> Result<()> {
        let store = self.store.ok_or(Errno::EINVAL)?;
        store(&View { opener: Some(opener.clone()), ..self.view()? }, bytes)
    }
}

struct TaskRaw {
    task: Weak<Task>,
    whole: bool,
    ns: Arc<PidNamespace>,
    open: Open,
}

impl Text for TaskRaw {
    fn show(&self, _: &mut Vec<u8>) -> Result<()> {
        Err(Errno::EINVAL)
    }
    fn open(&self) -> Option<Result<Arc<dyn vfs::FileOps>>> {
        let view = |task| View { task, whole: self.whole, ns: self.ns.clone(), opener: None };
        let task = self.task.upgrade().ok_or(Errno::ESRCH);
        Some(task.and_then(|task| (self.open)(&view(task))))
    }
}

struct TaskLink {
    task: Weak<Task>,
    place: fds::Where,
}

impl Target for TaskLink {
    fn text(&self) -> Result<Vec<u8>> {
        let task = self.task.upgrade().ok_or(Errno::ENOENT)?;
        fds::describe(&fds::resolve(&task, self.place)?)
    }
    fn jump(&self) -> Result<Option<vfs::Path>> {
        let task = self.task.upgrade().ok_or(Errno::ENOENT)?;
        fds::resolve(&task, self.place).map(Some)
    }
}

/// Takes hold of something inside the task, if the caller may look there.
pub(crate) fn inspect<R>(task: &Task, take: impl FnOnce() -> R) -> Result<R> {
    match process::try_current() {
        Some(caller) => process::task::inspect(caller, task, take).map_err(|_| Errno::EACCES),
        None => Ok(take()),
    }
}
