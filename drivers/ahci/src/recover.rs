//! When something goes wrong, and when a device comes or goes: the thread of each port.
//!
//! | what happened | what is done |
//! | --- | --- |
//! | a queued command failed | the error log (page 10h) says which; the others are issued again |
//! | another one failed | it was the one with the device; a drive of packets is asked for sense data |
//! | the link or the controller failed, a command takes too long | the link is reset, all are issued again |
//! | the device is gone, or does not come back | its requests fail with `EIO`, the disk is removed |
//! | a device came | it becomes a disk |

use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use block::Disk;
use core::sync::atomic::Ordering;
use scsi::Condition;

use crate::command::{Command, DeviceError, ERROR_LOG_LEN, failed_tag};
use crate::device::{Attached, Served};
use crate::engine::Kind;
use crate::port::{Pending, Port, State, Turn};
use crate::registers::{event, status};
use crate::table::SLOTS;

/// How often a command is tried again.
const RETRIES: u8 = 5;
/// How often a device is reset before it is given up.
const RESETS: u32 = 3;
/// How long a drive that becomes ready is given before it is asked again.
const SOON_NS: u64 = 500_000_000;
/// A plug that goes in slowly makes and breaks contact.
const DEBOUNCE_NS: u64 = 100_000_000;

/// What a command that failed comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    Again,
    Failed(Errno),
}

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// The command in this slot.
    One(u32, Verdict),
    /// Any of those that were with the device, as the link was reset.
    Any,
}

/// What has to be done when nothing is held any more.
struct Outcome {
    ended: Vec<(Pending, Result<()>)>,
    gone: Option<Arc<Disk>>,
}

/// The commands that were with the device when it stumbled.
struct Scene {
    turn: Turn,
    issued: u32,
    late: u32,
    task_file: u32,
}

impl Port {
    /// The thread of the port; it ends never.
    pub(crate) fn attend(self: Arc<Self>) {
        loop {
            let events = self.attention.wait(|| match self.events.swap(0, Ordering::AcqRel) {
                0 => None,
                events => Some(events),
            });
            self.look_after(events);
        }
    }

    /// Does what events call for. Requests end, and disks come and go, when no lock is held.
    pub(crate) fn look_after(self: &Arc<Self>, events: u32) {
        let mut outcome = Outcome { ended: Vec::with_capacity(2 * SLOTS), gone: None };
        {
            let _guard = self.commander.lock();
            let state = self.lane.lock().state;
            match state {
                State::Empty => self.welcome(),
                State::Recovering => self.recover(events, &mut outcome),
                State::Live | State::Paused | State::Off => {}
            }
        }
        for (pending, result) in outcome.ended {
            pending.end(result);
        }
        if let Some(disk) = outcome.gone {
            log::warn!("ata{}: {} removed", self.host + 1, disk.name());
            disk.remove();
        }
        let is_new = self.attached.lock().as_ref().is_some_and(|new| !new.is_published);
        if is_new {
            // Its partitions are read, for which this thread may be needed.
            let this = self.clone();
            sched::work::queue(move || this.publish());
        }
    }

    /// Something happened at an empty port: a device may have come.
    fn welcome(self: &Arc<Self>) {
        sched::timer::sleep_ns(DEBOUNCE_NS);
        let came = self.begin_reset().and_then(|()| {
            crate::registers::hold_reset();
            self.end_reset();
            self.greet(arch::time::now_ns())
        });
        match came.and_then(|kind| self.attach(kind)) {
            Ok(()) => {}
            Err(Errno::ENODEV) => self.rest(),
            Err(error) => {
                log::warn!("ata{}: a device cannot be used: {error}", self.host + 1);
                self.rest();
            }
        }
    }

    /// Waits for a device to come.
    pub(crate) fn rest(&self) {
        if self.registers.stop().is_err() {
            log::warn!("ata{}: the port does not stop", self.host + 1);
        }
        self.registers.clear_errors();
        self.registers.unmask_link();
    }

    /// What ended before the trouble, and what had not.
    fn take_stock(&self, outcome: &mut Outcome) -> Scene {
        let task_file = self.registers.task_file();
        let has_failed = task_file & (status::ERROR | status::FAULT) != 0;
        let mut finished = Vec::with_capacity(SLOTS);
        let mut lane = self.lane.lock();
        let turn = lane.turns.turn;
        let active = match turn {
            Turn::Queued => self.registers.active(),
            // Its slot may be clear, whatever end it came to.
            Turn::Plain if has_failed => u32::MAX,
            Turn::Plain => self.registers.issued(),
        };
        let done = lane.turns.issued & !active;
        lane.take(done, &mut finished);
        let scene = Scene { turn, issued: lane.turns.issued, late: lane.late, task_file };
        lane.late = 0;
        drop(lane);
        outcome.ended.extend(finished.into_iter().map(|pending| (pending, Ok(()))));
        scene
    }

