//! What the VFS asks of inodes.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use abi::{Errno, Result};
use vfs::{
    Context, Creds, FileKind, FileOps, Inode, InodeOps, NewInode, RenameEnd, RenameFlags, SetAttr,
};

use crate::file::{DirOps, RegularOps};
use crate::node::{Node, node};
use crate::record::attr;

/// Write permission for everybody.
const WRITE: u32 = 0o222;

impl Node {
    /// Whether owner and mode can be had; what of the mode the disk can say is left in `change`.
    /// `EPERM` if not.
    fn admit(&self, inode: &Inode, change: &mut SetAttr) -> Result<()> {
        let options = &self.fs.options;
        let is_other = |wanted: Option<u32>, is: u32| wanted.is_some_and(|id| id != is);
        if is_other(change.uid, options.uid)
            || is_other(change.gid, options.gid)
            || change.mode.is_some_and(|mode| mode & !0o777 != 0)
        {
            return Err(Errno::EPERM);
        }
        // A mode that the disk cannot say is not taken, and nothing is said of it.
        change.mode = change.mode.filter(|mode| self.can_say(inode, *mode));
        Ok(())
    }

    /// Whether a mode differs from the file's in the one bit that there is.
    fn can_say(&self, inode: &Inode, mode: u32) -> bool {
        let options = &self.fs.options;
        let mask = if self.is_dir { options.dmask } else { options.fmask };
        let perm = mode & !mask;
        let writable = WRITE & !mask;
        let is_same = perm & !WRITE == inode.mode() & 0o777 & !WRITE;
        let is_all = perm & WRITE == writable;
        let is_none = perm & WRITE == 0 && (!self.is_dir || options.rodir);
        is_same && (is_all || is_none)
    }

    fn apply(&self, inode: &Inode, change: &SetAttr) {
        if let Some(mode) = change.mode {
            let mut state = self.state.lock();
            state.attr &= !attr::READ_ONLY;
            if mode & WRITE == 0 {
                state.attr |= attr::READ_ONLY;
            }
            inode.set_mode(self.mode_of(state.attr));
            drop(state);
            self.mark_dirty();
        }
        if let Some(atime) = change.atime {
            inode.set_atime(atime);
        }
        match (change.mtime, change.size) {
            (Some(mtime), _) => inode.set_mtime(mtime),
            (None, Some(_)) => inode.set_mtime(change.now),
            (None, None) => {}
        }
        self.settle_times(inode);
    }

    /// Changes the length: there are no holes, so what is new is written.
    fn resize(&self, inode: &Inode, size: u64) -> Result<()> {
        let mapping = inode.mapping().ok_or(Errno::EINVAL)?;
        let old = mapping.size();
        if size > old {
            let filled = self.fill(mapping, size);
            self.mark_dirty();
            return filled.and(self.trim(inode));
        } else if size < old {
            mapping.truncate(size)?;
            self.cut(size)?;
        }
        self.mark_dirty();
        Ok(())
    }
}

impl InodeOps for Node {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        self.look_up(dir, name)
    }

    fn canonical_name(&self, _dir: &Inode, name: &[u8]) -> Option<Vec<u8>> {
        let listing = self.listing.lock();
        let shown = listing.spelling(name, &self.fs.rules)?;
        (shown != name).then(|| shown.to_vec())
    }

    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        self.make(dir, name, new)
    }

    fn unlink(&self, dir: &Arc<Inode>, name: &[u8], victim: &Arc<Inode>) -> Result<()> {
        self.remove(dir, name, victim)
    }

    fn rmdir(&self, dir: &Arc<Inode>, name: &[u8], victim: &Arc<Inode>) -> Result<()> {
        self.remove(dir, name, victim)
    }

    fn rename(
        &self,
        old: RenameEnd<'_>,
        moved: &Arc<Inode>,
        new: RenameEnd<'_>,
        replaced: Option<&Arc<Inode>>,
        flags: RenameFlags,
    ) -> Result<()> {
        if flags.intersects(RenameFlags::EXCHANGE | RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        self.move_name(&old, moved, &new, replaced)
    }

    fn setattr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        let mut change = *change;
        if let Err(error) = self.admit(inode, &mut change) {
            // mount(8), quiet: chown and chmod fail without an error.
            return if self.fs.options.quiet { Ok(()) } else { Err(error) };
        }
        if let Some(size) = change.size {
            self.resize(inode, size)?;
        }
        self.apply(inode, &change);
        Ok(())
    }

    fn may_set_times(&self, inode: &Inode, creds: &Creds) -> bool {
        let allowed = self.fs.options.allow_utime;
        let needed = if creds.in_group(inode.gid()) { 0o020 } else { 0o002 };
        creds.fsuid != inode.uid() && allowed & needed != 0
    }

    fn dirty(&self, inode: &Inode) {
        self.settle_times(inode);
    }

    fn open(
        &self,
        inode: &Arc<Inode>,
        _flags: u32,
        _ctx: &Context<'_>,
    ) -> Result<Arc<dyn FileOps>> {
        match inode.kind {
            FileKind::Directory => Ok(DirOps::shared()),
            _ => Ok(RegularOps::shared()),
        }
    }

    fn evict(&self, inode: &Arc<Inode>) {
        if let Err(error) = self.delete(inode) {
            let name = self.fs.device.name();
            log::error!("FAT-fs ({name}): cannot free a removed file: {error}");
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// FAT's part of the inode of an open file.
pub(crate) fn node_of(file: &vfs::File) -> Result<&Node> {
    node(file.inode()).map_err(|_| Errno::EIO)
}
