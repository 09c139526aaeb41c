//! Objects by identifier and by key.
//!
//! An identifier is a slot number in the low 15 bits and a sequence number above: a program that
//! keeps the identifier of a removed object does not reach the one that took its slot. Slots are
//! given out in a cycle, which is larger than what is in use; each round has a sequence number of
//! its own.

use crate::Perm;
use abi::ipc::common;
use abi::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;

/// Bits of the slot in an identifier.
const SLOT_BITS: u32 = 15;
/// How many slots there are (`IPCMNI`).
pub const SLOTS: u32 = 1 << SLOT_BITS;
/// The shortest cycle.
const CYCLE_MIN: u32 = 64;
const SLOT_MASK: i32 = (1 << SLOT_BITS) - 1;
const SEQ_MAX: u16 = (i32::MAX >> SLOT_BITS) as u16;

/// An object with an owner.
pub(crate) trait Object {
    /// Who may use it.
    fn perm(&self) -> Perm;
}

/// The objects of one kind in a namespace.
pub(crate) struct Table<T> {
    slots: BTreeMap<u32, (u16, Arc<T>)>,
    keys: BTreeMap<i32, u32>,
    seq: u16,
    last: Option<u32>,
    /// `kernel.*_next_id`: the identifier that the next object is to have.
    pub(crate) next_id: i32,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { slots: BTreeMap::new(), keys: BTreeMap::new(), seq: 0, last: None, next_id: -1 }
    }
}

impl<T: Object> Table<T> {
    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The highest slot in use, 0 without any: what the `*_INFO` commands answer.
    pub(crate) fn highest(&self) -> u32 {
        self.slots.last_key_value().map_or(0, |(&slot, _)| slot)
    }

    /// The next free slot of the cycle, and whether a new round begins with it.
    fn free_slot(&self) -> (u32, bool) {
        let cycle = CYCLE_MIN.max((self.len() as u32).saturating_mul(3) / 2).min(SLOTS);
        let first_from = |from: u32| {
            let taken = self.slots.range(from..).zip(from..);
            let run = taken.take_while(|((slot, _), at)| *slot == at).count();
            from + run as u32
        };
        let from = self.last.map_or(0, |last| last + 1);
        match first_from(from) {
            slot if slot < cycle => (slot, false),
            _ => (first_from(0), true),
        }
    }

    /// Adds what `make` makes of its identifier and sequence number. `ENOSPC` with `limit` objects.
    pub(crate) fn insert(
        &mut self,
        limit: u32,
        make: impl FnOnce(i32, u16) -> Arc<T>,
    ) -> Result<Arc<T>> {
        if self.len() >= limit.min(SLOTS) as usize {
            return Err(Errno::ENOSPC);
        }
        let wanted = core::mem::replace(&mut self.next_id, -1);
        let (slot, seq) = if wanted >= 0 && !self.slots.contains_key(&slot_of(wanted)) {
            (slot_of(wanted), (wanted >> SLOT_BITS) as u16)
        } else {
            let (slot, is_new_round) = self.free_slot();
            if is_new_round {
                self.seq = if self.seq == SEQ_MAX { 0 } else { self.seq + 1 };
            }
            self.last = Some(slot);
            (slot, self.seq)
        };
        let object = make(i32::from(seq) << SLOT_BITS | slot as i32, seq);
        let key = object.perm().key;
        if key != common::PRIVATE {
            self.keys.insert(key, slot);
        }
        self.slots.insert(slot, (seq, object.clone()));
        Ok(object)
    }

    /// The object with an identifier: `EINVAL` if its slot is free, `EIDRM` if another has it.
    pub(crate) fn get(&self, id: i32) -> Result<&Arc<T>> {
        if id < 0 {
            return Err(Errno::EINVAL);
        }
        let (seq, object) = self.slots.get(&slot_of(id)).ok_or(Errno::EINVAL)?;
        if i32::from(*seq) == id >> SLOT_BITS { Ok(object) } else { Err(Errno::EIDRM) }
    }

    /// The object in a slot: the `*_STAT` commands.
    pub(crate) fn at_slot(&self, slot: i32) -> Result<(i32, &Arc<T>)> {
        let slot = u32::try_from(slot & SLOT_MASK).map_err(|_| Errno::EINVAL)?;
        let (seq, object) = self.slots.get(&slot).ok_or(Errno::EINVAL)?;
        Ok((i32::from(*seq) << SLOT_BITS | slot as i32, object))
    }

