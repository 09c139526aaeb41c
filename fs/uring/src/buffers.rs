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
/// Rows of buffers in all lists of an instance.
const MOST: usize = 1 << 20;

/// Most bytes of one, as read(2) says of transfers.
const MOST_BYTES: usize = 0x7fff_f000;

/// A buffer that was taken from a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    group: u16,
    /// Which of the groups that had this number.
    serial: u64,
    id: u16,
    addr: u64,
    len: u32,
}

impl Picked {
    /// Its memory, or less of it if less is wanted; 0 wants all.
    pub fn segment(&self, wanted: usize) -> Segment {
        let len = (self.len as usize).min(MOST_BYTES);
        let len = if wanted == 0 { len } else { wanted.min(len) };
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
    /// Rows in lists.
    rows: usize,
    /// How many groups there were ever.
    serial: u64,
}

struct Group {
    serial: u64,
    kind: Kind,
}

enum Kind {
    /// `IORING_OP_PROVIDE_BUFFERS`.
    List(VecDeque<Row>),
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
    fn pick(&mut self, group: u16, serial: u64) -> Option<Picked> {
        if let Some(picked) = self.back.pop() {
            return Some(picked);
        }
        let tail = (self.held.word(TAIL)? >> 16) as u16;
        if tail == self.head {
            return None;
        }
        let [addr, rest]: [u64; 2] = self.held.value(usize::from(self.head & self.mask) * EACH)?;
        self.head = self.head.wrapping_add(1);
        Some(Picked { group, serial, id: (rest >> 32) as u16, addr, len: rest as u32 })
    }
}

/// Buffers next to each other.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) count: u32,
    pub(crate) first: u16,
}

impl Row {
    /// Takes the first `count` off.
    fn advance(&mut self, count: u32) {
        self.addr = self.addr.wrapping_add(u64::from(count) * u64::from(self.len));
        self.first = self.first.wrapping_add(count as u16);
        self.count -= count;
    }

    /// Whether `next` goes on where this ends.
    fn is_before(&self, next: &Row) -> bool {
        let mut end = *self;
        end.advance(self.count);
        (end.addr, end.len, end.first) == (next.addr, next.len, next.first)
    }
}

impl Groups {
    pub(crate) fn new() -> Groups {
        Groups(SpinLock::new(&CLASS, Inner::default()))
    }

    fn pick(&self, group: u16) -> Result<Picked> {
        let mut inner = self.0.lock();
        let Inner { groups, rows, .. } = &mut *inner;
        let Group { serial, kind } = groups.get_mut(&group).ok_or(Errno::ENOBUFS)?;
        let list = match kind {
            Kind::List(list) => list,
            Kind::Ring(ring) => return ring.pick(group, *serial).ok_or(Errno::ENOBUFS),
        };
        let row = list.front_mut().ok_or(Errno::ENOBUFS)?;
        let Row { addr, len, first, .. } = *row;
        row.advance(1);
        if row.count == 0 {
            list.pop_front();
            *rows -= 1;
        }
        Ok(Picked { group, serial: *serial, id: first, addr, len })
    }

    fn put_back(&self, picked: Picked) {
        let mut inner = self.0.lock();
        let Inner { groups, rows, .. } = &mut *inner;
        // Else the group is gone, and its buffers with it.
        let Some(group) = groups.get_mut(&picked.group) else { return };
        if group.serial != picked.serial {
            return;
        }
        let list = match &mut group.kind {
            Kind::List(list) => list,
            Kind::Ring(ring) => return ring.back.push(picked),
        };
        let mut row = Row { addr: picked.addr, len: picked.len, count: 1, first: picked.id };
        match list.front_mut() {
            Some(front) if row.is_before(front) => {
                row.count += front.count;
                *front = row;
            }
            _ => {
                list.push_front(row);
                *rows += 1;
            }
        }
    }

    /// `IORING_OP_PROVIDE_BUFFERS`.
    pub(crate) fn provide(&self, group: u16, row: &Row) -> Result<()> {
        let mut inner = self.0.lock();
        let Inner { groups, rows, serial } = &mut *inner;
        let make = || {
            *serial += 1;
            Group { serial: *serial, kind: Kind::List(VecDeque::new()) }
        };
        let Kind::List(list) = &mut groups.entry(group).or_insert_with(make).kind else {
            return Err(Errno::EINVAL);
        };
        if let Some(last) = list.back_mut()
            && last.is_before(row)
            && let Some(count) = last.count.checked_add(row.count)
        {
            last.count = count;
            return Ok(());
        }
        if *rows >= MOST {
            return Err(Errno::ENOMEM);
        }
        list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        list.push_back(*row);
        *rows += 1;
        Ok(())
    }

