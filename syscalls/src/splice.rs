//! Calls that move bytes between two descriptors: sendfile, splice and their like, copy_file_range.

use crate::Cx;
use crate::file::offset;
use crate::fsctx::*;
use abi::fcntl::*;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::uio::{Sink, Source};
use arch::user;
use vfs::FileMode;
use vfs::rw::{self, At};

crate::syscalls! {
    40 sendfile => sys_sendfile(out: Fd, input: Fd, offset: Hex, count: Dec);
    275 splice => sys_splice(from: Fd, off_in: Hex, to: Fd, off_out: Hex, len: Dec, flags: Hex);
    276 tee => sys_tee(from: Fd, to: Fd, len: Dec, flags: Hex);
    278 vmsplice => sys_vmsplice(fd: Fd, iov: Hex, count: Dec, flags: Hex);
    326 copy_file_range => sys_copy_file_range(from: Fd, off_in: Hex, to: Fd, off_out: Hex, len: Dec, flags: Hex);
}

/// An optional offset in user memory, for splice and friends.
fn optional_offset(at: VirtAddr) -> Result<At> {
    if at.0 == 0 { Ok(At::Position) } else { offset(user::read_val::<i64>(at)?) }
}

fn store_offset(at: VirtAddr, start: At, count: usize) -> Result<()> {
    if let At::Offset(pos) = start {
        user::write_val(at, &(pos + count as u64))?;
    }
    Ok(())
}

/// `sendfile(2)`.
fn sys_sendfile(
    cx: &mut Cx<'_>,
    out: i32,
    input: i32,
    at: VirtAddr,
    count: usize,
) -> Result<usize> {
    if at.is_null() {
        return send(cx, out, input, None, count);
    }
    let start: i64 = user::read_val(at)?;
    let outcome = send(cx, out, input, Some(start), count);
    // Written back also when nothing was sent: an offset that cannot be written is an error.
    user::write_val(at, &start.wrapping_add(outcome.unwrap_or(0) as i64))?;
    outcome
}

/// `sendfile(2)` from `start`. The order of the checks: the source, the offset, the target.
fn send(cx: &Cx<'_>, out: i32, input: i32, start: Option<i64>, count: usize) -> Result<usize> {
    let from = file(cx, input)?;
    rw::check_read(&from, At::Position)?;
    let start = start.map(offset);
    if start.is_some() {
        rw::check_read(&from, At::Offset(0))?;
    }
    let start = start.transpose()?.unwrap_or(At::Position);
    if count > isize::MAX as usize {
        return Err(Errno::EINVAL);
    }
    let to = file(cx, out)?;
    rw::check_write(&to, At::Position)?;
    if count == 0 {
        return Ok(0);
    }
    let ctx = context(cx);
    anon::pipe::splice::sendfile(&ctx.get(), &to, &from, start, count.min(MAX_TRANSFER))
}

/// `splice(2)`.
fn sys_splice(
    cx: &mut Cx<'_>,
    from: i32,
    off_in: VirtAddr,
    to: i32,
    off_out: VirtAddr,
    len: usize,
    flags: u32,
) -> Result<usize> {
    if len == 0 {
        return Ok(0);
    }
    if flags & !(SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT) != 0 {
        return Err(Errno::EINVAL);
    }
    let (from, to) = (file(cx, from)?, file(cx, to)?);
    let is_pipe = |file: &vfs::File| anon::pipe::pipe_of(file).is_some();
    if (is_pipe(&from) && off_in.0 != 0) || (is_pipe(&to) && off_out.0 != 0) {
        return Err(Errno::ESPIPE);
    }
    let (at_in, at_out) = (optional_offset(off_in)?, optional_offset(off_out)?);
    let ctx = context(cx);
    let len = len.min(MAX_TRANSFER);
    let done = anon::pipe::splice::splice(&ctx.get(), &from, at_in, &to, at_out, len, flags)?;
    store_offset(off_in, at_in, done)?;
    store_offset(off_out, at_out, done)?;
    Ok(done)
}

/// `tee(2)`.
fn sys_tee(cx: &mut Cx<'_>, from: i32, to: i32, len: usize, flags: u32) -> Result<usize> {
    if flags & !(SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT) != 0 {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let (from, to) = (file(cx, from)?, file(cx, to)?);
    rw::check_read(&from, At::Position)?;
    rw::check_write(&to, At::Position)?;
    anon::pipe::splice::tee(&from, &to, len.min(MAX_TRANSFER), flags)
}

/// `vmsplice(2)`.
fn sys_vmsplice(
    cx: &mut Cx<'_>,
    fd: i32,
    iov: VirtAddr,
    count: usize,
    flags: u32,
) -> Result<usize> {
    if flags & !(SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = file(cx, fd)?;
    let list = segments(iov, count)?;
    if list.iter().all(|segment| segment.len == 0) {
        return Ok(0);
    }
    if file.mode().contains(FileMode::WRITE) {
        anon::pipe::splice::vmsplice_in(&file, &mut Source::user_segments(&list), flags)
    } else {
        anon::pipe::splice::vmsplice_out(&file, &mut Sink::user_segments(&list), flags)
    }
}

/// `copy_file_range(2)`.
fn sys_copy_file_range(
    cx: &mut Cx<'_>,
    from: i32,
    off_in: VirtAddr,
    to: i32,
    off_out: VirtAddr,
    len: usize,
    flags: u32,
) -> Result<usize> {
    let (from, to) = (file(cx, from)?, file(cx, to)?);
    let (at_in, at_out) = (optional_offset(off_in)?, optional_offset(off_out)?);
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let ctx = context(cx);
    let len = len.min(MAX_TRANSFER);
    let done = anon::pipe::splice::copy_file_range(&ctx.get(), &from, at_in, &to, at_out, len)?;
    if done != 0 {
        store_offset(off_in, at_in, done)?;
        store_offset(off_out, at_out, done)?;
    }
    Ok(done)
}
