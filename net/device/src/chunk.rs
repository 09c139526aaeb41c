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

/// Bytes in pieces, in order: two of slices and those of pages, as filters and programs read them.
#[derive(Clone, Copy, Debug)]
pub struct Spread<'a> {
    /// The first.
    pub head: &'a [u8],
    /// Those after.
    pub body: &'a [u8],
    /// The rest.
    pub chunks: &'a [Chunk],
}

/// Copies what a slice has from `skip` on; what is left to be filled.
fn take<'a>(from: &[u8], skip: &mut usize, to: &'a mut [u8]) -> &'a mut [u8] {
    let bytes = from.get(*skip..).unwrap_or(&[]);
    *skip = skip.saturating_sub(from.len());
    let count = bytes.len().min(to.len());
    let (now, later) = to.split_at_mut(count);
    now.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    later
}

impl Spread<'_> {
    /// How many bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len() + self.chunks.iter().map(Chunk::len).sum::<usize>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the bytes from a place on; how many there were.
    pub fn copy_out(&self, at: usize, to: &mut [u8]) -> usize {
        let wanted = to.len();
        let mut skip = at;
        let to = take(self.head, &mut skip, to);
        let mut to = take(self.body, &mut skip, to);
        for chunk in self.chunks {
            if to.is_empty() {
                break;
            }
            if skip >= chunk.len() {
                skip -= chunk.len();
                continue;
            }
            let count = chunk.part(skip, to.len()).copy_out(to);
            skip = 0;
            to = to.get_mut(count..).unwrap_or_default();
        }
        wanted - to.len()
    }
}

impl bpf::Bytes for Spread<'_> {
    fn read(&self, at: usize, to: &mut [u8]) -> bool {
        self.copy_out(at, to) == to.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_pieces_are_read_across_their_borders() {
        frames::init_host(16 << 20);
        let chunks = [Chunk::from_bytes(&[5, 6, 7]).unwrap(), Chunk::from_bytes(&[8, 9]).unwrap()];
        let all = Spread { head: &[0, 1, 2], body: &[3, 4], chunks: &chunks };
        assert_eq!(all.len(), 10);
        for at in 0..10 {
            let mut four = [0; 4];
            let count = all.copy_out(at, &mut four);
            assert_eq!(count, 4.min(10 - at));
            let expected: Vec<u8> = (at as u8..).take(count).collect();
            assert_eq!(four[..count], expected[..]);
        }
        assert_eq!(all.copy_out(10, &mut [0; 4]), 0);
    }
}
