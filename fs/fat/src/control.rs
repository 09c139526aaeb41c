//! Device control: attributes and the volume's number (`linux/msdos_fs.h`).

use alloc::sync::Arc;

use abi::{Errno, Result};
use arch::{VirtAddr, user};
use vfs::{Cap, Context, File, Inode, InodeFlags, Time, perm};

use crate::node::{Node, ROOT_INO};
use crate::record::attr;

const GET_ATTRIBUTES: u32 = 0x8004_7210;
const SET_ATTRIBUTES: u32 = 0x4004_7211;
const GET_VOLUME_ID: u32 = 0x8004_7213;

impl Node {
    /// Device control of files and directories; `ENOTTY` for what is unknown.
    pub(crate) fn ioctl(
        &self,
        file: &Arc<File>,
        ctx: &Context<'_>,
        cmd: u32,
        arg: usize,
    ) -> Result<usize> {
        let at = VirtAddr::new(arg as u64);
        match cmd {
            GET_ATTRIBUTES => {
                let value = u32::from(self.state.lock().attr);
                user::write_val(at, &value)?;
            }
            SET_ATTRIBUTES => {
                let wanted: u32 = user::read_val(at)?;
                let _writer = file.path.mount.want_write()?;
                let _held = file.inode().lock().write();
                self.set_attributes(file.inode(), ctx, wanted as u8)?;
            }
            GET_VOLUME_ID => user::write_val(at, &self.fs.geometry.volume_id)?,
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    fn set_attributes(&self, inode: &Inode, ctx: &Context<'_>, wanted: u8) -> Result<()> {
        const FIXED: u8 = attr::VOLUME | attr::DIRECTORY;
        let old = self.state.lock().attr;
        let new = wanted & !FIXED & attr::LONG_MASK | old & FIXED;
        if inode.ino == ROOT_INO && new != old {
            return Err(Errno::EINVAL);
        }
        if !perm::is_owner_or_capable(inode, ctx.creds) {
            return Err(Errno::EPERM);
        }
        let keeps_system = self.fs.options.sys_immutable;
        if keeps_system && (new ^ old) & attr::SYSTEM != 0 {
            ctx.creds.require(Cap::LINUX_IMMUTABLE)?;
        }
        self.state.lock().attr = new;
        inode.set_mode(self.mode_of(new));
        if keeps_system {
            match new & attr::SYSTEM {
                0 => inode.clear_flags(InodeFlags::IMMUTABLE),
                _ => inode.set_flags(InodeFlags::IMMUTABLE),
            }
        }
        inode.set_ctime(self.fs.zone.modified(Time::now()));
        self.mark_dirty();
        Ok(())
    }
}
