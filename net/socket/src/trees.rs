//! What families show in `/proc/net` and `/proc/sys/net`: nodes of the namespace that looks.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::Write;
use core::ops::RangeInclusive;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use pseudo::{Body, Directory, Lister, Node, Text};

use crate::namespace::NetNamespace;

static TREES: LockClass = LockClass::new("socket.trees", 573);

/// Makes the node of a name for a namespace, which the node must hold weakly: names that are cached
/// would keep it alive. The node's inode number is replaced by one of the namespace and the name.
pub type MakeNode = fn(&Arc<NetNamespace>) -> Node;

/// Names with what makes their nodes, in order of names.
pub struct Registry {
    entries: SpinLock<Vec<(&'static str, MakeNode)>>,
}

/// `/proc/net`.
pub static PROC_NET: Registry = Registry::new();
/// `/proc/sys/net`.
pub static SYS_NET: Registry = Registry::new();
/// `/proc/sys/net/core`.
pub static SYS_NET_CORE: Registry = Registry::new();

impl Registry {
    const fn new() -> Registry {
        Registry { entries: SpinLock::new(&TREES, Vec::new()) }
    }

    /// Adds a name; one that is there already stays.
    pub fn register(&self, name: &'static str, make: MakeNode) {
        let mut entries = self.entries.lock();
        if let Err(at) = entries.binary_search_by_key(&name, |entry| entry.0) {
            entries.insert(at, (name, make));
        }
    }

    /// What makes the node of `name`, and its place in the order.
    pub fn find(&self, name: &[u8]) -> Option<(usize, MakeNode)> {
        let entries = self.entries.lock();
        let at = entries.binary_search_by(|entry| entry.0.as_bytes().cmp(name)).ok()?;
        entries.get(at).map(|entry| (at, entry.1))
    }

    /// The entry at a place in the order.
    pub fn at(&self, index: usize) -> Option<(&'static str, MakeNode)> {
        self.entries.lock().get(index).copied()
    }
}

type ShowText = fn(&NetNamespace, &mut Vec<u8>) -> Result<()>;
type StoreText = fn(&NetNamespace, &[u8]) -> Result<()>;

/// Names in use do not keep a namespace alive: its files are gone with it.
struct NamespaceText {
    namespace: Weak<NetNamespace>,
    show: ShowText,
    store: Option<StoreText>,
}

impl NamespaceText {
    fn namespace(&self) -> Result<Arc<NetNamespace>> {
        self.namespace.upgrade().ok_or(Errno::ENOENT)
    }
}

impl Text for NamespaceText {
    fn show(&self, out: &mut Vec<u8>) -> Result<()> {
        (self.show)(&*self.namespace()?, out)
    }
    fn store(&self, bytes: &[u8]) -> Result<()> {
        let store = self.store.ok_or(Errno::EIO)?;
        store(&*self.namespace()?, bytes)
    }
}

/// A file of `/proc/net` that everybody may read.
pub fn show(namespace: &Arc<NetNamespace>, show: ShowText) -> Node {
    let text = NamespaceText { namespace: Arc::downgrade(namespace), show, store: None };
    pseudo::file(0o444, text)
}

/// A file of `/proc/sys/net` that everybody may read and root may write.
pub fn knob(namespace: &Arc<NetNamespace>, show: ShowText, store: StoreText) -> Node {
    let text = NamespaceText { namespace: Arc::downgrade(namespace), show, store: Some(store) };
    pseudo::file(0o644, text)
}

/// A registry as the directory of a namespace.
struct RegistryDir {
    registry: &'static Registry,
    namespace: Weak<NetNamespace>,
    /// Tells the directories of one namespace apart.
    region: u64,
}

/// Inode numbers of what a namespace shows: they stay the same while it lives.
fn number(namespace: &NetNamespace, region: u64, index: u64) -> u64 {
    1 << 62 | (namespace.id & 0xffff_ffff) << 24 | region << 16 | index
}

impl Directory for RegistryDir {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let Some(namespace) = self.namespace.upgrade() else { return Ok(None) };
        Ok(self.registry.find(name).map(|(index, make)| {
            let ino = number(&namespace, self.region, index as u64 + 1);
            Node { ino, ..make(&namespace) }
        }))
    }

    fn list(&self, cursor: u64, out: &mut Lister<'_>) -> Result<()> {
        let Some(namespace) = self.namespace.upgrade() else { return Ok(()) };
        let mut index = cursor;
        while let Some((name, make)) =
            self.registry.at(usize::try_from(index).unwrap_or(usize::MAX))
        {
            let kind = make(&namespace).dirent_kind();
            index += 1;
            if !out(index, name.as_bytes(), number(&namespace, self.region, index), kind) {
                break;
            }
        }
        Ok(())
    }
}

fn directory(registry: &'static Registry, namespace: &Arc<NetNamespace>, region: u64) -> Node {
    let dir = RegistryDir { registry, namespace: Arc::downgrade(namespace), region };
    let ino = number(namespace, region, 0);
    Node { ino, mode: 0o555, owner: (0, 0), body: Body::Dir(Arc::new(dir)) }
}

/// `/proc/PID/net` of a process in this namespace.
pub fn proc_net(namespace: &Arc<NetNamespace>) -> Node {
    directory(&PROC_NET, namespace, 1)
}

/// `/proc/sys/net` for who is in this namespace.
pub fn sys_net(namespace: &Arc<NetNamespace>) -> Node {
    directory(&SYS_NET, namespace, 2)
}

/// A number as these files have it: decimal, in `range`.
pub fn parse(bytes: &[u8], range: RangeInclusive<i64>) -> Result<i64> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    let value: i64 = text.parse().map_err(|_| Errno::EINVAL)?;
    if range.contains(&value) { Ok(value) } else { Err(Errno::EINVAL) }
}

/// Appends a number and a line's end.
pub fn put_number(out: &mut Vec<u8>, value: i64) {
    let mut text = alloc::string::String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "{value}");
    out.extend_from_slice(text.as_bytes());
}

macro_rules! core_limits {
    ($($name:ident: $least:expr),* $(,)?) => {$(
        SYS_NET_CORE.register(stringify!($name), |namespace| {
            knob(
                namespace,
                |namespace, out| {
                    // Relaxed: a lone number.
                    put_number(out, namespace.core.$name.load(Ordering::Relaxed).into());
                    Ok(())
                },
                |namespace, bytes| {
                    let value = parse(bytes, $least..=i64::from(i32::MAX))?;
                    namespace.core.$name.store(value as i32, Ordering::Relaxed);
                    Ok(())
                },
            )
        });
    )*};
}

/// Shows the limits that every socket obeys.
pub fn init() {
    core_limits! {
        optmem_max: 0,
        rmem_default: 2304,
        rmem_max: 2304,
        somaxconn: 0,
        wmem_default: 4608,
        wmem_max: 4608,
    }
    SYS_NET.register("core", |namespace| directory(&SYS_NET_CORE, namespace, 3));
}
