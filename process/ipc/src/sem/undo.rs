//! What the end of a process takes back: semop(2), `SEM_UNDO`.
//!
//! The adjustments are in the sets, so that `SETVAL` finds them; a list knows the sets that have
//! some for it. Tasks share a list with `CLONE_SYSVSEM`; it takes back when the last one lets go.

use super::Set;
use super::state::State;
use crate::{Who, now};
use abi::{Errno, Result};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicU64, Ordering};

static LIST: LockClass = LockClass::new("ipc.undo", 648);
static NEXT: AtomicU64 = AtomicU64::new(1);

/// The sets that a group of tasks has changed with `SEM_UNDO`.
pub struct UndoList {
    id: u64,
    sets: SpinLock<Vec<Weak<Set>>>,
}

impl Default for UndoList {
    fn default() -> UndoList {
        // Relaxed: only uniqueness counts.
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        UndoList { id, sets: SpinLock::new(&LIST, Vec::new()) }
    }
}

impl UndoList {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Makes room for adjustments in a set; `ENOMEM` if there is none.
    pub(super) fn join(&self, set: &Arc<Set>, state: &mut State) -> Result<()> {
        if state.undo.contains_key(&self.id) {
            return Ok(());
        }
        let mut adjustments = Vec::new();
        adjustments.try_reserve_exact(set.count).map_err(|_| Errno::ENOMEM)?;
        adjustments.resize(set.count, 0);
        let mut sets = self.sets.lock();
        // Sets that are gone leave when the list would grow.
        if sets.len() == sets.capacity() {
            sets.retain(|set| set.strong_count() > 0);
        }
        sets.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        sets.push(Arc::downgrade(set));
        state.undo.insert(self.id, adjustments.into());
        Ok(())
    }

    /// The last task of the list ends: everything is taken back.
    pub fn take_back(self, who: &Who) {
        for set in self.sets.into_inner() {
            let Some(set) = set.upgrade() else { continue };
            set.state.lock().take_back(self.id, who, now());
        }
    }
}
