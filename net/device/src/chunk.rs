//! Bytes in a page.

use arch::uio::{Sink, Source};
use frames::PageRef;

/// Bytes of a page (or a folio) that somebody else may hold too.
#[derive(Clone)]
pub struct Chunk {
    /// Where they are.
    pub page: PageRef,
    /// Where in it they begin.
    pub offset: u32,
    /// How many.
    pub len: u32,
}

impl Chunk {
    /// Copies `bytes` to a page of its own; `None` without memory, or if they are more than a page.
    pub fn from_bytes(bytes: &[u8]) -> Option<Chunk> {
        let page = frames::alloc_page(frames::Flags::empty()).ok()?;
        if bytes.len() > page.size() {
            return None;
        }
        page.copy_in(0, bytes);
        Some(Chunk { page, offset: 0, len: bytes.len() as u32 })
    }

    /// Takes up to a page from a source; `Ok(None)` when the source is empty.
    pub fn from_source(source: &mut Source<'_>) -> abi::Result<Option<Chunk>> {
        if source.is_empty() {
            return Ok(None);
        }
        let page = frames::alloc_page(frames::Flags::empty()).map_err(|_| abi::Errno::ENOBUFS)?;
        let len = page.from_source(0, source.remaining().min(page.size()), source)?;
        Ok(Some(Chunk { page, offset: 0, len: len as u32 }))
    }

    /// How many bytes there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets the first `count`.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        let count = (count as u32).min(self.len);
        self.offset += count;
        self.len -= count;
    }

    /// Keeps the first `count`.
    #[inline]
    pub fn truncate(&mut self, count: usize) {
        self.len = self.len.min(count as u32);
    }

    /// `len` bytes from `from` on, as many of them as there are, sharing the page.
    pub fn part(&self, from: usize, len: usize) -> Chunk {
        let mut part = self.clone();
        part.advance(from);
        part.truncate(len);
        part
    }

    /// Puts the bytes into a sink; how many it took.
    #[inline]
    pub fn to_sink(&self, sink: &mut Sink<'_>) -> abi::Result<usize> {
        Ok(self.page.to_sink(self.offset as usize, self.len as usize, sink)?)
    }

    /// Copies the first bytes out; how many.
    #[inline]
    pub fn copy_out(&self, to: &mut [u8]) -> usize {
        let len = to.len().min(self.len as usize);
        if let Some(to) = to.get_mut(..len) {
            self.page.copy_out(self.offset as usize, to);
        }
        len
    }
}

impl core::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Chunk({} bytes)", self.len)
    }
}
