//! `tty_ioctl(4)`.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::termios::*;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;

use crate::Tty;
use crate::control::is_admin;
use crate::io::Mode;
use crate::jobs::{CAP_SYS_TTY_CONFIG, jobs, sig};
use crate::termios::{from_termio, from_termios, resolve_speeds, to_termio, to_termios};
use crate::wait;

/// When new settings take effect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    /// After everything written has been sent.
    Drained,
    /// Likewise, and input is dropped.
    Flushed,
}

fn put<T>(at: VirtAddr, value: &T) -> Result<usize>
where
    T: zerocopy::IntoBytes + zerocopy::Immutable + ?Sized,
{
    user::write_val(at, value).map_err(|_| Errno::EFAULT)?;
    Ok(0)
}

fn get<T: zerocopy::FromBytes>(at: VirtAddr) -> Result<T> {
    user::read_val(at).map_err(|_| Errno::EFAULT)
}

impl Tty {
    /// Requests that every terminal knows. `can_read` is whether the file is open for reading.
    pub(crate) fn ioctl(
        self: &Arc<Self>,
        mode: Mode,
        can_read: bool,
        cmd: u32,
        arg: usize,
    ) -> Result<usize> {
        if self.is_dead(mode) {
            return Err(if cmd == TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
        }
        let at = VirtAddr(arg as u64);
        match cmd {
            TIOCGPGRP => put(at, &self.foreground_number()?),
            TIOCSPGRP => self.set_foreground(get(at)?).map(|()| 0),
            TIOCGSID => put(at, &self.session_number()?),
            TIOCSCTTY => self.set_controlling(arg == 1, can_read).map(|()| 0),
            TIOCNOTTY => self.give_up().map(|()| 0),
            TIOCSTI => self.simulate_input(can_read, get(at)?),
            FIONREAD => put(at, &(self.state.lock().ldisc.readable_bytes() as i32)),
            TIOCOUTQ => put(at, &(self.driver().buffered() as i32)),
            _ => self.shared_ioctl(mode, cmd, at),
        }
    }

    /// Requests that mean the same at both ends of a pseudo terminal.
    pub(crate) fn shared_ioctl(
        self: &Arc<Self>,
        mode: Mode,
        cmd: u32,
        at: VirtAddr,
    ) -> Result<usize> {
        match cmd {
            TCGETS | TCGETS2 | TCGETA | TIOCGLCKTRMIOS | TIOCSLCKTRMIOS => {
                self.get_settings(cmd, at)
            }
            TCSETS | TCSETSW | TCSETSF | TCSETS2 | TCSETSW2 | TCSETSF2 | TCSETA | TCSETAW
            | TCSETAF => self.set_settings(mode, cmd, at),
            TIOCGWINSZ => put(at, &self.winsize()),
            TIOCSWINSZ => {
                self.set_winsize(get(at)?);
                Ok(0)
            }
            TCFLSH | TCXONC | TCSBRK | TCSBRKP | TIOCSBRK | TIOCCBRK => {
                self.line_ioctl(mode, cmd, at.0)
            }
            TIOCEXCL | TIOCNXCL => {
                self.is_exclusive.store(cmd == TIOCEXCL, Ordering::Relaxed);
                Ok(0)
            }
            TIOCGEXCL => put(at, &i32::from(self.is_exclusive.load(Ordering::Relaxed))),
            TIOCGDEV => put(at, &(self.dev().encode() as u32)),
            TIOCGETD => put(at, &i32::from(self.termios().line)),
            TIOCSETD => match get::<i32>(at)? {
                0 => Ok(0),
                _ => Err(Errno::EINVAL),
            },
            TIOCVHANGUP if !is_admin() => Err(Errno::EPERM),
            TIOCVHANGUP => {
                self.hangup();
                Ok(0)
            }
            TIOCCONS => crate::console::redirect(self).map(|()| 0),
            TIOCGSOFTCAR => put(at, &i32::from(self.termios().cflag & CLOCAL != 0)),
            TIOCSSOFTCAR => self.set_soft_carrier(get::<i32>(at)? != 0),
            _ => self.serial_ioctl(cmd, at),
        }
    }

    fn get_settings(self: &Arc<Self>, cmd: u32, at: VirtAddr) -> Result<usize> {
        match cmd {
            TCGETS => put(at, &to_termios(&self.termios())),
            TCGETS2 => put(at, &self.termios()),
            TCGETA => put(at, &to_termio(&self.termios())),
            TIOCGLCKTRMIOS => put(at, &to_termios(&self.locked.lock())),
            _ if !is_admin() => Err(Errno::EPERM),
            _ => {
                let locks: Termios = get(at)?;
                let mut locked = self.locked.lock();
                *locked = from_termios(&locks, &locked);
                Ok(0)
            }
        }
    }

    fn set_settings(self: &Arc<Self>, mode: Mode, cmd: u32, at: VirtAddr) -> Result<usize> {
        self.check_job(sig::SIGTTOU)?;
        let old = self.termios();
        let new = match cmd {
            TCSETS | TCSETSW | TCSETSF => from_termios(&get(at)?, &old),
            TCSETA | TCSETAW | TCSETAF => from_termio(&get(at)?, &old),
            _ => {
                let mut new: Termios2 = get(at)?;
                resolve_speeds(&mut new);
                new
            }
        };
        let when = match cmd {
            TCSETSF | TCSETSF2 | TCSETAF => When::Flushed,
            TCSETSW | TCSETSW2 | TCSETAW => When::Drained,
            _ => When::Now,
        };
        if when == When::Flushed {
            self.flush_input();
        }
        if when != When::Now {
            self.drain(mode)?;
        }
        self.apply(new);
        Ok(0)
    }

    /// Puts new settings into force, except what `TIOCSLCKTRMIOS` has locked.
    pub(crate) fn apply(self: &Arc<Self>, mut new: Termios2) {
        let _guard = self.settings.lock();
        let old = self.termios();
        let locked = *self.locked.lock();
        let keep = |old: u32, new: u32, locked: u32| old & locked | new & !locked;
        new.iflag = keep(old.iflag, new.iflag, locked.iflag);
        new.oflag = keep(old.oflag, new.oflag, locked.oflag);
        new.cflag = keep(old.cflag, new.cflag, locked.cflag);
        new.lflag = keep(old.lflag, new.lflag, locked.lflag);
        for ((new, old), locked) in new.cc.iter_mut().zip(old.cc).zip(locked.cc) {
            if locked != 0 {
                *new = old;
            }
        }
        new.line = old.line;
        if self.is_pty() {
            new.cflag = new.cflag & !(CSIZE | PARENB) | CS8 | CREAD;
        }
        self.driver().set_termios(&mut new, &old);
        let effects = {
            let mut state = self.state.lock();
            state.ldisc.set_termios(new);
            self.refill(&mut state);
            self.settle(&mut state)
        };
        self.carry_out(effects);
    }

    fn set_soft_carrier(self: &Arc<Self>, is_local: bool) -> Result<usize> {
        let mut new = self.termios();
        new.cflag = if is_local { new.cflag | CLOCAL } else { new.cflag & !CLOCAL };
        self.apply(new);
        Ok(0)
    }

    fn flush_input(self: &Arc<Self>) {
        let effects = {
            let mut state = self.state.lock();
            state.ldisc.flush_input();
            state.backlog.clear();
            self.refill(&mut state);
            self.settle(&mut state)
        };
        self.carry_out(effects);
    }

    fn flush_output(self: &Arc<Self>) {
        let effects = {
            let mut state = self.state.lock();
            state.ldisc.flush_echo();
            self.driver().flush_output();
            self.settle(&mut state)
        };
        self.carry_out(effects);
        self.wake_writers();
    }

    fn line_ioctl(self: &Arc<Self>, mode: Mode, cmd: u32, arg: u64) -> Result<usize> {
        self.check_job(sig::SIGTTOU)?;
        match cmd {
            TCFLSH => match arg {
                TCIFLUSH => self.flush_input(),
                TCOFLUSH => self.flush_output(),
                TCIOFLUSH => {
                    self.flush_input();
                    self.flush_output();
                }
                _ => return Err(Errno::EINVAL),
            },
            TCXONC => self.flow(arg)?,
            TCSBRK | TCSBRKP => {
                self.drain(mode)?;
                if cmd == TCSBRKP || arg == 0 {
                    let tenths = if cmd == TCSBRKP && arg != 0 { arg.min(3000) } else { 0 };
                    self.send_break(if tenths == 0 { 250 } else { tenths * 100 });
                }
            }
            // A device without breaks ignores them.
            TIOCSBRK | TIOCCBRK => match self.driver().set_break(cmd == TIOCSBRK) {
                Ok(()) | Err(Errno::ENOTTY) => {}
                Err(error) => return Err(error),
            },
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    fn send_break(&self, milliseconds: u64) {
        if self.driver().set_break(true).is_ok() {
            wait::pause(milliseconds * 1_000_000);
            // It could be started, so it can be ended.
            let _ = self.driver().set_break(false);
        }
    }

    fn flow(self: &Arc<Self>, arg: u64) -> Result<()> {
        let t = self.termios();
        match arg {
            TCOOFF | TCOON => {
                let effects = {
                    let mut state = self.state.lock();
                    if arg == TCOOFF {
                        state.ldisc.stop_by_ioctl();
                    } else {
                        state.ldisc.start_by_ioctl();
                    }
                    self.settle(&mut state)
                };
                self.carry_out(effects);
            }
            TCIOFF if t.cc[VSTOP] != POSIX_VDISABLE => self.driver().send_urgent(t.cc[VSTOP]),
            TCION if t.cc[VSTART] != POSIX_VDISABLE => self.driver().send_urgent(t.cc[VSTART]),
            TCIOFF | TCION => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// `TIOCSTI`: a byte as if it had been typed.
    fn simulate_input(self: &Arc<Self>, can_read: bool, byte: u8) -> Result<usize> {
        if !is_admin() && (!self.controls_caller() || !can_read) {
            return Err(Errno::EPERM);
        }
        self.receive(&[byte]);
        Ok(0)
    }

    fn serial_ioctl(&self, cmd: u32, at: VirtAddr) -> Result<usize> {
        let driver = self.driver();
        match cmd {
            TIOCMGET => put(at, &driver.modem_lines()?),
            TIOCMSET | TIOCMBIS | TIOCMBIC => {
                driver.modem_lines()?;
                let lines: u32 = get(at)?;
                let settable = TIOCM_DTR | TIOCM_RTS | TIOCM_OUT1 | TIOCM_OUT2 | TIOCM_LOOP;
                let (raise, drop) = match cmd {
                    TIOCMSET => (lines & settable, !lines & settable),
                    TIOCMBIS => (lines & settable, 0),
                    _ => (0, lines & settable),
                };
                driver.change_modem_lines(raise, drop).map(|()| 0)
            }
            TIOCMIWAIT => driver.wait_modem_change(at.0 as u32).map(|()| 0),
            TIOCGICOUNT => put(at, &driver.counters().ok_or(Errno::ENOTTY)?),
            TIOCGSERIAL => put(at, &driver.serial().ok_or(Errno::ENOTTY)?),
            TIOCSSERIAL => {
                driver.serial().ok_or(Errno::ENOTTY)?;
                let may_configure = jobs().is_none_or(|jobs| jobs.is_capable(CAP_SYS_TTY_CONFIG));
                if !may_configure && !is_admin() {
                    return Err(Errno::EPERM);
                }
                driver.set_serial(&get(at)?).map(|()| 0)
            }
            TIOCSERGETLSR => {
                let is_empty = driver.is_transmitter_empty().ok_or(Errno::ENOTTY)?;
                put(at, &if is_empty { TIOCSER_TEMT } else { 0 })
            }
            // Virtual consoles only: TIOCLINUX, the KD* and VT_* requests; and what is unknown.
            _ => Err(Errno::ENOTTY),
        }
    }
}
