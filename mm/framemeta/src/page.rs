//! The metadata of one frame.

use arch::addr::{PAGE_SHIFT, Pfn, PhysAddr};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Bits of [`Page::flags`].
pub mod flag {
    /// The page lock.
    pub const LOCKED: u32 = 1;
    /// The contents are what they should be.
    pub const UPTODATE: u32 = 1 << 1;
    /// Newer than its backing store.
    pub const DIRTY: u32 = 1 << 2;
    /// Being written to its backing store.
    pub const WRITEBACK: u32 = 1 << 3;
    /// Used since reclaim looked last.
    pub const REFERENCED: u32 = 1 << 4;
    /// On the active generation.
    pub const ACTIVE: u32 = 1 << 5;
    /// Someone sleeps on one of the bits.
    pub const WAITERS: u32 = 1 << 6;
    /// Reading or writing it failed.
    pub const ERROR: u32 = 1 << 7;
    /// On a reclaim list.
    pub const LRU: u32 = 1 << 8;
    /// Read-ahead starts again when this page is used.
    pub const READAHEAD: u32 = 1 << 9;
    /// Owned by a mapping without backing store (tmpfs, shared memory).
    pub const SWAPBACKED: u32 = 1 << 10;
    /// Locked in memory, not to be reclaimed.
    pub const UNEVICTABLE: u32 = 1 << 11;
    /// Being taken by reclaim.
    pub const RECLAIM: u32 = 1 << 12;
    /// The owner's own use.
    pub const PRIVATE: u32 = 1 << 13;
    /// The owner's own use.
    pub const PRIVATE2: u32 = 1 << 14;
    /// Anonymous memory of address spaces.
    pub const ANON: u32 = 1 << 15;
    /// Not the first frame of its folio; `head` is.
    pub(crate) const TAIL: u32 = 1 << 28;
    /// Free, in a buddy list.
    pub(crate) const BUDDY: u32 = 1 << 29;
    /// Never allocated or freed: firmware, the kernel image, the zero page.
    pub const RESERVED: u32 = 1 << 30;
}

/// What a frame is used for, in [`Page::kind`]: for statistics and checks.
pub mod kind {
    /// Free, or raw frames.
    pub const NONE: u8 = 0;
    /// A slab of the heap.
    pub const SLAB: u8 = 1;
    /// A large heap allocation.
    pub const LARGE: u8 = 2;
    /// A page table.
    pub const TABLE: u8 = 3;
    /// Anonymous memory.
    pub const ANON: u8 = 4;
    /// The page cache.
    pub const CACHE: u8 = 5;
    /// A kernel stack.
    pub const STACK: u8 = 6;
}

/// One frame's metadata, 64 bytes. What the fields mean depends on the owner; all zero is free.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Page {
    flags: AtomicU32,
    pub(crate) refs: AtomicU32,
    mapped: AtomicU32,
    pub(crate) order: AtomicU8,
    kind: AtomicU8,
    class: AtomicU8,
    used_at: AtomicU8,
    /// List links by frame number: the buddy's while free, the owner's while allocated.
    pub next: AtomicU32,
    /// See `next`.
    pub prev: AtomicU32,
    /// The object the page belongs to, opaque here.
    pub owner: AtomicU64,
    /// The index inside the owner.
    pub index: AtomicU64,
    /// The owner's use.
    pub private: AtomicU64,
    /// The owner's use.
    pub private2: AtomicU64,
    /// The owner's use.
    pub private3: AtomicU64,
}

const _: () = assert!(size_of::<Page>() == 64);

/// Entry 0 of the table; shifted so that `TABLE + pfn * 64` is the entry.
static TABLE: AtomicPtr<Page> = AtomicPtr::new(core::ptr::null_mut());
/// How many entries there are.
static ENTRIES: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn set_table(first: *mut Page, entries: usize) {
    TABLE.store(first, Ordering::Relaxed);
    // Release: who sees the number, in `at`, sees the table.
    ENTRIES.store(entries, Ordering::Release);
}

pub(crate) fn table() -> *mut Page {
    TABLE.load(Ordering::Relaxed)
}

#[inline(always)]
fn at(pfn: Pfn) -> &'static Page {
    // Acquire: see `set_table`.
    let entries = ENTRIES.load(Ordering::Acquire);
    assert!(pfn.as_usize() < entries, "no metadata of this frame");
    // SAFETY: the table has this entry and lives for ever; every bit pattern is a valid entry, and
    // entries are atomics.
    unsafe { &*table().wrapping_add(pfn.as_usize()) }
}

