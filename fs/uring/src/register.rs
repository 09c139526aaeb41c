//! What a program registers: buffers, files, an event counter.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::uring::{op, register};
use abi::{Errno, Result};
use aio::{Held, Submitter};
use arch::lock::{LockClass, SpinLock};
use arch::uio::Segment;
use core::sync::atomic::Ordering;
use vfs::context::{Caller, Limit};
use vfs::{Cap, Direction, FdTable, File};

use crate::issue::Extra;
use crate::rings::Uring;

static CLASS: LockClass = LockClass::new("uring.registered", 583);

/// Most registered files, and buffers.
const MOST_FILES: usize = 1 << 15;
const MOST_BUFFERS: usize = 1 << 14;
const MOST_BYTES: usize = 1 << 30;

/// A registered buffer.
#[derive(Clone)]
pub(crate) struct Buffer {
    pub(crate) addr: u64,
    pub(crate) held: Held,
}

/// What is registered.
pub struct Registered(SpinLock<Inner>);

#[derive(Default)]
struct Inner {
    files: Option<Vec<Option<Arc<File>>>>,
    buffers: Option<Vec<Arc<Buffer>>>,
}

impl Registered {
    pub(crate) fn new() -> Registered {
        Registered(SpinLock::new(&CLASS, Inner::default()))
    }

    pub(crate) fn file(&self, index: u32) -> Result<Arc<File>> {
        let inner = self.0.lock();
        let files = inner.files.as_ref().ok_or(Errno::EBADF)?;
        files.get(index as usize).cloned().flatten().ok_or(Errno::EBADF)
    }

    pub(crate) fn buffer(&self, index: u16) -> Result<Arc<Buffer>> {
        let inner = self.0.lock();
        let buffers = inner.buffers.as_ref().ok_or(Errno::EFAULT)?;
        buffers.get(usize::from(index)).cloned().ok_or(Errno::EFAULT)
    }

    /// Puts files into places from `first` on; `None` leaves a place as it is. How many.
    pub(crate) fn update_files(
        &self,
        first: u32,
        files: impl Iterator<Item = Result<Option<Option<Arc<File>>>>>,
    ) -> Result<usize> {
        let mut count = 0;
        for (index, file) in (first as usize..).zip(files) {
            let put = file.and_then(|file| {
                let mut inner = self.0.lock();
                let table = inner.files.as_mut().ok_or(Errno::ENXIO)?;
                let place = table.get_mut(index).ok_or(Errno::EINVAL)?;
                Ok(file.and_then(|file| core::mem::replace(place, file)))
            });
            match put {
                // Dropped without the lock.
                Ok(old) => drop(old),
                Err(error) if count == 0 => return Err(error),
                Err(_) => break,
            }
            count += 1;
        }
        Ok(count)
    }

    fn set_files(&self, files: Option<Vec<Option<Arc<File>>>>) -> Result<()> {
        let mut inner = self.0.lock();
        match (&inner.files, &files) {
            (Some(_), Some(_)) => return Err(Errno::EBUSY),
            (None, None) => return Err(Errno::ENXIO),
            _ => {}
        }
        let old = core::mem::replace(&mut inner.files, files);
        drop(inner);
        drop(old);
        Ok(())
    }

    fn set_buffers(&self, buffers: Option<Vec<Arc<Buffer>>>) -> Result<()> {
        let mut inner = self.0.lock();
        match (&inner.buffers, &buffers) {
            (Some(_), Some(_)) => return Err(Errno::EBUSY),
            (None, None) => return Err(Errno::ENXIO),
            _ => {}
        }
        let old = core::mem::replace(&mut inner.buffers, buffers);
        drop(inner);
        drop(old);
        Ok(())
    }

    pub(crate) fn clear(&self) {
        let old = core::mem::take(&mut *self.0.lock());
        drop(old);
    }
}

/// The file of a descriptor that is to be registered: not an instance, which would keep itself.
fn registrable(table: &FdTable, fd: i32) -> Result<Arc<File>> {
    let file = table.get(fd)?;
    if crate::file::of(&file).is_ok() { Err(Errno::EBADF) } else { Ok(file) }
}

