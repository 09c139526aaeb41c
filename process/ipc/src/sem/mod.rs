//! Semaphores: semget(2) and semctl(2); `ops` has semop(2), `undo` what exits take back.

mod ops;
mod state;
mod undo;

pub use ops::operate;
pub use undo::UndoList;

use crate::ids::Object;
use crate::perm::{Perm, READ, WRITE};
use crate::shm::Access;
use crate::{Caller, Namespace, Who, now};
use abi::ipc::{SemInfo, SemidDs, common as ipc, sem};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::LockClass;
use core::sync::atomic::Ordering;
use sched::Mutex;
use state::State;
use vfs::cred::UserNamespace;

static SET: LockClass = LockClass::new("ipc.sem", 418);

/// A set of semaphores.
pub struct Set {
    state: Mutex<State>,
    count: usize,
}

impl Object for Set {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }
}

/// A set's numbers.
pub struct Report {
    /// The identifier.
    pub id: i32,
    /// Owner and mode.
    pub perm: Perm,
    /// Everything but owner and mode.
    pub ds: SemidDs,
}

impl Report {
    /// The structure for a program.
    pub fn export(&self, viewer: &UserNamespace) -> SemidDs {
        SemidDs { perm: self.perm.export(viewer), ..self.ds }
    }
}

impl Set {
    fn report(&self, id: i32) -> Report {
        let state = self.state.lock();
        let ds = SemidDs {
            otime: state.otime,
            ctime: state.ctime,
            nsems: self.count as u64,
            ..SemidDs::default()
        };
        Report { id, perm: state.perm, ds }
    }
}

/// What `semctl(2)` tells about one semaphore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Query {
    /// `GETVAL`.
    Value,
    /// `GETNCNT`: operations that wait for an increase.
    WaitingForMore,
    /// `GETZCNT`: operations that wait for zero.
    WaitingForZero,
}

/// `semget(2)`.
pub fn get(
    ns: &Arc<Namespace>,
    caller: &Caller<'_>,
    key: i32,
    count: i32,
    flags: u32,
) -> Result<i32> {
    let limit = |index: usize| ns.limits.sem.get(index).map_or(0, |l| l.load(Ordering::Relaxed));
    if count < 0 || count > limit(0) {
        return Err(Errno::EINVAL);
    }
    // Made before anything is changed or locked.
    let mut sems = Vec::new();
    if key == ipc::PRIVATE || flags & ipc::CREAT != 0 {
        sems.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
        sems.resize_with(count as usize, state::Sem::default);
    }
    let mut table = ns.sem.write();
    let accepts = |set: &Arc<Set>| {
        if count as usize > set.count {
            return Err(Errno::EINVAL);
        }
        set.perm().check_flags(caller.creds, &ns.user_ns, flags)
    };
    if let Some(id) = table.existing(key, flags, accepts)? {
        return Ok(id);
    }
    if count == 0 {
        return Err(Errno::EINVAL);
    }
    let count = count as usize;
    let total = ns.sem_total.load(Ordering::Relaxed) + count;
    if total > limit(1).max(0) as usize {
        return Err(Errno::ENOSPC);
    }
    let mut made = 0;
    table.insert(limit(3).max(0) as u32, |id, seq| {
        made = id;
        let perm = Perm::new(caller.creds, key, flags, seq);
        Arc::new(Set { state: Mutex::new(&SET, State::new(perm, sems, now())), count })
    })?;
    ns.sem_total.store(total, Ordering::Relaxed);
    Ok(made)
}

impl Namespace {
    fn set(&self, id: i32) -> Result<Arc<Set>> {
        self.sem.read().get(id).cloned()
    }

    /// `IPC_STAT`.
    pub fn sem_stat(&self, caller: &Caller<'_>, id: i32) -> Result<Report> {
        let set = self.set(id)?;
        set.perm().check(caller.creds, &self.user_ns, READ)?;
        Ok(set.report(id))
    }

    /// `SEM_STAT` and `SEM_STAT_ANY`: by slot.
    pub fn sem_stat_slot(&self, caller: &Caller<'_>, slot: i32, access: Access) -> Result<Report> {
        let (id, set) = self.sem.read().at_slot(slot).map(|(id, set)| (id, set.clone()))?;
        if access == Access::Checked {
            set.perm().check(caller.creds, &self.user_ns, READ)?;
        }
        Ok(set.report(id))
    }

    /// `IPC_SET`.
    pub fn sem_set(&self, caller: &Caller<'_>, id: i32, new: &abi::ipc::IpcPerm) -> Result<()> {
        let set = self.set(id)?;
        let mut state = set.state.lock();
        state.perm.check_owner(caller.creds, &self.user_ns)?;
        state.perm.set(caller.creds, new)?;
        state.ctime = now();
        Ok(())
    }

