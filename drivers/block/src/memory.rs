//! A drive in memory: for tests, and a RAM disk.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, Result};
use arch::lock::{IrqLock, LockClass};

use crate::bio::Op;
use crate::driver::{Driver, Limits};
use crate::request::Request;

static CLASS: LockClass = LockClass::new("block.memory", 560);

/// A drive whose contents are a byte vector; requests end before `submit` returns.
pub struct MemoryDrive {
    bytes: IrqLock<Vec<u8>>,
    limits: Limits,
    /// Fail every n-th request; 0: none.
    fail_every: AtomicU64,
    requests: AtomicU64,
}

impl MemoryDrive {
    /// With this contents.
    pub fn new(bytes: Vec<u8>, limits: Limits) -> Arc<MemoryDrive> {
        Arc::new(MemoryDrive {
            bytes: IrqLock::new(&CLASS, bytes),
            limits,
            fail_every: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        })
    }

    /// A copy of the contents.
    pub fn contents(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }

    /// Makes every n-th request fail; 0: none.
    pub fn fail_every(&self, n: u64) {
        self.fail_every.store(n, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn serve(&self, request: &Request) -> Result<()> {
        let count = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let every = self.fail_every.load(Ordering::Relaxed);
        if every != 0 && count.is_multiple_of(every) {
            return Err(Errno::EIO);
        }
        let mut bytes = self.bytes.lock();
        let start = (request.sector() * 512) as usize;
        let end = start + request.len_bytes() as usize;
        let range = bytes.get_mut(start..end).ok_or(Errno::EIO)?;
        let mut at = 0;
        for segment in request.segments() {
            let (offset, len) = (segment.offset as usize, segment.len as usize);
            let part = range.get_mut(at..at + len).ok_or(Errno::EIO)?;
            match request.op() {
                Op::Read => segment.page.copy_in(offset, part),
                _ => segment.page.copy_out(offset, part),
            }
            at += len;
        }
        if matches!(request.op(), Op::Discard | Op::WriteZeroes) {
            range.fill(0);
        }
        Ok(())
    }
}

impl Driver for MemoryDrive {
    fn limits(&self) -> Limits {
        self.limits.clone()
    }

    fn submit(&self, _queue: usize, request: Request) -> core::result::Result<(), Request> {
        let result = self.serve(&request);
        request.complete(result);
        Ok(())
    }
}
