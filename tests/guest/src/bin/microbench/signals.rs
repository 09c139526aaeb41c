//! Signals: asked for, sent, delivered and waited for.

use std::ffi::c_void;
use std::mem::zeroed;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::area::{ANONYMOUS, Area, PAGE};
use crate::meter::{Cost, Failure, each};
use crate::rows::Rows;
use crate::sys::{Child, Fd, ok};

/// Bytes of the other stack.
const STACK: usize = 64 << 10;

/// Times a handler ran since somebody asked.
static DELIVERED: AtomicU32 = AtomicU32::new(0);

/// Adds the group's rows.
pub fn add(rows: &mut Rows) {
    handlers(rows);
    rows.add("fault handled", fault_handled);
    waits(rows);
}

extern "C" fn on_signal(_: i32) {
    DELIVERED.fetch_add(1, Relaxed);
}

extern "C" fn on_signal_with_info(_: i32, _: *mut libc::siginfo_t, _: *mut c_void) {
    DELIVERED.fetch_add(1, Relaxed);
}

/// Goes on after the instruction that failed, which is two bytes long.
extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut c_void) {
    DELIVERED.fetch_add(1, Relaxed);
    // SAFETY: the third argument of such a handler is the context that it returns to.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] += 2 };
}

/// Whether a handler has run once since this was last asked.
#[inline(always)]
fn was_delivered() -> bool {
    DELIVERED.swap(0, Relaxed) == 1
}

/// Installs a handler.
fn handle(signal: i32, handler: *const (), flags: i32) -> Result<(), Failure> {
    // SAFETY: a handler of the kind that the flags state.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = flags;
        ok("sigaction", libc::sigaction(signal, &action, ptr::null_mut())).map(|_| ())
    }
}

/// Sends the thread a signal and returns from its handler: the cost.
fn deliver(signal: i32, count: u64) -> Cost {
    // SAFETY: calls without pointers.
    unsafe {
        let (pid, tid) = (libc::getpid(), libc::syscall(libc::SYS_gettid));
        each(count, || libc::syscall(libc::SYS_tgkill, pid, tid, signal) == 0 && was_delivered())
    }
}

fn handlers(rows: &mut Rows) {
    rows.add("signal install", || {
        // SAFETY: the action is there, and nobody sends the signal.
        unsafe {
            let mut action: libc::sigaction = zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            each(66_000, || libc::sigaction(libc::SIGUSR2, &action, ptr::null_mut()) == 0)
        }
    });
    rows.add("signal delivery", || {
        handle(libc::SIGUSR1, on_signal as *const (), 0)?;
        deliver(libc::SIGUSR1, 8_000)
    });
    rows.add("signal delivery, siginfo", || {
        handle(libc::SIGUSR1, on_signal_with_info as *const (), libc::SA_SIGINFO)?;
        deliver(libc::SIGUSR1, 8_000)
    });
    rows.add("signal delivery, other stack", || {
        let mut room = vec![0u8; STACK];
        let base = room.as_mut_ptr().cast();
        let stack = libc::stack_t { ss_sp: base, ss_flags: 0, ss_size: STACK };
        // SAFETY: the room outlives the use: the process ends with the row.
        ok("sigaltstack", unsafe { libc::sigaltstack(&stack, ptr::null_mut()) })?;
        std::mem::forget(room);
        handle(libc::SIGUSR1, on_signal as *const (), libc::SA_ONSTACK)?;
        deliver(libc::SIGUSR1, 8_000)
    });
    rows.add("sigqueue", || {
        let signal = libc::SIGRTMIN();
        handle(signal, on_signal_with_info as *const (), libc::SA_SIGINFO)?;
        let value = libc::sigval { sival_ptr: ptr::null_mut() };
        // SAFETY: the value is no pointer to anybody.
        unsafe {
            let me = libc::getpid();
            each(7_000, || libc::sigqueue(me, signal, value) == 0 && was_delivered())
        }
    });
}

/// A read of memory that may not be read, and a handler that goes on behind it.
fn fault_handled() -> Cost {
    let page = Area::at(0, PAGE, libc::PROT_NONE, ANONYMOUS, -1)?;
    handle(libc::SIGSEGV, on_fault as *const (), libc::SA_SIGINFO)?;
    each(9_000, || {
        // SAFETY: `mov al, [rdi]`, which changes nothing but the register; the handler skips it.
        unsafe {
            std::arch::asm!(".byte 0x8a, 0x07", in("rdi") page.start(), out("al") _, options(nostack));
        }
        was_delivered()
    })
}

/// Blocks a signal; the set that has it alone.
fn block(signal: i32) -> Result<libc::sigset_t, Failure> {
    // SAFETY: the set is there.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigaddset(&mut set, signal);
        ok("sigprocmask", libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()))?;
        Ok(set)
    }
}

fn waits(rows: &mut Rows) {
    // SAFETY: sets and times that outlive the calls.
    unsafe {
        rows.add("signalfd", || {
            let set = block(libc::SIGUSR1)?;
            let fd = Fd::new("signalfd", libc::signalfd(-1, &set, 0))?;
            let (me, mut info) = (libc::getpid(), [0u8; 128]);
            each(11_000, || libc::kill(me, libc::SIGUSR1) == 0 && fd.take_some(&mut info) == 128)
        });
        rows.add("sigtimedwait", || {
            let (set, now) = (block(libc::SIGUSR1)?, zeroed());
            let me = libc::getpid();
            each(12_000, || {
                libc::kill(me, libc::SIGUSR1) == 0
                    && libc::sigtimedwait(&set, ptr::null_mut(), &now) == libc::SIGUSR1
            })
        });
        rows.add("signal round trip", || {
            // Whether a woken process preempts its waker hangs on their past; one of this policy never does.
            let none = libc::sched_param { sched_priority: 0 };
            ok("sched_setscheduler", libc::sched_setscheduler(0, libc::SCHED_BATCH, &none))?;
            let set = block(libc::SIGUSR1)?;
            let me = libc::getpid();
            let waits = || libc::sigwaitinfo(&set, ptr::null_mut()) == libc::SIGUSR1;
            let child = Child::start(|| {
                while waits() && libc::kill(me, libc::SIGUSR1) == 0 {}
                false
            })?;
            each(3_000, || libc::kill(child.pid(), libc::SIGUSR1) == 0 && waits())
        });
    }
}
