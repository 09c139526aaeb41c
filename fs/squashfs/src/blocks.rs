//! The blocks of a file (squashfs binary format, "Packing File Data"): where one is follows from the sizes
//! of all before it. Places on the way are remembered.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::addr::{PAGE_SHIFT, PAGE_SIZE};
use arch::lock::LockClass;
use frames::PageRef;
use pagecache::{Backing, MAX_INDEX, Mapping, ReadRun, WriteRun};
use sched::Mutex;

use crate::inode::{Blocks, Fragment};
use crate::layout::u32_at;
use crate::tree::Image;
use crate::volume::{Place, Stored};

static MARKS: LockClass = LockClass::new("squashfs.marks", 456);

/// Blocks from one remembered place to the next.
const STRIDE: u64 = 1024;

/// What is known at a block of the file.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Its size in the list.
    size: Place,
    /// Where it is on the device.
    at: u64,
}

/// What is known of a file, as far as anybody has read.
struct Known {
    /// At every [`STRIDE`]th block.
    marks: Vec<Mark>,
    /// At the block that was asked for last, and its number: the next one follows it, as a rule.
    last: (u64, Mark),
}

/// Where a file's pages come from.
pub(crate) struct FileBlocks {
    image: Arc<Image>,
    blocks: Blocks,
    size: u64,
    known: Mutex<Known>,
}

/// What a block of a file is.
enum Part {
    /// Zeros.
    Hole,
    Block(Stored),
    /// Bytes of a block of fragments.
    Tail(Fragment),
}

impl FileBlocks {
    pub(crate) fn new(image: Arc<Image>, blocks: Blocks, size: u64) -> FileBlocks {
        let first = Mark { size: blocks.sizes, at: blocks.start };
        let known = Known { marks: [first].to_vec(), last: (0, first) };
        FileBlocks { image, blocks, size, known: Mutex::new(&MARKS, known) }
    }

    fn block_size(&self) -> u64 {
        self.image.volume.sb.block_size.into()
    }

    fn part(&self, index: u64) -> Result<Part> {
        if let Some(fragment) = self.blocks.fragment
            && index >= self.size / self.block_size()
        {
            return Ok(Part::Tail(fragment));
        }
        let stored = self.stored(index)?;
        Ok(if stored.len() == 0 { Part::Hole } else { Part::Block(stored) })
    }

    /// Where a block is: adds up the sizes of those before it, from the last one that is known on.
    fn stored(&self, index: u64) -> Result<Stored> {
        let volume = &self.image.volume;
        let mut known = self.known.lock();
        let stride = (index / STRIDE).min(known.marks.len() as u64 - 1);
        let mark = *known.marks.get(stride as usize).ok_or(Errno::EIO)?;
        let (mut block, from) = match known.last {
            (block, last) if (stride * STRIDE..=index).contains(&block) => (block, last),
            _ => (stride * STRIDE, mark),
        };
        let mut cursor = volume.cursor(from.size);
        let mut at = from.at;
        loop {
            let here = Mark { size: cursor.at(), at };
            if block.is_multiple_of(STRIDE) && block / STRIDE == known.marks.len() as u64 {
                known.marks.push(here);
            }
            let stored = Stored { at, word: u32_at(&cursor.take::<4>()?, 0) };
            if block == index {
                known.last = (block, here);
                return Ok(stored);
            }
            at = at.checked_add(stored.len().into()).ok_or(Errno::EIO)?;
            block += 1;
        }
    }

    /// Fills the part of a run of pages that a block of the file has; the run begins at byte `first`.
    fn fill(&self, index: u64, first: u64, pages: &[PageRef]) -> Result<()> {
        let volume = &self.image.volume;
        let start = index * self.block_size();
        let len = (self.size - start).min(self.block_size()) as usize;
        let (block, offset) = match self.part(index)? {
            Part::Hole => return Ok(()),
            Part::Block(stored) => (volume.data(stored)?, 0),
            Part::Tail(fragment) => {
                (volume.data(volume.fragment(fragment.index)?)?, fragment.offset as usize)
            }
        };
        let bytes = offset.checked_add(len).and_then(|end| block.bytes.get(offset..end));
        let bytes = bytes.ok_or_else(|| volume.corrupt("a block of a file is too short"))?;
        let end = first + ((pages.len() as u64) << PAGE_SHIFT);
        let (from, to) = (start.max(first), (start + len as u64).min(end));
        let mut pos = from;
        while pos < to {
            let in_page = pos as usize % PAGE_SIZE;
            let step = ((PAGE_SIZE - in_page) as u64).min(to - pos);
            let at = (pos - start) as usize;
            let piece = bytes.get(at..at + step as usize);
            if let (Some(page), Some(piece)) =
                (pages.get(((pos - first) >> PAGE_SHIFT) as usize), piece)
            {
                page.copy_in(in_page, piece);
            }
            pos += step;
        }
        Ok(())
    }
}

impl Backing for FileBlocks {
    fn read(&self, run: ReadRun) {
        let first = run.first() << PAGE_SHIFT;
        let pages = run.pages().to_vec();
        // What nothing fills is zeros: holes, and what is behind the end.
        pages.iter().for_each(|page| page.zero(0..PAGE_SIZE));
        let end = (first + ((pages.len() as u64) << PAGE_SHIFT)).min(self.size);
        let mut result = Ok(());
        if run.first() <= MAX_INDEX && first < end {
            let size = self.block_size();
            for index in first / size..end.div_ceil(size) {
                result = result.and_then(|()| self.fill(index, first, &pages));
            }
        }
        run.complete(result);
    }

    fn write(&self, run: WriteRun) {
        run.complete(Err(Errno::EROFS));
    }

    fn prepare_write(&self, _: &Mapping, _: u64, _: usize) -> Result<()> {
        Err(Errno::EROFS)
    }

    fn read_ahead_pages(&self) -> u32 {
        pagecache::DEFAULT_MAX_PAGES.max((self.block_size() >> PAGE_SHIFT) as u32)
    }
}
