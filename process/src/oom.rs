//! Who dies when memory runs out.
//!
//! An allocation that nothing could be reclaimed for asks [`out_of_memory`] and waits. The choice
//! is made and carried out by a thread of its own, which holds no locks: whoever waits may hold
//! any. The victim's private memory is taken from it at once ([`AddressSpace::reap`]): it may be
//! waiting for a lock of somebody who waits for memory.

use crate::group::ThreadGroup;
use crate::pid::PidNamespace;
use crate::signal;
use crate::task::Task;
use abi::signal::{SigInfo, Signal, si};
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use arch::thread::flags::OOM_VICTIM;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sched::WaitQueue;
use vm::AddressSpace;

/// `oom_score_adj` of a process that must not be chosen.
pub const ADJ_MIN: i32 = -1000;

/// How long the next victim waits for the memory of the last.
const PATIENCE_NS: u64 = 1_000_000_000;

static CLASS: LockClass = LockClass::new("process.oom", 660);
/// Who asked first since the last round.
static ASKED: SpinLock<Option<Asker>> = SpinLock::new(&CLASS, None);
static ASKERS: WaitQueue = WaitQueue::new();
static KILLER: WaitQueue = WaitQueue::new();
/// Rounds of the killer so far.
static ROUNDS: AtomicU64 = AtomicU64::new(0);
/// Whether the last round found nobody to kill.
static IS_HOPELESS: AtomicBool = AtomicBool::new(false);
/// `vm.oom_kill` of `/proc/vmstat`.
static KILLS: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy)]
struct Asker {
    comm: [u8; 16],
    adj: i32,
    /// Of the allocation that failed; `None` when an administrator asks, shortage or not.
    order: Option<u8>,
}

/// Starts the killer and has the frame allocator ask it. Once, when threads can be made.
pub fn init() {
    sched::spawn_kernel("oom_reaper", || {
        frames::as_reclaimer(|| {
            loop {
                let asker = KILLER.wait(|| *ASKED.lock());
                round(&asker);
                *ASKED.lock() = None;
                ROUNDS.fetch_add(1, Ordering::Release);
                ASKERS.wake_all();
            }
        })
    });
    frames::set_oom_hook(out_of_memory);
}

/// Processes killed for want of memory since boot.
pub fn kills() -> u64 {
    KILLS.load(Ordering::Relaxed)
}

/// Waits until the killer has done something about the shortage; whether trying again makes sense.
fn out_of_memory(order: u8) -> bool {
    let task = crate::try_current();
    let (comm, adj) = task.map_or((*b"kthread\0\0\0\0\0\0\0\0\0", 0), |task| {
        (task.comm(), task.group.oom_score_adj.load(Ordering::Relaxed))
    });
    let seen = ROUNDS.load(Ordering::Acquire);
    ASKED.lock().get_or_insert(Asker { comm, adj, order: Some(order) });
    KILLER.wake_one();
    let deadline = arch::time::now_ns() + PATIENCE_NS;
    ASKERS.wait_deadline(deadline, || (ROUNDS.load(Ordering::Acquire) != seen).then_some(()));
    !IS_HOPELESS.load(Ordering::Relaxed)
}

/// Has the killer choose a process, whether memory is short or not; does not wait for it.
pub(crate) fn kill_one() {
    let comm = crate::try_current().map_or(*b"kthread\0\0\0\0\0\0\0\0\0", Task::comm);
    // Instead of whoever asks for an allocation: the round serves both.
    *ASKED.lock() = Some(Asker { comm, adj: 0, order: None });
    KILLER.wake_one();
}

/// How bad a process is: pages it would free, weighted by `oom_score_adj` in thousandths of
/// `total_pages`; `None` for one that must live.
pub fn badness(group: &ThreadGroup, total_pages: u64) -> Option<u64> {
    badness_besides(&kept_memory(), group, total_pages)
}

