//! Timers and sleeps.

use std::mem::zeroed;
use std::ptr;

use crate::meter::{Failure, each};
use crate::rows::Rows;
use crate::sys::{Fd, ok};

/// Seconds to an end that no row lives to see.
const LATER_S: i64 = 1000;

/// Adds the group's rows.
pub fn add(rows: &mut Rows) {
    sleeps(rows);
    timers(rows);
    descriptors(rows);
}

fn sleeps(rows: &mut Rows) {
    // SAFETY: times that outlive the calls.
    unsafe {
        rows.add("clock_nanosleep into the past", || {
            let (clock, flags) = (libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME);
            let past = libc::timespec { tv_sec: 0, tv_nsec: 1 };
            each(5_500, || libc::clock_nanosleep(clock, flags, &past, ptr::null_mut()) == 0)
        });
        rows.add("nanosleep 1 ns", || {
            // Linux lets sleepers sleep 50 us longer unless told not to.
            ok("prctl", libc::prctl(libc::PR_SET_TIMERSLACK, 1))?;
            let short = libc::timespec { tv_sec: 0, tv_nsec: 1 };
            each(5_500, || libc::nanosleep(&short, ptr::null_mut()) == 0)
        });
    }
}

fn timers(rows: &mut Rows) {
    // SAFETY: values that outlive the calls, and timers that exist.
    unsafe {
        rows.add("setitimer", || {
            let mut value: libc::itimerval = zeroed();
            value.it_value.tv_sec = LATER_S;
            each(36_000, || libc::setitimer(libc::ITIMER_REAL, &value, ptr::null_mut()) == 0)
        });
        rows.add("timer_create+delete", || {
            each(14_000, || timer().is_ok_and(|timer| libc::timer_delete(timer) == 0))
        });
        rows.add("timer_settime", || {
            let timer = timer()?;
            let mut value: libc::itimerspec = zeroed();
            value.it_value.tv_sec = LATER_S;
            each(38_000, || libc::timer_settime(timer, 0, &value, ptr::null_mut()) == 0)
        });
    }
}

/// A new timer that sends no signal. It ends with the process.
fn timer() -> Result<libc::timer_t, Failure> {
    // SAFETY: room for the timer, and an event that outlives the call.
    unsafe {
        let (mut event, mut timer): (libc::sigevent, _) = (zeroed(), ptr::null_mut());
        event.sigev_notify = libc::SIGEV_NONE;
        ok("timer_create", libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer))?;
        Ok(timer)
    }
}

fn descriptors(rows: &mut Rows) {
    // SAFETY: values that outlive the calls.
    unsafe {
        rows.add("timerfd_settime", || {
            let timer = Fd::new("timerfd_create", libc::timerfd_create(libc::CLOCK_MONOTONIC, 0))?;
            let mut value: libc::itimerspec = zeroed();
            value.it_value.tv_sec = LATER_S;
            each(26_000, || libc::timerfd_settime(timer.raw(), 0, &value, ptr::null_mut()) == 0)
        });
        rows.add("timerfd_settime+read", || {
            let timer = Fd::new("timerfd_create", libc::timerfd_create(libc::CLOCK_MONOTONIC, 0))?;
            let (mut past, mut count): (libc::itimerspec, _) = (zeroed(), [0; 8]);
            past.it_value.tv_nsec = 1;
            let flags = libc::TFD_TIMER_ABSTIME;
            each(4_500, || {
                libc::timerfd_settime(timer.raw(), flags, &past, ptr::null_mut()) == 0
                    && timer.take_some(&mut count) == 8
            })
        });
    }
}
