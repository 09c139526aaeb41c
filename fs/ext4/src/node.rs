//! [`Node`]: ext4's part of an inode: making it, loading it, storing it.

use alloc::collections::BTreeSet;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::{Errno, Result};
use arch::lock::{LockClass, Once};
use pagecache::Mapping;
use sched::{Mutex, MutexGuard};
use vfs::{DeviceNumber, FileKind, Inode, InodeFlags, InodeInit, NewInode, SuperBlock, Time};

use crate::buffer::Buffer;
use crate::bytes::{put16, put32, u16_at, u32_at};
use crate::csum::crc32c;
use crate::data::FileBacking;
use crate::extents::BlockMap;
use crate::fs::Ext4;
use crate::layout::{LateFeature, ro_compat};

static STATE: LockClass = LockClass::new("ext4.map", 456);

pub(crate) mod flags {
    pub(crate) const SYNC: u32 = 0x8;
    pub(crate) const IMMUTABLE: u32 = 0x10;
    pub(crate) const APPEND: u32 = 0x20;
    pub(crate) const NODUMP: u32 = 0x40;
    pub(crate) const NOATIME: u32 = 0x80;
    pub(crate) const INDEX: u32 = 0x1000;
    pub(crate) const JOURNAL_DATA: u32 = 0x4000;
    pub(crate) const DIRSYNC: u32 = 0x1_0000;
    pub(crate) const TOPDIR: u32 = 0x2_0000;
    pub(crate) const HUGE_FILE: u32 = 0x4_0000;
    pub(crate) const EXTENTS: u32 = 0x8_0000;
    /// New files take their directory's project.
    pub(crate) const PROJECT_INHERIT: u32 = 0x2000_0000;
    /// What a new file takes from its directory.
    pub(crate) const INHERITED: u32 = 0x8 | 0x40 | 0x80 | 0x1_0000;
}

/// Where the blocks of a file are.
pub(crate) struct State {
    pub(crate) map: BlockMap,
    /// Blocks promised to dirty pages.
    pub(crate) delayed: BTreeSet<u32>,
    pub(crate) flags: u32,
    /// `i_block` when it does not hold a map: fast links, devices.
    pub(crate) inline: Option<[u8; 60]>,
    /// The map differs from `i_block`.
    pub(crate) map_dirty: bool,
    /// The length that the disk knows: promised blocks do not count before they are allocated.
    pub(crate) disk_size: u64,
    /// Blocks of the running transaction that the map's tree was charged for.
    pub(crate) charged: u32,
    /// The block with extended attributes; 0: none.
    pub(crate) acl_block: u64,
}

/// ext4's part of an inode.
pub(crate) struct Node {
    pub(crate) fs: Arc<Ext4>,
    pub(crate) ino: u32,
    pub(crate) me: Weak<Inode>,
    /// Checksum seed of this inode's blocks.
    pub(crate) seed: u32,
    pub(crate) state: Mutex<State>,
    /// The text of a symbolic link that was followed: it never changes.
    pub(crate) link: Once<Arc<[u8]>>,
    /// Its block of the inode table, which is at hand while the inode is, and its place in it.
    table: Arc<Buffer>,
    at: usize,
    /// The transactions of the last change, and of the last that reading the file needs.
    changed_in: AtomicU64,
    needed_in: AtomicU64,
    /// The file is deleted: its place may be another's.
    pub(crate) dead: AtomicBool,
    pub(crate) deleting: AtomicBool,
}

impl Drop for Node {
    /// A write that failed before its page was dirty leaves promises that nobody fulfils.
    fn drop(&mut self) {
        let promised = self.state.get_mut().delayed.len();
        self.fs.alloc.unreserve(promised as u64);
    }
}

/// The checksum seed of an inode and its blocks.
pub(crate) fn seed_of(fs: &Ext4, ino: u32, generation: u32) -> u32 {
    crc32c(crc32c(fs.sb.seed, &ino.to_le_bytes()), &generation.to_le_bytes())
}

fn time_at(raw: &[u8], at: usize, extra: usize, has_extra: bool) -> Time {
    let low = i64::from(u32_at(raw, at) as i32);
    let more = if has_extra { u32_at(raw, extra) } else { 0 };
    Time { sec: low + (i64::from(more & 3) << 32), nsec: (more >> 2).min(999_999_999) }
}

