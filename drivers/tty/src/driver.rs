//! What a terminal needs from the device behind it.

use abi::termios::{SerialCounters, SerialStruct, Termios2};
use abi::{Errno, Result};

/// The device behind a terminal: a serial port, a pseudo terminal's master, a virtual console.
///
/// [`Driver::write`], [`Driver::write_room`], [`Driver::buffered`], [`Driver::flush_output`],
/// [`Driver::set_stopped`] and [`Driver::throttle`] are called with the terminal's state lock
/// held and must not wait; the others may wait.
pub trait Driver: Send + Sync {
    /// Takes bytes to send; how many. It takes at least as many as [`Driver::write_room`] said.
    fn write(&self, bytes: &[u8]) -> usize;

    /// How many bytes it can take.
    fn write_room(&self) -> usize;

    /// Bytes have been written; called without locks, to wake whoever takes them.
    fn written(&self) {}

    /// How many bytes it has taken and not sent yet.
    fn buffered(&self) -> usize {
        0
    }

    /// Drops what it has not sent.
    fn flush_output(&self) {}

    /// Stops or goes on sending.
    fn set_stopped(&self, is_stopped: bool) {
        let _ = is_stopped;
    }

    /// Asks the other side to pause, or to go on: the input queue is nearly full, or has room.
    fn throttle(&self, is_throttled: bool) {
        let _ = is_throttled;
    }

    /// New settings; corrects in `new` what the device cannot do.
    fn set_termios(&self, new: &mut Termios2, old: &Termios2) {
        let _ = (new, old);
    }

    /// A first or a further open.
    ///
    /// # Errors
    /// Why it cannot be opened.
    fn open(&self, is_first: bool) -> Result<()> {
        let _ = is_first;
        Ok(())
    }

    /// The last close.
    fn close(&self) {}

    /// The line is hung up.
    fn hangup(&self) {}

    /// Whether the line is connected (the carrier is there).
    fn has_carrier(&self) -> bool {
        true
    }

    /// How long sending what is left in the hardware takes at most, after [`Driver::buffered`] is
    /// zero.
    fn drain_ns(&self) -> u64 {
        0
    }

    /// Starts or ends a break.
    ///
    /// # Errors
    /// `ENOTTY` where there is no such thing.
    fn set_break(&self, is_on: bool) -> Result<()> {
        let _ = is_on;
        Err(Errno::ENOTTY)
    }

    /// Sends a flow control byte before everything else.
    fn send_urgent(&self, byte: u8) {
        let _ = byte;
    }

    /// The modem lines (`TIOCM_*`).
    ///
    /// # Errors
    /// `ENOTTY` where there are none.
    fn modem_lines(&self) -> Result<u32> {
        Err(Errno::ENOTTY)
    }

    /// Raises and drops modem lines.
    ///
    /// # Errors
    /// `ENOTTY` where there are none.
    fn change_modem_lines(&self, raise: u32, drop: u32) -> Result<()> {
        let _ = (raise, drop);
        Err(Errno::ENOTTY)
    }

    /// Waits until one of the modem lines changes (`TIOCMIWAIT`).
    ///
    /// # Errors
    /// `ENOTTY` where there are none, `ERESTARTSYS`.
    fn wait_modem_change(&self, lines: u32) -> Result<()> {
        let _ = lines;
        Err(Errno::ENOTTY)
    }

    /// Line counters (`TIOCGICOUNT`).
    fn counters(&self) -> Option<SerialCounters> {
        None
    }

    /// `TIOCGSERIAL`.
    fn serial(&self) -> Option<SerialStruct> {
        None
    }

    /// `TIOCSSERIAL`.
    ///
    /// # Errors
    /// `ENOTTY` where there is no such thing, `EPERM`, `EINVAL`.
    fn set_serial(&self, serial: &SerialStruct) -> Result<()> {
        let _ = serial;
        Err(Errno::ENOTTY)
    }

    /// Whether the transmitter is empty (`TIOCSERGETLSR`).
    fn is_transmitter_empty(&self) -> Option<bool> {
        None
    }

    /// Packet-mode status bits (`TIOCPKT_*`) for the master of a pseudo terminal; called without
    /// locks.
    fn packet_event(&self, bits: u8) {
        let _ = bits;
    }

    /// Whether the other side has gone (a pseudo terminal whose master is closed).
    fn is_disconnected(&self) -> bool {
        false
    }
}
