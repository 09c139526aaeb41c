//! FAT's part of an inode: its clusters, its attributes, and where its record is.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::stat::{S_IFDIR, S_IFREG};
use abi::{Errno, Result};
use arch::lock::LockClass;
use pagecache::Mapping;
use sched::Mutex;
use vfs::{AtomicTime, Inode, InodeFlags, InodeInit, SuperBlock, Time};

use crate::bytes::{put16, put32};
use crate::chain::Chain;
use crate::data::{NodeBacking, Piece, poke};
use crate::dir::{Listing, MAX_LEN};
use crate::fs::Fat;
use crate::record::{Raw, Record, attr};
use crate::time::Stamp;

static STATE: LockClass = LockClass::new("fat.node", 456);
static LISTING: LockClass = LockClass::new("fat.listing", 330);

/// The number of the root directory: `MSDOS_ROOT_INO`.
pub(crate) const ROOT_INO: u64 = 1;

/// Where a file's record is.
#[derive(Clone)]
pub(crate) struct Home {
    pub(crate) dir: Arc<Inode>,
    /// The record's first byte in the directory.
    pub(crate) at: u64,
}

pub(crate) struct State {
    chain: Chain,
    /// Attributes of the record.
    pub(crate) attr: u8,
    /// `None` for the root directory, and for what was removed.
    pub(crate) home: Option<Home>,
}

/// FAT's part of an inode.
pub(crate) struct Node {
    pub(crate) fs: Arc<Fat>,
    me: Weak<Inode>,
    pub(crate) is_dir: bool,
    /// A root directory with a place of its own: its first byte on the device, its length.
    fixed: Option<(u64, u32)>,
    pub(crate) state: Mutex<State>,
    /// The names of a directory.
    pub(crate) listing: Mutex<Listing>,
    /// The record on the disk says something else.
    queued: AtomicBool,
    /// Access and modification as the record has, or will have, them.
    kept: [AtomicTime; 2],
    /// Bytes from the start that have clusters, as far as anybody has asked.
    reserved: AtomicU64,
    /// Bytes that `fallocate` asked for, behind the end of the file.
    pub(crate) kept_end: AtomicU64,
    /// The extension is that of a program of DOS.
    is_program: bool,
}

/// What a new inode is made of.
struct Parts {
    ino: u64,
    record: Record,
    home: Option<Home>,
    fixed: Option<(u64, u32)>,
    chain: Chain,
    size: u64,
    times: [Time; 3],
}

fn is_program(raw: &Raw) -> bool {
    [&b"EXE"[..], b"COM", b"BAT"].iter().any(|known| raw.get(8..) == Some(known))
}

impl Node {
    /// The root directory.
    pub(crate) fn root(fs: &Arc<Fat>, sb: &Arc<SuperBlock>) -> Result<Arc<Inode>> {
        let (fixed, first) = match fs.geometry.root {
            crate::boot::Root::Fixed { at, len } => (Some((at, len)), 0),
            crate::boot::Root::Chain { first } => (None, first),
        };
        let record = Record { attr: attr::DIRECTORY, cluster: first, ..Record::default() };
        let chain = Chain::new(first);
        let size = fixed.map_or(0, |(_, len)| u64::from(len));
        let times = [Time::new(0, 0); 3];
        let parts = Parts { ino: ROOT_INO, record, home: None, fixed, chain, size, times };
        let root = Self::build(fs, sb, parts)?;
        Ok(fs.inodes.insert(root))
    }

    /// The file that a record is of. Two who load the same one get the same.
    pub(crate) fn load(
        fs: &Arc<Fat>,
        sb: &Arc<SuperBlock>,
        ino: u64,
        record: Record,
        home: Home,
    ) -> Result<Arc<Inode>> {
        Ok(fs.inodes.insert(Self::of_record(fs, sb, ino, record, Some(home))?))
    }

    /// A new file, without a record yet and without clusters.
    pub(crate) fn create(
        fs: &Arc<Fat>,
        sb: &Arc<SuperBlock>,
        record: Record,
    ) -> Result<Arc<Inode>> {
        Self::of_record(fs, sb, fs.next_ino(), record, None)
    }