    /// `IPC_RMID`: whoever waits gets `EIDRM`.
    pub fn sem_remove(&self, caller: &Caller<'_>, id: i32) -> Result<()> {
        let mut table = self.sem.write();
        let set = table.get(id)?.clone();
        let mut state = set.state.lock();
        state.perm.check_owner(caller.creds, &self.user_ns)?;
        table.remove(state.perm.key, id);
        self.sem_total.fetch_sub(set.count, Ordering::Relaxed);
        state.end();
        Ok(())
    }

    /// `GETVAL`, `GETNCNT`, `GETZCNT`.
    pub fn sem_query(&self, caller: &Caller<'_>, id: i32, num: i32, what: Query) -> Result<i32> {
        self.with_sem(caller, id, num, |sem| match what {
            Query::Value => sem.value,
            Query::WaitingForMore => sem.more.len() as i32,
            Query::WaitingForZero => sem.zero.len() as i32,
        })
    }

    /// `GETPID`: who operated on the semaphore last.
    pub fn sem_last(&self, caller: &Caller<'_>, id: i32, num: i32) -> Result<Option<Who>> {
        self.with_sem(caller, id, num, |sem| sem.last.clone())
    }

    fn with_sem<R>(
        &self,
        caller: &Caller<'_>,
        id: i32,
        num: i32,
        look: impl FnOnce(&state::Sem) -> R,
    ) -> Result<R> {
        let set = self.set(id)?;
        let state = set.state.lock();
        state.perm.check(caller.creds, &self.user_ns, READ)?;
        state.check_alive()?;
        let sem = usize::try_from(num).ok().and_then(|num| state.sems.get(num));
        sem.map(look).ok_or(Errno::EINVAL)
    }

    /// `GETALL`.
    pub fn sem_values(&self, caller: &Caller<'_>, id: i32) -> Result<Vec<u16>> {
        let set = self.set(id)?;
        // As many as the set will ever have; made before the lock.
        let mut values = Vec::new();
        values.try_reserve_exact(set.count).map_err(|_| Errno::ENOMEM)?;
        let state = set.state.lock();
        state.perm.check(caller.creds, &self.user_ns, READ)?;
        state.check_alive()?;
        values.extend(state.sems.iter().take(set.count).map(|sem| sem.value as u16));
        Ok(values)
    }

    /// `SETVAL`.
    pub fn sem_set_value(&self, caller: &Caller<'_>, id: i32, num: i32, value: i32) -> Result<()> {
        if !(0..=sem::VMX).contains(&value) {
            return Err(Errno::ERANGE);
        }
        let set = self.set(id)?;
        let num = usize::try_from(num).ok().filter(|&n| n < set.count).ok_or(Errno::EINVAL)?;
        let mut state = set.state.lock();
        state.perm.check(caller.creds, &self.user_ns, WRITE)?;
        state.check_alive()?;
        state.assign(num, value, &caller.who);
        state.ctime = now();
        state.settle(now());
        Ok(())
    }

    /// How many semaphores a set has, for a caller that is to set them all.
    pub fn sem_count(&self, caller: &Caller<'_>, id: i32) -> Result<usize> {
        let set = self.set(id)?;
        set.perm().check(caller.creds, &self.user_ns, WRITE)?;
        Ok(set.count)
    }

    /// `SETALL`.
    pub fn sem_set_values(&self, caller: &Caller<'_>, id: i32, values: &[u16]) -> Result<()> {
        let set = self.set(id)?;
        let mut state = set.state.lock();
        state.perm.check(caller.creds, &self.user_ns, WRITE)?;
        if values.iter().any(|&value| i32::from(value) > sem::VMX) {
            return Err(Errno::ERANGE);
        }
        state.check_alive()?;
        for (num, &value) in values.iter().enumerate().take(set.count) {
            state.assign(num, i32::from(value), &caller.who);
        }
        state.ctime = now();
        state.settle(now());
        Ok(())
    }

    /// `IPC_INFO` and, with what is in use instead of two of the limits, `SEM_INFO`; and the
    /// highest slot in use.
    pub fn sem_info(&self, usage: bool) -> (SemInfo, u32) {
        let [msl, mns, opm, mni] = core::array::from_fn(|i| {
            self.limits.sem.get(i).map_or(0, |l| l.load(Ordering::Relaxed))
        });
        let table = self.sem.read();
        let mut info = SemInfo {
            map: mns,
            mni,
            mns,
            mnu: mns,
            msl,
            opm,
            ume: opm,
            usz: 20,
            vmx: sem::VMX,
            aem: sem::VMX,
        };
        if usage {
            info.usz = table.len() as i32;
            info.aem = self.sem_total.load(Ordering::Relaxed) as i32;
        }
        (info, table.highest())
    }

    /// All sets, for `/proc/sysvipc/sem`.
    pub fn sets(&self) -> Vec<Report> {
        self.sem.read().iter().map(|(id, set)| set.report(id)).collect()
    }
}
