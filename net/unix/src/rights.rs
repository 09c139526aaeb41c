//! Descriptors in flight: who pays for them, and cycles that nothing but queues refers to.
//!
//! A socket in flight is *lost* when every reference to its file lies in the queues of lost sockets. Who
//! has no such reference cannot receive from those queues, so that what is lost stays lost. All counts
//! of sockets in flight change under [`FLYING`], which a collection holds while it looks.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::hash::BuildHasherDefault;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use hashbrown::HashMap;
use sched::Mutex;
use socket::{Call, Cred};
use vfs::{Cap, File, Limit};

use crate::sock::{Inbox, Unix};

static GARBAGE: LockClass = LockClass::new("unix.garbage", 208);
static PAYERS: LockClass = LockClass::new("unix.payers", 572);
static DISCARDED: LockClass = LockClass::new("unix.discarded", 572);

/// The sockets in flight, by their place in memory.
static FLYING: Mutex<BTreeMap<usize, Weak<Unix>>> = Mutex::new(&GARBAGE, BTreeMap::new());
/// How many there are, for those who only ask whether there is any.
static FLYING_COUNT: AtomicUsize = AtomicUsize::new(0);

type Payers = HashMap<u32, Arc<AtomicUsize>, BuildHasherDefault<IdHasher>>;
/// What each thread that is closing descriptors has still to close.
type Discarded = HashMap<u64, Vec<Arc<File>>, BuildHasherDefault<IdHasher>>;

/// Descriptors in flight of each user that has some.
static USERS: SpinLock<Payers> =
    SpinLock::new(&PAYERS, Payers::with_hasher(BuildHasherDefault::new()));

/// Spreads user ids.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl core::hash::Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

/// What a message carries besides bytes.
#[derive(Default)]
pub(crate) struct Extra {
    pub(crate) rights: Option<Rights>,
    pub(crate) cred: Option<Cred>,
}

impl Extra {
    pub(crate) fn is_empty(&self) -> bool {
        self.rights.is_none() && self.cred.is_none()
    }
}

/// The descriptors of a message in a queue.
pub(crate) struct Rights {
    files: Vec<Arc<File>>,
    user: u32,
    paid: Arc<AtomicUsize>,
}

/// The socket of this family behind a file.
fn unix_of(file: &File) -> Option<&Unix> {
    Unix::of(&**socket::socket_of(file).ok()?)
}

fn take_off(files: &[Arc<File>]) {
    if !files.iter().any(|file| unix_of(file).is_some()) {
        return;
    }
    let mut flying = FLYING.lock();
    for socket in files.iter().filter_map(|file| unix_of(file)) {
        if socket.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            flying.insert(core::ptr::from_ref(socket).addr(), socket.this.clone());
        }
    }
    FLYING_COUNT.store(flying.len(), Ordering::Relaxed);
}

fn land(files: &[Arc<File>]) {
    if !files.iter().any(|file| unix_of(file).is_some()) {
        return;
    }
    let mut flying = FLYING.lock();
    for socket in files.iter().filter_map(|file| unix_of(file)) {
        if socket.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            flying.remove(&core::ptr::from_ref(socket).addr());
        }
    }
    FLYING_COUNT.store(flying.len(), Ordering::Relaxed);
}

impl Rights {
    /// Sends descriptors off. `ETOOMANYREFS` if the user has too many in flight.
    pub(crate) fn new(files: Vec<Arc<File>>, call: &Call<'_>) -> Result<Rights> {
        let creds = call.creds();
        let user = creds.uid;
        let paid = USERS.lock().entry(user).or_default().clone();
        // Relaxed: a counter.
        let is_over = paid.load(Ordering::Relaxed) as u64 > call.fs.caller.limit(Limit::OpenFiles);
        if is_over && !creds.capable(Cap::SYS_RESOURCE) && !creds.capable(Cap::SYS_ADMIN) {
            return Err(Errno::ETOOMANYREFS);
        }
        paid.fetch_add(files.len(), Ordering::Relaxed);
        take_off(&files);
        Ok(Rights { files, user, paid })
    }

    /// The descriptors, which have arrived.
    pub(crate) fn receive(mut self) -> Vec<Arc<File>> {
        self.end_flight()
    }

