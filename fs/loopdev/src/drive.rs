//! The driver behind a loop device: a line of requests and the threads that do them on the file.

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use abi::fcntl::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE};
use abi::loopdev::{LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_PARTSCAN, LO_NAME_SIZE};
use abi::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use arch::lock::{IrqLock, LockClass, Once, SpinLock};
use arch::shared::SharedBytes;
use arch::uio::{Sink, Source};
use block::{Disk, Limits, Op, Request, SECTOR_SHIFT};
use sched::{Mutex, WaitQueue};
use smallvec::SmallVec;
use vfs::rw::{self, At};
use vfs::{DirectIo, Direction, File, FileKind, PagePiece};

use crate::registry;

static CONFIG: LockClass = LockClass::new("loop.config", 195);
static TIGHT: LockClass = LockClass::new("loop.tight", 196);
static QUEUE: LockClass = LockClass::new("loop.queue", 551);
static BINDING: LockClass = LockClass::new("loop.binding", 552);

/// Requests that are under way at once.
const DEPTH: usize = 128;
/// Threads of a bound device at most: what waits for the file's disk does not hold up what is in its cache.
const MOST_WORKERS: usize = 4;
/// How often a request that found no memory is tried again, a tenth of a second apart.
const PATIENCE: u32 = 600;

/// What a device is bound to. It never changes; another one takes its place.
#[derive(Clone)]
pub(crate) struct Binding {
    pub(crate) file: Arc<File>,
    /// Where the device begins in the file, and its most bytes; 0: all there are.
    pub(crate) offset: u64,
    pub(crate) limit: u64,
    /// `LO_FLAGS_*`.
    pub(crate) flags: u32,
    /// What who bound it calls the file, and the words nobody uses any more.
    pub(crate) name: [u8; LO_NAME_SIZE],
    pub(crate) crypt_name: [u8; LO_NAME_SIZE],
    pub(crate) words: [u64; 2],
}

impl Binding {
    /// Bytes of the file; of the device, if it is one.
    pub(crate) fn file_size(file: &File) -> u64 {
        match blockdev::device_of(file) {
            Some(device) => device.size(),
            None => file.inode().size(),
        }
    }

