//! Open generated files and directories.

use crate::node::{Directory, Text};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::LockClass;
use arch::uio::{Sink, Source};
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};
use sched::Mutex;
use vfs::poll::{ALWAYS_READY, POLLERR, POLLPRI};
use vfs::{DirEntry, DirSink, File, FileOps, PollTable, poll_wait};

// Taken under the position of the file, and before whatever the text is made from.
static CONTENTS: LockClass = LockClass::new("pseudo.contents", 202);
/// Room for most texts, made at once.
const ROOM: usize = 1024;
/// The most one write may carry.
const WRITE_MAX: usize = 64 * 1024;

/// An open text file: its contents as of the last read from the start.
pub struct TextFile {
    text: Arc<dyn Text>,
    contents: Mutex<Option<Vec<u8>>>,
    /// The state of the text when it was last read, for poll(2).
    seen: AtomicU64,
}

impl TextFile {
    /// A file whose contents `text` makes.
    pub fn new(text: Arc<dyn Text>) -> TextFile {
        let seen = AtomicU64::new(text.changes().map_or(0, |changes| changes.count));
        TextFile { text, contents: Mutex::new(&CONTENTS, None), seen }
    }
}

impl core::fmt::Debug for TextFile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("TextFile")
    }
}

impl FileOps for TextFile {
    fn read_at(&self, file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        let mut contents = self.contents.lock();
        if pos == 0 || contents.is_none() {
            if let Some(changes) = self.text.changes() {
                // Relaxed: a lone number.
                self.seen.store(changes.count, Ordering::Relaxed);
            }
            let mut fresh = Vec::with_capacity(ROOM);
            self.text.show_as(&mut fresh, &file.creds)?;
            *contents = Some(fresh);
        }
        let all = contents.as_deref().unwrap_or_default();
        let from = usize::try_from(pos).map_or(all.len(), |pos| pos.min(all.len()));
        let rest = all.get(from..).unwrap_or_default();
        let rest = rest.get(..rest.len().min(sink.remaining())).unwrap_or_default();
        Ok(sink.put(rest)?)
    }

    fn write_at(&self, file: &File, _pos: u64, source: &mut Source<'_>) -> Result<usize> {
        let len = source.remaining().min(WRITE_MAX);
        let mut bytes = alloc::vec![0; len];
        source.take_all(&mut bytes)?;
        self.text.store_as(&bytes, &file.creds)?;
        Ok(len)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        let Some(changes) = self.text.changes() else { return ALWAYS_READY };
        poll_wait(table, &changes.queue);
        // Asked again: now the queue tells of what comes.
        let count = self.text.changes().map_or(0, |changes| changes.count);
        let has_changed = self.seen.load(Ordering::Relaxed) != count;
        ALWAYS_READY | if has_changed { POLLERR | POLLPRI } else { 0 }
    }

    fn can_poll(&self) -> bool {
        self.text.changes().is_some()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open directory.
pub(crate) struct ListFile {
    pub(crate) dir: Arc<dyn Directory>,
}

impl FileOps for ListFile {
    fn readdir(&self, file: &File, cursor: u64, out: &mut dyn DirSink) -> Result<u64> {
        const DT_DIR: u8 = 4;
        let own = file.inode().ino;
        let mut at = cursor;
        for (number, name) in [(0u64, &b"."[..]), (1, b"..")] {
            if at == number {
                let entry = DirEntry { name, ino: own, kind: DT_DIR, next: number + 1 };
                if !out.emit(&entry) {
                    return Ok(at);
                }
                at += 1;
            }
        }
        let first = at.checked_sub(2).ok_or(Errno::EINVAL)?;
        self.dir.list(first, &mut |next, name, ino, kind| {
            let entry = DirEntry { name, ino, kind, next: next + 2 };
            let taken = out.emit(&entry);
            if taken {
                at = next + 2;
            }
            taken
        })?;
        Ok(at)
    }

    fn as_any(&self) -> &dyn Any {
        self.dir.subject().unwrap_or(self)
    }
}
