//! Reading and writing: the waits of termios(3)'s canonical and MIN/TIME modes.

use alloc::sync::Arc;

use abi::fcntl::O_NONBLOCK;
use abi::termios::*;
use abi::{Errno, Result};
use arch::uio::{Sink, Source};
use vfs::poll::*;

use crate::jobs::sig;
use crate::wait;
use crate::{Tty, TtyKind};

/// How much is copied at once between a program and a terminal.
const CHUNK: usize = 1024;

/// A device that can take less than this is not writable for `poll`.
const WRITABLE_ROOM: usize = 256;

/// How an open file of a terminal behaves in a call.
#[derive(Clone, Copy)]
pub(crate) struct Mode {
    /// The count of hang-ups when the file was opened.
    pub(crate) generation: u32,
    /// Whether the call must not wait.
    pub(crate) is_nonblocking: bool,
}

impl Mode {
    pub(crate) fn new(generation: u32, flags: u32) -> Self {
        Self { generation, is_nonblocking: flags & O_NONBLOCK != 0 }
    }
}

/// When a read without lines is satisfied.
#[derive(Clone, Copy)]
struct Patience {
    /// How many bytes are enough.
    minimum: usize,
    /// `VTIME` in nanoseconds; 0 for none.
    time_ns: u64,
}

impl Patience {
    fn of(t: &Termios2, asked: usize) -> Self {
        let minimum = usize::from(t.cc[VMIN]).min(asked);
        Self { minimum, time_ns: u64::from(t.cc[VTIME]) * 100_000_000 }
    }
}

enum Wake {
    Ready,
    Gone,
    Disconnected,
}

impl Tty {
    pub(crate) fn is_dead(&self, mode: Mode) -> bool {
        self.generation() != mode.generation
    }

    /// `read(2)`.
    pub(crate) fn read(self: &Arc<Self>, mode: Mode, sink: &mut Sink<'_>) -> Result<usize> {
        if sink.remaining() == 0 {
            return Ok(0);
        }
        if self.is_dead(mode) {
            return Ok(0);
        }
        self.check_job(sig::SIGTTIN)?;
        let _guard = if mode.is_nonblocking {
            self.readers.try_take().ok_or(Errno::EAGAIN)?
        } else {
            self.readers.take()?
        };
        let asked = sink.remaining();
        let (by_lines, patience) = {
            let state = self.state.lock();
            (state.ldisc.reads_lines(), Patience::of(state.ldisc.termios(), asked))
        };
        let result = if by_lines {
            self.read_line(mode, sink)
        } else {
            self.read_bytes(mode, patience, sink)
        };
        match result {
            Err(_) if sink.remaining() < asked => Ok(asked - sink.remaining()),
            Err(error) => Err(error),
            Ok(()) => Ok(asked - sink.remaining()),
        }
    }

    fn read_line(self: &Arc<Self>, mode: Mode, sink: &mut Sink<'_>) -> Result<()> {
        match self.wait_readable(mode, 1, None)? {
            Some(Wake::Ready) => {}
            Some(Wake::Disconnected) => return Err(Errno::EIO),
            Some(Wake::Gone) | None => return Ok(()),
        }
        while sink.remaining() > 0 {
            let (n, is_end) = self.copy_out(sink)?;
            if is_end || n == 0 {
                break;
            }
        }
        Ok(())
    }

    fn read_bytes(
        self: &Arc<Self>,
        mode: Mode,
        patience: Patience,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let asked = sink.remaining();
        let Patience { minimum, time_ns } = patience;
        loop {
            let done = asked - sink.remaining();
            // The clock of MIN > 0, TIME > 0 runs between bytes, so not before the first.
            let limit = match (minimum, time_ns) {
                (0, 0) => Some(0),
                (0, time) => Some(time),
                (_, 0) => None,
                (_, time) => (done > 0).then_some(time),
            };
            match self.wait_readable(mode, 1, limit)? {
                Some(Wake::Ready) => {}
                Some(Wake::Disconnected) => return Err(Errno::EIO),
                Some(Wake::Gone) | None => return Ok(()),
            }
            self.copy_out(sink)?;
            if asked - sink.remaining() >= minimum.max(1) || sink.remaining() == 0 {
                // Whatever else is there comes along.
                while sink.remaining() > 0 && self.copy_out(sink)?.0 > 0 {}
                return Ok(());
            }
        }
    }

    /// Waits until something can be read. `None`: the time is over. A limit of zero only looks.
    fn wait_readable(
        self: &Arc<Self>,
        mode: Mode,
        minimum: usize,
        limit_ns: Option<u64>,
    ) -> Result<Option<Wake>> {
        let look = || {
            if self.state.lock().ldisc.is_readable(minimum) {
                return Some(Wake::Ready);
            }
            if self.is_dead(mode) {
                return Some(Wake::Gone);
            }
            self.driver().is_disconnected().then_some(Wake::Disconnected)
        };
        if let Some(wake) = look() {
            return Ok(Some(wake));
        }
        if limit_ns == Some(0) {
            return Ok(None);
        }
        if mode.is_nonblocking {
            return Err(Errno::EAGAIN);
        }
        wait::until(&self.read_wait, limit_ns, look)
    }