    /// What the device has of it, in sectors.
    pub(crate) fn sectors(&self) -> u64 {
        let rest = Binding::file_size(&self.file).saturating_sub(self.offset);
        let size = if self.limit == 0 { rest } else { rest.min(self.limit) };
        size >> SECTOR_SHIFT
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// Where a device's binding is. Not under RCU: the file is to go with the detach, and not a grace period later,
/// when the file system that it is on may have been asked to go too.
pub(crate) struct Slot(SpinLock<Option<Arc<Binding>>>);

impl Slot {
    pub(crate) fn get(&self) -> Option<Arc<Binding>> {
        self.0.lock().clone()
    }

    pub(crate) fn set(&self, binding: Option<Arc<Binding>>) {
        let old = core::mem::replace(&mut *self.0.lock(), binding);
        drop(old);
    }

    pub(crate) fn is_some(&self) -> bool {
        self.0.lock().is_some()
    }
}

/// Requests in the order they came.
struct Line {
    requests: VecDeque<Request>,
    /// There are threads that will look.
    is_served: bool,
}

/// A loop device's driver.
pub(crate) struct Drive {
    pub(crate) index: u32,
    me: Weak<Drive>,
    pub(crate) disk: Once<Weak<Disk>>,
    line: IrqLock<Line>,
    wake: WaitQueue,
    workers: AtomicUsize,
    gone: WaitQueue,
    pub(crate) binding: Slot,
    /// Held by who changes the binding.
    pub(crate) config: Mutex<()>,
    /// Held by the one that works while memory is short.
    tight: Mutex<()>,
}

impl Drive {
    pub(crate) fn new(index: u32) -> Arc<Drive> {
        Arc::new_cyclic(|me| Drive {
            index,
            me: me.clone(),
            disk: Once::new(),
            line: IrqLock::new(
                &QUEUE,
                // As many as there are tags: a push never allocates.
                Line { requests: VecDeque::with_capacity(DEPTH), is_served: false },
            ),
            wake: WaitQueue::new(),
            workers: AtomicUsize::new(0),
            gone: WaitQueue::new(),
            binding: Slot(SpinLock::new(&BINDING, None)),
            config: Mutex::new(&CONFIG, ()),
            tight: Mutex::new(&TIGHT, ()),
        })
    }

    pub(crate) fn disk(&self) -> Option<Arc<Disk>> {
        self.disk.get().and_then(Weak::upgrade)
    }

    /// Starts the threads. The configuration is locked.
    pub(crate) fn start(&self) {
        self.line.lock().is_served = true;
        for _ in 0..arch::cpu::count().clamp(1, MOST_WORKERS) {
            let Some(drive) = self.me.upgrade() else { return };
            self.workers.fetch_add(1, Ordering::AcqRel);
            sched::spawn_kernel(&format!("loop{}", self.index), move || drive.work());
        }
    }

    /// Ends the threads when they have done what is in the line. The configuration is locked.
    pub(crate) fn stop(&self) {
        self.line.lock().is_served = false;
        self.wake.wake_all();
        self.gone.wait(|| (self.workers.load(Ordering::Acquire) == 0).then_some(()));
    }

    fn work(&self) {
        while let Some(request) = self.next() {
            // Write-back may wait for this, so it does not wait for write-back.
            frames::as_reclaimer(|| self.serve(request));
        }
        // AcqRel: who sees none sees all that they did.
        self.workers.fetch_sub(1, Ordering::AcqRel);
        self.gone.wake_all();
    }

    fn next(&self) -> Option<Request> {
        self.wake.wait(|| {
            let mut line = self.line.lock();
            match line.requests.pop_front() {
                Some(request) => Some(Some(request)),
                None if !line.is_served => Some(None),
                None => None,
            }
        })
    }

    fn serve(&self, request: Request) {
        let Some(binding) = self.binding.get() else { return request.complete(Err(Errno::EIO)) };
        let is_data = matches!(request.op(), Op::Read | Op::Write);
        let request = match is_data && binding.has(LO_FLAGS_DIRECT_IO) {
            true => match binding.start_direct(request) {
                Ok(()) => return,
                Err(request) => request,
            },
            false => request,
        };
        if frames::has_room() {
            match binding.transfer(&request) {
                Err(Errno::ENOMEM) => {}
                result => return request.complete(result),
            }
        }
        let result = self.serve_tightly(&binding, &request);
        request.complete(result);
    }

    /// With little memory: one request at a time, whose pages of the file go before the next.
    fn serve_tightly(&self, binding: &Binding, request: &Request) -> Result<()> {
        let _alone = self.tight.lock();
        let mut tries = 0;
        loop {
            let result = binding.transfer(request);
            binding.give_pages_back(request);
            tries += 1;
            if result != Err(Errno::ENOMEM) || tries == PATIENCE {
                return result;
            }
            sched::timer::sleep_ns(100_000_000);
        }
    }
}

impl Binding {
    /// The place in the file of a request's first byte.
    fn place(&self, request: &Request) -> Result<u64> {
        let at = request.sector().checked_mul(1 << SECTOR_SHIFT).ok_or(Errno::EIO)?;
        at.checked_add(self.offset).ok_or(Errno::EIO)
    }

    fn transfer(&self, request: &Request) -> Result<()> {
        let at = self.place(request)?;
        match request.op() {
            Op::Read => self.read(request, at),
            Op::Write => self.write(request, at),
            Op::Flush => rw::fsync(&self.file, 0..u64::MAX, true),
            Op::Discard => self.punch(at, request.len_bytes()),
            Op::WriteZeroes => match self.punch(at, request.len_bytes()) {
                Err(Errno::EOPNOTSUPP | Errno::ENODEV) => self.write_zeros(at, request.len_bytes()),
                result => result,
            },
        }
    }

    fn read(&self, request: &Request, mut at: u64) -> Result<()> {
        let pieces = pieces(request);
        let mut sink = Sink::pieces(&pieces);
        while sink.remaining() > 0 {
            let count = rw::read(&self.file, At::Offset(at), &mut sink)?;
            if count == 0 {
                // The file has become shorter than the device.
                sink.put_zeros(sink.remaining())?;
            }
            at += count as u64;
        }
        Ok(())
    }

    fn write(&self, request: &Request, mut at: u64) -> Result<()> {
        let pieces = pieces(request);
        let mut source = Source::pieces(&pieces);
        registry::as_kernel(|ctx| {
            while source.remaining() > 0 {
                let count = rw::write(ctx, &self.file, At::Offset(at), &mut source, 0)?;
                if count == 0 {
                    return Err(Errno::EIO);
                }
                at += count as u64;
            }
            Ok(())
        })
    }

    fn write_zeros(&self, mut at: u64, mut len: u64) -> Result<()> {
        registry::as_kernel(|ctx| {
            while len > 0 {
                let mut source = Source::zeros(len.min(1 << 20) as usize);
                let count = rw::write(ctx, &self.file, At::Offset(at), &mut source, 0)? as u64;
                if count == 0 {
                    return Err(Errno::EIO);
                }
                (at, len) = (at + count, len.saturating_sub(count));
            }
            Ok(())
        })
    }

    fn punch(&self, at: u64, len: u64) -> Result<()> {
        let mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        let (at, len) = (i64::try_from(at), i64::try_from(len));
        let (at, len) = (at.map_err(|_| Errno::EIO)?, len.map_err(|_| Errno::EIO)?);
        registry::as_kernel(|ctx| rw::fallocate(ctx, &self.file, mode, at, len))
    }

    /// Starts a transfer past the file's cache; gives the request back where that cannot be.
    #[expect(clippy::result_large_err, reason = "giving the request back must not allocate")]
    fn start_direct(&self, request: Request) -> core::result::Result<(), Request> {
        let Ok(pos) = self.place(&request) else { return Err(request) };
        let piece = |segment: &block::Segment| PagePiece {
            page: segment.page.clone(),
            offset: segment.offset,
            len: segment.len,
        };
        let pieces: Vec<PagePiece> = request.segments().map(piece).collect();
        let (direction, len) = match request.op() {
            Op::Read => (Direction::Read, request.len_bytes()),
            _ => (Direction::Write, request.len_bytes()),
        };
        // The request waits beside the transfer, which may be given back.
        let place = Arc::new(IrqLock::new(&QUEUE, Some(request)));
        let taken = place.clone();
        let done = move |result: Result<usize>| {
            let request = taken.lock().take();
            let Some(request) = request else { return };
            request.complete(match result {
                Ok(count) if count as u64 == len => Ok(()),
                Ok(_) => Err(Errno::EIO),
                Err(error) => Err(error),
            });
        };
        let io = DirectIo { pos, direction, pieces, done: Box::new(done) };
        match registry::as_kernel(|ctx| Ok(rw::start_direct(ctx, &self.file, io))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => match place.lock().take() {
                Some(request) => Err(request),
                None => Ok(()),
            },
        }
    }

    /// Writes what a request left in the file's cache and frees it.
    fn give_pages_back(&self, request: &Request) {
        let Some(mapping) = self.file.inode().mapping() else { return };
        let Ok(start) = self.place(request) else { return };
        let end = start.saturating_add(request.len_bytes().saturating_sub(1));
        if request.op() == Op::Write && mapping.write_and_wait(start, end).is_err() {
            return;
        }
        mapping.drop_clean(start >> 12, end >> 12);
    }
}

fn pieces(request: &Request) -> SmallVec<[SharedBytes<'_>; 16]> {
    request.segments().map(|s| s.page.part(s.offset as usize, s.len as usize)).collect()
}

impl block::Driver for Drive {
    fn limits(&self) -> Limits {
        Limits {
            queue_depth: DEPTH,
            max_segments: 512,
            // What the file's own cache holds back counts as the drive's.
            write_cache: true,
            max_discard_sectors: u64::from(u32::MAX >> SECTOR_SHIFT),
            max_write_zeroes_sectors: u64::from(u32::MAX >> SECTOR_SHIFT),
            ..Limits::default()
        }
    }

    fn submit(&self, _queue: usize, request: Request) -> core::result::Result<(), Request> {
        let refused = {
            let mut line = self.line.lock();
            if line.is_served {
                line.requests.push_back(request);
                None
            } else {
                Some(request)
            }
        };
        match refused {
            None => {
                self.wake.wake_one();
            }
            Some(request) => request.complete(Err(Errno::EIO)),
        }
        Ok(())
    }

    fn attributes(&self) -> &'static [&'static str] {
        const ALL: [&str; 6] = [
            "loop/backing_file",
            "loop/offset",
            "loop/sizelimit",
            "loop/autoclear",
            "loop/partscan",
            "loop/dio",
        ];
        if self.binding.is_some() { &ALL } else { &[] }
    }

    fn attribute(&self, path: &str) -> Option<String> {
        let binding = self.binding.get()?;
        let flag = |flag| String::from(if binding.has(flag) { "1" } else { "0" });
        Some(match path {
            "loop/backing_file" => {
                let path = vfs::dpath::from_top(&binding.file.path);
                String::from_utf8_lossy(&path).into_owned()
            }
            "loop/offset" => format!("{}", binding.offset),
            "loop/sizelimit" => format!("{}", binding.limit),
            "loop/autoclear" => flag(LO_FLAGS_AUTOCLEAR),
            "loop/partscan" => flag(LO_FLAGS_PARTSCAN),
            "loop/dio" => flag(LO_FLAGS_DIRECT_IO),
            _ => return None,
        })
    }

    /// What nobody knows is an invalid argument to a loop device, and not to the terminal that it is not.
    fn ioctl(&self, _: block::Asker, _command: u32, _argument: usize) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    fn closed(&self) {
        if self.binding.get().is_some_and(|binding| binding.has(LO_FLAGS_AUTOCLEAR)) {
            self.clear_if_unused();
        }
    }
}

/// Whether a file can be the disk of one.
pub(crate) fn check_file(file: &File) -> Result<()> {
    match file.inode().kind {
        FileKind::Regular | FileKind::BlockDevice => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}