fn put_time(raw: &mut [u8], at: usize, extra: usize, has_extra: bool, time: Time) {
    put32(raw, at, time.sec as u32);
    if has_extra {
        let epoch = ((time.sec - i64::from(time.sec as i32)) >> 32) as u32 & 3;
        put32(raw, extra, time.nsec << 2 | epoch);
    }
}

fn inode_checksum(raw: &[u8], seed: u32) -> u32 {
    let mut copy = raw.to_vec();
    put16(&mut copy, 0x7c, 0);
    if raw.len() > 128 && u16_at(raw, 0x80) >= 4 {
        put16(&mut copy, 0x82, 0);
    }
    crc32c(seed, &copy)
}

impl Node {
    /// The inode with this number.
    pub(crate) fn load(fs: &Arc<Ext4>, ino: u32) -> Result<Arc<Inode>> {
        if let Some(inode) = fs.inodes.get(ino.into()) {
            return Ok(inode);
        }
        let (block, at) = fs.alloc.inode_place(&fs.sb, ino)?;
        let size = fs.sb.inode_size;
        let table = fs.metadata_block(block)?;
        let raw = table.read(|b| b.get(at..at + size).map(<[u8]>::to_vec));
        let raw = raw.ok_or(Errno::EUCLEAN)?;
        let inode = Self::from_raw(fs, ino, &raw, (table, at))?;
        vfs::acl::load(&inode)?;
        Ok(fs.inodes.insert(inode))
    }

    fn from_raw(
        fs: &Arc<Ext4>,
        ino: u32,
        raw: &[u8],
        place: (Arc<Buffer>, usize),
    ) -> Result<Arc<Inode>> {
        let sb = fs.vfs.get().and_then(Weak::upgrade).ok_or(Errno::EIO)?;
        let wide = raw.len() > 128 && u16_at(raw, 0x80) >= 28;
        let generation = u32_at(raw, 0x64);
        let seed = seed_of(fs, ino, generation);
        if fs.sb.has_csum() {
            let high = raw.len() > 128 && u16_at(raw, 0x80) >= 4;
            let found = u32::from(u16_at(raw, 0x7c))
                | if high { u32::from(u16_at(raw, 0x82)) << 16 } else { 0 };
            let mask = if high { !0 } else { 0xffff };
            if inode_checksum(raw, seed) & mask != found {
                log::error!("ext4: inode {ino} checksum mismatch");
                return Err(Errno::EBADMSG);
            }
        }
        let mode = u32::from(u16_at(raw, 0));
        let kind = FileKind::from_mode(mode).ok_or(Errno::EUCLEAN)?;
        let raw_flags = u32_at(raw, 0x20);
        let blocks = u64::from(u32_at(raw, 0x1c)) | u64::from(u16_at(raw, 0x74)) << 32;
        let huge = raw_flags & flags::HUGE_FILE != 0 && fs.sb.ro_compat & 8 != 0;
        let blocks = if huge { blocks * (fs.sb.block_size as u64 / 512) } else { blocks };
        let mut root = [0; 60];
        root.copy_from_slice(raw.get(0x28..0x64).ok_or(Errno::EUCLEAN)?);
        let mut size = u64::from(u32_at(raw, 4));
        if matches!(kind, FileKind::Regular | FileKind::Directory) {
            size |= u64::from(u32_at(raw, 0x6c)) << 32;
        }
        if size > i64::MAX as u64 {
            return Err(Errno::EUCLEAN);
        }
        let acl_block = u64::from(u32_at(raw, 0x68)) | u64::from(u16_at(raw, 0x76)) << 32;
        let is_fast_link = kind == FileKind::Symlink
            && raw_flags & flags::EXTENTS == 0
            && size < 60
            && (blocks == 0 || acl_block != 0);
        let has_map = matches!(kind, FileKind::Regular | FileKind::Directory)
            || kind == FileKind::Symlink && !is_fast_link;
        let map = match has_map {
            false => BlockMap::default(),
            true if raw_flags & flags::EXTENTS != 0 => fs.read_extents(&root, seed)?,
            true => fs.read_indirect(&root)?,
        };
        let rdev = match (kind.is_device(), u32_at(&root, 0), u32_at(&root, 4)) {
            (false, ..) => DeviceNumber::NONE,
            (true, 0, new) => DeviceNumber::decode(new.into()),
            (true, old, _) => DeviceNumber::new(old >> 8 & 0xff, old & 0xff),
        };
        let init = InodeInit {
            ino: ino.into(),
            mode,
            uid: u32::from(u16_at(raw, 2)) | u32::from(u16_at(raw, 0x78)) << 16,
            gid: u32::from(u16_at(raw, 0x18)) | u32::from(u16_at(raw, 0x7a)) << 16,
            nlink: u16_at(raw, 0x1a).into(),
            rdev,
            size,
            blocks,
            atime: time_at(raw, 8, 0x8c, wide),
            mtime: time_at(raw, 0x10, 0x88, wide),
            ctime: time_at(raw, 0xc, 0x84, wide),
            btime: wide.then(|| time_at(raw, 0x90, 0x94, true)),
            generation,
            flags: vfs_flags(raw_flags) | acl_flags(raw, acl_block, kind),
        };
        let inline = (!has_map).then_some(root);
        let state = State {
            map,
            delayed: BTreeSet::new(),
            flags: raw_flags,
            inline,
            map_dirty: false,
            disk_size: size,
            charged: 0,
            acl_block,
        };
        Ok(Self::build(fs, &sb, &init, (kind, seed), state, place))
    }

