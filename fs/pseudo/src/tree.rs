//! Directories whose names are known when they are made.

use crate::node::{Body, Directory, Identity, Lister, Node, Target, Text};
use abi::{Errno, Result};
use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

static NEXT_INO: AtomicU64 = AtomicU64::new(0xf000_0000);

fn next_ino() -> u64 {
    NEXT_INO.fetch_add(1, Ordering::Relaxed)
}

/// A fixed set of names, listed in the order they were added.
#[derive(Default)]
pub struct Tree {
    entries: Vec<(Cow<'static, str>, Node)>,
}

impl Tree {
    /// An empty directory.
    pub fn new() -> Tree {
        Tree::default()
    }
    /// Adds an entry.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, node: Node) -> Tree {
        self.entries.push((name.into(), node));
        self
    }
    /// Adds a directory.
    #[must_use]
    pub fn dir(self, name: impl Into<Cow<'static, str>>, dir: Tree) -> Tree {
        self.with(name, dir.into_node())
    }
    fn find(&self, name: &[u8]) -> Option<&Node> {
        self.entries.iter().find(|(own, _)| own.as_bytes() == name).map(|(_, node)| node)
    }

    /// The directory as a node.
    pub fn into_node(self) -> Node {
        Node { ino: next_ino(), mode: 0o555, owner: (0, 0), body: Body::Dir(Arc::new(self)) }
    }
}

impl Directory for Tree {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        Ok(self.find(name).cloned())
    }

    fn identify(&self, name: &[u8]) -> Result<Option<Identity>> {
        Ok(self.find(name).map(|node| Identity { ino: node.ino, owner: node.owner }))
    }

    fn list(&self, cursor: u64, out: &mut Lister<'_>) -> Result<()> {
        let first = usize::try_from(cursor).unwrap_or(usize::MAX);
        for (index, (name, node)) in self.entries.iter().enumerate().skip(first) {
            if !out(index as u64 + 1, name.as_bytes(), node.ino, node.dirent_kind()) {
                break;
            }
        }
        Ok(())
    }
}

struct Show<F>(F);
impl<F: Fn(&mut Vec<u8>) -> Result<()> + Send + Sync> Text for Show<F> {
    fn show(&self, out: &mut Vec<u8>) -> Result<()> {
        (self.0)(out)
    }
    fn store(&self, _: &[u8]) -> Result<()> {
        Err(Errno::EIO)
    }
}

struct Knob<F, G>(F, G);
impl<F, G> Text for Knob<F, G>
where
    F: Fn(&mut Vec<u8>) -> Result<()> + Send + Sync,
    G: Fn(&[u8]) -> Result<()> + Send + Sync,
{
    fn show(&self, out: &mut Vec<u8>) -> Result<()> {
        (self.0)(out)
    }
    fn store(&self, bytes: &[u8]) -> Result<()> {
        (self.1)(bytes)
    }
}

struct Fixed(&'static str);
impl Target for Fixed {
    fn text(&self) -> Result<Vec<u8>> {
        if self.0.is_empty() { Err(Errno::ENOENT) } else { Ok(self.0.into()) }
    }
}

/// A file with these permission bits.
pub fn file(mode: u32, text: impl Text + 'static) -> Node {
    Node { ino: next_ino(), mode, owner: (0, 0), body: Body::File(Arc::new(text)) }
}

/// A file that everybody may read.
pub fn show(show: impl Fn(&mut Vec<u8>) -> Result<()> + Send + Sync + 'static) -> Node {
    file(0o444, Show(show))
}

/// A file that everybody may read and root may write.
pub fn knob(
    show: impl Fn(&mut Vec<u8>) -> Result<()> + Send + Sync + 'static,
    store: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static,
) -> Node {
    file(0o644, Knob(show, store))
}

/// A symbolic link with a fixed text.
pub fn link(text: &'static str) -> Node {
    Node { ino: next_ino(), mode: 0o777, owner: (0, 0), body: Body::Link(Arc::new(Fixed(text))) }
}
