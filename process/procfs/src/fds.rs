//! Links to what a task holds: its directories, its program, its open files, its namespaces.

use crate::pid::{inspect, parse_number};
use abi::{Errno, Result};
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use process::Task;
use process::nsproxy::Namespace;
use pseudo::{Body, Directory, Lister, Node, Target, Text};
use vfs::{File, FileMode, Path};

/// A link of `/proc/PID`.
#[derive(Clone, Copy)]
pub(crate) enum Where {
    Cwd,
    Root,
    Exe,
}

/// Where a link of the task leads.
pub(crate) fn resolve(task: &Task, place: Where) -> Result<Path> {
    if matches!(place, Where::Exe) {
        let exe = inspect(task, || task.group.exe())?;
        return Ok(exe.ok_or(Errno::ENOENT)?.path.clone());
    }
    let paths = inspect(task, || task.fs().and_then(|fs| fs.paths()))?.ok_or(Errno::ENOENT)?;
    Ok(match place {
        Where::Cwd => paths.cwd.clone(),
        _ => paths.root.clone(),
    })
}

/// The path as the caller sees it.
pub(crate) fn describe(path: &Path) -> Result<Vec<u8>> {
    let caller = process::try_current().ok_or(Errno::ENOENT)?;
    let context = caller.vfs_context();
    Ok(vfs::dpath::describe(path, context.get().root))
}

/// `/proc/PID/fd` and `/proc/PID/fdinfo`.
pub(crate) struct Fds {
    pub(crate) task: Weak<Task>,
    pub(crate) info: bool,
    pub(crate) base: u64,
}

impl Fds {
    fn ino(&self, fd: u32) -> u64 {
        let region = if self.info { 2 << 24 } else { 1 << 24 };
        self.base + region + u64::from(fd & 0xff_ffff)
    }
}

impl Directory for Fds {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let task = self.task.upgrade().ok_or(Errno::ENOENT)?;
        let fd = parse_number(name);
        let file = inspect(&task, || task.files()?.get_any(fd?).ok())?;
        let (Some(fd), Some(file)) = (fd, file) else { return Ok(None) };
        let creds = task.creds();
        let (mode, body) = if self.info {
            let text = FdInfo { task: self.task.clone(), fd };
            (0o400, Body::File(Arc::new(text)))
        } else {
            let mut mode = 0o100;
            if file.mode().contains(FileMode::READ) {
                mode |= 0o400;
            }
            if file.mode().contains(FileMode::WRITE) {
                mode |= 0o200;
            }
            (mode, Body::Link(Arc::new(FdLink { task: self.task.clone(), fd })))
        };
        let ino = self.ino(fd as u32);
        Ok(Some(Node { ino, mode, owner: (creds.euid, creds.egid), body }))
    }

    fn list(&self, cursor: u64, out: &mut Lister<'_>) -> Result<()> {
        let task = self.task.upgrade().ok_or(Errno::ENOENT)?;
        let Some(files) = inspect(&task, || task.files())? else { return Ok(()) };
        let kind = if self.info { 8 } else { 10 };
        let mut from = u32::try_from(cursor).unwrap_or(u32::MAX);
        while let Some((fd, _)) = files.next(from) {
            from = fd.saturating_add(1);
            if !out(u64::from(from), format!("{fd}").as_bytes(), self.ino(fd), kind) {
                break;
            }
        }
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }
}

fn open_file(task: &Weak<Task>, fd: i32) -> Result<Arc<File>> {
    let task = task.upgrade().ok_or(Errno::ENOENT)?;
    inspect(&task, || task.files()?.get_any(fd).ok())?.ok_or(Errno::ENOENT)
}

struct FdLink {
    task: Weak<Task>,
    fd: i32,
}

impl Target for FdLink {
    fn text(&self) -> Result<Vec<u8>> {
        describe(&open_file(&self.task, self.fd)?.path)
    }
    fn jump(&self) -> Result<Option<Path>> {
        Ok(Some(open_file(&self.task, self.fd)?.path.clone()))
    }
}

struct FdInfo {
    task: Weak<Task>,
    fd: i32,
}

impl Text for FdInfo {
    fn show(&self, out: &mut Vec<u8>) -> Result<()> {
        let file = open_file(&self.task, self.fd)?;
        let task = self.task.upgrade().ok_or(Errno::ENOENT)?;
        let cloexec = task.files().is_some_and(|f| f.cloexec(self.fd).unwrap_or(false));
        let flags = file.flags() | if cloexec { 0o2_000_000 } else { 0 };
        let position = file.position().now();
        put!(out, "pos:\t{position}\nflags:\t0{flags:o}\nmnt_id:\t{}\n", file.path.mount.id);
        if let Some(table) = task.files() {
            let viewer = process::try_current();
            let ns = viewer.as_ref().map_or(task.group.pid_ns(), |viewer| viewer.group.pid_ns());
            crate::locks::of_file(&file, table.id(), ns, out);
        }
        let _ = file.ops().fdinfo(&file, &mut crate::Out(out));
        Ok(())
    }
}

/// `/proc/PID/ns`.
pub(crate) struct Namespaces {
    pub(crate) task: Weak<Task>,
    pub(crate) base: u64,
}

const NAMES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts"];

impl Directory for Namespaces {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let found = NAMES.iter().position(|own| own.as_bytes() == name);
        Ok(found.map(|index| {
            let link = NsLink { task: self.task.clone(), index };
            let ino = self.base + (3 << 24) + index as u64;
            Node { ino, mode: 0o777, owner: (0, 0), body: Body::Link(Arc::new(link)) }
        }))
    }

    fn list(&self, cursor: u64, out: &mut Lister<'_>) -> Result<()> {
        let first = usize::try_from(cursor).unwrap_or(usize::MAX);
        for (index, name) in NAMES.iter().enumerate().skip(first) {
            let ino = self.base + (3 << 24) + index as u64;
            if !out(index as u64 + 1, name.as_bytes(), ino, 10) {
                break;
            }
        }
        Ok(())
    }
}

struct NsLink {
    task: Weak<Task>,
    index: usize,
}

impl NsLink {
    fn namespace(&self) -> Result<Namespace> {
        let task = self.task.upgrade().ok_or(Errno::ENOENT)?;
        let ns = inspect(&task, || task.ns())?;
        Ok(match NAMES.get(self.index).copied().ok_or(Errno::ENOENT)? {
            "cgroup" => Namespace::Cgroup(ns.cgroup.clone()),
            "ipc" => Namespace::Ipc(ns.ipc.clone()),
            "mnt" => Namespace::Mount(ns.mounts.clone()),
            "net" => Namespace::Net(ns.net.clone()),
            "pid" => Namespace::Pid(task.pid().namespace().clone()),
            "pid_for_children" => Namespace::Pid(process::namespaces::for_children(&task)),
            "user" => Namespace::User(task.creds().user_ns.clone()),
            _ => Namespace::Uts(ns.uts.clone()),
        })
    }
}

impl Target for NsLink {
    fn text(&self) -> Result<Vec<u8>> {
        Ok(process::nsfs::text(&self.namespace()?).into_bytes())
    }
    fn jump(&self) -> Result<Option<Path>> {
        process::nsfs::path(&self.namespace()?).map(Some)
    }
}
