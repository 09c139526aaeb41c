//! What the file families share: descriptors, directories of `…at` calls, paths, buffers.

use crate::Cx;
use abi::fcntl::*;
use abi::process::Resource;
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::uio::{Segment, Sink, Source};
use arch::user;
use process::FsContext;
use smallvec::SmallVec;
use vfs::{CloseOnExec, Context, FdTable, File, Path, Walk, walk};
use zerocopy::IntoBytes;

pub(crate) use crate::misc::{read_path, read_sized};

/// No transfer moves more at once, as read(2) says.
pub(crate) const MAX_TRANSFER: usize = 0x7fff_f000;
/// Segments of one vector call.
const IOV_MAX: usize = 1024;

/// The caller's descriptors.
pub(crate) fn files(cx: &Cx<'_>) -> Result<Arc<FdTable>> {
    cx.task.files().ok_or(Errno::EBADF)
}

/// An open file; not one of `O_PATH`.
#[inline]
pub(crate) fn file(cx: &Cx<'_>, fd: i32) -> Result<Arc<File>> {
    files(cx)?.get(fd)
}

/// An open file of any kind.
pub(crate) fn any_file(cx: &Cx<'_>, fd: i32) -> Result<Arc<File>> {
    files(cx)?.get_any(fd)
}

/// The caller's view of the tree.
pub(crate) fn context<'a>(cx: &Cx<'a>) -> FsContext<'a> {
    cx.task.vfs_context()
}

/// Gives `file` the lowest free descriptor.
pub(crate) fn install(cx: &Cx<'_>, file: Arc<File>, cloexec: CloseOnExec) -> Result<usize> {
    let limit = cx.task.limit(Resource::Nofile);
    Ok(files(cx)?.add(file, 0, limit, cloexec)? as usize)
}

/// The directory an `…at` call starts in.
pub(crate) enum Base {
    Cwd,
    File(Arc<File>),
}

impl Base {
    pub(crate) fn path<'a>(&'a self, ctx: &Context<'a>) -> &'a Path {
        match self {
            Base::Cwd => ctx.cwd,
            Base::File(file) => &file.path,
        }
    }
}

/// What `dirfd` means for `path`: nothing if that is absolute.
pub(crate) fn base(cx: &Cx<'_>, dirfd: i32, path: &[u8]) -> Result<Base> {
    if dirfd == AT_FDCWD || path.first() == Some(&b'/') {
        return Ok(Base::Cwd);
    }
    Ok(Base::File(any_file(cx, dirfd)?))
}

/// Reads a path from the caller and resolves it.
pub(crate) fn resolve(
    cx: &Cx<'_>,
    ctx: &Context<'_>,
    dirfd: i32,
    path: VirtAddr,
    flags: Walk,
) -> Result<Path> {
    let name = read_path(path, flags.contains(Walk::EMPTY))?;
    let base = base(cx, dirfd, &name)?;
    walk(ctx, base.path(ctx), &name, flags)
}

/// Walk flags of `AT_SYMLINK_NOFOLLOW` and `AT_EMPTY_PATH`.
pub(crate) fn at_flags(flags: u32) -> Walk {
    let mut result = Walk::empty();
    if flags & AT_SYMLINK_NOFOLLOW == 0 {
        result |= Walk::FOLLOW;
    }
    if flags & AT_EMPTY_PATH != 0 {
        result |= Walk::EMPTY;
    }
    result
}

/// A buffer to read into. What is asked for has to lie in user memory whole, though less is moved.
pub(crate) fn sink(buf: VirtAddr, len: usize) -> Result<Sink<'static>> {
    if !user::range_ok(buf, len) {
        return Err(Errno::EFAULT);
    }
    Ok(Sink::user(buf, len.min(MAX_TRANSFER)))
}

/// A buffer to write from.
pub(crate) fn source(buf: VirtAddr, len: usize) -> Result<Source<'static>> {
    if !user::range_ok(buf, len) {
        return Err(Errno::EFAULT);
    }
    Ok(Source::user(buf, len.min(MAX_TRANSFER)))
}

/// The segments of most vector calls without an allocation.
pub(crate) type Segments = SmallVec<[Segment; FEW_SEGMENTS]>;
const FEW_SEGMENTS: usize = 8;

/// The segments of a vector call, whose count is 32 bits of the register.
pub(crate) fn segments(iov: VirtAddr, count: usize) -> Result<Segments> {
    let count = count as u32 as usize;
    if count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let mut left = MAX_TRANSFER;
    let mut list = Segments::new();
    list.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
    for first in (0..count).step_by(FEW_SEGMENTS) {
        // `struct iovec`: address and length.
        let mut chunk = [[0u64; 2]; FEW_SEGMENTS];
        let given = chunk.get_mut(..(count - first).min(FEW_SEGMENTS)).unwrap_or_default();
        user::copy_from_user(given.as_mut_bytes(), iov.wrapping_add(16 * first as u64))?;
        for &mut [addr, len] in given {
            if len > i64::MAX as u64 {
                return Err(Errno::EINVAL);
            }
            let len = (len as usize).min(left);
            if !user::range_ok(VirtAddr(addr), len) {
                return Err(Errno::EFAULT);
            }
            left -= len;
            list.push(Segment { addr: VirtAddr(addr), len });
        }
    }
    Ok(list)
}

/// The segments of a call on a file for which it is `allowed` or not: that a file has no offsets is
/// told before what is wrong with the list, that it was not opened for this after.
pub(crate) fn vector(allowed: Result<()>, iov: VirtAddr, count: usize) -> Result<Segments> {
    if allowed == Err(Errno::ESPIPE) {
        return Err(Errno::ESPIPE);
    }
    let list = segments(iov, count)?;
    allowed.map(|()| list)
}
