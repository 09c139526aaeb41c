//! The state of a queue: messages, who waits to send and to receive.

use super::Totals;
use crate::{Perm, Who};
use abi::ipc::MsqidDs;
use abi::{Errno, Result};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::Ordering;
use sched::WaitQueue;

static RESULT: LockClass = LockClass::new("ipc.msg_result", 649);

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type, above zero.
    pub kind: i64,
    /// Its text.
    pub data: Vec<u8>,
}

/// Which messages `msgrcv(2)` takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Select {
    /// The first.
    Any,
    /// The first of a type.
    Kind(i64),
    /// The first that is not of a type.
    Except(i64),
    /// The first of the lowest type up to this one.
    UpTo(i64),
}

impl Select {
    fn accepts(self, kind: i64) -> bool {
        match self {
            Select::Any => true,
            Select::Kind(own) => kind == own,
            Select::Except(other) => kind != other,
            Select::UpTo(highest) => kind <= highest,
        }
    }
}

/// Somebody who waits, and what comes of it.
pub(super) struct Waiter<T> {
    arrival: u64,
    who: Who,
    result: SpinLock<Option<Result<T>>>,
    pub(super) queue: WaitQueue,
}

impl<T> Waiter<T> {
    fn new(arrival: u64, who: Who) -> Arc<Waiter<T>> {
        let result = SpinLock::new(&RESULT, None);
        Arc::new(Waiter { arrival, who, result, queue: WaitQueue::new() })
    }

    /// The result, once.
    pub(super) fn outcome(&self) -> Option<Result<T>> {
        self.result.lock().take()
    }

    fn finish(&self, result: Result<T>) {
        *self.result.lock() = Some(result);
        self.queue.wake_all();
    }
}

struct Receiving {
    select: Select,
    size: usize,
    truncate: bool,
    waiter: Arc<Waiter<Message>>,
}

struct Sending {
    message: Message,
    waiter: Arc<Waiter<()>>,
}

/// A queue's state, under its lock.
pub(super) struct State {
    pub(super) perm: Perm,
    pub(super) ctime: i64,
    pub(super) sender: Option<Who>,
    pub(super) receiver: Option<Who>,
    stime: i64,
    rtime: i64,
    bytes: u64,
    room: u64,
    is_removed: bool,
    next: u64,
    messages: BTreeMap<u64, Message>,
    by_kind: BTreeSet<(i64, u64)>,
    receivers: BTreeMap<u64, Receiving>,
    senders: BTreeMap<u64, Sending>,
    totals: Arc<Totals>,
}

impl State {
    pub(super) fn new(perm: Perm, room: u64, now: i64, totals: Arc<Totals>) -> State {
        State {
            perm,
            ctime: now,
            sender: None,
            receiver: None,
            stime: 0,
            rtime: 0,
            bytes: 0,
            room,
            is_removed: false,
            next: 0,
            messages: BTreeMap::new(),
            by_kind: BTreeSet::new(),
            receivers: BTreeMap::new(),
            senders: BTreeMap::new(),
            totals,
        }
    }

    /// `EIDRM` after the end.
    pub(super) fn check_alive(&self) -> Result<()> {
        if self.is_removed { Err(Errno::EIDRM) } else { Ok(()) }
    }

    pub(super) fn numbers(&self) -> MsqidDs {
        MsqidDs {
            stime: self.stime,
            rtime: self.rtime,
            ctime: self.ctime,
            cbytes: self.bytes,
            qnum: self.messages.len() as u64,
            qbytes: self.room,
            ..MsqidDs::default()
        }
    }

    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// msgsnd(2): both the bytes and the number of messages are bounded by `msg_qbytes`.
    pub(super) fn has_room_for(&self, message: &Message) -> bool {
        self.bytes + message.data.len() as u64 <= self.room
            && (self.messages.len() as u64) < self.room
    }

