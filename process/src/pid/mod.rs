//! Process numbers: [`Pid`] objects, [`PidNamespace`]s and the lookup from number to task.
//!
//! A [`Pid`] is what a number means: it has one number in its own namespace and one in each
//! ancestor, and knows the thread, the thread group, the process group and the session that go by
//! it. Its numbers are free again when none of the four uses it any more. Finding a task is a walk of
//! two steps, however many there are; walking a process group visits its members only.
//!
//! Locks: a namespace's table (rank 590), then a `Pid`'s links (rank 640, interrupts off because
//! terminals signal process groups from interrupts).

mod alloc;
mod table;

pub use self::alloc::{Numbers, PID_MAX_LIMIT, PID_MAX_MIN};
use self::table::Table;

use crate::group::ThreadGroup;
use crate::roll::Roll;
use crate::task::Task;
use ::alloc::sync::{Arc, Weak};
use ::alloc::vec::Vec;
use abi::{Errno, Result};
use arch::lock::{IrqLock, LockClass, SpinLock};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use sched::WaitQueue;
use smallvec::SmallVec;
use spin::Once;
use vfs::MountNamespace;
use vfs::cred::UserNamespace;

static TABLE_CLASS: LockClass = LockClass::new("process.pid_table", 610);
static LINKS_CLASS: LockClass = LockClass::new("process.pid_links", 640);

/// How deep pid namespaces nest.
pub const MAX_LEVEL: u32 = 32;

/// Inode numbers of namespaces in `/proc/PID/ns`; the initial ones have Linux's fixed numbers.
static NEXT_NS_ID: AtomicU64 = AtomicU64::new(MountNamespace::INITIAL + 1);

/// A number for a new namespace of any kind.
pub fn next_namespace_id() -> u64 {
    // Relaxed: only uniqueness counts.
    NEXT_NS_ID.fetch_add(1, Ordering::Relaxed)
}

/// The numbers in use and what goes by them.
struct Known {
    numbers: Numbers,
    pids: Table<Arc<Pid>>,
}

impl Known {
    const fn new() -> Known {
        Known { numbers: Numbers::new(), pids: Table::new() }
    }

    /// Gives `nr` back; what went by it, to be dropped without the lock.
    fn forget(&mut self, nr: i32) -> Option<Arc<Pid>> {
        let last = self.numbers.last();
        let removed = self.pids.remove(nr, last)?;
        self.numbers.free(nr);
        Some(removed)
    }
}

/// A pid namespace.
pub struct PidNamespace {
    /// Inode number in `/proc/PID/ns/pid`.
    pub id: u64,
    /// Depth; the initial namespace has 0.
    pub level: u32,
    /// The namespace around it.
    pub parent: Option<Arc<PidNamespace>>,
    /// Who may act on it.
    pub user_ns: Arc<UserNamespace>,
    table: SpinLock<Known>,
    /// Its process 1.
    init: Once<Weak<ThreadGroup>>,
    max: AtomicI32,
    /// Process 1 has died: nothing can be born here.
    dead: AtomicBool,
}

static INITIAL: Once<Arc<PidNamespace>> = Once::new();

impl PidNamespace {
    fn with(id: u64, parent: Option<Arc<PidNamespace>>, user_ns: Arc<UserNamespace>) -> Arc<Self> {
        let max = parent.as_ref().map_or(32768, |p| p.max());
        Arc::new(PidNamespace {
            id,
            level: parent.as_ref().map_or(0, |p| p.level + 1),
            parent,
            user_ns,
            table: SpinLock::new(&TABLE_CLASS, Known::new()),
            init: Once::new(),
            max: AtomicI32::new(max),
            dead: AtomicBool::new(false),
        })
    }

