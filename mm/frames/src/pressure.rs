//! What happens when memory gets short: watermarks, reclaim, the OOM hook.

use crate::alloc::Flags;
use crate::init;
use crate::{OutOfMemory, drain_local};
use arch::lock::{LockClass, Once, SpinLock};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Someone who can give memory back.
pub trait Reclaim: Sync {
    /// Frees about `pages` frames; how many were freed. May sleep, but must not wait for locks that
    /// a caller of the allocator may hold.
    fn reclaim(&self, pages: usize) -> usize;
    /// How many frames could be freed without writing anything; for `MemAvailable`.
    fn reclaimable(&self) -> u64;
    /// Whether freeing may wait for locks of file systems: then it is done in the background
    /// thread only, never by whoever happens to allocate.
    fn needs_thread(&self) -> bool {
        false
    }
    /// Whether what is freed comes at such a price that it is better if somebody dies.
    fn gives_up(&self) -> bool {
        false
    }
    /// Waits a moment for the background thread and for write-back; whether trying again may help.
    fn wait(&self) -> bool {
        false
    }
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
static BACKGROUND: Once<fn()> = Once::new();
static BACKGROUND_ASKED: AtomicBool = AtomicBool::new(false);
static OOM: Once<fn(u8) -> bool> = Once::new();
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
/// called once each time memory falls below the low watermark; who gets memory above it, and
/// the end of a round of [`reclaim_in_background`], reset that.
pub fn set_background_hook(hook: fn()) {
    BACKGROUND.call_once(|| hook);
}

/// Registers what is asked when nothing can be reclaimed: kills someone and says whether trying
/// again makes sense. Called from contexts that may sleep.
pub fn set_oom_hook(hook: fn(order: u8) -> bool) {
    OOM.call_once(|| hook);
}

/// Whether free memory is above the high watermark, `frames` less than now.
pub(crate) fn is_comfortable(frames: u64) -> bool {
    init::available().saturating_sub(frames) > watermarks().high
}

/// Whether free memory is above the low watermark: nobody needs to die.
pub fn has_room() -> bool {
    init::available() >= watermarks().low
}

/// Whether the caller may take `frames` now.
pub(crate) fn may_take(flags: Flags, frames: u64) -> bool {
    let available = init::available().saturating_sub(frames);
    let marks = watermarks();
    if available >= marks.low {
        BACKGROUND_ASKED.store(false, Ordering::Relaxed);
        return true;
    }
    let may_wait = arch::preempt::is_enabled();
    if may_wait {
        wake_background();
    }
    available >= floor(flags.contains(Flags::RESERVE) || is_privileged(), may_wait, marks)
}

/// How far down a caller may go: to the last frame for who frees memory or must die, into the
/// reserve for who cannot wait, else down to its top.
fn floor(privileged: bool, may_wait: bool, marks: Watermarks) -> u64 {
    match (privileged, may_wait) {
        (true, _) => 0,
        (false, true) => marks.min,
        (false, false) => marks.min / 4,
    }
}

fn wake_background() {
    if BACKGROUND_ASKED.swap(true, Ordering::Relaxed) {
        return;
    }
    if let Some(hook) = BACKGROUND.get() {
        hook();
    }
}

/// Whether the current thread frees memory itself, or was told to die to free some.
fn is_privileged() -> bool {
    use arch::thread::flags::{IN_RECLAIM, OOM_VICTIM};
    arch::thread::try_current().is_some_and(|thread| thread.has_flag(IN_RECLAIM | OOM_VICTIM))
}

/// Makes room, or says that there is none.
#[cold]
pub(crate) fn relieve(flags: Flags, order: u8, attempt: &mut u32) -> Result<(), OutOfMemory> {
    let may_wait = arch::preempt::is_enabled() && !is_privileged();
    if flags.contains(Flags::NO_RECLAIM) || !may_wait {
        return Err(OutOfMemory);
    }
    *attempt += 1;
    drain_local();
    let freed = direct_reclaim((2 << order).max(64));
    let may_kill = !flags.contains(Flags::NO_OOM) && order <= COSTLY;
    match next_step(freed, order, *attempt, init::available() >= watermarks().low) {
        Step::Again => {
            if may_kill
                && gives_up()
                && let Some(hook) = OOM.get()
            {
                hook(order);
            }
            return Ok(());
        }
        Step::Wait if wait_for_others() => return Ok(()),
        Step::GiveUp => return Err(OutOfMemory),
        Step::Wait | Step::Kill => {}
    }
    if !may_kill {
        return Err(OutOfMemory);
    }
    let Some(hook) = OOM.get() else { return Err(OutOfMemory) };
    // Somebody dies: reclaim gets a new start before the next.
    *attempt = 0;
    if hook(order) { Ok(()) } else { Err(OutOfMemory) }
}

/// Blocks past this order have a substitute: nobody is killed for them.
const COSTLY: u8 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Again,
    Wait,
    Kill,
    GiveUp,
}

