//! Bytes coming in: translation, signals, flow control and the editing of lines.

use abi::termios::*;

use super::buffer::SIZE;
use super::{EOF_MARK, KeySignal, Ldisc, latin1};

/// What the device says of a received byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary byte.
    Data,
    /// A break condition.
    Break,
    /// A byte with a parity or a framing error.
    Error,
    /// Bytes were lost before this one.
    Overrun,
}

/// What an erasing key removes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Erase {
    Character,
    Word,
    Line,
}

/// How a newline among data is echoed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    LineEndAsIs,
    ControlsVisible,
}

impl Ldisc {
    /// Takes received bytes and returns how many it took: fewer only when [`Ldisc::room`] was
    /// less.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        if self.is_plain && !self.is_literal_next {
            let n = bytes.len().min(self.room());
            let n = self.buffer.push_slice(bytes.get(..n).unwrap_or(bytes));
            self.effects.wake_readers |= n > 0;
            return n;
        }
        let mut done = 0;
        for &byte in bytes {
            if self.room() == 0 {
                break;
            }
            self.receive_byte(byte);
            done += 1;
        }
        if !self.is_canon() || self.has_lflag(EXTPROC) {
            self.effects.wake_readers |= done > 0;
        }
        done
    }

    /// Takes one byte of which the device has something to say.
    pub fn receive_flagged(&mut self, byte: u8, kind: Kind) {
        match kind {
            Kind::Data => {
                self.receive(&[byte]);
            }
            Kind::Break => self.receive_break(),
            Kind::Error => self.receive_error(byte),
            Kind::Overrun => {}
        }
    }

    fn receive_break(&mut self) {
        if self.has_iflag(IGNBRK) {
            return;
        }
        if self.has_iflag(BRKINT) {
            self.signal(KeySignal::Interrupt, None);
            return;
        }
        if self.has_iflag(PARMRK) {
            self.store(0xff);
            self.store(0);
        }
        self.store(0);
        self.effects.wake_readers = true;
    }

    fn receive_error(&mut self, byte: u8) {
        if !self.has_iflag(INPCK) {
            self.receive(&[byte]);
            return;
        }
        if self.has_iflag(IGNPAR) {
            return;
        }
        if self.has_iflag(PARMRK) {
            self.store(0xff);
            self.store(0);
            self.store(byte);
        } else {
            self.store(0);
        }
        self.effects.wake_readers = true;
    }

    fn receive_byte(&mut self, byte: u8) {
        let mut byte = byte;
        if self.has_iflag(ISTRIP) {
            byte &= 0x7f;
        }
        if self.has_iflag(IUCLC) && self.has_lflag(IEXTEN) {
            byte = latin1::lower(byte);
        }
        if self.has_lflag(EXTPROC) {
            self.store(byte);
            return;
        }
        if self.is_literal_next {
            self.is_literal_next = false;
            self.take_plain(byte);
            return;
        }
        if self.special.has(byte) {
            self.take_special(byte);
            return;
        }
        self.restart_by_any();
        self.take_plain(byte);
    }

    /// `IXANY`: any byte restarts output.
    fn restart_by_any(&mut self) {
        if self.is_stopped && self.has_iflag(IXON) && self.has_iflag(IXANY) {
            self.start();
            self.release_echo();
        }
    }

    fn is_key(&self, byte: u8, key: usize) -> bool {
        byte != POSIX_VDISABLE && self.termios.cc.get(key) == Some(&byte)
    }

    fn take_special(&mut self, byte: u8) {
        if self.has_iflag(IXON) {
            if self.is_key(byte, VSTART) {
                self.start();
                self.release_echo();
                return;
            }
            if self.is_key(byte, VSTOP) {
                self.stop();
                return;
            }
        }
        if self.has_lflag(ISIG) && self.take_signal(byte) {
            return;
        }
        self.restart_by_any();
        let byte = match byte {
            b'\r' if self.has_iflag(IGNCR) => return,
            b'\r' if self.has_iflag(ICRNL) => b'\n',
            b'\n' if self.has_iflag(INLCR) => b'\r',
            other => other,
        };
        if self.is_canon() && self.take_editing(byte) {
            return;
        }
        self.take_data(byte, Echo::LineEndAsIs);
    }

    fn take_signal(&mut self, byte: u8) -> bool {
        let keys =
            [(VINTR, KeySignal::Interrupt), (VQUIT, KeySignal::Quit), (VSUSP, KeySignal::Suspend)];
        for (key, signal) in keys {
            if self.is_key(byte, key) {
                self.signal(signal, Some(byte));
                return true;
            }
        }
        false
    }

    /// Raises a signal; without `NOFLSH` that throws away what was typed and not yet printed.
    pub(crate) fn signal(&mut self, signal: KeySignal, key: Option<u8>) {
        if !self.has_lflag(NOFLSH) {
            self.flush_input();
            self.flush_echo();
            self.effects.flush_output = true;
        }
        self.effects.raise(signal);
        self.effects.wake_readers = true;
        let Some(key) = key else { return };
        if self.has_iflag(IXON) {
            self.start();
        }
        if self.has_lflag(ECHO) {
            self.echo_char(key);
        }
    }

    /// Keys of canonical mode. Returns whether the byte was one.
    fn take_editing(&mut self, byte: u8) -> bool {
        let is_extended = self.has_lflag(IEXTEN);
        if self.is_key(byte, VERASE) {
            self.erase(Erase::Character, byte);
            return true;
        }
        if self.is_key(byte, VKILL) {
            self.erase(Erase::Line, byte);
            return true;
        }
        if is_extended && self.is_key(byte, VWERASE) {
            self.erase(Erase::Word, byte);
            return true;
        }
        if is_extended && self.is_key(byte, VLNEXT) {
            self.is_literal_next = true;
            if self.has_lflag(ECHO) {
                self.finish_erasing();
                if self.has_lflag(ECHOCTL) {
                    self.echo_raw(b'^');
                    self.echo_raw(0x08);
                }
            }
            return true;
        }
        if is_extended && self.has_lflag(ECHO) && self.is_key(byte, VREPRINT) {
            self.reprint(byte);
            return true;
        }
        if byte == b'\n' {
            if self.has_lflag(ECHO | ECHONL) {
                self.echo_raw(b'\n');
            }
            self.finish_line(b'\n');
            return true;
        }
        if self.is_key(byte, VEOF) {
            self.finish_line(EOF_MARK);
            return true;
        }
        if self.is_key(byte, VEOL) || (is_extended && self.is_key(byte, VEOL2)) {
            if self.has_lflag(ECHO) {
                self.begin_echo();
                self.echo_char(byte);
            }
            if byte == 0xff && self.has_iflag(PARMRK) {
                self.store(byte);
            }
            self.finish_line(byte);
            return true;
        }
        false
    }

    fn finish_line(&mut self, end: u8) {
        if self.buffer.room() == 0 {
            // The last place was kept for this.
            self.buffer.pop();
        }
        self.buffer.push_end(end);
        self.effects.wake_readers = true;
    }

    /// An ordinary byte: echo and store.
    fn take_plain(&mut self, byte: u8) {
        self.take_data(byte, Echo::ControlsVisible);
    }

    fn take_data(&mut self, byte: u8, echo: Echo) {
        if self.is_full() {
            if self.has_iflag(IMAXBEL) && self.has_lflag(ECHO) && self.is_canon() {
                self.echo_raw(0x07);
            }
            return;
        }
        if self.has_lflag(ECHO) {
            self.begin_echo();
            if byte == b'\n' && echo == Echo::LineEndAsIs {
                self.echo_raw(byte);
            } else {
                self.echo_char(byte);
            }
        }
        if byte == 0xff && self.has_iflag(PARMRK) {
            self.store(byte);
        }
        self.store(byte);
    }

    fn is_full(&self) -> bool {
        self.buffer.len() >= SIZE - 1
    }

    fn store(&mut self, byte: u8) {
        if !self.is_full() {
            self.buffer.push(byte);
        }
    }

    fn begin_echo(&mut self) {
        self.finish_erasing();
        if self.buffer.is_line_empty() {
            self.canon_column = self.column;
        }
    }

    fn reprint(&mut self, key: u8) {
        self.finish_erasing();
        self.echo_char(key);
        self.echo_raw(b'\n');
        let mut position = self.buffer.canon_head;
        while position != self.buffer.head {
            self.echo_char(self.buffer.at(position));
            position = position.wrapping_add(1);
        }
    }

    fn is_continuation(&self, byte: u8) -> bool {
        self.has_iflag(IUTF8) && byte & 0xc0 == 0x80
    }

    fn erase(&mut self, what: Erase, key: u8) {
        if self.buffer.is_line_empty() {
            return;
        }
        if what == Erase::Line {
            if !self.has_lflag(ECHO) {
                self.buffer.head = self.buffer.canon_head;
                return;
            }
            if self.termios.lflag & (ECHOK | ECHOKE | ECHOE) != ECHOK | ECHOKE | ECHOE {
                self.buffer.head = self.buffer.canon_head;
                self.finish_erasing();
                self.echo_char(key);
                if self.has_lflag(ECHOK) {
                    self.echo_raw(b'\n');
                }
                return;
            }
        }
        self.erase_characters(what, key);
        if self.buffer.is_line_empty() && self.has_lflag(ECHO) {
            self.finish_erasing();
        }
    }

    fn erase_characters(&mut self, what: Erase, key: u8) {
        let mut has_seen_word = false;
        while !self.buffer.is_line_empty() {
            // A character is a byte and the UTF-8 continuation bytes before it.
            let mut start = self.buffer.head.wrapping_sub(1);
            while self.is_continuation(self.buffer.at(start)) && start != self.buffer.canon_head {
                start = start.wrapping_sub(1);
            }
            let byte = self.buffer.at(start);
            if self.is_continuation(byte) {
                // Only a part of a character: leave it alone.
                break;
            }
            if what == Erase::Word {
                if latin1::is_word(byte) {
                    has_seen_word = true;
                } else if has_seen_word {
                    break;
                }
            }
            let end = core::mem::replace(&mut self.buffer.head, start);
            if self.has_lflag(ECHO) {
                self.echo_erased(start, end, what == Erase::Character, key);
            }
            if what == Erase::Character {
                break;
            }
        }
    }

    fn echo_erased(&mut self, start: usize, end: usize, is_single: bool, key: u8) {
        let byte = self.buffer.at(start);
        if self.has_lflag(ECHOPRT) {
            if !self.is_erasing {
                self.echo_raw(b'\\');
                self.is_erasing = true;
            }
            self.echo_char(byte);
            let mut position = start.wrapping_add(1);
            while position != end {
                self.echo_raw(self.buffer.at(position));
                // As Linux counts, one column too few for each.
                self.column = self.column.saturating_sub(1);
                position = position.wrapping_add(1);
            }
        } else if is_single && !self.has_lflag(ECHOE) {
            self.echo_char(key);
        } else if byte == b'\t' {
            self.echo_erased_tab(start);
        } else {
            let is_control = byte.is_ascii_control();
            if is_control && self.has_lflag(ECHOCTL) {
                self.echo_backspace();
            }
            if !is_control || self.has_lflag(ECHOCTL) {
                self.echo_backspace();
            }
        }
    }

    /// Steps back over a tab: as many columns as it took when it was typed.
    fn echo_erased_tab(&mut self, tab: usize) {
        let mut columns = 0usize;
        let mut position = tab;
        let mut met_tab = false;
        while position != self.buffer.canon_head {
            position = position.wrapping_sub(1);
            let byte = self.buffer.at(position);
            if byte == b'\t' {
                met_tab = true;
                break;
            }
            if byte.is_ascii_control() {
                if self.has_lflag(ECHOCTL) {
                    columns += 2;
                }
            } else if !self.is_continuation(byte) {
                columns += 1;
            }
        }
        if !met_tab {
            columns += self.canon_column;
        }
        for _ in 0..8 - columns % 8 {
            self.echo_byte(0x08);
            self.column = self.column.saturating_sub(1);
        }
    }
}
