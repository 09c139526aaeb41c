//! On the way back to user space: taking signals, default actions, restarting system calls.

use super::action::{Disposition, default_action};
use super::{StopState, frame, recalculate_locked, stop};
use crate::coredump::Dumped;
use crate::task::Task;
use abi::Errno;
use abi::signal::{SIG_DFL, SIG_IGN, SigAction, SigInfo, SigSet, Signal, sa};
use arch::thread::flags;
use arch::trap::TrapFrame;

/// `restart_syscall(2)`.
const NR_RESTART_SYSCALL: u64 = 219;
/// The length of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;

/// What [`next`] found.
struct Delivery {
    signal: Signal,
    info: SigInfo,
    action: SigAction,
}

/// The trap handler for "some work flag is set".
pub fn exit_to_user(frame: &mut TrapFrame) {
    let Some(task) = crate::try_current() else { return };
    if task.has_flag(flags::NOTIFY_RESUME) {
        task.clear_flag(flags::NOTIFY_RESUME);
        crate::run_task_work(task);
        crate::timers::check_cpu(task);
    }
    if task.has_flag(flags::RSEQ_RESUME) {
        crate::rseq::resume(task, frame);
    }
    if task.has_flag(flags::SIGPENDING | flags::RESTORE_SIGMASK) {
        deliver(task, frame);
    }
}

fn deliver(task: &Task, user: &mut TrapFrame) {
    match next(task, user) {
        Some(delivery) => {
            restart(user, Some(&delivery.action));
            handle(task, user, delivery);
        }
        None => {
            restart(user, None);
            if task.has_flag(flags::RESTORE_SIGMASK) {
                task.clear_flag(flags::RESTORE_SIGMASK);
                super::set_blocked(task, task.saved_mask());
            }
        }
    }
}

/// Sets up the handler's frame. A frame that cannot be written is a SIGSEGV.
fn handle(task: &Task, user: &mut TrapFrame, delivery: Delivery) {
    let Delivery { signal, info, action } = delivery;
    let steps = task.has_flag(flags::SINGLE_STEP);
    if steps {
        user.rflags &= !arch::trap::RFLAGS_TF;
    }
    let to_restore = if task.has_flag(flags::RESTORE_SIGMASK) {
        task.clear_flag(flags::RESTORE_SIGMASK);
        task.saved_mask()
    } else {
        task.blocked()
    };
    if task.has_flag(flags::RSEQ) {
        crate::rseq::resume(task, user);
    }
    if frame::push(task, user, signal, &info, &action, to_restore).is_err() {
        if signal == Signal::SIGSEGV
            && let Some(hand) = task.sighand()
        {
            hand.reset(signal);
        }
        super::force(task, SigInfo::new(Signal::SIGSEGV, abi::signal::si::KERNEL));
        return;
    }
    // A step ends at the first instruction of the handler.
    if steps {
        crate::ptrace::step_trap(task, user);
    }
    let mut mask = task.blocked().union(action.mask);
    if action.flags & sa::NODEFER == 0 {
        mask.add(signal);
    }
    super::set_blocked(task, mask);
}

/// Takes the next signal that has a handler, doing the default actions of others on the way.
/// Does not return if one of them ends the process.
fn next(task: &Task, user: &mut TrapFrame) -> Option<Delivery> {
    loop {
        if task.standing.is_wanted_at_once() {
            crate::cgroup::stand_at_once(task);
        }
        let mut signals = task.group.signals.lock();
        if let Some(code) = signals.exit_code {
            drop(signals);
            crate::exit::exit_thread(code);
        }
        if let Some(by) = signals.exec_by
            && by != task.thread_key.load(core::sync::atomic::Ordering::Relaxed)
        {
            drop(signals);
            crate::coredump::leave_registers(task, user);
            crate::exit::exit_thread(0);
        }
        if signals.report_continue {
            signals.report_continue = false;
            drop(signals);
            if let Some(group) = task.group.arc() {
                stop::notify_parent(
                    &group,
                    abi::signal::si::CLD_CONTINUED,
                    Signal::SIGCONT.raw() as i32,
                );
            }
            continue;
        }
        if let Some(StopState { serial, .. }) = signals.stop
            && !task.tracing.has_done_stop(serial)
        {
            drop(signals);
            stop::participate(task, user);
            continue;
        }
        if task.tracing.has_trap() {
            drop(signals);
            crate::ptrace::take_trap(task, user);
            continue;
        }
        if task.standing.is_wanted() && !task.signals.lock().pending.set().contains(Signal::SIGKILL)
        {
            // Who has news for it sets it again.
            task.clear_flag(flags::SIGPENDING);
            drop(signals);
            crate::cgroup::stand(task);
            continue;
        }
        let blocked = task.blocked();
        let own = task.signals.lock().pending.dequeue(blocked);
        let Some((mut signal, mut info, record)) = own.or_else(|| signals.pending.dequeue(blocked))
        else {
            recalculate_locked(task, &signals);
            return None;
        };
        let continues = signals.continues;
        drop(signals);
        drop(record);
        crate::timers::delivered(task, &mut info);
        if task.tracing.is_traced() && signal != Signal::SIGKILL {
            match crate::ptrace::signal_stop(task, user, signal, info) {
                None => continue,
                Some(changed) => (signal, info) = changed,
            }
            if task.blocked().contains(signal) {
                super::send_to_task(task, info);
                continue;
            }
        }
        // No reference outlives this line: the default action may not come back.
        let Some(action) = task.sighand().map(|hand| hand.take_for_delivery(signal)) else {
            continue;
        };
        match action.handler {
            SIG_IGN => {}
            SIG_DFL => by_default(task, user, signal, &info, continues),
            _ => return Some(Delivery { signal, info, action }),
        }
    }
}