    fn build(
        fs: &Arc<Ext4>,
        sb: &Arc<SuperBlock>,
        init: &InodeInit,
        (kind, seed): (FileKind, u32),
        state: State,
        (table, at): (Arc<Buffer>, usize),
    ) -> Arc<Inode> {
        Inode::new_cyclic(sb, init, |me| {
            let node = Arc::new(Node {
                fs: fs.clone(),
                ino: init.ino as u32,
                me: me.clone(),
                seed,
                state: Mutex::new(&STATE, state),
                link: Once::new(),
                table: table.clone(),
                at,
                changed_in: AtomicU64::new(0),
                needed_in: AtomicU64::new(0),
                dead: AtomicBool::new(false),
                deleting: AtomicBool::new(false),
            });
            let mapping = (kind == FileKind::Regular)
                .then(|| Mapping::new(Arc::new(FileBacking::new(node.clone())), init.size));
            (node, mapping)
        })
    }

    /// A new inode, without a name yet. In an operation.
    pub(crate) fn create(fs: &Arc<Ext4>, dir: &Node, new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let sb = fs.vfs.get().and_then(Weak::upgrade).ok_or(Errno::EIO)?;
        let is_dir = new.kind == FileKind::Directory;
        // man 7 symlink: the text and its NUL are one block at the most.
        if new.kind == FileKind::Symlink && new.target.len() >= fs.sb.block_size {
            return Err(Errno::ENAMETOOLONG);
        }
        let ino = fs.alloc.take_inode(&fs.sb, &fs.buffers, dir.ino, is_dir)?;
        let generation = (new.now.nsec ^ ino.rotate_left(16)) | 1;
        let mut init = InodeInit::new(ino.into(), new);
        init.generation = generation;
        if fs.sb.inode_size < 160 {
            init.btime = None;
        }
        let dir_flags = dir.state.lock().flags;
        let mut raw_flags = dir_flags & flags::INHERITED;
        let project = if dir_flags & flags::PROJECT_INHERIT != 0 { dir.project()? } else { 0 };
        if is_dir {
            raw_flags |= dir_flags & flags::PROJECT_INHERIT;
        }
        if !is_dir {
            raw_flags &= !flags::DIRSYNC;
        }
        let mut inline = None;
        match new.kind {
            FileKind::Regular | FileKind::Directory => raw_flags |= fs.map_flag(),
            FileKind::Symlink => {
                init.size = new.target.len() as u64;
                if new.target.len() < 60 {
                    let mut text = [0; 60];
                    text[..new.target.len()].copy_from_slice(new.target);
                    inline = Some(text);
                } else {
                    raw_flags |= fs.map_flag();
                }
            }
            _ => {
                let mut root = [0; 60];
                let (major, minor) = (new.rdev.major(), new.rdev.minor());
                if major < 256 && minor < 256 {
                    put32(&mut root, 0, major << 8 | minor);
                } else {
                    put32(&mut root, 4, new.rdev.encode() as u32);
                }
                inline = Some(root);
            }
        }
        init.flags = vfs_flags(raw_flags) | InodeFlags::NOSEC;
        let state = State {
            map: BlockMap::default(),
            delayed: BTreeSet::new(),
            flags: raw_flags,
            inline,
            map_dirty: true,
            disk_size: 0,
            charged: 0,
            acl_block: 0,
        };
        let seed = seed_of(fs, ino, generation);
        // A table never initialised holds anything: what was there goes.
        let (block, at) = fs.alloc.inode_place(&fs.sb, ino)?;
        let buffer = fs.metadata_block(block)?;
        let size = fs.sb.inode_size;
        fs.buffers.modify(&buffer, |b| {
            if let Some(raw) = b.get_mut(at..at + size) {
                raw.fill(0);
                if size > 128 {
                    put16(raw, 0x80, fs.sb.extra_isize());
                }
                put32(raw, 0x64, generation);
                put32(raw, 0x9c, project);
            }
        });
        fs.inodes.remove(ino.into());
        let built = Self::build(fs, &sb, &init, (new.kind, seed), state, (buffer, at));
        let inode = fs.inodes.insert(built);
        if let Some(node) = inode.private::<Node>() {
            node.changed();
        }
        if new.kind == FileKind::Symlink
            && new.target.len() >= 60
            && let Some(node) = inode.private::<Node>()
        {
            let buffer = match node.add_block(0) {
                Ok(buffer) => buffer,
                Err(error) => {
                    inode.set_nlink(0);
                    node.discard(&inode)?;
                    return Err(error);
                }
            };
            fs.buffers.modify(&buffer, |block| {
                if let Some(text) = block.get_mut(..new.target.len()) {
                    text.copy_from_slice(new.target);
                }
            });
        }
        Ok(inode)
    }

