//! Provided buffers: groups of them, from which a request takes one when it has something to put there.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use abi::uring::cqe;
use abi::{Errno, Result};
use aio::{Held, Submitter};
use arch::VirtAddr;
use arch::addr::PAGE_SIZE;
use arch::lock::{LockClass, SpinLock};
use arch::uio::Segment;
use vfs::Direction;

use crate::rings::Uring;

static CLASS: LockClass = LockClass::new("uring.buffers", 582);

/// `struct io_uring_buf`.
const EACH: usize = 16;
/// Where the tail of a ring is: the upper half of this word.
const TAIL: usize = 12;
const MOST_IN_RING: u32 = 1 << 15;
/// On Linux groups with smaller numbers are there from the first on: they are rather the wrong kind than missing.
const ALWAYS_THERE: u16 = 64;
/// Buffers of all lists of an instance.
const MOST: usize = 1 << 20;

/// A buffer that was taken from a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    group: u16,
    id: u16,
    addr: u64,
    len: u32,
}

impl Picked {
    /// Its memory, or less of it if less is wanted; 0 wants all.
    pub fn segment(&self, wanted: usize) -> Segment {
        let len = match wanted {
            0 => self.len as usize,
            wanted => wanted.min(self.len as usize),
        };
        Segment { addr: VirtAddr(self.addr), len }
    }

    /// What a completion says of it.
    pub fn flags(&self) -> u32 {
        cqe::BUFFER | u32::from(self.id) << 16
    }
}

/// The groups of an instance, by their numbers.
pub(crate) struct Groups(SpinLock<Inner>);

#[derive(Default)]
struct Inner {
    groups: BTreeMap<u16, Group>,
    /// Buffers in lists.
    count: usize,
}

enum Group {
    /// `IORING_OP_PROVIDE_BUFFERS`.
    List(VecDeque<Picked>),
    /// `IORING_REGISTER_PBUF_RING`.
    Ring(Ring),
}

struct Ring {
    held: Held,
    mask: u16,
    head: u16,
    /// Those that were taken for nothing.
    back: Vec<Picked>,
}

impl Ring {
    fn pick(&mut self, group: u16) -> Option<Picked> {
        if let Some(picked) = self.back.pop() {
            return Some(picked);
        }
        let tail = (self.held.word(TAIL)? >> 16) as u16;
        if tail == self.head {
            return None;
        }
        let [addr, rest]: [u64; 2] = self.held.value(usize::from(self.head & self.mask) * EACH)?;
        self.head = self.head.wrapping_add(1);
        Some(Picked { group, id: (rest >> 32) as u16, addr, len: rest as u32 })
    }
}

/// Buffers next to each other.
pub(crate) struct Row {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) count: u32,
    pub(crate) first: u16,
}

impl Groups {
    pub(crate) fn new() -> Groups {
        Groups(SpinLock::new(&CLASS, Inner::default()))
    }

    fn pick(&self, group: u16) -> Result<Picked> {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        let picked = match inner.groups.get_mut(&group) {
            Some(Group::List(list)) => {
                let picked = list.pop_front();
                inner.count -= usize::from(picked.is_some());
                picked
            }
            Some(Group::Ring(ring)) => ring.pick(group),
            None => None,
        };
        picked.ok_or(Errno::ENOBUFS)
    }

    fn put_back(&self, picked: Picked) {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        match inner.groups.get_mut(&picked.group) {
            Some(Group::List(list)) => {
                list.push_front(picked);
                inner.count += 1;
            }
            Some(Group::Ring(ring)) => ring.back.push(picked),
            // The group is gone, and its buffers with it.
            None => {}
        }
    }

    /// `IORING_OP_PROVIDE_BUFFERS`.
    pub(crate) fn provide(&self, group: u16, row: &Row) -> Result<()> {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        let count = row.count as usize;
        if inner.count.saturating_add(count) > MOST {
            return Err(Errno::ENOMEM);
        }
        let place = inner.groups.entry(group).or_insert_with(|| Group::List(VecDeque::new()));
        let Group::List(list) = place else { return Err(Errno::EINVAL) };
        list.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
        for index in 0..row.count {
            let addr = row.addr.wrapping_add(u64::from(index) * u64::from(row.len));
            let id = row.first.wrapping_add(index as u16);
            list.push_back(Picked { group, id, addr, len: row.len });
        }
        inner.count += count;
        Ok(())
    }

