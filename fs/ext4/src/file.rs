//! Open files and directories.

use alloc::sync::Arc;
use core::any::Any;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::fcntl::O_DIRECT;
use abi::{Errno, Result};
use arch::lock::Once;
use arch::uio::{Sink, Source};
use vfs::file::{DirSink, PageSink};
use vfs::{Context, DirectIo, File, FileOps, Inode, MapArgs, pagefile};
use vm::MapSource;

use crate::commit::INODE;
use crate::node::Node;

const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

pub(crate) fn node(file: &File) -> Result<&Node> {
    file.inode().private().ok_or(Errno::EIO)
}

fn sync(file: &File, range: Range<u64>, data_only: bool) -> Result<()> {
    let node = node(file)?;
    let is_aborted = || node.fs.is_aborted();
    match make_durable(file.inode(), node, range, data_only) {
        result if !is_aborted() => result,
        // Once for each open file what happened, then that it may not be written.
        result => match (file.check_error(), file.inode().mapping()) {
            (Ok(()), Some(_)) => result.and(Err(Errno::EROFS)),
            (Ok(()), None) => Err(Errno::EIO),
            (told, _) => told,
        },
    }
}

/// Makes a file's bytes and what it changed of itself durable.
pub(crate) fn make_durable(
    inode: &Inode,
    node: &Node,
    range: Range<u64>,
    data_only: bool,
) -> Result<()> {
    let Some(mapping) = inode.mapping() else { return node.fs.sync_node(node, data_only) };
    let (first, last) = (range.start, range.end.saturating_sub(1).max(range.start));
    if node.fs.journal.is_none() {
        mapping.write_and_wait(first, last)?;
        return node.fs.sync_node(node, data_only);
    }
    // The commit waits for data in new blocks while it writes the log; only other data has to be on the
    // device before. So have pages that another took to write them and has not placed yet: nobody knows
    // which transaction they will be in.
    if mapping.is_dirty() {
        mapping.start_writeback(first, last);
    }
    if mapping.has_writeback_starting() || node.has_loose_writes() {
        mapping.wait_writeback(first, last);
    }
    let result = node.fs.sync_node(node, data_only);
    mapping.wait_writeback(first, last);
    result
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
    /// On a nearly full file system the last blocks are for root (and whom the super block names):
    /// cuts `source` to what the writer may still take; returns what was cut off.
    fn respect_reserve(&self, file: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
        let fs = &self.fs;
        let size = fs.sb.block_size as u64;
        let free = fs.alloc.available();
        let len = source.remaining() as u64;
        if free > fs.sb.reserved + len / size + 8 {
            return Ok(0);
        }
        let creds = &file.creds;
        let (uid, gid) = fs.config.privileged();
        let privileged = creds.fsuid == uid
            || gid != 0 && creds.in_group(gid)
            || creds.capable(vfs::Cap::SYS_RESOURCE);
        if privileged {
            return Ok(0);
        }
        let state = self.state.lock();
        let (mut block, mut left) = (pos / size, free.saturating_sub(fs.sb.reserved));
        while block * size < pos + len {
            let at = block.min(u64::from(u32::MAX)) as u32;
            if state.map.find(at).is_err() && !state.delayed.contains(&at) {
                let Some(rest) = left.checked_sub(1) else { break };
                left = rest;
            }
            block += 1;
        }
        drop(state);
        match (block * size).saturating_sub(pos) {
            0 => Err(Errno::ENOSPC),
            room => Ok(source.truncate(room as usize)),
        }
    }

    /// Whether there are unwritten blocks at or after the byte `from`.
    fn has_unwritten(&self, from: u64) -> bool {
        let first = (from / self.fs.sb.block_size as u64).min(u64::from(u32::MAX)) as u32;
        let state = self.state.lock();
        let extents = &state.map.extents;
        let at = extents.partition_point(|extent| extent.end() <= first);
        extents.get(at..).unwrap_or_default().iter().any(|extent| extent.unwritten)
    }

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
}

/// `O_DIRECT`: position, length and memory must suit the device's blocks.
fn check_direct(file: &File, pos: u64, len: usize, memory: Option<u64>) -> Result<()> {
    let unit = u64::from(node(file)?.fs.device.block_size().max(512));
    if !(pos | len as u64 | memory.unwrap_or(0)).is_multiple_of(unit) {
        Err(Errno::EINVAL)
    } else {
        Ok(())
    }
}

/// Reads past the cache: the pages that carry the bytes are not kept.
fn read_direct(file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
    let memory = sink.current_user().map(|segment| segment.addr.0);
    check_direct(file, pos, sink.remaining(), memory)?;
    let mapping = file.inode().mapping().ok_or(Errno::EIO)?;
    let count = pagefile::read_at(file, pos, sink)?;
    mapping.drop_clean(pos >> 12, (pos + count as u64) >> 12);
    Ok(count)
}

/// Writes past the cache: the bytes are on the device when this returns.
fn write_direct(file: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
    let memory = source.current_user().map(|segment| segment.addr.0);
    check_direct(file, pos, source.remaining(), memory)?;
    let mapping = file.inode().mapping().ok_or(Errno::EIO)?;
    let count = pagefile::write_at(file, pos, source)?;
    let end = pos + count as u64;
    mapping.write_and_wait(pos, end.saturating_sub(1).max(pos))?;
    mapping.drop_clean(pos >> 12, end >> 12);
    Ok(count)
}

impl FileOps for RegularOps {
    fn read_at(&self, file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        if file.flags() & O_DIRECT != 0 {
            return read_direct(file, pos, sink);
        }
        pagefile::read_at(file, pos, sink)
    }

    fn supports_direct(&self, _file: &File) -> bool {
        true
    }

    fn start_direct(&self, file: &File, io: DirectIo) -> core::result::Result<(), DirectIo> {
        crate::direct::start(file, io)
    }

    fn write_at(&self, file: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
        let before = file.inode().size();
        let node = node(file)?;
        let cut = node.respect_reserve(file, pos, source)?;
        node.before_write(file.inode());
        let result = if file.flags() & O_DIRECT != 0 {
            write_direct(file, pos, source)
        } else {
            pagefile::write_at(file, pos, source)
        };
        source.reexpand(cut);
        if let Some(mapping) = file.inode().mapping() {
            let count = *result.as_ref().unwrap_or(&0);
            node.after_write(mapping, pos, pos.saturating_add(count as u64));
        }
        let written = result?;
        if file.inode().size() != before {
            let _handle = node.fs.begin(INODE)?;
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
        // What is written over unwritten blocks is data before it has reached them.
        if let Some(mapping) = file.inode().mapping()
            && mapping.is_dirty()
            && node(file)?.has_unwritten(from)
        {
            mapping.write_and_wait(from, i64::MAX as u64)?;
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

    fn fsync(&self, file: &File, range: Range<u64>, data_only: bool) -> Result<()> {
        sync(file, range, data_only)
    }

    fn release(&self, file: &File) {
        if file.can_write()
            && let Ok(node) = node(file)
            && node.flushes_at_close.load(Ordering::Relaxed)
            && node.flushes_at_close.swap(false, Ordering::AcqRel)
            && let Some(mapping) = file.inode().mapping()
        {
            mapping.start_writeback(0, i64::MAX as u64);
        }
    }

    fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        node(file)?.fallocate(file, mode, offset, len)
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

    fn fsync(&self, file: &File, range: Range<u64>, data_only: bool) -> Result<()> {
        sync(file, range, data_only)
    }

    fn ioctl(&self, file: &Arc<File>, ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        node(file)?.ioctl(file, ctx, cmd, arg)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
