//! `wait4(2)`, `waitid(2)`: waiting for children to end, stop or continue.
//!
//! A parent keeps the children that have news apart, in their order, so that waiting for any child
//! costs nothing for the silent ones.

use crate::exit;
use crate::group::{ThreadGroup, tree};
use crate::pid::Pid;
use crate::signal::Event;
use crate::task::Task;
use crate::usage::Usage;
use abi::process::wait::{
    WALL, WCLONE, WCONTINUED, WEXITED, WNOHANG, WNOTHREAD, WNOWAIT, WSTOPPED,
};
use abi::signal::{Signal, si};
use abi::{Errno, Result};
use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering;

/// Which children.
#[derive(Clone)]
pub enum Target {
    /// All.
    Any,
    /// The one with this number.
    Process(Arc<Pid>),
    /// Those of this process group.
    Group(Arc<Pid>),
}

/// A request to wait.
#[derive(Clone)]
pub struct Request {
    /// Which children.
    pub target: Target,
    /// `W*` of `waitid(2)`; at least one of exited, stopped and continued.
    pub options: u32,
}

/// What a child did.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Its number in the caller's namespace.
    pub pid: i32,
    /// Its real uid.
    pub uid: u32,
    /// The wait status, as `waitpid(2)` encodes it.
    pub status: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_status`.
    pub value: i32,
    /// What it used.
    pub usage: Usage,
}

enum Found {
    Ended(Arc<ThreadGroup>),
    Changed(Arc<ThreadGroup>, Event),
    /// A traced thread stopped with this code.
    Stopped(Arc<Task>, i32),
    /// A traced thread that does not lead its process ended.
    Reported(Report),
    /// A traced process of another family ended.
    Seen(Arc<ThreadGroup>),
    NoChild,
}

/// Waits. `Ok(None)` with `WNOHANG` when no child has news; `ECHILD` when there is no such child;
/// `ERESTARTSYS` when a signal came first.
pub fn wait(task: &Task, request: &Request) -> Result<Option<Report>> {
    let found = if request.options & WNOHANG != 0 {
        look(task, request)
    } else {
        let wait_here = &task.group.child_wait;
        let waited = wait_here.wait_interruptible(|| look(task, request), None);
        Some(waited.map_err(|_| Errno::ERESTARTSYS)?)
    };
    match found {
        None => Ok(None),
        Some(Found::NoChild) => Err(Errno::ECHILD),
        Some(Found::Ended(child)) => Ok(Some(collect(task, &child, request.options))),
        Some(Found::Changed(child, event)) => Ok(Some(report_event(task, &child, event))),
        Some(Found::Stopped(tracee, code)) => Ok(Some(report_stop(task, &tracee, code))),
        Some(Found::Reported(report)) => Ok(Some(report)),
        Some(Found::Seen(group)) => {
            let report = report_end(task, &group);
            if request.options & WNOWAIT == 0 {
                exit::hand_over_to_parent(&group);
            }
            Ok(Some(report))
        }
    }
}

fn matches(task: &Task, request: &Request, child: &ThreadGroup) -> bool {
    let right_target = match &request.target {
        Target::Any => true,
        Target::Process(pid) => Arc::ptr_eq(child.pid(), pid),
        Target::Group(pgrp) => Arc::ptr_eq(&child.pgrp(), pgrp),
    };
    if !right_target {
        return false;
    }
    if request.options & WNOTHREAD != 0
        && !core::ptr::eq(child.kin.lock().parent_thread.as_ptr(), task)
    {
        return false;
    }
    let is_clone = child.exit_signal.load(Ordering::Relaxed) != Signal::SIGCHLD.raw() as i32;
    request.options & WALL != 0 || is_clone == (request.options & WCLONE != 0)
}

/// One look at the children; `None` when there are some but none has news.
fn look(task: &Task, request: &Request) -> Option<Found> {
    let _tree = tree();
    let group = &task.group;
    let has_traced = match look_at_traced(task, request) {
        Traced::Found(found) => return Some(found),
        Traced::Silent => true,
        Traced::None => false,
    };
    if let Target::Process(pid) = &request.target {
        let found = look_at_one(task, request, pid);
        return if has_traced { found.filter(|f| !matches!(f, Found::NoChild)) } else { found };
    }
    let mut family = group.family.lock();
    if request.options & WEXITED != 0
        && let Some(child) = family.children.first_ended(|c| matches(task, request, c))
    {
        if request.options & WNOWAIT == 0 {
            family.children.claim(&child);
        }
        return Some(Found::Ended(child));
    }
    if request.options & (WSTOPPED | WCONTINUED) != 0 {
        let wanted = |child: &ThreadGroup| matches(task, request, child);
        let event = |child: &ThreadGroup| take_event(child, request.options);
        let found = family.children.find_change(|child| wanted(child).then(|| event(child))?);
        if let Some((child, event)) = found {
            if request.options & WNOWAIT == 0 {
                family.children.forget_change(&child);
            }
            return Some(Found::Changed(child, event));
        }
    }
    let any = family.children.iter().any(|c| matches(task, request, c));
    if any || has_traced { None } else { Some(Found::NoChild) }
}

/// What the traced threads have to tell.
enum Traced {
    Found(Found),
    /// There are some, but none has news.
    Silent,
    None,
}

/// One look at what the caller's process traces. The tree is locked.
fn look_at_traced(task: &Task, request: &Request) -> Traced {
    let take = request.options & WNOWAIT == 0;
    let is_mine = |tracer: &Weak<Task>| {
        request.options & WNOTHREAD == 0 || core::ptr::eq(tracer.as_ptr(), task)
    };
    let fits = |pid: &Arc<Pid>, pgrp: &dyn Fn() -> Arc<Pid>| match &request.target {
        Target::Any => true,
        Target::Process(wanted) => Arc::ptr_eq(pid, wanted),
        Target::Group(wanted) => Arc::ptr_eq(&pgrp(), wanted),
    };
    let is_wanted = |tracee: &Task| {
        fits(&tracee.pid(), &|| tracee.group.pgrp())
            && (request.options & WNOTHREAD == 0
                || crate::ptrace::tracer_of(tracee).is_some_and(|t| core::ptr::eq(&*t, task)))
    };
    let mut family = task.group.family.lock();
    let Some(traces) = family.traces.as_mut().filter(|traces| !traces.is_empty()) else {
        return Traced::None;
    };
    if let Some((tracee, code)) = traces.find_stop(is_wanted, take) {
        return Traced::Found(Found::Stopped(tracee, code));
    }
    let mut any = match &request.target {
        Target::Process(pid) => pid.task().is_some_and(|it| traces.has(&it) && is_wanted(&it)),
        _ => traces.threads.values().any(|tracee| is_wanted(tracee)),
    };
    let exit = traces
        .exits
        .iter()
        .position(|exit| is_mine(&exit.tracer) && fits(&exit.pid, &|| exit.pgrp.clone()));
    if let Some(at) = exit {
        any = true;
        if request.options & WEXITED != 0
            && let Some(report) = traces.exits.get(at).map(|exit| exit.report)
        {
            if take {
                traces.exits.remove(at);
            }
            return Traced::Found(Found::Reported(report));
        }
    }
    let ended = traces
        .zombies
        .values()
        .find(|(group, tracer)| is_mine(tracer) && fits(group.pid(), &|| group.pgrp()))
        .map(|(group, _)| group.clone());
    if let Some(group) = ended {
        any = true;
        if request.options & WEXITED != 0 {
            if take {
                traces.zombies.remove(&group.birth);
            }
            return Traced::Found(Found::Seen(group));
        }
    }
    if any { Traced::Silent } else { Traced::None }
}

fn look_at_one(task: &Task, request: &Request, pid: &Arc<Pid>) -> Option<Found> {
    let Some(child) = pid.group() else { return Some(Found::NoChild) };
    let is_mine = core::ptr::eq(child.kin.lock().parent.as_ptr(), &*task.group);
    if !is_mine || !matches(task, request, &child) {
        return Some(Found::NoChild);
    }
    let mut family = task.group.family.lock();
    if request.options & WEXITED != 0 && child.kin.lock().is_waitable {
        if request.options & WNOWAIT == 0 {
            family.children.claim(&child);
        }
        return Some(Found::Ended(child));
    }
    if child.is_claimed() {
        return Some(Found::NoChild);
    }
    if let Some(event) = take_event(&child, request.options) {
        if request.options & WNOWAIT == 0 {
            family.children.forget_change(&child);
        }
        return Some(Found::Changed(child, event));
    }
    None
}

/// The child's stop or continuation, if asked for; consumed unless `WNOWAIT`.
fn take_event(child: &ThreadGroup, options: u32) -> Option<Event> {
    let mut signals = child.signals.lock();
    let event = signals.event?;
    let wanted = match event {
        Event::Stopped(_) => options & WSTOPPED != 0,
        Event::Continued => options & WCONTINUED != 0,
    };
    if !wanted {
        return None;
    }
    if options & WNOWAIT == 0 {
        signals.event = None;
    }
    Some(event)
}

fn uid_of(task: &Task, leader: Option<&Task>) -> u32 {
    let uid = leader.map_or(0, |leader| leader.creds().uid);
    task.creds().user_ns.uid_in(uid)
}

fn report_event(task: &Task, child: &ThreadGroup, event: Event) -> Report {
    let (status, code, value) = match event {
        Event::Stopped(signal) => {
            let signal = signal.raw() as i32;
            (signal << 8 | 0x7f, si::CLD_STOPPED, signal)
        }
        Event::Continued => (0xffff, si::CLD_CONTINUED, Signal::SIGCONT.raw() as i32),
    };
    Report {
        pid: child.pid().number_in(task.group.pid_ns()),
        uid: uid_of(task, child.leader().as_deref()),
        status,
        code,
        value,
        usage: child.usage(),
    }
}

fn report_stop(task: &Task, tracee: &Task, code: i32) -> Report {
    Report {
        pid: tracee.pid().number_in(task.group.pid_ns()),
        uid: task.creds().user_ns.uid_in(tracee.creds().uid),
        status: code << 8 | 0x7f,
        code: si::CLD_TRAPPED,
        value: code,
        usage: Usage::of(tracee),
    }
}

fn report_end(task: &Task, child: &ThreadGroup) -> Report {
    let leader = child.leader();
    let status = leader.as_deref().map_or(0, |leader| exit::exit_status(child, leader));
    let (code, value) = exit::decode_status(status);
    Report {
        pid: child.pid().number_in(task.group.pid_ns()),
        uid: uid_of(task, leader.as_deref()),
        status,
        code,
        value,
        usage: child.usage(),
    }
}

/// Reads what an ended child leaves, and unless `WNOWAIT` removes it.
fn collect(task: &Task, child: &Arc<ThreadGroup>, options: u32) -> Report {
    let report = report_end(task, child);
    let usage = report.usage;
    if options & WNOWAIT == 0 {
        let grandchildren = child.children_usage();
        {
            let mut own = task.group.usage_of_children.lock();
            own.add(&usage);
            own.add(&grandchildren);
        }
        exit::release(child, Some(usage));
    }
    report
}
