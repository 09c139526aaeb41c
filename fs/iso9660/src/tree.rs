//! Inodes: directories that are read once, contents that go from the device to pages.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::stat::{DT_DIR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use abi::{Errno, Result};
use arch::addr::{PAGE_SHIFT, PAGE_SIZE};
use arch::uio::Sink;
use block::{Bio, Claim, Device, Op, SECTOR_SHIFT};
use pagecache::{Backing, Mapping, ReadRun, WriteRun};
use vfs::{
    Context, DeviceNumber, DirEntry, DirSink, File, FileKind, FileOps, FsStat, Inode, InodeCache,
    InodeFlags, InodeInit, InodeOps, Link, MapArgs, PageSink, SuperBlock, SuperOps, Time, pagefile,
};
use vm::MapSource;

use crate::mounting::Options;
use crate::record::{Record, joliet_name, plain_name};
use crate::susp::RockRidge;
use crate::volume::{Names, Volume};

/// A mounted medium.
pub(crate) struct Medium {
    pub(crate) volume: Volume,
    pub(crate) options: Options,
    pub(crate) inodes: InodeCache,
    /// Given back when the file system is put away.
    pub(crate) claim: spin::Mutex<Option<Claim>>,
}

/// A stretch of a file: where it is on the device in bytes, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    at: u64,
    len: u64,
}

/// What the records of a file say.
struct Entry {
    ino: u64,
    name: Vec<u8>,
    kind: FileKind,
    what: What,
}

/// All of it: an inode is made of this.
#[derive(Clone)]
struct What {
    mode: u32,
    links: u32,
    owner: (u32, u32),
    rdev: DeviceNumber,
    times: [Time; 3],
    extents: Vec<Extent>,
    link: Vec<u8>,
    /// Block and bytes of a directory.
    dir: Option<(u64, u32)>,
    is_interleaved: bool,
}

impl What {
    fn size(&self) -> u64 {
        match &self.dir {
            Some((_, size)) => u64::from(*size),
            None if self.mode & S_IFMT == S_IFLNK => self.link.len() as u64,
            None => self.extents.iter().map(|extent| extent.len).sum(),
        }
    }
}

/// A directory's entries, by name and in their order.
struct Listing {
    parent: u64,
    order: Vec<Entry>,
    by_name: BTreeMap<Vec<u8>, usize>,
}

impl Medium {
    /// The root directory.
    pub(crate) fn root(self: &Arc<Self>, sb: &Arc<SuperBlock>) -> Result<Arc<Inode>> {
        let what = self.dir_at(self.volume.root.0)?;
        let ino = self.dir_number(self.volume.root.0)?;
        Ok(self.inode(sb, ino, what))
    }

    /// A directory's number: the place of its own record, in units of 32 bytes.
    fn dir_number(&self, block: u64) -> Result<u64> {
        Ok(self.volume.place(block)? >> 5)
    }

    /// What a directory says of itself.
    fn dir_at(&self, block: u64) -> Result<What> {
        let mut found = None;
        let first = (block, self.volume.block_size() as u32);
        self.volume.for_each_record(first, |_, record| {
            if found.is_none() && record.is_self() {
                let rock = self.rock_of(&record)?;
                found = Some(self.describe(&record, &rock, record.is_dir())?);
            }
            Ok(())
        })?;
        let what = found.filter(|what| what.dir.is_some());
        what.ok_or_else(|| {
            log::error!("iso9660: {}: no directory in block {block}", self.volume.device.name());
            Errno::EIO
        })
    }

    fn rock_of(&self, record: &Record<'_>) -> Result<RockRidge> {
        match self.volume.names {
            Names::RockRidge { skip } => {
                // The area that says so itself begins with that entry.
                RockRidge::read(&self.volume, record.system_use(), skip)
            }
            _ => Ok(RockRidge::default()),
        }
    }

