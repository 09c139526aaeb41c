//! Controlling terminals and job control (termios(3), credentials(7), tty_ioctl(4)).

use alloc::sync::Arc;

use abi::{Errno, Result};

use crate::Tty;
use crate::jobs::{CAP_SYS_ADMIN, PidRef, caller, jobs, sig};

/// Whether the caller has `CAP_SYS_ADMIN`.
pub(crate) fn is_admin() -> bool {
    jobs().is_none_or(|jobs| jobs.is_capable(CAP_SYS_ADMIN))
}

impl Tty {
    /// Whether this is the caller's controlling terminal.
    pub(crate) fn controls_caller(self: &Arc<Self>) -> bool {
        jobs().and_then(|jobs| jobs.controlling_tty()).is_some_and(|tty| Arc::ptr_eq(&tty, self))
    }

    /// Refuses a process in the background what only the foreground may do: it is stopped by
    /// `signal` and the call restarted, or fails when it cannot be stopped.
    pub(crate) fn check_job(self: &Arc<Self>, signal: i32) -> Result<()> {
        let Some(jobs) = jobs() else { return Ok(()) };
        if !self.controls_caller() {
            return Ok(());
        }
        let Some(caller) = jobs.caller() else { return Ok(()) };
        match self.foreground() {
            None => return Ok(()),
            Some(group) if group == caller.group => return Ok(()),
            Some(_) => {}
        }
        if jobs.is_ignored(signal) {
            return if signal == sig::SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
        }
        if caller.is_orphaned {
            return Err(Errno::EIO);
        }
        jobs.signal_group(&caller.group, signal);
        Err(Errno::ERESTARTSYS)
    }

    /// Makes this the controlling terminal of the caller's session.
    fn adopt(self: &Arc<Self>, session: PidRef, group: PidRef) {
        {
            let mut owner = self.owner.lock();
            owner.session = Some(session.clone());
            owner.foreground = Some(group);
        }
        if let Some(jobs) = jobs() {
            jobs.set_controlling_tty(&session, Some(self.clone()));
        }
    }

    /// What an open without `O_NOCTTY` does for a session leader without a terminal.
    pub(crate) fn adopt_on_open(self: &Arc<Self>) {
        let Some(jobs) = jobs() else { return };
        let Some(caller) = jobs.caller() else { return };
        if !caller.is_leader || jobs.controlling_tty().is_some() || self.session().is_some() {
            return;
        }
        self.adopt(caller.session, caller.group);
    }

    /// `TIOCSCTTY`: makes this the controlling terminal of the caller, who leads a session
    /// without one. `steal` takes it from another session, for the administrator.
    pub(crate) fn set_controlling(self: &Arc<Self>, steal: bool, can_read: bool) -> Result<()> {
        let jobs = jobs().ok_or(Errno::EPERM)?;
        let caller = caller()?;
        let session = self.session();
        if caller.is_leader && session.as_ref() == Some(&caller.session) {
            return Ok(());
        }
        if !caller.is_leader || jobs.controlling_tty().is_some() {
            return Err(Errno::EPERM);
        }
        if let Some(other) = session {
            if !steal || !is_admin() {
                return Err(Errno::EPERM);
            }
            jobs.set_controlling_tty(&other, None);
        }
        if !can_read && !is_admin() {
            return Err(Errno::EPERM);
        }
        self.adopt(caller.session, caller.group);
        Ok(())
    }

    /// `TIOCNOTTY`: the caller gives up its controlling terminal; if it leads the session, the
    /// whole session does, and the foreground group is hung up.
    pub(crate) fn give_up(self: &Arc<Self>) -> Result<()> {
        let jobs = jobs().ok_or(Errno::ENOTTY)?;
        if !self.controls_caller() {
            return Err(Errno::ENOTTY);
        }
        let caller = caller()?;
        if caller.is_leader {
            self.disassociate(&caller.session);
        } else {
            jobs.drop_controlling_tty();
        }
        Ok(())
    }

    /// The terminal's session ends or gives it up: the foreground group gets SIGHUP and SIGCONT,
    /// nobody of the session has a controlling terminal any more.
    fn disassociate(self: &Arc<Self>, session: &PidRef) {
        let Some(jobs) = jobs() else { return };
        let foreground = {
            let mut owner = self.owner.lock();
            if owner.session.as_ref() != Some(session) {
                return;
            }
            owner.session = None;
            owner.foreground.take()
        };
        if let Some(group) = foreground {
            jobs.signal_group(&group, sig::SIGHUP);
            jobs.signal_group(&group, sig::SIGCONT);
        }
        jobs.set_controlling_tty(session, None);
    }

    /// The leader of `session` has exited; called by the process layer for the session's
    /// controlling terminal. A line is hung up for everyone; a pseudo terminal only loses the
    /// session.
    pub fn session_leader_exited(self: &Arc<Self>, session: &PidRef) {
        if self.session().as_ref() != Some(session) {
            return;
        }
        self.disassociate(session);
        if self.kind() != crate::TtyKind::PtySlave {
            self.hangup();
        }
    }

    /// `vhangup(2)`: hangs up the caller's controlling terminal.
    pub fn virtual_hangup() {
        if let Some(tty) = jobs().and_then(|jobs| jobs.controlling_tty()) {
            tty.hangup();
        }
    }

    /// `TIOCGPGRP`.
    pub(crate) fn foreground_number(self: &Arc<Self>) -> Result<i32> {
        if !self.controls_caller() {
            return Err(Errno::ENOTTY);
        }
        Ok(self.number_of(self.foreground()))
    }

    pub(crate) fn number_of(&self, pid: Option<PidRef>) -> i32 {
        match (jobs(), pid) {
            (Some(jobs), Some(pid)) => jobs.number(&pid),
            _ => 0,
        }
    }

    /// `TIOCSPGRP`.
    pub(crate) fn set_foreground(self: &Arc<Self>, number: i32) -> Result<()> {
        match self.check_job(sig::SIGTTOU) {
            Err(Errno::EIO) => return Err(Errno::ENOTTY),
            other => other?,
        }
        let jobs = jobs().ok_or(Errno::ENOTTY)?;
        let caller = caller()?;
        if !self.controls_caller() || self.session().as_ref() != Some(&caller.session) {
            return Err(Errno::ENOTTY);
        }
        if number < 0 {
            return Err(Errno::EINVAL);
        }
        let (group, session) = jobs.find_group(number).ok_or(Errno::ESRCH)?;
        if session != caller.session {
            return Err(Errno::EPERM);
        }
        self.owner.lock().foreground = Some(group);
        Ok(())
    }

    /// `TIOCGSID`.
    pub(crate) fn session_number(self: &Arc<Self>) -> Result<i32> {
        if !self.controls_caller() {
            return Err(Errno::ENOTTY);
        }
        match self.session() {
            Some(session) => Ok(self.number_of(Some(session))),
            None => Err(Errno::ENOTTY),
        }
    }
}
