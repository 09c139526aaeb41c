//! Interrupts between processors: reschedule, call a function.

use crate::cpu::{CpuId, CpuSet, MAX_CPUS};
use crate::hooks::machine_send;
use crate::irq_count::{Counted, count};
use crate::x86::apic::vector;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Makes a processor look at `NEED_RESCHED` of its current thread.
#[inline]
pub fn reschedule(cpu: CpuId) {
    if cpu == crate::cpu::id() {
        crate::preempt::fold_need_resched();
    } else {
        machine_send(cpu, vector::RESCHEDULE);
    }
}

/// One call to one processor. Each sender has one for every receiver.
struct Call {
    next: AtomicPtr<Call>,
    f: UnsafeCell<fn(usize)>,
    arg: UnsafeCell<usize>,
    /// As what the receiver counts it.
    what: UnsafeCell<Counted>,
    /// Counts the calls of this round that are not done.
    pending: UnsafeCell<*const AtomicU32>,
}

fn nothing(_: usize) {}

struct Outbox([Call; MAX_CPUS]);

// SAFETY: a call is written by its sender before it is queued and read by its receiver before it is
// counted as done; the queue's and the counter's orderings pair.
unsafe impl Sync for Outbox {}

crate::percpu! {
    static OUTBOX: PerCpu<Outbox> = Outbox([const { Call {
        next: AtomicPtr::new(core::ptr::null_mut()),
        f: UnsafeCell::new(nothing),
        arg: UnsafeCell::new(0),
        what: UnsafeCell::new(Counted::Call),
        pending: UnsafeCell::new(core::ptr::null()),
    } }; MAX_CPUS]);
    /// Calls waiting for this processor: a stack that is taken as a whole.
    static INBOX: PerCpu<AtomicPtr<Call>> = AtomicPtr::new(core::ptr::null_mut());
}

/// Calls `f(arg)` on every running processor of the set and returns when all have done.
pub fn call_on(cpus: &CpuSet, f: fn(usize), arg: usize) {
    call_as(Counted::Call, cpus, f, arg);
}

/// [`call_on`] that the other processors count as `what`.
pub(crate) fn call_as(what: Counted, cpus: &CpuSet, f: fn(usize), arg: usize) {
    let _here = crate::preempt::disable();
    let own = crate::cpu::id();
    let mut others = cpus.and(&crate::cpu::online());
    let is_own = others.contains(own);
    others.remove(own);
    let pending = AtomicU32::new(others.len() as u32);
    for cpu in others.iter() {
        let call = &OUTBOX.this().0[cpu.index()];
        // SAFETY: the last round with this receiver is over: its sender waited.
        unsafe {
            *call.f.get() = f;
            *call.arg.get() = arg;
            *call.what.get() = what;
            *call.pending.get() = &raw const pending;
        }
        let inbox = INBOX.on(cpu);
        let node = core::ptr::from_ref(call).cast_mut();
        let mut head = inbox.load(Ordering::Relaxed);
        loop {
            call.next.store(head, Ordering::Relaxed);
            // Release: the receiver sees the call's content. SeqCst because the receiver may have
            // just emptied its box and the interrupt must be sent then.
            match inbox.compare_exchange_weak(head, node, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => break,
                Err(found) => head = found,
            }
        }
        // Somebody who queued before us has sent the interrupt that serves us as well.
        if head.is_null() {
            machine_send(cpu, vector::CALL);
        }
    }
    if is_own {
        let _irq = crate::irq::disable();
        f(arg);
    }
    // Acquire: pairs with the receivers' release: what they did is seen.
    while pending.load(Ordering::Acquire) != 0 {
        // Two senders with interrupts off must not wait for each other for ever.
        if !crate::irq::are_enabled() {
            serve();
        }
        core::hint::spin_loop();
    }
}

/// Makes the calls that wait for this processor. Interrupts are off.
pub fn serve() {
    // Acquire: pairs with the senders' release.
    let mut next = INBOX.this().swap(core::ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: queued calls stay as they are until counted as done; the link is read before that.
    while let Some(call) = unsafe { next.as_ref() } {
        next = call.next.load(Ordering::Relaxed);
        // SAFETY: as above.
        unsafe {
            let (f, arg, pending) = (*call.f.get(), *call.arg.get(), *call.pending.get());
            count(*call.what.get());
            f(arg);
            // Release: pairs with the sender's acquire. The counter is gone once it reaches zero.
            (*pending).fetch_sub(1, Ordering::Release);
        }
    }
}
