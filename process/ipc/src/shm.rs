//! Shared memory: shmget(2), shmop(2), shmctl(2).
//!
//! A segment is a mapping without a file. Address spaces tell it when they gain and lose an area of
//! it (`MapSource::opened`, `closed`), whatever the reason: attaching, `fork`, splitting, `execve`,
//! exit. That count decides when a segment marked for removal goes.

use crate::ids::Object;
use crate::perm::{Perm, READ, WRITE};
use crate::{Caller, Namespace, Who, now};
use abi::ipc::{ShmLimits, ShmUsage, ShmidDs, common as ipc, shm};
use abi::{Errno, Result};
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::PAGE_SIZE;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicU64, Ordering};
use pagecache::Mapping;
use vfs::cred::{Cap, UserNamespace};
use vm::{AddressSpace, Description, Limits, MapRequest, MapSource};

static STATE: LockClass = LockClass::new("ipc.segment", 419);

/// A segment.
pub struct Segment {
    id: i32,
    ns: Weak<Namespace>,
    key: i32,
    size: u64,
    mapping: Arc<Mapping>,
    /// Pages promised to it, taken back at its end.
    promised: AtomicU64,
    creator: Who,
    state: SpinLock<State>,
}

struct State {
    perm: Perm,
    atime: i64,
    dtime: i64,
    ctime: i64,
    last: Option<Who>,
    attached: u64,
}

/// A segment's numbers, with processes as they were remembered.
pub struct Report {
    /// The identifier.
    pub id: i32,
    /// Owner and mode.
    pub perm: Perm,
    /// Everything but owner, mode and processes.
    pub ds: ShmidDs,
    /// Who made it.
    pub creator: Who,
    /// Who attached or detached last.
    pub last: Option<Who>,
    /// Pages in memory.
    pub resident: u64,
}

impl Object for Segment {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }
}

impl MapSource for Segment {
    fn mapping(&self) -> Option<Arc<Mapping>> {
        Some(self.mapping.clone())
    }

    fn describe(&self) -> Description {
        let path = format!("/SYSV{:08x} (deleted)", self.key);
        Description { dev: (0, 1), ino: self.id as u64, path }
    }

    fn opened(&self) {
        let who = crate::current();
        let mut state = self.state.lock();
        state.attached += 1;
        state.atime = now();
        let old = core::mem::replace(&mut state.last, who);
        drop(state);
        drop(old);
    }

    fn closed(&self) {
        let who = crate::current();
        let mut state = self.state.lock();
        state.dtime = now();
        let old = core::mem::replace(&mut state.last, who);
        drop(state);
        drop(old);
        self.release();
    }

    fn is_segment(&self) -> bool {
        true
    }
}

impl Segment {
    fn pages(&self) -> u64 {
        pages_of(self.size)
    }

    /// One user less; the last one of a segment that is to go takes it along.
    fn release(&self) {
        let Some(ns) = self.ns.upgrade() else {
            self.state.lock().attached -= 1;
            return;
        };
        let forced = ns.limits.shm_rmid_forced.load(Ordering::Relaxed) != 0;
        let is_over = {
            let mut state = self.state.lock();
            state.attached -= 1;
            state.attached == 0 && (forced || state.perm.mode & shm::DEST != 0)
        };
        if is_over {
            ns.remove_segment(self.id);
        }
    }

    /// The namespace is gone: nobody can attach any more.
    pub(crate) fn orphan(&self) {
        self.state.lock().perm.mode |= shm::DEST;
    }

