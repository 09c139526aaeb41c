//! `O_DIRECT` in `read(2)`, `write(2)` and their like.

use abi::Result;
use abi::fcntl::O_DIRECT;
use arch::VirtAddr;
use arch::uio::Segment;
use arch::user;
use vfs::rw::At;
use vfs::{Direction, File, FileKind};

use crate::Cx;
use crate::fsctx::{MAX_TRANSFER, context};

/// Moves the bytes of one buffer past the cache, if the file is open for that; `None` where they go
/// through it.
#[inline]
pub(crate) fn one(
    cx: &Cx<'_>,
    file: &File,
    at: At,
    (buf, count): (VirtAddr, usize),
    direction: Direction,
) -> Option<Result<usize>> {
    if file.flags() & O_DIRECT == 0 || !user::range_ok(buf, count) {
        return None;
    }
    let segment = Segment { addr: buf, len: count.min(MAX_TRANSFER) };
    transfer(cx, file, at, &[segment], direction)
}

/// The same for several.
#[inline]
pub(crate) fn many(
    cx: &Cx<'_>,
    file: &File,
    at: At,
    list: &[Segment],
    direction: Direction,
) -> Option<Result<usize>> {
    if file.flags() & O_DIRECT == 0 {
        return None;
    }
    transfer(cx, file, at, list, direction)
}

#[cold]
fn transfer(
    cx: &Cx<'_>,
    file: &File,
    at: At,
    list: &[Segment],
    direction: Direction,
) -> Option<Result<usize>> {
    let is_empty = list.iter().all(|segment| segment.len == 0);
    if !matches!(file.inode().kind, FileKind::Regular | FileKind::BlockDevice) || is_empty {
        return None;
    }
    let space = cx.task.mm()?;
    let context = context(cx);
    let go = |pos: u64| {
        let len = list.iter().map(|segment| segment.len as u64).sum();
        pos.checked_add(len).filter(|end| *end <= i64::MAX as u64)?;
        aio::direct::transfer(&context.get(), &space, file, pos, list, direction)
    };
    match at {
        At::Offset(pos) => go(pos),
        At::Position => {
            let mut position = file.position().lock();
            let result = go(position.get())?;
            if let Ok(count) = result {
                position.set(position.get() + count as u64);
            }
            Some(result)
        }
    }
}
