//! What sockets know of tasks: who writes, who connected, who gets `SIGURG`.

use crate::pid::{Pid, PidNamespace};
use alloc::sync::Arc;
use socket::NetNamespace;
use socket::identity::{Identify, Who};
use vfs::Creds;
use vfs::cred::UserNamespace;

/// Makes the network namespace of the machine, and lets sockets ask who runs.
pub(crate) fn initial(user_ns: Arc<UserNamespace>) -> Arc<NetNamespace> {
    socket::identity::set(Identify {
        current,
        number,
        find,
        urgent: crate::signal::files::signal_urgent,
    });
    let namespace = NetNamespace::new(0xf000_0000 - 0x65, user_ns);
    NetNamespace::set_initial(&namespace);
    namespace
}

fn current() -> Option<(Who, Arc<Creds>)> {
    if let Some(task) = crate::try_current() {
        let who: Who = task.group.pid().clone();
        return Some((who, task.creds()));
    }
    let actor = vfs::acting::actor()?;
    Some((actor.process().clone(), actor.creds().clone()))
}

/// Looks into the pid namespace of whoever calls.
fn in_namespace<R>(look: impl FnOnce(&Arc<PidNamespace>) -> R) -> Option<R> {
    if let Some(task) = crate::try_current() {
        return Some(look(task.group.pid_ns()));
    }
    let actor = vfs::acting::actor()?;
    let pid = (**actor.process()).downcast_ref::<Pid>()?;
    Some(look(pid.namespace()))
}

fn number(who: &Who) -> i32 {
    let pid = (**who).downcast_ref::<Pid>();
    pid.and_then(|pid| in_namespace(|namespace| pid.number_in(namespace))).unwrap_or(0)
}

fn find(number: i32) -> Option<Who> {
    let pid: Who = in_namespace(|namespace| namespace.find(number))??;
    Some(pid)
}