    fn of_record(
        fs: &Arc<Fat>,
        sb: &Arc<SuperBlock>,
        ino: u64,
        record: Record,
        home: Option<Home>,
    ) -> Result<Arc<Inode>> {
        let zone = fs.zone;
        let modified = zone.read(record.modified);
        let is_vfat = fs.options.is_vfat;
        let accessed = Stamp { date: record.accessed, time: 0, centis: 0 };
        let times = [
            if is_vfat { zone.read(accessed) } else { modified },
            modified,
            if is_vfat { zone.read(record.born) } else { modified },
        ];
        let chain = Chain::new(record.cluster);
        let size = if record.is_dir() { 0 } else { record.size.into() };
        Self::build(fs, sb, Parts { ino, record, home, fixed: None, chain, size, times })
    }

    fn build(fs: &Arc<Fat>, sb: &Arc<SuperBlock>, mut parts: Parts) -> Result<Arc<Inode>> {
        let cluster = u64::from(fs.geometry.cluster);
        let is_dir = parts.record.is_dir();
        if is_dir && parts.fixed.is_none() {
            // A directory is as long as its chain.
            let most = MAX_LEN / fs.geometry.cluster;
            if let Err(error) = parts.chain.learn(&fs.table, most.saturating_add(1)) {
                return Err(fs.judge(error, "invalid cluster chain of a directory"));
            }
            if parts.chain.known() > most {
                return Err(fs.corrupt("a directory is too long"));
            }
            parts.size = u64::from(parts.chain.known()) * cluster;
        }
        let record = &parts.record;
        let is_program = is_program(&record.raw);
        let init = InodeInit {
            ino: parts.ino,
            mode: if is_dir { S_IFDIR } else { S_IFREG } | fs.mode(record.attr, is_dir, is_program),
            uid: fs.options.uid,
            gid: fs.options.gid,
            nlink: 1,
            rdev: vfs::DeviceNumber::NONE,
            size: parts.size,
            blocks: parts.size.next_multiple_of(cluster) >> 9,
            atime: parts.times[0],
            mtime: parts.times[1],
            ctime: parts.times[1],
            btime: fs.options.is_vfat.then_some(parts.times[2]),
            generation: 0,
            flags: fs.flags(record.attr, is_dir),
        };
        let state = State { chain: parts.chain, attr: parts.record.attr, home: parts.home };
        let inode = Inode::new_cyclic(sb, &init, |me| {
            let node = Arc::new(Node {
                fs: fs.clone(),
                me: me.clone(),
                is_dir,
                fixed: parts.fixed,
                state: Mutex::new(&STATE, state),
                listing: Mutex::new(&LISTING, Listing::default()),
                queued: AtomicBool::new(false),
                kept: [AtomicTime::new(init.atime), AtomicTime::new(init.mtime)],
                reserved: AtomicU64::new(0),
                kept_end: AtomicU64::new(0),
                is_program,
            });
            let mapping = Mapping::new(Arc::new(NodeBacking(node.clone())), init.size);
            (node, Some(mapping))
        });
        if is_dir {
            node(&inode)?.reload(&inode)?;
        }
        Ok(inode)
    }

    /// Reads the names of a directory.
    pub(crate) fn reload(&self, inode: &Inode) -> Result<()> {
        let mapping = inode.mapping().ok_or(Errno::EIO)?;
        let listing = Listing::read(mapping, &self.fs.rules, || self.fs.next_ino())?;
        inode.set_nlink(listing.subdirs() + 2);
        *self.listing.lock() = listing;
        Ok(())
    }

    /// The inode this belongs to; `None` only while it is being dropped.
    pub(crate) fn inode(&self) -> Option<Arc<Inode>> {
        self.me.upgrade()
    }

    /// The directory the file is in; `None` for the root directory and for what was removed.
    pub(crate) fn parent(&self) -> Option<Arc<Inode>> {
        self.state.lock().home.as_ref().map(|home| home.dir.clone())
    }

    /// The first cluster; 0: none.
    pub(crate) fn first_cluster(&self) -> u32 {
        self.state.lock().chain.first()
    }

    /// The permission bits that go with attributes.
    pub(crate) fn mode_of(&self, attributes: u8) -> u32 {
        self.fs.mode(attributes, self.is_dir, self.is_program)
    }

