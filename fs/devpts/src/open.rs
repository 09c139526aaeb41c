//! Opening `ptmx` and slaves.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;

use abi::{Errno, Result};
use tty::pty::{self, PtyMaster, SLAVE_MAJOR};
use vfs::dev::{DeviceNode, DeviceOpen, Opened};
use vfs::{
    Context, DeviceNumber, File, FileInit, FileKind, FileMode, Inode, Path, SuperBlock, Walk,
};

use crate::instance::{Devpts, Instance, Slave};
use crate::options::MAX;

struct PtmxOpener;

impl DeviceOpen for PtmxOpener {
    fn open(
        &self,
        _: DeviceNumber,
        inode: &Arc<Inode>,
        _: u32,
        ctx: &Context<'_>,
    ) -> Result<Opened> {
        let sb = instance_of(inode, ctx)?;
        let instance = sb.private::<Instance>().ok_or(Errno::ENODEV)?.clone();
        let index = instance.take_index()?;
        let on_close = {
            let instance = instance.clone();
            Box::new(move |index| instance.remove(index))
        };
        let master = match pty::create(index, on_close) {
            Ok(master) => master,
            Err(error) => {
                instance.remove(index);
                return Err(error);
            }
        };
        instance.add(&sb, master.slave(), index, ctx);
        Ok(Opened { ops: Arc::new(master), mode: FileMode::empty() })
    }
}

/// The instance a `ptmx` node belongs to: the one it lies in, else the one on `/dev/pts`.
fn instance_of(inode: &Arc<Inode>, ctx: &Context<'_>) -> Result<Arc<SuperBlock>> {
    if inode.sb().private::<Instance>().is_some() {
        return Ok(inode.sb().clone());
    }
    let path = vfs::walk(ctx, ctx.root, b"/dev/pts", Walk::FOLLOW).map_err(|_| Errno::ENODEV)?;
    let inode = path.dentry.inode().ok_or(Errno::ENODEV)?;
    match inode.sb().private::<Instance>() {
        Some(_) => Ok(inode.sb().clone()),
        None => Err(Errno::ENODEV),
    }
}

struct SlaveOpener;

impl DeviceOpen for SlaveOpener {
    fn open(
        &self,
        _: DeviceNumber,
        inode: &Arc<Inode>,
        flags: u32,
        _: &Context<'_>,
    ) -> Result<Opened> {
        // A node made by mknod(2) elsewhere does not say which instance it means.
        let slave = inode.private::<Slave>().ok_or(Errno::EIO)?;
        let ops = tty::open(&slave.tty, flags, true)?;
        Ok(Opened { ops, mode: FileMode::empty() })
    }
}

/// `TIOCGPTPEER`: opens the slave of an open master, whatever lies at its path. The system-call
/// layer gives the file a descriptor.
///
/// # Errors
/// `ENOTTY` when `file` is no master, and those of an open.
pub fn open_peer(file: &File, flags: u32, ctx: &Context<'_>) -> Result<Arc<File>> {
    let master = file.private::<PtyMaster>().ok_or(Errno::ENOTTY)?;
    vfs::filecount::check(ctx.creds)?;
    let name = format!("/dev/pts/{}", master.index());
    let path: Path = vfs::walk(ctx, ctx.root, name.as_bytes(), Walk::FOLLOW)?;
    let inode = path.dentry.inode().ok_or(Errno::EIO)?;
    let ops = tty::open(master.slave(), flags, true)?;
    Ok(File::new(FileInit {
        ops,
        inode,
        path,
        creds: ctx.creds.clone(),
        flags,
        mode: FileMode::empty(),
    }))
}

/// Registers the file system, `/dev/ptmx` and the slaves' numbers.
///
/// # Errors
/// `EBUSY` when somebody else has the numbers.
pub fn init() -> Result<()> {
    static TYPE: Devpts = Devpts;
    vfs::register_file_system(&TYPE);
    let ptmx = DeviceNumber::new(5, 2);
    vfs::dev::register_char(ptmx, 1, "/dev/ptmx", Arc::new(PtmxOpener))?;
    vfs::dev::add_node(DeviceNode {
        name: "ptmx".into(),
        kind: FileKind::CharDevice,
        dev: ptmx,
        mode: 0o666,
        class: "tty",
        attributes: alloc::vec::Vec::new(),
    });
    let first = DeviceNumber::new(SLAVE_MAJOR, 0);
    vfs::dev::register_char(first, MAX, "pts", Arc::new(SlaveOpener))
}
