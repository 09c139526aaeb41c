//! Open files and directories.

use alloc::sync::Arc;
use core::any::Any;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::fcntl::O_DIRECT;
use abi::stat::DT_DIR;
use abi::{Errno, Result};
use arch::addr::PAGE_SIZE;
use arch::lock::Once;
use arch::uio::{Sink, Source};
use pagecache::Mapping;
use vfs::file::{DirSink, PageSink};
use vfs::{Context, DirEntry, File, FileOps, Inode, MapArgs, pagefile};
use vm::MapSource;

use crate::node::Node;
use crate::ops::node_of;

/// `FALLOC_FL_KEEP_SIZE`.
const KEEP_SIZE: u32 = 1;
/// Entries that are not in a listing: the directory itself and its parent.
const DOTS: u64 = 2;

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

impl Node {
    /// Makes a file `size` bytes long, the new ones zeros. Where there is no room it ends earlier, as on
    /// Linux. The inode is locked.
    pub(crate) fn fill(&self, mapping: &Mapping, size: u64) -> Result<()> {
        if size <= mapping.size() {
            return Ok(());
        }
        if self.fs.is_read_only() {
            return Err(Errno::EROFS);
        }
        // All at once, so that they follow each other; where that fails is found page by page.
        let _ = self.reserve(size);
        write_zeros(mapping, size)
    }

    fn write(&self, file: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
        let inode = file.inode();
        let mapping = inode.mapping().ok_or(Errno::EIO)?;
        let before = mapping.size();
        let result = self.fill(mapping, pos).and_then(|()| self.put(file, pos, source));
        self.trim(inode)?;
        if mapping.size() != before {
            self.mark_dirty();
        }
        result
    }

    /// Writes where the file has bytes, or at its end.
    fn put(&self, file: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
        // As in `fill`.
        let end = pos.saturating_add(source.remaining() as u64);
        let _ = self.reserve(end.min(u32::MAX.into()));
        match file.flags() & O_DIRECT {
            0 => pagefile::write_at(file, pos, source),
            _ => self.write_direct(file, pos, source),
        }
    }

