//! Frames that nobody uses.

use crate::page::{Page, entry, flag, kind, set_table, table};
use crate::{FrameBlock, PageRef};
use arch::addr::{PAGE_SIZE, Pfn};
use arch::boot::FreeMemory;
use core::sync::atomic::Ordering;

/// The largest block: `2^MAX_ORDER` frames, 4 MiB.
pub const MAX_ORDER: u8 = 10;
/// Frames in the largest block.
pub const CHUNK: u64 = 1 << MAX_ORDER;

unsafe extern "Rust" {
    /// Takes frames whose last reference is gone; defined by `frames`.
    safe fn frames_give(frames: FreeFrames);
}

/// `2^order` adjacent frames that nobody uses, aligned to their number. There is one such value for
/// each of them.
#[derive(Debug)]
#[must_use = "frames that are dropped are lost"]
pub struct FreeFrames {
    first: u32,
    order: u8,
}

impl FreeFrames {
    /// The first frame.
    #[inline(always)]
    pub fn first(&self) -> Pfn {
        Pfn(u64::from(self.first))
    }

    /// log2 of their number.
    #[inline(always)]
    pub fn order(&self) -> u8 {
        self.order
    }

    /// Keeps the lower half; the upper half. Of more than one frame.
    pub fn halve(&mut self) -> Option<FreeFrames> {
        self.order = self.order.checked_sub(1)?;
        Some(FreeFrames { first: self.first + (1 << self.order), order: self.order })
    }

    /// Frames one by one, the last first.
    pub fn singles(self) -> impl Iterator<Item = FreeFrames> {
        let first = self.first;
        (0..1u32 << self.order).rev().map(move |step| FreeFrames { first: first + step, order: 0 })
    }

    /// Both as one block, if they are the halves of one.
    pub fn join(self, other: FreeFrames) -> Result<FreeFrames, (FreeFrames, FreeFrames)> {
        if self.order != other.order || self.first ^ other.first != 1 << self.order {
            return Err((self, other));
        }
        Ok(FreeFrames { first: self.first.min(other.first), order: self.order + 1 })
    }

    /// Marks the first frame's entry as the head of a free block and forgets the frames: who finds the
    /// entry gets them with [`take_back`](Self::take_back).
    pub fn put_away(self) -> &'static Page {
        let page = entry(self.first());
        page.order.store(self.order, Ordering::Relaxed);
        page.init_flags(flag::BUDDY);
        page
    }

    /// The free block of this order that an entry heads, if it does.
    pub fn take_back(page: &Page, order: u8) -> Option<FreeFrames> {
        if page.order() != order || !page.swap_flags(flag::BUDDY, 0) {
            return None;
        }
        page.order.store(0, Ordering::Relaxed);
        Some(FreeFrames { first: page.pfn().0 as u32, order })
    }

    /// Makes all bytes zero.
    #[inline]
    pub fn clear(&mut self) {
        self.fill(0);
    }

    #[inline(always)]
    fn fill(&mut self, byte: u8) {
        let at = arch::phys::to_virt(self.first().phys());
        // SAFETY: nobody uses the frames, and they are in the direct map.
        unsafe { core::ptr::write_bytes(at, byte, PAGE_SIZE << self.order) };
    }

    /// One frame as a page with one reference.
    ///
    /// # Panics
    /// When it is more than one, in debug builds.
    #[inline]
    pub fn into_page(self) -> PageRef {
        debug_assert_eq!(self.order, 0);
        let page = entry(self.first());
        page.refs.store(1, Ordering::Relaxed);
        PageRef::from_owned(page)
    }

    /// Raw frames in use.
    pub fn into_block(self) -> FrameBlock {
        let head = entry(self.first());
        head.refs.store(1, Ordering::Relaxed);
        head.order.store(self.order, Ordering::Relaxed);
        FrameBlock::from_owned(self.first(), self.order)
    }

    /// Debug builds fill free frames with a pattern ...
    #[inline(always)]
    fn poison(&mut self) {
        if cfg!(debug_assertions) {
            self.fill(POISON);
        }
    }

    /// ... and look at its beginning when they are handed out: all poison, or never written.
    #[inline(always)]
    pub fn check_poison(&self) {
        if cfg!(debug_assertions) {
            let at = arch::phys::to_virt(self.first().phys());
            // SAFETY: the frame is ours, and 64 bytes are inside it.
            let head = unsafe { core::slice::from_raw_parts(at, 64) };
            if head.first() == Some(&POISON) {
                assert!(head.iter().all(|byte| *byte == POISON), "{self:?} written while free");
            }
        }
    }
}

const POISON: u8 = 0xa5;