    /// The namespace of the machine.
    pub fn initial() -> &'static Arc<PidNamespace> {
        INITIAL.call_once(|| Self::with(0xefff_fffc, None, crate::creds::initial_user_ns().clone()))
    }

    /// A namespace inside `parent`; `ENOSPC` beyond [`MAX_LEVEL`].
    pub fn create(parent: &Arc<PidNamespace>, user_ns: Arc<UserNamespace>) -> Result<Arc<Self>> {
        if parent.level >= MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        Ok(Self::with(next_namespace_id(), Some(parent.clone()), user_ns))
    }

    /// One past the highest number.
    pub fn max(&self) -> i32 {
        self.max.load(Ordering::Relaxed)
    }

    /// Sets `kernel.pid_max`.
    pub fn set_max(&self, max: i32) -> Result<()> {
        if !(PID_MAX_MIN..=PID_MAX_LIMIT).contains(&max) {
            return Err(Errno::EINVAL);
        }
        self.max.store(max, Ordering::Relaxed);
        Ok(())
    }

    /// The number handed out last (`/proc/loadavg`, `ns_last_pid`).
    pub fn last(&self) -> i32 {
        self.table.lock().numbers.last()
    }

    /// Makes the next number follow `last`.
    pub fn set_last(&self, last: i32) {
        self.table.lock().numbers.set_last(last);
    }

    /// What goes by `nr` here.
    pub fn find(&self, nr: i32) -> Option<Arc<Pid>> {
        self.table.lock().pids.get(nr).cloned()
    }

    /// The thread `nr`.
    pub fn task(&self, nr: i32) -> Option<Arc<Task>> {
        self.find(nr)?.task()
    }

    /// The process `nr`.
    pub fn group(&self, nr: i32) -> Option<Arc<ThreadGroup>> {
        self.find(nr)?.group()
    }

    /// The first process with a number of at least `from`, with that number: for `/proc`.
    /// Costs a lookup for each number in use that is no process's, and a word of the bitmap for 64
    /// that are free.
    pub fn next_group(&self, from: i32) -> Option<(i32, Arc<ThreadGroup>)> {
        let max = self.max();
        let table = self.table.lock();
        let mut taken = table.numbers.next_taken(from.max(1));
        while let Some(nr) = taken.filter(|&nr| nr < max) {
            if let Some(group) = table.pids.get(nr).and_then(|pid| pid.group()) {
                return Some((nr, group));
            }
            taken = table.numbers.next_taken(nr + 1);
        }
        None
    }

    /// Every process, in ascending order.
    pub fn groups(&self) -> Vec<Arc<ThreadGroup>> {
        self.table.lock().pids.iter().filter_map(|pid| pid.group()).collect()
    }

    /// Its process 1, while that lives.
    pub fn init(&self) -> Option<Arc<ThreadGroup>> {
        self.init.get()?.upgrade()
    }

    /// Whether `other` is this namespace or lies inside it.
    pub fn contains(self: &Arc<Self>, other: &Arc<PidNamespace>) -> bool {
        let mut at = Some(other);
        while let Some(ns) = at {
            if Arc::ptr_eq(ns, self) {
                return true;
            }
            at = ns.parent.as_ref();
        }
        false
    }

    pub(crate) fn set_init(&self, group: &Arc<ThreadGroup>) {
        self.init.call_once(|| Arc::downgrade(group));
    }

    pub(crate) fn has_init(&self) -> bool {
        self.init.get().is_some()
    }

    pub(crate) fn mark_dead(&self) {
        self.dead.store(true, Ordering::Release);
    }
}

/// What a [`Pid`] names at the moment.
#[derive(Default)]
struct Links {
    task: Option<Weak<Task>>,
    group: Option<Weak<ThreadGroup>>,
    /// Members of the process group.
    members: Roll<Weak<ThreadGroup>>,
    /// Members of the session.
    session: Roll<Weak<ThreadGroup>>,
}

impl Links {
    fn is_unused(&self) -> bool {
        self.task.is_none()
            && self.group.is_none()
            && self.members.is_empty()
            && self.session.is_empty()
    }
}

/// What an open `/proc/PID` stands for beyond its entries: `pidfd_send_signal(2)` takes one.
pub struct ProcessDirectory(pub Arc<Pid>);

/// The meaning of a process number.
pub struct Pid {
    /// `(namespace, number)`, outermost first.
    numbers: SmallVec<[(Arc<PidNamespace>, i32); 1]>,
    links: IrqLock<Links>,
    /// Woken when the thread group has become a zombie (`pidfd`).
    pub exited: Arc<WaitQueue>,
}

impl Pid {
    /// A number in `ns` and in all its ancestors.
    pub fn allocate(ns: &Arc<PidNamespace>) -> Result<Arc<Pid>> {
        if ns.dead.load(Ordering::Acquire) {
            return Err(Errno::ENOMEM);
        }
        let mut taken: SmallVec<[(Arc<PidNamespace>, i32); 1]> = SmallVec::new();
        let mut at = Some(ns);
        while let Some(level) = at {
            let nr = level.table.lock().numbers.allocate(level.max());
            match nr {
                Ok(nr) => taken.push((level.clone(), nr)),
                Err(error) => {
                    for (ns, nr) in &taken {
                        ns.table.lock().numbers.free(*nr);
                    }
                    return Err(error);
                }
            }
            at = level.parent.as_ref();
        }
        taken.reverse();
        let pid = Arc::new(Pid {
            numbers: taken,
            links: IrqLock::new(&LINKS_CLASS, Links::default()),
            exited: Arc::new(WaitQueue::new()),
        });
        for (index, (ns, nr)) in pid.numbers.iter().enumerate() {
            let known = ns.table.lock().pids.insert(*nr, pid.clone());
            if let Err(error) = known {
                pid.give_back(index);
                return Err(error);
            }
        }
        Ok(pid)
    }

