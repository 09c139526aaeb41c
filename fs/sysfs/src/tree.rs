//! Paths to nodes.

use crate::{disks, dmi, functions, memory, networks, nodes, system, uevents};
use abi::Result;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use pseudo::{Body, Directory, Lister, Node, Target};
use socket::NetNamespace;

static TREE: LockClass = LockClass::new("sysfs.tree", 296);

/// A directory of the newest tree.
#[derive(Default)]
struct Dir {
    ino: u64,
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    Dir(Dir),
    Leaf(Node),
}

/// What is built: nodes by path.
#[derive(Default)]
pub(crate) struct Builder {
    root: Dir,
    /// Whose interfaces are in it.
    namespace: Option<Weak<NetNamespace>>,
    /// What the files that are put are of, if something else may have its name later.
    owner: u64,
}

/// The inode number of a path, the same in each tree: an inode in use is found by its number. Paths are told
/// apart by 62 bits of their hash (FNV-1a), so that no list of all that ever were has to be kept.
fn number(path: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let hash = path.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    // Not the root's, and positive for programs that take it as signed.
    hash >> 2 | 1 << 62
}

impl Builder {
    /// The directory at a path, made with all above it.
    fn dir_at(&mut self, path: &str) -> Option<&mut Dir> {
        let mut at = &mut self.root;
        let mut walked = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            walked.push('/');
            walked.push_str(part);
            let ino = number(&walked);
            let entry = at.entries.entry(part.to_string());
            match entry.or_insert_with(|| Entry::Dir(Dir { ino, entries: BTreeMap::new() })) {
                Entry::Dir(dir) => at = dir,
                Entry::Leaf(_) => return None,
            }
        }
        Some(at)
    }

    /// Makes a directory.
    pub(crate) fn dir(&mut self, path: &str) {
        self.dir_at(path);
    }

    /// The files that are put until the next call are this one's: who has one open that was another's of the same
    /// name keeps that, and who opens it gets the new one. 0 for what has its name for good.
    pub(crate) fn set_owner(&mut self, owner: u64) {
        self.owner = owner;
    }

    /// Puts a node at a path.
    pub(crate) fn put(&mut self, path: &str, node: Node) {
        let Some((parent, name)) = path.rsplit_once('/') else { return };
        let ino = match self.owner {
            0 => number(&format!("/{path}")),
            owner => number(&format!("/{path}/{owner}")),
        };
        if let Some(dir) = self.dir_at(parent) {
            dir.entries.insert(name.to_string(), Entry::Leaf(Node { ino, ..node }));
        }
    }

    /// A file with one line.
    pub(crate) fn line(&mut self, path: &str, text: impl Fn() -> String + Send + Sync + 'static) {
        self.put(path, crate::line(text));
    }

    /// A file with one line that takes what root writes.
    pub(crate) fn knob(
        &mut self,
        path: &str,
        text: impl Fn() -> String + Send + Sync + 'static,
        set: impl Fn(&str) -> Result<()> + Send + Sync + 'static,
    ) {
        let show = move |out: &mut Vec<u8>| {
            out.extend_from_slice(text().as_bytes());
            out.push(b'\n');
            Ok(())
        };
        let store = move |bytes: &[u8]| {
            let text = core::str::from_utf8(bytes).map_err(|_| abi::Errno::EINVAL)?;
            set(text.trim_end_matches(['\n', '\0']))
        };
        self.put(path, pseudo::knob(show, store));
    }

    /// A file with one line that does not change.
    pub(crate) fn fixed(&mut self, path: &str, text: impl Into<String>) {
        let text = text.into();
        self.line(path, move || text.clone());
    }

    /// A `uevent` file: lines of `KEY=value`.
    pub(crate) fn uevent(&mut self, path: &str, lines: &[String]) {
        let mut text = lines.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        let device = path.to_string();
        let lines = text.clone();
        let namespace = self.namespace.clone();
        let node = pseudo::knob(
            move |out| {
                out.extend_from_slice(text.as_bytes());
                Ok(())
            },
            move |bytes| uevents::ask(&device, namespace.as_ref(), &lines, bytes),
        );
        self.put(&format!("{path}/uevent"), node);
    }

    /// A symbolic link at a path to another path of the tree.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        let from: Vec<&str> = path.split('/').collect();
        let target: Vec<&str> = to.split('/').collect();
        let common = from.iter().zip(&target).take_while(|(a, b)| a == b).count();
        // Links lead up to what both paths share, and end in a name.
        let common = common.min(from.len() - 1).min(target.len() - 1);
        let mut text = "../".repeat(from.len() - 1 - common);
        text.push_str(&target.get(common..).unwrap_or_default().join("/"));
        let body = Body::Link(Arc::new(To(text)));
        self.put(path, Node { ino: 0, mode: 0o777, owner: (0, 0), body });
    }

    /// What every device has: its place in a class or bus and, with a number, in `/sys/dev`.
    pub(crate) fn device(&mut self, path: &str, subsystem: &str, name: &str) {
        self.link(&format!("{path}/subsystem"), subsystem);
        let list = if subsystem.starts_with("bus/") { "devices/" } else { "" };
        self.link(&format!("{subsystem}/{list}{name}"), path);
    }
}