    fn describe(&self, record: &Record<'_>, rock: &RockRidge, is_dir: bool) -> Result<What> {
        let kind_bits = if is_dir { S_IFDIR } else { S_IFREG };
        let plain = self.options.mode_of(is_dir);
        let [mode, links, uid, gid] = rock.posix.unwrap_or([kind_bits | plain, 1, 0, 0]);
        // A directory is one whatever its mode says, and nothing else is.
        let is_sound = FileKind::from_mode(mode).is_some() && (mode & S_IFMT == S_IFDIR) == is_dir;
        let mode = if is_sound { mode & (S_IFMT | 0o7777) } else { kind_bits | mode & 0o7777 };
        let (major, minor) = match rock.device {
            // Both numbers may be in the low half.
            Some((0, low)) => (low >> 8, low & 0xff),
            Some((high, low)) => (high, low),
            None => (0, 0),
        };
        let date = record.date();
        let modified = rock.modified.unwrap_or(date);
        let extent =
            Extent { at: self.volume.place(record.extent())?, len: u64::from(record.size()) };
        Ok(What {
            mode,
            links: links.max(1),
            owner: (self.options.uid.unwrap_or(uid), self.options.gid.unwrap_or(gid)),
            rdev: DeviceNumber::new(major, minor),
            times: [rock.accessed.unwrap_or(modified), modified, rock.changed.unwrap_or(modified)],
            extents: if extent.len == 0 { Vec::new() } else { [extent].to_vec() },
            link: rock.link.clone(),
            dir: is_dir.then(|| (record.extent(), record.size())),
            is_interleaved: record.is_interleaved(),
        })
    }

    fn name_of(&self, record: &Record<'_>, rock: &RockRidge) -> Vec<u8> {
        match self.volume.names {
            Names::RockRidge { .. } if !rock.name.is_empty() => rock.name.clone(),
            Names::Joliet => joliet_name(record.name()),
            _ => plain_name(record.name(), self.options.map),
        }
    }

    /// Reads a directory.
    fn list(&self, dir: (u64, u32)) -> Result<Listing> {
        let mut listing = Listing {
            parent: self.dir_number(dir.0)?,
            order: Vec::new(),
            by_name: BTreeMap::new(),
        };
        // A file of several records ends with the one that says so.
        let mut open: Option<Entry> = None;
        self.volume.for_each_record(dir, |at, record| {
            if record.is_self() {
                return Ok(());
            }
            if record.is_parent() {
                listing.parent = self.dir_number(record.extent())?;
                return Ok(());
            }
            let is_shown = !record.is_associated() && (self.options.unhide || !record.is_hidden());
            if !is_shown {
                return Ok(());
            }
            let mut entry = match open.take() {
                Some(mut entry) => {
                    let at = self.volume.place(record.extent())?;
                    entry.what.extents.push(Extent { at, len: u64::from(record.size()) });
                    entry
                }
                None => match self.entry(at, &record)? {
                    Some(entry) => entry,
                    None => return Ok(()),
                },
            };
            entry.what.is_interleaved |= record.is_interleaved();
            if record.continues() && entry.what.dir.is_none() {
                open = Some(entry);
                return Ok(());
            }
            listing.add(entry, self.volume.names);
            Ok(())
        })?;
        Ok(listing)
    }

    fn entry(&self, at: u64, record: &Record<'_>) -> Result<Option<Entry>> {
        let rock = self.rock_of(record)?;
        if rock.is_relocated {
            return Ok(None);
        }
        let name = self.name_of(record, &rock);
        let is_sound = !name.is_empty() && name != b"." && name != b"..";
        if !is_sound || name.contains(&b'/') || name.contains(&0) {
            return Ok(None);
        }
        // RRIP 4.1.5.1: a file that stands for a directory elsewhere.
        let (what, ino) = match rock.child {
            Some(block) => (self.dir_at(block.into())?, self.dir_number(block.into())?),
            None if record.is_dir() => {
                let what = self.describe(record, &rock, true)?;
                (what, self.dir_number(record.extent())?)
            }
            None => (self.describe(record, &rock, false)?, at >> 5),
        };
        let kind = FileKind::from_mode(what.mode).unwrap_or(FileKind::Regular);
        Ok(Some(Entry { ino, name, kind, what }))
    }

    fn inode(self: &Arc<Self>, sb: &Arc<SuperBlock>, ino: u64, what: What) -> Arc<Inode> {
        if let Some(inode) = self.inodes.get(ino) {
            return inode;
        }
        let size = what.size();
        let [atime, mtime, ctime] = what.times;
        let init = InodeInit {
            ino,
            mode: what.mode,
            uid: what.owner.0,
            gid: what.owner.1,
            nlink: what.links,
            rdev: what.rdev,
            size,
            blocks: size.div_ceil(self.volume.block_size()) * (self.volume.block_size() >> 9),
            atime,
            mtime,
            ctime,
            btime: None,
            generation: 0,
            flags: InodeFlags::empty(),
        };
        let is_file = what.mode & S_IFMT == S_IFREG;
        let contents = is_file.then(|| {
            let backing = Contents {
                device: self.volume.device.clone(),
                extents: what.extents.clone(),
                is_interleaved: what.is_interleaved,
            };
            Mapping::new(Arc::new(backing), size)
        });
        let link: Arc<[u8]> = what.link.into();
        let node = Node { medium: self.clone(), dir: what.dir, link, listing: spin::Once::new() };
        self.inodes.insert(Inode::new(sb, &init, Arc::new(node), contents))
    }
}

