//! Messages: msgget(2), msgop(2), msgctl(2).
//!
//! A message goes straight to a receiver that waits for it; a queue that is full keeps the messages
//! of its waiting senders and takes them in, in order, as soon as there is room.

mod queue;

use crate::ids::Object;
use crate::perm::{Perm, READ, WRITE};
use crate::shm::Access;
use crate::{Caller, Namespace, Who, now};
use abi::ipc::{MsgInfo, MsqidDs};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::LockClass;
use core::sync::atomic::{AtomicI64, Ordering};
use queue::State;
pub use queue::{Message, Select};
use sched::Mutex;
use vfs::cred::{Cap, UserNamespace};

static QUEUE: LockClass = LockClass::new("ipc.msg", 418);

/// Messages and bytes in all queues of a namespace.
#[derive(Default)]
pub(crate) struct Totals {
    messages: AtomicI64,
    bytes: AtomicI64,
}

/// A message queue.
pub struct Queue {
    state: Mutex<State>,
}

impl Object for Queue {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }
}

/// A queue's numbers, with processes as they were remembered.
pub struct Report {
    /// The identifier.
    pub id: i32,
    /// Owner and mode.
    pub perm: Perm,
    /// Everything but owner, mode and processes.
    pub ds: MsqidDs,
    /// Who sent last.
    pub sender: Option<Who>,
    /// Who received last.
    pub receiver: Option<Who>,
}

impl Report {
    /// The structure for a program; `number` says how it sees a process.
    pub fn export(&self, viewer: &UserNamespace, number: impl Fn(&Who) -> i32) -> MsqidDs {
        MsqidDs {
            perm: self.perm.export(viewer),
            lspid: self.sender.as_ref().map_or(0, &number),
            lrpid: self.receiver.as_ref().map_or(0, &number),
            ..self.ds
        }
    }
}

/// Whether a call may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// It may.
    Wait,
    /// `IPC_NOWAIT`.
    None,
}

/// `msgget(2)`.
pub fn get(ns: &Arc<Namespace>, caller: &Caller<'_>, key: i32, flags: u32) -> Result<i32> {
    let mut table = ns.msg.write();
    let accepts = |queue: &Arc<Queue>| queue.perm().check_flags(caller.creds, &ns.user_ns, flags);
    if let Some(id) = table.existing(key, flags, accepts)? {
        return Ok(id);
    }
    let room = ns.limits.msgmnb.load(Ordering::Relaxed).max(0) as u64;
    let mut made = 0;
    table.insert(ns.limits.msgmni.load(Ordering::Relaxed).max(0) as u32, |id, seq| {
        made = id;
        let perm = Perm::new(caller.creds, key, flags, seq);
        let state = State::new(perm, room, now(), ns.totals.clone());
        Arc::new(Queue { state: Mutex::new(&QUEUE, state) })
    })?;
    Ok(made)
}

/// `msgsnd(2)`. The length was checked against `msgmax`.
pub fn send(
    ns: &Arc<Namespace>,
    caller: &Caller<'_>,
    id: i32,
    message: Message,
    patience: Patience,
) -> Result<()> {
    let queue = ns.queue(id)?;
    let sender = {
        let mut state = queue.state.lock();
        state.perm.check(caller.creds, &ns.user_ns, WRITE)?;
        state.check_alive()?;
        if state.has_room_for(&message) {
            state.take_in(message, caller.who.clone(), now());
            return Ok(());
        }
        if patience == Patience::None {
            return Err(Errno::EAGAIN);
        }
        state.wait_to_send(message, caller.who.clone())
    };
    let waited = sender.queue.wait_interruptible(|| sender.outcome(), None);
    waited.unwrap_or_else(|_| queue.state.lock().stop_sending(&sender))
}

/// `msgrcv(2)`: the message, of at most `size` bytes unless `truncate`.
pub fn receive(
    ns: &Arc<Namespace>,
    caller: &Caller<'_>,
    id: i32,
    select: Select,
    (size, truncate): (usize, bool),
    patience: Patience,
) -> Result<Message> {
    let queue = ns.queue(id)?;
    let receiver = {
        let mut state = queue.state.lock();
        state.perm.check(caller.creds, &ns.user_ns, READ)?;
        state.check_alive()?;
        if let Some(found) = state.find(select) {
            return state.take_out(found, size, truncate, &caller.who, now());
        }
        if patience == Patience::None {
            return Err(Errno::ENOMSG);
        }
        state.wait_to_receive(select, size, truncate, caller.who.clone())
    };
    let waited = receiver.queue.wait_interruptible(|| receiver.outcome(), None);
    waited.unwrap_or_else(|_| queue.state.lock().stop_receiving(&receiver))
}

