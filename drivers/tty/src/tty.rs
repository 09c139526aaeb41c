//! A terminal: the line discipline between a device and open files.

use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::termios::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use sched::{Mutex, WaitQueue};
use vfs::DeviceNumber;

use crate::driver::Driver;
use crate::jobs::{PidRef, jobs, sig};
use crate::ldisc::{Effects, KeySignal, Kind, Ldisc};
use crate::ring::Ring;
use crate::wait::Turn;

static SETTINGS: LockClass = LockClass::new("tty.settings", 553);
static JOBS: LockClass = LockClass::new("tty.jobs", 555);
static STATE: LockClass = LockClass::new("tty.state", 560);

/// The sender is asked to pause when less than this is free for input.
const THROTTLE_ROOM: usize = 256;

/// What kind of terminal this is, for `/proc/tty/drivers` and the rules that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtyKind {
    /// A serial port.
    Serial,
    /// The slave side of a pseudo terminal.
    PtySlave,
    /// A console of a hypervisor (`hvc0`).
    Console,
}

/// Whose terminal it is.
#[derive(Default)]
pub(crate) struct Ownership {
    pub(crate) session: Option<PidRef>,
    pub(crate) foreground: Option<PidRef>,
}

/// What the state lock protects.
pub(crate) struct State {
    pub(crate) ldisc: Ldisc,
    /// Input for which the line discipline has no room yet.
    pub(crate) backlog: Ring,
    pub(crate) is_throttled: bool,
}

/// A terminal.
pub struct Tty {
    name: String,
    dev: DeviceNumber,
    kind: TtyKind,
    initial: Termios2,
    driver: Arc<dyn Driver>,
    pub(crate) state: SpinLock<State>,
    pub(crate) owner: SpinLock<Ownership>,
    pub(crate) winsize: SpinLock<Winsize>,
    pub(crate) locked: SpinLock<Termios2>,
    pub(crate) opens: Mutex<u32>,
    pub(crate) readers: Turn,
    pub(crate) writers: Turn,
    pub(crate) settings: Mutex<()>,
    pub(crate) read_wait: Arc<WaitQueue>,
    pub(crate) write_wait: Arc<WaitQueue>,
    /// Counts hang-ups: open files of an earlier count are dead.
    generation: AtomicU32,
    pub(crate) is_exclusive: AtomicBool,
}

static WINSIZE: LockClass = LockClass::new("tty.winsize", 556);
static LOCKED: LockClass = LockClass::new("tty.locked_termios", 557);
static OPENS: LockClass = LockClass::new("tty.opens", 550);

const NOTHING_LOCKED: Termios2 = Termios2 {
    iflag: 0,
    oflag: 0,
    cflag: 0,
    lflag: 0,
    line: 0,
    cc: [0; NCCS],
    ispeed: 0,
    ospeed: 0,
};