    fn report(&self) -> Report {
        let state = self.state.lock();
        Report {
            id: self.id,
            perm: state.perm,
            ds: ShmidDs {
                segsz: self.size,
                atime: state.atime,
                dtime: state.dtime,
                ctime: state.ctime,
                nattch: state.attached,
                ..ShmidDs::default()
            },
            creator: self.creator.clone(),
            last: state.last.clone(),
            resident: self.mapping.cached_pages() as u64,
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        vm::unreserve(self.promised.load(Ordering::Relaxed));
    }
}

fn pages_of(size: u64) -> u64 {
    size.div_ceil(PAGE_SIZE as u64)
}

/// `shmget(2)`.
pub fn get(
    ns: &Arc<Namespace>,
    caller: &Caller<'_>,
    key: i32,
    size: u64,
    flags: u32,
) -> Result<i32> {
    if let Some(id) = ns.shm.read().existing(key, flags, accepts(ns, caller, size, flags))? {
        return Ok(id);
    }
    create(ns, caller, key, size, flags)
}

/// What a segment that is there already has to meet.
fn accepts(
    ns: &Namespace,
    caller: &Caller<'_>,
    size: u64,
    flags: u32,
) -> impl FnOnce(&Arc<Segment>) -> Result<()> {
    move |segment| {
        if size > segment.size {
            return Err(Errno::EINVAL);
        }
        segment.perm().check_flags(caller.creds, &ns.user_ns, flags)
    }
}

fn create(
    ns: &Arc<Namespace>,
    caller: &Caller<'_>,
    key: i32,
    size: u64,
    flags: u32,
) -> Result<i32> {
    if size == 0 || size > ns.limits.shmmax.load(Ordering::Relaxed) {
        return Err(Errno::EINVAL);
    }
    let pages = pages_of(size);
    if pages << 12 < size {
        return Err(Errno::ENOSPC);
    }
    let mut table = ns.shm.write();
    // Another may have made it since the look without the lock.
    if let Some(id) = table.existing(key, flags, accepts(ns, caller, size, flags))? {
        return Ok(id);
    }
    let used = ns.shm_pages.load(Ordering::Relaxed);
    let total = used.checked_add(pages).ok_or(Errno::ENOSPC)?;
    if total > ns.limits.shmall.load(Ordering::Relaxed) {
        return Err(Errno::ENOSPC);
    }
    if flags & shm::HUGETLB != 0 {
        return Err(huge_refusal(caller, flags));
    }
    if size > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    let promised = if flags & shm::NORESERVE == 0 { pages } else { 0 };
    vm::reserve(promised)?;
    let count = ns.limits.shmmni.load(Ordering::Relaxed).max(0) as u32;
    let made = table.insert(count, |id, seq| {
        Arc::new(Segment {
            id,
            ns: Arc::downgrade(ns),
            key,
            size,
            mapping: Mapping::without_backing(pages << 12),
            promised: AtomicU64::new(promised),
            creator: caller.who.clone(),
            state: SpinLock::new(
                &STATE,
                State {
                    perm: Perm::new(caller.creds, key, flags, seq),
                    atime: 0,
                    dtime: 0,
                    ctime: now(),
                    last: None,
                    attached: 0,
                },
            ),
        })
    });
    let segment = made.inspect_err(|_| vm::unreserve(promised))?;
    ns.shm_pages.store(total, Ordering::Relaxed);
    Ok(segment.id)
}

/// `SHM_HUGETLB`: there are no reserved huge pages; sizes the machine does not have are `EINVAL`, and
/// only root's group and who may lock memory may ask at all.
fn huge_refusal(caller: &Caller<'_>, flags: u32) -> Errno {
    match flags >> shm::HUGE_SHIFT & 0x3f {
        0 | 21 | 30 if caller.creds.in_group(0) || caller.creds.capable(Cap::IPC_LOCK) => {
            Errno::ENOMEM
        }
        0 | 21 | 30 => Errno::EPERM,
        _ => Errno::EINVAL,
    }
}

/// `shmat(2)`: the address, within `limits`. `flags` are `SHM_*`.
pub fn attach(
    ns: &Namespace,
    caller: &Caller<'_>,
    mm: &AddressSpace,
    id: i32,
    (addr, flags): (u64, u32),
    limits: &Limits,
) -> Result<u64> {
    const MAP_SHARED: u32 = 1;
    const MAP_FIXED: u32 = 0x10;
    const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let (mut at, mut map_flags) = (addr, MAP_SHARED);
    if addr != 0 {
        if addr % PAGE_SIZE as u64 != 0 {
            if flags & shm::RND == 0 {
                return Err(Errno::EINVAL);
            }
            at &= !(PAGE_SIZE as u64 - 1);
            if at == 0 && flags & shm::REMAP != 0 {
                return Err(Errno::EINVAL);
            }
        }
        map_flags |= if flags & shm::REMAP != 0 { MAP_FIXED } else { MAP_FIXED_NOREPLACE };
    } else if flags & shm::REMAP != 0 {
        return Err(Errno::EINVAL);
    }
    let (mut prot, mut wanted) = (vm::prot::READ, READ);
    if flags & shm::RDONLY == 0 {
        prot |= vm::prot::WRITE;
        wanted |= WRITE;
    } else {
        map_flags |= vm::MAP_NEVER_WRITE;
    }
    if flags & shm::EXEC != 0 {
        prot |= vm::prot::EXEC;
        wanted |= 1;
    }
    let segment = {
        let table = ns.shm.read();
        let segment = table.get(id)?.clone();
        let mut state = segment.state.lock();
        state.perm.check(caller.creds, &ns.user_ns, wanted)?;
        // Held until the area counts for itself, so that removal meanwhile only marks it.
        state.attached += 1;
        drop(state);
        segment
    };
    let len = segment.pages() << 12;
    let request = MapRequest {
        addr: at,
        len,
        prot,
        flags: map_flags,
        source: Some(segment.clone()),
        offset: 0,
    };
    let mapped = mm.mmap_within(&request, limits);
    segment.release();
    mapped.map_err(|error| if error == Errno::EEXIST { Errno::EINVAL } else { error })
}

impl Namespace {
    fn remove_segment(&self, id: i32) {
        let gone = {
            let mut table = self.shm.write();
            let Ok(segment) = table.get(id).cloned() else { return };
            // Somebody may have attached in the meantime.
            if segment.state.lock().attached != 0 {
                return;
            }
            self.shm_pages.fetch_sub(segment.pages(), Ordering::Relaxed);
            table.remove(segment.key, id)
        };
        drop(gone);
    }