impl Uring {
    /// `IORING_REGISTER_BUFFERS`: they count as locked memory.
    pub fn register_buffers(&self, who: &Submitter, list: &[Segment]) -> Result<()> {
        if list.is_empty() || list.len() > MOST_BUFFERS {
            return Err(Errno::EINVAL);
        }
        let bytes = list.iter().fold(0u64, |sum, segment| sum.saturating_add(segment.len as u64));
        if bytes > who.limit(Limit::LockedMemory) && !who.creds.capable(Cap::IPC_LOCK) {
            return Err(Errno::ENOMEM);
        }
        let space = who.space()?;
        let mut buffers = Vec::with_capacity(list.len());
        for segment in list {
            if segment.len == 0 || segment.len > MOST_BYTES || segment.addr.0 == 0 {
                return Err(Errno::EFAULT);
            }
            let held = Held::hold(&space, &[*segment], Direction::Read)?;
            if held.len() < segment.len {
                return Err(Errno::EFAULT);
            }
            buffers.push(Arc::new(Buffer { addr: segment.addr.0, held }));
        }
        self.registered.set_buffers(Some(buffers))
    }

    /// `IORING_REGISTER_FILES`; -1 stands for no file.
    pub fn register_files(&self, table: &FdTable, fds: &[i32]) -> Result<()> {
        if fds.is_empty() {
            return Err(Errno::EINVAL);
        }
        if fds.len() > MOST_FILES {
            return Err(Errno::EMFILE);
        }
        let mut files = Vec::with_capacity(fds.len());
        for &fd in fds {
            files.push(if fd == -1 { None } else { Some(registrable(table, fd)?) });
        }
        self.registered.set_files(Some(files))
    }

    /// `IORING_REGISTER_FILES_UPDATE`: how many were replaced.
    pub fn update_files(&self, table: &FdTable, first: u32, fds: &[i32]) -> Result<usize> {
        let files = fds.iter().map(|&fd| match fd {
            -1 => Ok(Some(None)),
            -2 => Ok(None),
            fd => registrable(table, fd).map(|file| Some(Some(file))),
        });
        self.registered.update_files(first, files)
    }

    /// The parts of `io_uring_register(2)` that take nothing from the program's memory but a descriptor.
    pub fn register(&self, what: u32, table: &FdTable, fd: Option<i32>) -> Result<()> {
        match what {
            register::UNREGISTER_BUFFERS => self.registered.set_buffers(None),
            register::UNREGISTER_FILES => self.registered.set_files(None),
            register::UNREGISTER_EVENTFD => self.set_event(None, false),
            register::EVENTFD | register::EVENTFD_ASYNC => {
                let file = table.get(fd.ok_or(Errno::EINVAL)?)?;
                if !anon::eventfd::is_one(&file) {
                    return Err(Errno::EINVAL);
                }
                self.set_event(Some(file), what == register::EVENTFD_ASYNC)
            }
            register::ENABLE_RINGS => {
                if !self.is_disabled.swap(false, Ordering::AcqRel) {
                    return Err(Errno::EBADFD);
                }
                self.kick_poller();
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

/// Whether there is an operation (`IORING_REGISTER_PROBE`).
pub fn is_supported(opcode: u8, extra: &dyn Extra) -> bool {
    matches!(
        opcode,
        op::NOP
            | op::READV
            | op::WRITEV
            | op::FSYNC
            | op::READ_FIXED
            | op::WRITE_FIXED
            | op::POLL_ADD
            | op::POLL_REMOVE
            | op::SYNC_FILE_RANGE
            | op::TIMEOUT
            | op::TIMEOUT_REMOVE
            | op::ASYNC_CANCEL
            | op::LINK_TIMEOUT
            | op::FILES_UPDATE
            | op::READ
            | op::WRITE
            | op::PROVIDE_BUFFERS
            | op::REMOVE_BUFFERS
    ) || extra.knows(opcode)
}
