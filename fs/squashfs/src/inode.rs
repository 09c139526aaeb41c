//! Inodes (squashfs binary format, "The Inode Table").

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Result;
use vfs::{DeviceNumber, FileKind};

use crate::layout::{u16_at, u32_at, u64_at};
use crate::volume::{Cursor, Place, Volume};

/// An index that says that there is none: of fragments, of attributes.
const NONE: u32 = u32::MAX;
/// Longest text of a symbolic link: `PATH_MAX`.
const MAX_LINK: usize = 4096;

/// The end of a file that shares a block with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fragment {
    pub(crate) index: u32,
    pub(crate) offset: u32,
}

/// Where the blocks of a file are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Blocks {
    /// The first, on the device.
    pub(crate) start: u64,
    /// The list of their sizes.
    pub(crate) sizes: Place,
    pub(crate) fragment: Option<Fragment>,
}

/// Where the names of a directory are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Listing {
    pub(crate) start: Place,
    /// Bytes of the headers and entries.
    pub(crate) len: u64,
    /// The index, and how many entries it has.
    pub(crate) index: Option<(Place, u32)>,
    /// The number of the directory above.
    pub(crate) parent: u32,
}

/// What a file consists of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Contents {
    Nothing,
    File(Blocks),
    Directory(Listing),
    Link(Arc<[u8]>),
}

/// An inode as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    pub(crate) ino: u32,
    pub(crate) kind: FileKind,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: u32,
    pub(crate) nlink: u32,
    pub(crate) size: u64,
    /// Bytes of blocks that are not stored.
    pub(crate) sparse: u64,
    pub(crate) rdev: DeviceNumber,
    pub(crate) contents: Contents,
    pub(crate) xattr: Option<u32>,
}

/// The number in a directory and in an inode for a kind; those of inodes with more to say are 7 higher.
pub(crate) fn kind_of(number: u16) -> Option<FileKind> {
    Some(match number {
        1 => FileKind::Directory,
        2 => FileKind::Regular,
        3 => FileKind::Symlink,
        4 => FileKind::BlockDevice,
        5 => FileKind::CharDevice,
        6 => FileKind::Fifo,
        7 => FileKind::Socket,
        _ => return None,
    })
}

impl Volume {
    /// The inode that a reference leads to.
    pub(crate) fn inode(&self, reference: u64) -> Result<Stored> {
        let place = self.place(self.sb.inode_table, reference)?;
        let mut cursor = self.cursor(place);
        let head = cursor.take::<16>()?;
        let number = u16_at(&head, 0);
        let (basic, is_long) = if number > 7 { (number - 7, true) } else { (number, false) };
        let kind = kind_of(basic).ok_or_else(|| self.corrupt("unknown type of an inode"))?;
        let mut inode = Stored {
            ino: u32_at(&head, 12),
            kind,
            mode: u32::from(u16_at(&head, 2)) & 0o7777,
            uid: self.id(u16_at(&head, 4))?,
            gid: self.id(u16_at(&head, 6))?,
            mtime: u32_at(&head, 8),
            nlink: 1,
            size: 0,
            sparse: 0,
            rdev: DeviceNumber::NONE,
            contents: Contents::Nothing,
            xattr: None,
        };
        match (kind, is_long) {
            (FileKind::Directory, false) => self.read_dir(&mut cursor, &mut inode)?,
            (FileKind::Directory, true) => self.read_long_dir(&mut cursor, &mut inode)?,
            (FileKind::Regular, false) => self.read_file(&mut cursor, &mut inode)?,
            (FileKind::Regular, true) => self.read_long_file(&mut cursor, &mut inode)?,
            (FileKind::Symlink, _) => self.read_link(&mut cursor, &mut inode, is_long)?,
            _ => read_node(&mut cursor, &mut inode, is_long)?,
        }
        Ok(inode)
    }

    fn listing(&self, block: u32, offset: u16, size: u32, parent: u32) -> Result<Listing> {
        let start = self.place(self.sb.dir_table, u64::from(block) << 16 | u64::from(offset))?;
        // An empty directory has a length of three.
        let len = u64::from(size.saturating_sub(3));
        Ok(Listing { start, len, index: None, parent })
    }

