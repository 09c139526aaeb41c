//! What programs see of the log: syslog(2) and the format of `/dev/kmsg`.
//!
//! Blocking is the caller's: [`syslog`] with [`Action::Read`] answers with nothing when there is
//! nothing, and the caller waits for the append hook.

use crate::level::{console_level, least_level, set_console_level};
use crate::ring::{self, DEV_KMSG_MAX, Position, ReadError, Record};
use abi::Errno;
use arch::lock::{LockClass, SpinLock};
use arrayvec::{ArrayString, ArrayVec};
use core::fmt::Write;

/// Why syslog(2) failed.
pub type SyslogError = Errno;

/// The actions of syslog(2), man 2 syslog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// 2: the messages not yet read this way.
    Read,
    /// 3: the last messages that fit.
    ReadAll,
    /// 4: the same, and then clear.
    ReadClear,
    /// 5: hide everything so far from 3 and 4.
    Clear,
    /// 6: print only emergencies on consoles.
    ConsoleOff,
    /// 7: undo 6.
    ConsoleOn,
    /// 8: set the console level.
    ConsoleLevel,
    /// 9: bytes that 2 would read.
    SizeUnread,
    /// 10: the size of the ring.
    SizeBuffer,
}

impl Action {
    /// From the system call's number; 0 (close) and 1 (open) do nothing and are the caller's.
    pub fn from_number(number: i32) -> Option<Action> {
        Some(match number {
            2 => Action::Read,
            3 => Action::ReadAll,
            4 => Action::ReadClear,
            5 => Action::Clear,
            6 => Action::ConsoleOff,
            7 => Action::ConsoleOn,
            8 => Action::ConsoleLevel,
            9 => Action::SizeUnread,
            10 => Action::SizeBuffer,
            _ => return None,
        })
    }
}

struct State {
    reader: Position,
    /// Bytes of the record at `reader` that were handed out already.
    partial: usize,
    clear: u64,
    saved_level: Option<i32>,
}

static CLASS: LockClass = LockClass::new("klog.syslog", 970);
static STATE: SpinLock<State> = SpinLock::new(
    &CLASS,
    State { reader: Position::at(0), partial: 0, clear: 0, saved_level: None },
);

/// The longest record as syslog(2) prints it.
const LINE_MAX: usize = ring::MESSAGE_MAX + 48;
type Line = ArrayVec<u8, LINE_MAX>;

/// `<6>[    1.234567] text`, with a line feed.
fn syslog_line(record: &Record) -> Line {
    let mut prefix = ArrayString::<48>::new();
    // Longest: `<4294967295>` and a time.
    let _ = write!(prefix, "<{}>", record.priority());
    if crate::logger::has_timestamps() {
        crate::logger::format_prefix(&mut prefix, record.time_ns);
    }
    let mut line = Line::new();
    let bytes = prefix.as_bytes().iter().chain(record.text()).chain(b"\n");
    line.extend(bytes.copied().take(LINE_MAX));
    line
}

fn next(position: &mut Position) -> Option<Record> {
    loop {
        match ring::read(position) {
            Ok(record) => return Some(record),
            Err(ReadError::Overwritten) => {}
            Err(ReadError::Empty) => return None,
        }
    }
}

/// Performs an action. `copy` receives the bytes of the reading ones, piece by piece, and runs
/// without locks held, so it may fault and sleep; `len` is the caller's buffer or argument.
pub fn syslog(
    action: Action,
    len: usize,
    mut copy: impl FnMut(&[u8]) -> Result<(), Errno>,
) -> Result<usize, Errno> {
    match action {
        Action::Read => read_unread(len, &mut copy),
        Action::ReadAll => read_last(len, &mut copy),
        Action::ReadClear => {
            let done = read_last(len, &mut copy)?;
            STATE.lock().clear = ring::next_seq();
            Ok(done)
        }
        Action::Clear => {
            STATE.lock().clear = ring::next_seq();
            Ok(0)
        }
        Action::ConsoleOff => {
            let mut state = STATE.lock();
            state.saved_level.get_or_insert(console_level());
            set_console_level(least_level());
            Ok(0)
        }
        Action::ConsoleOn => {
            if let Some(saved) = STATE.lock().saved_level.take() {
                set_console_level(saved);
            }
            Ok(0)
        }
        Action::ConsoleLevel => {
            if !(1..=8).contains(&len) {
                return Err(Errno::EINVAL);
            }
            STATE.lock().saved_level = None;
            set_console_level(len as i32);
            Ok(0)
        }
        Action::SizeUnread => Ok(unread_bytes()),
        Action::SizeBuffer => Ok(ring::capacity()),
    }
}

fn read_unread(
    len: usize,
    copy: &mut impl FnMut(&[u8]) -> Result<(), Errno>,
) -> Result<usize, Errno> {
    let mut done = 0;
    while done < len {
        let mut state = STATE.lock();
        let mut position = state.reader;
        let before = position.seq;
        let Some(record) = next(&mut position) else { break };
        let line = syslog_line(&record);
        let skip = if record.seq == before { state.partial } else { 0 };
        let rest = line.get(skip..).unwrap_or_default();
        let piece: Line = rest.iter().copied().take(len - done).collect();
        if piece.len() == rest.len() {
            state.reader = position;
            state.partial = 0;
        } else {
            state.reader = Position::at(record.seq);
            state.partial = skip + piece.len();
        }
        drop(state);
        copy(&piece)?;
        done += piece.len();
    }
    Ok(done)
}

