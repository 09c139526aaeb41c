#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod ids;
pub mod msg;
mod perm;
pub mod sem;
pub mod shm;

pub use ids::SLOTS;
pub use perm::Perm;

use alloc::sync::Arc;
use arch::lock::LockClass;
use core::any::Any;
use core::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize};
use ids::Table;
use sched::RwLock;
use spin::Once;
use vfs::cred::{Creds, UserNamespace};

static SHM_IDS: LockClass = LockClass::new("ipc.shm_ids", 415);
static SEM_IDS: LockClass = LockClass::new("ipc.sem_ids", 416);
static MSG_IDS: LockClass = LockClass::new("ipc.msg_ids", 417);

/// A process as objects remember it. What is inside is the business of the layer above.
pub type Who = Arc<dyn Any + Send + Sync>;

static CURRENT: Once<fn() -> Option<Who>> = Once::new();

/// Registers who answers "which process is this?" when areas of a segment come and go.
pub fn set_current(current: fn() -> Option<Who>) {
    CURRENT.call_once(|| current);
}

fn current() -> Option<Who> {
    CURRENT.get().and_then(|current| current())
}

/// Who calls.
pub struct Caller<'a> {
    /// The credentials.
    pub creds: &'a Creds,
    /// The process.
    pub who: Who,
}

/// What `/proc/sys/kernel/{shm*,sem,msg*}` hold.
#[derive(Debug)]
pub struct Limits {
    /// `shmmax`: the largest segment, in bytes.
    pub shmmax: AtomicU64,
    /// `shmall`: pages of all segments.
    pub shmall: AtomicU64,
    /// `shmmni`: how many segments.
    pub shmmni: AtomicI32,
    /// `shm_rmid_forced`: a segment nobody is attached to goes.
    pub shm_rmid_forced: AtomicI32,
    /// `sem`: semaphores per set, semaphores of all sets, operations per call, sets.
    pub sem: [AtomicI32; 4],
    /// `msgmax`: the largest message, in bytes.
    pub msgmax: AtomicI32,
    /// `msgmnb`: bytes in a queue.
    pub msgmnb: AtomicI32,
    /// `msgmni`: how many queues.
    pub msgmni: AtomicI32,
}

impl Limits {
    fn new() -> Limits {
        const MOST: u64 = u64::MAX - (1 << 24);
        Limits {
            shmmax: AtomicU64::new(MOST),
            shmall: AtomicU64::new(MOST),
            shmmni: AtomicI32::new(4096),
            shm_rmid_forced: AtomicI32::new(0),
            sem: [32000, 1_024_000_000, 500, 32000].map(AtomicI32::new),
            msgmax: AtomicI32::new(8192),
            msgmnb: AtomicI32::new(16384),
            msgmni: AtomicI32::new(32000),
        }
    }
}

/// The System V objects of an IPC namespace.
pub struct Namespace {
    /// Who may act on it.
    pub user_ns: Arc<UserNamespace>,
    /// Its limits.
    pub limits: Limits,
    shm: RwLock<Table<shm::Segment>>,
    shm_pages: AtomicU64,
    sem: RwLock<Table<sem::Set>>,
    sem_total: AtomicUsize,
    msg: RwLock<Table<msg::Queue>>,
    totals: Arc<msg::Totals>,
}

/// The kinds of objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Shared memory.
    Shm,
    /// Semaphores.
    Sem,
    /// Messages.
    Msg,
}

impl Namespace {
    /// A namespace without objects.
    pub fn new(user_ns: Arc<UserNamespace>) -> Arc<Namespace> {
        Arc::new(Namespace {
            user_ns,
            limits: Limits::new(),
            shm: RwLock::new(&SHM_IDS, Table::default()),
            shm_pages: AtomicU64::new(0),
            sem: RwLock::new(&SEM_IDS, Table::default()),
            sem_total: AtomicUsize::new(0),
            msg: RwLock::new(&MSG_IDS, Table::default()),
            totals: Arc::default(),
        })
    }

    /// `kernel.*_next_id`: the identifier the next object is asked to have, or -1.
    pub fn next_id(&self, kind: Kind) -> i32 {
        match kind {
            Kind::Shm => self.shm.read().next_id,
            Kind::Sem => self.sem.read().next_id,
            Kind::Msg => self.msg.read().next_id,
        }
    }

    /// Sets `kernel.*_next_id`.
    pub fn set_next_id(&self, kind: Kind, id: i32) {
        match kind {
            Kind::Shm => self.shm.write().next_id = id,
            Kind::Sem => self.sem.write().next_id = id,
            Kind::Msg => self.msg.write().next_id = id,
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Waiters hold the namespace, so nobody waits; segments live on in who is attached.
        self.shm.read().iter().for_each(|(_, segment)| segment.orphan());
    }
}

/// Seconds of the real-time clock, as the `*_ds` structures have them.
fn now() -> i64 {
    (sched::clock::realtime_ns() / 1_000_000_000) as i64
}