    fn read_dir(&self, cursor: &mut Cursor<'_>, inode: &mut Stored) -> Result<()> {
        let bytes = cursor.take::<16>()?;
        inode.nlink = u32_at(&bytes, 4);
        let size = u16_at(&bytes, 8).into();
        inode.size = u64::from(size);
        let listing =
            self.listing(u32_at(&bytes, 0), u16_at(&bytes, 10), size, u32_at(&bytes, 12))?;
        inode.contents = Contents::Directory(listing);
        Ok(())
    }

    fn read_long_dir(&self, cursor: &mut Cursor<'_>, inode: &mut Stored) -> Result<()> {
        let bytes = cursor.take::<24>()?;
        inode.nlink = u32_at(&bytes, 0);
        let size = u32_at(&bytes, 4);
        inode.size = u64::from(size);
        let listing =
            self.listing(u32_at(&bytes, 8), u16_at(&bytes, 18), size, u32_at(&bytes, 12))?;
        let count = u32::from(u16_at(&bytes, 16));
        let index = (count > 0).then(|| (cursor.at(), count));
        inode.contents = Contents::Directory(Listing { index, ..listing });
        inode.xattr = attributes(u32_at(&bytes, 20));
        Ok(())
    }

    fn read_file(&self, cursor: &mut Cursor<'_>, inode: &mut Stored) -> Result<()> {
        let bytes = cursor.take::<16>()?;
        inode.size = u64::from(u32_at(&bytes, 12));
        inode.contents = Contents::File(Blocks {
            start: u64::from(u32_at(&bytes, 0)),
            sizes: cursor.at(),
            fragment: fragment(u32_at(&bytes, 4), u32_at(&bytes, 8)),
        });
        Ok(())
    }

    fn read_long_file(&self, cursor: &mut Cursor<'_>, inode: &mut Stored) -> Result<()> {
        let bytes = cursor.take::<40>()?;
        inode.size = u64_at(&bytes, 8);
        if inode.size > i64::MAX as u64 {
            return Err(self.corrupt("a file is too long"));
        }
        inode.sparse = u64_at(&bytes, 16).min(inode.size);
        inode.nlink = u32_at(&bytes, 24);
        inode.contents = Contents::File(Blocks {
            start: u64_at(&bytes, 0),
            sizes: cursor.at(),
            fragment: fragment(u32_at(&bytes, 28), u32_at(&bytes, 32)),
        });
        inode.xattr = attributes(u32_at(&bytes, 36));
        Ok(())
    }

    fn read_link(&self, cursor: &mut Cursor<'_>, inode: &mut Stored, is_long: bool) -> Result<()> {
        let bytes = cursor.take::<8>()?;
        inode.nlink = u32_at(&bytes, 0);
        let len = u32_at(&bytes, 4);
        inode.size = u64::from(len);
        let text: Vec<u8> = cursor.bytes(len as usize, MAX_LINK)?;
        inode.contents = Contents::Link(text.into());
        if is_long {
            inode.xattr = attributes(u32_at(&cursor.take::<4>()?, 0));
        }
        Ok(())
    }
}

/// A device, a fifo or a socket.
fn read_node(cursor: &mut Cursor<'_>, inode: &mut Stored, is_long: bool) -> Result<()> {
    inode.nlink = u32_at(&cursor.take::<4>()?, 0);
    if inode.kind.is_device() {
        inode.rdev = DeviceNumber::decode(u32_at(&cursor.take::<4>()?, 0).into());
    }
    if is_long {
        inode.xattr = attributes(u32_at(&cursor.take::<4>()?, 0));
    }
    Ok(())
}

fn attributes(index: u32) -> Option<u32> {
    (index != NONE).then_some(index)
}

fn fragment(index: u32, offset: u32) -> Option<Fragment> {
    (index != NONE).then_some(Fragment { index, offset })
}