    /// The descriptors, which stay in the queue as well (`MSG_PEEK`). The caller lets them
    /// [`settle`] before it hands them over.
    pub(crate) fn peek(&self) -> Vec<Arc<File>> {
        self.files.clone()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    fn end_flight(&mut self) -> Vec<Arc<File>> {
        let files = core::mem::take(&mut self.files);
        if files.is_empty() {
            return files;
        }
        land(&files);
        if self.paid.fetch_sub(files.len(), Ordering::Relaxed) == files.len() {
            let mut users = USERS.lock();
            // Whoever takes the count now takes it from the table: with two references nobody does.
            if users.get(&self.user).is_some_and(|paid| {
                Arc::strong_count(paid) == 2 && paid.load(Ordering::Relaxed) == 0
            }) {
                users.remove(&self.user);
            }
        }
        files
    }
}

/// Ends what a peek began, without the queue's lock: a collection may have looked at these sockets when
/// only queues referred to them. It ends while the peeker still holds the socket it peeked at, which is
/// why it does not take that one for lost, nor these.
pub(crate) fn settle(files: &[Arc<File>]) {
    if files.iter().any(|file| unix_of(file).is_some()) {
        drop(FLYING.lock());
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        let files = self.end_flight();
        if !files.is_empty() {
            discard(files);
        }
    }
}

/// Descriptors that nobody receives. To close one may discard the next: a list for each thread that is
/// closing some keeps its stack flat, and nobody waits for what another closes.
fn discard(files: Vec<Arc<File>>) {
    static LISTS: SpinLock<Discarded> =
        SpinLock::new(&DISCARDED, Discarded::with_hasher(BuildHasherDefault::new()));
    let thread = core::ptr::from_ref(sched::current()).addr() as u64;
    {
        let mut lists = LISTS.lock();
        if let Some(list) = lists.get_mut(&thread) {
            list.extend(files);
            return;
        }
        lists.insert(thread, files);
    }
    loop {
        let (next, emptied) = {
            let mut lists = LISTS.lock();
            let next = lists.get_mut(&thread).and_then(Vec::pop);
            let emptied = if next.is_none() { lists.remove(&thread) } else { None };
            (next, emptied)
        };
        drop(emptied);
        let Some(file) = next else { return };
        drop(file);
    }
}

/// Looks for lost sockets soon, if any is in flight at all.
pub(crate) fn collect_later() {
    static IS_QUEUED: AtomicBool = AtomicBool::new(false);
    if FLYING_COUNT.load(Ordering::Relaxed) == 0 || IS_QUEUED.swap(true, Ordering::AcqRel) {
        return;
    }
    sched::work::queue(|| {
        IS_QUEUED.store(false, Ordering::Release);
        collect();
    });
}

/// A socket that only queues refer to.
struct Candidate {
    socket: Arc<Unix>,
    /// References that are in no candidate's queue.
    outside: usize,
    is_alive: bool,
}

/// Calls `visit` with each file in the queues of `socket`, those of connections that nobody has
/// accepted included.
fn each_file(socket: &Unix, visit: &mut dyn FnMut(&File)) {
    let mut in_inbox = |socket: &Unix| {
        let inbox = socket.inbox.lock();
        let mut of = |rights: &Rights| rights.files.iter().for_each(|file| visit(file));
        match &*inbox {
            Inbox::Stream(inbox) => inbox.each_rights(&mut of),
            Inbox::Packets(inbox) => inbox.each_rights(&mut of),
        }
    };
    in_inbox(socket);
    let waiting = socket.pending.lock().list();
    waiting.iter().for_each(|socket| in_inbox(socket));
}

/// Takes everything with descriptors out of the queues of `socket`.
fn empty(socket: &Unix, out: &mut Vec<Rights>) {
    let mut take = |socket: &Unix| match &mut *socket.inbox.lock() {
        Inbox::Stream(inbox) => inbox.take_rights(out),
        Inbox::Packets(inbox) => inbox.take_rights(out),
    };
    take(socket);
    let waiting = socket.pending.lock().list();
    waiting.iter().for_each(|socket| take(socket));
}

/// Frees what is lost.
pub(crate) fn collect() {
    // Dropped without the lock: the last reference to a socket may be here.
    let mut lost = Vec::new();
    let mut candidates: BTreeMap<usize, Candidate> = BTreeMap::new();
    {
        let flying = FLYING.lock();
        for (place, socket) in flying.iter() {
            let Some(socket) = socket.upgrade() else { continue };
            // Others hold it: this is not the last reference, even if it is not a candidate.
            let references = socket.file.get().map_or(0, Weak::strong_count);
            let in_flight = socket.in_flight.load(Ordering::Relaxed);
            if references == in_flight {
                let candidate = Candidate { socket, outside: in_flight, is_alive: false };
                candidates.insert(*place, candidate);
            }
        }
        let all: Vec<Arc<Unix>> = candidates.values().map(|c| c.socket.clone()).collect();
        for socket in &all {
            each_file(socket, &mut |file| {
                if let Some(found) = unix_of(file)
                    && let Some(other) = candidates.get_mut(&core::ptr::from_ref(found).addr())
                {
                    other.outside = other.outside.saturating_sub(1);
                }
            });
        }
        // What is referred to from outside lives, and so does all that its queues refer to.
        let mut reached: Vec<Arc<Unix>> = Vec::new();
        for candidate in candidates.values_mut().filter(|candidate| candidate.outside > 0) {
            candidate.is_alive = true;
            reached.push(candidate.socket.clone());
        }
        while let Some(socket) = reached.pop() {
            each_file(&socket, &mut |file| {
                if let Some(found) = unix_of(file)
                    && let Some(other) = candidates.get_mut(&core::ptr::from_ref(found).addr())
                    && !other.is_alive
                {
                    other.is_alive = true;
                    reached.push(other.socket.clone());
                }
            });
        }
        candidates
            .values()
            .filter(|candidate| !candidate.is_alive)
            .for_each(|candidate| empty(&candidate.socket, &mut lost));
    }
    drop(lost);
}
