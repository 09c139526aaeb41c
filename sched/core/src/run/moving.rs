//! From queue to queue: waking, stealing, changes of affinity and policy.
//!
//! A thread's place ([`Place`]), its policy entity and the number of its processor belong to the
//! lock of the queue of its processor: [`own_queue`] takes it. Who holds it may
//!
//! - take a waiting thread off that queue, make it [`Place::Moving`] with another processor, and
//!   queue it there after, interrupts being off all the while. Until then nobody else queues it: a
//!   waker finds it moving and only sets its state, so that it does not matter whether it was
//!   preempted on its way to sleep;
//! - do the same with a thread that is [`Place::Off`], if its `wake_lock` is held as well.

use super::*;
use crate::deferred::Deferred;
use crate::policy::Params;
use arch::thread::Rest;

/// So many waiting threads are looked at for one that may go; their queue is locked meanwhile.
const LOOKED_AT: usize = 32;

/// Locks the queue that a thread is on, or was on last, or is on its way to.
pub(super) fn own_queue(thread: &Thread) -> Queue {
    loop {
        let at = thread.arch().cpu();
        let cpu = CPU.on(at).lock();
        if thread.arch().cpu() == at {
            return cpu;
        }
    }
}

/// Waits until a thread that is not current any more has left its processor. Its queue may be
/// locked: what is awaited happens after that processor has let go of it.
fn wait_off_cpu(thread: &Thread) {
    // Acquire: pairs with `finish`: its registers are saved.
    while thread.on_cpu.load(Ordering::Acquire) {
        arch::cpu::relax();
    }
}

/// Ends a sleep of one of the kinds in `mask`; whether the thread was in one.
pub fn wake(thread: &Thread, mask: u32) -> bool {
    let _turn = thread.wake_lock.lock();
    if thread.state.load(Ordering::SeqCst) & mask == 0 {
        return false;
    }
    // An interrupt wakes for no thread.
    let waker = Some(current()).filter(|waker| !waker.is_idle && !arch::preempt::in_hardirq());
    let heir = waker.and_then(|waker| takes_over(thread, waker));
    let cpu = own_queue(thread);
    if thread.place() != Place::Off {
        // On its way to sleep, or preempted on that way.
        thread.state.store(state::RUNNING, Ordering::SeqCst);
        return true;
    }
    wait_off_cpu(thread);
    thread.state.store(state::RUNNING, Ordering::SeqCst);
    let last = thread.arch().cpu();
    let target = heir.unwrap_or_else(|| choose_cpu(thread));
    let now = if target == last {
        enqueue_locked(cpu, thread, target, Enqueue::Wakeup)
    } else {
        thread.set_place(Place::Moving);
        thread.arch().set_cpu(target);
        drop(cpu);
        enqueue_on(thread, target, Enqueue::Wakeup)
    };
    if let Some(waker) = waker {
        waker.handover.wakes(now);
    }
    true
}

/// This processor, if its running thread, the waker, is expected to leave it to `thread` sooner than an idle one would
/// run that, and none waits for it already. No queue is locked.
#[inline]
fn takes_over(thread: &Thread, waker: &Thread) -> Option<CpuId> {
    if !waker.handover.is_expected(&WAKE_COST) {
        return None;
    }
    let here = arch::cpu::id();
    let waits = CPU.this().lock().queue.nr_waiting() > 0;
    (!waits && thread.affinity.lock().contains(here)).then_some(here)
}

/// Where a waking thread is to run: where it was if that processor idles, here if this one does,
/// on any idle one, else where it was.
pub(super) fn choose_cpu(thread: &Thread) -> CpuId {
    let online = arch::cpu::online();
    let mut allowed = thread.affinity.lock().and(&online);
    if allowed.is_empty() {
        allowed = online;
    }
    let last = thread.arch().cpu();
    let is_free = |cpu: CpuId| allowed.contains(cpu) && IDLE.contains(cpu);
    if is_free(last) {
        return last;
    }
    let here = arch::cpu::id();
    if is_free(here) {
        return here;
    }
    if let Some(cpu) = IDLE.load().and(&allowed).first() {
        return cpu;
    }
    if allowed.contains(last) {
        last
    } else if allowed.contains(here) {
        here
    } else {
        allowed.first().unwrap_or(here)
    }
}

/// Takes a waiting thread from another processor; whether there is one here now. Interrupts are
/// off.
pub(super) fn steal(this: CpuId) -> bool {
    Deferred::Balance.count();
    for cpu in arch::cpu::online().iter() {
        if cpu == this || CPU.on(cpu).is_locked() {
            continue;
        }
        let Some(mut other) = CPU.on(cpu).try_lock() else { continue };
        if other.queue.nr_waiting() == 0 {
            continue;
        }
        other.queue.update(arch::time::now_ns());
        let found = other.queue.find_waiting(LOOKED_AT, |entity| {
            // SAFETY: what waits on a queue is alive.
            let thread = unsafe { &*of_entity(entity) };
            thread.affinity.lock().contains(this) && !thread.on_cpu.load(Ordering::Acquire)
        });
        let Some(entity) = found else { continue };
        // SAFETY: it waits on that queue, which is locked.
        let thread = unsafe { take(&mut other, entity, this) };
        drop(other);
        enqueue_on(thread, this, Enqueue::Move);
        return true;
    }
    false
}