    /// Notes that the inode changed. In an operation.
    pub(crate) fn changed(&self) {
        self.note_change();
        // Relaxed: whoever syncs the file does so after the change.
        self.needed_in.fetch_max(self.fs.running(), Ordering::Relaxed);
    }

    /// The same for what a reader does not miss: times.
    pub(crate) fn note_change(&self) {
        if let Some(inode) = self.me.upgrade() {
            self.fs.mark_dirty(self.ino, &inode);
        }
        self.changed_in.fetch_max(self.fs.running(), Ordering::Relaxed);
    }

    /// The transaction of the last change, or of the last that reading the file needs.
    pub(crate) fn last_change(&self, data_only: bool) -> u64 {
        let last = if data_only { &self.needed_in } else { &self.changed_in };
        last.load(Ordering::Relaxed)
    }

    /// Writes the fields into the inode table's buffer.
    pub(crate) fn store(&self, inode: &Inode) -> Result<()> {
        if self.dead.load(Ordering::Acquire) {
            return Ok(());
        }
        let (fs, at) = (&self.fs, self.at);
        // All that can fail but the map itself comes before the map counts as stored.
        if inode.kind == FileKind::Regular && inode.size() > i32::MAX as u64 {
            fs.need(&LateFeature::LargeFile)?;
        }
        let mut state = self.state.lock();
        let root = match state.inline {
            Some(inline) => Some(inline),
            None if state.map_dirty => {
                let goal = state.map.extents.first().map_or(0, |extent| extent.physical);
                let root = if state.flags & flags::EXTENTS != 0 {
                    fs.write_extents(&mut state.map, self.seed, goal)?
                } else {
                    fs.write_indirect(&mut state.map, goal)?
                };
                state.map_dirty = false;
                self.count_blocks(&state);
                Some(root)
            }
            None => None,
        };
        state.charged = 0;
        let length = self.length_for_disk(&mut state, inode.size());
        let (raw_flags, acl_block) = (state.flags, state.acl_block);
        // Promised blocks count for programs, not on the disk.
        let blocks = self.sectors(&state);
        drop(state);
        let next_orphan = fs.orphans.next_of(self.ino);
        let size = fs.sb.inode_size;
        fs.buffers.modify(&self.table, |bytes| {
            // Deleted meanwhile: the place may be another file's by now.
            if self.dead.load(Ordering::Acquire) {
                return;
            }
            let Some(raw) = bytes.get_mut(at..at + size) else { return };
            // Attributes may lie where an old inode has no fields.
            let wide = size > 128 && u16_at(raw, 0x80) >= 28;
            put32(raw, 0x14, next_orphan);
            put32(raw, 0x68, acl_block as u32);
            put16(raw, 0x76, (acl_block >> 32) as u16);
            put16(raw, 0, inode.mode() as u16);
            put16(raw, 2, inode.uid() as u16);
            put16(raw, 0x78, (inode.uid() >> 16) as u16);
            put16(raw, 0x18, inode.gid() as u16);
            put16(raw, 0x7a, (inode.gid() >> 16) as u16);
            put16(raw, 0x1a, inode.nlink().min(65000) as u16);
            put32(raw, 4, length as u32);
            if matches!(inode.kind, FileKind::Regular | FileKind::Directory) {
                put32(raw, 0x6c, (length >> 32) as u32);
            }
            put32(raw, 0x1c, blocks as u32);
            put16(raw, 0x74, (blocks >> 32) as u16);
            put32(raw, 0x20, raw_flags & !flags::HUGE_FILE);
            put32(raw, 0x64, inode.generation);
            put_time(raw, 8, 0x8c, wide, inode.atime());
            put_time(raw, 0x10, 0x88, wide, inode.mtime());
            put_time(raw, 0xc, 0x84, wide, inode.ctime());
            if wide && let Some(btime) = inode.btime() {
                put_time(raw, 0x90, 0x94, true, btime);
            }
            if let Some(root) = root {
                raw[0x28..0x64].copy_from_slice(&root);
            }
            sign(fs, raw, self.seed);
        });
        Ok(())
    }

