//! Inter-process communication as tasks have it: the IPC namespace, and who a process is to the
//! objects in it.

pub mod mq;
pub mod sem;

use crate::group::ThreadGroup;
use crate::pid::{Pid, PidNamespace};
use crate::task::Task;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use ipc::Who;
use vfs::cred::UserNamespace;

/// An IPC namespace.
pub struct IpcNamespace {
    /// Inode number in `/proc/PID/ns/ipc`.
    pub id: u64,
    /// Who may act on it.
    pub user_ns: Arc<UserNamespace>,
    /// System V objects.
    pub sysv: Arc<ipc::Namespace>,
    /// POSIX message queues.
    pub queues: Arc<mqueue::Instance>,
}

impl IpcNamespace {
    /// A namespace without objects.
    pub fn new(id: u64, user_ns: Arc<UserNamespace>) -> IpcNamespace {
        let sysv = ipc::Namespace::new(user_ns.clone());
        IpcNamespace { id, user_ns, sysv, queues: mqueue::Instance::new() }
    }
}

/// What objects remember of a task: the number object of its process.
pub fn who(task: &Task) -> Who {
    task.group.pid().clone()
}

/// The number of a remembered process in a pid namespace; 0 where it has none.
pub fn number_of(who: &Who, ns: &Arc<PidNamespace>) -> i32 {
    who.clone().downcast::<Pid>().map_or(0, |pid| pid.number_in(ns))
}

/// Whether a remembered process has ended, be it waited for or not.
pub fn is_gone(who: &Who) -> bool {
    // Acquire: pairs with the count down in `exit`, which comes before `process_exit`.
    let has_ended = |group: Arc<ThreadGroup>| group.live_count.load(Ordering::Acquire) == 0;
    who.clone().downcast::<Pid>().is_ok_and(|pid| pid.group().is_none_or(has_ended))
}

/// Makes the objects know who the running process is.
pub(crate) fn init() {
    ipc::set_current(|| crate::try_current().map(who));
    mqueue::init(|| crate::try_current().map(|task| task.ns().ipc.queues.clone()));
}

/// The process has ended: segments of its that nobody uses go where that is the rule.
pub(crate) fn process_exit(task: &Task) {
    let ns = task.ns().ipc.sysv.clone();
    if ns.limits.shm_rmid_forced.load(Ordering::Relaxed) != 0 {
        let own = who(task);
        ns.sweep_segments(|maker| Arc::ptr_eq(maker, &own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn a_process_is_gone_before_it_is_waited_for() {
        let pid = Pid::allocate(PidNamespace::initial()).expect("free number");
        let group = ThreadGroup::new(pid.clone(), pid.clone(), pid.clone(), Limits::initial(100));
        pid.attach_group(&group);
        let who: Who = pid.clone();
        group.live_count.store(1, Ordering::Relaxed);
        assert!(!is_gone(&who));
        group.live_count.store(0, Ordering::Relaxed);
        assert!(is_gone(&who));
        pid.detach_process();
        assert!(is_gone(&who));
    }
}
