//! What the VFS asks of inodes.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use vfs::{
    Context, FileKind, FileOps, Inode, InodeFlags, InodeOps, Link, NewInode, RenameEnd,
    RenameFlags, SetAttr, Time,
};

use crate::commit::{CREATE, ENTRY, INODE, XATTR};
use crate::file::{DirOps, RegularOps};
use crate::node::Node;
use crate::options::Flags;

/// Most links of a file.
const MAX_LINKS: u32 = 65000;

fn node(inode: &Inode) -> Result<&Node> {
    inode.private().ok_or(Errno::EXDEV)
}

fn stamp(dir: &Arc<Inode>) -> Result<()> {
    dir.touch(Time::now());
    dir.bump_version();
    node(dir)?.changed();
    Ok(())
}

/// A subdirectory came: the parent's link count goes up, or says "many".
fn add_dir_link(dir: &Inode) {
    match dir.nlink() {
        1 => {}
        n if n + 1 >= MAX_LINKS => dir.set_nlink(1),
        _ => dir.add_link(),
    }
}

fn drop_dir_link(dir: &Inode) {
    if dir.nlink() > 2 {
        dir.drop_link();
    }
}

/// Lets two names change places. In an operation.
fn exchange(
    old: &RenameEnd<'_>,
    moved: &Arc<Inode>,
    new: &RenameEnd<'_>,
    other: &Arc<Inode>,
) -> Result<()> {
    let (from, to) = (node(old.dir)?, node(new.dir)?);
    let across = from.ino != to.ino;
    to.replace_entry(new.dir, new.name, number(moved), moved.kind)?;
    from.replace_entry(old.dir, old.name, number(other), other.kind)?;
    if across && moved.is_dir() {
        node(moved)?.replace_entry(moved, b"..", to.ino, FileKind::Directory)?;
    }
    if across && other.is_dir() {
        node(other)?.replace_entry(other, b"..", from.ino, FileKind::Directory)?;
    }
    if across && moved.is_dir() != other.is_dir() {
        let (gains, loses) = if moved.is_dir() { (new.dir, old.dir) } else { (old.dir, new.dir) };
        add_dir_link(gains);
        drop_dir_link(loses);
    }
    for inode in [moved, other] {
        inode.set_ctime(Time::now());
        node(inode)?.changed();
    }
    stamp(old.dir)?;
    stamp(new.dir)
}

/// Moves a name; what it replaces, if it is a directory, is empty. In an operation.
fn move_entry(
    old: &RenameEnd<'_>,
    moved: &Arc<Inode>,
    new: &RenameEnd<'_>,
    replaced: Option<&Arc<Inode>>,
    flags: RenameFlags,
) -> Result<()> {
    let (from, to) = (node(old.dir)?, node(new.dir)?);
    let across = from.ino != to.ino;
    // Made first: it is the part that can still be undone.
    let whiteout = match flags.contains(RenameFlags::WHITEOUT) {
        true => Some(Node::create(&from.fs, from, &NewInode::whiteout(moved))?),
        false => None,
    };
    if let Some(victim) = replaced {
        to.replace_entry(new.dir, new.name, number(moved), moved.kind)?;
        Node::unlinked(victim)?;
        if victim.is_dir() {
            drop_dir_link(new.dir);
        }
    } else if let Err(error) = to.add_entry(new.dir, new.name, number(moved), moved.kind) {
        if let Some(inode) = whiteout {
            inode.set_nlink(0);
            node(&inode)?.discard(&inode)?;
        }
        return Err(error);
    }
    match whiteout {
        Some(inode) => from.replace_entry(old.dir, old.name, number(&inode), inode.kind)?,
        None => from.remove_entry(old.dir, old.name)?,
    }
    if moved.is_dir() && across {
        node(moved)?.replace_entry(moved, b"..", to.ino, FileKind::Directory)?;
        drop_dir_link(old.dir);
        add_dir_link(new.dir);
    }
    moved.set_ctime(Time::now());
    node(moved)?.changed();
    stamp(old.dir)?;
    stamp(new.dir)
}

