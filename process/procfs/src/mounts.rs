//! `/proc/PID/mounts`, `mountinfo` and `mountstats`, proc(5): the mount table as the process sees
//! it. The first two can be polled: a change of the table is an error and urgent data, once for
//! each open file.

use crate::pid::View;
use abi::poll::{POLLERR, POLLPRI};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::uio::Sink;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use pseudo::{Text, TextFile};
use vfs::poll::ALWAYS_READY;
use vfs::{File, FileOps, MountNamespace, Path, PollTable, poll_wait};

type Write = fn(&MountNamespace, &Path, &mut dyn fmt::Write) -> fmt::Result;

/// The table as text.
struct Table {
    ns: Arc<MountNamespace>,
    root: Path,
    write: Write,
}

impl Text for Table {
    fn show(&self, out: &mut Vec<u8>) -> Result<()> {
        (self.write)(&self.ns, &self.root, &mut crate::Out(out)).map_err(|_| Errno::EIO)
    }
}

/// An open file: the namespace and root are those of the process when it was opened.
struct MountsFile {
    text: TextFile,
    ns: Arc<MountNamespace>,
    /// The state of the table that the last poll saw.
    seen: AtomicU64,
}

impl FileOps for MountsFile {
    fn read_at(&self, file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        self.text.read_at(file, pos, sink)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        poll_wait(table, self.ns.queue());
        let now = self.ns.events();
        // Relaxed: a lone number.
        let changed = self.seen.swap(now, Ordering::Relaxed) != now;
        ALWAYS_READY | if changed { POLLERR | POLLPRI } else { 0 }
    }

    fn can_poll(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn open(view: &View, write: Write) -> Result<Arc<dyn FileOps>> {
    let root = view.task.fs().and_then(|fs| fs.paths()).ok_or(Errno::EINVAL)?.root.clone();
    let ns = view.task.ns().mounts.clone();
    let text = TextFile::new(Arc::new(Table { ns: ns.clone(), root, write }));
    let seen = AtomicU64::new(ns.events());
    Ok(Arc::new(MountsFile { text, ns, seen }))
}

pub(crate) fn mounts(view: &View) -> Result<Arc<dyn FileOps>> {
    open(view, vfs::mount::write_mounts)
}

pub(crate) fn mountinfo(view: &View) -> Result<Arc<dyn FileOps>> {
    open(view, vfs::mount::write_mountinfo)
}

pub(crate) fn mountstats(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let root = view.task.fs().and_then(|fs| fs.paths()).ok_or(Errno::EINVAL)?.root.clone();
    let ns = view.task.ns().mounts.clone();
    Table { ns, root, write: vfs::mount::write_mountstats }.show(out)
}