struct To(String);

impl Target for To {
    fn text(&self) -> Result<Vec<u8>> {
        Ok(self.0.clone().into_bytes())
    }
}

struct Newest {
    namespace: Weak<NetNamespace>,
    generation: u32,
    root: Arc<Dir>,
}

/// The tree of each network namespace that somebody looks from, by its cookie; 0 for none.
static NEWEST: SpinLock<BTreeMap<u64, Newest>> = SpinLock::new(&TREE, BTreeMap::new());

/// The tree as of now, as it is seen from a network namespace; without interfaces if there is none.
fn newest(namespace: Option<&Arc<NetNamespace>>) -> Arc<Dir> {
    let cookie = namespace.map_or(0, |namespace| namespace.cookie);
    let namespace_of = namespace.map(|namespace| &**namespace);
    let generation = vfs::dev::generation()
        .wrapping_add(networks::generation(namespace_of))
        .wrapping_add(disks::generation());
    if let Some(tree) = NEWEST.lock().get(&cookie)
        && tree.generation == generation
    {
        return tree.root.clone();
    }
    let namespace = namespace.map(Arc::downgrade);
    let root = Dir { ino: 1, entries: BTreeMap::new() };
    let mut builder = Builder { root, namespace: namespace.clone(), owner: 0 };
    build(&mut builder, namespace_of);
    let root = Arc::new(builder.root);
    let namespace = namespace.unwrap_or_default();
    let fresh = Newest { namespace, generation, root: root.clone() };
    let old = {
        let mut all = NEWEST.lock();
        let replaced = all.insert(cookie, fresh);
        // Those of namespaces that ended go too.
        let has_ended =
            |key: &u64, tree: &mut Newest| *key != cookie && tree.namespace.strong_count() == 0;
        let ended: Vec<(u64, Newest)> = all.extract_if(.., has_ended).collect();
        (replaced, ended)
    };
    // Outside of the lock.
    drop(old);
    root
}

fn build(tree: &mut Builder, namespace: Option<&NetNamespace>) {
    for path in [
        "block",
        "bus",
        "class",
        "dev/block",
        "dev/char",
        "devices",
        "firmware",
        "fs/cgroup",
        "kernel/config",
        "kernel/debug",
        "kernel/mm",
        "kernel/security",
        "module",
        "power",
    ] {
        tree.dir(path);
    }
    tree.line("kernel/uevent_seqnum", || uevents::sequence().to_string());
    system::add(tree);
    memory::add(tree);
    dmi::add(tree);
    functions::add(tree);
    disks::add(tree);
    networks::add(tree, namespace);
    nodes::add(tree);
}

/// What class or bus a device belongs to: the end of its link `subsystem`.
pub(crate) fn subsystem(device: &str, namespace: Option<&Weak<NetNamespace>>) -> Option<String> {
    let dir = At { path: format!("/{device}"), namespace: namespace.cloned() };
    let link = dir.with(|dir| match dir.entries.get("subsystem")? {
        Entry::Leaf(Node { body: Body::Link(to), .. }) => Some(to.clone()),
        _ => None,
    });
    let text = String::from_utf8(link.ok()??.text().ok()?).ok()?;
    text.rsplit('/').next().map(String::from)
}