/// [`badness`], knowing the memory that is [kept](kept_memory).
fn badness_besides(kept: &Kept, group: &ThreadGroup, total_pages: u64) -> Option<u64> {
    if must_live(group) {
        return None;
    }
    let mm = memory_of(group)?;
    if kept.contains(&address_of(&mm)) || is_borrowed(group, &mm) {
        return None;
    }
    Some(points(mm.rss_pages(), group.oom_score_adj.load(Ordering::Relaxed), total_pages))
}

/// Address spaces by where they lie.
type Kept = BTreeSet<usize>;

fn address_of(mm: &Arc<AddressSpace>) -> usize {
    Arc::as_ptr(mm).addr()
}

/// The memory of all processes that must live: the death of another one that shares it frees
/// nothing. One that ends meanwhile is missed or spared until the next round.
fn kept_memory() -> Kept {
    let all = PidNamespace::initial().groups().into_iter();
    all.filter(|group| must_live(group))
        .filter_map(|group| memory_of(&group).map(|mm| address_of(&mm)))
        .collect()
}

/// Whether a child of vfork(2) still runs in its parent's memory. One that was given a copy
/// (`CLONE_VFORK` alone), or whose parent has ended, answers for its own.
fn is_borrowed(group: &ThreadGroup, mm: &Arc<AddressSpace>) -> bool {
    let has_waiter = group.any_task().is_some_and(|task| task.vfork_done.lock().is_some());
    let is_parents = |parent: Arc<ThreadGroup>| {
        memory_of(&parent).is_some_and(|theirs| Arc::ptr_eq(&theirs, mm))
    };
    has_waiter && group.parent().is_some_and(is_parents)
}

/// Whether a process is never a victim.
fn must_live(group: &ThreadGroup) -> bool {
    group.is_unkillable() || group.oom_score_adj.load(Ordering::Relaxed) == ADJ_MIN
}

/// `badness` of a process of so many pages. proc(5), `/proc/pid/oom_score_adj`.
fn points(pages: u64, adj: i32, total_pages: u64) -> u64 {
    let points = pages as i64 + i64::from(adj) * total_pages as i64 / 1000;
    points.max(1) as u64
}

/// The memory of a process, whichever of its threads still has it.
fn memory_of(group: &ThreadGroup) -> Option<Arc<AddressSpace>> {
    group.any_task().and_then(|task| task.mm()).or_else(|| {
        // The first threads may be on their way out already.
        group.tasks().iter().find_map(|task| task.mm())
    })
}

fn is_victim(group: &ThreadGroup) -> bool {
    group.tasks().iter().any(|task| task.has_flag(OOM_VICTIM))
}

/// Kills the process that frees most, unless there is memory by now.
fn round(asker: &Asker) {
    IS_HOPELESS.store(false, Ordering::Relaxed);
    frames::drain_all();
    if asker.order.is_some() && frames::has_room() {
        return;
    }
    let total = frames::total_pages();
    let kept = kept_memory();
    let mut worst: Option<(u64, Arc<ThreadGroup>)> = None;
    for group in PidNamespace::initial().groups() {
        if let Some(points) = badness_besides(&kept, &group, total)
            && worst.as_ref().is_none_or(|(most, _)| points > *most)
            && !is_victim(&group)
        {
            worst = Some((points, group));
        }
    }
    let name = text(&asker.comm);
    let order = asker.order.map_or(-1, i32::from);
    log::warn!("{name} invoked oom-killer: order={order}, oom_score_adj={}", asker.adj);
    let Some((_, group)) = worst else {
        if asker.order.is_none() && frames::has_room() {
            log::info!("sysrq: OOM request ignored. No killable processes...");
            return;
        }
        IS_HOPELESS.store(true, Ordering::Relaxed);
        log::error!("Out of memory and no killable processes...");
        return;
    };
    report();
    kill(&group);
}

fn text(comm: &[u8; 16]) -> String {
    let len = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(comm.get(..len).unwrap_or_default()).into_owned()
}

