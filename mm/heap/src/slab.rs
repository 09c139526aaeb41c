//! Size classes: magazines per processor over depots of full batches over slabs.
//!
//! A slab is a naturally aligned block of frames cut into objects. The metadata of its first frame
//! says how it stands: `private` is the address of its first free object, `private2` how many are
//! free, `next`/`prev` link it into its class's list of slabs with free objects. A free object's
//! first word is the address of the next one.

use arch::addr::{PAGE_SIZE, Pfn};
use arch::lock::{IrqLock, LockClass};
use arch::percpu::PerCpuCell;
use core::alloc::Layout;
use core::sync::atomic::Ordering;
use frames::{Counter, Flags, FrameBlock, Page, kind};

/// Object sizes. Each is a multiple of what its neighbours need for alignment.
pub(crate) const SIZES: [usize; 20] = [
    16, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1536, 2048, 4096,
    8192,
];
pub(crate) const CLASSES: usize = SIZES.len();
/// The largest object.
const LARGEST: usize = 8192;
const DEPTH: usize = 32;
/// Objects that move between a magazine and its depot at once.
const BATCH: usize = DEPTH / 2;
/// Batches a depot holds, and the bytes they may keep from their slabs.
const DEPOT: usize = 32;
const DEPOT_BYTES: usize = 64 << 10;
const NIL: u32 = u32::MAX;
/// Free slabs a class keeps.
const KEEP_FREE: usize = 2;

/// Class of each size in units of 16 bytes.
static BY_SIZE: [u8; LARGEST / 16 + 1] = {
    let mut table = [0; LARGEST / 16 + 1];
    let mut unit = 0;
    while unit < table.len() {
        let mut class = 0;
        while SIZES[class] < unit * 16 {
            class += 1;
        }
        table[unit] = class as u8;
        unit += 1;
    }
    table
};

/// log2 of the frames in a slab of a class.
///
/// Small ones: where memory is scattered two adjacent frames can still be found, eight cannot.
const fn slab_order(class: usize) -> u8 {
    match SIZES[class] {
        0..=512 | 1024 | 4096 => 0,
        _ => 1,
    }
}

const fn per_slab(class: usize) -> usize {
    (PAGE_SIZE << slab_order(class)) / SIZES[class]
}

/// The class for a layout; `None` for large ones.
#[inline(always)]
pub(crate) fn class_of(layout: Layout) -> Option<usize> {
    let size = layout.size();
    if size > LARGEST || layout.align() > PAGE_SIZE {
        return None;
    }
    let mut class = usize::from(*BY_SIZE.get(size.div_ceil(16))?);
    if layout.align() > 16 {
        while SIZES[class] & (layout.align() - 1) != 0 {
            class += 1;
            if class == CLASSES {
                return None;
            }
        }
    }
    Some(class)
}

struct Magazine {
    len: usize,
    objects: [usize; DEPTH],
}

struct Magazines {
    by_class: [Magazine; CLASSES],
}

arch::percpu! {
    static MAGAZINES: PerCpu<PerCpuCell<Magazines>> = PerCpuCell::new(Magazines {
        by_class: [const { Magazine { len: 0, objects: [0; DEPTH] } }; CLASSES],
    });
}

/// Slabs with free objects, and counts.
struct Class {
    partial: u32,
    slabs: usize,
    free_slabs: usize,
    /// Objects that are not in slabs: in use or in magazines.
    out: usize,
}

static CLASS: LockClass = LockClass::new("heap.class", 810);
static POOLS: [IrqLock<Class>; CLASSES] =
    [const { IrqLock::new(&CLASS, Class { partial: NIL, slabs: 0, free_slabs: 0, out: 0 }) };
        CLASSES];

/// Full batches on their way from one magazine to another: what RCU frees in bursts comes back
/// without its slabs being touched.
struct Depot {
    batches: [[usize; BATCH]; DEPOT],
    len: usize,
}

static DEPOTS: [IrqLock<Depot>; CLASSES] =
    [const { IrqLock::new(&CLASS, Depot { batches: [[0; BATCH]; DEPOT], len: 0 }) }; CLASSES];