    /// `IORING_OP_REMOVE_BUFFERS`: how many there were of so many.
    pub(crate) fn remove(&self, group: u16, most: usize) -> Result<usize> {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        match inner.groups.get_mut(&group) {
            Some(Group::List(list)) => {
                let count = most.min(list.len());
                list.drain(..count);
                inner.count -= count;
                Ok(count)
            }
            Some(Group::Ring(_)) => Err(Errno::EINVAL),
            None => Err(Errno::ENOENT),
        }
    }

    fn add_ring(&self, group: u16, ring: Ring) -> Result<()> {
        let mut inner = self.0.lock();
        match inner.groups.get(&group) {
            Some(Group::List(list)) if list.is_empty() => {}
            Some(_) => return Err(Errno::EEXIST),
            None => {}
        }
        inner.groups.insert(group, Group::Ring(ring));
        Ok(())
    }

    fn remove_ring(&self, group: u16) -> Result<()> {
        let mut inner = self.0.lock();
        match inner.groups.get(&group) {
            Some(Group::Ring(_)) => {}
            None if group >= ALWAYS_THERE => return Err(Errno::ENOENT),
            _ => return Err(Errno::EINVAL),
        }
        let gone = inner.groups.remove(&group);
        drop(inner);
        drop(gone);
        Ok(())
    }

    pub(crate) fn clear(&self) {
        let gone = core::mem::take(&mut *self.0.lock());
        drop(gone);
    }
}

impl Uring {
    /// Takes a buffer of a group; `ENOBUFS` if there is none.
    pub fn pick(&self, group: u16) -> Result<Picked> {
        self.groups.pick(group)
    }

    /// Gives one back that nothing was put into.
    pub fn put_back(&self, picked: Picked) {
        self.groups.put_back(picked);
    }

    /// `IORING_REGISTER_PBUF_RING`: `entries` buffers, which the program puts into memory at `addr`.
    pub fn register_ring(
        &self,
        who: &Submitter,
        addr: u64,
        entries: u32,
        group: u16,
    ) -> Result<()> {
        if addr == 0 {
            return Err(Errno::EFAULT);
        }
        if !addr.is_multiple_of(PAGE_SIZE as u64)
            || !entries.is_power_of_two()
            || entries > MOST_IN_RING
        {
            return Err(Errno::EINVAL);
        }
        let len = entries as usize * EACH;
        let segment = Segment { addr: VirtAddr(addr), len };
        let held = Held::hold(&*who.space()?, &[segment], Direction::Read)?;
        if held.len() < len {
            return Err(Errno::EFAULT);
        }
        let mask = (entries - 1) as u16;
        self.groups.add_ring(group, Ring { held, mask, head: 0, back: Vec::new() })
    }

    /// `IORING_UNREGISTER_PBUF_RING`.
    pub fn unregister_ring(&self, group: u16) -> Result<()> {
        self.groups.remove_ring(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(first: u16, count: u32) -> Row {
        Row { addr: 0x1000, len: 64, count, first }
    }

    #[test]
    fn buffers_come_in_the_order_they_were_provided_in() {
        let groups = Groups::new();
        assert_eq!(groups.pick(7), Err(Errno::ENOBUFS));
        groups.provide(7, &row(10, 2)).unwrap();
        let first = groups.pick(7).unwrap();
        assert_eq!((first.id, first.addr), (10, 0x1000));
        let second = groups.pick(7).unwrap();
        assert_eq!((second.id, second.addr), (11, 0x1040));
        assert_eq!(groups.pick(7), Err(Errno::ENOBUFS));
        // Nothing came into it: it is the next again.
        groups.put_back(second);
        assert_eq!(groups.pick(7), Ok(second));
    }

    #[test]
    fn removed_buffers_are_counted_and_make_room() {
        let groups = Groups::new();
        assert_eq!(groups.remove(7, 1), Err(Errno::ENOENT));
        for group in 0..16 {
            groups.provide(group, &row(0, 1 << 16)).unwrap();
        }
        assert_eq!(groups.provide(99, &row(0, 1)), Err(Errno::ENOMEM));
        assert_eq!(groups.remove(3, 10), Ok(10));
        groups.provide(99, &row(0, 10)).unwrap();
        assert_eq!(groups.remove(99, 100), Ok(10));
        assert_eq!(groups.remove(99, 100), Ok(0));
    }
}