    /// `IORING_OP_REMOVE_BUFFERS`: how many there were of so many.
    pub(crate) fn remove(&self, group: u16, most: u32) -> Result<usize> {
        let mut inner = self.0.lock();
        let Inner { groups, rows, .. } = &mut *inner;
        let Kind::List(list) = &mut groups.get_mut(&group).ok_or(Errno::ENOENT)?.kind else {
            return Err(Errno::EINVAL);
        };
        let mut left = most;
        while left > 0
            && let Some(row) = list.front_mut()
        {
            let count = row.count.min(left);
            row.advance(count);
            left -= count;
            if row.count == 0 {
                list.pop_front();
                *rows -= 1;
            }
        }
        Ok((most - left) as usize)
    }

    fn add_ring(&self, group: u16, ring: Ring) -> Result<()> {
        let mut inner = self.0.lock();
        match inner.groups.get(&group).map(|group| &group.kind) {
            Some(Kind::List(list)) if list.is_empty() => {}
            Some(_) => return Err(Errno::EEXIST),
            None => {}
        }
        inner.serial += 1;
        let new = Group { serial: inner.serial, kind: Kind::Ring(ring) };
        inner.groups.insert(group, new);
        Ok(())
    }

    fn remove_ring(&self, group: u16) -> Result<()> {
        let mut inner = self.0.lock();
        match inner.groups.get(&group).map(|group| &group.kind) {
            Some(Kind::Ring(_)) => {}
            None if group >= ALWAYS_THERE => return Err(Errno::ENOENT),
            _ => return Err(Errno::EINVAL),
        }
        let gone = inner.groups.remove(&group);
        drop(inner);
        drop(gone);
        Ok(())
    }

    pub(crate) fn clear(&self) {
        let mut inner = self.0.lock();
        let gone = core::mem::take(&mut inner.groups);
        inner.rows = 0;
        drop(inner);
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
        groups.provide(3, &row(0, 1 << 16)).unwrap();
        groups.provide(3, &row(9, 2)).unwrap();
        assert_eq!(groups.remove(3, 10), Ok(10));
        assert_eq!(groups.pick(3).unwrap().id, 10);
        assert_eq!(groups.remove(3, u32::MAX), Ok((1 << 16) - 9));
        assert_eq!(groups.remove(3, 100), Ok(0));
        assert_eq!(groups.0.lock().rows, 0);
    }

    #[test]
    fn rows_that_go_on_are_one() {
        let groups = Groups::new();
        for index in 0..100u16 {
            let addr = 0x1000 + 64 * u64::from(index);
            groups.provide(1, &Row { addr, len: 64, count: 1, first: index }).unwrap();
        }
        assert_eq!(groups.0.lock().rows, 1);
        let picked: Vec<Picked> = (0..3).map(|_| groups.pick(1).unwrap()).collect();
        assert_eq!(picked.iter().map(|picked| picked.id).collect::<Vec<u16>>(), [0, 1, 2]);
        picked.into_iter().rev().for_each(|picked| groups.put_back(picked));
        assert_eq!(groups.0.lock().rows, 1);
        assert_eq!(groups.remove(1, 1000), Ok(100));
    }

    #[test]
    fn a_buffer_of_a_group_that_is_gone_does_not_come_back() {
        let groups = Groups::new();
        groups.provide(70, &row(0, 1)).unwrap();
        let old = groups.pick(70).unwrap();
        let ring = Ring { held: Held::of(Vec::new()), mask: 0, head: 0, back: Vec::new() };
        groups.add_ring(70, ring).unwrap();
        groups.put_back(old);
        assert_eq!(groups.pick(70), Err(Errno::ENOBUFS));
        groups.remove_ring(70).unwrap();
        groups.provide(70, &row(5, 1)).unwrap();
        groups.put_back(old);
        assert_eq!(groups.pick(70).unwrap().id, 5);
        assert_eq!(groups.pick(70), Err(Errno::ENOBUFS));
    }
}
