//! A program's memory from outside: `/proc/PID/mem` and `/proc/PID/pagemap`, proc(5).
//!
//! An open file refers to the memory the process had at that moment, without keeping it: when the
//! process ends or runs another program, the file is at its end.

use crate::pid::{View, inspect};
use abi::{Errno, Result};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::addr::{PAGE_SIZE, USER_END, VirtAddr};
use arch::paging::PteFlags;
use arch::uio::{Sink, Source};
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering};
use vfs::cred::Cap;
use vfs::{File, FileOps};
use vm::AddressSpace;

/// What is copied at once.
const CHUNK: usize = 16 * PAGE_SIZE;

struct Memory(Weak<AddressSpace>);

fn space(view: &View) -> Result<Weak<AddressSpace>> {
    let mm = inspect(&view.task, || view.task.mm())?;
    Ok(mm.map(|mm| Arc::downgrade(&mm)).unwrap_or_default())
}

/// Opens `mem`.
pub(crate) fn open_mem(view: &View) -> Result<Arc<dyn FileOps>> {
    Ok(Arc::new(Memory(space(view)?)))
}

/// A seek to an address. Addresses have no end to start from.
fn seek(current: u64, offset: i64, whence: u32) -> Result<u64> {
    match whence {
        abi::fcntl::SEEK_SET => Ok(offset as u64),
        abi::fcntl::SEEK_CUR => Ok(current.wrapping_add_signed(offset)),
        _ => Err(Errno::EINVAL),
    }
}

impl FileOps for Memory {
    fn read_at(&self, _: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        let Some(mm) = self.0.upgrade() else { return Ok(0) };
        let mut done = 0;
        while sink.remaining() > 0 {
            let at = VirtAddr(pos.wrapping_add(done as u64));
            let mut bytes = alloc::vec![0; sink.remaining().min(CHUNK)];
            let got = if at.is_user() { mm.read_remote(at, &mut bytes).unwrap_or(0) } else { 0 };
            if got == 0 {
                return if done > 0 { Ok(done) } else { Err(Errno::EIO) };
            }
            sink.put_all(bytes.get(..got).unwrap_or_default())?;
            done += got;
        }
        Ok(done)
    }

    fn write_at(&self, _: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
        let Some(mm) = self.0.upgrade() else { return Ok(0) };
        let mut done = 0;
        while source.remaining() > 0 {
            let at = VirtAddr(pos.wrapping_add(done as u64));
            let mut bytes = alloc::vec![0; source.remaining().min(CHUNK)];
            source.take_all(&mut bytes)?;
            let put = if at.is_user() { mm.write_forced(at, &bytes).unwrap_or(0) } else { 0 };
            done += put;
            if put < bytes.len() {
                return if done > 0 { Ok(done) } else { Err(Errno::EIO) };
            }
        }
        Ok(done)
    }

    fn seek(&self, _: &File, current: u64, offset: i64, whence: u32) -> Result<u64> {
        seek(current, offset, whence)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `pagemap`: 64 bits a page.
struct PageMap {
    space: Weak<AddressSpace>,
    /// Frame numbers are for those who could read the memory itself.
    shows_frames: bool,
}

/// Opens `pagemap`.
pub(crate) fn open_pagemap(view: &View) -> Result<Arc<dyn FileOps>> {
    let shows_frames = process::try_current().is_none_or(|task| task.capable(Cap::SYS_ADMIN));
    Ok(Arc::new(PageMap { space: space(view)?, shows_frames }))
}

impl PageMap {
    fn entry(&self, mm: &AddressSpace, at: u64) -> u64 {
        const EXCLUSIVE: u64 = 1 << 56;
        const FILE: u64 = 1 << 61;
        const PRESENT: u64 = 1 << 63;
        let Some((pfn, flags)) = mm.page_at(at) else { return 0 };
        let mut entry = PRESENT;
        if self.shows_frames {
            entry |= pfn;
        }
        // Frames that are nobody's own are not counted.
        if !flags.contains(PteFlags::SOFT0) {
            let frame = frames::page(arch::addr::Pfn(pfn));
            if frame.map_count() == 1 {
                entry |= EXCLUSIVE;
            }
            if frame.kind() != frames::kind::ANON {
                entry |= FILE;
            }
        }
        entry
    }
}

impl FileOps for PageMap {
    fn read_at(&self, _: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        const LEN: usize = 8;
        if !pos.is_multiple_of(LEN as u64) || sink.remaining() % LEN != 0 {
            return Err(Errno::EINVAL);
        }
        let Some(mm) = self.space.upgrade() else { return Ok(0) };
        let first = pos / LEN as u64;
        let end = USER_END / PAGE_SIZE as u64;
        let count = (sink.remaining() / LEN) as u64;
        let mut next = first;
        while next < end.min(first.saturating_add(count)) {
            let stop = (next + 512).min(end).min(first.saturating_add(count));
            let bytes: Vec<u8> = (next..stop)
                .flat_map(|page| self.entry(&mm, page * PAGE_SIZE as u64).to_ne_bytes())
                .collect();
            sink.put_all(&bytes)?;
            next = stop;
        }
        Ok((next.saturating_sub(first)) as usize * LEN)
    }

    fn seek(&self, _: &File, current: u64, offset: i64, whence: u32) -> Result<u64> {
        seek(current, offset, whence)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `kernel.kptr_restrict`: 2 hides addresses from everybody.
pub(crate) static KPTR_RESTRICT: AtomicU32 = AtomicU32::new(0);

/// `/proc/kallsyms`: the kernel's symbols. Addresses are for `CAP_SYSLOG` only, for they say where
/// the kernel is.
pub(crate) fn kallsyms(out: &mut Vec<u8>) -> Result<()> {
    // Relaxed: a lone number.
    let shows_addresses = KPTR_RESTRICT.load(Ordering::Relaxed) < 2
        && process::try_current().is_none_or(|task| task.capable(Cap::SYSLOG));
    for symbol in (0..arch::symbols::count()).filter_map(arch::symbols::by_index) {
        let address = if shows_addresses { symbol.address } else { 0 };
        put!(out, "{address:016x} t {}\n", symbol.name.as_str());
    }
    Ok(())
}
