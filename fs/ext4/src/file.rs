//! Open files and directories.

use alloc::sync::Arc;
use core::any::Any;
use core::ops::Range;

use abi::{Errno, Result};
use arch::lock::Once;
use arch::uio::{Sink, Source};
use vfs::file::{DirSink, PageSink};
use vfs::{Context, File, FileOps, MapArgs, pagefile};
use vm::MapSource;

use crate::extents::Extent;
use crate::node::{Node, flags};

const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const ZERO_RANGE: u32 = 0x10;

fn node(file: &File) -> Result<&Node> {
    file.inode().private().ok_or(Errno::EIO)
}

fn sync(file: &File, range: Range<u64>) -> Result<()> {
    if let Some(mapping) = file.inode().mapping() {
        mapping.write_and_wait(range.start, range.end.saturating_sub(1).max(range.start))?;
    }
    let fs = &node(file)?.fs;
    fs.store_metadata()?;
    fs.device.sync()
}

/// Operations of regular files.
pub(crate) struct RegularOps;

impl RegularOps {
    pub(crate) fn shared() -> Arc<dyn FileOps> {
        static OPS: Once<Arc<RegularOps>> = Once::new();
        OPS.call_once(|| Arc::new(RegularOps)).clone()
    }
}

impl Node {
    /// The next byte at or after `from` that has (or has not) blocks.
    fn seek_blocks(&self, from: u64, data: bool) -> u64 {
        let size = self.fs.sb.block_size as u64;
        let state = self.state.lock();
        let mut block = (from / size).min(u64::from(u32::MAX)) as u32;
        loop {
            let (mapped, end) = match state.map.find(block) {
                Ok(extent) if !extent.unwritten => (true, extent.end()),
                Ok(extent) => (state.delayed.contains(&block), extent.end()),
                Err(next) => {
                    let promised = state.delayed.range(block..).next().copied();
                    let end = next.unwrap_or(u32::MAX).min(promised.unwrap_or(u32::MAX));
                    if promised == Some(block) { (true, block + 1) } else { (false, end) }
                }
            };
            if mapped == data || end == u32::MAX {
                return (u64::from(block) * size).max(from);
            }
            block = end;
        }
    }

    /// Allocates unwritten blocks where there are none.
    fn preallocate(&self, first: u32, end: u32) -> Result<()> {
        let fs = &self.fs;
        let mut state = self.state.lock();
        let mut block = first;
        while block < end {
            let stop = match state.map.find(block) {
                Ok(extent) => {
                    block = extent.end();
                    continue;
                }
                Err(next) => next.unwrap_or(end).min(end),
            };
            if state.delayed.contains(&block) {
                block += 1;
                continue;
            }
            let stop = state.delayed.range(block..stop).next().copied().unwrap_or(stop);
            let want = (stop - block).min(32767);
            if fs.alloc.available() <= u64::from(want) {
                return Err(Errno::ENOSPC);
            }
            let goal = state.map.goal(block).unwrap_or(0);
            let (physical, len) = fs.alloc.take_blocks(&fs.sb, &fs.buffers, goal, want)?;
            state.map.insert(Extent { logical: block, len, physical, unwritten: true });
            state.map_dirty = true;
            block += len;
        }
        self.count_blocks(&state);
        drop(state);
        self.changed();
        Ok(())
    }
}

impl FileOps for RegularOps {
    fn read_at(&self, file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        pagefile::read_at(file, pos, sink)
    }

    fn write_at(&self, file: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
        let before = file.inode().size();
        let written = pagefile::write_at(file, pos, source)?;
        let node = node(file)?;
        if file.inode().size() != before {
            node.changed();
        }
        Ok(written)
    }

    fn seek(&self, file: &File, current: u64, offset: i64, whence: u32) -> Result<u64> {
        if whence != SEEK_DATA && whence != SEEK_HOLE {
            return vfs::seek::generic_seek(file, current, offset, whence);
        }
        let size = file.inode().size();
        let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        if from >= size {
            return Err(Errno::ENXIO);
        }
        let found = node(file)?.seek_blocks(from, whence == SEEK_DATA);
        match whence {
            SEEK_DATA if found >= size => Err(Errno::ENXIO),
            _ => Ok(found.min(size)),
        }
    }

    fn mmap(&self, file: &Arc<File>, _args: &MapArgs) -> Result<Arc<dyn MapSource>> {
        pagefile::map(file)
    }

    fn fsync(&self, file: &File, range: Range<u64>, _data_only: bool) -> Result<()> {
        sync(file, range)
    }

    fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        let node = node(file)?;
        let size = node.fs.sb.block_size as u64;
        // Without extents there is no way to say that a block is not written yet.
        if node.state.lock().flags & flags::EXTENTS == 0 && mode != PUNCH_HOLE | KEEP_SIZE {
            return Err(Errno::EOPNOTSUPP);
        }
        let mapping = file.inode().mapping().ok_or(Errno::EIO)?;
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        if end > file.inode().sb().max_file_size {
            return Err(Errno::EFBIG);
        }
        let (first, last) = (offset.div_ceil(size) as u32, (end / size) as u32);
        match mode {
            0 | KEEP_SIZE => {
                node.preallocate((offset / size) as u32, end.div_ceil(size) as u32)?;
            }
            _ if mode == PUNCH_HOLE | KEEP_SIZE => {
                mapping.punch(offset, end)?;
                mapping.write_and_wait(offset, end)?;
                if first < last {
                    node.free_range(first, last)?;
                }
                file.inode().touch(vfs::Time::now());
                return Ok(());
            }
            _ if mode & !KEEP_SIZE == ZERO_RANGE => {
                mapping.punch(offset, end)?;
                mapping.write_and_wait(offset, end)?;
                if first < last {
                    node.free_range(first, last)?;
                }
                node.preallocate((offset / size) as u32, end.div_ceil(size) as u32)?;
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        if mode & KEEP_SIZE == 0 && end > mapping.size() {
            mapping.truncate(end)?;
        }
        file.inode().touch(vfs::Time::now());
        node.changed();
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
        node(file)?.ioctl(file, ctx, cmd, arg)
    }

    fn as_any(&self) -> &dyn Any {
        self
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
        node(file)?.list(file.inode(), cursor, out)
    }

    fn fsync(&self, file: &File, range: Range<u64>, _data_only: bool) -> Result<()> {
        sync(file, range)
    }

    fn ioctl(&self, file: &Arc<File>, ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        node(file)?.ioctl(file, ctx, cmd, arg)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