/// Where a thread that waits on `this` processor might go; nowhere if none of them may leave.
fn reach_of_waiting(this: CpuId) -> CpuSet {
    let elsewhere = arch::cpu::online().minus(&CpuSet::single(this));
    let mut reach = CpuSet::new();
    CPU.on(this).lock().queue.find_waiting(LOOKED_AT, |entity| {
        // SAFETY: what waits on a queue is alive.
        let thread = unsafe { &*of_entity(entity) };
        reach = thread.affinity.lock().and(&elsewhere);
        !reach.is_empty()
    });
    reach
}

/// Gives a thread that waits here to the processor with the least to do of those it may run on, if
/// both are nearer to each other then. It is asked for now and then while threads wait: a processor
/// that is busy with a few never looks for more by itself. Interrupts are off.
pub(super) fn share(this: CpuId, now: u64) {
    Deferred::Balance.count();
    let mut least: Option<(u64, CpuId)> = None;
    for cpu in reach_of_waiting(this).iter() {
        // One that is just being changed is left for another time.
        let Some(other) = CPU.on(cpu).try_lock() else { continue };
        let burden = other.queue.burden();
        if least.is_none_or(|(least, _)| burden < least) {
            least = Some((burden, cpu));
        }
    }
    let Some((least, target)) = least else { return };
    let mut cpu = CPU.this().lock();
    cpu.queue.update(now);
    let own = cpu.queue.burden();
    let found = cpu.queue.find_waiting(LOOKED_AT, |entity| {
        // SAFETY: what waits on a queue is alive.
        let thread = unsafe { &*of_entity(entity) };
        // SAFETY: the lock of its queue is held.
        let weight = unsafe { (*entity.as_ptr()).account.burden() };
        least + 2 * weight <= own
            && thread.affinity.lock().contains(target)
            && !thread.on_cpu.load(Ordering::Acquire)
    });
    let Some(entity) = found else { return };
    // SAFETY: it waits on this queue, which is locked.
    let thread = unsafe { take(&mut cpu, entity, target) };
    drop(cpu);
    enqueue_on(thread, target, Enqueue::Move);
}

/// Takes a waiting thread off a locked queue; the caller queues it on `target`.
///
/// # Safety
/// It waits on that queue.
unsafe fn take(cpu: &mut Queue, entity: NonNull<Entity>, target: CpuId) -> &'static Thread {
    // SAFETY: the caller's promise.
    unsafe { cpu.queue.dequeue(entity) };
    // SAFETY: what is on a queue is alive, and stays so until it has run to its end.
    let thread = unsafe { &*of_entity(entity) };
    thread.set_place(Place::Moving);
    thread.arch().set_cpu(target);
    thread
}

/// Calls `f` with the thread's entity, brought up to date; its queue is locked.
pub(crate) fn with_entity<R>(thread: &Thread, f: impl FnOnce(&mut Entity) -> R) -> R {
    let mut cpu = own_queue(thread);
    if ptr::eq(cpu.current, thread) {
        cpu.queue.update(arch::time::now_ns());
    }
    // SAFETY: the lock of its queue is held.
    f(unsafe { &mut *thread.entity.get() })
}

/// Calls `look` with where the thread will go on, if it is on no processor and on no way to one. Its
/// queue is locked meanwhile.
pub(crate) fn with_rest<R>(thread: &Thread, look: impl FnOnce(&Rest) -> R) -> Option<R> {
    let cpu = own_queue(thread);
    if thread.place() == Place::Moving || ptr::eq(cpu.current, thread) {
        return None;
    }
    wait_off_cpu(thread);
    // SAFETY: its registers are saved, and it gets on a processor only by the locked queue: by being
    // chosen from it, or by being woken, moved or stolen under its lock.
    unsafe { thread.arch().rest() }.as_ref().map(look)
}

/// Changes policy and priorities.
pub(crate) fn change_params(thread: &Thread, params: Params) {
    let _turn = thread.wake_lock.lock();
    let mut cpu = own_queue(thread);
    cpu.queue.update(arch::time::now_ns());
    let entity = entity_of(thread);
    // SAFETY: the lock of its queue is held, so the entity is ours to change.
    unsafe {
        if thread.place() != Place::Queued {
            (*entity.as_ptr()).account.set_params(params);
        } else if cpu.queue.current() == Some(entity) {
            cpu.queue.set_current_params(params);
        } else {
            cpu.queue.dequeue(entity);
            (*entity.as_ptr()).account.set_params(params);
            cpu.queue.enqueue(entity, Enqueue::Move);
        }
    }
    drop(cpu);
    resched(thread);
}

/// Changes the affinity. A thread that waits where it may not run any more moves now, one that runs
/// there at its switch, for which its processor is asked.
pub(crate) fn set_affinity(thread: &Thread, allowed: CpuSet) {
    let mut cpu = own_queue(thread);
    while thread.place() == Place::Moving {
        // Whoever moves it has chosen by the old set, and is about to be done.
        drop(cpu);
        arch::cpu::relax();
        cpu = own_queue(thread);
    }
    *thread.affinity.lock() = allowed;
    let at = thread.arch().cpu();
    if thread.place() != Place::Queued || !thread.is_banned_from(at) {
        return;
    }
    let entity = entity_of(thread);
    if cpu.queue.current() == Some(entity) {
        drop(cpu);
        resched(thread);
        return;
    }
    wait_off_cpu(thread);
    cpu.queue.update(arch::time::now_ns());
    let target = choose_cpu(thread);
    // SAFETY: it waits on that queue.
    unsafe { take(&mut cpu, entity, target) };
    drop(cpu);
    enqueue_on(thread, target, Enqueue::Move);
}
