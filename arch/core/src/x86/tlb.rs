//! Loading address spaces and flushing: PCIDs where the processor has them.
//!
//! Each processor keeps its last [`SLOTS`] address spaces under a PCID each, with the generation
//! up to which it is clean. Slot numbers are PCIDs minus one; PCID 0 is the kernel's own root.

use crate::addr::VirtAddr;
use crate::cpu::CpuSet;
use crate::irq_count::Counted;
use crate::paging::Level;
use crate::tlb::{Context, FULL_FLUSH_PAGES};
use crate::x86::{ipi, regs};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SLOTS: usize = 6;
const NO_FLUSH: u64 = 1 << 63;
const CR4_PGE: u64 = 1 << 7;

static HAS_PCID: AtomicBool = AtomicBool::new(false);

#[derive(Clone, Copy)]
struct Slot {
    /// 0: free.
    id: u64,
    generation: u64,
}

/// What only the processor itself touches.
struct Own {
    slots: [Slot; SLOTS],
    current: usize,
    victim: usize,
    /// The loaded context; null for the kernel's own root.
    loaded: *const Context,
}

/// A processor's translation state.
struct Tlb {
    own: UnsafeCell<Own>,
    /// The id of the loaded context, for flush senders to look at; 0 for none.
    loaded_id: AtomicU64,
    /// Set while a kernel thread runs: flushes are caught up with later.
    lazy: AtomicBool,
}

// SAFETY: `own` is only touched by its processor with interrupts off.
unsafe impl Sync for Tlb {}

crate::percpu! {
    static TLB: PerCpu<Tlb> = Tlb {
        own: UnsafeCell::new(Own {
            slots: [Slot { id: 0, generation: 0 }; SLOTS],
            current: 0,
            victim: 0,
            loaded: core::ptr::null(),
        }),
        loaded_id: AtomicU64::new(0),
        lazy: AtomicBool::new(false),
    };
}

/// Notes that CR4.PCIDE is set (on every processor).
pub(crate) fn note_pcid() {
    HAS_PCID.store(true, Ordering::Relaxed);
}

/// Runs with interrupts off and this processor's state.
#[inline(always)]
fn with_own<R>(f: impl FnOnce(&Tlb, &mut Own) -> R) -> R {
    let _irq = crate::irq::disable();
    let tlb = TLB.this();
    // SAFETY: interrupts are off on the only processor that touches `own`, and none of the
    // functions passed here comes back.
    f(tlb, unsafe { &mut *tlb.own.get() })
}

#[inline]
pub(crate) unsafe fn activate(context: &Context) {
    with_own(|tlb, own| {
        let was_lazy = tlb.lazy.load(Ordering::Relaxed);
        if core::ptr::eq(own.loaded, context) && tlb.loaded_id.load(Ordering::Relaxed) == context.id
        {
            if was_lazy {
                // SeqCst: a sender that saw us lazy made its generation visible before.
                tlb.lazy.store(false, Ordering::SeqCst);
                catch_up(own, context);
            }
            return;
        }
        // SAFETY: a context stays alive while loaded: `retire` takes it off first.
        if let Some(old) = unsafe { own.loaded.as_ref() } {
            old.loaded.remove(crate::cpu::id());
        }
        own.loaded = context;
        tlb.loaded_id.store(context.id, Ordering::Relaxed);
        if was_lazy {
            tlb.lazy.store(false, Ordering::Relaxed);
        }
        // A full barrier: whoever flushes after this sees us, whoever did before, we see.
        context.loaded.insert(crate::cpu::id());
        load(own, context);
    });
}

/// Writes CR3 for a context that was not loaded.
fn load(own: &mut Own, context: &Context) {
    let generation = context.generation.load(Ordering::SeqCst);
    if !HAS_PCID.load(Ordering::Relaxed) {
        own.current = 0;
        own.slots[0] = Slot { id: context.id, generation };
        // SAFETY: a live root with the kernel's half.
        unsafe { regs::set_cr3(context.root.0) };
        return;
    }
    let found = own.slots.iter().position(|slot| slot.id == context.id);
    let index = found.unwrap_or_else(|| {
        own.victim = (own.victim + 1) % SLOTS;
        own.victim
    });
    let clean = found.is_some() && own.slots[index].generation == generation;
    own.slots[index] = Slot { id: context.id, generation };
    own.current = index;
    let value = context.root.0 | (index as u64 + 1) | if clean { NO_FLUSH } else { 0 };
    // SAFETY: a live root with the kernel's half.
    unsafe { regs::set_cr3(value) };
}

/// Flushes the loaded context when it is behind.
fn catch_up(own: &mut Own, context: &Context) {
    let generation = context.generation.load(Ordering::SeqCst);
    let slot = &mut own.slots[own.current];
    if slot.generation != generation {
        slot.generation = generation;
        flush_loaded();
    }
}

