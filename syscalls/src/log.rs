//! `syslog(2)` on the kernel log.

use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;
use klog::Action;

/// Performs `action` for a caller whose right to do so has been checked.
pub(crate) fn syslog(action: i32, buffer: VirtAddr, len: i32) -> Result<usize> {
    // 0 and 1 open and close a log that is always open.
    if matches!(action, 0 | 1) {
        return Ok(0);
    }
    let action = Action::from_number(action).ok_or(Errno::EINVAL)?;
    let reads = matches!(action, Action::Read | Action::ReadAll | Action::ReadClear);
    let len = if reads || action == Action::ConsoleLevel {
        usize::try_from(len).map_err(|_| Errno::EINVAL)?
    } else {
        0
    };
    if reads && buffer.is_null() {
        return Err(Errno::EINVAL);
    }
    if reads && len == 0 {
        return Ok(0);
    }
    if action == Action::Read {
        wait_for_message()?;
    }
    let mut at = buffer;
    klog::syslog(action, len, |piece| {
        user::copy_to_user(at, piece)?;
        at = at.wrapping_add(piece.len() as u64);
        Ok(())
    })
}

/// Sleeps until there is something unread.
fn wait_for_message() -> Result<()> {
    if klog::unread_bytes() > 0 {
        return Ok(());
    }
    crate::kmsg_queue()
        .wait_interruptible(|| (klog::unread_bytes() > 0).then_some(()), None)
        .map_err(|_| Errno::ERESTARTSYS)
}