    pub(crate) fn sectors(&self, state: &State) -> u64 {
        let blocks = state.map.block_count() + u64::from(state.acl_block != 0);
        blocks * (self.fs.sb.block_size as u64 / 512)
    }

    /// The project the file belongs to.
    pub(crate) fn project(&self) -> Result<u32> {
        let fs = &self.fs;
        let (block, at) = fs.alloc.inode_place(&fs.sb, self.ino)?;
        let has_field = |raw: &[u8]| u16_at(raw, 0x80) >= 32;
        Ok(fs.metadata_block(block)?.read(|bytes| {
            let raw = bytes.get(at..at + fs.sb.inode_size).unwrap_or(&[]);
            if raw.len() > 128 && has_field(raw) { u32_at(raw, 0x9c) } else { 0 }
        }))
    }

    /// Tells the VFS how much space the file has.
    pub(crate) fn count_blocks(&self, state: &MutexGuard<'_, State>) {
        if let Some(inode) = self.me.upgrade() {
            let delayed = state.delayed.len() as u64 * (self.fs.sb.block_size as u64 / 512);
            inode.set_blocks(self.sectors(state) + delayed);
        }
    }
}

/// Signs a raw inode.
pub(crate) fn sign(fs: &Ext4, raw: &mut [u8], seed: u32) {
    if fs.sb.ro_compat & ro_compat::METADATA_CSUM == 0 {
        return;
    }
    let sum = inode_checksum(raw, seed);
    put16(raw, 0x7c, sum as u16);
    if raw.len() > 128 && u16_at(raw, 0x80) >= 4 {
        put16(raw, 0x82, (sum >> 16) as u16);
    }
}

/// Which ACLs the VFS must look for.
fn acl_flags(raw: &[u8], acl_block: u64, kind: FileKind) -> InodeFlags {
    // What is in the block shows when it is read.
    let (access, default) = if acl_block != 0 { (true, true) } else { Node::acls_in_body(raw) };
    let mut flags = InodeFlags::empty();
    if access && kind != FileKind::Symlink {
        flags |= InodeFlags::ACL;
    }
    if default && kind == FileKind::Directory {
        flags |= InodeFlags::DEFAULT_ACL;
    }
    flags
}

/// The VFS's flags for those of the disk.
pub(crate) fn vfs_flags(raw: u32) -> InodeFlags {
    let mut result = InodeFlags::empty();
    for (bit, flag) in [
        (flags::SYNC, InodeFlags::SYNC),
        (flags::IMMUTABLE, InodeFlags::IMMUTABLE),
        (flags::APPEND, InodeFlags::APPEND),
        (flags::NOATIME, InodeFlags::NOATIME),
        (flags::DIRSYNC, InodeFlags::DIRSYNC),
    ] {
        if raw & bit != 0 {
            result |= flag;
        }
    }
    result
}