    fn recover(self: &Arc<Self>, events: u32, outcome: &mut Outcome) {
        self.registers.mask();
        let scene = self.take_stock(outcome);
        let has_stopped = self.registers.stop().is_ok();
        let events = events | self.registers.take_events();
        let Some(attached) = self.attached.lock().clone() else { return self.give_up(outcome) };
        log::warn!(
            "ata{}: events {events:#x}, status {:#04x}, slots {:#x}",
            self.host + 1,
            scene.task_file & 0xffff,
            scene.issued
        );
        let is_of_the_way = events & (event::LINK | event::WAY) != 0
            || scene.late != 0
            || !has_stopped
            || !self.registers.is_linked();
        let blame = match is_of_the_way {
            true => None,
            false => self.find_culprit(&attached, &scene),
        };
        let blame = match blame {
            Some(blame) => blame,
            None if self.bring_back(&attached) => Blame::Any,
            None => return self.give_up(outcome),
        };
        self.judge(&scene, blame, outcome);
        self.resume();
    }

    /// Who is at fault, without a reset of the link; `None` if that does not come out.
    fn find_culprit(&self, attached: &Attached, scene: &Scene) -> Option<Blame> {
        self.restart(attached.kind == Kind::Packets).ok()?;
        if scene.turn == Turn::Queued {
            let mut page = [0; ERROR_LOG_LEN];
            self.read_own(&Command::read_error_log(), &mut page).ok()?;
            let (tag, error) = failed_tag(&page)?;
            // The device names the command: it may name one that does not exist.
            let slot = 1u32.checked_shl(tag as u32).filter(|slot| scene.issued & slot != 0)?;
            return self.verdict(error).map(|verdict| Blame::One(slot, verdict));
        }
        if scene.issued == 0 {
            return Some(Blame::Any);
        }
        let error = DeviceError((scene.task_file >> 8) as u8);
        let verdict = match &attached.driver {
            Served::Disk(_) => self.verdict(error)?,
            Served::Cdrom(drive) => {
                let sense = self.sense().ok()?;
                drive.note(sense);
                match sense.condition() {
                    Condition::Recovered => Verdict::Done,
                    Condition::Again => Verdict::Again,
                    Condition::Soon => {
                        sched::timer::sleep_ns(SOON_NS);
                        Verdict::Again
                    }
                    Condition::Failed(error) => Verdict::Failed(error),
                }
            }
        };
        Some(Blame::One(scene.issued, verdict))
    }

    /// What becomes of a command with this error; `None` if the link is to be reset first.
    fn verdict(&self, error: DeviceError) -> Option<Verdict> {
        log::warn!("ata{}: {error}", self.host + 1);
        match error {
            error if error.is_of_the_link() => None,
            error if error.is_retryable() => Some(Verdict::Again),
            _ => Some(Verdict::Failed(Errno::EIO)),
        }
    }

    /// Resets the link until the same device answers; whether it does.
    fn bring_back(&self, attached: &Attached) -> bool {
        for attempt in 1..=RESETS {
            let found = self.reset().and_then(|kind| Ok((kind, self.identify(kind)?)));
            match found {
                Ok((kind, data)) if attached.is(kind, &data) => return true,
                Ok(_) => return false,
                Err(Errno::ENODEV) => return false,
                Err(error) => {
                    log::warn!("ata{}: reset {attempt} failed: {error}", self.host + 1);
                }
            }
        }
        false
    }

    /// Ends what does not deserve to be tried again.
    fn judge(&self, scene: &Scene, blame: Blame, outcome: &mut Outcome) {
        let mut lane = self.lane.lock();
        lane.turns.issued = 0;
        let slots = match blame {
            Blame::One(slot, _) => slot,
            // Who is late is at fault, and nobody else.
            Blame::Any if scene.late != 0 => scene.late & scene.issued,
            Blame::Any => scene.issued,
        };
        for slot in (0..SLOTS).filter(|slot| slots >> slot & 1 != 0) {
            let Some(place) = lane.pending.get_mut(slot) else { continue };
            let Some(pending) = place.as_mut() else { continue };
            pending.retries = pending.retries.saturating_add(1);
            let result = match blame {
                Blame::One(_, Verdict::Done) => Ok(()),
                Blame::One(_, Verdict::Failed(error)) => Err(error),
                _ if pending.retries > RETRIES => Err(Errno::EIO),
                _ => continue,
            };
            outcome.ended.extend(place.take().map(|pending| (pending, result)));
        }
    }

    /// Issues all that is not done, again.
    fn resume(&self) {
        self.registers.clear_errors();
        {
            let mut lane = self.lane.lock();
            let lane = &mut *lane;
            (lane.turns.issued, lane.turns.ready_queued, lane.turns.ready_plain) = (0, 0, 0);
            for (slot, pending) in lane.pending.iter().enumerate() {
                if let Some(pending) = pending {
                    lane.turns.add(slot, pending.is_queued);
                }
            }
            if lane.state == State::Recovering {
                self.set_live(lane);
            }
        }
        self.idle.wake_all();
        if !self.registers.is_linked() {
            self.stumble(event::LINK);
        }
    }

    /// The device is gone: its requests fail. Another one that is there is welcome.
    fn give_up(self: &Arc<Self>, outcome: &mut Outcome) {
        log::error!("ata{}: the device is gone", self.host + 1);
        outcome.gone = self.detach();
        // The state says that there is none, so nothing is added any more.
        let mut lane = self.lane.lock();
        (lane.turns.issued, lane.turns.ready_queued, lane.turns.ready_plain) = (0, 0, 0);
        let unfinished = lane.pending.iter_mut().filter_map(Option::take);
        outcome.ended.extend(unfinished.map(|pending| (pending, Err(Errno::EIO))));
        drop(lane);
        self.welcome();
    }
}