/// A name as it is compared where case makes no difference.
fn folded(name: &[u8]) -> Vec<u8> {
    name.to_ascii_lowercase()
}

impl Listing {
    fn add(&mut self, entry: Entry, names: Names) {
        // Of two of one name the first counts: a higher version comes first (ECMA-119 9.3).
        let key = match names {
            Names::Joliet => folded(&entry.name),
            _ => entry.name.clone(),
        };
        if !self.by_name.contains_key(&key) {
            self.by_name.insert(key, self.order.len());
            self.order.push(entry);
        }
    }
}

/// This file system's part of an inode.
pub(crate) struct Node {
    medium: Arc<Medium>,
    dir: Option<(u64, u32)>,
    link: Arc<[u8]>,
    listing: spin::Once<Listing>,
}

impl Node {
    fn listing(&self) -> Result<&Listing> {
        if let Some(listing) = self.listing.get() {
            return Ok(listing);
        }
        let listing = self.medium.list(self.dir.ok_or(Errno::ENOTDIR)?)?;
        // Somebody may have read it as well: one of the two is kept.
        Ok(self.listing.call_once(|| listing))
    }
}

#[cfg(test)]
impl Node {
    pub(crate) fn names(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.listing()?.order.iter().map(|entry| entry.name.clone()).collect())
    }

    pub(crate) fn count(&self) -> Result<usize> {
        Ok(self.listing()?.order.len())
    }
}

