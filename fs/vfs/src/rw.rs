//! Reading and writing open files: the rules that hold for every kind of file.
//!
//! Writes to regular files run under the inode's lock, which this module takes: it decides the
//! position (`O_APPEND`), enforces `RLIMIT_FSIZE` and the largest file size, takes away set-id
//! bits and stamps the times. [`crate::FileOps::write_at`] of a regular file only moves data.

use abi::fcntl::*;
use abi::inotify::{IN_ACCESS, IN_MODIFY};
use abi::{Errno, Result};
use arch::uio::{Sink, Source};

use crate::context::{Context, Limit, Writer};
use crate::cred::Cap;
use crate::file::{DirectIo, Direction, File, FileMode};
use crate::notify;
use crate::perm::capable_towards;
use crate::types::*;

const SIGPIPE: u32 = 13;
const SIGXFSZ: u32 = 25;

/// Where a transfer happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At the file's position, which moves.
    Position,
    /// At a given offset (`pread`, `pwrite`).
    Offset(u64),
}

/// Whether `file` can be read at `at` at all: what is wrong with the descriptor comes before what
/// is wrong with the buffer.
#[inline]
pub fn check_read(file: &File, at: At) -> Result<()> {
    check_positional(file, at)?;
    if file.can_read() { Ok(()) } else { Err(Errno::EBADF) }
}

/// Whether `file` can be written at `at` at all, like [`check_read`].
#[inline]
pub fn check_write(file: &File, at: At) -> Result<()> {
    check_positional(file, at)?;
    if file.can_write() { Ok(()) } else { Err(Errno::EBADF) }
}

#[inline]
fn check_positional(file: &File, at: At) -> Result<()> {
    if matches!(at, At::Offset(_)) && !file.mode().contains(FileMode::POSITIONAL) {
        return Err(Errno::ESPIPE);
    }
    Ok(())
}

fn may_read(file: &File, at: At) -> Result<()> {
    check_read(file, at)?;
    if file.mode().contains(FileMode::DIRECTORY) {
        return Err(Errno::EISDIR);
    }
    Ok(())
}

#[inline]
fn read_from(file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
    let count = file.ops().read_at(file, pos, sink)?;
    if count > 0 {
        if file.inode().kind == FileKind::Regular {
            crate::atime::accessed(file);
        }
        notify::to_file(file, IN_ACCESS);
    }
    Ok(count)
}

/// `read(2)`, `pread(2)` and their vector forms.
#[inline]
pub fn read(file: &File, at: At, sink: &mut Sink<'_>) -> Result<usize> {
    may_read(file, at)?;
    match at {
        At::Position if file.mode().contains(FileMode::SEEK) => {
            let mut position = file.position().lock();
            let count = read_from(file, position.get(), sink)?;
            position.set(position.get() + count as u64);
            Ok(count)
        }
        At::Position => read_from(file, 0, sink),
        At::Offset(pos) => {
            check_range(pos, sink.remaining())?;
            read_from(file, pos, sink)
        }
    }
}

fn check_range(pos: u64, len: usize) -> Result<()> {
    let end = pos.checked_add(len as u64).ok_or(Errno::EINVAL)?;
    if pos > i64::MAX as u64 || end > i64::MAX as u64 { Err(Errno::EINVAL) } else { Ok(()) }
}

/// `write(2)`, `pwrite(2)` and their vector forms. `rwf` are `RWF_*` flags of `pwritev2(2)`.
#[inline]
pub fn write(
    who: &dyn Writer,
    file: &File,
    at: At,
    source: &mut Source<'_>,
    rwf: u32,
) -> Result<usize> {
    check_write(file, at)?;
    match at {
        At::Position if file.mode().contains(FileMode::SEEK) => {
            let mut position = file.position().lock();
            let (count, end) = write_to(who, file, position.get(), source, rwf)?;
            position.set(end);
            Ok(count)
        }
        At::Position => Ok(write_to(who, file, 0, source, rwf)?.0),
        At::Offset(pos) => {
            check_range(pos, source.remaining())?;
            Ok(write_to(who, file, pos, source, rwf)?.0)
        }
    }
}

