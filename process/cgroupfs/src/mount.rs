//! The types `cgroup` and `cgroup2`.

use crate::directory::{GroupDir, TOLD, file_ino};
use abi::{Errno, Result};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};
use process::cgroup::{self, Controllers, Group, Wanted};
use vfs::{Cap, FileSystemType, MountRequest, SuperBlock};

static CLASS: LockClass = LockClass::new("cgroupfs.supers", 284);

const MAGIC_1: u64 = 0x27_e0eb;
const MAGIC_2: u64 = 0x6367_7270;

/// What a super block shows.
struct Shown {
    /// The root of the hierarchy.
    root: Arc<Group>,
    /// The group that is the root directory: that of the mounter's namespace.
    top: Arc<Group>,
    sb: Weak<SuperBlock>,
    /// Tells its super block from all others.
    id: u64,
}

/// Super blocks in use.
static SUPERS: SpinLock<Vec<Shown>> = SpinLock::new(&CLASS, Vec::new());

/// The super block that shows the hierarchy from the caller's namespace on. `cgroup::mount` has counted
/// the mount.
fn super_block(fs_type: &'static str, magic: u64, root: &Arc<Group>) -> Arc<SuperBlock> {
    let top = cgroup::current_namespace().root(root).clone();
    if let Some(found) = find(fs_type, &top) {
        // It was counted when it was made.
        cgroup::unmounted(root);
        return found;
    }
    static LAST: AtomicU64 = AtomicU64::new(0);
    let id = LAST.fetch_add(1, Ordering::Relaxed);
    let settings = Arc::new(Settings { root: root.clone(), id });
    let node = GroupDir::node(top.clone());
    let sb = pseudo::super_block(fs_type, magic, node, Some(settings));
    let shown = Shown { root: root.clone(), top, sb: Arc::downgrade(&sb), id };
    let mut supers = SUPERS.lock();
    supers.push(shown);
    drop(supers);
    sb
}

fn find(fs_type: &str, top: &Arc<Group>) -> Option<Arc<SuperBlock>> {
    let known = {
        let supers = SUPERS.lock();
        supers.iter().find(|shown| Arc::ptr_eq(&shown.top, top)).map(|shown| shown.sb.clone())
    };
    // Not one that is being put away.
    vfs::find_super(fs_type, known?.upgrade()?.dev)
}

/// What `/proc/mounts` says of a super block, and what becomes of the hierarchy behind it.
struct Settings {
    root: Arc<Group>,
    id: u64,
}

impl pseudo::Settings for Settings {
    fn change(&self, text: &[u8]) -> Result<()> {
        let hierarchy = self.root.hierarchy();
        if hierarchy.is_unified() {
            return unified_options(text);
        }
        let wanted = parse(text)?;
        let has_other = wanted.name.is_some_and(|name| name != hierarchy.name)
            || !wanted.controllers.is_empty() && wanted.controllers != hierarchy.controllers;
        if has_other {
            return Err(Errno::EINVAL);
        }
        if !wanted.release_agent.is_empty() {
            // As a write to the file: the kernel runs it as root of the machine.
            if !process::try_current().is_none_or(|task| task.capable(Cap::SYS_ADMIN)) {
                return Err(Errno::EPERM);
            }
            *hierarchy.release_agent.lock() = wanted.release_agent;
        }
        Ok(())
    }

    fn show(&self, out: &mut dyn Write) -> fmt::Result {
        let hierarchy = self.root.hierarchy();
        if hierarchy.is_unified() {
            return Ok(());
        }
        for name in hierarchy.controllers.names() {
            write!(out, ",{name}")?;
        }
        let switches = [(hierarchy.is_without_prefix, "noprefix"), (hierarchy.has_xattr, "xattr")];
        for (_, word) in switches.iter().filter(|(is_set, _)| *is_set) {
            write!(out, ",{word}")?;
        }
        let agent = hierarchy.release_agent.lock().clone();
        if !agent.is_empty() {
            write!(out, ",release_agent={}", text(&agent))?;
        }
        if hierarchy.clones_children {
            out.write_str(",clone_children")?;
        }
        if !hierarchy.name.is_empty() {
            write!(out, ",name={}", text(&hierarchy.name))?;
        }
        Ok(())
    }

    fn unmounted(&self) {
        let gone = {
            let mut supers = SUPERS.lock();
            let at = supers.iter().position(|shown| shown.id == self.id);
            at.map(|at| supers.swap_remove(at))
        };
        drop(gone);
        cgroup::unmounted(&self.root);
    }
}

fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap_or("?")
}

/// The options of version 1. Errors: `EINVAL` for what is none.
fn parse(data: &[u8]) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    for word in data.split(|&byte| byte == b',').filter(|word| !word.is_empty()) {
        let (key, value) = match word.iter().position(|&byte| byte == b'=') {
            Some(at) => (word.get(..at), word.get(at + 1..)),
            None => (Some(word), None),
        };
        match (key.unwrap_or_default(), value) {
            (b"all", None) => wanted.all = true,
            (b"none", None) => wanted.none = true,
            (b"noprefix", None) => wanted.is_without_prefix = true,
            (b"clone_children", None) => wanted.clones_children = true,
            (b"xattr", None) => wanted.has_xattr = true,
            (b"release_agent", Some(agent)) if wanted.release_agent.is_empty() => {
                wanted.release_agent = agent.into();
            }
            (b"name", Some(name)) if wanted.name.is_none() => {
                let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_".contains(byte);
                if name.is_empty() || name.len() >= 64 || !name.iter().all(is_word) {
                    return Err(Errno::EINVAL);
                }
                wanted.name = Some(name.into());
            }
            (name, None) => {
                wanted.controllers.insert(Controllers::named(name).ok_or(Errno::EINVAL)?);
            }
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(wanted)
}

/// The options of version 2: those that only tune or restrict are not there yet.
fn unified_options(data: &[u8]) -> Result<()> {
    if data.is_empty() { Ok(()) } else { Err(Errno::EINVAL) }
}

struct Version1;

impl FileSystemType for Version1 {
    fn name(&self) -> &'static str {
        "cgroup"
    }
    fn userns_mount(&self) -> bool {
        true
    }
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        may_mount(request)?;
        let is_machine_wide = request.ctx.creds.capable(Cap::SYS_ADMIN);
        let root = cgroup::mount(parse(request.data)?, is_machine_wide)?;
        Ok(super_block("cgroup", MAGIC_1, &root))
    }
}

struct Version2;

impl FileSystemType for Version2 {
    fn name(&self) -> &'static str {
        "cgroup2"
    }
    fn userns_mount(&self) -> bool {
        true
    }
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        may_mount(request)?;
        unified_options(request.data)?;
        Ok(super_block("cgroup2", MAGIC_2, cgroup::mount_unified()))
    }
}

/// cgroup_namespaces(7): `EPERM` without `CAP_SYS_ADMIN` over the namespace whose groups are shown.
fn may_mount(request: &MountRequest<'_>) -> Result<()> {
    let ns = cgroup::current_namespace();
    let may = request.ctx.creds.ns_capable(&ns.user_ns, Cap::SYS_ADMIN);
    if may { Ok(()) } else { Err(Errno::EPERM) }
}

/// `cgroup.events` or `pids.events` of `group` read otherwise now.
fn told(group: &Arc<Group>) {
    let blocks: Vec<Arc<SuperBlock>> = {
        let supers = SUPERS.lock();
        let same = supers
            .iter()
            .filter(|shown| core::ptr::eq(&**shown.root.hierarchy(), &**group.hierarchy()));
        same.filter_map(|shown| shown.sb.upgrade()).collect()
    };
    for sb in &blocks {
        for name in TOLD {
            let inode = file_ino(group, name).and_then(|ino| pseudo::inode_in_use(sb, ino));
            if let Some(inode) = inode {
                vfs::notify::to_inode(&inode, vfs::notify::IN_MODIFY);
            }
        }
    }
}

/// Makes both types known to `mount(2)`.
pub fn init() {
    vfs::register_file_system(&Version1);
    vfs::register_file_system(&Version2);
    cgroup::set_events_hook(told);
    cgroup::devices::init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_version_1() {
        let wanted = parse(b"none,name=systemd,xattr,release_agent=/a b").expect("options");
        assert!(wanted.none && wanted.has_xattr && wanted.controllers.is_empty());
        assert_eq!(wanted.name.as_deref(), Some(b"systemd".as_slice()));
        assert_eq!(wanted.release_agent, b"/a b");
        assert_eq!(parse(b"pids").expect("options").controllers, Controllers::PIDS);
        for wrong in ["nosuch", "name=", "name=a/b", "name=a,name=b", "pids=1", "xattr=1"] {
            assert_eq!(parse(wrong.as_bytes()).err(), Some(Errno::EINVAL), "{wrong}");
        }
    }
}
