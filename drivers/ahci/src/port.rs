//! A port on the way of a request: slots, the two kinds of commands and their turns, completions.
//!
//! A device works either on commands of its queue (NCQ) or on one of the others: mixing them is an error
//! (ATA8-ACS §4.15). So commands have turns. While commands of one kind are with the device, the others wait, and
//! once one waits no more of the first kind follow; when the device is idle the turn goes over.

use abi::{Errno, Result};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::lock::{IrqLock, LockClass};
use block::{Op, Request, TimeoutAction};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use hw::DmaBuffer;
use sched::{Mutex, WaitQueue};
use spin::Once;

use crate::command::Command;
use crate::device::Attached;
use crate::registers::{PortRegisters, event, status};
use crate::table::{self, Header, SLOTS, Tables};

static PORT: LockClass = LockClass::new("ahci.port", 583);
static COMMANDER: LockClass = LockClass::new("ahci.commander", 547);
static ATTACHED: LockClass = LockClass::new("ahci.attached", 549);

/// What a port is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// There is no device: requests fail.
    Empty,
    Live,
    /// Requests are kept: a command of the driver's own is on its way.
    Paused,
    /// Requests are kept until the device works again, or fail when it does not.
    Recovering,
    /// Requests are kept for ever: the machine goes off.
    Off,
}

/// The two kinds of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Of the device's queue.
    Queued,
    /// One at a time.
    Plain,
}

/// A request that a port has.
pub(crate) struct Pending {
    pub(crate) request: Request,
    pub(crate) is_queued: bool,
    pub(crate) retries: u8,
    bounce: Option<DmaBuffer>,
}

impl Pending {
    /// Ends the request. No lock is held.
    pub(crate) fn end(self, result: Result<()>) {
        if let (Ok(()), Some(buffer), Op::Read) = (result, &self.bounce, self.request.op()) {
            table::unbounce(&self.request, buffer);
        }
        self.request.complete(result);
    }
}

/// Which commands are with the device and which come next; a bit a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turns {
    pub(crate) turn: Turn,
    /// With the device.
    pub(crate) issued: u32,
    pub(crate) ready_queued: u32,
    pub(crate) ready_plain: u32,
    /// The plain command that was issued last: the next one is looked for behind it, so that each comes.
    last: u32,
}

impl Turns {
    pub(crate) const fn new() -> Turns {
        Turns { turn: Turn::Queued, issued: 0, ready_queued: 0, ready_plain: 0, last: 0 }
    }

    pub(crate) fn add(&mut self, slot: usize, is_queued: bool) {
        let bit = 1u32.wrapping_shl(slot as u32);
        if is_queued {
            self.ready_queued |= bit;
        } else {
            self.ready_plain |= bit;
        }
    }

    /// What is to be issued now, a bit a slot; they count as issued.
    #[inline]
    pub(crate) fn next(&mut self) -> u32 {
        if self.issued == 0 {
            let is_plains =
                self.ready_plain != 0 && (self.ready_queued == 0 || self.turn == Turn::Queued);
            self.turn = if is_plains { Turn::Plain } else { Turn::Queued };
        }
        let slots = match self.turn {
            // Somebody waits for this turn to end.
            Turn::Queued if self.issued != 0 && self.ready_plain != 0 => 0,
            Turn::Queued => core::mem::take(&mut self.ready_queued),
            Turn::Plain if self.issued != 0 => 0,
            Turn::Plain => self.take_plain(),
        };
        self.issued |= slots;
        slots
    }

    fn take_plain(&mut self) -> u32 {
        let behind = self.ready_plain & u32::MAX.checked_shl(self.last + 1).unwrap_or(0);
        let from = if behind != 0 { behind } else { self.ready_plain };
        self.last = from.trailing_zeros() & 31;
        let slot = from & from.wrapping_neg();
        self.ready_plain &= !slot;
        slot
    }
}

