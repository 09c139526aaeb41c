//! What families show in `/proc/net` and `/proc/sys/net`: nodes of the namespace that looks.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use pseudo::{Node, Text};
use vfs::Creds;

use crate::namespace::NetNamespace;

static TREES: LockClass = LockClass::new("socket.trees", 573);

/// Makes the node of a name for a namespace. The inode number is the namespace's business: what
/// procfs shows gets one from the namespace and the name, so 0 will do.
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

struct NamespaceText {
    namespace: Arc<NetNamespace>,
    show: ShowText,
    store: Option<StoreText>,
}

impl Text for NamespaceText {
    fn show(&self, out: &mut Vec<u8>) -> Result<()> {
        (self.show)(&self.namespace, out)
    }
    fn store(&self, bytes: &[u8]) -> Result<()> {
        self.store.map_or(Err(Errno::EIO), |store| store(&self.namespace, bytes))
    }
    fn store_as(&self, bytes: &[u8], _opener: &Arc<Creds>) -> Result<()> {
        self.store(bytes)
    }
}

/// A file of `/proc/net` that everybody may read.
pub fn show(namespace: &Arc<NetNamespace>, show: ShowText) -> Node {
    let text = NamespaceText { namespace: namespace.clone(), show, store: None };
    pseudo::file(0o444, text)
}

/// A file of `/proc/sys/net` that everybody may read and the namespace's root may write.
pub fn knob(namespace: &Arc<NetNamespace>, show: ShowText, store: StoreText) -> Node {
    let text = NamespaceText { namespace: namespace.clone(), show, store: Some(store) };
    pseudo::file(0o644, text)
}
