//! The run loop: one queue per processor, switching, waking, idling.
//!
//! A thread sleeps by setting its `state` and calling [`schedule`]; a waker changes the state back
//! and, if the thread has left its queue, puts it on one. A lock is handed across a switch: whoever
//! runs afterwards releases it in [`finish`]. Which queue a thread is on, and who may change that,
//! is said in [`moving`].
//!
//! Locks: a thread's `wake_lock` (730) → a run queue (740) → the timers of a processor (750).

mod dead;
mod moving;
mod turn;

pub use dead::{has_dead, reap, relieve_reaper};
pub use moving::wake;
pub(crate) use moving::{change_params, set_affinity, with_entity, with_rest};
use moving::{choose_cpu, own_queue, share, steal};
pub(crate) use turn::{Turn, patience_ns};

use crate::hooks;
use crate::io_wait::waiting_for_io;
use crate::policy::{Enqueue, Entity, Preemption, Prev, RunQueue, Sampler, Tunables};
use crate::thread::{Place, Thread, state};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::cpu::{AtomicCpuSet, CpuId, CpuSet};
use arch::lock::{IrqLock, IrqLockGuard, LockClass};
use arch::thread::{ArchThread, KernelStackRange, flags};
use arch::timer::Mode;
use core::mem::{forget, offset_of};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use schedpolicy::{Account, Found, Holder, Ledger, ProcessorTimes, WakeCost};

static QUEUE_CLASS: LockClass = LockClass::new("sched.run_queue", 740);

/// What the administrator can tune.
pub static TUNABLES: Tunables = Tunables::new();

struct Cpu {
    queue: RunQueue,
    idle: *const Thread,
    current: *const Thread,
    /// A thread that left because it may not run here any more.
    migrating: *const Thread,
    sampler: Sampler,
    ledger: Ledger,
    /// When another processor queued a woken thread here while it idled; 0: not since it ran something.
    roused_ns: u64,
    /// When it looks next whether another processor has less to do.
    next_share_ns: u64,
}

impl Cpu {
    /// Accounts for the time until now, in which the current thread had the processor `of`.
    #[inline]
    fn account(&mut self, of: CpuId, now: u64) {
        // SAFETY: the current thread of a processor is alive.
        let holder = match unsafe { self.current.as_ref() } {
            Some(current) if current.is_user() => Holder::Program,
            Some(current) if !current.is_idle => Holder::Kernel,
            _ if waiting_for_io(of) > 0 => Holder::IdleForIo,
            _ => Holder::Idle,
        };
        self.ledger.advance(now, arch::irq::time_ns(of), holder);
    }
}

// SAFETY: the pointers are to threads kept alive by their own reference while they run.
unsafe impl Send for Cpu {}

/// A locked run queue.
type Queue = IrqLockGuard<'static, Cpu>;

arch::percpu! {
    static CPU: PerCpu<IrqLock<Cpu>> = IrqLock::new(&QUEUE_CLASS, Cpu {
        queue: RunQueue::new(0, &TUNABLES),
        idle: core::ptr::null(),
        current: core::ptr::null(),
        migrating: core::ptr::null(),
        sampler: Sampler::new(),
        ledger: Ledger::new(),
        roused_ns: 0,
        next_share_ns: 0,
    });
}
arch::percpu! {
    static SWITCHES: PerCpu<AtomicU64> = AtomicU64::new(0);
}
arch::percpu! {
    /// Quiescent states passed, for RCU.
    static QUIESCENT: PerCpu<AtomicU64> = AtomicU64::new(0);
}

/// What it takes to wake an idle processor.
static WAKE_COST: WakeCost = WakeCost::new();
static IDLE: AtomicCpuSet = AtomicCpuSet::new();
static IS_RUNNING: AtomicBool = AtomicBool::new(false);

/// The running thread; `None` before [`init_cpu`].
#[inline]
pub fn try_current() -> Option<&'static Thread> {
    let arch = arch::thread::current_ptr();
    // SAFETY: every current thread is a `Thread`, whose first field (`repr(C)`) this is, and a
    // running thread is alive.
    unsafe { arch.cast::<Thread>().as_ref() }
}

/// The running thread.
///
/// # Panics
/// Before [`init_cpu`].
#[inline]
pub fn current() -> &'static Thread {
    match try_current() {
        Some(thread) => thread,
        None => panic!("no thread yet"),
    }
}

