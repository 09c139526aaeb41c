//! Pseudo terminals: pty(7). The master is a file that reads what the slave's programs print and
//! types what is written to it; the slave is an ordinary [`Tty`] whose device is the pair.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use abi::termios::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::uio::{Sink, Source};
use arch::{VirtAddr, user};
use sched::WaitQueue;
use spin::Once;
use vfs::poll::*;
use vfs::{Context, DeviceNumber, File, FileOps};

use crate::driver::Driver;
use crate::io::Mode;
use crate::ring::Ring;
use crate::termios::PTY;
use crate::{Tty, TtyKind, wait};

static TO_MASTER: LockClass = LockClass::new("tty.pty", 570);

/// Major number of slaves; the minor number is the index.
pub const SLAVE_MAJOR: u32 = 136;

/// How many bytes printed by the slave's programs wait for the master, and how many typed ones
/// wait for the line discipline.
const QUEUE: usize = 16 * 1024;

/// How much is copied at once between the master's program and the pair.
const CHUNK: usize = 1024;

/// What both sides share.
pub struct Pair {
    index: u32,
    to_master: SpinLock<Ring>,
    slave: Once<Weak<Tty>>,
    master_wait: Arc<WaitQueue>,
    is_locked: AtomicBool,
    is_master_closed: AtomicBool,
    /// The slave was open, and is not any more.
    is_slave_closed: AtomicBool,
    is_packet_mode: AtomicBool,
    packet: AtomicU8,
    has_printed: AtomicBool,
    has_input_room: AtomicBool,
}

impl Driver for Pair {
    fn write(&self, bytes: &[u8]) -> usize {
        if self.is_master_closed.load(Ordering::Relaxed) {
            return bytes.len();
        }
        let n = self.to_master.lock().push(bytes);
        if n > 0 {
            // Release: pairs with the swap in `written`.
            self.has_printed.store(true, Ordering::Release);
        }
        n
    }

    fn write_room(&self) -> usize {
        self.to_master.lock().room()
    }

    fn written(&self) {
        // The plain load keeps the common case free of a locked instruction.
        if self.has_printed.load(Ordering::Relaxed)
            && self.has_printed.swap(false, Ordering::AcqRel)
        {
            self.master_wait.notify(POLLIN | POLLRDNORM);
        }
        if self.has_input_room.load(Ordering::Relaxed)
            && self.has_input_room.swap(false, Ordering::AcqRel)
        {
            self.master_wait.notify(POLLOUT | POLLWRNORM);
        }
    }

    fn throttle(&self, is_throttled: bool) {
        if !is_throttled {
            // Release: pairs with the swap in `written`.
            self.has_input_room.store(true, Ordering::Release);
        }
    }

    fn open(&self, _: bool) -> Result<()> {
        if self.is_locked.load(Ordering::Acquire) || self.is_master_closed.load(Ordering::Acquire) {
            return Err(Errno::EIO);
        }
        self.is_slave_closed.store(false, Ordering::Release);
        Ok(())
    }

    fn close(&self) {
        self.is_slave_closed.store(true, Ordering::Release);
        self.master_wait.notify(POLLHUP | POLLIN);
    }

    fn packet_event(&self, bits: u8) {
        if !self.is_packet_mode.load(Ordering::Acquire) {
            return;
        }
        let opposite = |bit: u8| match bit {
            TIOCPKT_STOP => TIOCPKT_START,
            TIOCPKT_START => TIOCPKT_STOP,
            TIOCPKT_NOSTOP => TIOCPKT_DOSTOP,
            TIOCPKT_DOSTOP => TIOCPKT_NOSTOP,
            _ => 0,
        };
        let cleared = (0..8).map(|n| opposite(bits & 1 << n)).fold(0, |all, bit| all | bit);
        let update = |old: u8| Some(old & !cleared | bits);
        let _ = self.packet.fetch_update(Ordering::AcqRel, Ordering::Acquire, update);
        self.master_wait.notify(POLLIN | POLLRDNORM | POLLPRI);
    }

    fn is_disconnected(&self) -> bool {
        self.is_master_closed.load(Ordering::Acquire)
    }
}

/// Told when the master is closed: devpts removes the slave's node.
pub type OnClose = Box<dyn FnOnce(u32) + Send + Sync>;

/// The master side, as an open file.
pub struct PtyMaster {
    pair: Arc<Pair>,
    tty: Arc<Tty>,
    on_close: SpinLock<Option<OnClose>>,
}

static ON_CLOSE: LockClass = LockClass::new("tty.pty_on_close", 571);

