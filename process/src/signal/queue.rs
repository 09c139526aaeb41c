//! Pending signals of a thread or a process: a set and the records that came with them.
//!
//! Records are allocated by the sender before it takes a lock, so that nothing here allocates.
//! Standard signals are pending once; real-time ones queue in order.

use crate::user::User;
use abi::signal::{SigInfo, SigSet, Signal, si};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

/// A record in a queue; it counts against a user until it is dropped.
pub struct Record {
    pub(crate) info: SigInfo,
    charge: Charge,
    next: Option<Box<Record>>,
}

/// What a record counts against.
enum Charge {
    Nobody,
    User(Arc<User>),
    Room(Arc<Room>),
}

/// Room for one record at a time, charged to a user as long as it is there.
pub struct Room {
    user: Arc<User>,
    is_taken: AtomicBool,
}

impl Room {
    /// Room in what `user` may have queued, if that is less than `limit`.
    pub fn new(user: Arc<User>, limit: u64) -> Option<Arc<Room>> {
        let fits = user.charge_signal(limit);
        fits.then(|| Arc::new(Room { user, is_taken: AtomicBool::new(false) }))
    }

    /// A record in this room; `None` while there is one.
    pub fn record(self: &Arc<Room>, info: SigInfo) -> Option<Box<Record>> {
        // Acquire: pairs with the Release in the drop of the last record.
        let is_free = !self.is_taken.swap(true, Ordering::Acquire);
        let charge = || Charge::Room(self.clone());
        is_free.then(|| Box::new(Record { info, charge: charge(), next: None }))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.user.uncharge_signal();
    }
}

impl Record {
    /// A record, charged to `user` if there is one.
    pub fn new(info: SigInfo, user: Option<Arc<User>>) -> Box<Record> {
        let charge = user.map_or(Charge::Nobody, Charge::User);
        Box::new(Record { info, charge, next: None })
    }

    /// Puts `rest` behind `first`, for dropping both later.
    pub(crate) fn chain(mut first: Box<Record>, rest: Option<Box<Record>>) -> Box<Record> {
        let mut at = &mut first.next;
        while let Some(record) = at {
            at = &mut record.next;
        }
        *at = rest;
        first
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        match &self.charge {
            Charge::Nobody => {}
            Charge::User(user) => user.uncharge_signal(),
            Charge::Room(room) => room.is_taken.store(false, Ordering::Release),
        }
        // Long lists must not recurse.
        let mut next = self.next.take();
        while let Some(mut record) = next {
            next = record.next.take();
        }
    }
}

/// Pending signals.
#[derive(Default)]
pub struct Pending {
    set: SigSet,
    /// Oldest first.
    front: Option<Box<Record>>,
    /// Newest first; moved to `front` when a search reaches its end.
    back: Option<Box<Record>>,
}

impl Pending {
    /// Nothing is pending.
    pub const fn new() -> Pending {
        Pending { set: SigSet::EMPTY, front: None, back: None }
    }

    /// The pending signals.
    pub fn set(&self) -> SigSet {
        self.set
    }

    /// Adds `signal`; without a record only the fact that it was sent is kept.
    pub fn push(&mut self, signal: Signal, record: Option<Box<Record>>) {
        self.set.add(signal);
        if let Some(mut record) = record {
            record.next = self.back.take();
            self.back = Some(record);
        }
    }

    fn merge(&mut self) {
        let mut reversed = None;
        let mut at = self.back.take();
        while let Some(mut record) = at {
            at = record.next.take();
            record.next = reversed;
            reversed = Some(record);
        }
        let mut tail = &mut self.front;
        while let Some(record) = tail {
            tail = &mut record.next;
        }
        *tail = reversed;
    }

    /// Takes the oldest record of `signal` out of `front`; the flag says whether more follow.
    fn unlink(&mut self, signal: Signal) -> (Option<Box<Record>>, bool) {
        let wanted = signal.raw() as i32;
        let mut found = None;
        let mut at = &mut self.front;
        loop {
            match at {
                None => break,
                Some(record) if record.info.signo == wanted => {
                    let next = record.next.take();
                    found = core::mem::replace(at, next);
                    break;
                }
                Some(record) => at = &mut record.next,
            }
        }
        let mut rest = if found.is_some() { at.as_deref() } else { None };
        while let Some(record) = rest {
            if record.info.signo == wanted {
                return (found, true);
            }
            rest = record.next.as_deref();
        }
        (found, false)
    }

    /// Takes one instance of `signal`, with its record or a made-up one. The record comes back
    /// so that the caller drops it without holding locks.
    pub fn take(&mut self, signal: Signal) -> Option<(SigInfo, Option<Box<Record>>)> {
        if !self.set.contains(signal) {
            return None;
        }
        if self.back.is_some() {
            self.merge();
        }
        let (found, more) = self.unlink(signal);
        if !more {
            self.set.remove(signal);
        }
        let info =
            found.as_ref().map_or_else(|| SigInfo::from_user(signal, si::USER, 0, 0), |r| r.info);
        Some((info, found))
    }