/// Takes back a page whose last reference is gone.
#[inline]
pub(crate) fn release(page: &Page) {
    let order = page.order();
    debug_assert_eq!(page.references(), 0);
    debug_assert!(page.flags() & (flag::BUDDY | flag::TAIL | flag::RESERVED) == 0, "{page:?}");
    if page.kind() != kind::NONE {
        page.set_kind(kind::NONE);
    }
    page.init_flags(0);
    let first = page.pfn();
    if order > 0 {
        page.order.store(0, Ordering::Relaxed);
        for step in 1..1u64 << order {
            let tail = entry(first + step);
            tail.init_flags(0);
            tail.order.store(0, Ordering::Relaxed);
            tail.refs.store(0, Ordering::Relaxed);
            tail.init_mappings(0);
        }
        page.init_mappings(0);
    }
    let mut frames = FreeFrames { first: first.0 as u32, order };
    frames.poison();
    frames_give(frames);
}

/// Takes back `2^order` adjacent single pages that say nothing of their use any more, none of which has
/// a reference.
pub(crate) fn release_clean(first: &Page, order: u8) {
    let mut frames = FreeFrames { first: first.pfn().0 as u32, order };
    frames.poison();
    frames_give(frames);
}

/// Adjacent frames that were never handed out; their metadata waits to be initialised.
#[derive(Debug)]
pub struct FreshRange {
    start: u64,
    end: u64,
}

impl FreshRange {
    /// The first frame's number.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// One past the last frame's number.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many frames.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Keeps the frames below a number; those from it on.
    pub fn split_off(&mut self, at: u64) -> FreshRange {
        let at = at.clamp(self.start, self.end);
        let above = FreshRange { start: at, end: self.end };
        self.end = at;
        above
    }

    /// Takes the largest aligned block at the start.
    pub fn carve(&mut self) -> Option<FreeFrames> {
        let left = self.len().checked_ilog2()?;
        let order = left.min(self.start.trailing_zeros()).min(u32::from(MAX_ORDER)) as u8;
        if order == MAX_ORDER {
            // A whole chunk: nothing touched its metadata yet. Chunks in parts were cleared by
            // `adopt`.
            clear_chunk(self.start);
        }
        let first = self.start as u32;
        self.start += 1 << order;
        Some(FreeFrames { first, order })
    }
}

/// Makes the metadata of a chunk's frames "free, in no list".
fn clear_chunk(first: u64) {
    let entries = table().wrapping_add(first as usize);
    // SAFETY: the table has room for whole chunks; nobody uses the frames or their entries yet: the
    // chunk is being carved, or `adopt` runs.
    unsafe { core::ptr::write_bytes(entries, 0, CHUNK as usize) };
}

/// Bytes of metadata for the frames below a number, in whole chunks.
fn table_bytes(top: u64) -> u64 {
    top.next_multiple_of(CHUNK) * size_of::<Page>() as u64
}

/// Takes over free memory: puts the metadata table where `place` says (a frame number for so many
/// frames, all in one range) and passes on what else there is.
///
/// # Panics
/// When there is no place for the table, or it is not in free memory: nothing can work without it.
pub fn adopt(
    memory: FreeMemory,
    place: impl FnOnce(u64) -> Option<u64>,
    mut each: impl FnMut(FreshRange),
) {
    // Frame 0 is never handed out: links use its number.
    let ranges = memory
        .ranges()
        .iter()
        .map(|range| (range.start.page_up().pfn().0.max(1), range.end.page_down().pfn().0));
    let ranges = || ranges.clone().filter(|(start, end)| start < end);
    let top = ranges().map(|(_, end)| end).max().unwrap_or(0);
    let bytes = table_bytes(top);
    let frames = bytes.div_ceil(PAGE_SIZE as u64);
    let home = place(frames);
    let inside = |at: u64| ranges().any(|(start, end)| start <= at && at + frames <= end);
    let Some(home) = home.filter(|home| inside(*home)) else {
        panic!("frames: no room for {bytes} bytes of metadata");
    };
    let table = (home, home + frames);
    let entries = top.next_multiple_of(CHUNK) as usize;
    set_table(arch::phys::to_virt(Pfn(home).phys()).cast(), entries);

    // Whole chunks wait until they are carved.
    for edge in ranges().flat_map(|(start, end)| [start, end]).chain([table.0, table.1]) {
        if edge % CHUNK != 0 {
            clear_chunk(edge & !(CHUNK - 1));
        }
    }
    // What lies before the table, behind it, and the parts of it that describe holes.
    for (start, end) in ranges() {
        for (start, end) in [(start, end.min(table.0)), (start.max(table.1), end)] {
            if start < end {
                each(FreshRange { start, end });
            }
        }
    }
    let per_chunk = CHUNK * size_of::<Page>() as u64 / PAGE_SIZE as u64;
    let mut run: Option<u64> = None;
    for chunk in 0..=top.div_ceil(CHUNK) {
        let first = chunk * CHUNK;
        let is_used = ranges().any(|(start, end)| start < first + CHUNK && first < end);
        match (!is_used && first < top, run) {
            (true, None) => run = Some(chunk),
            (false, Some(start)) => {
                let (start, end) = (home + start * per_chunk, home + chunk * per_chunk);
                for edge in [start, end] {
                    if edge % CHUNK != 0 {
                        clear_chunk(edge & !(CHUNK - 1));
                    }
                }
                each(FreshRange { start, end });
                run = None;
            }
            _ => {}
        }
    }
}