/// Makes a pair with this index; `on_close` is called when the master is closed.
///
/// # Errors
/// `ENOMEM`.
pub fn create(index: u32, on_close: OnClose) -> Result<PtyMaster> {
    let pair = Arc::new(Pair {
        index,
        to_master: SpinLock::new(&TO_MASTER, Ring::new(QUEUE)?),
        slave: Once::new(),
        master_wait: Arc::new(WaitQueue::new()),
        is_locked: AtomicBool::new(true),
        is_master_closed: AtomicBool::new(false),
        is_slave_closed: AtomicBool::new(false),
        is_packet_mode: AtomicBool::new(false),
        packet: AtomicU8::new(0),
        has_printed: AtomicBool::new(false),
        has_input_room: AtomicBool::new(false),
    });
    let dev = DeviceNumber::new(SLAVE_MAJOR, index);
    let name = format!("pts/{index}");
    let tty = Tty::new(name, dev, TtyKind::PtySlave, PTY, QUEUE, pair.clone())?;
    pair.slave.call_once(|| Arc::downgrade(&tty));
    Ok(PtyMaster { pair, tty, on_close: SpinLock::new(&ON_CLOSE, Some(on_close)) })
}

impl PtyMaster {
    /// The slave side.
    pub fn slave(&self) -> &Arc<Tty> {
        &self.tty
    }

    /// The number in `/dev/pts`.
    pub fn index(&self) -> u32 {
        self.pair.index
    }

    fn mode(&self, file: &File) -> Mode {
        // A master is never hung up, so the count is the slave's present one.
        Mode::new(self.tty.generation(), file.flags())
    }

    /// Takes what the slave has printed into `out`; in packet mode behind a status byte.
    fn take(&self, out: &mut [u8]) -> Option<Result<usize>> {
        let pair = &*self.pair;
        let is_packet_mode = pair.is_packet_mode.load(Ordering::Acquire);
        if is_packet_mode && pair.packet.load(Ordering::Acquire) != 0 {
            let status = pair.packet.swap(0, Ordering::AcqRel);
            *out.first_mut()? = status;
            return Some(Ok(1));
        }
        let header = usize::from(is_packet_mode);
        let (before, n) = {
            let mut ring = pair.to_master.lock();
            let before = ring.len();
            (before, ring.pop(out.get_mut(header..)?))
        };
        if n > 0 {
            if is_packet_mode {
                *out.first_mut()? = TIOCPKT_DATA;
            }
            self.made_room(before, before - n);
            return Some(Ok(n + header));
        }
        // A last look: what was printed before the close must not be lost.
        let is_over = pair.is_slave_closed.load(Ordering::Acquire);
        (is_over && pair.to_master.lock().is_empty()).then_some(Err(Errno::EIO))
    }

    fn made_room(&self, before: usize, after: usize) {
        if before > QUEUE / 2 && after <= QUEUE / 2 {
            self.tty.push_echo();
            self.tty.wake_writers();
        }
    }

    fn control(&self, mode: Mode, cmd: u32, arg: usize) -> Result<usize> {
        let at = VirtAddr(arg as u64);
        let put = |value: i32| -> Result<usize> {
            user::write_val(at, &value).map_err(|_| Errno::EFAULT)?;
            Ok(0)
        };
        let get = || user::read_val::<i32>(at).map_err(|_| Errno::EFAULT);
        let pair = &*self.pair;
        match cmd {
            TIOCGPTN => put(pair.index as i32),
            TIOCSPTLCK => {
                pair.is_locked.store(get()? != 0, Ordering::Release);
                Ok(0)
            }
            TIOCGPTLCK => put(i32::from(pair.is_locked.load(Ordering::Acquire))),
            TIOCPKT => {
                let is_on = get()? != 0;
                if is_on && !pair.is_packet_mode.load(Ordering::Acquire) {
                    pair.packet.store(0, Ordering::Release);
                }
                pair.is_packet_mode.store(is_on, Ordering::Release);
                Ok(0)
            }
            TIOCGPKT => put(i32::from(pair.is_packet_mode.load(Ordering::Acquire))),
            TIOCSIG => self.tty.signal_from_master(arg as i32).map(|()| 0),
            TIOCGPGRP => put(self.tty.number_of(self.tty.foreground())),
            TIOCSPGRP => self.tty.set_foreground(get()?).map(|()| 0),
            TIOCGSID => match self.tty.session() {
                Some(session) => put(self.tty.number_of(Some(session))),
                None => Err(Errno::ENOTTY),
            },
            FIONREAD => put(pair.to_master.lock().len() as i32),
            TIOCOUTQ => put(0),
            TIOCEXCL | TIOCNXCL => Ok(0),
            TIOCGEXCL => put(0),
            TIOCCONS => Err(Errno::EINVAL),
            TIOCSCTTY | TIOCNOTTY => Err(Errno::ENOTTY),
            TCFLSH => self.flush(arg as u64),
            TIOCSTI => {
                let byte: u8 = user::read_val(at).map_err(|_| Errno::EFAULT)?;
                pair.to_master.lock().push(&[byte]);
                pair.master_wait.notify(POLLIN | POLLRDNORM);
                Ok(0)
            }
            _ => self.tty.shared_ioctl(mode, cmd, at),
        }
    }

