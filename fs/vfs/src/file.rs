//! Open files (open file descriptions) and what can be done with them.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use abi::fcntl::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, Once, SpinLock};
use arch::uio::{Sink, Source};
use bitflags::bitflags;
use frames::PageRef;
use vm::MapSource;

use crate::context::Context;
use crate::cred::Creds;
use crate::dnotify::DirWatch;
use crate::inode::{Inode, InodeRef};
use crate::locks::Owner;
use crate::mount::MountWriter;
use crate::path::Path;
use crate::poll::{ALWAYS_READY, PollTable};
use crate::position::Position;
use crate::sigio::AsyncWatch;
use crate::types::{FileKind, InodeFlags};

static FILE_OWNER: LockClass = LockClass::new("vfs.file_owner", 292);
static FILE_WATCHERS: LockClass = LockClass::new("vfs.file_watchers", 284);

bitflags! {
    /// What an open file can do; fixed when it is opened.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FileMode: u32 {
        /// Open for reading.
        const READ = 1;
        /// Open for writing.
        const WRITE = 2;
        /// Opened with `O_PATH`: names a place, reads nothing.
        const PATH = 4;
        /// Has a position: `lseek`, `pread` and `pwrite` work.
        const SEEK = 8;
        /// The position is shared state to be locked (regular files and directories).
        const LOCK_POSITION = 16;
        /// Writing without a reader raises `SIGPIPE`.
        const SIGPIPE = 32;
        /// No inotify events, no locks on the way: internal files.
        const QUIET = 64;
        /// A directory.
        const DIRECTORY = 128;
        /// `RWF_NOWAIT` is understood.
        const NOWAIT = 256;
        /// `pread` and `pwrite` work although `lseek` does not matter.
        const POSITIONAL = 512;
    }
}

/// A name that a directory lists.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Inode number.
    pub ino: u64,
    /// `DT_*`.
    pub kind: u8,
    /// The cursor at which reading goes on behind this entry (`d_off`).
    pub next: u64,
}

/// Takes the entries of a directory.
pub trait DirSink {
    /// Takes an entry; `false` if there is no room: the same entry comes first next time.
    fn emit(&mut self, entry: &DirEntry<'_>) -> bool;
}

impl<F: FnMut(&DirEntry<'_>) -> bool> DirSink for F {
    fn emit(&mut self, entry: &DirEntry<'_>) -> bool {
        self(entry)
    }
}

/// Takes whole or part pages without copying: the pipe side of `splice` and `sendfile`.
pub trait PageSink {
    /// How many bytes it still takes.
    fn room(&self) -> usize;
    /// Takes a reference to `len` bytes at `offset` of a page that will not change under it (or
    /// may, as `splice(2)` allows for files).
    fn push(&mut self, page: PageRef, offset: usize, len: usize) -> Result<()>;
}

/// What is asked of [`FileOps::mmap`].
#[derive(Clone, Copy, Debug)]
pub struct MapArgs {
    /// Offset into the file in bytes, page aligned.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// `MAP_*`.
    pub flags: u32,
}

/// A piece of a page that a transfer moves.
#[derive(Clone)]
pub struct PagePiece {
    /// The page, held.
    pub page: PageRef,
    /// The first byte in it.
    pub offset: u32,
    /// How many.
    pub len: u32,
}

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file to memory.
    Read,
    /// From memory to the file.
    Write,
}

/// A transfer between a file and pages, past the cache.
pub struct DirectIo {
    /// The first byte in the file.
    pub pos: u64,
    /// Which way.
    pub direction: Direction,
    /// The memory.
    pub pieces: Vec<PagePiece>,
    /// Called once, in any context, with how many bytes were moved.
    pub done: alloc::boxed::Box<dyn FnOnce(Result<usize>) + Send>,
}

impl DirectIo {
    /// How many bytes are to be moved.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len as usize).sum()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether position and memory suit a device with blocks of `unit` bytes.
    pub fn is_aligned(&self, unit: u64) -> bool {
        let suits = |piece: &PagePiece| u64::from(piece.offset | piece.len).is_multiple_of(unit);
        self.pos.is_multiple_of(unit) && self.pieces.iter().all(suits)
    }
}

impl fmt::Debug for DirectIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectIo({:?} {} bytes at {})", self.direction, self.len(), self.pos)
    }
}