impl Depot {
    fn pop(&mut self, to: &mut [usize; BATCH]) -> bool {
        let batch = self.len.checked_sub(1).and_then(|at| self.batches.get(at));
        let Some(batch) = batch else { return false };
        *to = *batch;
        self.len -= 1;
        true
    }

    fn push(&mut self, class: usize, batch: &[usize; BATCH]) -> bool {
        let room = (DEPOT_BYTES / (BATCH * SIZES[class])).clamp(1, DEPOT);
        match self.batches.get_mut(self.len).filter(|_| self.len < room) {
            Some(slot) => {
                *slot = *batch;
                self.len += 1;
                true
            }
            None => false,
        }
    }
}

/// An object of a class, or null.
#[inline]
pub(crate) fn alloc(class: usize) -> *mut u8 {
    let object = MAGAZINES.with(|magazines| {
        let magazine = &mut magazines.by_class[class];
        let at = magazine.len.checked_sub(1)?;
        magazine.len = at;
        magazine.objects.get(at).copied()
    });
    let object = match object {
        Some(object) => object as *mut u8,
        None => refill(class),
    };
    if cfg!(debug_assertions) && !object.is_null() {
        check_poison(object, SIZES[class]);
    }
    object
}

/// Takes an object back.
///
/// # Safety
/// `alloc` gave it for this class and it was not freed since.
#[inline]
pub(crate) unsafe fn free(class: usize, object: *mut u8) {
    if cfg!(debug_assertions) {
        debug_assert_eq!(slab_of(class, object as usize).kind(), kind::SLAB, "free of {object:p}");
        // SAFETY: the object is ours now and this long.
        unsafe { core::ptr::write_bytes(object, POISON, SIZES[class]) };
    }
    let full = MAGAZINES.with(|magazines| {
        let magazine = &mut magazines.by_class[class];
        match magazine.objects.get_mut(magazine.len) {
            Some(slot) => {
                *slot = object as usize;
                magazine.len += 1;
                false
            }
            None => true,
        }
    });
    if full {
        drain(class, object);
    }
}

/// The metadata of the slab an object is in.
fn slab_of(class: usize, object: usize) -> &'static Page {
    let start = object & !((PAGE_SIZE << slab_order(class)) - 1);
    frames::page(arch::phys::to_phys(start as *const u8).pfn())
}

fn slab_at(pfn: u32) -> &'static Page {
    frames::page(Pfn(u64::from(pfn)))
}

/// # Safety
/// `object` is a free object of a slab.
unsafe fn next_free(object: usize) -> usize {
    // SAFETY: the caller vouches; objects are 16-byte aligned.
    unsafe { (object as *const usize).read() }
}

impl Class {
    fn link(&mut self, slab: &Page) {
        let pfn = slab.pfn().0 as u32;
        slab.next.store(self.partial, Ordering::Relaxed);
        slab.prev.store(NIL, Ordering::Relaxed);
        if self.partial != NIL {
            slab_at(self.partial).prev.store(pfn, Ordering::Relaxed);
        }
        self.partial = pfn;
    }

    fn unlink(&mut self, slab: &Page) {
        let next = slab.next.load(Ordering::Relaxed);
        let prev = slab.prev.load(Ordering::Relaxed);
        if prev == NIL {
            self.partial = next;
        } else {
            slab_at(prev).next.store(next, Ordering::Relaxed);
        }
        if next != NIL {
            slab_at(next).prev.store(prev, Ordering::Relaxed);
        }
    }

    /// Takes up to `to.len()` objects out of slabs; how many.
    fn take(&mut self, class: usize, to: &mut [usize]) -> usize {
        let mut count = 0;
        while count < to.len() && self.partial != NIL {
            let slab = slab_at(self.partial);
            let mut head = slab.private.load(Ordering::Relaxed) as usize;
            let mut free = slab.private2.load(Ordering::Relaxed) as usize;
            if free == per_slab(class) {
                self.free_slabs -= 1;
            }
            while free > 0
                && let Some(slot) = to.get_mut(count)
            {
                *slot = head;
                // SAFETY: `head` is a free object of this slab, whose list we own by the lock.
                head = unsafe { next_free(head) };
                free -= 1;
                count += 1;
            }
            slab.private.store(head as u64, Ordering::Relaxed);
            slab.private2.store(free as u64, Ordering::Relaxed);
            if free == 0 {
                self.unlink(slab);
            }
        }
        self.out += count;
        count
    }

