//! Who is told about traps.

pub use archtypes::frame::*;

use crate::addr::VirtAddr;
use core::sync::atomic::{AtomicPtr, Ordering};

crate::percpu! {
    /// What the interrupt that is being served has saved.
    static INTERRUPTED: PerCpu<AtomicPtr<TrapFrame>> = AtomicPtr::new(core::ptr::null_mut());
}

/// Serves an interrupt that saved `frame`, which [`interrupted`] shows meanwhile. Interrupts are
/// off.
#[inline]
pub fn while_interrupted(frame: &TrapFrame, serve: impl FnOnce()) {
    let place = INTERRUPTED.this();
    // Relaxed, here and below: this processor alone looks.
    place.store(core::ptr::from_ref(frame).cast_mut(), Ordering::Relaxed);
    serve();
    place.store(core::ptr::null_mut(), Ordering::Relaxed);
}

/// The registers that the interrupt which this processor serves has saved; `None` outside of one.
pub fn interrupted() -> Option<TrapFrame> {
    let _here = crate::irq::disable();
    // SAFETY: null, or a frame that `while_interrupted` borrows on this processor, which is in it
    // as long as the pointer is there: with interrupts off nothing else comes between.
    unsafe { INTERRUPTED.this().load(Ordering::Relaxed).as_ref() }.copied()
}

/// The functions the layers above register.
pub struct Handlers {
    /// A system call; called with interrupts on. Reads `orig_rax` and the arguments, writes `rax`.
    pub syscall: fn(&mut TrapFrame),
    /// A page fault at an address in the user half, from user mode or from a copy routine; called
    /// with interrupts on and preemption possible. In user mode it queues the signal itself.
    pub page_fault: fn(&mut TrapFrame, VirtAddr, FaultCode) -> FaultOutcome,
    /// Another exception in user mode, with its error code; called with interrupts on. For #DB the
    /// code is DR6; for vector 14 it is a fault on an address outside of the user half.
    pub user_exception: fn(&mut TrapFrame, u8, u64),
    /// Work before the return to user mode, called with interrupts on while any of the flags in
    /// [`WORK_MASK`](crate::thread::flags::WORK_MASK) but `NEED_RESCHED` is set.
    pub exit_to_user: fn(&mut TrapFrame),
}

static HANDLERS: AtomicPtr<Handlers> = AtomicPtr::new(core::ptr::null_mut());

/// Registers the handlers; once, before the first user program.
pub fn set_handlers(handlers: &'static Handlers) {
    HANDLERS.store(core::ptr::from_ref(handlers).cast_mut(), Ordering::Release);
    #[cfg(target_os = "none")]
    crate::x86::entry::set_syscall_handler(handlers.syscall);
}

/// The registered handlers.
pub fn handlers() -> Option<&'static Handlers> {
    // SAFETY: only `set_handlers` stores here, a reference to a static.
    unsafe { HANDLERS.load(Ordering::Acquire).as_ref() }
}
