//! The last bytes: sending by polling what is queued, before the machine goes off.

use crate::termios::bits_per_character;

use super::*;

/// The longest wait in all, as for the last close of a serial port.
const LONGEST_NS: u64 = 30_000_000_000;
/// How long nothing may move, beyond the time that a full FIFO takes on the wire.
const STUCK_NS: u64 = 1_000_000_000;
/// As often the chip is looked at before it counts as stuck: time may have passed in which this
/// processor did not run.
const LOOKS: u32 = 1000;

/// How much was queued at the first look. Others may go on writing: what comes later is not waited
/// for, or there would be no end.
struct Goal {
    sent_before: i32,
    queued: usize,
}

impl Goal {
    fn new(inner: &Inner) -> Self {
        let queued = inner.transmit.len() + usize::from(inner.urgent.is_some());
        Self { sent_before: inner.counters.tx, queued }
    }

    /// How many bytes the chip has got since, beyond what was queued; `None` while something is left.
    fn surplus(&self, inner: &Inner) -> Option<usize> {
        let sent = inner.counters.tx.wrapping_sub(self.sent_before) as u32 as usize;
        let is_empty = inner.transmit.is_empty() && inner.urgent.is_none();
        sent.checked_sub(self.queued).or(is_empty.then_some(0))
    }
}

impl SerialPort {
    /// Sends what is queued, in any context: interrupts may be off, and after a panic the owner of
    /// the lock may have been stopped. Gives up when nothing moves any more: a chip that is stuck,
    /// or a peer that has stopped the flow.
    pub fn drain(&self) {
        let start = arch::time::now_ns();
        let (mut last_move, mut looks) = (start, 0);
        let mut patience = STUCK_NS;
        let mut goal = None;
        loop {
            let (is_done, has_moved) = match self.inner.try_lock() {
                Some(mut inner) => {
                    patience = STUCK_NS.saturating_add(fifo_time_ns(&inner));
                    let goal = goal.get_or_insert_with(|| Goal::new(&inner));
                    self.send_some(&mut inner, goal)
                }
                None => (false, false),
            };
            let now = arch::time::now_ns();
            if is_done || now.saturating_sub(start) > LONGEST_NS {
                return;
            }
            if has_moved {
                (last_move, looks) = (now, 0);
                continue;
            }
            looks += 1;
            if looks > LOOKS && now.saturating_sub(last_move) > patience {
                return;
            }
            core::hint::spin_loop();
        }
    }

    /// Fills the chip's FIFO if there is something to send and room; whether all that is to be sent
    /// has left the chip, and whether anything was given to it.
    fn send_some(&self, inner: &mut Inner, goal: &Goal) -> (bool, bool) {
        let lsr = self.regs.read8(LSR);
        if let Some(surplus) = goal.surplus(inner) {
            // The FIFO and the byte on the wire have been others' since.
            return (lsr & LSR_EMPTY != 0 || surplus > FIFO_SIZE, false);
        }
        if lsr & LSR_THRE == 0 {
            return (false, false);
        }
        let before = inner.counters.tx;
        self.fill(inner);
        (false, inner.counters.tx != before)
    }
}

/// How long a full FIFO takes at the port's speed.
pub(super) fn fifo_time_ns(inner: &Inner) -> u64 {
    let bits = u64::from(bits_per_character(inner.cflag)) * (FIFO_SIZE as u64 + 1);
    bits * 1_000_000_000 / u64::from(inner.speed.max(1))
}
