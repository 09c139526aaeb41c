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
    numbers: Numbers,
    /// Whose interfaces are in it.
    namespace: Option<Weak<NetNamespace>>,
}

/// Inode numbers by path: kept from one tree to the next.
#[derive(Default)]
struct Numbers(BTreeMap<String, u64>);

impl Numbers {
    fn of(&mut self, path: &str) -> u64 {
        let next = self.0.len() as u64 + 2;
        *self.0.entry(path.to_string()).or_insert(next)
    }
}

impl Builder {
    /// The directory at a path, made with all above it.
    fn dir_at(&mut self, path: &str) -> Option<&mut Dir> {
        let mut at = &mut self.root;
        let mut walked = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            walked.push('/');
            walked.push_str(part);
            let ino = self.numbers.of(&walked);
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

    /// Puts a node at a path.
    pub(crate) fn put(&mut self, path: &str, node: Node) {
        let Some((parent, name)) = path.rsplit_once('/') else { return };
        let ino = self.numbers.of(&format!("/{path}"));
        if let Some(dir) = self.dir_at(parent) {
            dir.entries.insert(name.to_string(), Entry::Leaf(Node { ino, ..node }));
        }
    }

    /// A file with one line.
    pub(crate) fn line(&mut self, path: &str, text: impl Fn() -> String + Send + Sync + 'static) {
        self.put(path, crate::line(text));
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
    numbers: Numbers,
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
    let numbers = {
        let mut newest = NEWEST.lock();
        match newest.get_mut(&cookie) {
            Some(tree) if tree.generation == generation => return tree.root.clone(),
            Some(tree) => core::mem::take(&mut tree.numbers),
            None => Numbers::default(),
        }
    };
    let mut builder = Builder {
        root: Dir { ino: 1, entries: BTreeMap::new() },
        numbers,
        namespace: namespace.map(Arc::downgrade),
    };
    build(&mut builder, namespace_of);
    let root = Arc::new(builder.root);
    let fresh = Newest {
        namespace: namespace.map_or_else(Weak::new, Arc::downgrade),
        generation,
        root: root.clone(),
        numbers: builder.numbers,
    };
    let old = {
        let mut newest = NEWEST.lock();
        let mut old = Vec::from_iter(newest.insert(cookie, fresh));
        // Those of namespaces that ended go too.
        newest.retain(|key, tree| {
            *key == cookie || tree.namespace.strong_count() > 0 || {
                old.push(Newest {
                    namespace: Weak::new(),
                    generation: 0,
                    root: tree.root.clone(),
                    numbers: core::mem::take(&mut tree.numbers),
                });
                false
            }
        });
        old
    };
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
    fn numbers_stay() {
        let mut tree = Builder::default();
        tree.fixed("a/b", "1");
        let first = tree.numbers.of("/a/b");
        let mut again = Builder { numbers: tree.numbers, ..Builder::default() };
        again.fixed("a/c", "2");
        again.fixed("a/b", "1");
        assert_eq!(again.numbers.of("/a/b"), first);
        assert_ne!(again.numbers.of("/a/c"), first);
    }
}