/// What memory went to, for the log.
fn report() {
    crate::sysrq::show_memory();
    log::info!("Tasks state (memory values in pages):");
    log::info!("[  pid  ]   uid  tgid total_vm      rss oom_score_adj name");
    let groups = PidNamespace::initial().groups().into_iter();
    for group in groups.filter(|group| !group.is_unkillable()) {
        let (Some(task), Some(mm)) = (group.any_task(), memory_of(&group)) else { continue };
        let (pid, stats) = (group.pid().global(), mm.stats_if_free());
        log::info!(
            "[{pid:>7}] {:>5} {pid:>5} {:>8} {:>8} {:>13} {}",
            task.creds().uid,
            stats.total,
            stats.rss_pages(),
            group.oom_score_adj.load(Ordering::Relaxed),
            text(&task.comm()),
        );
    }
}

fn kill(group: &Arc<ThreadGroup>) {
    let Some(mm) = memory_of(group) else { return };
    let task = group.any_task();
    let name = task.as_ref().map_or_else(String::new, |task| text(&task.comm()));
    let uid = task.as_ref().map_or(0, |task| task.creds().uid);
    let (pid, stats) = (group.pid().global(), mm.stats_if_free());
    log::info!(
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),global_oom,task={name},pid={pid},\
         uid={uid}"
    );
    log::error!(
        "Out of memory: Killed process {pid} ({name}) total-vm:{}kB, anon-rss:{}kB, \
         file-rss:{}kB, shmem-rss:{}kB, UID:{uid} oom_score_adj:{}",
        stats.total * 4,
        stats.anon * 4,
        stats.file * 4,
        stats.shmem * 4,
        group.oom_score_adj.load(Ordering::Relaxed),
    );
    KILLS.fetch_add(1, Ordering::Relaxed);
    // Whoever shares the memory keeps it from being freed; who must live keeps it.
    let shares =
        |other: &Arc<ThreadGroup>| memory_of(other).is_some_and(|theirs| Arc::ptr_eq(&theirs, &mm));
    let all = PidNamespace::initial().groups().into_iter().filter(shares);
    let (kept, sharers): (Vec<_>, Vec<_>) = all.partition(|other| must_live(other));
    for group in sharers {
        group.tasks().iter().for_each(|task| task.set_flag(OOM_VICTIM));
        let _ = signal::send_to_group(&group, SigInfo::new(Signal::SIGKILL, si::KERNEL));
    }
    drop(task);
    if kept.is_empty() && mm.reap() {
        let left = mm.stats_if_free();
        log::info!(
            "oom_reaper: reaped process {pid} ({name}), now anon-rss:{}kB, file-rss:{}kB, \
             shmem-rss:{}kB",
            left.anon * 4,
            left.file * 4,
            left.shmem * 4,
        );
    }
    let weak = Arc::downgrade(&mm);
    drop(mm);
    wait_for_end(&weak);
}

/// Gives the victim time to end; memory that came back ends the wait too.
fn wait_for_end(mm: &Weak<AddressSpace>) {
    let end = arch::time::now_ns() + PATIENCE_NS;
    while mm.strong_count() > 0 && !frames::has_room() && arch::time::now_ns() < end {
        sched::timer::sleep_ns(2_000_000);
    }
}

/// A page fault found no memory. Whoever is to die does so on the way out; for anybody else the
/// killer has run, and the fault is made again.
pub(crate) fn fault(task: &Task) {
    if IS_HOPELESS.load(Ordering::Relaxed) && !signal::fatal_pending(task) {
        signal::force(task, SigInfo::new(Signal::SIGKILL, si::KERNEL));
    }
    sched::yield_now();
}

#[cfg(test)]
mod tests {
    use super::points;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn adjustment_orders_victims(pages in 0u64..1 << 20, adj in -999i32..=1000) {
            let total = 1u64 << 20;
            let plain = points(pages, 0, total);
            let adjusted = points(pages, adj, total);
            prop_assert!(adjusted >= 1);
            let ordered = if adj >= 0 { adjusted >= plain } else { adjusted <= plain };
            prop_assert!(ordered);
            // proc(5): 1000 makes any process worse than the largest without adjustment.
            prop_assert!(points(pages, 1000, total) >= points(total - 1, 0, total));
        }
    }
}
