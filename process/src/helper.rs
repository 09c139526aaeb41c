//! Programs that the kernel starts by itself: they have no parent and nobody waits for them.

use crate::exec::{self, args::Strings};
use crate::group::ThreadGroup;
use crate::limits::Limits;
use crate::pid::{Pid, PidNamespace};
use crate::task::{Parts, Task};
use crate::user::User;
use crate::{fork, nsproxy, start};
use abi::Result;
use alloc::sync::Arc;
use alloc::vec::Vec;
use vfs::context::{FsPaths, FsState};
use vfs::fdtable::FdTable;

/// Runs `program` as root in the namespaces of the machine, without an open file. Errors: those of
/// `execve(2)`; `EAGAIN` or `ENOMEM` where `fork(2)` has them.
pub(crate) fn spawn(program: &[u8], arguments: &[Vec<u8>], environment: &[Vec<u8>]) -> Result<()> {
    let pid = Pid::allocate(PidNamespace::initial())?;
    let limits = Limits::initial(fork::max_threads() as u64);
    let group = ThreadGroup::new(pid.clone(), pid.clone(), pid.clone(), limits);
    let task = Task::new(Parts {
        group: group.clone(),
        pid: pid.clone(),
        creds: crate::creds::initial_creds().clone(),
        user: User::of(0),
        mm: None,
        files: Arc::new(FdTable::new()),
        fs: Arc::new(FsState::new(paths(), 0o022)),
        sighand: fork::fresh_handlers(),
        ns: nsproxy::initial().clone(),
    });
    let born = strings(arguments)
        .and_then(|arguments| Ok((arguments, strings(environment)?)))
        .and_then(|(arguments, environment)| {
            start::load(&task, program, arguments, environment).map_err(exec::Failure::errno)
        })
        .and_then(|loaded| start::give_birth(&task, &group, &pid, loaded, false));
    if born.is_err() {
        pid.abandon();
    }
    born
}

/// The directories of process 1, which may have entered others since the boot.
fn paths() -> FsPaths {
    let init = PidNamespace::initial().init();
    let task = init.and_then(|init| init.any_task());
    let paths = task.and_then(|task| task.fs()).and_then(|fs| fs.paths());
    (*paths.unwrap_or_else(nsproxy::detached_paths)).clone()
}

fn strings(words: &[Vec<u8>]) -> Result<Strings> {
    let mut strings = Strings::new();
    for word in words {
        strings.push(word)?;
    }
    Ok(strings)
}
