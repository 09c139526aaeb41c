//! Flags, versions and projects of files (`ioctl_iflags(2)`, `FS_IOC_FSGETXATTR`).

use alloc::sync::Arc;

use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;
use vfs::{Cap, Context, File, FileKind, Inode, InodeFlags, Time, perm};

use crate::bytes::{put32, u16_at};
#[cfg(test)]
use crate::commit::INODE;
use crate::layout::ro_compat;
use crate::node::{Node, flags, sign, vfs_flags};

const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const GETVERSION: u32 = 0x8008_7601;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;

/// Flags a program sees, and those it can change.
const VISIBLE: u32 = 0x705b_dfff;
const MODIFIABLE: u32 = 0x604b_c0ff;
/// What makes sense for files that are neither regular nor directories.
const OTHER: u32 = flags::NOATIME | flags::NODUMP;
/// What only directories have.
const DIRECTORY: u32 = flags::DIRSYNC | flags::TOPDIR;

/// `FS_XFLAG_*` and the flags they stand for.
const XFLAGS: [(u32, u32); 6] = [
    (0x8, flags::IMMUTABLE),
    (0x10, flags::APPEND),
    (0x20, flags::SYNC),
    (0x40, flags::NOATIME),
    (0x80, flags::NODUMP),
    (0x200, flags::PROJECT_INHERIT),
];

fn translate(value: u32, forward: bool) -> u32 {
    XFLAGS.iter().fold(0, |sum, &(x, flag)| {
        let (from, to) = if forward { (x, flag) } else { (flag, x) };
        if value & from != 0 { sum | to } else { sum }
    })
}