fn number(inode: &Inode) -> u32 {
    inode.ino as u32
}

impl Node {
    fn look_up(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let Some(ino) = self.find_entry(dir, name)? else { return Ok(None) };
        let inode = Node::load(&self.fs, ino)?;
        if inode.nlink() == 0 {
            log::error!("ext4: directory inode {} names deleted inode {ino}", self.ino);
            return Err(Errno::EUCLEAN);
        }
        Ok(Some(inode))
    }

    /// Makes an inode with a name. In an operation.
    fn make(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let inode = Node::create(&self.fs, self, new)?;
        let made = || -> Result<()> {
            if new.kind == FileKind::Directory {
                node(&inode)?.init_dir(&inode, self.ino)?;
            }
            self.add_entry(dir, name, inode.ino as u32, new.kind)
        };
        if let Err(error) = made() {
            inode.set_nlink(0);
            node(&inode)?.discard(&inode)?;
            return Err(error);
        }
        if new.kind == FileKind::Directory {
            add_dir_link(dir);
        }
        stamp(dir)?;
        Ok(inode)
    }

    fn unlinked(victim: &Arc<Inode>) -> Result<()> {
        if victim.is_dir() {
            victim.set_nlink(0)
        } else {
            victim.drop_link()
        }
        victim.set_ctime(Time::now());
        let node = node(victim)?;
        if victim.nlink() == 0 {
            node.fs.add_orphan(node.ino);
        }
        node.changed();
        Ok(())
    }
}

