//! How many files are open (`/proc/sys/fs/file-nr`) and how many may be (`file-max`, proc(5)).
//!
//! Counted per processor and gathered in lots, so that opening and closing share no word. The
//! limit is compared with what is gathered, and with the exact sum only near it.

use core::sync::atomic::{AtomicI64, Ordering};

use abi::{Errno, Result};

use crate::cred::{Cap, Creds};

/// A processor's count moves to the common one at this distance from 0.
const LOT: i64 = 64;

arch::percpu! {
    static HERE: PerCpu<AtomicI64> = AtomicI64::new(0);
}
static GATHERED: AtomicI64 = AtomicI64::new(0);

/// `fs.file-max`.
pub static FILE_MAX: AtomicI64 = AtomicI64::new(i64::MAX);

/// Sets the limit that a machine with `pages` pages of memory starts with: a tenth of memory, at
/// 1 KiB a file.
pub fn init(pages: u64) {
    FILE_MAX.store(
        (pages.saturating_mul(4) / 10).clamp(8192, i64::MAX as u64) as i64,
        Ordering::Relaxed,
    );
}

/// Counts a file that is made (1) or gone (-1).
pub(crate) fn count(change: i64) {
    let here = HERE.this();
    // Relaxed: counters. Moving to another processor in between only misplaces a count.
    let now = here.fetch_add(change, Ordering::Relaxed) + change;
    if now.abs() >= LOT {
        GATHERED.fetch_add(here.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Open files.
pub fn open_files() -> u64 {
    let scattered: i64 =
        arch::cpu::possible().iter().map(|cpu| HERE.on(cpu).load(Ordering::Relaxed)).sum();
    u64::try_from(GATHERED.load(Ordering::Relaxed) + scattered).unwrap_or(0)
}

/// Whether one more may be opened: `ENFILE` beyond the limit, which does not bind the privileged.
pub fn check(creds: &Creds) -> Result<()> {
    let most = FILE_MAX.load(Ordering::Relaxed);
    // What is not gathered yet is at most a lot on each processor.
    let slack = LOT * arch::cpu::possible_count() as i64;
    if GATHERED.load(Ordering::Relaxed).saturating_add(slack) < most {
        return Ok(());
    }
    if (open_files() as i64) < most || creds.capable(Cap::SYS_ADMIN) {
        return Ok(());
    }
    // Once for each limit: a program may ask again and again.
    static TOLD: AtomicI64 = AtomicI64::new(-1);
    if TOLD.swap(most, Ordering::Relaxed) != most {
        log::info!("VFS: file-max limit {most} reached");
    }
    Err(Errno::ENFILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_gathered() {
        let before = open_files() as i64;
        (0..1000).for_each(|_| count(1));
        // Other tests open files meanwhile.
        assert!((open_files() as i64 - before - 1000).abs() < 500);
        (0..1000).for_each(|_| count(-1));
        assert!((open_files() as i64 - before).abs() < 500);
    }
}
