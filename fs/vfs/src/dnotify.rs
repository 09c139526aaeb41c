//! Directory change notification by signal (`F_NOTIFY`), on top of the hooks of `notify`.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU32, Ordering};

use abi::inotify::*;
use abi::{Errno, Result};

use crate::file::File;
use crate::notify::{self, Event, Watch};
use crate::sigio::{self, Notice, code};

/// `DN_*` of `fcntl(2)` and the events they stand for.
const KINDS: [(u32, u32); 6] = [
    (0x1, IN_ACCESS),
    (0x2, IN_MODIFY),
    (0x4, IN_CREATE | IN_MOVED_TO),
    (0x8, IN_DELETE | IN_MOVED_FROM),
    (0x10, IN_MOVED_FROM),
    (0x20, IN_ATTRIB),
];
/// Go on after the first event.
const MULTISHOT: u32 = 0x8000_0000;

/// What sends signals about a directory for one open file.
pub(crate) struct DirWatch {
    file: Weak<File>,
    fd: i32,
    mask: AtomicU32,
}

impl Watch for DirWatch {
    fn event(&self, event: &Event<'_>) {
        let mask = self.mask.load(Ordering::Relaxed);
        let hit = KINDS.iter().any(|(kind, events)| mask & kind != 0 && event.mask & events != 0);
        if !hit || event.name.is_none() {
            return;
        }
        if mask & MULTISHOT == 0 {
            self.mask.store(0, Ordering::Relaxed);
        }
        if let Some(owner) = self.file.upgrade().and_then(|file| file.signal_owner()) {
            let band = i64::from(abi::poll::POLLIN | abi::poll::POLLRDNORM | abi::poll::POLLMSG);
            sigio::send(&owner, &Notice { fd: self.fd, code: code::POLL_MSG, band });
        }
    }
}

/// `fcntl(F_NOTIFY)` on descriptor `fd`; no events ends it.
pub fn set(file: &Arc<File>, fd: i32, mask: u32) -> Result<()> {
    if !file.inode().is_dir() {
        return Err(Errno::ENOTDIR);
    }
    // man 2 fcntl: requests add up, until one without events.
    let before = file.dir_watch().map_or(0, |old| old.mask.load(Ordering::Relaxed));
    release(file);
    if mask & !MULTISHOT == 0 {
        return Ok(());
    }
    let mask = AtomicU32::new(before | mask);
    let watch = Arc::new(DirWatch { file: Arc::downgrade(file), fd, mask });
    file.set_dir_watch(Some(watch.clone()));
    notify::add_watch(file.inode(), watch);
    Ok(())
}

/// The open file is gone: so is its watch.
pub(crate) fn release(file: &File) {
    if let Some(watch) = file.dir_watch() {
        let watch: Arc<dyn Watch> = watch;
        notify::remove_watch(file.inode(), &watch);
        file.set_dir_watch(None);
    }
}
