//! Inodes, open files and the super block, as the VFS sees them.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::{self, Write};

use abi::mount::MS_RDONLY;
use abi::stat::DT_DIR;
use abi::{Errno, Result};
use arch::uio::Sink;
use block::Claim;
use pagecache::Mapping;
use vfs::superblock::SuperInit;
use vfs::{
    Context, DeviceNumber, DirEntry, DirSink, File, FileKind, FileOps, FsStat, Inode, InodeCache,
    InodeFlags, InodeInit, InodeOps, Link, MapArgs, PageSink, SuperBlock, SuperOps, Time, pagefile,
};
use vm::MapSource;

use crate::blocks::FileBlocks;
use crate::dir::Go;
use crate::inode::{Contents, Listing, Stored};
use crate::layout::{MAGIC, u32_at};
use crate::mounting::OnError;
use crate::volume::Volume;

/// What `st_blksize` says.
const BLOCK: u32 = 1024;
/// Kind of file handles: the number of an inode, and a generation, which is 0.
const HANDLE: i32 = 1;
/// Entries that are not stored: the directory itself and its parent.
const DOTS: u64 = 2;

/// A mounted image.
pub(crate) struct Image {
    pub(crate) volume: Volume,
    inodes: InodeCache,
    /// Given back when the file system is put away.
    claim: spin::Mutex<Option<Claim>>,
}

/// This file system's part of an inode.
pub(crate) struct Node {
    image: Arc<Image>,
    contents: Contents,
    xattr: Option<u32>,
}

/// Makes the super block of an image.
pub(crate) fn super_block(volume: Volume, claim: Claim, flags: u64) -> Result<Arc<SuperBlock>> {
    let id = volume.device.id();
    let init = SuperInit {
        fs_type: "squashfs",
        dev: DeviceNumber::new(id.major, id.minor),
        flags: flags | MS_RDONLY,
        block_size: BLOCK,
        max_file_size: i64::MAX as u64,
        name_max: 256,
        magic: MAGIC.into(),
        id: String::from(volume.device.name()),
    };
    let root = volume.sb.root;
    let image =
        Arc::new(Image { volume, inodes: InodeCache::new(), claim: spin::Mutex::new(Some(claim)) });
    let sb = SuperBlock::new(init, Box::new(SuperPart(image.clone())));
    let root = image.load(&sb, root)?;
    if !root.is_dir() {
        return Err(image.volume.corrupt("the root is no directory"));
    }
    sb.set_root(root);
    Ok(sb)
}

impl Image {
    /// The inode that a reference leads to.
    fn load(self: &Arc<Self>, sb: &Arc<SuperBlock>, reference: u64) -> Result<Arc<Inode>> {
        let stored = self.volume.inode(reference)?;
        if let Some(inode) = self.inodes.get(stored.ino.into()) {
            return Ok(inode);
        }
        Ok(self.inodes.insert(self.build(sb, stored)?))
    }

    fn build(self: &Arc<Self>, sb: &Arc<SuperBlock>, stored: Stored) -> Result<Arc<Inode>> {
        let time = Time::new(stored.mtime.into(), 0);
        let kept = match stored.kind {
            FileKind::Regular => (stored.size - stored.sparse).div_ceil(512),
            _ => 0,
        };
        let attributes = match stored.xattr {
            Some(index) => self.volume.attribute_blocks(index)?,
            None => 0,
        };
        let init = InodeInit {
            ino: stored.ino.into(),
            mode: stored.kind.mode_bits() | stored.mode,
            uid: stored.uid,
            gid: stored.gid,
            // One without a name is not to be evicted.
            nlink: stored.nlink.max(1),
            rdev: stored.rdev,
            size: stored.size,
            blocks: kept + attributes,
            atime: time,
            mtime: time,
            ctime: time,
            btime: None,
            generation: 0,
            flags: InodeFlags::empty(),
        };
        let mapping = match stored.contents {
            Contents::File(blocks) => {
                let backing = FileBlocks::new(self.clone(), blocks, stored.size);
                Some(Mapping::new(Arc::new(backing), stored.size))
            }
            _ => None,
        };
        let node = Node { image: self.clone(), contents: stored.contents, xattr: stored.xattr };
        Ok(Inode::new(sb, &init, Arc::new(node), mapping))
    }
}

