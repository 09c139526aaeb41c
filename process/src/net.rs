//! What sockets know of tasks: who writes, who connected, who gets `SIGURG`.

use crate::nsfs::NamespaceFile;
use crate::nsproxy::Namespace;
use crate::pid::{Pid, PidNamespace};
use abi::{Errno, Result};
use alloc::sync::Arc;
use socket::NetNamespace;
use socket::identity::{Identify, Who};
use vfs::cred::UserNamespace;
use vfs::{Context, Creds};

/// Makes the network namespace of the machine, and lets sockets ask who runs.
pub(crate) fn initial(user_ns: Arc<UserNamespace>) -> Arc<NetNamespace> {
    socket::identity::set(Identify {
        current,
        number,
        find,
        network,
        namespace_of,
        namespace_at,
        open_namespace,
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

fn network() -> Option<Arc<NetNamespace>> {
    Some(crate::try_current()?.ns().net.clone())
}

fn namespace_of(number: i32) -> Result<Arc<NetNamespace>> {
    let task = crate::try_current().ok_or(Errno::ESRCH)?;
    let other = task.group.pid_ns().task(number).ok_or(Errno::ESRCH)?;
    Ok(other.ns().net.clone())
}

fn namespace_at(fd: i32) -> Result<Arc<NetNamespace>> {
    let task = crate::try_current().ok_or(Errno::EBADF)?;
    let file = task.files().ok_or(Errno::EBADF)?.get(fd)?;
    match file.private::<NamespaceFile>().map(|file| file.0.clone()) {
        Some(Namespace::Net(namespace)) => Ok(namespace),
        _ => Err(Errno::EINVAL),
    }
}

fn open_namespace(ctx: &Context<'_>, namespace: &Arc<NetNamespace>) -> Result<usize> {
    NamespaceFile::open_other(ctx, Namespace::Net(namespace.clone()))
}
