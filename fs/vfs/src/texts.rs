//! What of a path is still to be walked: its text, and those of links on top.

use alloc::sync::Arc;

use smallvec::SmallVec;

use crate::dcache;

/// Whether a component is the last of its path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IsLast {
    Yes,
    No,
}

enum Bytes<'a> {
    Given(&'a [u8]),
    Link(Arc<[u8]>),
}

struct Text<'a> {
    bytes: Bytes<'a>,
    at: usize,
}

impl Text<'_> {
    #[inline]
    fn rest(&self) -> &[u8] {
        let bytes = match &self.bytes {
            Bytes::Given(bytes) => bytes,
            Bytes::Link(bytes) => &bytes[..],
        };
        bytes.get(self.at..).unwrap_or(&[])
    }

    fn has_component(&self) -> bool {
        self.rest().iter().any(|&b| b != b'/')
    }
}

/// What remains to be walked: the path, and texts of links on top.
pub(crate) struct Texts<'a> {
    stack: SmallVec<[Text<'a>; 2]>,
    /// Slashes follow the last component.
    pub(crate) trailing: bool,
}

/// A component: `len` bytes at the front of the top text.
pub(crate) struct Component {
    len: usize,
    pub(crate) hash: u64,
    pub(crate) last: IsLast,
}

impl<'a> Texts<'a> {
    /// The path alone.
    pub(crate) fn new(path: &'a [u8]) -> Texts<'a> {
        let mut stack = SmallVec::new();
        stack.push(Text { bytes: Bytes::Given(path), at: 0 });
        Texts { stack, trailing: false }
    }

    /// How many texts there are.
    pub(crate) fn depth(&self) -> usize {
        self.stack.len()
    }

    /// How far the top one has been walked ...
    pub(crate) fn mark(&self) -> usize {
        self.stack.last().map_or(0, |top| top.at)
    }

    /// ... which it is taken back to.
    pub(crate) fn go_back(&mut self, mark: usize) {
        if let Some(top) = self.stack.last_mut() {
            top.at = mark;
        }
    }

    /// Skips slashes and finished texts; measures the next component.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Component> {
        loop {
            let top = self.stack.last_mut()?;
            let slashes = top.rest().iter().take_while(|&&b| b == b'/').count();
            top.at += slashes;
            if !top.rest().is_empty() {
                break;
            }
            self.stack.pop();
        }
        let depth = self.stack.len();
        let top = self.stack.last()?;
        let (len, hash) = dcache::scan(top.rest());
        let after = &top.rest()[len..];
        let mut last = IsLast::No;
        if after.iter().all(|&b| b == b'/') {
            let below = &self.stack[..depth - 1];
            if !below.iter().any(Text::has_component) {
                last = IsLast::Yes;
                self.trailing |= !after.is_empty() || below.iter().any(|t| !t.rest().is_empty());
            }
        }
        Some(Component { len, hash, last })
    }

    #[inline]
    pub(crate) fn front(&self, component: &Component) -> &[u8] {
        self.stack.last().map_or(&[], |top| &top.rest()[..component.len])
    }

    /// Puts the text of a link on top; what is finished need not be come back to.
    pub(crate) fn push(&mut self, text: Arc<[u8]>) {
        while self.stack.last().is_some_and(|top| top.rest().is_empty()) {
            self.stack.pop();
        }
        self.stack.push(Text { bytes: Bytes::Link(text), at: 0 });
    }

    #[inline]
    pub(crate) fn consume(&mut self, component: &Component) {
        if let Some(top) = self.stack.last_mut() {
            top.at += component.len;
        }
    }
}
