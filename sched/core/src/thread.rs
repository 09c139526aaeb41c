//! [`Thread`]: what the scheduler runs.

use crate::policy::{Entity, Params};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use arch::backtrace::{Backtrace, Trace};
use arch::cpu::CpuSet;
use arch::lock::{IrqLock, LockClass};
use arch::thread::{ArchThread, KernelStackRange, flags, fpu::FpuStart};
use arch::tlb::Context;
use arch::trap::TrapFrame;
use core::any::Any;
use core::cell::UnsafeCell;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
#[cfg(target_os = "none")]
use core::sync::atomic::{AtomicPtr, AtomicU8};
use heap::KernelStack;

// Interrupt handlers wake threads and switches happen with interrupts off, so all are `IrqLock`s.
static NAME_CLASS: LockClass = LockClass::new("sched.thread_name", 760);
static SPACE_CLASS: LockClass = LockClass::new("sched.thread_space", 761);
static WAKE_CLASS: LockClass = LockClass::new("sched.wake", 730);

pub use heap::STACK_SIZE;

/// Whether and how a thread sleeps.
pub mod state {
    /// Runs or is ready to.
    pub const RUNNING: u32 = 0;
    /// Sleeps until woken or a signal comes.
    pub const INTERRUPTIBLE: u32 = 1;
    /// Sleeps until woken.
    pub const UNINTERRUPTIBLE: u32 = 2;
    /// Sleeps until woken or killed.
    pub const KILLABLE: u32 = 4;
    /// Has ended.
    pub const DEAD: u32 = 8;
    /// Any sleep.
    pub const ANY: u32 = INTERRUPTIBLE | UNINTERRUPTIBLE | KILLABLE;
}

/// Where a thread stands with the run queues.
#[cfg(target_os = "none")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Place {
    /// On none.
    Off,
    /// Waits on the queue of its processor or runs there.
    Queued,
    /// Has left one and will be put on the one of its processor by who took it off.
    Moving,
}

/// An address space as the scheduler sees it.
pub trait Space: Send + Sync {
    /// What it is loaded by.
    fn context(&self) -> Pin<&Context>;
}

/// Processor time and switches of one thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTimes {
    /// In user mode, nanoseconds.
    pub user_ns: u64,
    /// In the kernel, nanoseconds.
    pub system_ns: u64,
    /// Waited for a processor, nanoseconds.
    pub wait_ns: u64,
    /// Switches because it slept.
    pub voluntary_switches: u64,
    /// Switches because another was to run.
    pub involuntary_switches: u64,
}

/// A thread that is on no processor.
#[derive(Clone, Debug)]
pub struct AtRest {
    /// Where it goes on, and who called that.
    pub trace: Trace,
    /// The registers that its program had when it entered the kernel, if it has one.
    pub user: Option<TrapFrame>,
}

/// One thread.
#[repr(C)]
pub struct Thread {
    arch: ArchThread,
    pub(crate) state: AtomicU32,
    /// A [`Place`]; guarded by the lock of the queue of its processor.
    #[cfg(target_os = "none")]
    place: AtomicU8,
    /// Its registers are on a processor, not in memory.
    pub(crate) on_cpu: AtomicBool,
    pub(crate) is_idle: bool,
    /// The policy's part; guarded by the lock of the queue of its processor.
    pub(crate) entity: UnsafeCell<Entity>,
    /// Wakers take turns.
    pub(crate) wake_lock: IrqLock<()>,
    /// How soon it sleeps after it has woken another one.
    #[cfg(target_os = "none")]
    pub(crate) handover: schedpolicy::Handover,
    /// Unique, never reused.
    pub id: u64,
    name: IrqLock<[u8; 16]>,
    number: AtomicI32,
    pub(crate) affinity: IrqLock<CpuSet>,
    /// Set before the thread runs, taken by the reaper when it never will again.
    private: UnsafeCell<Option<Arc<dyn Any + Send + Sync>>>,
    has_private: AtomicBool,
    /// The next on the list of those that have ended.
    #[cfg(target_os = "none")]
    pub(crate) next_dead: AtomicPtr<Thread>,
    is_user: AtomicBool,
    is_watched: AtomicBool,
    space: IrqLock<Option<Arc<dyn Space>>>,
    pub(crate) is_killed: AtomicBool,
    pub(crate) voluntary: AtomicU64,
    pub(crate) involuntary: AtomicU64,
    pub(crate) entry: IrqLock<Option<Box<dyn FnOnce() + Send>>>,
    #[cfg(not(target_os = "none"))]
    pub(crate) host: spin::Mutex<Option<std::thread::Thread>>,
    /// Owned for its drop.
    _stack: Option<KernelStack>,
    this: Weak<Thread>,
}