impl Node {
    fn listing(&self) -> Result<&Listing> {
        match &self.contents {
            Contents::Directory(listing) => Ok(listing),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn text(&self) -> Option<Arc<[u8]>> {
        match &self.contents {
            Contents::Link(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// The entries from a cursor on: a byte of the directory, behind those for itself and its parent.
    pub(crate) fn list(&self, inode: &Inode, cursor: u64, out: &mut dyn DirSink) -> Result<u64> {
        let listing = self.listing()?;
        let mut at = cursor;
        for (place, name, ino) in [(0, &b"."[..], inode.ino), (1, b"..", u64::from(listing.parent))]
        {
            if at == place {
                if !out.emit(&DirEntry { name, ino, kind: DT_DIR, next: at + 1 }) {
                    return Ok(at);
                }
                at += 1;
            }
        }
        self.image.volume.list(listing, at - DOTS, |entry| {
            let next = DOTS + entry.end;
            let (ino, kind) = (entry.ino.into(), entry.kind.dirent_type());
            if !out.emit(&DirEntry { name: &entry.name, ino, kind, next }) {
                return Go::Stop;
            }
            at = next;
            Go::On
        })?;
        Ok(at)
    }
}

impl InodeOps for Node {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let Some(entry) = self.image.volume.find(self.listing()?, name)? else { return Ok(None) };
        if let Some(inode) = self.image.inodes.get(entry.ino.into()) {
            return Ok(Some(inode));
        }
        self.image.load(dir.sb(), entry.reference).map(Some)
    }

    fn follow(&self, _inode: &Arc<Inode>, _ctx: &Context<'_>) -> Result<Link> {
        self.text().map(Link::Text).ok_or(Errno::EINVAL)
    }

    fn link_text(&self) -> Option<Arc<[u8]>> {
        self.text()
    }

    fn get_xattr(&self, _inode: &Arc<Inode>, name: &[u8], value: &mut Vec<u8>) -> Result<()> {
        if !crate::xattr::is_stored(name) {
            return Err(Errno::EOPNOTSUPP);
        }
        let index = self.xattr.ok_or(Errno::ENODATA)?;
        *value = self.image.volume.attribute(index, name)?;
        Ok(())
    }

    fn list_xattr(&self, _inode: &Arc<Inode>, names: &mut Vec<u8>) -> Result<()> {
        match self.xattr {
            Some(index) if self.image.volume.sb.xattr_table.is_some() => {
                self.image.volume.attribute_names(index, names)
            }
            _ => Ok(()),
        }
    }

    fn open(&self, inode: &Arc<Inode>, _: u32, _: &Context<'_>) -> Result<Arc<dyn FileOps>> {
        static DIRECTORY: spin::Once<Arc<DirectoryFile>> = spin::Once::new();
        static REGULAR: spin::Once<Arc<RegularFile>> = spin::Once::new();
        Ok(match inode.kind {
            FileKind::Directory => DIRECTORY.call_once(|| Arc::new(DirectoryFile)).clone(),
            _ => REGULAR.call_once(|| Arc::new(RegularFile)).clone(),
        })
    }

    fn file_handle(&self, inode: &Arc<Inode>) -> Option<(i32, Vec<u8>)> {
        self.image.volume.sb.export_table?;
        Some((HANDLE, [(inode.ino as u32).to_le_bytes(), [0; 4]].concat()))
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
    fn seek(&self, _file: &File, current: u64, offset: i64, whence: u32) -> Result<u64> {
        vfs::seek::seek_cursor(current, offset, whence)
    }

    fn readdir(&self, file: &File, cursor: u64, out: &mut dyn DirSink) -> Result<u64> {
        let inode = file.inode();
        inode.private::<Node>().ok_or(Errno::EIO)?.list(inode, cursor, out)
    }

    fn fsync(&self, _: &File, _: core::ops::Range<u64>, _: bool) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct SuperPart(Arc<Image>);

impl SuperOps for SuperPart {
    fn statfs(&self, sb: &SuperBlock) -> Result<FsStat> {
        let volume = &self.0.volume;
        let id = volume.device.id();
        let block_size = u64::from(volume.sb.block_size);
        Ok(FsStat {
            magic: sb.magic,
            block_size,
            fragment_size: 0,
            blocks: volume.sb.bytes_used.div_ceil(block_size),
            free: 0,
            available: 0,
            files: volume.sb.inodes.into(),
            files_free: 0,
            fsid: DeviceNumber::new(id.major, id.minor).encode(),
            name_max: sb.name_max.into(),
        })
    }

    fn is_for_reading(&self) -> bool {
        true
    }

    fn put_super(&self, _sb: &SuperBlock) {
        let claim = self.0.claim.lock().take();
        if let Some(claim) = claim {
            claim.release();
        }
    }

    fn show_options(&self, _sb: &SuperBlock, out: &mut dyn Write) -> fmt::Result {
        out.write_str(match self.0.volume.on_error() {
            OnError::Continue => ",errors=continue",
            OnError::Panic => ",errors=panic",
        })
    }

    fn inode_of_handle(
        &self,
        sb: &Arc<SuperBlock>,
        kind: i32,
        handle: &[u8],
    ) -> Result<Arc<Inode>> {
        if kind != HANDLE || handle.len() < 8 {
            return Err(Errno::ESTALE);
        }
        let ino = u32_at(handle, 0);
        if let Some(inode) = self.0.inodes.get(ino.into()) {
            return Ok(inode);
        }
        let reference = self.0.volume.reference_of(ino).map_err(|_| Errno::ESTALE)?;
        let inode = self.0.load(sb, reference).map_err(|_| Errno::ESTALE)?;
        if inode.ino == u64::from(ino) { Ok(inode) } else { Err(Errno::ESTALE) }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
