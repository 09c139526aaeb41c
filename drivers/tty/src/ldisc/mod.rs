//! `N_TTY`, the line discipline: termios(3) as a machine of bytes, without locks, waits or users.
//!
//! [`Ldisc::receive`] takes what the device received and fills the input queue and the echo queue;
//! [`Ldisc::process_output`] turns what a program wrote into what the device is to send;
//! [`Ldisc::read`] hands out lines or bytes. What must happen outside (signals, flushing the
//! device, waking readers) is gathered in [`Effects`] for the terminal to carry out after it has
//! released its lock.

mod buffer;
mod echo;
mod input;
mod output;
#[cfg(test)]
mod tests;

use abi::Result;
use abi::termios::*;

use crate::ring::Ring;
use buffer::LineBuffer;

pub use input::Kind;

/// How many echoed bytes may wait for the device.
const ECHO_SIZE: usize = 4096;

/// A signal that a key or a line condition raises for the foreground process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySignal {
    /// `VINTR`, or a break with `BRKINT`: SIGINT.
    Interrupt,
    /// `VQUIT`: SIGQUIT.
    Quit,
    /// `VSUSP`: SIGTSTP.
    Suspend,
}

impl KeySignal {
    /// Every key signal, in the order in which they are sent.
    pub const ALL: [KeySignal; 3] = [Self::Interrupt, Self::Quit, Self::Suspend];

    /// The signal's number.
    pub fn number(self) -> i32 {
        match self {
            Self::Interrupt => 2,
            Self::Quit => 3,
            Self::Suspend => 20,
        }
    }
}

/// What the terminal has to do after the line discipline has worked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    signals: u8,
    /// The device is to drop what it has not sent.
    pub flush_output: bool,
    /// There may be something to read, or something changed that readers look at.
    pub wake_readers: bool,
    /// Output was stopped or started by a key.
    pub flow_changed: bool,
    /// Bits for the packet-mode status of a pseudo terminal's master.
    pub packet: u8,
}

impl Effects {
    fn raise(&mut self, signal: KeySignal) {
        self.signals |= 1 << signal as u8;
    }

    /// Whether `signal` is to be sent to the foreground group.
    pub fn raises(&self, signal: KeySignal) -> bool {
        self.signals & 1 << signal as u8 != 0
    }

    /// Whether any signal is to be sent.
    pub fn has_signals(&self) -> bool {
        self.signals != 0
    }

    /// Adds what another step asked for.
    pub fn merge(&mut self, other: Effects) {
        self.signals |= other.signals;
        self.flush_output |= other.flush_output;
        self.wake_readers |= other.wake_readers;
        self.flow_changed |= other.flow_changed;
        self.packet |= other.packet;
    }
}

/// A set of byte values.
#[derive(Clone, Copy, Default)]
struct ByteSet([u64; 4]);

impl ByteSet {
    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & 1 << (byte & 63) != 0
    }
}

/// The state of one terminal's line discipline.
pub struct Ldisc {
    termios: Termios2,
    /// Bytes that are more than data under the present settings.
    special: ByteSet,
    /// Input is passed on as it is: no canonical mode, no echo, no translation.
    is_plain: bool,
    buffer: LineBuffer,
    echo: Ring,
    /// Bytes of it that go out even while output is stopped.
    released_echo: usize,
    /// The cursor's column, as far as output tells.
    column: usize,
    /// The column without the echoes that wait for the device.
    sent_column: usize,
    /// The column at which the line being edited began.
    canon_column: usize,
    /// Between the `\` and the `/` of `ECHOPRT`.
    is_erasing: bool,
    /// The next byte is taken literally (`VLNEXT`).
    is_literal_next: bool,
    /// Output stopped by `VSTOP`.
    is_stopped: bool,
    /// Output stopped by `TCXONC`/`TCOOFF`.
    is_stopped_by_ioctl: bool,
    effects: Effects,
}