    /// Puts an object back into its slab; the slab if it is to be freed.
    fn put(&mut self, class: usize, object: usize) -> Option<&'static Page> {
        let slab = slab_of(class, object);
        let head = slab.private.load(Ordering::Relaxed);
        let free = slab.private2.load(Ordering::Relaxed) as usize + 1;
        // SAFETY: the object is free and ours.
        unsafe { (object as *mut usize).write(head as usize) };
        slab.private.store(object as u64, Ordering::Relaxed);
        slab.private2.store(free as u64, Ordering::Relaxed);
        self.out -= 1;
        if free == 1 {
            self.link(slab);
        }
        if free < per_slab(class) {
            return None;
        }
        if self.free_slabs < KEEP_FREE {
            self.free_slabs += 1;
            return None;
        }
        self.unlink(slab);
        self.slabs -= 1;
        Some(slab)
    }
}

/// The magazine is empty: takes a batch of objects, making a slab when there are none.
#[cold]
#[inline(never)]
fn refill(class: usize) -> *mut u8 {
    let mut batch = [0; BATCH];
    let is_from_depot = DEPOTS[class].lock().pop(&mut batch);
    let mut count = if is_from_depot { BATCH } else { POOLS[class].lock().take(class, &mut batch) };
    if count == 0 {
        if !grow(class) {
            return core::ptr::null_mut();
        }
        count = POOLS[class].lock().take(class, &mut batch);
    }
    let Some((first, rest)) = batch.get(..count).and_then(|taken| taken.split_first()) else {
        // Another processor took the new slab's objects: as good as none.
        return refill(class);
    };
    let mut kept = 0;
    MAGAZINES.with(|magazines| {
        let magazine = &mut magazines.by_class[class];
        for object in rest {
            let Some(slot) = magazine.objects.get_mut(magazine.len) else { break };
            *slot = *object;
            magazine.len += 1;
            kept += 1;
        }
    });
    // An interrupt filled the magazine meanwhile.
    rest.iter().skip(kept).for_each(|object| give_back(class, &[*object]));
    *first as *mut u8
}

/// Makes a slab.
fn grow(class: usize) -> bool {
    let order = slab_order(class);
    let Some(block) = frames_for(order, Flags::empty()) else { return false };
    let slab = block.page();
    slab.set_kind(kind::SLAB);
    slab.set_class(class as u8);
    let start = block.as_ptr() as usize;
    let (size, count) = (SIZES[class], per_slab(class));
    for index in 0..count {
        let object = start + index * size;
        let next = if index + 1 < count { object + size } else { 0 };
        if cfg!(debug_assertions) {
            // SAFETY: inside the new block.
            unsafe { core::ptr::write_bytes(object as *mut u8, POISON, size) };
        }
        // SAFETY: inside the new block, which nobody else knows.
        unsafe { (object as *mut usize).write(next) };
    }
    slab.private.store(start as u64, Ordering::Relaxed);
    slab.private2.store(count as u64, Ordering::Relaxed);
    block.into_raw();
    Counter::SlabUnreclaimable.add(1 << order);
    let mut pool = POOLS[class].lock();
    pool.slabs += 1;
    pool.free_slabs += 1;
    pool.link(slab);
    true
}

/// The magazine is full: half of it goes to the depot, or back to its slabs.
#[cold]
#[inline(never)]
fn drain(class: usize, object: *mut u8) {
    let mut batch = [0; BATCH];
    let mut count = 0;
    let is_kept = MAGAZINES.with(|magazines| {
        let magazine = &mut magazines.by_class[class];
        while let Some(slot) = batch.get_mut(count)
            && let Some(at) = magazine.len.checked_sub(1)
        {
            *slot = magazine.objects[at];
            magazine.len = at;
            count += 1;
        }
        let slot = magazine.objects.get_mut(magazine.len);
        slot.map(|slot| *slot = object as usize).map(|()| magazine.len += 1).is_some()
    });
    if !is_kept {
        give_back(class, &[object as usize]);
    }
    if count < BATCH || !DEPOTS[class].lock().push(class, &batch) {
        give_back(class, batch.get(..count).unwrap_or_default());
    }
}

