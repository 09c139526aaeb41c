//! Memory files: `memfd_create(2)`, its seals, and shared-memory objects of the kernel.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::fcntl::*;
use abi::{Errno, Result};
use arch::lock::Once;
use vfs::{
    Context, Dentry, DeviceNumber, File, FileInit, FileKind, FileMode, Mount, NewInode, Path, Time,
};

use crate::file::TmpFile;
use crate::inode::{self, TmpInode};
use crate::options::Options;
use crate::superblock;

/// The mount of memory files; nothing leads to it.
fn internal() -> Result<&'static Arc<Mount>> {
    static MOUNT: Once<Arc<Mount>> = Once::new();
    if let Some(mount) = MOUNT.get() {
        return Ok(mount);
    }
    let unlimited = Options { pages: Some(0), inodes: Some(0), ..Options::default() };
    let sb = superblock::create("tmpfs", unlimited, (0, 0))?;
    let mount = Mount::internal(&sb)?;
    Ok(MOUNT.call_once(|| mount))
}

/// A file without a name, shown as `shown` with ` (deleted)` behind it.
fn unnamed(ctx: &Context<'_>, shown: &[u8], mode: u32) -> Result<Arc<File>> {
    vfs::filecount::check(ctx.creds)?;
    let mount = internal()?;
    let new = NewInode {
        kind: FileKind::Regular,
        mode,
        uid: ctx.creds.fsuid,
        gid: ctx.creds.fsgid,
        rdev: DeviceNumber::NONE,
        target: b"",
        now: Time::now(),
    };
    let inode = inode::make(&mount.sb, &new)?;
    inode.set_nlink(0);
    let dentry = Dentry::new_disconnected(inode.clone(), shown);
    Ok(File::new(FileInit {
        ops: TmpFile::shared(),
        inode,
        path: Path { mount: mount.clone(), dentry },
        creds: ctx.creds.clone(),
        flags: O_RDWR | O_LARGEFILE,
        mode: FileMode::SEEK | FileMode::POSITIONAL | FileMode::LOCK_POSITION | FileMode::NOWAIT,
    }))
}

/// Whether `flags` are ones that [`memfd_create`] takes: `EINVAL` for unknown ones, `ENOSYS` for
/// huge pages.
pub fn check_memfd_flags(flags: u32) -> Result<()> {
    if flags & !(MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MFD_HUGETLB != 0 { Err(Errno::ENOSYS) } else { Ok(()) }
}

/// `memfd_create(2)`; `MFD_CLOEXEC` is the caller's business.
pub fn memfd_create(ctx: &Context<'_>, name: &[u8], flags: u32) -> Result<Arc<File>> {
    check_memfd_flags(flags)?;
    if name.len() > 249 {
        return Err(Errno::EINVAL);
    }
    let mut shown = b"/memfd:".to_vec();
    shown.extend_from_slice(name);
    shown.extend_from_slice(b" (deleted)");
    let file = unnamed(ctx, &shown, 0o777)?;
    if flags & MFD_ALLOW_SEALING != 0
        && let Some(tmp) = file.inode().private::<TmpInode>()
    {
        tmp.seals.store(0, Ordering::Relaxed);
    }
    Ok(file)
}

/// A shared-memory object of `size` bytes: SysV segments, shared anonymous maps.
pub fn shared_file(ctx: &Context<'_>, shown: &[u8], size: u64) -> Result<Arc<File>> {
    let file = unnamed(ctx, shown, 0o600)?;
    file.inode().set_size(size);
    Ok(file)
}

/// `fcntl(F_ADD_SEALS)`.
pub fn add_seals(file: &File, seals: u32) -> Result<()> {
    let all = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
    let tmp = file.inode().private::<TmpInode>().ok_or(Errno::EINVAL)?;
    if !file.can_write() {
        return Err(Errno::EPERM);
    }
    if seals & !all != 0 {
        return Err(Errno::EINVAL);
    }
    let _held = file.inode().lock().write();
    if tmp.sealed(F_SEAL_SEAL) {
        return Err(Errno::EPERM);
    }
    if seals & F_SEAL_WRITE != 0
        && !tmp.sealed(F_SEAL_WRITE)
        && tmp.writable_maps.load(Ordering::Acquire) != 0
    {
        return Err(Errno::EBUSY);
    }
    tmp.seals.fetch_or(seals, Ordering::Relaxed);
    Ok(())
}

/// `fcntl(F_GET_SEALS)`.
pub fn get_seals(file: &File) -> Result<u32> {
    let tmp = file.inode().private::<TmpInode>().ok_or(Errno::EINVAL)?;
    Ok(tmp.seals.load(Ordering::Relaxed))
}
