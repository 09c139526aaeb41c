//! Echoing what was typed.

use abi::termios::*;

use super::Ldisc;

impl Ldisc {
    /// Echoes a byte as the settings show it: `^X` for controls with `ECHOCTL`.
    pub(super) fn echo_char(&mut self, byte: u8) {
        if self.has_lflag(ECHOCTL) && byte.is_ascii_control() && byte != b'\t' {
            self.echo_byte(b'^');
            self.echo_byte(byte ^ 0o100);
            self.column += 2;
            return;
        }
        self.echo_raw(byte);
    }

    /// Echoes a byte through output processing.
    pub(super) fn echo_raw(&mut self, byte: u8) {
        if !self.has_oflag(OPOST) {
            self.echo_byte(byte);
            return;
        }
        if byte == 0xff {
            // As Linux does: this one is echoed as it is.
            self.echo_byte(byte);
            self.column += 1;
            return;
        }
        let mut out = [0; 8];
        let n = self.process_byte(byte, &mut out);
        for &byte in out.iter().take(n) {
            self.echo_byte(byte);
        }
    }

    pub(super) fn echo_byte(&mut self, byte: u8) {
        self.echo.push(&[byte]);
    }

    pub(super) fn echo_backspace(&mut self) {
        self.echo_byte(0x08);
        self.echo_byte(b' ');
        self.echo_byte(0x08);
        if self.has_oflag(OPOST) {
            self.column = self.column.saturating_sub(1);
        }
    }

    /// Ends the `\erased/` of `ECHOPRT`.
    pub(super) fn finish_erasing(&mut self) {
        if self.is_erasing {
            self.echo_raw(b'/');
            self.is_erasing = false;
        }
    }

    /// Whether echoes wait for the device.
    pub fn has_echo(&self) -> bool {
        !self.echo.is_empty()
    }

    /// Output was started: what is echoed so far goes out, though it may be stopped again before it
    /// is sent.
    pub(super) fn release_echo(&mut self) {
        if !self.is_stopped() {
            self.released_echo = self.echo.len();
        }
    }

    /// Hands echoes to the device: `send` returns how many bytes it took. What was not released
    /// before stays while output is stopped.
    pub fn send_echo(&mut self, mut send: impl FnMut(&[u8]) -> usize) {
        while !self.echo.is_empty() && (!self.is_stopped() || self.released_echo > 0) {
            let front = self.echo.front();
            let most = if self.is_stopped() { self.released_echo } else { front.len() };
            let sent = send(front.get(..most).unwrap_or(front));
            if sent == 0 {
                return;
            }
            self.released_echo = self.released_echo.saturating_sub(sent);
            self.echo.consume(sent);
        }
        if self.echo.is_empty() {
            self.sent_column = self.column;
        }
    }
}