/// What can be done with an open file. One object may serve many open files (regular files share
/// one per inode); state of one open goes into an object of its own.
///
/// Positions are bytes; streams (no [`FileMode::SEEK`]) get 0 and ignore it. A call may return
/// less than asked. `ERESTARTSYS` says that a signal interrupted the wait.
#[expect(unused_variables, reason = "the defaults ignore their arguments")]
pub trait FileOps: Any + Send + Sync {
    /// Reads at `pos`; 0 is the end.
    fn read_at(&self, file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes at `pos`, or at the end with `O_APPEND`, which then moves the file's position itself
    /// through [`File::set_append_position`].
    fn write_at(&self, file: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// `lseek(2)`; the position is locked and passed in as `current`.
    fn seek(&self, file: &File, current: u64, offset: i64, whence: u32) -> Result<u64> {
        crate::seek::generic_seek(file, current, offset, whence)
    }

    /// Lists the directory from `cursor` on until `out` takes no more; returns the new cursor.
    /// Cursors are the file system's; 0 is the start. `.` and `..` are listed as well.
    fn readdir(&self, file: &File, cursor: u64, out: &mut dyn DirSink) -> Result<u64> {
        Err(Errno::ENOTDIR)
    }

    /// What the file is ready for (`POLL*`); adds its wait queues to `table` first.
    fn poll(&self, file: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        ALWAYS_READY
    }

    /// Whether epoll takes the file although it has a position.
    fn can_poll(&self) -> bool {
        false
    }

    /// Whether the file sends signals when it is ready (`O_ASYNC`), as terminals, fifos and sockets do anyhow.
    fn sends_signals(&self) -> bool {
        false
    }

    /// Device control. `ENOIOCTLCMD` or `ENOTTY` for what is unknown. `arg` may be a user pointer.
    fn ioctl(&self, file: &Arc<File>, ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        Err(Errno::ENOIOCTLCMD)
    }

    /// What a mapping of this file takes its pages from.
    fn mmap(&self, file: &Arc<File>, args: &MapArgs) -> Result<Arc<dyn MapSource>> {
        Err(Errno::ENODEV)
    }

    /// Makes `range` (bytes, end exclusive) durable; only what is needed to read it back if
    /// `data_only`.
    fn fsync(&self, file: &File, range: core::ops::Range<u64>, data_only: bool) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// A descriptor of this file is closed; not necessarily the last.
    fn flush(&self, file: &File) -> Result<()> {
        Ok(())
    }

    /// The last reference is gone.
    fn release(&self, file: &File) {}

    /// `fallocate(2)`; arguments are checked.
    fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Changes of `O_APPEND`, `O_NONBLOCK`, `O_DIRECT`, `O_NOATIME` by `fcntl(F_SETFL)`: may refuse.
    fn set_flags(&self, file: &File, flags: u32) -> Result<()> {
        if flags & O_DIRECT != 0 && !self.supports_direct(file) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// Whether `O_DIRECT` is possible.
    fn supports_direct(&self, file: &File) -> bool {
        false
    }

    /// Starts a transfer between the device and memory past the cache (`O_DIRECT`), which ends in
    /// whatever context the device's driver ends it, and returns. A regular file that is written is
    /// locked exclusively, else shared. The transfer is given back where the file cannot do this one
    /// without waiting for other things, or not at all: it is to be done through the cache.
    fn start_direct(&self, file: &File, io: DirectIo) -> core::result::Result<(), DirectIo> {
        Err(io)
    }

    /// Passes pages from `pos` on to `out` without copying; how many bytes. `EINVAL` makes the
    /// caller copy.
    fn splice_read(
        &self,
        file: &File,
        pos: u64,
        len: usize,
        out: &mut dyn PageSink,
    ) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Copies a range within one file system; `EOPNOTSUPP` makes the caller copy.
    fn copy_range(
        &self,
        from: &File,
        pos_in: u64,
        to: &File,
        pos_out: u64,
        len: u64,
    ) -> Result<u64> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Tells the file system that `range` will be needed (`POSIX_FADV_WILLNEED`, `readahead`) or
    /// not (`DONTNEED`).
    fn advise(&self, file: &File, range: core::ops::Range<u64>, advice: u32) -> Result<()> {
        Ok(())
    }

    /// Extra lines of `/proc/PID/fdinfo/N`.
    fn fdinfo(&self, file: &File, out: &mut dyn Write) -> fmt::Result {
        Ok(())
    }

    /// For downcasts.
    fn as_any(&self) -> &dyn Any;
}

/// Something that follows an open file and must know when it goes (epoll).
pub trait FileWatcher: Send + Sync {
    /// The last reference to `file` is going.
    fn file_closed(&self, file: &File);
}

/// Who gets `SIGIO` for a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalOwner {
    /// `F_OWNER_TID`, `F_OWNER_PID`, `F_OWNER_PGRP`.
    pub kind: i32,
    /// The id, in the initial pid namespace; 0 means nobody.
    pub id: i32,
    /// The signal of `F_SETSIG`; 0 means `SIGIO` without details.
    pub signal: u32,
    /// Real and effective uid of who set it.
    pub uids: (u32, u32),
}

/// State few files have.
#[derive(Default)]
struct Rare {
    owner: Option<SignalOwner>,
    /// Sends signals when the file becomes ready (`O_ASYNC`).
    async_watch: Option<Arc<AsyncWatch>>,
    /// Sends signals when the directory changes (`F_NOTIFY`).
    dir_watch: Option<Arc<DirWatch>>,
}

/// An open file description.
pub struct File {
    ops: Arc<dyn FileOps>,
    inode: InodeRef,
    /// Where it was opened.
    pub path: Path,
    /// Who opened it.
    pub creds: Arc<Creds>,
    mode: FileMode,
    flags: AtomicU32,
    position: Position,
    read_ahead: pagecache::ReadAhead,
    /// Error sequence of the mapping when opened: `fsync` reports newer ones once.
    error_seq: Option<pagecache::ErrorCursor>,
    write_hold: Option<WriteHold>,
    rare: SpinLock<Rare>,
    watchers: Once<SpinLock<Vec<Weak<dyn FileWatcher>>>>,
}

/// Keeps the mount writable and executions out while a file is open for writing.
struct WriteHold {
    inode: Option<Arc<Inode>>,
    _mount: Option<MountWriter>,
}

impl Drop for WriteHold {
    fn drop(&mut self) {
        if let Some(inode) = &self.inode {
            inode.put_write_access();
        }
    }
}

/// The parts of a new [`File`].
pub struct FileInit {
    /// Operations.
    pub ops: Arc<dyn FileOps>,
    /// Inode.
    pub inode: Arc<Inode>,
    /// Where.
    pub path: Path,
    /// Who.
    pub creds: Arc<Creds>,
    /// `O_*`: access mode and status flags.
    pub flags: u32,
    /// Additional mode bits; `READ` and `WRITE` come from `flags`.
    pub mode: FileMode,
}

impl File {
    /// An open file; no permission is checked. Files of directories that are not internal should
    /// come from [`crate::open`].
    pub fn new(init: FileInit) -> Arc<File> {
        Arc::new(Self::build(init, None))
    }

    /// Like [`File::new`] for a file open for writing in a mount: holds the mount writable. The
    /// inode's write access has been taken if `counted`.
    pub(crate) fn new_writer(init: FileInit, mount: MountWriter, counted: bool) -> Arc<File> {
        let inode = counted.then(|| init.inode.clone());
        Arc::new(Self::build(init, Some(WriteHold { inode, _mount: Some(mount.lasting()) })))
    }

    fn build(init: FileInit, write_hold: Option<WriteHold>) -> File {
        let mut mode = init.mode;
        if !mode.contains(FileMode::PATH) {
            match init.flags & O_ACCMODE {
                O_RDONLY => mode |= FileMode::READ,
                O_WRONLY => mode |= FileMode::WRITE,
                _ => mode |= FileMode::READ | FileMode::WRITE,
            }
        }
        if init.inode.kind == FileKind::Directory {
            mode |= FileMode::DIRECTORY;
        }
        let error_seq = init.inode.mapping().map(|m| m.error_cursor());
        crate::filecount::count(1);
        File {
            ops: init.ops,
            inode: InodeRef::new(init.inode),
            path: init.path,
            creds: init.creds,
            mode,
            flags: AtomicU32::new(
                init.flags & !(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC),
            ),
            position: Position::new(),
            read_ahead: pagecache::ReadAhead::new(),
            error_seq,
            write_hold,
            rare: SpinLock::new(&FILE_OWNER, Rare::default()),
            watchers: Once::new(),
        }
    }

    /// The operations.
    #[inline]
    pub fn ops(&self) -> &dyn FileOps {
        &*self.ops
    }

    /// The operations, counted.
    pub fn ops_arc(&self) -> &Arc<dyn FileOps> {
        &self.ops
    }

    /// The operations as their own type.
    pub fn private<T: 'static>(&self) -> Option<&T> {
        self.ops.as_any().downcast_ref()
    }

    /// The inode.
    #[inline]
    pub fn inode(&self) -> &Arc<Inode> {
        self.inode.arc()
    }

    /// What this open can do.
    #[inline]
    pub fn mode(&self) -> FileMode {
        self.mode
    }

    /// `O_*` status flags and access mode.
    #[inline]
    pub fn flags(&self) -> u32 {
        // Relaxed: a lone word.
        self.flags.load(Ordering::Relaxed)
    }

    /// What `fcntl(F_SETFL)` does, after [`FileOps::set_flags`] agreed.
    pub fn replace_flags(&self, mask: u32, value: u32) {
        let _ = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            Some((old & !mask) | (value & mask))
        });
    }

    /// Whether operations must not wait.
    #[inline]
    pub fn is_nonblocking(&self) -> bool {
        self.flags() & O_NONBLOCK != 0
    }

    /// Whether it was opened for reading.
    #[inline]
    pub fn can_read(&self) -> bool {
        self.mode.contains(FileMode::READ)
    }

    /// Whether it was opened for writing.
    #[inline]
    pub fn can_write(&self) -> bool {
        self.mode.contains(FileMode::WRITE)
    }

    /// Read-ahead state of this open.
    #[inline]
    pub fn read_ahead(&self) -> &pagecache::ReadAhead {
        &self.read_ahead
    }

    /// The position and its lock.
    #[inline]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// What the file is ready for.
    #[inline]
    pub fn poll(&self, table: Option<&mut PollTable<'_>>) -> u32 {
        self.ops.poll(self, table)
    }

    /// Reports a write-back error that happened since this file was opened or last asked.
    pub fn check_error(&self) -> Result<()> {
        match (self.inode.mapping(), &self.error_seq) {
            (Some(mapping), Some(cursor)) => mapping.check_error(cursor),
            _ => Ok(()),
        }
    }

    /// Who gets `SIGIO`.
    pub fn signal_owner(&self) -> Option<SignalOwner> {
        self.rare.lock().owner
    }

    /// Sets who gets `SIGIO`.
    pub fn set_signal_owner(&self, owner: Option<SignalOwner>) {
        self.rare.lock().owner = owner;
    }

    /// Whether the file sends signals when it becomes ready.
    pub(crate) fn has_async(&self) -> bool {
        self.rare.lock().async_watch.is_some()
    }

    /// Replaces what sends signals when the file becomes ready; the old one is to be dropped
    /// without locks.
    pub(crate) fn replace_async(&self, watch: Option<Arc<AsyncWatch>>) -> Option<Arc<AsyncWatch>> {
        core::mem::replace(&mut self.rare.lock().async_watch, watch)
    }

    /// What sends signals when the directory changes.
    pub(crate) fn dir_watch(&self) -> Option<Arc<DirWatch>> {
        self.rare.lock().dir_watch.clone()
    }

    /// Replaces what sends signals when the directory changes.
    pub(crate) fn set_dir_watch(&self, watch: Option<Arc<DirWatch>>) {
        let old = core::mem::replace(&mut self.rare.lock().dir_watch, watch);
        drop(old);
    }

    /// Has `watcher` told when the last reference goes.
    pub fn watch(&self, watcher: Weak<dyn FileWatcher>) {
        let list = self.watchers.call_once(|| SpinLock::new(&FILE_WATCHERS, Vec::new()));
        let mut list = list.lock();
        if list.len() == list.capacity() {
            list.retain(|weak| weak.strong_count() > 0);
        }
        if !list.iter().any(|known| known.ptr_eq(&watcher)) {
            list.push(watcher);
        }
    }

    /// The lock owner for OFD and `flock` locks: this description.
    pub fn lock_owner(&self) -> Owner {
        Owner::Description(core::ptr::from_ref(self).addr() as u64)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        crate::filecount::count(-1);
        if self.mode.contains(FileMode::PATH) {
            return self.ops.release(self);
        }
        if let Some(list) = self.watchers.get() {
            let watchers = core::mem::take(&mut *list.lock());
            for watcher in watchers.iter().filter_map(Weak::upgrade) {
                watcher.file_closed(self);
            }
        }
        if !self.mode.contains(FileMode::QUIET) {
            crate::notify::closed(self);
        }
        if self.inode.has(InodeFlags::HAS_EXTRA) {
            crate::locks::release_file(self);
            if self.inode.has(InodeFlags::LEASED) {
                crate::lease::release(self);
            }
            if self.inode.has(InodeFlags::WATCHED) {
                crate::dnotify::release(self);
            }
        }
        self.ops.release(self);
        // The write hold goes last: a remount to read-only waits for `release`.
        self.write_hold = None;
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({:?} {:o})", self.path.dentry, self.flags())
    }
}