/// `msgrcv(2)` with `MSG_COPY`: a copy of the message at `position`.
pub fn copy(
    ns: &Arc<Namespace>,
    caller: &Caller<'_>,
    id: i32,
    position: i64,
    (size, truncate): (usize, bool),
) -> Result<Message> {
    let queue = ns.queue(id)?;
    let state = queue.state.lock();
    state.perm.check(caller.creds, &ns.user_ns, READ)?;
    state.check_alive()?;
    let position = usize::try_from(position).map_err(|_| Errno::ENOMSG)?;
    let message = state.at(position).ok_or(Errno::ENOMSG)?;
    if message.data.len() > size {
        // A copy is never cut short.
        return Err(if truncate { Errno::EINVAL } else { Errno::E2BIG });
    }
    let mut data = Vec::new();
    data.try_reserve_exact(message.data.len()).map_err(|_| Errno::ENOMEM)?;
    data.extend_from_slice(&message.data);
    Ok(Message { kind: message.kind, data })
}

impl Namespace {
    fn queue(&self, id: i32) -> Result<Arc<Queue>> {
        self.msg.read().get(id).cloned()
    }

    /// `IPC_STAT`.
    pub fn msg_stat(&self, caller: &Caller<'_>, id: i32) -> Result<Report> {
        let queue = self.queue(id)?;
        queue.perm().check(caller.creds, &self.user_ns, READ)?;
        Ok(queue.report(id))
    }

    /// `MSG_STAT` and `MSG_STAT_ANY`: by slot.
    pub fn msg_stat_slot(&self, caller: &Caller<'_>, slot: i32, access: Access) -> Result<Report> {
        let (id, queue) = self.msg.read().at_slot(slot).map(|(id, queue)| (id, queue.clone()))?;
        if access == Access::Checked {
            queue.perm().check(caller.creds, &self.user_ns, READ)?;
        }
        Ok(queue.report(id))
    }

    /// `IPC_SET`: owner, mode and `msg_qbytes`.
    pub fn msg_set(&self, caller: &Caller<'_>, id: i32, new: &MsqidDs) -> Result<()> {
        let queue = self.queue(id)?;
        let mut state = queue.state.lock();
        state.perm.check_owner(caller.creds, &self.user_ns)?;
        let most = self.limits.msgmnb.load(Ordering::Relaxed).max(0) as u64;
        if new.qbytes > most && !caller.creds.ns_capable(&self.user_ns, Cap::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
        state.perm.set(caller.creds, &new.perm)?;
        state.ctime = now();
        state.set_room(new.qbytes, now());
        Ok(())
    }

    /// `IPC_RMID`: whoever waits gets `EIDRM`.
    pub fn msg_remove(&self, caller: &Caller<'_>, id: i32) -> Result<()> {
        let mut table = self.msg.write();
        let queue = table.get(id)?.clone();
        let mut state = queue.state.lock();
        state.perm.check_owner(caller.creds, &self.user_ns)?;
        table.remove(state.perm.key, id);
        state.end();
        Ok(())
    }

    /// `IPC_INFO` and, with what is in use instead of three of the limits, `MSG_INFO`; and the
    /// highest slot in use.
    pub fn msg_info(&self, usage: bool) -> (MsgInfo, u32) {
        let load = |limit: &core::sync::atomic::AtomicI32| limit.load(Ordering::Relaxed);
        let (mni, mnb) = (load(&self.limits.msgmni), load(&self.limits.msgmnb));
        let table = self.msg.read();
        let mut info = MsgInfo {
            pool: (i64::from(mni) * i64::from(mnb) / 1024).min(i64::from(i32::MAX)) as i32,
            map: mnb,
            max: load(&self.limits.msgmax),
            mnb,
            mni,
            ssz: 16,
            tql: mnb,
            seg: 0xffff,
            pad: 0,
        };
        if usage {
            info.pool = table.len() as i32;
            info.map = self.totals.messages.load(Ordering::Relaxed) as i32;
            info.tql = self.totals.bytes.load(Ordering::Relaxed) as i32;
        }
        (info, table.highest())
    }

    /// All queues, for `/proc/sysvipc/msg`.
    pub fn queues(&self) -> Vec<Report> {
        self.msg.read().iter().map(|(id, queue)| queue.report(id)).collect()
    }
}

impl Queue {
    fn report(&self, id: i32) -> Report {
        let state = self.state.lock();
        Report {
            id,
            perm: state.perm,
            ds: state.numbers(),
            sender: state.sender.clone(),
            receiver: state.receiver.clone(),
        }
    }
}
