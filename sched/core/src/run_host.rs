//! On the host the threads are the host's: sleeping parks, waking unparks.

use crate::policy::{Entity, Params, Tunables};
use crate::thread::{Thread, state};
use alloc::boxed::Box;
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::cpu::{CpuId, CpuSet};
use arch::thread::{ArchThread, KernelStackRange};
use core::cell::OnceCell;
use core::sync::atomic::Ordering;
use schedpolicy::ProcessorTimes;

/// What the administrator can tune.
pub static TUNABLES: Tunables = Tunables::new();

std::thread_local! {
    static CURRENT: OnceCell<&'static Thread> = const { OnceCell::new() };
}

/// The running thread, made on the first call.
pub fn try_current() -> Option<&'static Thread> {
    Some(current())
}

/// The running thread, made on the first call.
pub fn current() -> &'static Thread {
    CURRENT.with(|cell| {
        *cell.get_or_init(|| {
            let range = KernelStackRange { bottom: VirtAddr(0), top: VirtAddr(0) };
            let thread = Thread::adopt(b"host", range, false);
            *thread.host.lock() = Some(std::thread::current());
            let thread: &'static Thread = Box::leak(Box::new(thread));
            // SAFETY: the thread was leaked just now.
            unsafe { arch::thread::set_current((thread as *const Thread).cast::<ArchThread>()) };
            thread
        })
    })
}

/// On the host nobody knows who runs.
#[derive(Clone, Copy)]
pub(crate) struct Turn;

impl Turn {
    pub(crate) fn current() -> Turn {
        Turn
    }

    pub(crate) fn from_raw(_: u64) -> Turn {
        Turn
    }

    pub(crate) fn raw(self) -> u64 {
        0
    }

    pub(crate) fn goes_on(self) -> bool {
        false
    }
}

pub(crate) fn patience_ns() -> u64 {
    0
}

/// Nothing to do on the host.
pub fn init_cpu(_: KernelStackRange) {}

/// There is no idle loop on the host.
pub fn idle() -> ! {
    loop {
        std::thread::park();
    }
}

/// Parks while the thread's state says that it sleeps.
pub fn schedule() {
    let thread = current();
    loop {
        let mode = thread.state.load(Ordering::SeqCst);
        if mode == state::RUNNING || thread.is_interrupted(mode) {
            thread.state.store(state::RUNNING, Ordering::SeqCst);
            return;
        }
        std::thread::park();
    }
}

/// Ends a sleep of one of the kinds in `mask`; whether the thread was in one.
pub fn wake(thread: &Thread, mask: u32) -> bool {
    let seen = thread.state.load(Ordering::SeqCst);
    if seen & mask == 0 {
        return false;
    }
    thread.state.store(state::RUNNING, Ordering::SeqCst);
    if let Some(host) = thread.host.lock().as_ref() {
        host.unpark();
    }
    true
}

pub(crate) fn start(_: &Thread) {}

/// Frees nothing: the host does.
pub fn reap() {}

/// Frees nothing: the host does.
pub fn relieve_reaper() {}

/// Never.
pub fn has_dead() -> bool {
    false
}

/// Ends the host thread by unwinding it.
pub fn exit() -> ! {
    std::panic::resume_unwind(Box::new("thread exit"))
}

/// Starts a host thread.
pub fn spawn_kernel(name: &str, work: impl FnOnce() + Send + 'static) -> Arc<Thread> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let name = name.to_owned();
    std::thread::spawn(move || {
        let thread = current();
        thread.set_name(name.as_bytes());
        let _ = sender.send(thread.arc());
        work();
    });
    match receiver.recv() {
        Ok(Some(thread)) => thread,
        _ => panic!("the host made no thread"),
    }
}

/// Lets others go first.
pub fn yield_now() {
    std::thread::yield_now();
}

pub(crate) fn leave_space() {}

pub(crate) fn with_entity<R>(thread: &Thread, f: impl FnOnce(&mut Entity) -> R) -> R {
    let _turn = thread.wake_lock.lock();
    // SAFETY: on the host the wake lock guards the entity.
    f(unsafe { &mut *thread.entity.get() })
}

pub(crate) fn change_params(thread: &Thread, params: Params) {
    with_entity(thread, |entity| entity.set_params(params));
}

pub(crate) fn set_affinity(thread: &Thread, allowed: CpuSet) {
    *thread.affinity.lock() = allowed;
}

/// There are no slices.
pub fn tick(_: u64, _: arch::timer::Mode) {}

pub(crate) fn with_rest<R>(_: &Thread, _: impl FnOnce(&arch::thread::Rest) -> R) -> Option<R> {
    None
}

/// The host knows its threads.
pub fn kernel_threads() -> Vec<Arc<Thread>> {
    Vec::new()
}

/// Never.
pub fn is_idle(_: CpuId) -> bool {
    false
}

/// The calling thread, wherever.
pub fn running_on(_: CpuId) -> Option<([u8; 16], i32)> {
    Some((current().name(), current().number()))
}

/// Threads running or ready.
pub fn nr_running() -> u32 {
    1
}

/// Context switches.
pub fn switches() -> u64 {
    0
}

/// The host's processors are not accounted for.
pub fn processor_times(_: CpuId) -> ProcessorTimes {
    ProcessorTimes::default()
}

/// The host's read sides are counted elsewhere.
pub fn quiescent_count(_: CpuId) -> Option<u64> {
    None
}

/// See `quiescent_count`.
pub fn hurry(_: &CpuSet) {}