    /// Hands a message to a waiting receiver, or keeps it.
    pub(super) fn take_in(&mut self, message: Message, who: Who, now: i64) {
        self.sender = Some(who);
        self.stime = now;
        if let Some(message) = self.hand_over(message, now) {
            let ticket = self.ticket();
            self.bytes += message.data.len() as u64;
            self.totals.messages.fetch_add(1, Ordering::Relaxed);
            self.totals.bytes.fetch_add(message.data.len() as i64, Ordering::Relaxed);
            self.by_kind.insert((message.kind, ticket));
            self.messages.insert(ticket, message);
        }
    }

    /// Gives the message back if nobody waits for it.
    fn hand_over(&mut self, message: Message, now: i64) -> Option<Message> {
        loop {
            let fits = self.receivers.iter().find(|(_, r)| r.select.accepts(message.kind));
            let arrival = fits.map(|(&arrival, _)| arrival);
            let Some(receiving) = arrival.and_then(|at| self.receivers.remove(&at)) else {
                return Some(message);
            };
            if message.data.len() > receiving.size && !receiving.truncate {
                receiving.waiter.finish(Err(Errno::E2BIG));
                continue;
            }
            self.receiver = Some(receiving.waiter.who.clone());
            self.rtime = now;
            receiving.waiter.finish(Ok(message));
            return None;
        }
    }

    /// The first message that is wanted.
    pub(super) fn find(&self, select: Select) -> Option<u64> {
        match select {
            Select::Any => self.messages.first_key_value().map(|(&ticket, _)| ticket),
            Select::Kind(kind) => {
                self.by_kind.range((kind, 0)..=(kind, u64::MAX)).next().map(|entry| entry.1)
            }
            Select::Except(kind) => {
                self.messages.iter().find(|(_, m)| m.kind != kind).map(|(&ticket, _)| ticket)
            }
            Select::UpTo(kind) => {
                self.by_kind.first().filter(|entry| entry.0 <= kind).map(|entry| entry.1)
            }
        }
    }

    /// The message at a position.
    pub(super) fn at(&self, position: usize) -> Option<&Message> {
        self.messages.values().nth(position)
    }

    /// Takes a message out; waiting senders get its room.
    pub(super) fn take_out(
        &mut self,
        ticket: u64,
        size: usize,
        truncate: bool,
        who: &Who,
        now: i64,
    ) -> Result<Message> {
        let message = self.messages.get(&ticket).ok_or(Errno::ENOMSG)?;
        if message.data.len() > size && !truncate {
            return Err(Errno::E2BIG);
        }
        let message = self.messages.remove(&ticket).ok_or(Errno::ENOMSG)?;
        self.by_kind.remove(&(message.kind, ticket));
        self.bytes -= message.data.len() as u64;
        self.totals.messages.fetch_sub(1, Ordering::Relaxed);
        self.totals.bytes.fetch_sub(message.data.len() as i64, Ordering::Relaxed);
        self.receiver = Some(who.clone());
        self.rtime = now;
        self.admit(now);
        Ok(message)
    }

    /// Takes in what waiting senders have, as far as there is room.
    fn admit(&mut self, now: i64) {
        let mut from = 0;
        while let Some((&arrival, sending)) = self.senders.range(from..).next() {
            from = arrival + 1;
            if !self.has_room_for(&sending.message) {
                continue;
            }
            if let Some(sending) = self.senders.remove(&arrival) {
                self.take_in(sending.message, sending.waiter.who.clone(), now);
                sending.waiter.finish(Ok(()));
            }
        }
    }

    /// Changes `msg_qbytes`.
    pub(super) fn set_room(&mut self, room: u64, now: i64) {
        self.room = room;
        self.admit(now);
    }

    pub(super) fn wait_to_send(&mut self, message: Message, who: Who) -> Arc<Waiter<()>> {
        let arrival = self.ticket();
        let waiter = Waiter::new(arrival, who);
        self.senders.insert(arrival, Sending { message, waiter: waiter.clone() });
        waiter
    }

