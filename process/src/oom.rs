//! Who dies when memory runs out.

use crate::group::ThreadGroup;
use crate::pid::PidNamespace;
use crate::signal;
use crate::task::Task;
use abi::signal::{SigInfo, Signal, si};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// `oom_score_adj` of a process that must not be chosen.
pub const ADJ_MIN: i32 = -1000;

/// How bad a process is: pages it would free, weighted by `oom_score_adj` in thousandths of
/// `total_pages`; `None` for one that must live.
pub fn badness(group: &ThreadGroup, total_pages: u64) -> Option<u64> {
    let adj = group.oom_score_adj.load(Ordering::Relaxed);
    if adj == ADJ_MIN || group.is_unkillable() {
        return None;
    }
    let mm = group.any_task().and_then(|t| t.mm())?;
    let pages = mm.stats().rss_pages() as i64;
    let points = pages + i64::from(adj) * (total_pages as i64 / 1000);
    Some(points.max(1) as u64)
}

/// Kills the process that frees most; whether there was one, or one that is dying already.
pub fn kill_one(total_pages: u64) -> bool {
    let mut worst: Option<(u64, Arc<ThreadGroup>)> = None;
    for group in PidNamespace::initial().groups() {
        let is_dying = group.tasks().iter().any(|t| t.is_oom_victim.load(Ordering::Relaxed));
        if is_dying && group.any_task().is_some() {
            return true;
        }
        if let Some(points) = badness(&group, total_pages)
            && worst.as_ref().is_none_or(|(most, _)| points > *most)
        {
            worst = Some((points, group));
        }
    }
    let Some((points, group)) = worst else { return false };
    kill(&group, points);
    true
}

fn kill(group: &Arc<ThreadGroup>, points: u64) {
    let comm = group.leader().map_or([0; 16], |l| l.comm());
    let name = core::str::from_utf8(&comm).unwrap_or("?").trim_end_matches('\0');
    log::error!("Out of memory: Killed process {} ({name}) score {points}", group.pid().global());
    for task in group.tasks() {
        task.is_oom_victim.store(true, Ordering::Relaxed);
    }
    let _ = signal::send_to_group(group, SigInfo::new(Signal::SIGKILL, si::KERNEL));
}

/// A page fault found no memory: the OOM killer has chosen somebody, perhaps this process. If it
/// has not, the fault must not repeat for ever.
pub(crate) fn fault(task: &Task) {
    if !signal::fatal_pending(task) && !kill_one(u64::MAX / 1000) {
        signal::force(task, SigInfo::new(Signal::SIGKILL, si::KERNEL));
    }
    sched::yield_now();
}