/// Writes; returns the count and where the write ended.
fn write_to(
    who: &dyn Writer,
    file: &File,
    pos: u64,
    source: &mut Source<'_>,
    rwf: u32,
) -> Result<(usize, u64)> {
    let (count, end) = if file.inode().kind == FileKind::Regular {
        write_regular(who, file, pos, source, rwf)?
    } else {
        let result = file.ops().write_at(file, pos, source);
        if result == Err(Errno::EPIPE) && file.mode().contains(FileMode::SIGPIPE) {
            who.caller().raise(SIGPIPE);
        }
        let count = result?;
        (count, pos + count as u64)
    };
    if count > 0 {
        notify::to_file(file, IN_MODIFY);
    }
    Ok((count, end))
}

/// `EROFS` if the file's file system became read-only while the file was open for writing; the inode
/// is locked.
pub(crate) fn not_sealed(inode: &crate::Inode) -> Result<()> {
    if inode.sb().is_read_only() { Err(Errno::EROFS) } else { Ok(()) }
}

fn write_regular(
    who: &dyn Writer,
    file: &File,
    pos: u64,
    source: &mut Source<'_>,
    rwf: u32,
) -> Result<(usize, u64)> {
    let inode = file.inode();
    let flags = file.flags();
    let (count, start) = {
        let _held = inode.lock().write();
        if source.is_empty() {
            return Ok((0, pos));
        }
        not_sealed(inode)?;
        let append = flags & O_APPEND != 0 || rwf & RWF_APPEND != 0;
        let pos = if append { inode.size() } else { pos };
        let cut = limit(who, file, pos, source)?;
        if inode.has(InodeFlags::SWAPFILE) {
            return Err(Errno::ETXTBSY);
        }
        strip_privileges(who, file)?;
        inode.touch_for_write();
        let result = file.ops().write_at(file, pos, source);
        source.reexpand(cut);
        inode.bump_version();
        (result?, pos)
    };
    let end = start + count as u64;
    let sync = flags & O_DSYNC != 0
        || rwf & (RWF_DSYNC | RWF_SYNC) != 0
        || inode.has(InodeFlags::SYNC)
        || inode.sb().flags() & abi::mount::MS_SYNCHRONOUS != 0;
    if sync && count > 0 {
        let data_only = flags & O_SYNC != O_SYNC && rwf & RWF_SYNC == 0;
        file.ops().fsync(file, start..end, data_only)?;
    }
    Ok((count, end))
}

/// Starts a transfer past the cache with an open file that was checked ([`check_read`],
/// [`check_write`]), with the rules of [`read`] and [`write`]; see [`crate::FileOps::start_direct`].
/// Given back where those rules want more than the transfer, too.
pub fn start_direct(
    ctx: &Context<'_>,
    file: &File,
    io: DirectIo,
) -> core::result::Result<(), DirectIo> {
    let (inode, flags) = (file.inode(), file.flags());
    if !file.ops().supports_direct(file) || io.is_empty() {
        return Err(io);
    }
    let is_regular = inode.kind == FileKind::Regular;
    if io.direction == Direction::Read {
        let result = if is_regular {
            let _held = inode.lock().read();
            file.ops().start_direct(file, io)
        } else {
            file.ops().start_direct(file, io)
        };
        if result.is_ok() {
            if is_regular {
                crate::atime::accessed(file);
            }
            notify::to_file(file, IN_ACCESS);
        }
        return result;
    }
    // What has to be synced is not over when the device has it.
    let syncs = flags & O_DSYNC != 0
        || inode.has(InodeFlags::SYNC)
        || inode.sb().flags() & abi::mount::MS_SYNCHRONOUS != 0;
    if syncs || flags & O_APPEND != 0 {
        return Err(io);
    }
    if !is_regular {
        return file.ops().start_direct(file, io);
    }
    let end = io.pos.saturating_add(io.len() as u64);
    let _held = inode.lock().write();
    // Beyond the end of the file other rules hold.
    if end > inode.size()
        || not_sealed(inode).is_err()
        || inode.has(InodeFlags::SWAPFILE)
        || end > ctx.caller.limit(Limit::FileSize)
        || strip_privileges(ctx, file).is_err()
    {
        return Err(io);
    }
    file.ops().start_direct(file, io)?;
    inode.touch_for_write();
    inode.bump_version();
    notify::to_file(file, IN_MODIFY);
    Ok(())
}