/// The metadata of any frame of a chunk that has some usable memory.
///
/// # Panics
/// When the table, which ends with the last chunk of memory, has no such entry.
#[inline(always)]
pub fn entry(pfn: Pfn) -> &'static Page {
    at(pfn)
}

/// The metadata of a frame of RAM that was handed out by this crate, and so was initialised when its
/// block was carved. For a frame that may be anything ask `page_if_ram`.
///
/// # Panics
/// As for [`entry`].
#[inline(always)]
pub fn page(pfn: Pfn) -> &'static Page {
    at(pfn)
}

/// The metadata of adjacent frames.
///
/// # Panics
/// As for [`entry`].
pub(crate) fn run(first: Pfn, frames: u64) -> &'static [Page] {
    let last = at(first + (frames - 1));
    let from = core::ptr::from_ref(last).wrapping_sub(frames as usize - 1);
    // SAFETY: the table has the last entry and so those before it, and lives for ever; every bit
    // pattern is a valid entry, and entries are atomics.
    unsafe { core::slice::from_raw_parts(from, frames as usize) }
}

impl Page {
    /// The frame number.
    #[inline(always)]
    pub fn pfn(&self) -> Pfn {
        Pfn(((self as *const Page as u64).wrapping_sub(table() as u64)) >> 6)
    }
    /// The frame's address.
    #[inline(always)]
    pub fn phys(&self) -> PhysAddr {
        PhysAddr(self.pfn().0 << PAGE_SHIFT)
    }
    /// The frame's address in the direct map.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut u8 {
        arch::phys::to_virt(self.phys())
    }
    /// The flag bits now.
    #[inline(always)]
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Acquire)
    }
    /// Whether all of `bits` are set.
    #[inline(always)]
    pub fn has(&self, bits: u32) -> bool {
        self.flags() & bits == bits
    }
    /// Sets bits; what the flags were.
    #[inline]
    pub fn set(&self, bits: u32) -> u32 {
        self.flags.fetch_or(bits, Ordering::AcqRel)
    }
    /// Clears bits; what the flags were.
    #[inline]
    pub fn clear(&self, bits: u32) -> u32 {
        self.flags.fetch_and(!bits, Ordering::AcqRel)
    }
    /// Replaces all flags if they are `seen`; whether they were.
    #[inline]
    pub(crate) fn swap_flags(&self, seen: u32, bits: u32) -> bool {
        self.flags.compare_exchange(seen, bits, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
    /// Replaces all flags; while nobody else uses the page.
    #[inline(always)]
    pub fn init_flags(&self, bits: u32) {
        self.flags.store(bits, Ordering::Relaxed);
    }
    /// How many references there are.
    #[inline(always)]
    pub fn references(&self) -> u32 {
        self.refs.load(Ordering::Acquire)
    }
    /// How many page-table entries map the page, counted by vm.
    #[inline(always)]
    pub fn map_count(&self) -> u32 {
        self.mapped.load(Ordering::Acquire)
    }
    /// Counts another mapping; how many there were.
    #[inline(always)]
    pub fn add_mapping(&self) -> u32 {
        self.mapped.fetch_add(1, Ordering::Relaxed)
    }
    /// Counts a mapping less; how many there were. Release: what was seen through the mapping
    /// happens before whoever finds the page unmapped.
    #[inline(always)]
    pub fn remove_mapping(&self) -> u32 {
        self.mapped.fetch_sub(1, Ordering::AcqRel)
    }
    /// Sets the mapping count of a page nobody else uses.
    #[inline(always)]
    pub fn init_mappings(&self, count: u32) {
        self.mapped.store(count, Ordering::Relaxed);
    }
    /// Counts `n` more references to a page that has some.
    #[inline(always)]
    pub fn get(&self, n: u32) {
        let before = self.refs.fetch_add(n, Ordering::Relaxed);
        debug_assert!(before > 0, "reference to a free page");
    }
    /// Counts a reference unless the page is free; for look-ups that race with freeing.
    #[inline]
    pub fn try_get(&self) -> bool {
        let mut seen = self.refs.load(Ordering::Relaxed);
        while seen != 0 {
            match self.refs.compare_exchange_weak(
                seen,
                seen + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }
    /// Counts a reference less; whether it was the last, in which case the caller owns the page
    /// and must free it with [`free`](Self::free).
    #[inline(always)]
    pub fn put(&self) -> bool {
        // Release pairs with the acquire of whoever turns out to be last.
        let before = self.refs.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "reference dropped twice");
        before == 1
    }
    /// Counts a reference less unless it is the last; whether it did.
    pub fn put_unless_last(&self) -> bool {
        let fewer = |refs: u32| (refs > 1).then(|| refs - 1);
        // As in `put`.
        self.refs.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_ok()
    }
    /// Gives up a reference and a mapping of a single page. Whether the reference was the last: then
    /// the page says nothing of its use any more and is to be freed.
    #[inline(always)]
    pub(crate) fn give_up_mapped(&self) -> bool {
        if self.freeze(1) {
            self.init_mappings(0);
            self.init_flags(0);
            self.set_kind(kind::NONE);
            return true;
        }
        self.remove_mapping();
        self.put()
    }
    /// Takes all references at once if there are exactly `expected`: the page is then free to be
    /// torn down, and no lock-free look-up can get it back.
    #[inline]
    pub fn freeze(&self, expected: u32) -> bool {
        self.refs.compare_exchange(expected, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
    /// Undoes a [`freeze`](Self::freeze).
    pub fn unfreeze(&self, refs: u32) {
        self.refs.store(refs, Ordering::Release);
    }
    /// Returns a page whose last reference is gone to the allocator.
    #[inline]
    pub fn free(&self) {
        crate::free::release(self);
    }
    /// log2 of the number of frames of the folio that this page heads.
    #[inline(always)]
    pub fn order(&self) -> u8 {
        self.order.load(Ordering::Relaxed)
    }
    /// What the page is used for.
    #[inline(always)]
    pub fn kind(&self) -> u8 {
        self.kind.load(Ordering::Relaxed)
    }
    /// Says what the page is used for.
    #[inline(always)]
    pub fn set_kind(&self, kind: u8) {
        self.kind.store(kind, Ordering::Relaxed);
    }
    /// A small number of the owner: the heap's size class.
    #[inline(always)]
    pub fn class(&self) -> u8 {
        self.class.load(Ordering::Relaxed)
    }
    /// Sets the owner's small number.
    #[inline(always)]
    pub fn set_class(&self, class: u8) {
        self.class.store(class, Ordering::Relaxed);
    }
    /// When reclaim last found the page used, in ticks of its own.
    #[inline(always)]
    pub fn used_at(&self) -> u8 {
        self.used_at.load(Ordering::Relaxed)
    }
    /// Notes when the page was used.
    #[inline(always)]
    pub fn set_used_at(&self, tick: u8) {
        self.used_at.store(tick, Ordering::Relaxed);
    }
    /// The first page of the folio this page is in.
    #[inline(always)]
    pub fn head(&self) -> &'static Page {
        if self.flags.load(Ordering::Relaxed) & flag::TAIL != 0 {
            return page(Pfn(u64::from(self.next.load(Ordering::Relaxed))));
        }
        page(self.pfn())
    }
    /// Whether this is a later frame of a folio.
    #[inline(always)]
    pub fn is_tail(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & flag::TAIL != 0
    }

    /// Makes this page the head of a folio of `2^order` frames.
    pub(crate) fn make_folio(&self, order: u8) {
        let first = self.pfn();
        self.order.store(order, Ordering::Relaxed);
        for step in 1..1u64 << order {
            let tail = page(first + step);
            tail.next.store(first.0 as u32, Ordering::Relaxed);
            tail.flags.store(flag::TAIL, Ordering::Relaxed);
        }
    }

    /// Makes a folio that has one reference (the caller's) single pages with one reference each;
    /// each keeps the head's flags and kind. Whether it could.
    pub fn split_folio(&self) -> bool {
        if self.references() != 1 || self.order() == 0 {
            return false;
        }
        let (first, order) = (self.pfn(), self.order());
        let (flags, kind) = (self.flags(), self.kind());
        let mapped = self.map_count();
        for step in 1..1u64 << order {
            let tail = page(first + step);
            tail.set_kind(kind);
            tail.order.store(0, Ordering::Relaxed);
            tail.mapped.store(mapped, Ordering::Relaxed);
            tail.refs.store(1, Ordering::Relaxed);
            tail.flags.store(flags, Ordering::Release);
        }
        self.order.store(0, Ordering::Release);
        true
    }
}