    /// Copies one piece to the reader. What does not fit into its memory is lost, as it is for a
    /// bad pointer anyway.
    fn copy_out(&self, sink: &mut Sink<'_>) -> Result<(usize, bool)> {
        let mut chunk = [0; CHUNK];
        let room = sink.remaining().min(CHUNK);
        let (n, is_end, effects) = {
            let mut state = self.state.lock();
            let Some(out) = chunk.get_mut(..room) else { return Ok((0, true)) };
            let (n, is_end) = state.ldisc.read(out);
            self.refill(&mut state);
            (n, is_end, self.settle(&mut state))
        };
        self.carry_out(effects);
        sink.put_all(chunk.get(..n).unwrap_or(&[])).map_err(|_| Errno::EFAULT)?;
        Ok((n, is_end))
    }

    /// `write(2)`.
    pub(crate) fn write(self: &Arc<Self>, mode: Mode, source: &mut Source<'_>) -> Result<usize> {
        if self.is_dead(mode) {
            return Err(Errno::EIO);
        }
        if self.termios().lflag & TOSTOP != 0 {
            self.check_job(sig::SIGTTOU)?;
        }
        let _guard = if mode.is_nonblocking {
            self.writers.try_take().ok_or(Errno::EAGAIN)?
        } else {
            self.writers.take()?
        };
        let asked = source.remaining();
        while source.remaining() > 0 {
            if let Err(error) = self.write_chunk(mode, source) {
                let done = asked - source.remaining();
                return if done > 0 { Ok(done) } else { Err(error) };
            }
        }
        Ok(asked)
    }

    fn write_chunk(self: &Arc<Self>, mode: Mode, source: &mut Source<'_>) -> Result<()> {
        let mut chunk = [0; CHUNK];
        let len = source.remaining().min(CHUNK);
        let bytes = chunk.get_mut(..len).ok_or(Errno::EIO)?;
        let taken = source.take(bytes).map_err(|_| Errno::EFAULT)?;
        if taken == 0 {
            return Err(Errno::EFAULT);
        }
        let mut rest = chunk.get(..taken).unwrap_or(&[]);
        while !rest.is_empty() {
            let n = self.send(rest);
            rest = rest.get(n..).unwrap_or(&[]);
            if rest.is_empty() {
                break;
            }
            if n > 0 {
                continue;
            }
            if let Err(error) = self.wait_writable(mode) {
                source.revert(rest.len());
                return Err(error);
            }
        }
        Ok(())
    }

    fn wait_writable(self: &Arc<Self>, mode: Mode) -> Result<()> {
        let look = || {
            if self.is_dead(mode) || self.driver().is_disconnected() {
                return Some(Err(Errno::EIO));
            }
            // Eight bytes: what a tab may become.
            let can_send = {
                let state = self.state.lock();
                !state.ldisc.is_stopped() && self.driver().write_room() >= 8
            };
            can_send.then_some(Ok(()))
        };
        if let Some(result) = look() {
            return result;
        }
        if mode.is_nonblocking {
            return Err(Errno::EAGAIN);
        }
        wait::until(&self.write_wait, None, look)?.unwrap_or(Ok(()))
    }

    /// Sends what the device takes now of what a program wrote; how much that was.
    fn send(&self, bytes: &[u8]) -> usize {
        let mut out = [0; CHUNK];
        let used = {
            let mut state = self.state.lock();
            if state.ldisc.is_stopped() {
                return 0;
            }
            state.ldisc.send_echo(|echo| self.driver().write(echo));
            if !state.ldisc.processes_output() {
                self.driver().write(bytes)
            } else {
                let room = self.driver().write_room().min(CHUNK);
                let Some(out) = out.get_mut(..room) else { return 0 };
                let (used, filled) = state.ldisc.process_output(bytes, out);
                self.driver().write(out.get(..filled).unwrap_or(&[]));
                used
            }
        };
        self.driver().written();
        used
    }

    /// What kernel messages to a terminal use: through output processing, without waiting.
    pub fn print(&self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let n = self.send(rest.get(..CHUNK / 8).unwrap_or(rest));
            if n == 0 {
                break;
            }
            done += n;
        }
        done
    }

    /// Waits until everything written has been sent (`tcdrain`).
    pub(crate) fn drain(self: &Arc<Self>, mode: Mode) -> Result<()> {
        let look = || {
            if self.is_dead(mode) || self.driver().is_disconnected() {
                return Some(());
            }
            let is_empty = {
                let state = self.state.lock();
                !state.ldisc.has_echo() && self.driver().buffered() == 0
            };
            is_empty.then_some(())
        };
        if look().is_none() {
            wait::until(&self.write_wait, None, look)?;
        }
        wait::pause(self.driver().drain_ns());
        Ok(())
    }

    /// `poll(2)`.
    pub(crate) fn poll(&self, mode: Mode, table: Option<&mut PollTable<'_>>) -> u32 {
        if let Some(table) = table {
            table.add(&self.read_wait);
            table.add(&self.write_wait);
        }
        if self.is_dead(mode) {
            return POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDNORM | POLLWRNORM;
        }
        let mut events = 0;
        let state = self.state.lock();
        let t = state.ldisc.termios();
        let minimum = if t.cc[VTIME] == 0 { usize::from(t.cc[VMIN]) } else { 1 };
        if state.ldisc.is_readable(minimum) {
            events |= POLLIN | POLLRDNORM;
        }
        if self.driver().is_disconnected() {
            events |= POLLHUP;
        }
        let is_line_free = self.driver().write_room() >= WRITABLE_ROOM
            && self.driver().buffered() < WRITABLE_ROOM.max(self.driver().write_room());
        if !state.ldisc.is_stopped() && is_line_free {
            events |= POLLOUT | POLLWRNORM;
        }
        events
    }

    /// Whether programs may write before somebody reads: pseudo terminals only.
    pub(crate) fn is_pty(&self) -> bool {
        self.kind() == TtyKind::PtySlave
    }
}