    /// The object with a key.
    pub(crate) fn find(&self, key: i32) -> Option<(i32, &Arc<T>)> {
        self.at_slot(*self.keys.get(&key)? as i32).ok()
    }

    /// What the `*get` calls begin with: the identifier of the object that `key` names, if
    /// `accepts` has nothing against it; none if one is to be made. Errors: `EEXIST` with
    /// `IPC_CREAT | IPC_EXCL`, `ENOENT` without `IPC_CREAT`, those of `accepts`.
    pub(crate) fn existing(
        &self,
        key: i32,
        flags: u32,
        accepts: impl FnOnce(&Arc<T>) -> Result<()>,
    ) -> Result<Option<i32>> {
        if key == common::PRIVATE {
            return Ok(None);
        }
        let Some((id, object)) = self.find(key) else {
            return if flags & common::CREAT == 0 { Err(Errno::ENOENT) } else { Ok(None) };
        };
        if flags & (common::CREAT | common::EXCL) == common::CREAT | common::EXCL {
            return Err(Errno::EEXIST);
        }
        accepts(object)?;
        Ok(Some(id))
    }

    /// Takes the key from an object, so that a new one can have it.
    pub(crate) fn forget_key(&mut self, key: i32, id: i32) {
        if self.keys.get(&key) == Some(&slot_of(id)) {
            self.keys.remove(&key);
        }
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, key: i32, id: i32) -> Option<Arc<T>> {
        self.get(id).ok()?;
        self.forget_key(key, id);
        self.slots.remove(&slot_of(id)).map(|(_, object)| object)
    }

    /// All objects with their identifiers, by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i32, &Arc<T>)> {
        self.slots
            .iter()
            .map(|(&slot, (seq, object))| (i32::from(*seq) << SLOT_BITS | slot as i32, object))
    }
}

fn slot_of(id: i32) -> u32 {
    (id & SLOT_MASK) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(i32);
    impl Object for Thing {
        fn perm(&self) -> Perm {
            Perm { key: self.0, ..Perm::default() }
        }
    }

    fn add(table: &mut Table<Thing>, key: i32) -> i32 {
        let mut id = -1;
        let made = table.insert(4, |new, _| {
            id = new;
            Arc::new(Thing(key))
        });
        if made.is_ok() { id } else { -1 }
    }

    #[test]
    fn identifiers_of_removed_objects_stay_dead() {
        let mut table = Table::default();
        let ids: Vec<i32> = (0..3).map(|_| add(&mut table, 0)).collect();
        assert_eq!(ids, [0, 1, 2]);
        assert!(table.remove(0, 1).is_some());
        assert_eq!(table.get(1).err(), Some(Errno::EINVAL));
        assert_eq!(add(&mut table, 0), 3);
        for id in 4..64 {
            assert!(table.remove(0, id - 1).is_some());
            assert_eq!(add(&mut table, 0), id);
        }
        // The next round: 0 and 2 are still taken.
        assert_eq!(add(&mut table, 0), 32768 + 1);
        assert_eq!(table.get(1).err(), Some(Errno::EIDRM));
        assert_eq!(add(&mut table, 0), -1, "the limit holds");
        assert_eq!(table.highest(), 63);
    }

    #[test]
    fn the_cycle_grows_with_what_is_in_use() {
        let mut table = Table::default();
        let ids: Vec<i32> = (0..100)
            .map(|_| table.insert(200, |id, _| Arc::new(Thing(-id))))
            .map(|made| made.map_or(-1, |thing| -thing.0))
            .collect();
        assert_eq!(ids, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn keys_lead_to_objects_until_forgotten() {
        let mut table = Table::default();
        let id = add(&mut table, 77);
        assert_eq!(table.find(77).map(|(id, _)| id), Some(id));
        table.forget_key(77, id);
        assert!(table.find(77).is_none() && table.get(id).is_ok());
        table.next_id = 5 << 15 | 9;
        assert_eq!(add(&mut table, 0), 5 << 15 | 9);
        assert_eq!(table.next_id, -1);
    }
}
