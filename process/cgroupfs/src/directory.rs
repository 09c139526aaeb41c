//! A group as a directory.

use crate::{cpuacct, cpuset, devices, freezer, pids, version1, version2};
use abi::stat::{DT_DIR, DT_REG};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use process::cgroup::{self, Group, Mode};
use pseudo::{Access, Body, Changes, Directory, Lister, Node, Text};
use vfs::cred::Creds;

/// What writes do; `opener` has opened the file.
pub(crate) type Store = fn(group: &Arc<Group>, bytes: &[u8], opener: &Arc<Creds>) -> Result<()>;

/// A file that groups have.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) mode: u32,
    /// Which groups have it.
    pub(crate) is_in: fn(&Group) -> bool,
    pub(crate) show: fn(&Arc<Group>, &mut Vec<u8>) -> Result<()>,
    pub(crate) store: Option<Store>,
}

pub(crate) fn always(_: &Group) -> bool {
    true
}

pub(crate) fn in_root(group: &Group) -> bool {
    group.is_root()
}

pub(crate) fn below_root(group: &Group) -> bool {
    !group.is_root()
}

/// Files that tell of changes.
pub(crate) const TOLD: [&str; 2] = ["cgroup.events", "pids.events"];

/// Numbers between those of two groups: one for each file.
const FILES: u64 = 1 << 12;

/// The tables of the controllers' files: of version 1, of version 2. Each has room for 100.
const CONTROLLERS: &[(&[Entry], &[Entry])] = &[
    // One line each.
    (cpuset::FILES, cpuset::UNIFIED),
    (cpuacct::FILES, cpuacct::UNIFIED),
    (devices::FILES, &[]),
    (freezer::FILES, freezer::UNIFIED),
    (pids::FILES, pids::FILES),
];

/// The files of a group, each with its number.
fn entries(group: &Group) -> impl Iterator<Item = (u64, &'static Entry)> {
    let is_unified = group.hierarchy().is_unified();
    let core = if is_unified { version2::FILES } else { version1::FILES };
    let controllers =
        CONTROLLERS.iter().map(move |(first, second)| if is_unified { *second } else { *first });
    let tables = core::iter::once(core).chain(controllers);
    (1..).step_by(100).zip(tables).flat_map(|(first, table)| (first..).zip(table))
}

/// The inode number of the file `name` of a group.
pub(crate) fn file_ino(group: &Group, name: &str) -> Option<u64> {
    let (number, _) = entries(group).find(|(_, entry)| entry.name == name)?;
    Some(dir_ino(group) + number)
}

fn dir_ino(group: &Group) -> u64 {
    group.id * FILES
}

/// The directory of a group.
pub(crate) struct GroupDir(pub(crate) Arc<Group>);

impl GroupDir {
    /// A group's directory as a node.
    pub(crate) fn node(group: Arc<Group>) -> Node {
        let own = group.settings.mode("");
        let mode = own.unwrap_or(Mode { bits: 0o555, owner: (0, 0) });
        Node {
            ino: dir_ino(&group),
            mode: mode.bits,
            owner: mode.owner,
            body: Body::Dir(Arc::new(GroupDir(group))),
        }
    }

    fn file(&self, number: u64, entry: &'static Entry) -> Node {
        let usual = Mode { bits: entry.mode, owner: self.0.settings.maker };
        let mode = self.0.settings.mode(entry.name).unwrap_or(usual);
        let file = GroupFile { group: self.0.clone(), entry };
        Node {
            ino: dir_ino(&self.0) + number,
            mode: mode.bits,
            owner: mode.owner,
            body: Body::File(Arc::new(file)),
        }
    }
}

impl Directory for GroupDir {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let group = &self.0;
        if group.is_removed() {
            return Ok(None);
        }
        let found = entries(group).find(|(_, entry)| entry.name.as_bytes() == name);
        if let Some((number, entry)) = found.filter(|(_, entry)| (entry.is_in)(group)) {
            return Ok(Some(self.file(number, entry)));
        }
        Ok(group.child(name).map(GroupDir::node))
    }

    fn list(&self, cursor: u64, out: &mut Lister<'_>) -> Result<()> {
        let group = &self.0;
        if group.is_removed() {
            return Ok(());
        }
        for (number, entry) in entries(group) {
            if number < cursor || !(entry.is_in)(group) {
                continue;
            }
            let ino = dir_ino(group) + number;
            if !out(number + 1, entry.name.as_bytes(), ino, DT_REG) {
                return Ok(());
            }
        }
        // Groups have numbers from 2 on; their places in the listing follow the files'.
        let mut id = cursor.saturating_sub(FILES);
        while let Some(child) = group.child_from(id) {
            id = child.id + 1;
            if !out(FILES + id, &child.name(), dir_ino(&child), DT_DIR) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }

    fn nlink(&self) -> u32 {
        u32::try_from(self.0.child_count()).unwrap_or(u32::MAX).saturating_add(2)
    }

    fn make(&self, name: &[u8], access: Access) -> Result<Node> {
        let is_file = entries(&self.0)
            .any(|(_, entry)| entry.name.as_bytes() == name && (entry.is_in)(&self.0));
        if is_file {
            return Err(Errno::EEXIST);
        }
        let mode = Mode { bits: access.mode, owner: access.owner };
        cgroup::create(&self.0, name, mode).map(GroupDir::node)
    }

    fn remove(&self, name: &[u8]) -> Result<()> {
        cgroup::remove(&self.0, name)
    }

    fn rename(&self, old: &[u8], new: &[u8], is_here: bool) -> Result<()> {
        // Version 2 has no rename(2), and in version 1 a group stays below its parent.
        if self.0.hierarchy().is_unified() {
            return Err(Errno::EPERM);
        }
        if !is_here {
            return Err(Errno::EIO);
        }
        cgroup::rename(&self.0, old, new)
    }

    fn keep(&self, access: Access) {
        self.0.settings.set_mode("", Mode { bits: access.mode, owner: access.owner });
    }
}

/// A file of a group.
struct GroupFile {
    group: Arc<Group>,
    entry: &'static Entry,
}

impl GroupFile {
    /// The group, unless `rmdir(2)` has taken it away: then `ENODEV`.
    fn group(&self) -> Result<&Arc<Group>> {
        if self.group.is_removed() { Err(Errno::ENODEV) } else { Ok(&self.group) }
    }
}

impl Text for GroupFile {
    fn show(&self, out: &mut Vec<u8>) -> Result<()> {
        (self.entry.show)(self.group()?, out)
    }

    fn store_as(&self, bytes: &[u8], opener: &Arc<Creds>) -> Result<()> {
        let store = self.entry.store.ok_or(Errno::EINVAL)?;
        store(self.group()?, bytes.trim_ascii(), opener)
    }

    fn changes(&self) -> Option<Changes> {
        let count = self.group.event_count.load(Ordering::Acquire);
        let is_told = TOLD.contains(&self.entry.name);
        is_told.then(|| Changes { queue: self.group.events.clone(), count })
    }

    fn keep(&self, access: Access) {
        let mode = Mode { bits: access.mode, owner: access.owner };
        self.group.settings.set_mode(self.entry.name, mode);
    }
}
