//! Open files and directories of tmpfs.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::fcntl::*;
use abi::{Errno, Result};
use arch::lock::Once;
use arch::uio::{Sink, Source};
use vfs::file::{DirEntry, DirSink, PageSink};
use vfs::{File, FileOps, MapArgs, Time, pagefile};
use vm::MapSource;

use crate::dir::START;
use crate::inode::TmpInode;
use crate::superblock::TmpSuper;

const PAGE: u64 = 4096;
/// Entries of a directory that are listed at a time.
const BATCH: usize = 64;
const MAP_SHARED: u32 = 1;
const PROT_WRITE: u32 = 2;

/// A regular file: its contents are its page cache.
pub(crate) struct TmpFile;

fn tmp(file: &File) -> Result<&TmpInode> {
    file.inode().private().ok_or(Errno::EIO)
}

impl TmpFile {
    pub(crate) fn shared() -> Arc<dyn FileOps> {
        static OPS: Once<Arc<TmpFile>> = Once::new();
        OPS.call_once(|| Arc::new(TmpFile)).clone()
    }

    /// Reserves the pages that writing `range` needs: how many bytes may be written.
    fn reserve(file: &File, range: Range<u64>) -> Result<u64> {
        let inode = file.inode();
        let sb = inode.sb().private::<TmpSuper>().ok_or(Errno::EIO)?;
        let mapping = inode.mapping().ok_or(Errno::EIO)?;
        let (first, last) = (range.start / PAGE, range.end.div_ceil(PAGE));
        if sb.has_room(last - first) {
            return Ok(range.end - range.start);
        }
        let mut room = sb.free_pages();
        for index in first..last {
            if mapping.find(index).is_some() {
                continue;
            }
            if room == 0 {
                let end = (index * PAGE).max(range.start);
                return if end == range.start { Err(Errno::ENOSPC) } else { Ok(end - range.start) };
            }
            room -= 1;
        }
        Ok(range.end - range.start)
    }

    fn allocate(file: &File, range: Range<u64>) -> Result<()> {
        let mapping = file.inode().mapping().ok_or(Errno::EIO)?;
        let fits = Self::reserve(file, range.clone())? == range.end - range.start;
        if !fits {
            return Err(Errno::ENOSPC);
        }
        for index in range.start / PAGE..range.end.div_ceil(PAGE) {
            pagefile::allocate_page(mapping, index)?;
        }
        Ok(())
    }
}

impl FileOps for TmpFile {
    fn read_at(&self, file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        pagefile::read_at(file, pos, sink)
    }

    fn write_at(&self, file: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
        let tmp = tmp(file)?;
        if tmp.sealed(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) {
            return Err(Errno::EPERM);
        }
        let mut end = pos + source.remaining() as u64;
        let mut cut = 0;
        let size = file.inode().size();
        if end > size && tmp.sealed(F_SEAL_GROW) {
            if pos >= size {
                return Err(Errno::EPERM);
            }
            cut += source.truncate((size - pos) as usize);
            end = size;
        }
        let fits = Self::reserve(file, pos..end)?;
        cut += source.truncate(fits as usize);
        let result = pagefile::write_at(file, pos, source);
        source.reexpand(cut);
        tmp.settle(file.inode());
        result
    }

    fn seek(&self, file: &File, current: u64, offset: i64, whence: u32) -> Result<u64> {
        pagefile::seek_pages(file, current, offset, whence)
    }

    fn mmap(&self, file: &Arc<File>, args: &MapArgs) -> Result<Arc<dyn MapSource>> {
        let tmp = tmp(file)?;
        let shared = args.flags & 3 >= MAP_SHARED && args.flags & 3 != 2;
        if shared && args.prot & PROT_WRITE != 0 && tmp.sealed(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) {
            return Err(Errno::EPERM);
        }
        if shared && file.can_write() {
            tmp.writable_maps.fetch_add(1, Ordering::AcqRel);
            return pagefile::map_with(file, |file| {
                if let Ok(tmp) = self::tmp(file) {
                    tmp.writable_maps.fetch_sub(1, Ordering::AcqRel);
                }
            });
        }
        pagefile::map(file)
    }

    fn fsync(&self, _file: &File, _range: Range<u64>, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        if mode & !(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (tmp, inode) = (tmp(file)?, file.inode());
        let end = offset + len;
        if mode & FALLOC_FL_PUNCH_HOLE != 0 {
            if tmp.sealed(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) {
                return Err(Errno::EPERM);
            }
            inode.mapping().ok_or(Errno::EIO)?.punch(offset, end)?;
            tmp.settle(inode);
            inode.touch(Time::now());
            return Ok(());
        }
        if end > inode.size() && tmp.sealed(F_SEAL_GROW) {
            return Err(Errno::EPERM);
        }
        let result = Self::allocate(file, offset..end);
        tmp.settle(inode);
        result?;
        if mode & FALLOC_FL_KEEP_SIZE == 0 && end > inode.size() {
            inode.set_size(end);
        }
        inode.set_ctime(Time::now());
        Ok(())
    }

    fn splice_read(
        &self,
        file: &File,
        pos: u64,
        len: usize,
        out: &mut dyn PageSink,
    ) -> Result<usize> {
        pagefile::splice_read(file, pos, len, out)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open directory.
pub(crate) struct DirFile;

impl DirFile {
    pub(crate) fn shared() -> Arc<dyn FileOps> {
        static OPS: Once<Arc<DirFile>> = Once::new();
        OPS.call_once(|| Arc::new(DirFile)).clone()
    }
}

impl FileOps for DirFile {
    fn readdir(&self, file: &File, cursor: u64, out: &mut dyn DirSink) -> Result<u64> {
        let (inode, tmp) = (file.inode(), tmp(file)?);
        let mut cursor = cursor;
        if cursor == 0 {
            let dot = DirEntry { name: b".", ino: inode.ino, kind: abi::stat::DT_DIR, next: 1 };
            if !out.emit(&dot) {
                return Ok(0);
            }
            cursor = 1;
        }
        if cursor == 1 {
            let ino = tmp.parent_ino(inode);
            let dots = DirEntry { name: b"..", ino, kind: abi::stat::DT_DIR, next: START };
            if !out.emit(&dots) {
                return Ok(1);
            }
            cursor = START;
        }
        let (mut batch, mut names) = (Vec::new(), Vec::new());
        loop {
            batch.clear();
            names.clear();
            // A batch at a time is copied out of the lock: `out` may touch user memory.
            for (cookie, name, inode) in tmp.entries()?.lock().older(cursor).take(BATCH) {
                names.extend_from_slice(name);
                batch.push((cookie, names.len(), inode.ino, inode.kind.dirent_type()));
            }
            if batch.is_empty() {
                return Ok(cursor);
            }
            let mut start = 0;
            for &(cookie, end, ino, kind) in &batch {
                let name = names.get(start..end).unwrap_or_default();
                if !out.emit(&DirEntry { name, ino, kind, next: cookie }) {
                    return Ok(cursor);
                }
                (cursor, start) = (cookie, end);
            }
        }
    }

    fn seek(&self, _file: &File, current: u64, offset: i64, whence: u32) -> Result<u64> {
        vfs::seek::seek_cursor(current, offset, whence)
    }

    fn fsync(&self, _file: &File, _range: Range<u64>, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