/// What the lock of a port protects.
pub(crate) struct Lane {
    pub(crate) state: State,
    /// Which device it is; each that comes has another number. Requests for another fail.
    pub(crate) device: u32,
    pub(crate) turns: Turns,
    /// Slots whose command is past its time.
    pub(crate) late: u32,
    /// The header of slot 0's request while a command of the driver's own has its place. A request may come to the
    /// slot meanwhile: its header waits here.
    pub(crate) kept: Option<Header>,
    pub(crate) pending: Vec<Option<Pending>>,
    /// Room for what one pass of [`Port::reap`] takes. Who finds none says that it was there.
    finished: Vec<Pending>,
    was_missed: bool,
}

/// A port.
pub(crate) struct Port {
    /// Its number among all hosts of the machine.
    pub(crate) host: u32,
    /// The PCI function.
    pub(crate) function: alloc::string::String,
    pub(crate) registers: PortRegisters,
    pub(crate) tables: Tables,
    /// The controller's capabilities.
    pub(crate) cap: u32,
    /// How many slots it has.
    pub(crate) slots: usize,
    itself: Once<Weak<Port>>,
    /// A port has a thread once it has had a device.
    has_thread: AtomicBool,
    pub(crate) lane: IrqLock<Lane>,
    /// Who waits for the device to be idle, or to work again.
    pub(crate) idle: WaitQueue,
    /// What the port's thread has to look at: [`event`]s.
    pub(crate) events: AtomicU32,
    pub(crate) attention: WaitQueue,
    /// Held by who gives commands of the driver's own, or repairs.
    pub(crate) commander: Mutex<()>,
    pub(crate) attached: Mutex<Option<Attached>>,
}

/// That the port's thread was woken for no event of the hardware.
pub(crate) const CALLED: u32 = 1 << 5;

impl Port {
    pub(crate) fn new(
        host: u32,
        function: alloc::string::String,
        registers: PortRegisters,
        cap: u32,
        slots: usize,
    ) -> Result<Port> {
        let is_low = cap & crate::registers::cap::ADDRESSES_64 == 0;
        let slots = slots.min(SLOTS);
        let lane = Lane {
            state: State::Empty,
            device: 0,
            turns: Turns::new(),
            late: 0,
            kept: None,
            pending: Vec::new(),
            finished: Vec::new(),
            was_missed: false,
        };
        Ok(Port {
            host,
            function,
            registers,
            tables: Tables::new(is_low)?,
            cap,
            slots,
            itself: Once::new(),
            has_thread: AtomicBool::new(false),
            lane: IrqLock::new(&PORT, lane),
            idle: WaitQueue::new(),
            events: AtomicU32::new(0),
            attention: WaitQueue::new(),
            commander: Mutex::new(&COMMANDER, ()),
            attached: Mutex::new(&ATTACHED, None),
        })
    }

    /// Takes a request with its command and, for a drive of packets, its packet. [`Port::kick`] issues it.
    pub(crate) fn submit(
        &self,
        device: u32,
        request: Request,
        command: &Command,
        packet: Option<[u8; 16]>,
    ) {
        let bounce = match self.tables.bounce(&request) {
            Ok(bounce) => bounce,
            Err(error) => return request.complete(Err(error)),
        };
        if let Err(request) = self.accept(device, request, command, packet, bounce) {
            request.complete(Err(Errno::EIO));
        }
    }

