//! Kernel stacks: mapped in the kernel's area with an unmapped page below, and cached.
//!
//! An interrupt handler may drop the last reference to a thread that has ended, and must neither
//! take the cache's lock nor wait for other processors to forget a stack. It leaves the stack on a
//! list, linked through the stacks themselves, for the next one who asks for a stack.

use crate::large;
use arch::addr::{PAGE_SIZE, VirtAddr};
use arch::lock::{LockClass, SpinLock};
#[cfg(target_os = "none")]
use arch::paging::{PteFlags, kernel};
use core::sync::atomic::{AtomicU64, Ordering};
use frames::{Counter, Flags, OutOfMemory};

/// The size of a kernel stack in bytes.
///
/// Code without optimisation needs about twice as much.
pub const STACK_SIZE: usize = if cfg!(debug_assertions) { 8 } else { 6 } * PAGE_SIZE;
const PAGES: usize = STACK_SIZE / PAGE_SIZE;
/// Stacks kept for reuse.
const CACHED: usize = 128;

/// As many are freed at once when more are left than are kept: all processors are interrupted for that, which threads
/// that come and go in crowds would else do one by one.
const BATCH: usize = CACHED / 2;

static CLASS: LockClass = LockClass::new("heap.stacks", 800);

struct Cache {
    stacks: [VirtAddr; CACHED],
    len: usize,
}

impl Cache {
    /// Moves stacks out of the cache: as many as there are, or as fit.
    fn take(&mut self, to: &mut [VirtAddr; BATCH]) {
        let left = self.len.saturating_sub(BATCH);
        let taken = &self.stacks[left..self.len];
        to[..taken.len()].copy_from_slice(taken);
        self.len = left;
    }
}

static CACHE: SpinLock<Cache> =
    SpinLock::new(&CLASS, Cache { stacks: [VirtAddr::ZERO; CACHED], len: 0 });

/// The stack left by an interrupt handler last; each holds the address of the one before in its
/// lowest word, the first 0.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Leaves a stack that nobody uses.
pub(crate) fn leave(stack: VirtAddr) {
    let mut last = LEFT.load(Ordering::Relaxed);
    loop {
        // SAFETY: the stack is mapped and belongs to the caller, who gives it up.
        unsafe { stack.as_mut_ptr::<u64>().write(last) };
        // Release: pairs with the Acquire of who takes the list.
        match LEFT.compare_exchange_weak(last, stack.0, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => last = now,
        }
    }
}

/// Gives back the stacks that were left. Not in an interrupt handler.
pub(crate) fn collect_left() {
    if LEFT.load(Ordering::Relaxed) == 0 {
        return;
    }
    let mut next = VirtAddr(LEFT.swap(0, Ordering::Acquire));
    while next != VirtAddr::ZERO {
        let stack = KernelStack { bottom: next };
        // SAFETY: `leave` wrote the word and gave the stack up; the swap took it from everyone else.
        next = VirtAddr(unsafe { next.as_ptr::<u64>().read() });
        drop(stack);
    }
}

/// A stack for a thread in the kernel. Debug builds do not clear it between users.
#[derive(Debug)]
pub struct KernelStack {
    bottom: VirtAddr,
}

impl KernelStack {
    /// A stack, from the cache if there is one.
    pub fn new() -> Result<KernelStack, OutOfMemory> {
        collect_left();
        {
            let mut cache = CACHE.lock();
            if let Some(at) = cache.len.checked_sub(1) {
                cache.len = at;
                return Ok(KernelStack { bottom: cache.stacks[at] });
            }
        }
        let bottom = make()?;
        Counter::KernelStacks.add(PAGES as u64);
        Ok(KernelStack { bottom })
    }

    /// The lowest byte.
    pub fn bottom(&self) -> VirtAddr {
        self.bottom
    }

    /// One past the highest byte; aligned to a page.
    pub fn top(&self) -> VirtAddr {
        self.bottom + STACK_SIZE
    }

    /// Both ends, as `arch` wants them.
    pub fn range(&self) -> arch::thread::KernelStackRange {
        arch::thread::KernelStackRange { bottom: self.bottom, top: self.top() }
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        if arch::preempt::in_hardirq() {
            leave(self.bottom);
            return;
        }
        let mut surplus = [VirtAddr::ZERO; BATCH];
        {
            let mut cache = CACHE.lock();
            if cache.len == CACHED {
                cache.take(&mut surplus);
            }
            let len = cache.len;
            cache.stacks[len] = self.bottom;
            cache.len += 1;
        }
        destroy_all(&surplus);
    }
}

/// Frees the cached stacks.
pub(crate) fn shrink() {
    collect_left();
    loop {
        let mut some = [VirtAddr::ZERO; BATCH];
        CACHE.lock().take(&mut some);
        if some[0] == VirtAddr::ZERO {
            return;
        }
        destroy_all(&some);
    }
}

/// Frees stacks, up to the first that is none.
fn destroy_all(stacks: &[VirtAddr; BATCH]) {
    let count = stacks.iter().take_while(|at| **at != VirtAddr::ZERO).count();
    if count != 0 {
        Counter::KernelStacks.sub((count * PAGES) as u64);
        destroy(&stacks[..count]);
    }
}

#[cfg(target_os = "none")]
fn make() -> Result<VirtAddr, OutOfMemory> {
    // The guard page comes first; the area leaves what was reserved before below it.
    let start = kernel::reserve(STACK_SIZE + PAGE_SIZE).ok_or(OutOfMemory)?;
    let bottom = start + PAGE_SIZE;
    for index in 0..PAGES {
        let mapped = frames::alloc_page(Flags::empty()).and_then(|page| {
            page.set_kind(frames::kind::STACK);
            let at = bottom + index * PAGE_SIZE;
            kernel::map_page(at, page.phys(), PteFlags::KERNEL_DATA).map_err(|_| OutOfMemory)?;
            page.into_raw();
            Ok(())
        });
        if let Err(error) = mapped {
            large::release(bottom, index);
            kernel::unreserve(start, STACK_SIZE + PAGE_SIZE);
            return Err(error);
        }
    }
    Ok(bottom)
}

#[cfg(target_os = "none")]
fn destroy(stacks: &[VirtAddr]) {
    large::release_all(stacks, PAGES);
    for bottom in stacks {
        kernel::unreserve(*bottom - PAGE_SIZE as u64, STACK_SIZE + PAGE_SIZE);
    }
}

#[cfg(not(target_os = "none"))]
fn make() -> Result<VirtAddr, OutOfMemory> {
    let block = frames::alloc(3, Flags::empty())?;
    let bottom = VirtAddr::from_ptr(block.as_ptr());
    block.into_raw();
    Ok(bottom)
}

#[cfg(not(target_os = "none"))]
fn destroy(stacks: &[VirtAddr]) {
    let _ = large::release_all;
    for bottom in stacks {
        let pfn = arch::phys::to_phys(bottom.as_ptr::<u8>()).pfn();
        // SAFETY: `make` gave this block away.
        drop(unsafe { frames::FrameBlock::from_raw(pfn, 3) });
    }
}
