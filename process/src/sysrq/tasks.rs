//! Keys that show threads, or take their priorities away.

use crate::pid::PidNamespace;
use crate::task::Task;
use alloc::sync::Arc;
use arch::symbols::Symbolised;
use platform::sysrq::show_registers;
use sched::{Params, Policy, Thread};

/// All threads, programs' and the kernel's, with where they are.
pub(super) fn show_all() {
    for thread in sched::kernel_threads() {
        show_kernel(&thread);
    }
    for_each(|task| show(task));
}

/// Programs' threads that wait for something that no signal ends. The kernel's always wait so, most
/// of them for work.
pub(super) fn show_blocked() {
    for_each(|task| {
        if task.state_letter() == 'D' {
            show(task);
        }
    });
}

/// Real-time threads become ordinary ones.
pub(super) fn unset_realtime() {
    let ordinary = |thread: &Thread| {
        let params = thread.params();
        if params.rt_priority != 0 {
            thread.set_params(Params { policy: Policy::Normal, rt_priority: 0, ..params });
        }
    };
    for_each(|task| {
        if let Some(thread) = task.thread() {
            ordinary(thread);
        }
    });
}

fn for_each(mut f: impl FnMut(&Arc<Task>)) {
    for group in PidNamespace::initial().groups() {
        let tasks = group.tasks();
        // A leader that has ended is there until it is waited for.
        if tasks.is_empty()
            && let Some(leader) = group.leader()
        {
            f(&leader);
        }
        tasks.iter().for_each(&mut f);
    }
}

fn show(task: &Task) {
    let parent = task.group.parent().map_or(0, |parent| parent.pid().global());
    let flags = task.thread().map_or(0, |thread| thread.arch().flags());
    head(&task.comm(), task.state_letter(), task.global_tid(), parent, flags);
    if let Some(thread) = task.thread() {
        trace(thread);
    }
}

fn show_kernel(thread: &Thread) {
    head(&thread.name(), thread.state_letter(), thread.number(), 0, thread.arch().flags());
    trace(thread);
}

fn head(name: &[u8], state: char, pid: i32, parent: i32, flags: u32) {
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = core::str::from_utf8(name).unwrap_or("?");
    log::info!(
        "task:{name:<15} state:{state} stack:0     pid:{pid:<5} ppid:{parent:<6} flags:{flags:#010x}"
    );
}

fn trace(thread: &Thread) {
    log::info!("Call Trace:");
    log::info!(" <TASK>");
    match thread.at_rest() {
        Some(rest) => {
            for address in rest.trace.addresses() {
                log::info!(" {}", Symbolised(*address));
            }
            if let Some(user) = &rest.user {
                show_registers(user);
            }
        }
        None => log::info!(" (on a processor)"),
    }
    log::info!(" </TASK>");
}