fn read_last(
    len: usize,
    copy: &mut impl FnMut(&[u8]) -> Result<(), Errno>,
) -> Result<usize, Errno> {
    let clear = first_shown_seq();
    let mut position = Position::at(clear);
    let mut total = 0;
    while let Some(record) = next(&mut position) {
        total += syslog_line(&record).len();
    }
    let end = position.seq;
    let mut position = Position::at(clear);
    let mut done = 0;
    while let Some(record) = next(&mut position) {
        if record.seq >= end {
            break;
        }
        let line = syslog_line(&record);
        if total > len {
            total -= line.len();
            continue;
        }
        if done + line.len() > len {
            break;
        }
        copy(&line)?;
        done += line.len();
    }
    Ok(done)
}

/// The oldest record that [`Action::Clear`] has not hidden: where `SEEK_DATA` leads in `/dev/kmsg`.
pub fn first_shown_seq() -> u64 {
    STATE.lock().clear.max(ring::first_seq())
}

/// The bytes that [`Action::Read`] would give.
pub fn unread_bytes() -> usize {
    let state = STATE.lock();
    let (mut position, partial) = (state.reader, state.partial);
    drop(state);
    let mut total = 0;
    while let Some(record) = next(&mut position) {
        total += syslog_line(&record).len();
    }
    total.saturating_sub(partial)
}

impl Record {
    /// The record as one read of `/dev/kmsg` gives it: `priority,sequence,microseconds,-;text`,
    /// unprintable bytes escaped.
    pub fn format_dev_kmsg(&self, out: &mut ArrayVec<u8, DEV_KMSG_MAX>) {
        out.clear();
        let mut head = ArrayString::<64>::new();
        // Longest: four numbers of 20 digits less than 64 in all, as the priority is small.
        let _ = write!(head, "{},{},{},-;", self.priority(), self.seq, self.time_ns / 1000);
        let mut push = |byte: u8| {
            // The capacity covers every byte escaped.
            let _ = out.try_push(byte);
        };
        head.bytes().for_each(&mut push);
        for &byte in self.text() {
            if !(b' '..127).contains(&byte) || byte == b'\\' {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let high = HEX[usize::from(byte >> 4)];
                let low = HEX[usize::from(byte & 15)];
                [b'\\', b'x', high, low].into_iter().for_each(&mut push);
            } else {
                push(byte);
            }
        }
        push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Writer;

    /// One test, since the ring and the reader are one per machine.
    #[test]
    fn programs_read_what_was_logged() {
        let writer = Writer::new();
        writer.write(b"<12>hello\\ \x07w\n").unwrap();
        writer.write(b"no priority").unwrap();
        writer.write(b"<-1>odd").unwrap();
        let mut position = Position::at(0);
        let mut out = ArrayVec::new();
        let mut lines = Vec::new();
        while let Ok(record) = ring::read(&mut position) {
            record.format_dev_kmsg(&mut out);
            lines.push(String::from_utf8(out.to_vec()).unwrap());
        }
        assert!(lines[0].starts_with("12,0,"));
        assert!(lines[0].ends_with(",-;hello\\x5c \\x07w\n"), "{}", lines[0]);
        assert!(lines[1].starts_with("12,1,") && lines[1].ends_with(";no priority\n"));
        assert!(lines[2].ends_with(";<-1>odd\n"));

        let mut all = Vec::new();
        let mut put = |bytes: &[u8]| {
            all.extend_from_slice(bytes);
            Ok(())
        };
        let unread = unread_bytes();
        let mut read = 0;
        for _ in 0..unread.div_ceil(7) {
            read += syslog(Action::Read, 7, &mut put).unwrap();
        }
        assert_eq!(read, unread);
        assert_eq!(syslog(Action::Read, 7, &mut put), Ok(0));
        let text = String::from_utf8(all).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.starts_with("<12>[") && text.contains("] no priority\n"), "{text}");

        let mut last = Vec::new();
        let len = text.lines().last().unwrap().len() + 5;
        let put = |bytes: &[u8]| {
            last.extend_from_slice(bytes);
            Ok(())
        };
        syslog(Action::ReadClear, len, put).unwrap();
        assert!(String::from_utf8(last).unwrap().ends_with("<-1>odd\n"));
        assert_eq!(syslog(Action::ReadAll, 1 << 20, |_| Ok(())), Ok(0));
        assert_eq!(first_shown_seq(), ring::next_seq());
        assert_eq!(syslog(Action::ConsoleLevel, 9, |_| Ok(())), Err(Errno::EINVAL));
        syslog(Action::ConsoleOff, 0, |_| Ok(())).unwrap();
        assert_eq!(console_level(), 1);
        syslog(Action::ConsoleOn, 0, |_| Ok(())).unwrap();
        assert_eq!(console_level(), 7);
    }
}