impl Ldisc {
    /// A line discipline with these settings.
    ///
    /// # Errors
    /// `ENOMEM` when there is no memory for its queues.
    pub fn new(termios: Termios2) -> Result<Self> {
        let mut ldisc = Self {
            termios,
            special: ByteSet::default(),
            is_plain: false,
            buffer: LineBuffer::new(),
            echo: Ring::new(ECHO_SIZE)?,
            released_echo: 0,
            column: 0,
            sent_column: 0,
            canon_column: 0,
            is_erasing: false,
            is_literal_next: false,
            is_stopped: false,
            is_stopped_by_ioctl: false,
            effects: Effects::default(),
        };
        ldisc.classify();
        Ok(ldisc)
    }

    /// The settings.
    pub fn termios(&self) -> &Termios2 {
        &self.termios
    }

    /// Changes the settings, with what that means for input that has already been received.
    pub fn set_termios(&mut self, new: Termios2) {
        let old = core::mem::replace(&mut self.termios, new);
        self.classify();
        if (old.lflag ^ new.lflag) & (ICANON | EXTPROC) != 0 {
            self.buffer.push_all();
            self.is_erasing = false;
            self.is_literal_next = false;
            self.effects.wake_readers = true;
        }
        if self.is_stopped && old.iflag & IXON != 0 && new.iflag & IXON == 0 {
            self.start();
        }
        self.note_packet_flow(&old, &new);
    }

    /// Packet mode tells the master when the user's stop and start keys cease or begin to work.
    fn note_packet_flow(&mut self, old: &Termios2, new: &Termios2) {
        let keys_work =
            |t: &Termios2| t.iflag & IXON != 0 && t.cc[VSTOP] == 0o23 && t.cc[VSTART] == 0o21;
        match (keys_work(old), keys_work(new)) {
            (false, true) => self.effects.packet |= TIOCPKT_DOSTOP,
            (true, false) => self.effects.packet |= TIOCPKT_NOSTOP,
            _ => {}
        }
        if new.lflag & EXTPROC != 0 || (old.lflag ^ new.lflag) & EXTPROC != 0 {
            self.effects.packet |= TIOCPKT_IOCTL;
        }
    }

    fn classify(&mut self) {
        let t = &self.termios;
        let mut special = ByteSet::default();
        let mut add = |byte: u8, is_active: bool| {
            if is_active && byte != POSIX_VDISABLE {
                special.add(byte);
            }
        };
        let (iflag, lflag) = (t.iflag, t.lflag);
        let is_canon = lflag & ICANON != 0;
        let is_extended = lflag & IEXTEN != 0;
        add(b'\r', iflag & (IGNCR | ICRNL) != 0);
        add(b'\n', iflag & INLCR != 0 || is_canon);
        for key in [VSTART, VSTOP] {
            add(t.cc[key], iflag & IXON != 0);
        }
        for key in [VINTR, VQUIT, VSUSP] {
            add(t.cc[key], lflag & ISIG != 0);
        }
        for key in [VERASE, VKILL, VEOF, VEOL] {
            add(t.cc[key], is_canon);
        }
        for key in [VWERASE, VLNEXT, VEOL2] {
            add(t.cc[key], is_canon && is_extended);
        }
        add(t.cc[VREPRINT], is_canon && is_extended && lflag & ECHO != 0);
        add(0xff, iflag & PARMRK != 0);
        let translates = ISTRIP | IUCLC | IGNCR | ICRNL | INLCR | PARMRK | IXON;
        self.is_plain = iflag & translates == 0
            && lflag & (ICANON | ISIG | ECHO) == 0
            && !(iflag & IUCLC != 0 && is_extended);
        self.special = special;
    }

    fn has_iflag(&self, flag: u32) -> bool {
        self.termios.iflag & flag != 0
    }

    fn has_oflag(&self, flag: u32) -> bool {
        self.termios.oflag & flag != 0
    }

    fn has_lflag(&self, flag: u32) -> bool {
        self.termios.lflag & flag != 0
    }

    fn is_canon(&self) -> bool {
        self.has_lflag(ICANON)
    }

    /// Whether input is read by lines.
    pub fn reads_lines(&self) -> bool {
        self.is_canon() && !self.has_lflag(EXTPROC)
    }

