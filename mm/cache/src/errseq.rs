//! Write-back errors, reported once to every open file: `fsync(2)` on each descriptor that was open
//! when the error happened returns it one time.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, Result};

const SEEN: u64 = 1 << 16;
const STEP: u64 = 1 << 17;

/// The latest error of a file, with a count that tells errors apart. Layout: errno in bits 0..16,
/// "somebody was told" in bit 16, count above.
#[derive(Debug, Default)]
pub struct ErrorSequence(AtomicU64);

/// What an open file has been told so far.
#[derive(Debug, Default)]
pub struct ErrorCursor(AtomicU64);

impl ErrorSequence {
    /// No error yet.
    pub const fn new() -> ErrorSequence {
        ErrorSequence(AtomicU64::new(0))
    }

    /// Notes a failure.
    pub fn record(&self, error: Errno) {
        // The count moves on only if somebody saw the last error: an unseen one can be replaced.
        let update = |old: u64| {
            let next = if old & SEEN != 0 || old == 0 { old.wrapping_add(STEP) } else { old };
            Some((next & !(STEP - 1)) | error.raw() as u64)
        };
        // AcqRel: pairs with the loads in `sample` and `check`.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, update);
    }

    /// The cursor of a file opened now: an error nobody has seen yet will be reported to it.
    pub fn sample(&self) -> ErrorCursor {
        let now = self.0.load(Ordering::Acquire);
        ErrorCursor(AtomicU64::new(if now & SEEN != 0 || now == 0 { now } else { 0 }))
    }

    /// The error since this cursor was last checked, once.
    pub fn check(&self, cursor: &ErrorCursor) -> Result<()> {
        let now = self.0.load(Ordering::Acquire);
        let seen = cursor.0.load(Ordering::Relaxed);
        if now | SEEN == seen | SEEN {
            return Ok(());
        }
        // A lost race means a newer error, which the next check reports.
        let _ = self.0.compare_exchange(now, now | SEEN, Ordering::AcqRel, Ordering::Relaxed);
        // Relaxed: cursors of one open file; concurrent fsyncs may both report, as on Linux.
        cursor.0.store(now | SEEN, Ordering::Relaxed);
        match now & 0xffff {
            0 => Ok(()),
            error => Err(Errno::from_raw(error as i32)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_open_file_is_told_once() {
        let errors = ErrorSequence::new();
        let (a, b) = (errors.sample(), errors.sample());
        assert_eq!(errors.check(&a), Ok(()));
        errors.record(Errno::EIO);
        assert_eq!(errors.check(&a), Err(Errno::EIO));
        assert_eq!(errors.check(&a), Ok(()));
        assert_eq!(errors.check(&b), Err(Errno::EIO));
        assert_eq!(errors.check(&b), Ok(()));
        let late = errors.sample();
        assert_eq!(errors.check(&late), Ok(()));
        errors.record(Errno::ENOSPC);
        let unseen = errors.sample();
        for cursor in [&a, &b, &late, &unseen] {
            assert_eq!(errors.check(cursor), Err(Errno::ENOSPC));
            assert_eq!(errors.check(cursor), Ok(()));
        }
    }
}