/// Makes the code that runs on this processor its idle thread. Once per processor, before it takes
/// interrupts.
pub fn init_cpu(stack: KernelStackRange) {
    let this = arch::cpu::id();
    let mut name = *b"swapper/000\0";
    let number = this.index();
    name[8] = b'0' + (number / 100 % 10) as u8;
    name[9] = b'0' + (number / 10 % 10) as u8;
    name[10] = b'0' + (number % 10) as u8;
    let idle = Thread::adopt(&name, stack, true);
    idle.arch().set_cpu(this);
    let raw = Arc::into_raw(idle);
    // SAFETY: the idle thread is never freed: its reference was given away just now.
    unsafe { arch::thread::set_current(raw.cast::<ArchThread>()) };
    let mut cpu = CPU.this().lock();
    cpu.queue.set_number(this.as_u32());
    cpu.idle = raw;
    cpu.current = raw;
    drop(cpu);
    if !IS_RUNNING.swap(true, Ordering::SeqCst) {
        arch::thread::set_start_hook(|last| {
            // SAFETY: called once, right after a switch.
            unsafe { finish(last.cast()) };
        });
        arch::preempt::set_reschedule_hook(preempt);
    }
}

/// The idle loop of this processor; never returns.
pub fn idle() -> ! {
    let this = arch::cpu::id();
    loop {
        arch::irq::disable_unguarded();
        if arch::preempt::need_resched() || CPU.this().lock().queue.nr_waiting() > 0 || steal(this)
        {
            arch::irq::enable();
            schedule();
            continue;
        }
        IDLE.insert(this);
        rcu_quiescent();
        // A wake-up between the look and here has set the flag.
        if arch::preempt::need_resched() {
            IDLE.remove(this);
            continue;
        }
        // An interrupt must not switch to another thread before the processor has left the set:
        // to RCU what runs on a processor in it reads nothing. Here the switch comes at the drop.
        let stays = arch::preempt::disable();
        arch::irq::enable_and_halt();
        IDLE.remove(this);
        drop(stays);
    }
}

fn of_entity(entity: NonNull<Entity>) -> *const Thread {
    // The entity is a field of its thread (`UnsafeCell` adds nothing).
    entity.as_ptr().cast::<u8>().wrapping_sub(offset_of!(Thread, entity)).cast::<Thread>()
}

fn entity_of(thread: &Thread) -> NonNull<Entity> {
    // SAFETY: a field of a reference is not null.
    unsafe { NonNull::new_unchecked(thread.entity.get()) }
}

/// Lets another thread run if the current one sleeps or has had its share.
pub fn schedule() {
    switch_away(false);
}

/// Preemption: the current thread stays runnable whatever its state says.
fn preempt() {
    loop {
        switch_away(true);
        if !arch::preempt::need_resched() {
            return;
        }
    }
}

