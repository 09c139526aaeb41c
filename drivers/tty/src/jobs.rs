//! Job control, seen from the terminal: what the process layer tells and does for it.
//!
//! A terminal belongs to at most one session and has one foreground process group. Both are
//! objects of the process layer that the terminal only keeps and compares: [`PidRef`].

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use abi::{Errno, Result};
use spin::Once;

use crate::Tty;

/// A session or a process group: an object of the process layer, compared by identity, so that a
/// number that is used again does not name the wrong group.
#[derive(Clone)]
pub struct PidRef(Arc<dyn Any + Send + Sync>);

impl PidRef {
    /// A reference to the process layer's object.
    pub fn new<T: Any + Send + Sync>(object: Arc<T>) -> Self {
        Self(object)
    }

    /// The object, for the process layer that knows its type.
    pub fn downcast<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        Arc::clone(&self.0).downcast::<T>().ok()
    }
}

impl PartialEq for PidRef {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::addr_eq(Arc::as_ptr(&self.0), Arc::as_ptr(&other.0))
    }
}

impl Eq for PidRef {}

impl fmt::Debug for PidRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PidRef({:p})", Arc::as_ptr(&self.0))
    }
}

/// The process that makes a request.
pub struct Caller {
    /// Its session.
    pub session: PidRef,
    /// Its process group.
    pub group: PidRef,
    /// Whether it leads its session.
    pub is_leader: bool,
    /// Whether its process group is orphaned.
    pub is_orphaned: bool,
}

/// What terminals need from the process layer. "The caller" is the current process.
///
/// Nothing here is called with a spin lock of this crate held.
pub trait JobControl: Send + Sync {
    /// The caller; `None` for a kernel thread.
    fn caller(&self) -> Option<Caller>;

    /// The controlling terminal of the caller's session.
    fn controlling_tty(&self) -> Option<Arc<Tty>>;

    /// Gives the session this controlling terminal, or none; all its processes have the same,
    /// except those that gave it up.
    fn set_controlling_tty(&self, session: &PidRef, tty: Option<Arc<Tty>>);

    /// The caller alone has no controlling terminal any more.
    fn drop_controlling_tty(&self);

    /// Whether the caller blocks or ignores `signal`.
    fn is_ignored(&self, signal: i32) -> bool;

    /// Sends `signal` from the kernel to every process of the group.
    fn signal_group(&self, group: &PidRef, signal: i32);

    /// The session's controlling terminal has been hung up: the session's leader gets SIGHUP and
    /// SIGCONT, its processes have no controlling terminal any more, and when the leader exits,
    /// the group that was in the foreground gets SIGHUP and SIGCONT.
    fn hung_up(&self, session: &PidRef, foreground: Option<PidRef>);

    /// The group or session's number in the caller's pid namespace, 0 when it has none there.
    fn number(&self, pid: &PidRef) -> i32;

    /// The process group with this number in the caller's pid namespace, and its session.
    fn find_group(&self, number: i32) -> Option<(PidRef, PidRef)>;

    /// Whether the caller has the capability (`CAP_…` number) in the initial user namespace.
    fn is_capable(&self, capability: u32) -> bool;
}

/// `CAP_SYS_ADMIN`.
pub(crate) const CAP_SYS_ADMIN: u32 = 21;
/// `CAP_SYS_TTY_CONFIG`.
pub(crate) const CAP_SYS_TTY_CONFIG: u32 = 26;

static JOB_CONTROL: Once<&'static dyn JobControl> = Once::new();

/// Called once by the process layer.
pub fn set_job_control(jobs: &'static dyn JobControl) {
    JOB_CONTROL.call_once(|| jobs);
}

/// The process layer, once it is there.
pub(crate) fn jobs() -> Option<&'static dyn JobControl> {
    JOB_CONTROL.get().copied()
}

/// The process that makes the present request.
pub(crate) fn caller() -> Result<Caller> {
    jobs().and_then(|jobs| jobs.caller()).ok_or(Errno::EPERM)
}

/// Signals the terminal sends.
pub(crate) mod sig {
    pub(crate) const SIGHUP: i32 = 1;
    pub(crate) const SIGCONT: i32 = 18;
    pub(crate) const SIGTTIN: i32 = 21;
    pub(crate) const SIGTTOU: i32 = 22;
    pub(crate) const SIGWINCH: i32 = 28;
}
