//! Making the files.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use abi::Errno;
use abi::fcntl::{O_CREAT, O_TRUNC, O_WRONLY};
use abi::stat::*;
use arch::uio::Source;
use vfs::ops::{self, NewTime};
use vfs::rw::{self, At};
use vfs::{Context, DeviceNumber, FileKind, OpenHow, Path, Time, Walk, walk};

use crate::cpio::{self, Entry};
use crate::decompress;

/// Why unpacking ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No valid archive at this offset.
    Malformed(usize),
    /// A compressed stream of this format is damaged.
    Corrupt(&'static str),
    /// No memory to decompress into.
    NoMemory,
    /// Compressed streams lie too deep in each other.
    Nested,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Malformed(at) => write!(f, "initramfs: no archive at offset {at}"),
            Error::Corrupt(format) => write!(f, "initramfs: damaged {format} stream"),
            Error::Nested => f.write_str("initramfs: compressed too many times"),
            Error::NoMemory => f.write_str("initramfs: no memory to decompress into"),
        }
    }
}

/// How many compressed streams may lie in each other: each costs stack and memory, and one is what
/// real images have.
const NESTING_MAX: usize = 2;

/// Unpacks every archive of `image` into the context's root directory; how many entries there were.
///
/// # Errors
/// [`Error::Nested`] for compressed streams in compressed streams beyond any use.
pub fn unpack(ctx: &Context<'_>, image: &[u8]) -> Result<usize, Error> {
    unpack_nested(ctx, image, NESTING_MAX)
}

fn unpack_nested(ctx: &Context<'_>, image: &[u8], nesting: usize) -> Result<usize, Error> {
    let mut at = 0;
    let mut count = 0;
    loop {
        at += image.get(at..).unwrap_or(&[]).iter().take_while(|&&b| b == 0).count();
        let rest = image.get(at..).unwrap_or(&[]);
        if rest.is_empty() {
            return Ok(count);
        }
        if cpio::is_archive(rest) {
            let (entries, used) = archive(ctx, rest)?;
            count += entries;
            at += used;
        } else if let Some(format) = decompress::format(rest) {
            let deeper = nesting.checked_sub(1).ok_or(Error::Nested)?;
            let (contents, used) = decompress::decompress(format, rest)?;
            count += unpack_nested(ctx, &contents, deeper)?;
            at += used.max(1);
        } else {
            return Err(Error::Malformed(at));
        }
    }
}

/// Unpacks one archive; how many entries, and its length.
fn archive(ctx: &Context<'_>, bytes: &[u8]) -> Result<(usize, usize), Error> {
    let mut links: BTreeMap<(u32, u32, u32), Vec<u8>> = BTreeMap::new();
    let mut directories: Vec<(Vec<u8>, u32)> = Vec::new();
    let (mut at, mut count) = (0, 0);
    loop {
        let Some((entry, next)) = cpio::entry(bytes, at)? else {
            at = cpio::end_of_trailer(bytes, at);
            break;
        };
        if let Err(error) = make(ctx, &entry, &mut links) {
            log::warn!("initramfs: {}: {error}", entry.name.escape_ascii());
        } else if entry.mode & S_IFMT == S_IFDIR {
            directories.push((entry.name.to_vec(), entry.mtime));
        }
        count += 1;
        at = next;
        if at >= bytes.len() {
            break;
        }
    }
    // Times of directories last: their entries changed them.
    for (name, mtime) in directories {
        if let Ok(path) = walk(ctx, ctx.root, &name, Walk::empty()) {
            let _ = times(ctx, &path, mtime);
        }
    }
    Ok((count, at))
}

fn times(ctx: &Context<'_>, path: &Path, mtime: u32) -> abi::Result<()> {
    let time = NewTime::At(Time::new(i64::from(mtime), 0));
    ops::set_times(ctx, path, time, time)
}

fn make(
    ctx: &Context<'_>,
    entry: &Entry<'_>,
    links: &mut BTreeMap<(u32, u32, u32), Vec<u8>>,
) -> abi::Result<()> {
    let root = ctx.root;
    let name = entry.name;
    let kind = FileKind::from_mode(entry.mode).ok_or(Errno::EINVAL)?;
    let permissions = entry.mode & 0o7777;
    if kind != FileKind::Directory && entry.nlink > 1 {
        let key = (entry.dev.0, entry.dev.1, entry.ino);
        match links.get(&key) {
            Some(first) => {
                remove(ctx, name);
                ops::link(ctx, root, first, Walk::empty(), root, name)?;
                // The contents come with the last name.
                if kind == FileKind::Regular && !entry.data.is_empty() {
                    write(ctx, entry)?;
                }
                return Ok(());
            }
            None => {
                links.insert(key, name.to_vec());
            }
        }
    }
    match kind {
        FileKind::Directory => match ops::mkdir(ctx, root, name, permissions) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error),
        },
        FileKind::Regular => {
            remove(ctx, name);
            write(ctx, entry)?;
        }
        FileKind::Symlink => {
            remove(ctx, name);
            ops::symlink(ctx, entry.data, root, name)?;
        }
        _ => {
            remove(ctx, name);
            let dev = DeviceNumber::new(entry.rdev.0, entry.rdev.1);
            ops::mknod(ctx, root, name, kind, permissions, dev)?;
        }
    }
    let path = walk(ctx, root, name, Walk::empty())?;
    ops::chown(ctx, &path, Some(entry.uid), Some(entry.gid))?;
    if kind != FileKind::Symlink {
        ops::chmod(ctx, &path, permissions)?;
    }
    times(ctx, &path, entry.mtime)
}

/// A later archive replaces what an earlier one had.
fn remove(ctx: &Context<'_>, name: &[u8]) {
    // Absent is what is wanted; anything else shows when the new thing is made.
    let _ = ops::unlink(ctx, ctx.root, name);
}

fn write(ctx: &Context<'_>, entry: &Entry<'_>) -> abi::Result<()> {
    let how = OpenHow::new(O_CREAT | O_TRUNC | O_WRONLY, entry.mode & 0o7777);
    let file = vfs::open(ctx, ctx.root, entry.name, &how)?;
    let mut source = Source::kernel(entry.data);
    while !source.is_empty() {
        if rw::write(ctx, &file, At::Position, &mut source, 0)? == 0 {
            return Err(Errno::ENOSPC);
        }
    }
    Ok(())
}
