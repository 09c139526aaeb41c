//! Output processing (`OPOST`), with the column kept for tabs and erasing.

use abi::termios::*;

use super::{Ldisc, latin1};

/// The most bytes one byte becomes: a tab as spaces.
const LARGEST: usize = 8;

impl Ldisc {
    /// Whether output must go through [`Ldisc::process_output`].
    pub fn processes_output(&self) -> bool {
        self.has_oflag(OPOST)
    }

    /// Turns bytes a program wrote into bytes for the device.
    ///
    /// Returns how many bytes of `input` were used and how many of `out` were filled.
    pub fn process_output(&mut self, input: &[u8], out: &mut [u8]) -> (usize, usize) {
        let (mut used, mut filled) = (0, 0);
        while let (Some(rest), Some(room)) = (input.get(used..), out.get_mut(filled..)) {
            let plain =
                rest.iter().take(room.len()).take_while(|byte| self.is_printable(**byte)).count();
            if plain > 0 {
                let (Some(to), Some(from)) = (room.get_mut(..plain), rest.get(..plain)) else {
                    break;
                };
                to.copy_from_slice(from);
                self.column += self.columns_of(from);
                used += plain;
                filled += plain;
                continue;
            }
            let Some(&byte) = rest.first() else { break };
            let mut bytes = [0; LARGEST];
            let before = self.column;
            let n = self.process_byte(byte, &mut bytes);
            let Some(to) = room.get_mut(..n) else {
                self.column = before;
                break;
            };
            to.copy_from_slice(bytes.get(..n).unwrap_or(&[]));
            used += 1;
            filled += n;
        }
        (used, filled)
    }

    fn is_printable(&self, byte: u8) -> bool {
        byte >= b' ' && byte != 0x7f && !self.has_oflag(OLCUC)
    }

    fn columns_of(&self, bytes: &[u8]) -> usize {
        if !self.has_iflag(IUTF8) {
            return bytes.len();
        }
        bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
    }

    /// Processes one byte and returns how many bytes it became.
    pub(super) fn process_byte(&mut self, byte: u8, out: &mut [u8; LARGEST]) -> usize {
        match byte {
            b'\n' => {
                if self.has_oflag(ONLRET | ONLCR) {
                    self.column = 0;
                }
                self.canon_column = self.column;
                if self.has_oflag(ONLCR) {
                    out[0] = b'\r';
                    out[1] = b'\n';
                    return 2;
                }
                out[0] = b'\n';
                1
            }
            b'\r' => {
                if self.has_oflag(ONOCR) && self.column == 0 {
                    return 0;
                }
                if self.has_oflag(OCRNL) {
                    if self.has_oflag(ONLRET) {
                        self.column = 0;
                        self.canon_column = 0;
                    }
                    out[0] = b'\n';
                    return 1;
                }
                self.column = 0;
                self.canon_column = 0;
                out[0] = b'\r';
                1
            }
            b'\t' => {
                let width = 8 - self.column % 8;
                self.column += width;
                if self.termios.oflag & TABDLY == XTABS {
                    out.fill(b' ');
                    return width;
                }
                out[0] = b'\t';
                1
            }
            0x08 => {
                self.column = self.column.saturating_sub(1);
                out[0] = byte;
                1
            }
            _ => {
                let byte = if self.has_oflag(OLCUC) { latin1::upper(byte) } else { byte };
                let is_continuation = self.has_iflag(IUTF8) && byte & 0xc0 == 0x80;
                if !byte.is_ascii_control() && !is_continuation {
                    self.column += 1;
                }
                out[0] = byte;
                1
            }
        }
    }
}
