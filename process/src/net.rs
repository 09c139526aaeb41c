//! What sockets know of tasks: who writes, who connected, who gets `SIGURG`.

use crate::pid::Pid;
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
    let task = crate::try_current()?;
    let who: Who = task.group.pid().clone();
    Some((who, task.creds()))
}

fn number(who: &Who) -> i32 {
    let pid = (**who).downcast_ref::<Pid>();
    match (pid, crate::try_current()) {
        (Some(pid), Some(task)) => pid.number_in(task.group.pid_ns()),
        _ => 0,
    }
}

fn find(number: i32) -> Option<Who> {
    let task = crate::try_current()?;
    let pid: Who = task.group.pid_ns().find(number)?;
    Some(pid)
}