impl Tty {
    /// A terminal named `name` below `/dev`, in front of `driver`. `backlog` is how many bytes of
    /// input it keeps beyond the line discipline's 4096.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(
        name: String,
        dev: DeviceNumber,
        kind: TtyKind,
        termios: Termios2,
        backlog: usize,
        driver: Arc<dyn Driver>,
    ) -> Result<Arc<Self>> {
        let state = State {
            ldisc: Ldisc::new(termios)?,
            backlog: Ring::new(backlog)?,
            is_throttled: false,
        };
        Ok(Arc::new(Self {
            name,
            dev,
            kind,
            initial: termios,
            driver,
            state: SpinLock::new(&STATE, state),
            owner: SpinLock::new(&JOBS, Ownership::default()),
            winsize: SpinLock::new(&WINSIZE, Winsize::default()),
            locked: SpinLock::new(&LOCKED, NOTHING_LOCKED),
            opens: Mutex::new(&OPENS, 0),
            readers: Turn::new(),
            writers: Turn::new(),
            settings: Mutex::new(&SETTINGS, ()),
            read_wait: Arc::new(WaitQueue::new()),
            write_wait: Arc::new(WaitQueue::new()),
            generation: AtomicU32::new(0),
            is_exclusive: AtomicBool::new(false),
        }))
    }

    /// Its name below `/dev`: `ttyS0`, `pts/3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its device number, as `/proc/PID/stat` shows.
    pub fn dev(&self) -> DeviceNumber {
        self.dev
    }

    /// What kind of terminal it is.
    pub fn kind(&self) -> TtyKind {
        self.kind
    }

    /// The device behind it.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// The settings.
    pub fn termios(&self) -> Termios2 {
        *self.state.lock().ldisc.termios()
    }

    /// The window's size.
    pub fn winsize(&self) -> Winsize {
        *self.winsize.lock()
    }

    /// How often it has been hung up; an open file of an earlier count is dead.
    pub fn generation(&self) -> u32 {
        // Acquire: pairs with the increment of `hangup`.
        self.generation.load(Ordering::Acquire)
    }

    /// The foreground process group.
    pub fn foreground(&self) -> Option<PidRef> {
        self.owner.lock().foreground.clone()
    }

    /// The session whose controlling terminal it is.
    pub fn session(&self) -> Option<PidRef> {
        self.owner.lock().session.clone()
    }

    /// Takes received bytes; returns how many. Fewer than all: its queues are full, and
    /// [`Driver::throttle`] will be called when there is room again. Not in interrupt context.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let (taken, effects) = {
            let mut state = self.state.lock();
            let mut taken = 0;
            if state.backlog.is_empty() {
                taken = state.ldisc.receive(bytes);
            }
            taken += state.backlog.push(bytes.get(taken..).unwrap_or(&[]));
            self.throttle_if_full(&mut state);
            (taken, self.settle(&mut state))
        };
        self.carry_out(effects);
        taken
    }

    /// Takes a byte that came with a line condition. Not in interrupt context.
    pub fn receive_flagged(&self, byte: u8, kind: Kind) {
        let effects = {
            let mut state = self.state.lock();
            state.ldisc.receive_flagged(byte, kind);
            self.settle(&mut state)
        };
        self.carry_out(effects);
    }

    /// How many bytes [`Tty::receive`] would take.
    pub fn receive_room(&self) -> usize {
        let state = self.state.lock();
        if state.backlog.is_empty() {
            state.ldisc.room().saturating_add(state.backlog.room())
        } else {
            state.backlog.room()
        }
    }

    fn throttle_if_full(&self, state: &mut State) {
        if !state.is_throttled && state.backlog.room() < THROTTLE_ROOM {
            state.is_throttled = true;
            self.driver.throttle(true);
            self.send_flow_key(state, VSTOP);
        }
    }

    /// Moves held-back input into the line discipline after room has been made.
    pub(crate) fn refill(&self, state: &mut State) {
        while !state.backlog.is_empty() {
            let taken = state.ldisc.receive(state.backlog.front());
            if taken == 0 {
                break;
            }
            state.backlog.consume(taken);
        }
        if state.is_throttled && state.backlog.len() < state.backlog.capacity() / 2 {
            state.is_throttled = false;
            self.driver.throttle(false);
            self.send_flow_key(state, VSTART);
        }
    }

    /// `IXOFF`: the other side is paused and restarted with the keys.
    fn send_flow_key(&self, state: &State, key: usize) {
        let t = state.ldisc.termios();
        if let Some(byte) = t.cc.get(key).filter(|byte| **byte != POSIX_VDISABLE)
            && t.iflag & IXOFF != 0
        {
            self.driver.send_urgent(*byte);
        }
    }

    /// Ends a step under the state lock: flushes the device if asked, hands it the echoes, and
    /// returns what is to be done without the lock.
    pub(crate) fn settle(&self, state: &mut State) -> Effects {
        let effects = state.ldisc.take_effects();
        if effects.flush_output {
            self.driver.flush_output();
        }
        if effects.flow_changed {
            self.driver.set_stopped(state.ldisc.is_stopped());
        }
        if state.ldisc.has_echo() {
            state.ldisc.send_echo(|bytes| self.driver.write(bytes));
        }
        effects
    }

    /// Does what a step asked for; without locks.
    pub(crate) fn carry_out(&self, effects: Effects) {
        self.driver.written();
        if effects.packet != 0 {
            self.driver.packet_event(effects.packet);
        }
        if effects.has_signals() {
            self.signal_foreground(effects);
        }
        if effects.wake_readers {
            self.read_wait.notify(vfs::poll::POLLIN | vfs::poll::POLLRDNORM);
        }
        if effects.flow_changed || effects.flush_output {
            self.wake_writers();
        }
    }

    fn signal_foreground(&self, effects: Effects) {
        let Some(jobs) = jobs() else { return };
        let Some(group) = self.foreground() else { return };
        for signal in KeySignal::ALL {
            if effects.raises(signal) {
                jobs.signal_group(&group, signal.number());
            }
        }
    }

    /// The device has room again: called by the driver, in any context.
    pub fn wake_writers(&self) {
        self.write_wait.notify(vfs::poll::POLLOUT | vfs::poll::POLLWRNORM);
    }

    /// Pending echoes may move: called by the driver when its room comes back, not in interrupt
    /// context.
    pub fn push_echo(&self) {
        {
            let mut state = self.state.lock();
            if state.ldisc.has_echo() {
                state.ldisc.send_echo(|bytes| self.driver.write(bytes));
            }
        }
        self.driver.written();
    }

    /// Bytes have been [`receive`](Self::receive)d for now: shows their echo, and wakes who reads.
    /// Not in interrupt context.
    pub fn received(&self) {
        self.push_echo();
        self.read_wait.wake_all();
    }

    /// Signals a key would raise: `TIOCSIG` of a pseudo terminal's master.
    pub(crate) fn signal_from_master(&self, signal: i32) -> Result<()> {
        let known = KeySignal::ALL.iter().any(|key| key.number() == signal);
        if !known {
            return Err(Errno::EINVAL);
        }
        if let (Some(jobs), Some(group)) = (jobs(), self.foreground()) {
            jobs.signal_group(&group, signal);
        }
        Ok(())
    }

    /// Changes the window's size and tells the foreground group.
    pub fn set_winsize(&self, size: Winsize) {
        {
            let mut winsize = self.winsize.lock();
            if *winsize == size {
                return;
            }
            *winsize = size;
        }
        if let (Some(jobs), Some(group)) = (jobs(), self.foreground()) {
            jobs.signal_group(&group, sig::SIGWINCH);
        }
    }

    /// The line is gone: every open file is dead, the session's leader hears of it, the terminal
    /// belongs to nobody.
    pub fn hangup(&self) {
        // Release: pairs with `generation`.
        self.generation.fetch_add(1, Ordering::Release);
        let (session, foreground) = {
            let mut owner = self.owner.lock();
            (owner.session.take(), owner.foreground.take())
        };
        {
            let mut state = self.state.lock();
            state.ldisc.flush_input();
            state.ldisc.flush_echo();
            state.backlog.clear();
            state.ldisc.set_termios(self.initial);
            state.ldisc.take_effects();
        }
        if let (Some(jobs), Some(session)) = (jobs(), session) {
            jobs.hung_up(&session, foreground);
        }
        self.driver.hangup();
        self.wake_all();
    }

    /// Wakes everyone who waits for this terminal.
    pub fn wake_all(&self) {
        self.read_wait.notify(u32::MAX);
        self.write_wait.notify(u32::MAX);
    }
}

impl core::fmt::Debug for Tty {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Tty({})", self.name)
    }
}