    #[expect(clippy::result_large_err, reason = "giving the request back must not allocate")]
    fn accept(
        &self,
        device: u32,
        request: Request,
        command: &Command,
        packet: Option<[u8; 16]>,
        bounce: Option<DmaBuffer>,
    ) -> core::result::Result<(), Request> {
        let slot = request.tag();
        let mut lane = self.lane.lock();
        let lane = &mut *lane;
        let Some(place) = lane.pending.get_mut(slot) else { return Err(request) };
        // Under the lock: the slot may be another device's by now.
        if lane.state == State::Empty || lane.device != device {
            return Err(request);
        }
        let put = self.tables.put(slot, command, packet, &request, bounce.as_ref());
        let Ok(header) = put else { return Err(request) };
        match &mut lane.kept {
            Some(kept) if slot == 0 => *kept = header,
            _ => self.tables.set_header(slot, header),
        }
        let is_queued = command.is_queued;
        *place = Some(Pending { request, is_queued, retries: 0, bounce });
        lane.turns.add(slot, is_queued);
        Ok(())
    }

    /// Issues what was submitted, as far as it is its turn.
    pub(crate) fn kick(&self) {
        let mut lane = self.lane.lock();
        self.issue(&mut lane);
    }

    #[inline]
    pub(crate) fn issue(&self, lane: &mut Lane) {
        if lane.state != State::Live {
            return;
        }
        match (lane.turns.next(), lane.turns.turn) {
            (0, _) => {}
            (slots, Turn::Queued) => self.registers.issue_queued(slots),
            (slots, Turn::Plain) => self.registers.issue(slots),
        }
    }

    /// The port has raised an interrupt.
    pub(crate) fn interrupt(&self) {
        let events = self.registers.take_events();
        // All ones: the controller is gone.
        if events == !0 {
            return;
        }
        if events & event::TROUBLE != 0 {
            return self.stumble(events);
        }
        self.reap();
    }

    /// Something is wrong: nothing is issued any more, and the port's thread looks at it.
    pub(crate) fn stumble(&self, events: u32) {
        let mut lane = self.lane.lock();
        self.call_for_help(&mut lane, events);
    }

    fn call_for_help(&self, lane: &mut Lane, events: u32) {
        match lane.state {
            State::Off => return,
            State::Live | State::Paused => lane.state = State::Recovering,
            State::Empty | State::Recovering => {}
        }
        self.registers.mask();
        // AcqRel: the thread that takes the events sees the state.
        self.events.fetch_or(events | CALLED, Ordering::AcqRel);
        self.attention.wake_all();
        self.idle.wake_all();
        // Acquire: pairs with the swap in `furnish`.
        if !self.has_thread.load(Ordering::Acquire)
            && let Some(this) = self.itself.get().and_then(Weak::upgrade)
        {
            sched::work::queue(move || this.look_after(this.events.swap(0, Ordering::AcqRel)));
        }
    }

    /// Ends the requests the device has finished; how many.
    pub(crate) fn reap(&self) -> usize {
        let mut total = 0;
        loop {
            let mut finished = {
                let mut lane = self.lane.lock();
                if !matches!(lane.state, State::Live | State::Paused) {
                    return total;
                }
                let mut finished = core::mem::take(&mut lane.finished);
                if finished.capacity() == 0 {
                    // Another processor is in here. It comes back.
                    lane.was_missed = true;
                    return total;
                }
                self.collect(&mut lane, &mut finished);
                finished
            };
            total += finished.len();
            for pending in finished.drain(..) {
                pending.end(Ok(()));
            }
            let mut lane = self.lane.lock();
            lane.finished = finished;
            if !core::mem::replace(&mut lane.was_missed, false) {
                return total;
            }
        }
    }

    fn collect(&self, lane: &mut Lane, finished: &mut Vec<Pending>) {
        let active = match lane.turns.turn {
            Turn::Queued => self.registers.active(),
            Turn::Plain => self.registers.issued(),
        };
        let done = lane.turns.issued & !active;
        // A slot of the queue is cleared by success alone, others by whatever end.
        if done != 0 && lane.turns.turn == Turn::Plain && self.has_failed() {
            return self.call_for_help(lane, event::TASK_FILE);
        }
        lane.take(done, finished);
        self.issue(lane);
        if lane.state == State::Paused && lane.turns.issued == 0 {
            self.idle.wake_all();
        }
    }