fn by_default(task: &Task, user: &TrapFrame, signal: Signal, info: &SigInfo, continues: u64) {
    let disposition = default_action(signal);
    if matches!(disposition, Disposition::Ignore | Disposition::Continue) {
        return;
    }
    if task.group.is_unkillable() && signal != Signal::SIGKILL && signal != Signal::SIGSTOP {
        return;
    }
    match disposition {
        Disposition::Stop => {
            if signal != Signal::SIGSTOP && stop::is_orphaned(&task.group) {
                return;
            }
            let mut signals = task.group.signals.lock();
            // A SIGCONT that arrived meanwhile wins.
            if signals.continues == continues {
                stop::begin(task, &mut signals, signal);
            }
        }
        Disposition::Core => end_with_core(task, user, signal, info),
        _ => crate::exit::exit_group(task, signal.raw() as i32),
    }
}

/// Ends the process by `signal`, with a core file where it may have one. Comes back if another
/// thread was faster: the next look on the way to user space finds what that one asks of this.
pub(crate) fn end_with_core(task: &Task, user: &TrapFrame, signal: Signal, info: &SigInfo) {
    let flag = match crate::coredump::dump(task, user, signal, info) {
        Dumped::Yes => 0x80,
        Dumped::No => 0,
        Dumped::ByAnother => return,
    };
    report_fatal(task, signal, info);
    crate::exit::exit_group(task, signal.raw() as i32 | flag);
}

/// A line in the kernel log for a fault nobody handles, as Linux's `show_unhandled_signals`.
fn report_fatal(task: &Task, signal: Signal, info: &SigInfo) {
    if !SigSet::SYNCHRONOUS.contains(signal)
        || info.code <= 0
        || info.code == abi::signal::si::KERNEL
    {
        return;
    }
    let [vector, error, address] = [0, 1, 2].map(|i: usize| {
        task.last_trap.get(i).map_or(0, |w| w.load(core::sync::atomic::Ordering::Relaxed))
    });
    let comm = task.comm();
    let name = core::str::from_utf8(&comm).unwrap_or("?").trim_end_matches('\0');
    log::info!(
        "{name}[{}]: {} at {address:x} code {} trap {vector} error {error:x}",
        task.global_tid(),
        signal.name(),
        info.code,
    );
}

/// Decides what becomes of an interrupted system call (`signal(7)`, "Interruption of system
/// calls"): `action` is the handler that will run, if one will.
fn restart(user: &mut TrapFrame, action: Option<&SigAction>) {
    if !user.is_syscall() {
        return;
    }
    let Some(errno) = internal_errno(user.rax) else {
        return;
    };
    let again = match (errno, action) {
        (Errno::ERESTARTNOINTR, _) => true,
        (Errno::ERESTARTSYS, Some(action)) => action.flags & sa::RESTART != 0,
        (Errno::ERESTARTSYS | Errno::ERESTARTNOHAND, None) => true,
        (Errno::ERESTART_RESTARTBLOCK, None) => {
            user.rax = NR_RESTART_SYSCALL;
            user.rip = user.rip.wrapping_sub(SYSCALL_LEN);
            user.orig_rax = u64::MAX;
            return;
        }
        _ => false,
    };
    if again {
        user.rax = user.orig_rax;
        user.rip = user.rip.wrapping_sub(SYSCALL_LEN);
    } else {
        user.rax = Errno::EINTR.as_return_value();
    }
    // Decided once; a second signal must not decide again.
    user.orig_rax = u64::MAX;
}

/// The kernel-internal errno in a return value, if it is one.
fn internal_errno(rax: u64) -> Option<Errno> {
    let raw = (rax as i64).checked_neg()?;
    [Errno::ERESTARTSYS, Errno::ERESTARTNOINTR, Errno::ERESTARTNOHAND, Errno::ERESTART_RESTARTBLOCK]
        .into_iter()
        .find(|e| i64::from(e.raw()) == raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupted(errno: Errno) -> TrapFrame {
        TrapFrame { orig_rax: 7, rax: errno.as_return_value(), rip: 0x1002, ..TrapFrame::default() }
    }

    #[test]
    fn restarts_as_signal_7_says() {
        let plain = SigAction::default();
        let restarting = SigAction { flags: sa::RESTART, ..plain };
        let cases = [
            (Errno::ERESTARTSYS, None, true),
            (Errno::ERESTARTSYS, Some(&plain), false),
            (Errno::ERESTARTSYS, Some(&restarting), true),
            (Errno::ERESTARTNOHAND, None, true),
            (Errno::ERESTARTNOHAND, Some(&restarting), false),
            (Errno::ERESTARTNOINTR, Some(&plain), true),
            (Errno::ERESTART_RESTARTBLOCK, Some(&restarting), false),
        ];
        for (errno, action, again) in cases {
            let mut frame = interrupted(errno);
            restart(&mut frame, action);
            assert_eq!(frame.rip, if again { 0x1000 } else { 0x1002 }, "{errno:?}");
            let want = if again { 7 } else { Errno::EINTR.as_return_value() };
            assert_eq!(frame.rax, want, "{errno:?}");
        }
        let mut frame = interrupted(Errno::ERESTART_RESTARTBLOCK);
        restart(&mut frame, None);
        assert_eq!((frame.rax, frame.rip), (NR_RESTART_SYSCALL, 0x1000));
        let mut frame = interrupted(Errno::EINTR);
        restart(&mut frame, Some(&restarting));
        assert_eq!((frame.rip, frame.orig_rax), (0x1002, 7));
    }
}
