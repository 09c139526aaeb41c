//! Regular files in the page cache: what every such file system's `FileOps` are made of.

use alloc::string::String;
use alloc::sync::Arc;

use abi::{Errno, Result};
use arch::uio::{Sink, Source};
use pagecache::Mapping;
use vm::{Description, MapSource};

use crate::file::{File, PageSink};

fn mapping(file: &File) -> Result<&Arc<Mapping>> {
    file.inode().mapping().ok_or(Errno::EIO)
}

/// Reads through the page cache.
#[inline]
pub fn read_at(file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
    mapping(file)?.read(pos, sink, file.read_ahead())
}

/// Writes through the page cache; the inode is locked.
#[inline]
pub fn write_at(file: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
    mapping(file)?.write(pos, source)
}

/// Passes cached pages on.
pub fn splice_read(file: &File, mut pos: u64, len: usize, out: &mut dyn PageSink) -> Result<usize> {
    let mapping = mapping(file)?;
    let mut done = 0;
    while done < len && out.room() > 0 {
        let size = mapping.size();
        if pos >= size {
            break;
        }
        let offset = pos as usize & 4095;
        let step = (4096 - offset).min(len - done).min(out.room()).min((size - pos) as usize);
        let page = match mapping.get_page(pos >> 12) {
            Ok(page) => page,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        };
        match out.push(page, offset, step) {
            Ok(()) => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        done += step;
        pos += step as u64;
    }
    if done > 0 {
        crate::atime::accessed(file);
    }
    Ok(done)
}

/// `SEEK_DATA` and `SEEK_HOLE` where the cached pages are all the data there is (tmpfs).
pub fn seek_pages(file: &File, current: u64, offset: i64, whence: u32) -> Result<u64> {
    use abi::fcntl::{SEEK_DATA, SEEK_HOLE};
    if whence != SEEK_DATA && whence != SEEK_HOLE {
        return crate::seek::generic_seek(file, current, offset, whence);
    }
    let mapping = mapping(file)?;
    let size = mapping.size();
    let Ok(offset) = u64::try_from(offset) else { return Err(Errno::ENXIO) };
    if offset >= size {
        return Err(Errno::ENXIO);
    }
    let found = mapping.seek_cached(offset, whence == SEEK_DATA);
    match found {
        Some(pos) if pos < size => Ok(pos.max(offset)),
        _ if whence == SEEK_DATA => Err(Errno::ENXIO),
        _ => Ok(size),
    }
}

/// Makes sure that the page at `index` exists (`fallocate` where pages are the file).
pub fn allocate_page(mapping: &Arc<Mapping>, index: u64) -> Result<()> {
    mapping.get_page(index).map(|_| ())
}

/// A file as the source of a mapping: its page cache.
struct Mapped<F: Fn(&File) + Send + Sync> {
    file: Arc<File>,
    unmapped: F,
}

impl<F: Fn(&File) + Send + Sync> Drop for Mapped<F> {
    fn drop(&mut self) {
        (self.unmapped)(&self.file);
    }
}

impl<F: Fn(&File) + Send + Sync> MapSource for Mapped<F> {
    fn mapping(&self) -> Option<Arc<Mapping>> {
        self.file.inode().mapping().cloned()
    }

    fn describe(&self) -> Description {
        describe(&self.file)
    }
}

/// What `/proc/PID/maps` shows of a mapped file.
pub fn describe(file: &File) -> Description {
    let inode = file.inode();
    let dev = inode.sb().dev;
    // The path from the top of its namespace: readers in a chroot see more than they should name.
    let text = crate::dpath::from_top(&file.path);
    Description {
        dev: (dev.major(), dev.minor()),
        ino: inode.ino,
        path: String::from_utf8_lossy(&text).into_owned(),
    }
}

/// What a mapping of a file in the page cache takes its pages from.
pub fn map(file: &Arc<File>) -> Result<Arc<dyn MapSource>> {
    map_with(file, |_| ())
}

/// Like [`map`]; `unmapped` runs when nothing maps this source any more.
pub fn map_with(
    file: &Arc<File>,
    unmapped: impl Fn(&File) + Send + Sync + 'static,
) -> Result<Arc<dyn MapSource>> {
    mapping(file)?;
    crate::atime::accessed(file);
    Ok(Arc::new(Mapped { file: file.clone(), unmapped }))
}
