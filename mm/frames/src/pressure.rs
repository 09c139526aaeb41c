//! What happens when memory gets short: watermarks, reclaim, the OOM hook.

use crate::alloc::Flags;
use crate::init;
use crate::{OutOfMemory, drain_local};
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

/// Someone who can give memory back.
pub trait Reclaim: Sync {
    /// Frees about `pages` frames; how many were freed. May sleep.
    fn reclaim(&self, pages: usize) -> usize;
    /// How many frames could be freed without writing anything; for `MemAvailable`.
    fn reclaimable(&self) -> u64;
}

/// Free-memory levels in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Below it only those who cannot wait get memory.
    pub min: u64,
    /// Below it background reclaim runs.
    pub low: u64,
    /// Where background reclaim stops.
    pub high: u64,
}

static MIN: AtomicU64 = AtomicU64::new(0);
static CLASS: LockClass = LockClass::new("frames.reclaimers", 855);
static RECLAIMERS: SpinLock<[Option<&'static dyn Reclaim>; 8]> = SpinLock::new(&CLASS, [None; 8]);
static BACKGROUND: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static BACKGROUND_ASKED: AtomicBool = AtomicBool::new(false);
static OOM: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// How often a caller reclaims in vain before it asks the OOM hook.
const ATTEMPTS: u32 = 5;

/// The levels now.
pub fn watermarks() -> Watermarks {
    let min = MIN.load(Ordering::Relaxed);
    Watermarks { min, low: min + min / 4, high: min + min / 2 }
}

/// Sets `vm.min_free_kbytes`.
pub(crate) fn set_min(frames: u64) {
    MIN.store(frames, Ordering::Relaxed);
}

/// Adds someone who can give memory back.
pub fn register_reclaim(reclaim: &'static dyn Reclaim) {
    let mut slots = RECLAIMERS.lock();
    match slots.iter_mut().find(|slot| slot.is_none()) {
        Some(slot) => *slot = Some(reclaim),
        None => log::error!("frames: too many reclaimers"),
    }
}

/// Registers what wakes the background reclaim: called from any context, must not sleep. It is
/// called once each time memory falls below the low watermark; [`is_comfortable`] resets that.
pub fn set_background_hook(hook: fn()) {
    BACKGROUND.store(hook as *mut (), Ordering::Release);
}

/// Registers what is asked when nothing can be reclaimed: kills someone and says whether trying
/// again makes sense. Called from contexts that may sleep.
pub fn set_oom_hook(hook: fn(order: u8) -> bool) {
    OOM.store(hook as *mut (), Ordering::Release);
}

/// Whether free memory is above the high watermark.
pub(crate) fn is_comfortable() -> bool {
    init::available() > watermarks().high
}

/// Whether the caller may take `frames` now.
pub(crate) fn may_take(flags: Flags, frames: u64) -> bool {
    let available = init::available().saturating_sub(frames);
    let marks = watermarks();
    if available >= marks.low {
        BACKGROUND_ASKED.store(false, Ordering::Relaxed);
        return true;
    }
    wake_background();
    if available >= marks.min {
        return true;
    }
    if flags.contains(Flags::RESERVE) || in_reclaim() {
        return true;
    }
    !arch::preempt::is_enabled() && available >= marks.min / 4
}

fn wake_background() {
    if BACKGROUND_ASKED.swap(true, Ordering::Relaxed) {
        return;
    }
    let hook = BACKGROUND.load(Ordering::Acquire);
    if !hook.is_null() {
        // SAFETY: only `set_background_hook` stores here, a `fn()`.
        let hook: fn() = unsafe { core::mem::transmute(hook) };
        hook();
    }
}

fn in_reclaim() -> bool {
    arch::thread::try_current()
        .is_some_and(|thread| thread.has_flag(arch::thread::flags::IN_RECLAIM))
}

/// Makes room, or says that there is none.
#[cold]
pub(crate) fn relieve(flags: Flags, order: u8, attempt: &mut u32) -> Result<(), OutOfMemory> {
    let may_wait = arch::preempt::is_enabled() && !in_reclaim();
    if flags.contains(Flags::NO_RECLAIM) || !may_wait {
        return Err(OutOfMemory);
    }
    *attempt += 1;
    drain_local();
    // A large block may be unobtainable although memory is free: then one round must do.
    let enough = init::available() >= watermarks().low;
    if enough && order > 0 && *attempt > 1 {
        return Err(OutOfMemory);
    }
    let freed = direct_reclaim((2 << order).max(64));
    if freed > 0 && *attempt <= ATTEMPTS * 4 {
        return Ok(());
    }
    if *attempt < ATTEMPTS && init::available() >= watermarks().min + (1 << order) {
        return Ok(());
    }
    if flags.contains(Flags::NO_OOM) || order > 3 {
        return Err(OutOfMemory);
    }
    let hook = OOM.load(Ordering::Acquire);
    if hook.is_null() {
        return Err(OutOfMemory);
    }
    // SAFETY: only `set_oom_hook` stores here, such a function.
    let hook: fn(u8) -> bool = unsafe { core::mem::transmute(hook) };
    if hook(order) { Ok(()) } else { Err(OutOfMemory) }
}

fn direct_reclaim(pages: usize) -> usize {
    let slots = *RECLAIMERS.lock();
    let thread = arch::thread::try_current();
    if let Some(thread) = thread {
        thread.set_flag(arch::thread::flags::IN_RECLAIM);
    }
    let mut freed = 0;
    for reclaim in slots.iter().flatten() {
        freed += reclaim.reclaim(pages.saturating_sub(freed).max(1));
    }
    if let Some(thread) = thread {
        thread.clear_flag(arch::thread::flags::IN_RECLAIM);
    }
    freed
}

/// What all reclaimers could free easily.
pub(crate) fn reclaimable() -> u64 {
    let slots = *RECLAIMERS.lock();
    slots.iter().flatten().map(|reclaim| reclaim.reclaimable()).sum()
}