    /// How many more bytes [`Ldisc::receive`] takes. While no complete line waits to be read the
    /// line being edited takes them all, dropping what is beyond the limit.
    pub fn room(&self) -> usize {
        if self.is_canon() && !self.buffer.has_line() {
            return usize::MAX;
        }
        // A byte may become three (PARMRK), and a line's end must always fit.
        let room = self.buffer.room().saturating_sub(1);
        if self.has_iflag(PARMRK) { room / 3 } else { room }
    }

    /// Takes the list of what is to be done outside.
    pub fn take_effects(&mut self) -> Effects {
        core::mem::take(&mut self.effects)
    }

    /// Whether a read of at least `minimum` bytes (a line in canonical mode) would not wait.
    pub fn is_readable(&self, minimum: usize) -> bool {
        if self.reads_lines() {
            self.buffer.has_line()
        } else {
            self.buffer.len() >= minimum.max(1)
        }
    }

    /// How many bytes could be read at once (`FIONREAD`).
    pub fn readable_bytes(&self) -> usize {
        if self.reads_lines() { self.buffer.line_bytes(EOF_MARK) } else { self.buffer.len() }
    }

    /// Takes bytes into `out`: in canonical mode at most to the end of the line.
    ///
    /// Returns how many, and whether that finishes the read (the end of a line).
    pub fn read(&mut self, out: &mut [u8]) -> (usize, bool) {
        if self.reads_lines() {
            return self.buffer.take_line(out, EOF_MARK);
        }
        let n = self.buffer.take_raw(out);
        if self.buffer.canon_head.wrapping_sub(self.buffer.tail) > self.buffer.len() {
            self.buffer.canon_head = self.buffer.tail;
        }
        (n, false)
    }

    /// Drops all input.
    pub fn flush_input(&mut self) {
        self.buffer.clear();
        self.is_erasing = false;
        self.is_literal_next = false;
        self.effects.packet |= TIOCPKT_FLUSHREAD;
    }

    /// Drops echoes that have not reached the device.
    pub fn flush_echo(&mut self) {
        if !self.echo.is_empty() {
            self.column = self.sent_column;
        }
        self.echo.clear();
        self.released_echo = 0;
        self.effects.packet |= TIOCPKT_FLUSHWRITE;
    }

    /// Whether output is held back.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped || self.is_stopped_by_ioctl
    }

    fn stop(&mut self) {
        if !self.is_stopped {
            self.is_stopped = true;
            self.effects.flow_changed = true;
            self.effects.packet &= !TIOCPKT_START;
            self.effects.packet |= TIOCPKT_STOP;
        }
    }

    fn start(&mut self) {
        if self.is_stopped && !self.is_stopped_by_ioctl {
            self.is_stopped = false;
            self.effects.flow_changed = true;
            self.effects.packet &= !TIOCPKT_STOP;
            self.effects.packet |= TIOCPKT_START;
        }
    }

    /// `TCXONC` with `TCOOFF`.
    pub fn stop_by_ioctl(&mut self) {
        if !self.is_stopped_by_ioctl {
            self.is_stopped_by_ioctl = true;
            self.stop();
        }
    }

    /// `TCXONC` with `TCOON`.
    pub fn start_by_ioctl(&mut self) {
        if self.is_stopped_by_ioctl {
            self.is_stopped_by_ioctl = false;
            self.start();
        }
    }
}

/// How an end of file is kept in the input queue.
const EOF_MARK: u8 = POSIX_VDISABLE;

/// Letters as the terminal knows them: ISO 8859-1.
mod latin1 {
    pub(super) fn lower(byte: u8) -> u8 {
        match byte {
            b'A'..=b'Z' | 0xc0..=0xd6 | 0xd8..=0xde => byte + 0x20,
            _ => byte,
        }
    }

    pub(super) fn upper(byte: u8) -> u8 {
        match byte {
            b'a'..=b'z' | 0xdf..=0xf6 | 0xf8..=0xff => byte - 0x20,
            _ => byte,
        }
    }

    pub(super) fn is_word(byte: u8) -> bool {
        byte.is_ascii_alphanumeric()
            || byte == b'_'
            || matches!(byte, 0xc0..=0xd6 | 0xd8..=0xf6 | 0xf8..=0xff)
    }
}