    /// `O_DIRECT`: position, length and memory must suit the device's blocks.
    fn check_direct(&self, pos: u64, len: usize, memory: Option<u64>) -> Result<()> {
        let unit = u64::from(self.fs.device.block_size().max(512));
        let is_aligned = (pos | len as u64 | memory.unwrap_or(0)).is_multiple_of(unit);
        if is_aligned { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Reads past the cache: the pages that carry the bytes are not kept.
    fn read_direct(&self, file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        let memory = sink.current_user().map(|segment| segment.addr.0);
        self.check_direct(pos, sink.remaining(), memory)?;
        let mapping = file.inode().mapping().ok_or(Errno::EIO)?;
        let count = pagefile::read_at(file, pos, sink)?;
        mapping.drop_clean(pos >> 12, (pos + count as u64) >> 12);
        Ok(count)
    }

    /// Writes past the cache: the bytes are on the device when this returns.
    fn write_direct(&self, file: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
        let memory = source.current_user().map(|segment| segment.addr.0);
        self.check_direct(pos, source.remaining(), memory)?;
        let mapping = file.inode().mapping().ok_or(Errno::EIO)?;
        let count = pagefile::write_at(file, pos, source)?;
        let end = pos + count as u64;
        mapping.write_and_wait(pos, end.saturating_sub(1).max(pos))?;
        mapping.drop_clean(pos >> 12, end >> 12);
        Ok(count)
    }

    /// `fallocate(2)`: clusters behind the end, or zeros that make the file longer. The inode is locked.
    fn allocate(&self, inode: &Inode, mode: u32, end: u64) -> Result<()> {
        if mode & !KEEP_SIZE != 0 || self.is_dir {
            return Err(Errno::EOPNOTSUPP);
        }
        if end > u32::MAX.into() {
            return Err(Errno::EFBIG);
        }
        if mode & KEEP_SIZE == 0 {
            let mapping = inode.mapping().ok_or(Errno::EIO)?;
            let filled = self.fill(mapping, end);
            self.mark_dirty();
            return filled.and(self.trim(inode));
        }
        if end <= inode.size() {
            return Ok(());
        }
        let reserved = self.reserve(end);
        if reserved.is_ok() && self.kept_end.fetch_max(end, Ordering::Relaxed) == 0 {
            self.fs.keep(self.inode());
        }
        reserved.and(self.trim(inode))
    }

    /// The entries of a directory from `cursor` on: the number of a record, behind those for the
    /// directory itself and its parent.
    fn list(&self, inode: &Inode, cursor: u64, out: &mut dyn DirSink) -> Result<u64> {
        let mut at = cursor;
        let parent = self.parent().map_or(inode.ino, |dir| dir.ino);
        for (place, name, ino) in [(0, &b"."[..], inode.ino), (1, b"..", parent)] {
            if at == place {
                if !out.emit(&DirEntry { name, ino, kind: DT_DIR, next: at + 1 }) {
                    return Ok(at);
                }
                at += 1;
            }
        }
        let listing = self.listing.lock();
        loop {
            let record = u32::try_from(at - DOTS).unwrap_or(u32::MAX);
            let Some((first, entry)) = listing.next(record) else { return Ok(at) };
            let next = DOTS + u64::from(first + entry.count);
            let kind = if entry.is_dir() { DT_DIR } else { abi::stat::DT_REG };
            if !out.emit(&DirEntry { name: &entry.name, ino: entry.ino, kind, next }) {
                return Ok(at);
            }
            at = next;
        }
    }
}

fn write_zeros(mapping: &Mapping, size: u64) -> Result<()> {
    let mut at = mapping.size();
    while at < size {
        let room = PAGE_SIZE - at as usize % PAGE_SIZE;
        let step = (room as u64).min(size - at) as usize;
        match mapping.write(at, &mut Source::kernel(ZEROS.get(..step).unwrap_or(&[])))? {
            0 => return Err(Errno::ENOMEM),
            count => at += count as u64,
        }
    }
    Ok(())
}

/// Operations of regular files.
pub(crate) struct RegularOps;

impl RegularOps {
    pub(crate) fn shared() -> Arc<dyn FileOps> {
        static OPS: Once<Arc<RegularOps>> = Once::new();
        OPS.call_once(|| Arc::new(RegularOps)).clone()
    }
}

impl FileOps for RegularOps {
    fn read_at(&self, file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        if file.flags() & O_DIRECT != 0 {
            return node_of(file)?.read_direct(file, pos, sink);
        }
        pagefile::read_at(file, pos, sink)
    }

    fn write_at(&self, file: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
        node_of(file)?.write(file, pos, source)
    }

    fn supports_direct(&self, _file: &File) -> bool {
        true
    }

    fn mmap(&self, file: &Arc<File>, _args: &MapArgs) -> Result<Arc<dyn MapSource>> {
        pagefile::map(file)
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

    fn fsync(&self, file: &File, range: Range<u64>, _data_only: bool) -> Result<()> {
        let inode = file.inode();
        let mapping = inode.mapping().ok_or(Errno::EIO)?;
        mapping.write_and_wait(range.start, range.end.saturating_sub(1).max(range.start))?;
        node_of(file)?.fs.sync_way_to(inode)
    }

    fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        node_of(file)?.allocate(file.inode(), mode, end)
    }

    fn release(&self, file: &File) {
        let Ok(node) = node_of(file) else { return };
        if file.can_write() {
            node.closed(file.inode());
        }
    }

    fn advise(&self, file: &File, range: Range<u64>, advice: u32) -> Result<()> {
        const WILLNEED: u32 = 3;
        const DONTNEED: u32 = 4;
        let mapping = file.inode().mapping().ok_or(Errno::EIO)?;
        let (first, last) = (range.start >> 12, range.end.saturating_sub(1) >> 12);
        match advice {
            WILLNEED => {
                let end = mapping.size().saturating_sub(1) >> 12;
                mapping.read_ahead(first, last.min(end));
            }
            DONTNEED => {
                mapping.start_writeback(range.start, range.end);
                mapping.drop_clean(first, last);
            }
            _ => {}
        }
        Ok(())
    }

    fn ioctl(&self, file: &Arc<File>, ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        node_of(file)?.ioctl(file, ctx, cmd, arg)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Node {
    /// Somebody who could write has closed the file.
    fn closed(&self, inode: &Arc<Inode>) {
        if self.fs.options.flush
            && let Some(mapping) = inode.mapping()
        {
            // mount(8), flush: what is written goes out early.
            mapping.start_writeback(0, i64::MAX as u64);
            let _ = self.store(inode);
            if let Some(pages) = self.parent().as_ref().and_then(|dir| dir.mapping()) {
                pages.start_writeback(0, i64::MAX as u64);
            }
            self.fs.table.mapping().start_writeback(0, i64::MAX as u64);
        }
    }
}

/// Operations of directories.
pub(crate) struct DirOps;

impl DirOps {
    pub(crate) fn shared() -> Arc<dyn FileOps> {
        static OPS: Once<Arc<DirOps>> = Once::new();
        OPS.call_once(|| Arc::new(DirOps)).clone()
    }
}

impl FileOps for DirOps {
    fn read_at(&self, _file: &File, _pos: u64, _sink: &mut Sink<'_>) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn seek(&self, _file: &File, current: u64, offset: i64, whence: u32) -> Result<u64> {
        vfs::seek::seek_cursor(current, offset, whence)
    }

    fn readdir(&self, file: &File, cursor: u64, out: &mut dyn DirSink) -> Result<u64> {
        node_of(file)?.list(file.inode(), cursor, out)
    }

    fn fsync(&self, file: &File, _range: Range<u64>, _data_only: bool) -> Result<()> {
        let inode = file.inode();
        inode.mapping().ok_or(Errno::EIO)?.sync()?;
        node_of(file)?.fs.sync_way_to(inode)
    }

    fn ioctl(&self, file: &Arc<File>, ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        node_of(file)?.ioctl(file, ctx, cmd, arg)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