/// What to do after the `attempt`-th round of reclaim freed so many frames. `is_fragmented`: there
/// is memory enough, only not in blocks of `2^order`.
pub(crate) fn next_step(freed: usize, order: u8, attempt: u32, is_fragmented: bool) -> Step {
    if is_fragmented && order > 0 {
        // Killing somebody would not make the memory less scattered.
        let rounds = if order > COSTLY { 1 } else { ATTEMPTS * 4 };
        return if attempt > rounds || freed == 0 { Step::GiveUp } else { Step::Again };
    }
    match attempt {
        _ if freed > 0 && attempt <= ATTEMPTS * 4 => Step::Again,
        _ if order > COSTLY => Step::GiveUp,
        _ if attempt <= ATTEMPTS * 10 => Step::Wait,
        _ => Step::Kill,
    }
}

/// Whether somebody is to die though a little was freed.
fn gives_up() -> bool {
    let slots = *RECLAIMERS.lock();
    slots.iter().flatten().any(|reclaim| reclaim.gives_up())
}

fn wait_for_others() -> bool {
    let slots = *RECLAIMERS.lock();
    let mut may_help = false;
    for reclaim in slots.iter().flatten() {
        may_help |= reclaim.wait();
    }
    may_help
}

fn direct_reclaim(pages: usize) -> usize {
    as_reclaimer(|| {
        let slots = *RECLAIMERS.lock();
        let mut freed = 0;
        for reclaim in slots.iter().flatten().filter(|reclaim| !reclaim.needs_thread()) {
            freed += reclaim.reclaim(pages.saturating_sub(freed).max(1));
        }
        freed
    })
}

/// Runs `work`, which frees memory: what it allocates itself may come from the reserve.
pub fn as_reclaimer<R>(work: impl FnOnce() -> R) -> R {
    let thread = arch::thread::try_current();
    let nested = thread.is_some_and(|t| t.has_flag(arch::thread::flags::IN_RECLAIM));
    if let Some(thread) = thread {
        thread.set_flag(arch::thread::flags::IN_RECLAIM);
    }
    let result = work();
    if let Some(thread) = thread.filter(|_| !nested) {
        thread.clear_flag(arch::thread::flags::IN_RECLAIM);
    }
    result
}

/// Whether the calling thread frees memory ([`as_reclaimer`]): it must not wait for others to do so.
pub fn is_reclaimer() -> bool {
    arch::thread::try_current().is_some_and(|t| t.has_flag(arch::thread::flags::IN_RECLAIM))
}

/// One pass of the background thread: frees until memory is above the high watermark or nothing
/// more can be freed; how many frames were.
pub fn reclaim_in_background() -> usize {
    as_reclaimer(|| {
        let mut total = 0;
        loop {
            let missing = watermarks().high.saturating_sub(init::available()) as usize;
            let mut freed = 0;
            let slots = *RECLAIMERS.lock();
            for reclaim in slots.iter().flatten() {
                freed += reclaim.reclaim(missing.clamp(64, 1024));
            }
            total += freed;
            if is_comfortable(0) || freed == 0 {
                BACKGROUND_ASKED.store(false, Ordering::Relaxed);
                return total;
            }
        }
    })
}

/// Frees everything that can be freed and read again: for `vm.drop_caches`. Not for those who
/// allocate: it may wait for any lock.
pub fn reclaim_everything() {
    let slots = *RECLAIMERS.lock();
    for reclaim in slots.iter().flatten() {
        reclaim.reclaim(usize::MAX);
    }
}

/// What all reclaimers could free easily.
pub(crate) fn reclaimable() -> u64 {
    let slots = *RECLAIMERS.lock();
    slots.iter().flatten().map(|reclaim| reclaim.reclaimable()).sum()
}

/// `vm.min_free_kbytes`.
pub fn set_min_free(frames: u64) {
    set_min(frames.clamp(32, crate::total_pages() / 8));
}

#[cfg(test)]
mod tests {
    use super::{Step, next_step};
    use crate::MAX_ORDER;
    use proptest::prelude::*;

    proptest! {
        /// Whoever waits for memory does not wait for ever, nobody dies while reclaim gets on, and for
        /// large or scattered blocks nobody dies at all.
        #[test]
        fn shortage_ends(order in 0u8..=MAX_ORDER, freed in prop::collection::vec(0usize..3, 300)) {
            let mut attempt = 0;
            let mut end = None;
            for freed in &freed {
                attempt += 1;
                match next_step(*freed, order, attempt, false) {
                    Step::Again => prop_assert!(*freed > 0),
                    Step::Wait => prop_assert!(order <= 3),
                    step => {
                        end = Some(step);
                        break;
                    }
                }
            }
            let expected = if order > 3 { Step::GiveUp } else { Step::Kill };
            prop_assert_eq!(end, Some(expected));
            let scattered = (1..300).map(|n| next_step(1, order.max(1), n, true));
            prop_assert!(scattered.clone().all(|s| matches!(s, Step::Again | Step::GiveUp)));
            prop_assert!(scattered.clone().any(|s| s == Step::GiveUp));
        }
    }
}