impl Node {
    /// Device control of files and directories.
    pub(crate) fn ioctl(
        &self,
        file: &Arc<File>,
        ctx: &Context<'_>,
        cmd: u32,
        arg: usize,
    ) -> Result<usize> {
        let at = VirtAddr::new(arg as u64);
        let inode = file.inode();
        match cmd {
            GETFLAGS => {
                let value = self.state.lock().flags & VISIBLE;
                user::write_val(at, &value)?;
            }
            SETFLAGS => {
                let wanted: u32 = user::read_val(at)?;
                self.change(file, ctx, |old| {
                    if wanted & !VISIBLE != 0 {
                        return Err(Errno::EOPNOTSUPP);
                    }
                    Ok((old & !MODIFIABLE | wanted & MODIFIABLE, None))
                })?;
            }
            GETVERSION => user::write_val(at, &inode.generation)?,
            FSGETXATTR => {
                let value = self.state.lock().flags;
                let words = [translate(value, false), 0, 0, self.project()?, 0, 0, 0];
                user::write_val(at, &words)?;
            }
            FSSETXATTR => {
                let words: [u32; 7] = user::read_val(at)?;
                let known = XFLAGS.iter().fold(0, |sum, (x, _)| sum | x);
                if words[0] & !known != 0 {
                    return Err(Errno::EOPNOTSUPP);
                }
                let mask = XFLAGS.iter().fold(0, |sum, (_, flag)| sum | flag);
                let wanted = translate(words[0], true);
                self.change(file, ctx, |old| Ok((old & !mask | wanted, Some(words[3]))))?;
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    /// Changes flags (and project), if the caller may: `decide` makes the new flags of the old.
    fn change(
        &self,
        file: &File,
        ctx: &Context<'_>,
        decide: impl FnOnce(u32) -> Result<(u32, Option<u32>)>,
    ) -> Result<()> {
        let inode = file.inode();
        if !perm::is_owner_or_capable(inode, ctx.creds) {
            return Err(Errno::EPERM);
        }
        let _writer = file.path.mount.want_write()?;
        let _held = inode.lock().write();
        let old = self.state.lock().flags;
        let (new, project) = decide(old)?;
        let changed = old ^ new;
        let fits = match inode.kind {
            FileKind::Directory => !0,
            FileKind::Regular => !DIRECTORY,
            _ => OTHER,
        };
        if changed & new & MODIFIABLE & !fits != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if changed & (flags::IMMUTABLE | flags::APPEND) != 0 {
            ctx.creds.require(Cap::LINUX_IMMUTABLE)?;
        }
        if changed & flags::JOURNAL_DATA != 0 {
            ctx.creds.require(Cap::SYS_RESOURCE)?;
        }
        if changed & flags::EXTENTS != 0 {
            self.check_migration(inode, new)?;
        }
        if changed & flags::JOURNAL_DATA != 0 && inode.kind == FileKind::Regular {
            self.settle_data(inode)?;
        }
        let _handle = self.fs.begin(self.map_credits())?;
        if let Some(project) = project
            && project != self.project()?
        {
            self.set_project(project)?;
        }
        let mut state = self.state.lock();
        state.flags = new;
        if changed & flags::EXTENTS != 0
            && let Err(error) = self.map_changed(&mut state)
        {
            // The map stays as it is; otherwise it is stored whole, in the other form.
            state.flags = old;
            self.map_changed(&mut state)?;
            return Err(error);
        }
        drop(state);
        self.set_logging(inode.kind, new);
        show(inode, new);
        inode.set_ctime(Time::now());
        self.changed();
        Ok(())
    }

    /// Sets or clears the flag alone. The inode is locked.
    #[cfg(test)]
    pub(crate) fn change_logging(&self, inode: &Inode, on: bool) -> Result<()> {
        self.settle_data(inode)?;
        let _handle = self.fs.begin(INODE)?;
        let mut state = self.state.lock();
        state.flags &= !flags::JOURNAL_DATA;
        state.flags |= if on { flags::JOURNAL_DATA } else { 0 };
        let flags = state.flags;
        drop(state);
        self.set_logging(inode.kind, flags);
        self.changed();
        Ok(())
    }

    /// All of the file's data is in its place when this returns, whichever way it went. The inode is
    /// locked.
    fn settle_data(&self, inode: &Inode) -> Result<()> {
        let mapping = inode.mapping().ok_or(Errno::EIO)?;
        self.wait_direct();
        mapping.sync()?;
        self.fs.empty_log()
    }

    /// Whether the file's map can take the form that `new` asks for.
    fn check_migration(&self, inode: &Inode, new: u32) -> Result<()> {
        let fs = &self.fs;
        if !matches!(inode.kind, FileKind::Regular | FileKind::Directory) || fs.map_flag() == 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let state = self.state.lock();
        let fits = new & flags::EXTENTS != 0
            || state.map.extents.iter().all(|e| {
                let end = e.physical + u64::from(e.len);
                !e.unwritten
                    && end <= u64::from(u32::MAX)
                    && u64::from(e.end()) <= crate::indirect::capacity(&fs.sb)
            });
        if fits { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
    }

    fn set_project(&self, project: u32) -> Result<()> {
        let fs = &self.fs;
        if fs.sb.ro_compat & ro_compat::PROJECT == 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (block, at) = fs.alloc.inode_place(&fs.sb, self.ino)?;
        let buffer = fs.metadata_block(block)?;
        fs.buffers.modify(&buffer, |bytes| {
            let raw = bytes.get_mut(at..at + fs.sb.inode_size).ok_or(Errno::EUCLEAN)?;
            if raw.len() == 128 || u16_at(raw, 0x80) < 32 {
                return Err(Errno::EOVERFLOW);
            }
            put32(raw, 0x9c, project);
            sign(fs, raw, self.seed);
            Ok(())
        })
    }
}

/// Tells the VFS of the flags it obeys.
fn show(inode: &Inode, raw: u32) {
    let all = vfs_flags(!0);
    let set = vfs_flags(raw);
    inode.set_flags(set);
    inode.clear_flags(InodeFlags::from_bits_retain(all.bits() & !set.bits()));
}