    fn has_failed(&self) -> bool {
        self.registers.task_file() & (status::ERROR | status::FAULT) != 0
    }

    /// A request is past its time. An interrupt may have been lost; else the device is reset.
    pub(crate) fn timed_out(&self, device: u32, slot: usize) -> TimeoutAction {
        self.reap();
        let mut lane = self.lane.lock();
        let is_pending = lane.pending.get(slot).is_some_and(Option::is_some);
        if lane.device != device || !is_pending {
            return TimeoutAction::Handled;
        }
        let bit = 1u32.wrapping_shl(slot as u32);
        // What is not with the device waits for what is.
        if matches!(lane.state, State::Live | State::Paused) && lane.turns.issued & bit != 0 {
            log::warn!("ata{}: command {slot} takes too long, resetting", self.host + 1);
            lane.late |= bit;
            self.call_for_help(&mut lane, 0);
        }
        TimeoutAction::Extend
    }

    /// Tells the port where it is.
    pub(crate) fn place(self) -> Arc<Port> {
        let this = Arc::new(self);
        this.itself.call_once(|| Arc::downgrade(&this));
        this
    }

    /// Gives the port what it needs for a device and not without: memory, and the thread.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn furnish(self: &Arc<Self>) -> Result<()> {
        self.tables.make(self.slots)?;
        let room = || core::iter::repeat_with(|| None).take(self.slots).collect();
        let (pending, finished) = (room(), Vec::with_capacity(self.slots));
        {
            let mut lane = self.lane.lock();
            if lane.pending.is_empty() {
                (lane.pending, lane.finished) = (pending, finished);
            }
        }
        // AcqRel: who sees it wakes the thread.
        if !self.has_thread.swap(true, Ordering::AcqRel) {
            let this = self.clone();
            sched::spawn_kernel(&alloc::format!("scsi_eh_{}", self.host), move || this.attend());
        }
        Ok(())
    }
}

impl Lane {
    /// Takes requests from slots, a bit each.
    pub(crate) fn take(&mut self, slots: u32, into: &mut Vec<Pending>) {
        self.turns.issued &= !slots;
        let mut left = slots;
        while left != 0 {
            let slot = left.trailing_zeros();
            left &= left - 1;
            // There is room for all slots.
            if let Some(pending) = self.pending.get_mut(slot as usize).and_then(Option::take) {
                into.push(pending);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queued_commands_go_together_and_others_alone() {
        let mut turns = Turns::new();
        for slot in 0..4 {
            turns.add(slot, true);
        }
        assert_eq!((turns.next(), turns.turn), (0b1111, Turn::Queued));
        turns.add(4, true);
        assert_eq!(turns.next(), 0b1_0000, "the device takes more");
        turns.add(5, false);
        turns.add(6, true);
        assert_eq!(turns.next(), 0, "a flush waits: no more before it");
        turns.issued = 0;
        assert_eq!((turns.next(), turns.turn), (1 << 5, Turn::Plain));
        assert_eq!(turns.next(), 0, "and none beside it");
        turns.add(7, false);
        turns.issued = 0;
        assert_eq!((turns.next(), turns.turn), (1 << 6, Turn::Queued), "kinds alternate");
        turns.issued = 0;
        assert_eq!((turns.next(), turns.turn), (1 << 7, Turn::Plain));
        turns.issued = 0;
        assert_eq!(turns.next(), 0);
    }

    #[test]
    fn each_plain_command_comes() {
        let mut turns = Turns::new();
        (0..32).for_each(|slot| turns.add(slot, false));
        let mut seen = 0;
        for _ in 0..32 {
            let slot = turns.next();
            assert_eq!((slot.count_ones(), seen & slot), (1, 0));
            seen |= slot;
            turns.issued = 0;
            // The lowest one comes again at once.
            turns.add(0, false);
        }
        assert_eq!(seen, u32::MAX);
    }
}
