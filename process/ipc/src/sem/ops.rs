//! `semop(2)` and `semtimedop(2)`.

use super::state::Stop;
use super::{Set, UndoList};
use crate::perm::{READ, WRITE};
use crate::{Caller, Namespace, now};
use abi::ipc::{SemBuf, sem};
use abi::{Errno, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use sched::{Deadline, WaitError};

/// Does all of `ops`, waiting until they can be done. A signal ends the wait with `EINTR`, handler
/// or not (signal(7)). `undo` is the caller's list; it must be there if an operation asks for it.
pub fn operate(
    ns: &Arc<Namespace>,
    caller: &Caller<'_>,
    id: i32,
    ops: Box<[SemBuf]>,
    undo: Option<&UndoList>,
    deadline: Option<Deadline>,
) -> Result<()> {
    let set = ns.set(id)?;
    let highest = ops.iter().map(|op| usize::from(op.num)).max().unwrap_or(0);
    if highest >= set.count {
        return Err(Errno::EFBIG);
    }
    let undo = undo.filter(|_| ops.iter().any(|op| op.flags & sem::UNDO != 0));
    let changes = ops.iter().any(|op| op.op != 0);
    let wanted = if changes { WRITE } else { READ };
    let pending = {
        let mut state = set.state.lock();
        state.perm.check(caller.creds, &ns.user_ns, wanted)?;
        state.check_alive()?;
        if let Some(list) = undo {
            list.join(&set, &mut state)?;
        }
        let list = undo.map(UndoList::id);
        let stop = match state.attempt(&ops, list, &caller.who) {
            Ok(()) => {
                state.otime = now();
                let now = state.otime;
                state.settle(now);
                return Ok(());
            }
            Err(Stop::Error(error)) => return Err(error),
            Err(stop) => stop,
        };
        state.enqueue(ops, list, caller.who.clone(), stop)
    };
    let waited = pending.queue.wait_interruptible(|| pending.outcome(), deadline);
    let reason = match waited {
        Ok(outcome) => return outcome,
        Err(reason) => reason,
    };
    give_up(&set, &pending, reason)
}

/// The wait is over without the operation, unless it was completed at the last moment.
fn give_up(set: &Set, pending: &super::state::Pending, reason: WaitError) -> Result<()> {
    let mut state = set.state.lock();
    if let Some(outcome) = pending.outcome() {
        return outcome;
    }
    state.unlink(pending);
    Err(match reason {
        WaitError::TimedOut => Errno::EAGAIN,
        WaitError::Interrupted => Errno::EINTR,
    })
}
