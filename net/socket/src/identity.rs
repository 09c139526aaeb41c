//! Who calls, for what sockets remember of processes. The layer above registers the answers.

use alloc::sync::Arc;
use core::any::Any;

use abi::{Errno, Result};
use arch::lock::Once;
use vfs::{Context, Creds};

use crate::namespace::NetNamespace;

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
    /// The network namespace of the running task; `None` in a kernel thread.
    pub network: fn() -> Option<Arc<NetNamespace>>,
    /// The network namespace of the process of this number; `ESRCH`.
    pub namespace_of: fn(i32) -> Result<Arc<NetNamespace>>,
    /// The network namespace that a descriptor of the running task names; `EBADF`, `EINVAL`.
    pub namespace_at: fn(i32) -> Result<Arc<NetNamespace>>,
    /// A descriptor of the running task for a network namespace.
    pub open_namespace: fn(&Context<'_>, &Arc<NetNamespace>) -> Result<usize>,
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

/// The network namespace of the running task.
pub fn network() -> Option<Arc<NetNamespace>> {
    IDENTIFY.get().and_then(|identify| (identify.network)())
}

/// The network namespace of a process (`IFLA_NET_NS_PID`).
pub fn namespace_of(number: i32) -> Result<Arc<NetNamespace>> {
    IDENTIFY.get().ok_or(Errno::ESRCH).and_then(|identify| (identify.namespace_of)(number))
}

/// The network namespace that a descriptor names (`IFLA_NET_NS_FD`).
pub fn namespace_at(fd: i32) -> Result<Arc<NetNamespace>> {
    IDENTIFY.get().ok_or(Errno::EBADF).and_then(|identify| (identify.namespace_at)(fd))
}

/// A descriptor for a network namespace (`TUNGETDEVNETNS`).
pub fn open_namespace(ctx: &Context<'_>, namespace: &Arc<NetNamespace>) -> Result<usize> {
    let identify = IDENTIFY.get().ok_or(Errno::EINVAL)?;
    (identify.open_namespace)(ctx, namespace)
}

/// Out-of-band data came for `file`: its owner gets `SIGURG`.
pub fn urgent(file: &vfs::File) {
    if let Some(identify) = IDENTIFY.get() {
        (identify.urgent)(file);
    }
}
