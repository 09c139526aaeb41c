//! The journal (jbd2): changes of metadata are written to a log before they are made in their places,
//! so that a crash leaves all of an operation or nothing.
//!
//! The log is a ring of blocks in the journal's inode. Each transaction is revoke blocks, descriptor
//! blocks with the blocks they name, and a commit block; all carry the transaction's number.
//!
//! * `format`: those blocks; `area`: where the ring is, and its super block.
//! * `recover`: the mount after a crash.
//! * `gate`: which operations belong to a transaction; `ring`: the log of a mounted file system.
//!
//! What a transaction consists of is decided in `commit`.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use abi::{Errno, Result};
use arch::lock::LockClass;
use block::Device;
use sched::{IoWait, Mutex, WaitQueue};

use crate::layout::Super;

mod area;
mod format;
mod gate;
mod recover;
mod ring;

pub(crate) use gate::{Entry, Gate};
pub(crate) use recover::recover;
pub(crate) use ring::{Frozen, Ring, Transaction};

static RING: LockClass = LockClass::new("ext4.ring", 321);

/// Blocks of the largest transaction, however large the log is.
const LARGEST: u32 = 4096;

/// Whether operations may change something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// The file system is not mounted for writing.
    Off,
    Running,
    /// Writing to the log failed: what is on the device stays as it is.
    Aborted,
}

/// Counts the flushes of the drive's cache, so that nobody asks for one that others had.
#[derive(Default)]
pub(crate) struct Flushes {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Flushes {
    /// The first flush that covers what the drive has taken by now.
    pub(crate) fn next(&self) -> u64 {
        self.begun.load(Ordering::SeqCst) + 1
    }

    /// A flush begins; its number.
    pub(crate) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// It has succeeded.
    pub(crate) fn end(&self, number: u64) {
        self.done.fetch_max(number, Ordering::SeqCst);
    }

    /// Whether that one, or a later one, has.
    pub(crate) fn has_done(&self, number: u64) -> bool {
        self.done.load(Ordering::SeqCst) >= number
    }
}

/// What the mount options say of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Manner {
    /// Order is kept by flushing the drive's cache.
    pub(crate) barriers: bool,
    /// Data blocks have checksums, or not; `None`: as the file system.
    pub(crate) checksums: Option<bool>,
}

impl Default for Manner {
    fn default() -> Manner {
        Manner { barriers: true, checksums: None }
    }
}

/// The running journal of a file system.
pub(crate) struct Journal {
    pub(crate) flushes: Flushes,
    /// Data that a transaction waited for could not be written, and that is to end the journal.
    data_failed: AtomicBool,
    pub(crate) gate: Gate,
    pub(crate) ring: Mutex<Ring>,
    /// The last transaction that is durable.
    committed: AtomicU64,
    state: AtomicU8,
    /// Writes of file data under way that the transaction of this parity needs. Only two transactions
    /// have any: the running one and the one being committed.
    ordered: [AtomicU32; 2],
    settled: WaitQueue,
}

impl Journal {
    /// The journal of the file system on `device`, which needs no recovery.
    pub(crate) fn open(device: &Arc<Device>, sb: &Super) -> Result<Journal> {
        let ring = Ring::open(device, sb)?;
        let gate = Gate::new();
        // Four of the largest fit, whatever their descriptors take; their blocks are memory.
        gate.set_limit((ring.capacity() / 4).clamp(1, LARGEST));
        Ok(Journal {
            flushes: Flushes::default(),
            data_failed: AtomicBool::new(false),
            gate,
            ring: Mutex::new(&RING, ring),
            committed: AtomicU64::new(0),
            state: AtomicU8::new(State::Off as u8),
            ordered: [const { AtomicU32::new(0) }; 2],
            settled: WaitQueue::new(),
        })
    }

    pub(crate) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Off,
            1 => State::Running,
            _ => State::Aborted,
        }
    }

    /// Moves on to another state; `Aborted` is for ever.
    pub(crate) fn set_state(&self, state: State) {
        let change = |old| (old != State::Aborted as u8).then_some(state as u8);
        // Refused where it is aborted, and stays so.
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
    }

    /// Whether `transaction` is durable.
    pub(crate) fn is_committed(&self, transaction: u64) -> bool {
        // Acquire: pairs with the Release in `set_committed`.
        self.committed.load(Ordering::Acquire) >= transaction
    }

    pub(crate) fn set_committed(&self, transaction: u64) {
        self.committed.store(transaction, Ordering::Release);
    }

    /// Allows transactions.
    pub(crate) fn start(&self, sb: &Super, manner: Manner) -> Result<()> {
        self.ring.lock().start(sb, manner)?;
        self.set_state(State::Running);
        Ok(())
    }

    /// Waits until nobody is inside, and begins the next transaction with `take`: what is returned is
    /// the last one's number and what `take` made of it.
    pub(crate) fn switch<R>(&self, take: impl FnOnce() -> R) -> (u64, R) {
        let number = self.gate.running();
        self.gate.close();
        let taken = take();
        self.gate.open();
        (number, taken)
    }

    /// Appends a transaction to the log.
    pub(crate) fn write(&self, ring: &mut Ring, number: u64, what: Transaction) -> Result<()> {
        let mut flush = 0;
        ring.write(what, || {
            self.settle(number);
            flush = self.flushes.begin();
            if self.data_failed.load(Ordering::Acquire) { Err(Errno::EIO) } else { Ok(()) }
        })?;
        self.flushes.end(flush);
        Ok(())
    }

    /// Ends the journal with the next commit.
    pub(crate) fn fail_data(&self) {
        self.data_failed.store(true, Ordering::Release);
    }

    /// Copies what is in the log to its place, and empties it.
    pub(crate) fn stop(&self, ring: &mut Ring) -> Result<()> {
        ring.stop()
    }

    /// A write of file data to blocks that `transaction`, which the caller is inside of, hands to a
    /// file: has to end before it is committed. [`Journal::data_done`] has to follow.
    pub(crate) fn data_begins(&self, transaction: u64) {
        self.ordered[transaction as usize & 1].fetch_add(1, Ordering::AcqRel);
    }

    /// The write has ended. Any context.
    pub(crate) fn data_done(&self, transaction: u64) {
        if self.ordered[transaction as usize & 1].fetch_sub(1, Ordering::AcqRel) == 1 {
            self.settled.wake_all();
        }
    }

    fn settle(&self, transaction: u64) {
        let count = &self.ordered[transaction as usize & 1];
        let _waiting = IoWait::begin();
        self.settled.wait(|| (count.load(Ordering::Acquire) == 0).then_some(()));
    }
}