fn give_back(class: usize, objects: &[usize]) {
    objects.chunks(BATCH).for_each(|batch| give_back_batch(class, batch));
}

fn give_back_batch(class: usize, objects: &[usize]) {
    let order = slab_order(class);
    let mut empty: [Option<&'static Page>; BATCH] = [None; BATCH];
    {
        let mut pool = POOLS[class].lock();
        for (slab, object) in empty.iter_mut().zip(objects) {
            *slab = pool.put(class, *object);
        }
    }
    for slab in empty.into_iter().flatten() {
        Counter::SlabUnreclaimable.sub(1 << order);
        // SAFETY: `grow` gave the block away with this order, and no object of it is out.
        drop(unsafe { FrameBlock::from_raw(slab.pfn(), order) });
    }
}

/// How long [`frames_for`] waits for memory, in nanoseconds.
const PATIENCE_NS: u64 = 1_000_000_000;

/// Frames for something small, which the kernel cannot do without: from the reserve if need be, and
/// who may wait waits for a victim's end.
///
/// After a second of that there are none.
pub(crate) fn frames_for(order: u8, flags: Flags) -> Option<FrameBlock> {
    let mut deadline = None;
    loop {
        let reserve = flags | Flags::RESERVE | Flags::NO_RECLAIM;
        let found = frames::alloc(order, flags).or_else(|_| frames::alloc(order, reserve));
        if let Ok(block) = found {
            return Some(block);
        }
        let now = arch::time::now_ns();
        if !arch::preempt::is_enabled() || now >= *deadline.get_or_insert(now + PATIENCE_NS) {
            return None;
        }
        arch::cpu::relax();
    }
}

/// Gives the objects in this processor's magazines back to their slabs, so that empty slabs are
/// freed. Interrupts off or preemption off.
fn drain_magazines() {
    for class in 0..CLASSES {
        let mut batch = [0; DEPTH];
        let mut count = 0;
        MAGAZINES.with(|magazines| {
            let magazine = &mut magazines.by_class[class];
            count = core::mem::take(&mut magazine.len);
            batch = magazine.objects;
        });
        if let Some(objects) = batch.get(..count) {
            give_back(class, objects);
        }
    }
}

/// Frees what the heap keeps for speed: magazines of all processors, empty slabs, idle stacks.
pub fn shrink() {
    arch::ipi::call_on_all(|_| drain_magazines(), 0);
    for (class, depot) in DEPOTS.iter().enumerate() {
        let mut batch = [0; BATCH];
        while depot.lock().pop(&mut batch) {
            give_back(class, &batch);
        }
        free_empty(class);
    }
    crate::stack::shrink();
}

/// Frees the empty slabs that a class keeps.
fn free_empty(class: usize) {
    let order = slab_order(class);
    loop {
        let empty = {
            let mut pool = POOLS[class].lock();
            if pool.free_slabs == 0 {
                return;
            }
            let mut at = pool.partial;
            while at != NIL
                && slab_at(at).private2.load(Ordering::Relaxed) as usize != per_slab(class)
            {
                at = slab_at(at).next.load(Ordering::Relaxed);
            }
            if at == NIL {
                return;
            }
            pool.unlink(slab_at(at));
            pool.slabs -= 1;
            pool.free_slabs -= 1;
            slab_at(at)
        };
        Counter::SlabUnreclaimable.sub(1 << order);
        // SAFETY: `grow` gave the block away with this order, and no object of it is out.
        drop(unsafe { FrameBlock::from_raw(empty.pfn(), order) });
    }
}

const POISON: u8 = 0x6b;

/// Looks whether a free object was written to. The first word held the list link.
fn check_poison(object: *const u8, size: usize) {
    let link = size_of::<usize>();
    // SAFETY: the object is ours and this long.
    let rest = unsafe { core::slice::from_raw_parts(object.add(link), size - link) };
    assert!(rest.iter().all(|byte| *byte == POISON), "object {object:p}+{size} written while free");
}

/// Slabs, objects out of them, object size and objects per slab of a class.
pub(crate) fn class_stats(class: usize) -> (usize, usize, usize, usize) {
    let pool = POOLS[class].lock();
    (pool.slabs, pool.out, SIZES[class], per_slab(class))
}