    fn segment(&self, id: i32) -> Result<Arc<Segment>> {
        self.shm.read().get(id).cloned()
    }

    /// `IPC_STAT`.
    pub fn shm_stat(&self, caller: &Caller<'_>, id: i32) -> Result<Report> {
        let segment = self.segment(id)?;
        segment.perm().check(caller.creds, &self.user_ns, READ)?;
        Ok(segment.report())
    }

    /// `SHM_STAT`, and `SHM_STAT_ANY` with `any`: by slot.
    pub fn shm_stat_slot(&self, caller: &Caller<'_>, slot: i32, access: Access) -> Result<Report> {
        let segment = self.shm.read().at_slot(slot)?.1.clone();
        if access == Access::Checked {
            segment.perm().check(caller.creds, &self.user_ns, READ)?;
        }
        Ok(segment.report())
    }

    /// `IPC_SET`.
    pub fn shm_set(&self, caller: &Caller<'_>, id: i32, new: &abi::ipc::IpcPerm) -> Result<()> {
        let segment = self.segment(id)?;
        let mut state = segment.state.lock();
        state.perm.check_owner(caller.creds, &self.user_ns)?;
        state.perm.set(caller.creds, new)?;
        state.ctime = now();
        Ok(())
    }

    /// `IPC_RMID`: at once, or when the last one detaches.
    pub fn shm_remove(&self, caller: &Caller<'_>, id: i32) -> Result<()> {
        let gone = {
            let mut table = self.shm.write();
            let segment = table.get(id)?.clone();
            let mut state = segment.state.lock();
            state.perm.check_owner(caller.creds, &self.user_ns)?;
            if state.attached != 0 {
                state.perm.mode |= shm::DEST;
                state.perm.key = ipc::PRIVATE;
                drop(state);
                table.forget_key(segment.key, id);
                return Ok(());
            }
            drop(state);
            self.shm_pages.fetch_sub(segment.pages(), Ordering::Relaxed);
            table.remove(segment.key, id)
        };
        drop(gone);
        Ok(())
    }