/// The root directory, as it is seen from a network namespace.
pub(crate) fn root(namespace: Option<Weak<NetNamespace>>) -> Node {
    let dir = At { path: String::new(), namespace };
    Node { ino: 1, mode: 0o555, owner: (0, 0), body: Body::Dir(Arc::new(dir)) }
}

/// A directory: its path, looked up in the newest tree each time.
struct At {
    path: String,
    /// Whose interfaces it shows; the machine's if it was mounted before there was a namespace.
    namespace: Option<Weak<NetNamespace>>,
}

impl At {
    fn with<R>(&self, look: impl FnOnce(&Dir) -> R) -> Result<R> {
        let namespace = match &self.namespace {
            Some(namespace) => namespace.upgrade(),
            None => NetNamespace::initial().cloned(),
        };
        let root = newest(namespace.as_ref());
        let mut at = &*root;
        for part in self.path.split('/').filter(|part| !part.is_empty()) {
            match at.entries.get(part) {
                Some(Entry::Dir(dir)) => at = dir,
                _ => return Err(abi::Errno::ENOENT),
            }
        }
        Ok(look(at))
    }
}

impl Directory for At {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let Ok(name) = core::str::from_utf8(name) else { return Ok(None) };
        self.with(|dir| {
            Some(match dir.entries.get(name)? {
                Entry::Leaf(node) => node.clone(),
                Entry::Dir(child) => {
                    let path = format!("{}/{name}", self.path);
                    let namespace = self.namespace.clone();
                    let body = Body::Dir(Arc::new(At { path, namespace }));
                    Node { ino: child.ino, mode: 0o755, owner: (0, 0), body }
                }
            })
        })
    }

    fn list(&self, cursor: u64, out: &mut Lister<'_>) -> Result<()> {
        // Names are copied: `out` may touch user memory and so sleep for long.
        let names: Vec<(String, u64, u8)> = self.with(|dir| {
            let entry = |(name, entry): (&String, &Entry)| match entry {
                Entry::Leaf(node) => (name.clone(), node.ino, node.dirent_kind()),
                Entry::Dir(dir) => (name.clone(), dir.ino, 4),
            };
            dir.entries.iter().map(entry).collect()
        })?;
        let first = usize::try_from(cursor).unwrap_or(usize::MAX);
        for (index, (name, ino, kind)) in names.iter().enumerate().skip(first) {
            if !out(index as u64 + 1, name.as_bytes(), *ino, *kind) {
                break;
            }
        }
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tree: &Builder, path: &str) -> String {
        let mut at = &tree.root;
        for part in path.split('/') {
            match at.entries.get(part) {
                Some(Entry::Dir(dir)) => at = dir,
                Some(Entry::Leaf(Node { body: Body::Link(to), .. })) => {
                    return String::from_utf8(to.text().expect("text")).expect("utf-8");
                }
                _ => return String::new(),
            }
        }
        String::new()
    }

    #[test]
    fn links_are_relative() {
        let mut tree = Builder::default();
        tree.link("class/tty/ttyS0", "devices/platform/serial8250/tty/ttyS0");
        let disk = "devices/pci0000:00/0000:00:01.0/nvme/nvme0/nvme0n1";
        tree.link(&format!("{disk}/subsystem"), "class/block");
        tree.link(&format!("{disk}/device"), "devices/pci0000:00/0000:00:01.0/nvme/nvme0");
        let to = "../../devices/platform/serial8250/tty/ttyS0";
        assert_eq!(text(&tree, "class/tty/ttyS0"), to);
        assert_eq!(text(&tree, &format!("{disk}/subsystem")), "../../../../../../class/block");
        assert_eq!(text(&tree, &format!("{disk}/device")), "../../nvme0");
    }

    #[test]
    fn numbers_are_the_paths_own() {
        let number_in = |tree: &mut Builder, dir: &str, name: &str| match tree
            .dir_at(dir)
            .and_then(|dir| dir.entries.get(name))
        {
            Some(Entry::Leaf(node)) => node.ino,
            _ => 0,
        };
        let (mut first, mut second) = (Builder::default(), Builder::default());
        first.fixed("a/b", "1");
        second.fixed("a/c", "2");
        second.fixed("a/b", "1");
        let number = number_in(&mut first, "a", "b");
        assert!(number > 1);
        assert_eq!(number_in(&mut second, "a", "b"), number);
        assert_ne!(number_in(&mut second, "a", "c"), number);
    }
}