// SAFETY: `entity` is only touched under the run-queue lock of the thread's processor.
unsafe impl Sync for Thread {}
// SAFETY: as above; nothing in it is tied to a processor.
unsafe impl Send for Thread {}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Thread {
    fn build(
        arch: ArchThread,
        name: &[u8],
        stack: Option<KernelStack>,
        is_idle: bool,
    ) -> Arc<Thread> {
        let thread = Arc::new_cyclic(|this| Thread {
            arch,
            state: AtomicU32::new(state::UNINTERRUPTIBLE),
            #[cfg(target_os = "none")]
            place: AtomicU8::new(Place::Off as u8),
            on_cpu: AtomicBool::new(false),
            is_idle,
            entity: UnsafeCell::new(Entity::new()),
            wake_lock: IrqLock::new(&WAKE_CLASS, ()),
            #[cfg(target_os = "none")]
            handover: schedpolicy::Handover::new(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: IrqLock::new(&NAME_CLASS, [0; 16]),
            number: AtomicI32::new(0),
            affinity: IrqLock::new(&NAME_CLASS, arch::cpu::possible()),
            private: UnsafeCell::new(None),
            #[cfg(target_os = "none")]
            next_dead: AtomicPtr::new(core::ptr::null_mut()),
            has_private: AtomicBool::new(false),
            is_user: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            space: IrqLock::new(&SPACE_CLASS, None),
            is_killed: AtomicBool::new(false),
            voluntary: AtomicU64::new(0),
            involuntary: AtomicU64::new(0),
            entry: IrqLock::new(&NAME_CLASS, None),
            #[cfg(not(target_os = "none"))]
            host: spin::Mutex::new(None),
            _stack: stack,
            this: this.clone(),
        });
        thread.set_name(name);
        thread
    }

    /// The thread that already runs on this processor.
    pub(crate) fn adopt(name: &[u8], range: KernelStackRange, is_idle: bool) -> Arc<Thread> {
        let thread = Thread::build(ArchThread::adopt_current(range), name, None, is_idle);
        thread.state.store(state::RUNNING, Ordering::Relaxed);
        thread.on_cpu.store(true, Ordering::Relaxed);
        thread
    }

    /// A kernel thread that will run `work`.
    #[cfg(target_os = "none")]
    pub(crate) fn new_kernel(
        name: &[u8],
        work: &mut Option<Box<dyn FnOnce() + Send>>,
    ) -> Result<Arc<Thread>, abi::Errno> {
        let stack = KernelStack::new()?;
        let arch = ArchThread::new_kernel(stack.range(), crate::run::kernel_entry, 0);
        let thread = Thread::build(arch, name, Some(stack), false);
        *thread.entry.lock() = work.take();
        Ok(thread)
    }

    /// A thread that will return to user mode with `frame`. It runs after [`Thread::start_user`].
    pub fn new_user(
        name: &[u8],
        frame: &TrapFrame,
        fpu: FpuStart,
    ) -> Result<Arc<Thread>, abi::Errno> {
        let stack = KernelStack::new()?;
        let arch = ArchThread::new_user(stack.range(), frame, fpu);
        let thread = Thread::build(arch, name, Some(stack), false);
        thread.is_user.store(true, Ordering::Relaxed);
        if let Some(parent) = crate::run::try_current() {
            let params = parent.params();
            // SAFETY: nobody else knows the thread yet.
            unsafe { (*thread.entity.get()).account.set_params(params) };
            let inherited = parent.affinity();
            *thread.affinity.lock() = inherited;
        }
        Ok(thread)
    }

    /// Lets a new thread run.
    pub fn start(&self) {
        crate::run::start(self);
    }

    /// Lets a new thread of [`new_user`](Self::new_user) run; `private` is what
    /// [`private`](Self::private) gives back to it. Only now: `private` may hold the thread in turn,
    /// and one that never runs has no end that would part them.
    pub fn start_user(&self, private: Arc<dyn Any + Send + Sync>) {
        if self.has_private.swap(true, Ordering::SeqCst) {
            return;
        }
        // SAFETY: this is the only time that it is written before the thread has ended, and who asks
        // for it is the running thread, which this one is not yet.
        unsafe { *self.private.get() = Some(private) };
        self.start();
    }

    /// A counted reference.
    pub fn arc(&self) -> Option<Arc<Thread>> {
        self.this.upgrade()
    }

    /// The processor's side.
    #[inline]
    pub fn arch(&self) -> &ArchThread {
        &self.arch
    }

    /// What the creator attached. For the running thread itself.
    #[inline]
    pub fn private(&self) -> Option<&(dyn Any + Send + Sync)> {
        // SAFETY: written by `start_user` before the thread ran, and running threads ask; taken by
        // `forget_private` only, when the thread has ended and only its creator's objects know it.
        unsafe { (*self.private.get()).as_deref() }
    }

    /// Whether it is a program's thread.
    #[inline]
    pub fn is_user(&self) -> bool {
        self.is_user.load(Ordering::Relaxed)
    }

    /// Gives back what the creator attached, which may hold the thread in turn.
    #[cfg(target_os = "none")]
    pub(crate) fn forget_private(&self) {
        // SAFETY: the thread has ended: it does not ask for it any more, and others ask running
        // threads only.
        drop(unsafe { (*self.private.get()).take() });
    }

    /// The name, NUL-padded.
    pub fn name(&self) -> [u8; 16] {
        *self.name.lock()
    }

    /// Sets the name; 15 bytes of it count.
    pub fn set_name(&self, name: &[u8]) {
        let mut own = [0; 16];
        let len = name.len().min(15);
        own[..len].copy_from_slice(&name[..len]);
        *self.name.lock() = own;
    }

    /// What the log calls the thread by beside its name: the PID of a program's, 0 of the kernel's.
    pub fn number(&self) -> i32 {
        // Relaxed, here and below: a lone word.
        self.number.load(Ordering::Relaxed)
    }

    /// Sets [`number`](Self::number).
    pub fn set_number(&self, number: i32) {
        self.number.store(number, Ordering::Relaxed);
    }

    /// Gives the thread an address space; the running thread gets it loaded at once.
    pub fn set_space(&self, space: Option<Arc<dyn Space>>) {
        let irq = arch::irq::disable();
        let new = space.clone();
        let old = core::mem::replace(&mut *self.space.lock(), space);
        if crate::run::try_current().is_some_and(|t| core::ptr::eq(t, self)) {
            match new {
                Some(space) => space.context().activate(),
                None => crate::run::leave_space(),
            }
        }
        drop(irq);
        drop(old);
    }

    /// Loads the thread's address space, if it has one; interrupts are off.
    #[cfg(target_os = "none")]
    #[inline]
    pub(crate) fn load_space(&self) {
        if let Some(space) = self.space.lock().as_ref() {
            space.context().activate();
        }
    }

    /// Where it is; the queue of its processor is locked.
    #[cfg(target_os = "none")]
    #[inline]
    pub(crate) fn place(&self) -> Place {
        // Relaxed, here and below: the lock orders it.
        match self.place.load(Ordering::Relaxed) {
            0 => Place::Off,
            1 => Place::Queued,
            _ => Place::Moving,
        }
    }

    /// Notes where it is; the queue of its processor is locked.
    #[cfg(target_os = "none")]
    #[inline]
    pub(crate) fn set_place(&self, place: Place) {
        self.place.store(place as u8, Ordering::Relaxed);
    }

    /// Whether its affinity wants it on other processors, of which one is there.
    #[cfg(target_os = "none")]
    pub(crate) fn is_banned_from(&self, cpu: arch::cpu::CpuId) -> bool {
        let allowed = self.affinity.lock();
        !allowed.contains(cpu) && !allowed.and(&arch::cpu::online()).is_empty()
    }

    /// Whether a signal is pending for the sleep `mode`.
    #[inline]
    pub(crate) fn is_interrupted(&self, mode: u32) -> bool {
        match mode {
            state::INTERRUPTIBLE => self.arch.has_flag(flags::SIGPENDING),
            state::KILLABLE => self.is_killed.load(Ordering::Relaxed),
            _ => false,
        }
    }

    /// A signal is pending: ends an interruptible sleep, and makes a running thread look.
    pub fn interrupt(&self) {
        if !crate::run::wake(self, state::INTERRUPTIBLE) {
            self.kick();
        }
    }

    /// The thread is to end: ends killable sleeps too.
    pub fn interrupt_kill(&self) {
        self.is_killed.store(true, Ordering::SeqCst);
        if !crate::run::wake(self, state::INTERRUPTIBLE | state::KILLABLE) {
            self.kick();
        }
    }

    /// Makes a thread that runs in user mode on another processor enter the kernel.
    pub fn kick(&self) {
        if self.on_cpu.load(Ordering::Relaxed) && self.arch.cpu() != arch::cpu::id() {
            arch::ipi::reschedule(self.arch.cpu());
        }
    }

    /// Whether the thread is to pass through the work before user space every few milliseconds
    /// that it runs.
    #[inline]
    pub fn is_watched(&self) -> bool {
        // Relaxed: a tick sooner or later.
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Sets whether it is.
    pub fn set_watched(&self, watched: bool) {
        if self.is_watched.swap(watched, Ordering::Relaxed) != watched && watched {
            // Its processor is to set the timer.
            self.arch.set_flag(arch::thread::flags::NEED_RESCHED);
            self.kick();
        }
    }

    /// `R`, `S` or `D` of `/proc/PID/stat`.
    pub fn state_letter(&self) -> char {
        match self.state.load(Ordering::Relaxed) {
            state::RUNNING => 'R',
            state::INTERRUPTIBLE => 'S',
            state::DEAD => 'X',
            _ => 'D',
        }
    }

    /// Where the thread stands in the kernel and what registers its program had there; `None` while
    /// it is on a processor or on its way to one.
    pub fn at_rest(&self) -> Option<AtRest> {
        let stack = self.arch.stack();
        crate::run::with_rest(self, |rest| AtRest {
            trace: Backtrace::of(rest, stack).into(),
            user: rest.user,
        })
    }

    /// Processor time and switches.
    pub fn cpu_times(&self) -> CpuTimes {
        crate::run::with_entity(self, |entity| {
            let total = entity.run_ns;
            let (user_ns, system_ns) =
                if self.is_user() { entity.split.divide(total) } else { (0, total) };
            CpuTimes {
                user_ns,
                system_ns,
                wait_ns: entity.wait_ns,
                voluntary_switches: self.voluntary.load(Ordering::Relaxed),
                involuntary_switches: self.involuntary.load(Ordering::Relaxed),
            }
        })
    }

    /// How long it has run, in user and kernel mode together.
    pub fn run_ns(&self) -> u64 {
        crate::run::with_entity(self, |entity| entity.run_ns)
    }

    /// Policy and priorities.
    pub fn params(&self) -> Params {
        crate::run::with_entity(self, |entity| entity.params)
    }

    /// Changes policy and priorities.
    pub fn set_params(&self, params: Params) {
        crate::run::change_params(self, params);
    }

    /// The processors it may run on.
    pub fn affinity(&self) -> CpuSet {
        *self.affinity.lock()
    }

    /// Restricts it to some processors. If it runs on another one, it moves as soon as that one
    /// looks.
    pub fn set_affinity(&self, cpus: CpuSet) {
        crate::run::set_affinity(self, cpus);
    }
}