impl InodeOps for Node {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let listing = self.listing()?;
        let found = match self.medium.volume.names {
            Names::Joliet => listing.by_name.get(&folded(name)),
            _ => listing.by_name.get(name),
        };
        let found = found.and_then(|&at| listing.order.get(at));
        let Some(entry) = found else { return Ok(None) };
        Ok(Some(self.medium.inode(dir.sb(), entry.ino, entry.what.clone())))
    }

    fn follow(&self, _inode: &Arc<Inode>, _ctx: &Context<'_>) -> Result<Link> {
        Ok(Link::Text(self.link.clone()))
    }

    fn link_text(&self) -> Option<Arc<[u8]>> {
        Some(self.link.clone())
    }

    fn open(&self, inode: &Arc<Inode>, _: u32, _: &Context<'_>) -> Result<Arc<dyn FileOps>> {
        static DIRECTORY: spin::Once<Arc<DirectoryFile>> = spin::Once::new();
        static REGULAR: spin::Once<Arc<RegularFile>> = spin::Once::new();
        Ok(match inode.kind {
            FileKind::Directory => DIRECTORY.call_once(|| Arc::new(DirectoryFile)).clone(),
            _ => REGULAR.call_once(|| Arc::new(RegularFile)).clone(),
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct RegularFile;

impl FileOps for RegularFile {
    fn read_at(&self, file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        pagefile::read_at(file, pos, sink)
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

    fn fsync(&self, _: &File, _: core::ops::Range<u64>, _: bool) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct DirectoryFile;

impl FileOps for DirectoryFile {
    /// A cursor is the place of the next entry; the first two are the directory itself and its parent.
    fn readdir(&self, file: &File, cursor: u64, out: &mut dyn DirSink) -> Result<u64> {
        let inode = file.inode();
        let listing = inode.private::<Node>().ok_or(Errno::EIO)?.listing()?;
        let mut at = cursor;
        loop {
            let (name, ino, kind): (&[u8], u64, u8) = match at {
                0 => (b".", inode.ino, DT_DIR),
                1 => (b"..", listing.parent, DT_DIR),
                _ => {
                    let place = usize::try_from(at - 2).unwrap_or(usize::MAX);
                    let Some(entry) = listing.order.get(place) else { return Ok(at) };
                    (&entry.name, entry.ino, entry.kind.dirent_type())
                }
            };
            if !out.emit(&DirEntry { name, ino, kind, next: at + 1 }) {
                return Ok(at);
            }
            at += 1;
        }
    }

    fn fsync(&self, _: &File, _: core::ops::Range<u64>, _: bool) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Where a file's pages come from.
struct Contents {
    device: Arc<Device>,
    extents: Vec<Extent>,
    is_interleaved: bool,
}

/// Joins the bios of a run.
struct Join {
    left: AtomicUsize,
    failed: AtomicBool,
    run: spin::Mutex<Option<ReadRun>>,
}

impl Join {
    fn part_done(&self, result: Result<()>) {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        // AcqRel: the last part sees the others' failures.
        if self.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let run = self.run.lock().take();
        if let Some(run) = run {
            let failed = self.failed.load(Ordering::Relaxed);
            run.complete(if failed { Err(Errno::EIO) } else { Ok(()) });
        }
    }
}

impl Contents {
    /// The extent that has a byte of the file, and the byte's place in it.
    fn find(&self, pos: u64) -> Option<(Extent, u64)> {
        let mut start = 0_u64;
        for extent in &self.extents {
            let end = start.checked_add(extent.len)?;
            if pos < end {
                return Some((*extent, pos - start));
            }
            start = end;
        }
        None
    }
}

impl Backing for Contents {
    fn read(&self, run: ReadRun) {
        if self.is_interleaved {
            return run.complete(Err(Errno::EIO));
        }
        let first = run.first() << PAGE_SHIFT;
        let pages = run.pages().to_vec();
        let len = pages.len() << PAGE_SHIFT;
        // A drive moves whole blocks of its own.
        let unit = self.device.block_size().clamp(512, PAGE_SIZE as u32) as usize;
        let join = Arc::new(Join {
            left: AtomicUsize::new(1),
            failed: AtomicBool::new(false),
            run: spin::Mutex::new(Some(run)),
        });
        // The tails of pages behind the end are zeros, and so is what the device puts there with the last block.
        let mut at = 0;
        while at < len {
            let Some((extent, within)) = self.find(first + at as u64) else {
                zero(&pages, at, len - at);
                break;
            };
            let bytes = (extent.len - within).min((len - at) as u64) as usize;
            // Extents before the last end with a block, and pages begin with one.
            if !(at | within as usize).is_multiple_of(unit) {
                join.failed.store(true, Ordering::Relaxed);
                break;
            }
            let told = join.clone();
            join.left.fetch_add(1, Ordering::Relaxed);
            let tail = pages.clone();
            let (end, rounded) = (at + bytes, (at + bytes).next_multiple_of(unit));
            let mut bio = Bio::new(Op::Read, (extent.at + within) >> SECTOR_SHIFT, move |result| {
                zero(&tail, end, rounded - end);
                told.part_done(result);
            });
            let mut piece = at;
            while piece < rounded {
                let offset = piece % PAGE_SIZE;
                let step = (PAGE_SIZE - offset).min(rounded - piece);
                if let Some(page) = pages.get(piece >> PAGE_SHIFT) {
                    bio.push(page.clone(), offset as u32, step as u32);
                }
                piece += step;
            }
            self.device.submit(bio);
            at = rounded;
        }
        join.part_done(Ok(()));
    }

    fn write(&self, run: WriteRun) {
        run.complete(Err(Errno::EROFS));
    }

    fn prepare_write(&self, _: &Mapping, _: u64, _: usize) -> Result<()> {
        Err(Errno::EROFS)
    }
}

/// Zeroes bytes of a run of pages.
fn zero(pages: &[frames::PageRef], mut at: usize, mut len: usize) {
    while len > 0 {
        let offset = at % PAGE_SIZE;
        let step = (PAGE_SIZE - offset).min(len);
        if let Some(page) = pages.get(at >> PAGE_SHIFT) {
            page.zero(offset..offset + step);
        }
        (at, len) = (at + step, len - step);
    }
}

pub(crate) struct SuperPart(pub(crate) Arc<Medium>);

impl SuperOps for SuperPart {
    fn statfs(&self, sb: &SuperBlock) -> Result<FsStat> {
        let volume = &self.0.volume;
        let id = volume.device.id();
        Ok(FsStat {
            magic: sb.magic,
            block_size: volume.block_size(),
            fragment_size: 0,
            blocks: volume.blocks,
            free: 0,
            available: 0,
            files: 0,
            files_free: 0,
            fsid: DeviceNumber::new(id.major, id.minor).encode(),
            name_max: 255,
        })
    }

    fn put_super(&self, _sb: &SuperBlock) {
        let claim = self.0.claim.lock().take();
        if let Some(claim) = claim {
            claim.release();
        }
    }

    fn show_options(&self, _sb: &SuperBlock, out: &mut dyn Write) -> fmt::Result {
        self.0.options.show(&self.0.volume, out)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Puts a medium together.
pub(crate) fn medium(volume: Volume, options: Options, claim: Claim) -> Arc<Medium> {
    Arc::new(Medium {
        volume,
        options,
        inodes: InodeCache::new(),
        claim: spin::Mutex::new(Some(claim)),
    })
}

/// The super block's operations.
pub(crate) fn operations(medium: &Arc<Medium>) -> Box<dyn SuperOps> {
    Box::new(SuperPart(medium.clone()))
}
