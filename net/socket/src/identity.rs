//! Who calls, for what sockets remember of processes. The layer above registers the answers.

use alloc::sync::Arc;
use core::any::Any;

use arch::lock::Once;
use vfs::Creds;

/// A process as sockets remember it; what is inside is the business of the layer above.
pub type Who = Arc<dyn Any + Send + Sync>;

/// The answers.
#[derive(Clone, Copy)]
pub struct Identify {
    /// The running process and its credentials; `None` in a kernel thread.
    pub current: fn() -> Option<(Who, Arc<Creds>)>,
    /// The number of a process in the running task's pid namespace; 0 where it has none.
    pub number: fn(&Who) -> i32,
    /// The process of this number in the running task's pid namespace.
    pub find: fn(i32) -> Option<Who>,
    /// Signals the process or group that `FIOSETOWN` names (`SIGURG`): positive ids are processes.
    pub urgent: fn(&vfs::File),
}

static IDENTIFY: Once<Identify> = Once::new();

/// Registers the answers.
pub fn set(identify: Identify) {
    IDENTIFY.call_once(|| identify);
}

/// The running process and its credentials.
pub fn current() -> Option<(Who, Arc<Creds>)> {
    IDENTIFY.get().and_then(|identify| (identify.current)())
}

/// The number of a process for the running task; 0 where it has none.
pub fn number(who: &Who) -> i32 {
    IDENTIFY.get().map_or(0, |identify| (identify.number)(who))
}

/// The process of a number that the running task gave.
pub fn find(number: i32) -> Option<Who> {
    IDENTIFY.get().and_then(|identify| (identify.find)(number))
}

/// Out-of-band data came for `file`: its owner gets `SIGURG`.
pub fn urgent(file: &vfs::File) {
    if let Some(identify) = IDENTIFY.get() {
        (identify.urgent)(file);
    }
}