/// Cuts `source` to what limits allow at `pos`; returns what was cut off.
#[inline]
fn limit(who: &dyn Writer, file: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
    let end = pos.saturating_add(source.remaining() as u64);
    let max = file.inode().sb().max_file_size;
    let soft = who.caller().limit(Limit::FileSize);
    if end <= max && end <= soft {
        return Ok(0);
    }
    if pos >= soft {
        who.caller().raise(SIGXFSZ);
        return Err(Errno::EFBIG);
    }
    if pos >= max {
        return Err(Errno::EFBIG);
    }
    Ok(source.truncate((max.min(soft) - pos) as usize))
}

/// A write by the unprivileged takes set-id bits and file capabilities away.
#[inline]
fn strip_privileges(who: &dyn Writer, file: &File) -> Result<()> {
    let inode = file.inode();
    if inode.mode() & 0o6000 != 0
        && let Some(mode) = inode.mode_without_setid()
        && !capable_towards(inode, &who.creds(), Cap::FSETID)
    {
        let change = SetAttr { mode: Some(mode), now: Time::now(), ..SetAttr::default() };
        inode.ops().setattr(inode, &change)?;
    }
    if !inode.has(InodeFlags::NOSEC) {
        match inode.ops().remove_xattr(inode, b"security.capability") {
            Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
        inode.set_flags(InodeFlags::NOSEC);
    }
    Ok(())
}

/// `fsync(2)` and `fdatasync(2)`.
pub fn fsync(file: &File, range: core::ops::Range<u64>, data_only: bool) -> Result<()> {
    let result = file.ops().fsync(file, range, data_only);
    let error = file.check_error();
    result.and(error)
}

/// `fallocate(2)`.
pub fn fallocate(ctx: &Context<'_>, file: &File, mode: u32, offset: i64, len: i64) -> Result<()> {
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    let known = FALLOC_FL_KEEP_SIZE
        | FALLOC_FL_PUNCH_HOLE
        | FALLOC_FL_COLLAPSE_RANGE
        | FALLOC_FL_ZERO_RANGE
        | FALLOC_FL_INSERT_RANGE
        | FALLOC_FL_UNSHARE_RANGE;
    if mode & !known != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let punch = mode & FALLOC_FL_PUNCH_HOLE != 0;
    if punch && mode & FALLOC_FL_ZERO_RANGE != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if punch && mode & FALLOC_FL_KEEP_SIZE == 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let shift = FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE;
    if mode & shift != 0
        && !(mode & FALLOC_FL_COLLAPSE_RANGE == mode || mode & FALLOC_FL_INSERT_RANGE == mode)
    {
        return Err(Errno::EINVAL);
    }
    if !file.can_write() {
        return Err(Errno::EBADF);
    }
    let inode = file.inode();
    if inode.has(InodeFlags::APPEND) && mode & !FALLOC_FL_KEEP_SIZE != 0 {
        return Err(Errno::EPERM);
    }
    if inode.has(InodeFlags::IMMUTABLE) {
        return Err(Errno::EPERM);
    }
    match inode.kind {
        FileKind::Regular | FileKind::BlockDevice => {}
        FileKind::Fifo => return Err(Errno::ESPIPE),
        FileKind::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::ENODEV),
    }
    let end = offset.checked_add(len).ok_or(Errno::EFBIG)? as u64;
    if end > inode.sb().max_file_size {
        return Err(Errno::EFBIG);
    }
    let grows = mode & (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | shift) == 0;
    if grows && end > inode.size() && end > ctx.caller.limit(Limit::FileSize) {
        ctx.caller.raise(SIGXFSZ);
        return Err(Errno::EFBIG);
    }
    let result = {
        let _held = inode.lock().write();
        if inode.kind == FileKind::Regular {
            not_sealed(inode)?;
        }
        file.ops().fallocate(file, mode, offset as u64, len as u64)
    };
    if result.is_ok() {
        notify::to_file(file, IN_MODIFY);
    }
    result
}

/// `getdents64(2)`: lists from the file's position on.
pub fn read_dir(file: &File, out: &mut dyn crate::file::DirSink) -> Result<()> {
    if !file.mode().contains(FileMode::DIRECTORY) {
        return Err(Errno::ENOTDIR);
    }
    if !file.can_read() {
        return Err(Errno::EBADF);
    }
    let mut position = file.position().lock();
    let inode = file.inode();
    let _held = inode.lock().read();
    if inode.has(InodeFlags::DEAD) {
        return Err(Errno::ENOENT);
    }
    let end = file.ops().readdir(file, position.get(), out)?;
    position.set(end);
    crate::atime::accessed(file);
    notify::to_file(file, IN_ACCESS);
    Ok(())
}