    /// Takes the most urgent signal outside `blocked`: synchronous ones first, then the lowest.
    pub fn dequeue(&mut self, blocked: SigSet) -> Option<(Signal, SigInfo, Option<Box<Record>>)> {
        let signal = next_signal(self.set, blocked)?;
        let (info, record) = self.take(signal)?;
        Some((signal, info, record))
    }

    /// Forgets every instance of the signals in `set`; the records come back to be dropped.
    #[must_use]
    pub fn discard(&mut self, set: SigSet) -> Option<Box<Record>> {
        if self.set.intersection(set).is_empty() {
            return None;
        }
        self.merge();
        self.set = self.set.minus(set);
        let mut dropped = None;
        let mut at = &mut self.front;
        while at.is_some() {
            let matches = at
                .as_ref()
                .and_then(|r| r.info.signal())
                .is_some_and(|signal| set.contains(signal));
            if matches {
                if let Some(mut record) = at.take() {
                    *at = record.next.take();
                    record.next = dropped;
                    dropped = Some(record);
                }
            } else if let Some(record) = at {
                at = &mut record.next;
            }
        }
        dropped
    }

    /// Applies `change` to the newest pending record of `signal` that satisfies it.
    pub fn update(&mut self, signal: Signal, mut change: impl FnMut(&mut SigInfo) -> bool) -> bool {
        for list in [&mut self.back, &mut self.front] {
            let mut at = list.as_mut();
            while let Some(record) = at {
                if record.info.signo == signal.raw() as i32 && change(&mut record.info) {
                    return true;
                }
                at = record.next.as_mut();
            }
        }
        false
    }
}

/// The signal of `pending` to deliver next, if one is not in `blocked`.
pub fn next_signal(pending: SigSet, blocked: SigSet) -> Option<Signal> {
    let ready = pending.minus(blocked);
    ready.intersection(SigSet::SYNCHRONOUS).first().or(ready.first())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(signal: Signal, value: u64) -> Option<Box<Record>> {
        Some(Record::new(SigInfo::with_value(signal, si::QUEUE, 1, 1, value), None))
    }

    #[test]
    fn realtime_signals_keep_their_order() {
        let rt = Signal::new(40).expect("signal");
        let mut p = Pending::new();
        for value in 0..5 {
            p.push(rt, record(rt, value));
        }
        p.push(Signal::SIGUSR1, record(Signal::SIGUSR1, 9));
        let (signal, ..) = p.dequeue(SigSet::EMPTY).expect("pending");
        assert_eq!(signal, Signal::SIGUSR1);
        for value in 0..5 {
            let (signal, info, _) = p.dequeue(SigSet::EMPTY).expect("pending");
            assert_eq!((signal, info.fields[1]), (rt, value));
        }
        assert!(p.dequeue(SigSet::EMPTY).is_none());
    }

    #[test]
    fn a_room_holds_one_record_and_is_charged_once() {
        let user = User::of(4711);
        let info = SigInfo::with_value(Signal::SIGALRM, si::TIMER, 0, 0, 0);
        let room = Room::new(user.clone(), 1).expect("room");
        assert!(Room::new(user.clone(), 1).is_none());
        // At the limit: the room is paid for.
        let record = room.record(info).expect("free");
        assert_eq!(user.signals(), 1);
        assert!(room.record(info).is_none());
        drop(record);
        let record = room.record(info).expect("free again");
        drop(room);
        assert_eq!(user.signals(), 1);
        drop(record);
        assert_eq!(user.signals(), 0);
    }

    #[test]
    fn synchronous_signals_come_first() {
        let mut p = Pending::new();
        p.push(Signal::SIGHUP, None);
        p.push(Signal::SIGSEGV, None);
        assert_eq!(p.dequeue(SigSet::EMPTY).expect("pending").0, Signal::SIGSEGV);
        assert!(p.dequeue(SigSet::of(Signal::SIGHUP)).is_none());
    }

    proptest! {
        #[test]
        fn behaves_like_a_list(ops in prop::collection::vec((0u8..3, 1i32..=64), 0..200)) {
            let mut p = Pending::new();
            let mut model: Vec<i32> = Vec::new();
            for (op, nr) in ops {
                let signal = Signal::new(nr).expect("in range");
                match op {
                    0 => { p.push(signal, record(signal, 0)); model.push(nr); }
                    1 => {
                        let got = p.take(signal).is_some();
                        let at = model.iter().position(|&n| n == nr);
                        prop_assert_eq!(got, at.is_some());
                        if let Some(at) = at { model.remove(at); }
                    }
                    _ => {
                        drop(p.discard(SigSet::of(signal)));
                        model.retain(|&n| n != nr);
                    }
                }
                for n in 1..=64 {
                    let signal = Signal::new(n).expect("in range");
                    prop_assert_eq!(p.set().contains(signal), model.contains(&n));
                }
            }
        }
    }
}
