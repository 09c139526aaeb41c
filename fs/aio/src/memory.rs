//! A program's memory that is held for a transfer: its pages, whatever the program does to its address
//! space meanwhile.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use arch::addr::PAGE_SIZE;
use arch::shared::SharedBytes;
use arch::uio::{Segment, Sink, Source};
use vfs::{Direction, PagePiece};
use vm::AddressSpace;
use zerocopy::FromBytes;

/// Held pages, in the order of the bytes.
#[derive(Clone)]
pub struct Held(Vec<PagePiece>);

impl Held {
    /// Holds the memory of `segments`: all of it, or up to the first byte that cannot be used. `EFAULT`
    /// if that is the first.
    pub fn hold(space: &AddressSpace, segments: &[Segment], direction: Direction) -> Result<Held> {
        let is_written = direction == Direction::Read;
        let mut pieces = Vec::new();
        for segment in segments.iter().filter(|segment| segment.len > 0) {
            let pages = match space.hold_pages(segment.addr, segment.len, is_written) {
                Ok(pages) => pages,
                Err(Errno::EFAULT) if !pieces.is_empty() => break,
                Err(error) => return Err(error),
            };
            let mut offset = segment.addr.page_offset();
            let mut left = segment.len;
            pieces.try_reserve(pages.len()).map_err(|_| Errno::ENOMEM)?;
            for page in pages {
                let len = (PAGE_SIZE - offset).min(left);
                pieces.push(PagePiece { page, offset: offset as u32, len: len as u32 });
                left -= len;
                offset = 0;
            }
        }
        Ok(Held(pieces))
    }

    /// Pieces that a transfer gave back.
    pub fn of(pieces: Vec<PagePiece>) -> Held {
        Held(pieces)
    }

    /// The pieces, for a transfer past the cache.
    pub fn into_pieces(self) -> Vec<PagePiece> {
        self.0
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.len as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `len` bytes from `offset` on; `EFAULT` if there are not so many.
    pub fn part(&self, offset: usize, len: usize) -> Result<Held> {
        let (mut skip, mut left) = (offset, len);
        let mut pieces = Vec::new();
        for piece in &self.0 {
            if left == 0 {
                break;
            }
            let size = piece.len as usize;
            if skip >= size {
                skip -= size;
                continue;
            }
            let take = (size - skip).min(left);
            let offset = piece.offset + skip as u32;
            pieces.push(PagePiece { page: piece.page.clone(), offset, len: take as u32 });
            left -= take;
            skip = 0;
        }
        if left == 0 { Ok(Held(pieces)) } else { Err(Errno::EFAULT) }
    }

    fn place(&self, at: usize, len: usize) -> Option<SharedBytes<'_>> {
        let piece = self.0.get(at / PAGE_SIZE)?;
        let offset = at % PAGE_SIZE;
        let fits = piece.offset == 0 && offset + len <= piece.len as usize;
        fits.then(|| piece.page.part(offset, len))
    }

    /// A value in memory that begins with a page, as it is now; it must not lie on the border of two.
    pub fn value<T: FromBytes>(&self, at: usize) -> Option<T> {
        self.place(at, size_of::<T>())?.read(0)
    }

    /// A word that the program has written: what it wrote before is seen.
    pub fn word(&self, at: usize) -> Option<u32> {
        // Pairs with the program's release.
        self.place(at, 4)?.atomic32(0).map(|word| word.load(Ordering::Acquire))
    }

    fn list(&self) -> Vec<SharedBytes<'_>> {
        let bytes = |piece: &PagePiece| (piece.offset as usize, piece.len as usize);
        let part = |piece| {
            let (offset, len) = bytes(piece);
            piece.page.part(offset, len)
        };
        self.0.iter().map(part).collect()
    }

    /// Lets `read` put bytes there.
    pub fn with_sink<R>(&self, read: impl FnOnce(&mut Sink<'_>) -> R) -> R {
        let list = self.list();
        read(&mut Sink::pieces(&list))
    }

    /// Lets `write` take bytes from there.
    pub fn with_source<R>(&self, write: impl FnOnce(&mut Source<'_>) -> R) -> R {
        let list = self.list();
        write(&mut Source::pieces(&list))
    }
}