fn switch_away(is_preempted: bool) {
    let irq = arch::irq::disable();
    let prev = current();
    let lock = CPU.this();
    let mut cpu = lock.lock();
    let now = arch::time::now_ns();
    cpu.queue.update(now);
    arch::preempt::clear_need_resched();
    QUIESCENT.this().fetch_add(1, Ordering::Relaxed);
    let mode = prev.state.load(Ordering::SeqCst);
    let mut leaves = false;
    if mode != state::RUNNING && !is_preempted {
        if prev.is_interrupted(mode) {
            prev.state.store(state::RUNNING, Ordering::SeqCst);
        } else {
            leaves = true;
        }
    }
    let is_idle = prev.is_idle;
    let is_banned = !leaves && !is_idle && prev.is_banned_from(arch::cpu::id());
    if is_banned {
        cpu.migrating = prev;
    }
    let how = if leaves || is_banned { Prev::Leaves } else { Prev::Runnable };
    let chosen = cpu.queue.choose(how);
    if leaves || is_banned {
        prev.set_place(if leaves { Place::Off } else { Place::Moving });
        prev.voluntary.fetch_add(1, Ordering::Relaxed);
    }
    if is_idle {
        let roused = core::mem::take(&mut cpu.roused_ns);
        // Another processor may have taken what it was roused for.
        if roused != 0 && chosen.is_some() {
            WAKE_COST.note(now.saturating_sub(roused));
        }
    }
    let next: *const Thread = chosen.map_or(cpu.idle, of_entity);
    // SAFETY: the chosen thread, or idle, is alive while the queue is locked.
    hooks::sched_slice_end(slice_end(&mut cpu, unsafe { &*next }));
    if ptr::eq(next, prev) {
        return;
    }
    if !is_idle {
        prev.handover.stops(now, leaves);
    }
    if !leaves && !is_idle {
        prev.involuntary.fetch_add(1, Ordering::Relaxed);
    }
    cpu.account(arch::cpu::id(), now);
    cpu.current = next;
    let switches = SWITCHES.this();
    // Only this processor counts here, and interrupts are off.
    switches.store(switches.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    // Released by whoever runs next, in `finish`.
    forget(cpu);
    // SAFETY: `next` was on the queue (or is idle): it is alive and not running elsewhere, since
    // a thread is queued only after it has left its last processor.
    unsafe {
        let to = &*next;
        to.on_cpu.store(true, Ordering::Relaxed);
        to.arch().set_cpu(arch::cpu::id());
        turn::begin(to);
        if to.is_user() {
            to.load_space();
            if to.arch().has_flag(flags::RSEQ) {
                to.arch().set_flag(flags::RSEQ_RESUME);
            }
        } else {
            arch::tlb::enter_lazy();
        }
        let last = arch::thread::switch(prev.arch(), to.arch());
        finish(last.cast());
    }
    drop(irq);
}

/// Ends a switch on the new thread: releases the queue, lets go of the thread that ran before.
///
/// # Safety
/// Called once after each switch, with interrupts off.
unsafe fn finish(last: *const Thread) {
    let lock = CPU.this();
    // SAFETY: the lock was taken and its guard forgotten by `switch_away` on this processor.
    let migrating = unsafe {
        let cpu = &mut *lock.as_ptr();
        let migrating = core::mem::take(&mut cpu.migrating);
        if let Some(thread) = migrating.as_ref() {
            thread.arch().set_cpu(choose_cpu(thread));
        }
        lock.force_unlock();
        migrating
    };
    // SAFETY: the thread is alive: it was running until now and dies only below.
    let last = unsafe { &*last };
    let is_dead = last.state.load(Ordering::Relaxed) == state::DEAD;
    // Release: its registers are saved; a waker may put it on another processor's queue now.
    last.on_cpu.store(false, Ordering::Release);
    // Set while the new thread did not run (`Thread::set_watched`): no interrupt comes for it any more.
    arch::preempt::fold_need_resched();
    arch::preempt::release_no_resched();
    if !migrating.is_null() {
        // SAFETY: it is `last`, and alive: it runs again only after it has been queued here.
        let thread = unsafe { &*migrating };
        enqueue_on(thread, thread.arch().cpu(), Enqueue::Move);
    }
    if is_dead {
        // SAFETY: `start` gave this reference to the thread itself, which will never run again.
        let thread = unsafe { Arc::from_raw(ptr::from_ref(last)) };
        dead::bury(thread);
    }
}

/// Puts a thread on a processor's queue and makes that processor look if it matters. The caller
/// has the right to do so: it made the thread's place [`Place::Moving`], and its processor
/// `target`. Returns the time.
fn enqueue_on(thread: &Thread, target: CpuId, why: Enqueue) -> u64 {
    enqueue_locked(CPU.on(target).lock(), thread, target, why)
}

/// [`enqueue_on`] with the target's queue locked already; of a thread that was on it last the place
/// may still be [`Place::Off`].
fn enqueue_locked(mut cpu: Queue, thread: &Thread, target: CpuId, why: Enqueue) -> u64 {
    let now = arch::time::now_ns();
    cpu.queue.update(now);
    let entity = entity_of(thread);
    let is_here = target == arch::cpu::id();
    // Who wakes somebody here and is known to sleep then may leave at once.
    let gives_way = is_here && current().handover.sleeps_within(TUNABLES.turn_ns() / 4);
    // SAFETY: on no queue, and alive while it is queued: it holds a reference to itself.
    let comes = unsafe {
        cpu.queue.enqueue(entity, why);
        thread.set_place(Place::Queued);
        cpu.queue.contend(entity, gives_way)
    };
    if is_here {
        if comes == Preemption::Now {
            arch::preempt::set_need_resched();
        // SAFETY: the current thread of a processor is alive.
        } else if let Some(current) = unsafe { cpu.current.as_ref() } {
            hooks::sched_slice_end(slice_end(&mut cpu, current));
        }
    } else if comes != Preemption::InTurn || cpu.queue.nr_waiting() == 1 {
        // With the first that waits the other processor has to start watching its slice, and with one that comes
        // soon it has to end it sooner: it chooses again, sets its timer, and goes on.
        if wants_interrupt(&cpu) {
            // SAFETY: the current thread of a processor is alive.
            let is_idle = unsafe { cpu.current.as_ref() }.is_some_and(|current| current.is_idle);
            if is_idle && why == Enqueue::Wakeup {
                cpu.roused_ns = now;
            }
            drop(cpu);
            arch::ipi::reschedule(target);
        }
    }
    now
}

/// Makes another processor choose again: whether it has to be interrupted for that. Not if it is about to
/// choose: by itself, or since somebody has interrupted it or does so now. It chooses with its queue locked, as it
/// is. Interrupts are off until it was interrupted: others count on it.
fn wants_interrupt(cpu: &Queue) -> bool {
    // SAFETY: the current thread of a processor is alive.
    unsafe { cpu.current.as_ref() }.is_none_or(|current| {
        current.arch().set_flag(flags::NEED_RESCHED) & flags::NEED_RESCHED == 0
    })
}

/// Lets a new thread run.
pub(crate) fn start(thread: &Thread) {
    let Some(own) = thread.arc() else { return };
    // The thread keeps itself alive until it has ended.
    forget(own);
    let _turn = thread.wake_lock.lock();
    let cpu = own_queue(thread);
    thread.state.store(state::RUNNING, Ordering::SeqCst);
    thread.arch().set_cpu(arch::cpu::id());
    let target = choose_cpu(thread);
    thread.set_place(Place::Moving);
    thread.arch().set_cpu(target);
    drop(cpu);
    enqueue_on(thread, target, Enqueue::New);
}

/// The first function of every kernel thread.
pub(crate) fn kernel_entry(_: usize) {
    let work = current().entry.lock().take();
    if let Some(work) = work {
        work();
    }
    exit()
}

/// Ends the running thread.
pub fn exit() -> ! {
    let thread = current();
    arch::irq::disable_unguarded();
    thread.state.store(state::DEAD, Ordering::SeqCst);
    switch_away(false);
    panic!("a dead thread ran");
}

static KERNEL_THREADS_CLASS: LockClass = LockClass::new("sched.kernel_threads", 715);
static KERNEL_THREADS: IrqLock<Vec<Weak<Thread>>> = IrqLock::new(&KERNEL_THREADS_CLASS, Vec::new());

/// The threads that belong to no program, idle ones aside, in the order of their births.
pub fn kernel_threads() -> Vec<Arc<Thread>> {
    let all = KERNEL_THREADS.lock();
    all.iter().filter_map(Weak::upgrade).collect()
}

/// Starts a kernel thread.
pub fn spawn_kernel(name: &str, work: impl FnOnce() + Send + 'static) -> Arc<Thread> {
    let mut work: Option<Box<dyn FnOnce() + Send>> = Some(Box::new(work));
    loop {
        match Thread::new_kernel(name.as_bytes(), &mut work) {
            Ok(thread) => {
                let mut all = KERNEL_THREADS.lock();
                all.retain(|other| other.strong_count() > 0);
                all.push(Arc::downgrade(&thread));
                drop(all);
                thread.start();
                return thread;
            }
            // Kernel threads are made at start-up and by drivers; they wait for memory.
            Err(_) => yield_now(),
        }
    }
}

/// Lets others go first.
pub fn yield_now() {
    let irq = arch::irq::disable();
    CPU.this().lock().queue.set_yielded();
    drop(irq);
    schedule();
}

/// Takes the running thread's address space away: it has none any more.
pub(crate) fn leave_space() {
    arch::tlb::enter_lazy();
}

/// Makes the thread's processor choose again.
pub(crate) fn resched(thread: &Thread) {
    let at = thread.arch().cpu();
    if at == arch::cpu::id() {
        arch::preempt::set_need_resched();
        return;
    }
    let irq = arch::irq::disable();
    let wants_interrupt = wants_interrupt(&CPU.on(at).lock());
    if wants_interrupt {
        arch::ipi::reschedule(at);
    }
    drop(irq);
}

/// The longest that a watched thread runs between two looks at its timers.
const WATCH_NS: u64 = 4_000_000;

/// When the timer has to fire for the thread that runs. A sample stays armed while the processor
/// idles: threads that come and go quickly would set the timer anew each time.
fn slice_end(cpu: &mut Cpu, running: &Thread) -> Option<u64> {
    if running.is_user() && cpu.sampler.next_ns().is_none() {
        cpu.sampler.start(arch::time::now_ns());
    }
    let ends = [cpu.queue.slice_end_ns(), cpu.sampler.next_ns()];
    let end = ends.into_iter().flatten().min();
    if !running.is_watched() {
        return end;
    }
    let look = arch::time::now_ns() + WATCH_NS;
    Some(end.map_or(look, |end| end.min(look)))
}

/// How often a processor on which threads wait looks whether another has less to do.
const SHARE_NS: u64 = 8_000_000;

/// The timer fired while the processor was in that mode: has the running thread had its share?
/// Interrupts are off.
pub fn tick(now: u64, mode: Mode) {
    let mut cpu = CPU.this().lock();
    cpu.queue.update(now);
    // SAFETY: the current thread of a processor is alive.
    let current = unsafe { cpu.current.as_ref() };
    if cpu.sampler.take(now) {
        match mode {
            _ if !current.is_some_and(Thread::is_user) => cpu.sampler.stop(),
            Mode::User => sample(&mut cpu, now, Account::found_in_user_mode),
            Mode::Kernel => sample(&mut cpu, now, Account::found_in_kernel),
        }
    }
    if let Some(current) = current.filter(|current| current.is_watched()) {
        current.arch().set_flag(flags::NOTIFY_RESUME);
    }
    if cpu.queue.slice_is_over() {
        arch::preempt::set_need_resched();
        hooks::sched_slice_end(None);
    } else {
        hooks::sched_slice_end(current.and_then(|current| slice_end(&mut cpu, current)));
    }
    if cpu.queue.nr_waiting() > 0 && now >= cpu.next_share_ns {
        cpu.next_share_ns = now + SHARE_NS;
        drop(cpu);
        share(arch::cpu::id(), now);
    }
}

/// Notes in which mode a program's thread was seen.
fn sample(cpu: &mut Cpu, now: u64, note: fn(&mut Account) -> Found) {
    cpu.account(arch::cpu::id(), now);
    if let Some(found) = cpu.queue.sample_current(note) {
        cpu.ledger.sample(found);
    }
}

fn rcu_quiescent() {
    QUIESCENT.this().fetch_add(1, Ordering::SeqCst);
}

/// How many quiescent states a processor has passed; `None` while it idles.
pub fn quiescent_count(cpu: CpuId) -> Option<u64> {
    (!IDLE.contains(cpu)).then(|| QUIESCENT.on(cpu).load(Ordering::SeqCst))
}

/// Makes every processor of the set pass a quiescent state soon.
pub fn hurry(cpus: &CpuSet) {
    for at in cpus.iter() {
        {
            let cpu = CPU.on(at).lock();
            // SAFETY: the current thread of a processor is alive.
            if let Some(current) = unsafe { cpu.current.as_ref() } {
                current.arch().set_flag(flags::NEED_RESCHED);
            }
        }
        if at == arch::cpu::id() {
            arch::preempt::set_need_resched();
        } else {
            arch::ipi::reschedule(at);
        }
    }
}

/// Whether a processor has nothing to do.
pub fn is_idle(cpu: CpuId) -> bool {
    IDLE.contains(cpu)
}

/// Name and [number](Thread::number) of the thread that runs on a processor; `None` if its queue is
/// locked just now. In any context.
pub fn running_on(cpu: CpuId) -> Option<([u8; 16], i32)> {
    let queue = CPU.on(cpu).try_lock()?;
    // SAFETY: the current thread of a processor is alive.
    let current = unsafe { queue.current.as_ref() }?;
    Some((current.name(), current.number()))
}

/// Threads running or ready on all processors.
pub fn nr_running() -> u32 {
    arch::cpu::online().iter().map(|cpu| CPU.on(cpu).lock().queue.nr_running()).sum()
}

/// Context switches on all processors.
pub fn switches() -> u64 {
    arch::cpu::online().iter().map(|cpu| SWITCHES.on(cpu).load(Ordering::Relaxed)).sum()
}

/// Where the time of a processor went until now.
pub fn processor_times(of: CpuId) -> ProcessorTimes {
    let mut cpu = CPU.on(of).lock();
    cpu.account(of, arch::time::now_ns());
    cpu.ledger.times()
}
