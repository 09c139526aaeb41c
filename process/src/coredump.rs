//! Core dumps: whether a process may leave one, and the status bit that says it did.
//!
//! The file itself is written when `RLIMIT_CORE` and `dumpable` allow it; `kernel.core_pattern`
//! defaults to Linux's `core`.

use crate::task::Task;
use abi::process::Resource;
use abi::signal::{SigInfo, Signal};
use core::sync::atomic::{AtomicU32, Ordering};

static SUID_DUMPABLE: AtomicU32 = AtomicU32::new(0);

/// `fs.suid_dumpable`: what `dumpable` becomes when credentials change.
pub fn suid_dumpable() -> u32 {
    SUID_DUMPABLE.load(Ordering::Relaxed)
}

/// Sets `fs.suid_dumpable` (0..=2).
pub fn set_suid_dumpable(value: u32) {
    SUID_DUMPABLE.store(value.min(2), Ordering::Relaxed);
}

/// Dumps core if the process may; whether it did.
pub(crate) fn dump(task: &Task, _signal: Signal, _info: &SigInfo) -> bool {
    let allowed =
        task.limit(Resource::Core) >= 4096 && task.group.dumpable.load(Ordering::Relaxed) == 1;
    allowed && write_file(task)
}

/// No dump file is written: the limit is 0 by default, and a status without the bit tells the
/// truth.
fn write_file(_task: &Task) -> bool {
    false
}