    /// The number in the outermost namespace.
    pub fn global(&self) -> i32 {
        self.numbers.first().map_or(0, |&(_, nr)| nr)
    }

    /// The number in the namespace the pid was made in.
    pub fn local(&self) -> i32 {
        self.numbers.last().map_or(0, |&(_, nr)| nr)
    }

    /// The number as seen from `ns`; 0 where it is invisible.
    pub fn number_in(&self, ns: &Arc<PidNamespace>) -> i32 {
        match self.numbers.get(ns.level as usize) {
            Some((own, nr)) if Arc::ptr_eq(own, ns) => *nr,
            _ => 0,
        }
    }

    /// The namespace the pid was made in.
    pub fn namespace(&self) -> &Arc<PidNamespace> {
        // A pid always has a number: `allocate` pushes at least one.
        self.numbers.last().map_or(PidNamespace::initial(), |(ns, _)| ns)
    }

    /// The numbers from the outermost namespace inwards (`NSpid:` in `/proc/PID/status`).
    pub fn numbers(&self) -> impl Iterator<Item = i32> + '_ {
        self.numbers.iter().map(|&(_, nr)| nr)
    }

    /// The thread that goes by it.
    pub fn task(&self) -> Option<Arc<Task>> {
        self.links.lock().task.as_ref()?.upgrade()
    }

    /// The process that goes by it.
    pub fn group(&self) -> Option<Arc<ThreadGroup>> {
        self.links.lock().group.as_ref()?.upgrade()
    }

    /// The members of the process group, in the order of joining.
    pub fn members(&self) -> Vec<Arc<ThreadGroup>> {
        self.links.lock().members.iter().filter_map(Weak::upgrade).collect()
    }

    /// The member of the process group that joined first.
    pub fn first_member(&self) -> Option<Arc<ThreadGroup>> {
        self.links.lock().members.iter().find_map(Weak::upgrade)
    }

    /// The members of the session, in the order of joining.
    pub fn session_members(&self) -> Vec<Arc<ThreadGroup>> {
        self.links.lock().session.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether a process group goes by it.
    pub fn is_process_group(&self) -> bool {
        !self.links.lock().members.is_empty()
    }

    /// Whether a session goes by it.
    pub fn is_session(&self) -> bool {
        !self.links.lock().session.is_empty()
    }

    pub(crate) fn attach_task(&self, task: &Arc<Task>) {
        self.links.lock().task = Some(Arc::downgrade(task));
    }

    pub(crate) fn attach_group(&self, group: &Arc<ThreadGroup>) {
        self.links.lock().group = Some(Arc::downgrade(group));
    }

    /// A member of the process group more; the key it leaves by.
    pub(crate) fn attach_member(&self, group: &Arc<ThreadGroup>) -> u64 {
        self.links.lock().members.join(Arc::downgrade(group))
    }

    /// A member of the session more; the key it leaves by.
    pub(crate) fn attach_session(&self, group: &Arc<ThreadGroup>) -> u64 {
        self.links.lock().session.join(Arc::downgrade(group))
    }

    pub(crate) fn detach_task(&self) {
        self.change(|links| drop(links.task.take()));
    }

    /// No process goes by it any more, and no leader of one.
    pub(crate) fn detach_process(&self) {
        self.change(|links| drop((links.task.take(), links.group.take())));
    }

    pub(crate) fn detach_member(&self, key: u64) {
        self.change(|links| drop(links.members.leave(key)));
    }

    pub(crate) fn detach_session(&self, key: u64) {
        self.change(|links| drop(links.session.leave(key)));
    }

    /// Frees the numbers of a pid that nothing was attached to (a clone that failed).
    pub(crate) fn abandon(&self) {
        self.change(|_| ());
    }

    fn change(&self, act: impl FnOnce(&mut Links)) {
        let unused = {
            let mut links = self.links.lock();
            act(&mut links);
            links.is_unused()
        };
        if unused {
            for (ns, nr) in &self.numbers {
                let removed = ns.table.lock().forget(*nr);
                drop(removed);
            }
        }
    }

    /// Frees the numbers again, of which only the first `known` lead to it.
    fn give_back(&self, known: usize) {
        let (known, unknown) = self.numbers.split_at(known);
        for (ns, nr) in known {
            let removed = ns.table.lock().forget(*nr);
            drop(removed);
        }
        for (ns, nr) in unknown {
            ns.table.lock().numbers.free(*nr);
        }
    }
}