    /// `SHM_LOCK` and `SHM_UNLOCK`. Memory is never swapped, so the bit is all there is to it.
    /// `limit` is `RLIMIT_MEMLOCK`.
    pub fn shm_lock(&self, caller: &Caller<'_>, id: i32, lock: Lock, limit: u64) -> Result<()> {
        let segment = self.segment(id)?;
        let mut state = segment.state.lock();
        if !caller.creds.ns_capable(&self.user_ns, Cap::IPC_LOCK) {
            let euid = caller.creds.euid;
            let is_owner = euid == state.perm.uid || euid == state.perm.cuid;
            if !is_owner || lock == Lock::Lock && limit == 0 {
                return Err(Errno::EPERM);
            }
            if lock == Lock::Lock && segment.size > limit {
                return Err(Errno::ENOMEM);
            }
        }
        match lock {
            Lock::Lock => state.perm.mode |= shm::LOCKED,
            Lock::Unlock => state.perm.mode &= !shm::LOCKED,
        }
        Ok(())
    }

    /// `IPC_INFO`: the limits, and the highest slot in use.
    pub fn shm_limits(&self) -> (ShmLimits, u32) {
        let mni = self.limits.shmmni.load(Ordering::Relaxed).max(0) as u64;
        let limits = ShmLimits {
            shmmax: self.limits.shmmax.load(Ordering::Relaxed),
            shmmin: 1,
            shmmni: mni,
            shmseg: mni,
            shmall: self.limits.shmall.load(Ordering::Relaxed),
            ..ShmLimits::default()
        };
        (limits, self.shm.read().highest())
    }

    /// `SHM_INFO`: what is in use, and the highest slot.
    pub fn shm_usage(&self) -> (ShmUsage, u32) {
        let table = self.shm.read();
        let rss = table.iter().map(|(_, segment)| segment.mapping.cached_pages() as u64).sum();
        let usage = ShmUsage {
            used_ids: table.len() as i32,
            tot: self.shm_pages.load(Ordering::Relaxed),
            rss,
            ..ShmUsage::default()
        };
        (usage, table.highest())
    }

    /// All segments, for `/proc/sysvipc/shm`.
    pub fn segments(&self) -> Vec<Report> {
        self.shm.read().iter().map(|(_, segment)| segment.report()).collect()
    }

    /// Removes segments nobody is attached to whose maker `is_gone`: `kernel.shm_rmid_forced`.
    pub fn sweep_segments(&self, is_gone: impl Fn(&Who) -> bool) {
        let idle: Vec<i32> = {
            let table = self.shm.read();
            let idle = table.iter().filter(|(_, segment)| {
                segment.state.lock().attached == 0 && is_gone(&segment.creator)
            });
            idle.map(|(id, _)| id).collect()
        };
        idle.into_iter().for_each(|id| self.remove_segment(id));
    }
}

/// Whether a look needs the right to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It does.
    Checked,
    /// Everybody may.
    Any,
}

/// `SHM_LOCK` or `SHM_UNLOCK`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    /// Keep it in memory.
    Lock,
    /// No need to.
    Unlock,
}

impl Report {
    /// The structure for a program; `number` says how it sees a process.
    pub fn export(&self, viewer: &UserNamespace, number: impl Fn(&Who) -> i32) -> ShmidDs {
        ShmidDs {
            perm: self.perm.export(viewer),
            cpid: number(&self.creator),
            lpid: self.last.as_ref().map_or(0, number),
            ..self.ds
        }
    }
}
