//! `signalfd(2)`: what is pending for the thread that reads or polls, in whose process ever the
//! descriptor is.

use crate::Cx;
use crate::event::cloexec;
use crate::fsctx::{any_file, context, install};
use abi::fcntl::{O_CLOEXEC, O_NONBLOCK, O_RDWR};
use abi::poll::POLLIN;
use abi::signal::{SigInfo, SigSet, Signal, SignalfdSiginfo, si};
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::uio::Sink;
use arch::user;
use core::any::Any;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};
use process::signal::{all_pending, wait};
use vfs::file::{File, FileOps};
use vfs::poll::{PollTable, poll_wait};
use zerocopy::IntoBytes;

crate::syscalls! {
    282 signalfd => sys_signalfd(fd: Fd, mask: Hex, size: Dec);
    289 signalfd4 => sys_signalfd4(fd: Fd, mask: Hex, size: Dec, flags: OpenFlags);
}

/// The signals that can be read.
struct SignalFd {
    mask: AtomicU64,
}

impl SignalFd {
    fn set(&self) -> SigSet {
        // Relaxed: a lone word; a read that runs at the same time may use either mask.
        SigSet(self.mask.load(Ordering::Relaxed))
    }
}

fn fault_address(info: &SigInfo) -> bool {
    let is_fault = info.signal().is_some_and(|signal| SigSet::SYNCHRONOUS.contains(signal));
    is_fault && info.signal() != Some(Signal::SIGSYS)
}

/// Which fields of a record mean something depends on its code and, for the kernel's own codes, on
/// the signal (`sigaction(2)`).
fn encode(info: &SigInfo) -> SignalfdSiginfo {
    let mut out = SignalfdSiginfo {
        signo: info.signo as u32,
        errno: info.errno,
        code: info.code,
        ..SignalfdSiginfo::default()
    };
    let [first, second, ..] = info.fields;
    let sender = (first as u32, (first >> 32) as u32);
    let is_kernels = info.code > si::USER && info.code < si::KERNEL;
    match info.signal() {
        _ if info.code == si::TIMER => {
            (out.tid, out.overrun) = sender;
            (out.ptr, out.int) = (second, second as i32);
        }
        Some(Signal::SIGIO) if is_kernels || info.code == si::SIGIO => {
            (out.band, out.fd) = (first as u32, second as i32);
        }
        Some(Signal::SIGCHLD) if is_kernels => {
            (out.pid, out.uid) = sender;
            out.status = info.status();
            let [_, _, utime, stime, ..] = info.fields;
            (out.utime, out.stime) = (utime, stime);
        }
        Some(Signal::SIGSYS) if is_kernels => {
            out.call_addr = first;
            (out.syscall, out.arch) = (second as i32, (second >> 32) as u32);
        }
        _ if is_kernels && fault_address(info) => out.addr = first,
        _ => {
            (out.pid, out.uid) = sender;
            if info.code < 0 {
                (out.ptr, out.int) = (second, second as i32);
            }
        }
    }
    out
}

impl FileOps for SignalFd {
    fn read_at(&self, file: &File, _pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        const LEN: usize = size_of::<SignalfdSiginfo>();
        let task = process::current();
        let room = sink.remaining() / LEN;
        if room == 0 {
            return Err(Errno::EINVAL);
        }
        let take = || wait::take(task, self.set());
        let mut next = match take() {
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => {
                let queue = task.group.signal_wait.clone();
                let found = queue.wait_interruptible(take, None);
                Some(found.map_err(|_| Errno::ERESTARTSYS)?)
            }
            found => found,
        };
        let mut done = 0;
        while let Some(info) = next {
            match sink.put_all(encode(&info).as_bytes()) {
                Ok(()) => done += LEN,
                Err(_) if done > 0 => break,
                Err(fault) => return Err(fault.into()),
            }
            next = if done / LEN < room { take() } else { None };
        }
        Ok(done)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        let Some(task) = process::try_current() else { return 0 };
        poll_wait(table, &task.group.signal_wait);
        if all_pending(task).intersection(self.set()).is_empty() { 0 } else { POLLIN }
    }

    fn fdinfo(&self, _: &File, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "sigmask:\t{:016x}", self.set().0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn sys_signalfd(cx: &mut Cx<'_>, fd: i32, mask: VirtAddr, size: usize) -> Result<usize> {
    sys_signalfd4(cx, fd, mask, size, 0)
}

fn sys_signalfd4(
    cx: &mut Cx<'_>,
    fd: i32,
    mask: VirtAddr,
    size: usize,
    flags: u32,
) -> Result<usize> {
    if size != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    let mask: SigSet = user::read_val(mask)?;
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let mask = mask.minus(SigSet::UNBLOCKABLE);
    if fd != -1 {
        let file = any_file(cx, fd)?;
        let signals = file.private::<SignalFd>().ok_or(Errno::EINVAL)?;
        signals.mask.store(mask.0, Ordering::Relaxed);
        // What is pending may have become readable.
        cx.task.group.signal_wait.notify(0);
        return Ok(fd as usize);
    }
    let ops = Arc::new(SignalFd { mask: AtomicU64::new(mask.0) });
    let status = O_RDWR | flags & O_NONBLOCK;
    let file = anon::anon_file(&context(cx).get(), "[signalfd]", ops, status)?;
    install(cx, file, cloexec(flags))
}