/// Forgets everything of the loaded context (not the kernel's global entries).
fn flush_loaded() {
    // CR3 reads back without the no-flush bit.
    // SAFETY: the same root again.
    unsafe { regs::set_cr3(regs::cr3()) };
}

pub(crate) fn is_active(context: &Context) -> bool {
    TLB.this().loaded_id.load(Ordering::Relaxed) == context.id
}

#[inline]
pub(crate) fn enter_lazy() {
    TLB.this().lazy.store(true, Ordering::Release);
}

/// Loads the kernel's own root here when `id` is the loaded context.
fn leave(id: usize) {
    with_own(|tlb, own| {
        if tlb.loaded_id.load(Ordering::Relaxed) != id as u64 {
            return;
        }
        // SAFETY: the context is being retired and waits for us; its set is still there.
        if let Some(old) = unsafe { own.loaded.as_ref() } {
            old.loaded.remove(crate::cpu::id());
        }
        own.loaded = core::ptr::null();
        tlb.loaded_id.store(0, Ordering::Relaxed);
        // SAFETY: the kernel's root lives for ever.
        unsafe { regs::set_cr3(crate::paging::kernel::root().0) };
    });
}

pub(crate) fn retire(context: &Context) {
    let cpus = context.loaded.load();
    if !cpus.is_empty() {
        ipi::call_on(&cpus, leave, context.id as usize);
    }
}

/// One flush, on the sender's stack until all have answered.
struct Request {
    id: u64,
    start: VirtAddr,
    end: VirtAddr,
    step: u64,
    generation: u64,
}

pub(crate) fn flush(context: &Context, start: VirtAddr, end: VirtAddr, level: Level) {
    let _here = crate::preempt::disable();
    // A full barrier: entries were changed before; processors that load from now on see both.
    let generation = context.generation.fetch_add(1, Ordering::SeqCst) + 1;
    let step = level.size() as u64;
    let request = Request { id: context.id, start, end, step, generation };
    let own_cpu = crate::cpu::id();
    let loaded = context.loaded.load();
    if loaded.contains(own_cpu) {
        answer(&request);
    }
    let mut others = CpuSet::EMPTY;
    for cpu in loaded.iter().filter(|cpu| *cpu != own_cpu) {
        // SeqCst: pairs with the store in `activate`; either we see it not lazy, or it sees the
        // new generation when it stops being lazy.
        if !TLB.on(cpu).lazy.load(Ordering::SeqCst) {
            others.insert(cpu);
        }
    }
    if !others.is_empty() {
        let request = core::ptr::from_ref(&request) as usize;
        ipi::call_as(Counted::TlbFlush, &others, answer_remote, request);
    }
}

fn answer_remote(request: usize) {
    // SAFETY: the sender waits with the request on its stack until we have answered.
    answer(unsafe { &*(request as *const Request) });
}

fn answer(request: &Request) {
    with_own(|tlb, own| {
        if tlb.loaded_id.load(Ordering::Relaxed) != request.id {
            return;
        }
        let slot = &mut own.slots[own.current];
        if slot.generation >= request.generation {
            return;
        }
        let pages = (request.end.0 - request.start.0).div_ceil(request.step);
        if slot.generation + 1 == request.generation && pages <= FULL_FLUSH_PAGES {
            slot.generation = request.generation;
            let mut at = request.start;
            while at < request.end {
                invalidate(at);
                at += request.step;
            }
            return;
        }
        // Flushing everything covers every request up to the context's generation, but this one's
        // is the only one we know of without touching the context.
        slot.generation = request.generation;
        flush_loaded();
    });
}

pub(crate) fn flush_page_here(at: VirtAddr) {
    invalidate(at);
}

#[inline(always)]
fn invalidate(at: VirtAddr) {
    // SAFETY: forgetting a translation is always allowed.
    unsafe { asm!("invlpg [{}]", in(reg) at.0, options(nostack, preserves_flags)) };
}

struct KernelRange {
    start: VirtAddr,
    end: VirtAddr,
}

pub(crate) fn flush_kernel(start: VirtAddr, end: VirtAddr) {
    let range = KernelRange { start, end };
    let others = crate::cpu::online();
    let range = core::ptr::from_ref(&range) as usize;
    ipi::call_as(Counted::TlbFlush, &others, answer_kernel, range);
}

fn answer_kernel(range: usize) {
    // SAFETY: the sender waits with the range on its stack until we have answered.
    let range = unsafe { &*(range as *const KernelRange) };
    if (range.end.0 - range.start.0) / 4096 <= FULL_FLUSH_PAGES {
        let mut at = range.start;
        while at < range.end {
            invalidate(at);
            at += 4096u64;
        }
        return;
    }
    flush_everything();
}

/// Forgets everything, global entries included.
pub(crate) fn flush_everything() {
    let _irq = crate::irq::disable();
    let cr4 = regs::cr4();
    // SAFETY: toggling PGE only flushes.
    unsafe {
        regs::set_cr4(cr4 ^ CR4_PGE);
        regs::set_cr4(cr4);
    }
}