    fn flush(&self, what: u64) -> Result<usize> {
        if !matches!(what, TCIFLUSH | TCOFLUSH | TCIOFLUSH) {
            return Err(Errno::EINVAL);
        }
        if what != TCOFLUSH {
            let before = {
                let mut ring = self.pair.to_master.lock();
                let before = ring.len();
                ring.clear();
                before
            };
            self.made_room(before, 0);
        }
        if what != TCIFLUSH {
            let mut state = self.tty.state.lock();
            state.backlog.clear();
            self.tty.refill(&mut state);
        }
        Ok(0)
    }
}

impl PtyMaster {
    /// Reads what the slave's programs have printed.
    pub(crate) fn read(&self, is_nonblocking: bool, sink: &mut Sink<'_>) -> Result<usize> {
        let mut chunk = [0; CHUNK];
        let asked = sink.remaining();
        if asked == 0 {
            return Ok(0);
        }
        let mut done = 0;
        while done < asked {
            let room = (asked - done).min(CHUNK);
            let out = chunk.get_mut(..room).ok_or(Errno::EIO)?;
            let taken = match self.take(out) {
                Some(Ok(n)) => n,
                _ if done > 0 => break,
                Some(Err(error)) => return Err(error),
                None if is_nonblocking => return Err(Errno::EAGAIN),
                None => wait::until(&self.pair.master_wait, None, || self.take(out))?
                    .unwrap_or(Ok(0))?,
            };
            sink.put_all(chunk.get(..taken).unwrap_or(&[])).map_err(|_| Errno::EFAULT)?;
            done += taken;
            if self.pair.is_packet_mode.load(Ordering::Relaxed) || taken < room {
                break;
            }
        }
        Ok(done)
    }

    /// Types.
    pub(crate) fn write(&self, is_nonblocking: bool, source: &mut Source<'_>) -> Result<usize> {
        let mut chunk = [0; CHUNK];
        let asked = source.remaining();
        while source.remaining() > 0 {
            let len = source.remaining().min(CHUNK);
            let bytes = chunk.get_mut(..len).ok_or(Errno::EIO)?;
            let n = source.take(bytes).map_err(|_| Errno::EFAULT)?;
            if n == 0 {
                break;
            }
            let mut rest = chunk.get(..n).unwrap_or(&[]);
            loop {
                let taken = self.tty.receive(rest);
                rest = rest.get(taken..).unwrap_or(&[]);
                if rest.is_empty() {
                    break;
                }
                let look = || (self.tty.receive_room() > 0).then_some(());
                let result = if is_nonblocking {
                    look().ok_or(Errno::EAGAIN)
                } else {
                    wait::until(&self.pair.master_wait, None, look).map(|_| ())
                };
                if let Err(error) = result {
                    source.revert(rest.len());
                    let done = asked - source.remaining();
                    return if done > 0 { Ok(done) } else { Err(error) };
                }
            }
        }
        Ok(asked - source.remaining())
    }

    pub(crate) fn poll(&self, table: Option<&mut PollTable<'_>>) -> u32 {
        let pair = &*self.pair;
        poll_wait(table, &pair.master_wait);
        let mut events = 0;
        if !pair.to_master.lock().is_empty() {
            events |= POLLIN | POLLRDNORM;
        }
        if pair.is_packet_mode.load(Ordering::Acquire) && pair.packet.load(Ordering::Acquire) != 0 {
            events |= POLLIN | POLLRDNORM | POLLPRI;
        }
        if pair.is_slave_closed.load(Ordering::Acquire) {
            events |= POLLHUP;
        }
        if self.tty.receive_room() > 0 {
            events |= POLLOUT | POLLWRNORM;
        }
        events
    }
}

impl FileOps for PtyMaster {
    fn read_at(&self, file: &File, _: u64, sink: &mut Sink<'_>) -> Result<usize> {
        self.read(file.is_nonblocking(), sink)
    }

    fn write_at(&self, file: &File, _: u64, source: &mut Source<'_>) -> Result<usize> {
        self.write(file.is_nonblocking(), source)
    }

    fn seek(&self, _: &File, _: u64, _: i64, _: u32) -> Result<u64> {
        Err(Errno::ESPIPE)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        self.poll(table)
    }

    fn ioctl(&self, file: &Arc<File>, _: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        self.control(self.mode(file), cmd, arg)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for PtyMaster {
    fn drop(&mut self) {
        self.pair.is_master_closed.store(true, Ordering::Release);
        self.tty.hangup();
        let on_close = self.on_close.lock().take();
        if let Some(on_close) = on_close {
            on_close(self.pair.index);
        }
    }
}

#[cfg(test)]
mod tests;