    /// The pieces of the device with the bytes `first..end` of the file, which is `size` bytes long.
    /// `EIO` where bytes before its end have no cluster.
    pub(crate) fn pieces(&self, first: u64, end: u64, size: u64) -> Result<Vec<Piece>> {
        let fs = &self.fs;
        let end = end.min(size.next_multiple_of(fs.geometry.sector.into()));
        let mut pieces = Vec::new();
        if let Some((at, len)) = self.fixed {
            let end = end.min(len.into());
            if first < end {
                pieces.push(Piece { offset: 0, len: (end - first) as usize, at: at + first });
            }
            return Ok(pieces);
        }
        let cluster = u64::from(fs.geometry.cluster);
        let mut state = self.state.lock();
        let mut pos = first;
        while pos < end {
            let index = (pos / cluster).min(u64::from(u32::MAX) - 1) as u32;
            let learned = state.chain.learn(&fs.table, index + 1);
            let run = match (learned, state.chain.find(index)) {
                (Ok(()), Some(run)) => run,
                (Ok(()), None) => return Err(fs.corrupt("a file is longer than its cluster chain")),
                (Err(error), _) => return Err(fs.judge(error, "invalid cluster chain")),
            };
            let within = pos % cluster;
            let len = (u64::from(run.len) * cluster - within).min(end - pos);
            let at = fs.geometry.place(run.first) + within;
            pieces.push(Piece { offset: (pos - first) as usize, len: len as usize, at });
            pos += len;
        }
        Ok(pieces)
    }

    /// Makes sure that the bytes before `end` have clusters.
    ///
    /// # Errors
    ///
    /// `ENOSPC`, with those that there were kept; `EROFS`; `EIO` where the chain is damaged.
    pub(crate) fn reserve(&self, end: u64) -> Result<()> {
        if self.fs.is_read_only() {
            return Err(Errno::EROFS);
        }
        if let Some((_, len)) = self.fixed {
            return if end <= u64::from(len) { Ok(()) } else { Err(Errno::ENOSPC) };
        }
        // Acquire: pairs with the Release below; those who cut the file hold the inode.
        if end <= self.reserved.load(Ordering::Acquire) {
            return Ok(());
        }
        let cluster = u64::from(self.fs.geometry.cluster);
        let count = u32::try_from(end.div_ceil(cluster)).map_err(|_| Errno::EFBIG)?;
        let mut state = self.state.lock();
        let first = state.chain.first();
        let result = state.chain.grow(&self.fs.table, count);
        let known = u64::from(state.chain.known()) * cluster;
        self.reserved.store(known, Ordering::Release);
        let is_new = first != state.chain.first();
        drop(state);
        if let Some(inode) = self.inode() {
            inode.set_blocks((known >> 9).max(inode.blocks()));
        }
        if is_new {
            self.mark_dirty();
        }
        match result {
            Err(Errno::EIO) => Err(self.fs.judge(Errno::EIO, "invalid cluster chain")),
            result => result,
        }
    }