impl InodeOps for Node {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        self.fs.judge(self.look_up(dir, name))
    }

    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        self.fs.transact(CREATE + ENTRY, |_| self.make(dir, name, new))
    }

    fn link(&self, dir: &Arc<Inode>, name: &[u8], target: &Arc<Inode>) -> Result<()> {
        if target.nlink() >= MAX_LINKS {
            return Err(Errno::EMLINK);
        }
        self.fs.transact(ENTRY + INODE, |_| {
            self.add_entry(dir, name, target.ino as u32, target.kind)?;
            target.add_link();
            self.fs.remove_orphan(target.ino as u32);
            target.set_ctime(Time::now());
            node(target)?.changed();
            stamp(dir)
        })
    }

    fn unlink(&self, dir: &Arc<Inode>, name: &[u8], victim: &Arc<Inode>) -> Result<()> {
        let _handle = self.fs.begin(ENTRY + INODE)?;
        self.remove_entry(dir, name)?;
        Node::unlinked(victim)?;
        stamp(dir)
    }

    fn rmdir(&self, dir: &Arc<Inode>, name: &[u8], victim: &Arc<Inode>) -> Result<()> {
        if !node(victim)?.is_empty_dir(victim)? {
            return Err(Errno::ENOTEMPTY);
        }
        let _handle = self.fs.begin(ENTRY + INODE)?;
        self.remove_entry(dir, name)?;
        Node::unlinked(victim)?;
        drop_dir_link(dir);
        stamp(dir)
    }

    fn rename(
        &self,
        old: RenameEnd<'_>,
        moved: &Arc<Inode>,
        new: RenameEnd<'_>,
        replaced: Option<&Arc<Inode>>,
        flags: RenameFlags,
    ) -> Result<()> {
        if flags.contains(RenameFlags::EXCHANGE) {
            let other = replaced.ok_or(Errno::ENOENT)?;
            let _handle = self.fs.begin(2 * ENTRY)?;
            return exchange(&old, moved, &new, other);
        }
        if let Some(victim) = replaced
            && victim.is_dir()
            && !node(victim)?.is_empty_dir(victim)?
        {
            return Err(Errno::ENOTEMPTY);
        }
        if replaced.is_some()
            && self.fs.has(Flags::AUTO_DA_ALLOC)
            && let Some(mapping) = moved.mapping()
        {
            // The new contents are to be there when the old ones are not any more.
            mapping.start_writeback(0, i64::MAX as u64);
        }
        self.fs.transact(2 * ENTRY + CREATE, |_| move_entry(&old, moved, &new, replaced, flags))
    }

    fn tmpfile(&self, _dir: &Arc<Inode>, new: &NewInode<'_>) -> Result<Arc<Inode>> {
        self.fs.transact(CREATE, |_| {
            let inode = Node::create(&self.fs, self, new)?;
            inode.set_nlink(0);
            self.fs.add_orphan(inode.ino as u32);
            Ok(inode)
        })
    }

    fn follow(&self, inode: &Arc<Inode>, _ctx: &Context<'_>) -> Result<Link> {
        if let Some(text) = self.link.get() {
            return Ok(Link::Text(text.clone()));
        }
        let len = inode.size() as usize;
        let inline = self.state.lock().inline;
        let text: Option<Arc<[u8]>> = match inline {
            Some(text) => text.get(..len).map(Arc::from),
            None => {
                let buffer = self.block(0)?.ok_or(Errno::EUCLEAN)?;
                buffer.read(|bytes| bytes.get(..len).map(Arc::from))
            }
        };
        let text = text.ok_or(Errno::EUCLEAN)?;
        Ok(Link::Text(self.link.call_once(|| text).clone()))
    }

    fn link_text(&self) -> Option<Arc<[u8]>> {
        self.link.get().cloned()
    }

    fn setattr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        if let Some(size) = change.size {
            let mapping = inode.mapping().ok_or(Errno::EINVAL)?;
            let shrinks = size < mapping.size();
            self.wait_direct();
            if size == 0 && shrinks && self.fs.has(Flags::AUTO_DA_ALLOC) {
                self.flushes_at_close.store(true, Ordering::Relaxed);
            }
            mapping.truncate(size)?;
            if shrinks {
                self.log_end(mapping, size);
                self.shorten(inode)?;
            }
        }
        let _handle = self.fs.begin(INODE)?;
        inode.apply(change);
        self.changed();
        Ok(())
    }

    fn dirty(&self, _inode: &Inode) {
        // Where nothing may be written, nothing is.
        if let Ok(_handle) = self.fs.begin(INODE) {
            self.note_change();
        }
    }

    fn get_xattr(&self, _inode: &Arc<Inode>, name: &[u8], value: &mut Vec<u8>) -> Result<()> {
        self.read_xattr(name, value)
    }

    fn set_xattr(&self, inode: &Arc<Inode>, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.fs.transact(XATTR, |_| self.write_xattr(name, Some(value), flags))?;
        inode.clear_flags(InodeFlags::NOSEC);
        Ok(())
    }

    fn remove_xattr(&self, _inode: &Arc<Inode>, name: &[u8]) -> Result<()> {
        self.fs.transact(XATTR, |_| self.write_xattr(name, None, 0))
    }

    fn list_xattr(&self, _inode: &Arc<Inode>, names: &mut Vec<u8>) -> Result<()> {
        self.xattr_names(names)
    }

    fn open(
        &self,
        inode: &Arc<Inode>,
        _flags: u32,
        _ctx: &Context<'_>,
    ) -> Result<Arc<dyn FileOps>> {
        match inode.kind {
            FileKind::Directory => Ok(DirOps::shared()),
            FileKind::Regular => Ok(RegularOps::shared()),
            _ => Err(Errno::ENXIO),
        }
    }

    fn file_handle(&self, inode: &Arc<Inode>) -> Option<(i32, Vec<u8>)> {
        let words = [self.ino, inode.generation].map(u32::to_le_bytes);
        Some((crate::fs::HANDLE, words.concat()))
    }

    fn evict(&self, inode: &Arc<Inode>) {
        if let Err(error) = self.fs.delete_unused(self, inode) {
            log::error!("ext4: cannot free inode {}: {error}", self.ino);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