    pub(super) fn wait_to_receive(
        &mut self,
        select: Select,
        size: usize,
        truncate: bool,
        who: Who,
    ) -> Arc<Waiter<Message>> {
        let arrival = self.ticket();
        let waiter = Waiter::new(arrival, who);
        let receiving = Receiving { select, size, truncate, waiter: waiter.clone() };
        self.receivers.insert(arrival, receiving);
        waiter
    }

    /// A signal came: the sender leaves unless its message is in.
    pub(super) fn stop_sending(&mut self, waiter: &Waiter<()>) -> Result<()> {
        self.senders.remove(&waiter.arrival);
        waiter.outcome().unwrap_or(Err(Errno::ERESTARTNOHAND))
    }

    /// A signal came: the receiver leaves unless it has got a message.
    pub(super) fn stop_receiving(&mut self, waiter: &Waiter<Message>) -> Result<Message> {
        self.receivers.remove(&waiter.arrival);
        waiter.outcome().unwrap_or(Err(Errno::ERESTARTNOHAND))
    }

    /// The queue is removed: everybody gets `EIDRM`, the messages go.
    pub(super) fn end(&mut self) {
        self.is_removed = true;
        for receiving in core::mem::take(&mut self.receivers).values() {
            receiving.waiter.finish(Err(Errno::EIDRM));
        }
        for sending in core::mem::take(&mut self.senders).values() {
            sending.waiter.finish(Err(Errno::EIDRM));
        }
        self.totals.messages.fetch_sub(self.messages.len() as i64, Ordering::Relaxed);
        self.totals.bytes.fetch_sub(self.bytes as i64, Ordering::Relaxed);
        self.messages.clear();
        self.by_kind.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who() -> Who {
        Arc::new(())
    }

    fn message(kind: i64, len: usize) -> Message {
        Message { kind, data: alloc::vec![kind as u8; len] }
    }

    fn state(room: u64) -> State {
        State::new(Perm::default(), room, 0, Arc::default())
    }

    #[test]
    fn selection_by_type() {
        let mut state = state(100);
        for kind in [5, 3, 9, 3] {
            state.take_in(message(kind, 1), who(), 1);
        }
        let kind = |state: &State, select| state.find(select).map(|t| state.messages[&t].kind);
        assert_eq!(kind(&state, Select::Any), Some(5));
        assert_eq!(kind(&state, Select::Kind(9)), Some(9));
        assert_eq!(kind(&state, Select::Kind(4)), None);
        assert_eq!(kind(&state, Select::Except(5)), Some(3));
        assert_eq!(kind(&state, Select::UpTo(6)), Some(3));
        assert_eq!(kind(&state, Select::UpTo(2)), None);
        let first = state.find(Select::UpTo(6)).expect("there");
        assert_eq!(state.take_out(first, 0, false, &who(), 2), Err(Errno::E2BIG));
        assert!(state.take_out(first, 0, true, &who(), 2).is_ok());
        assert_eq!((state.bytes, state.messages.len()), (3, 3));
        assert_eq!(state.at(1).map(|m| m.kind), Some(9));
    }

    #[test]
    fn messages_go_to_who_waits() {
        let mut state = state(10);
        let small = state.wait_to_receive(Select::Any, 1, false, who());
        let other = state.wait_to_receive(Select::Kind(2), 9, false, who());
        state.take_in(message(2, 4), who(), 1);
        assert_eq!(small.outcome(), Some(Err(Errno::E2BIG)));
        assert_eq!(other.outcome(), Some(Ok(message(2, 4))));
        assert!(state.messages.is_empty());
        state.take_in(message(1, 8), who(), 1);
        let late = state.wait_to_send(message(7, 9), who());
        let next = state.wait_to_send(message(8, 2), who());
        state.set_room(10, 2);
        assert!(late.outcome().is_none() && next.outcome() == Some(Ok(())));
        let first = state.find(Select::Any).expect("there");
        state.take_out(first, 8, false, &who(), 3).expect("fits");
        assert!(late.outcome().is_none());
        state.end();
        assert_eq!(late.outcome(), Some(Err(Errno::EIDRM)));
        assert_eq!(state.totals.bytes.load(Ordering::Relaxed), 0);
    }
}