    /// Bytes that have clusters, as far as anybody has asked.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Acquire)
    }

    /// Frees the clusters behind the first `len` bytes. No page of what is cut is in the cache any more.
    pub(crate) fn cut(&self, len: u64) -> Result<()> {
        let cluster = u64::from(self.fs.geometry.cluster);
        let count = len.div_ceil(cluster).min(u32::MAX.into()) as u32;
        let mut state = self.state.lock();
        let result = state.chain.cut(&self.fs.table, count, &|run| self.fs.discard(run));
        let known = u64::from(state.chain.known()) * cluster;
        self.reserved.store(known, Ordering::Release);
        drop(state);
        if let Some(inode) = self.inode() {
            inode.set_blocks(known >> 9);
        }
        self.mark_dirty();
        result.map_err(|error| self.fs.judge(error, "invalid cluster chain"))
    }

    /// Says that the record on the disk is to be written.
    pub(crate) fn mark_dirty(&self) {
        // AcqRel: who writes it takes the word away before it looks at the values.
        if self.queued.load(Ordering::Relaxed) || self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        match self.inode() {
            Some(inode) => self.fs.queue(inode),
            None => self.queued.store(false, Ordering::Release),
        }
    }

    /// Cuts the times of the inode to what a record can say; marks it if that is something new.
    pub(crate) fn settle_times(&self, inode: &Inode) {
        if inode.ino == ROOT_INO {
            // The root directory has no record that could keep them.
            let never = Time::new(0, 0);
            inode.set_atime(never);
            inode.touch(never);
            return;
        }
        let zone = self.fs.zone;
        let accessed = zone.accessed(inode.atime());
        let modified = zone.modified(inode.mtime());
        inode.set_atime(accessed);
        inode.set_mtime(modified);
        inode.set_ctime(modified);
        let [kept_access, kept_change] = &self.kept;
        if kept_access.get() != accessed || kept_change.get() != modified {
            kept_access.set(accessed);
            kept_change.set(modified);
            self.mark_dirty();
        }
    }

    /// Writes what changed into the record, if anything did.
    pub(crate) fn store(&self, inode: &Inode) -> Result<()> {
        // Whoever writes it holds this: with it, what has nothing left to write has been written.
        let _records = self.fs.records.lock();
        self.store_changes(inode)
    }

    /// The same for those who hold the records.
    pub(crate) fn store_changes(&self, inode: &Inode) -> Result<()> {
        if !self.queued.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let written = self.write_record(inode);
        if written == Err(Errno::ENOMEM) {
            self.mark_dirty();
        }
        written
    }

    /// The same whether or not it did, for those who hold the records.
    pub(crate) fn write_record(&self, inode: &Inode) -> Result<()> {
        let state = self.state.lock();
        let Some(home) = state.home.clone() else { return Ok(()) };
        let (attributes, first) = (state.attr, state.chain.first());
        drop(state);
        let zone = self.fs.zone;
        let modified = zone.write(inode.mtime());
        let size = if self.is_dir { 0 } else { inode.size().min(u32::MAX.into()) as u32 };
        // From the access date on.
        let mut bytes = [0; 14];
        put16(&mut bytes, 0, zone.write(inode.atime()).date);
        put16(&mut bytes, 2, (first >> 16) as u16);
        put16(&mut bytes, 4, modified.time);
        put16(&mut bytes, 6, modified.date);
        put16(&mut bytes, 8, first as u16);
        put32(&mut bytes, 10, size);
        let mapping = home.dir.mapping().ok_or(Errno::EIO)?;
        poke(mapping, home.at + 11, &[attributes])?;
        // Without long names nobody looks at access dates.
        let skipped = if self.fs.options.is_vfat { 0 } else { 2 };
        poke(mapping, home.at + 18 + skipped as u64, bytes.get(skipped..).unwrap_or(&[]))
    }

    /// The last user of a removed file has gone: its clusters are free.
    pub(crate) fn delete(&self, inode: &Inode) -> Result<()> {
        self.fs.inodes.remove(inode.ino);
        self.fs.forget(inode.ino);
        if self.fs.is_read_only() {
            return Ok(());
        }
        if let Some(mapping) = inode.mapping() {
            mapping.truncate(0)?;
        }
        self.cut(0)
    }

    /// Frees what is behind the end of the file, and behind what is to be kept.
    pub(crate) fn trim(&self, inode: &Inode) -> Result<()> {
        let keep = inode.size().max(self.kept_end.load(Ordering::Relaxed));
        let cluster = u64::from(self.fs.geometry.cluster);
        if self.reserved() <= keep.next_multiple_of(cluster) { Ok(()) } else { self.cut(keep) }
    }
}

/// FAT's part of an inode; `EXDEV` for one of another file system.
pub(crate) fn node(inode: &Inode) -> Result<&Node> {
    inode.private().ok_or(Errno::EXDEV)
}

/// Flags that the attributes and the kind of a file give its inode.
pub(crate) fn flags(attributes: u8, is_dir: bool, is_vfat: bool, keeps_system: bool) -> InodeFlags {
    let mut flags = InodeFlags::NOSEC;
    if is_dir {
        flags |= InodeFlags::NO_NEGATIVE | InodeFlags::FOLDS_NAMES;
    }
    // Access times of directories are not kept, those of `msdos` nowhere.
    if is_dir || !is_vfat {
        flags |= InodeFlags::NOATIME;
    }
    if keeps_system && attributes & attr::SYSTEM != 0 {
        flags |= InodeFlags::IMMUTABLE;
    }
    flags
}
