//! The inodes and mounts behind files that no directory knows.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Result;
use arch::lock::Once;
use vfs::{
    Context, Dentry, File, FileInit, FileMode, FileOps, FsStat, Inode, InodeFlags, InodeInit,
    InodeOps, Mount, Path, SuperBlock, SuperInit, SuperOps,
};

const PIPEFS_MAGIC: u64 = 0x5049_5045;
const ANON_INODE_MAGIC: u64 = 0x0904_1934;

struct Plain(u64);

impl SuperOps for Plain {
    fn statfs(&self, _sb: &SuperBlock) -> Result<FsStat> {
        Ok(FsStat { magic: self.0, block_size: 4096, name_max: 255, ..FsStat::default() })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct NoOps;

impl InodeOps for NoOps {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn no_ops() -> Arc<dyn InodeOps> {
    static OPS: Once<Arc<NoOps>> = Once::new();
    OPS.call_once(|| Arc::new(NoOps)).clone()
}

fn make(name: &'static str, magic: u64) -> Result<Arc<Mount>> {
    let sb = SuperBlock::new(SuperInit::pseudo(name, magic), Box::new(Plain(magic)));
    sb.set_root(Inode::new(&sb, &InodeInit::pseudo(1, 0o040555), no_ops(), None));
    Mount::internal(&sb)
}

fn once(
    cell: &'static Once<Arc<Mount>>,
    name: &'static str,
    magic: u64,
) -> Result<&'static Arc<Mount>> {
    if let Some(mount) = cell.get() {
        return Ok(mount);
    }
    let mount = make(name, magic)?;
    Ok(cell.call_once(|| mount))
}

static PIPEFS: Once<Arc<Mount>> = Once::new();
static ANON: Once<Arc<Mount>> = Once::new();

fn next_ino() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(2);
    // Relaxed: only uniqueness matters.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The inode and place of a new pipe.
pub(crate) fn pipe_place(ctx: &Context<'_>) -> Result<(Arc<Inode>, Path)> {
    let mount = once(&PIPEFS, "pipefs", PIPEFS_MAGIC)?;
    let ino = next_ino();
    let mut init = InodeInit::pseudo(ino, 0o010600);
    (init.uid, init.gid) = (ctx.creds.fsuid, ctx.creds.fsgid);
    let inode = Inode::new(&mount.sb, &init, no_ops(), None);
    let dentry = Dentry::new_disconnected(inode.clone(), format!("pipe:[{ino}]").as_bytes());
    Ok((inode, Path { mount: mount.clone(), dentry }))
}

/// A file that shares the one inode of `anon_inodefs`; `name` is shown as `anon_inode:name`.
pub fn anon_file(
    ctx: &Context<'_>,
    name: &str,
    ops: Arc<dyn FileOps>,
    flags: u32,
) -> Result<Arc<File>> {
    static INODE: Once<Arc<Inode>> = Once::new();
    vfs::filecount::check(ctx.creds)?;
    let mount = once(&ANON, "anon_inodefs", ANON_INODE_MAGIC)?;
    let inode = INODE.call_once(|| {
        let mut init = InodeInit::pseudo(next_ino(), 0o600);
        init.flags |= InodeFlags::PRIVATE;
        Inode::new(&mount.sb, &init, no_ops(), None)
    });
    let shown = format!("anon_inode:{name}");
    let dentry = Dentry::new_disconnected(inode.clone(), shown.as_bytes());
    let path = Path { mount: mount.clone(), dentry };
    let creds = ctx.creds.clone();
    let mode = FileMode::QUIET;
    Ok(File::new(FileInit { ops, inode: inode.clone(), path, creds, flags, mode }))
}
