//! POSIX message queues as processes have them: who pays, who is told.

use crate::group::ThreadGroup;
use crate::signal;
use crate::task::Task;
use crate::user::User;
use abi::process::Resource;
use abi::signal::{SigInfo, Signal, si};
use abi::{Errno, Result};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering;
use mqueue::{Attributes, Charge, Notifier};

/// Bytes of a user's `RLIMIT_MSGQUEUE`, given back when dropped.
struct Bytes {
    user: Arc<User>,
    bytes: u64,
}

impl Charge for Bytes {}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.user.mqueue_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// getrlimit(2), `RLIMIT_MSGQUEUE`: what a queue counts as. `EOVERFLOW` for the absurd.
fn bytes_of(attributes: Attributes) -> Result<u64> {
    /// Sizes of Linux's records for a message and for a priority.
    const RECORD: u64 = 48;
    const PRIORITIES: u64 = 32768;
    let (count, size) = (attributes.max_messages as u64, attributes.message_size as u64);
    let records = count.checked_add(count.min(PRIORITIES)).and_then(|n| n.checked_mul(RECORD));
    let texts = count.checked_mul(size);
    records.zip(texts).and_then(|(a, b)| a.checked_add(b)).ok_or(Errno::EOVERFLOW)
}

/// Makes the task's user pay for a queue: `EMFILE` above the limit.
pub fn charge(task: &Task, attributes: Attributes) -> Result<Box<dyn Charge>> {
    let bytes = bytes_of(attributes)?;
    let user = task.user().ok_or(Errno::ESRCH)?;
    let limit = task.limit(Resource::Msgqueue);
    user.mqueue_bytes
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= limit)
        })
        .map_err(|_| Errno::EMFILE)?;
    Ok(Box::new(Bytes { user, bytes }))
}

/// A process that asked to be told with `SIGEV_SIGNAL`, or not at all with `SIGEV_NONE`.
struct Registration {
    group: Weak<ThreadGroup>,
    signal: Option<Signal>,
    value: u64,
}

/// `mq_notify(3)` with `SIGEV_SIGNAL` (a signal, with `value`) or `SIGEV_NONE`.
pub fn notifier(task: &Task, signal: Option<Signal>, value: u64) -> Box<dyn Notifier> {
    Box::new(Registration { group: Arc::downgrade(&task.group), signal, value })
}

impl Notifier for Registration {
    fn is_callers(&self) -> bool {
        let own = self.group.as_ptr();
        crate::try_current().is_some_and(|task| core::ptr::eq(Arc::as_ptr(&task.group), own))
    }

    fn fire(self: Box<Self>) {
        let (Some(signal), Some(group)) = (self.signal, self.group.upgrade()) else { return };
        let sender = crate::try_current();
        let pid = sender.map_or(0, |task| task.group.pid().number_in(group.pid_ns()));
        let uid = sender.map_or(0, |task| group_uid(&group, task));
        let mut info = SigInfo::from_user(signal, si::MESGQ, pid, uid);
        if let Some(field) = info.fields.get_mut(1) {
            *field = self.value;
        }
        // A process that has ended meanwhile hears nothing.
        let _ = signal::send::send_to_group(&group, info);
    }

    fn describe(&self) -> (i32, i32, i32) {
        const SIGEV_SIGNAL: i32 = 0;
        const SIGEV_NONE: i32 = 1;
        let notify = if self.signal.is_some() { SIGEV_SIGNAL } else { SIGEV_NONE };
        let pid = self.group.upgrade().map_or(0, |group| match crate::try_current() {
            Some(reader) => group.pid().number_in(reader.group.pid_ns()),
            None => group.pid().global(),
        });
        (notify, self.signal.map_or(0, |signal| signal.raw() as i32), pid)
    }
}

/// The sender's uid as the receiving process sees it.
fn group_uid(group: &ThreadGroup, sender: &Task) -> u32 {
    let uid = sender.creds().uid;
    group.leader().map_or(uid, |leader| leader.creds().user_ns.uid_in(uid))
}
