//! Who may do what: permission bits, capabilities, sticky directories.

use core::sync::atomic::{AtomicU32, Ordering};

use abi::stat::*;
use abi::{Errno, Result};

use crate::cred::{Cap, Creds};
use crate::dev::{self, DeviceAccess};
use crate::inode::Inode;
use crate::types::*;

/// `/proc/sys/fs/protected_symlinks`.
pub static PROTECTED_SYMLINKS: AtomicU32 = AtomicU32::new(0);
/// `/proc/sys/fs/protected_hardlinks`.
pub static PROTECTED_HARDLINKS: AtomicU32 = AtomicU32::new(0);
/// `/proc/sys/fs/protected_fifos`.
pub static PROTECTED_FIFOS: AtomicU32 = AtomicU32::new(0);
/// `/proc/sys/fs/protected_regular`.
pub static PROTECTED_REGULAR: AtomicU32 = AtomicU32::new(0);

/// Whether `cap` counts towards this inode: in the initial user namespace always, in another one
/// if the inode's owners are mapped there.
pub fn capable_towards(inode: &Inode, creds: &Creds, cap: Cap) -> bool {
    creds.effective.has(cap)
        && (creds.user_ns.is_initial()
            || (creds.user_ns.uid_in(inode.uid()) != 65534
                && creds.user_ns.gid_in(inode.gid()) != 65534))
}

/// The check of permission bits and capabilities that most file systems use.
pub fn generic_permission(inode: &Inode, access: Access, creds: &Creds) -> Result<()> {
    let wanted = (access & (Access::READ | Access::WRITE | Access::EXEC)).bits();
    let mode = inode.mode();
    let granted = if creds.fsuid == inode.uid() {
        mode >> 6
    } else if mode & 0o070 != (mode & 0o007) << 3 && creds.in_group(inode.gid()) {
        mode >> 3
    } else {
        mode
    };
    if wanted & !granted & 7 == 0 { Ok(()) } else { override_denial(inode, wanted, creds) }
}

/// Capabilities that help against permission bits.
#[cold]
pub fn override_denial(inode: &Inode, wanted: u32, creds: &Creds) -> Result<()> {
    let write = Access::WRITE.bits();
    let exec = Access::EXEC.bits();
    if inode.is_dir() {
        if wanted & write == 0 && capable_towards(inode, creds, Cap::DAC_READ_SEARCH) {
            return Ok(());
        }
        if capable_towards(inode, creds, Cap::DAC_OVERRIDE) {
            return Ok(());
        }
        return Err(Errno::EACCES);
    }
    if wanted == Access::READ.bits() && capable_towards(inode, creds, Cap::DAC_READ_SEARCH) {
        return Ok(());
    }
    // Nobody executes what has no x bit at all.
    if (wanted & exec == 0 || inode.mode() & 0o111 != 0)
        && capable_towards(inode, creds, Cap::DAC_OVERRIDE)
    {
        return Ok(());
    }
    Err(Errno::EACCES)
}

/// Whether `creds` may access the inode so. Mounts are checked elsewhere.
#[inline]
pub fn permission(inode: &Inode, access: Access, creds: &Creds) -> Result<()> {
    if access.contains(Access::WRITE) {
        check_writable(inode)?;
    }
    if inode.has(InodeFlags::OWN_PERMISSION | InodeFlags::ACL | InodeFlags::DEVICE) {
        return special_permission(inode, access, creds);
    }
    generic_permission(inode, access, creds)
}

#[cold]
fn special_permission(inode: &Inode, access: Access, creds: &Creds) -> Result<()> {
    if inode.has(InodeFlags::OWN_PERMISSION) {
        inode.ops().permission(inode, access, creds)?;
    } else if inode.has(InodeFlags::ACL) {
        crate::acl::permission(inode, access, creds)?;
    } else {
        generic_permission(inode, access, creds)?;
    }
    if inode.has(InodeFlags::DEVICE) {
        return dev::check_access(inode.kind, inode.rdev, device_access(access));
    }
    Ok(())
}

/// What the rules for devices are asked of an access. Who only wants to know that the node is there, or to execute
/// it, uses no device.
fn device_access(access: Access) -> DeviceAccess {
    let mut wanted = DeviceAccess::empty();
    wanted.set(DeviceAccess::READ, access.contains(Access::READ));
    wanted.set(DeviceAccess::WRITE, access.contains(Access::WRITE));
    wanted
}

fn check_writable(inode: &Inode) -> Result<()> {
    let stored = matches!(inode.kind, FileKind::Regular | FileKind::Directory | FileKind::Symlink);
    if stored && inode.sb().is_read_only() {
        return Err(Errno::EROFS);
    }
    if inode.has(InodeFlags::IMMUTABLE) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// The search permission a walk needs, without the checks that cannot matter.
#[inline]
pub(crate) fn may_search(inode: &Inode, creds: &Creds) -> Result<()> {
    if inode.has(InodeFlags::OWN_PERMISSION | InodeFlags::ACL) {
        return special_permission(inode, Access::EXEC, creds);
    }
    // Everyone may search: no need to look at identities.
    if inode.mode() & 0o111 == 0o111 {
        return Ok(());
    }
    generic_permission(inode, Access::EXEC, creds)
}

/// Whether `creds` is the owner or may act as such.
pub fn is_owner_or_capable(inode: &Inode, creds: &Creds) -> bool {
    creds.fsuid == inode.uid() || capable_towards(inode, creds, Cap::FOWNER)
}

/// Whether something may be made in `dir`.
pub fn may_create(dir: &Inode, creds: &Creds) -> Result<()> {
    if dir.has(InodeFlags::DEAD) {
        return Err(Errno::ENOENT);
    }
    permission(dir, Access::WRITE | Access::EXEC, creds)
}

/// In a sticky directory only the owners of entry or directory remove or rename.
fn sticky_denies(dir: &Inode, victim: &Inode, creds: &Creds) -> bool {
    dir.mode() & S_ISVTX != 0
        && creds.fsuid != victim.uid()
        && creds.fsuid != dir.uid()
        && !capable_towards(victim, creds, Cap::FOWNER)
}

/// What the victim of a removal must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// `rmdir`, or renaming a directory over it.
    Directory,
    /// `unlink`, or renaming something else over it.
    File,
    /// The source of a rename.
    Any,
}

/// Whether the entry `victim` of `dir` may be removed or replaced.
pub fn may_delete(dir: &Inode, victim: &Inode, kind: Victim, creds: &Creds) -> Result<()> {
    permission(dir, Access::WRITE | Access::EXEC, creds)?;
    if dir.has(InodeFlags::APPEND) {
        return Err(Errno::EPERM);
    }
    if sticky_denies(dir, victim, creds)
        || victim.has(InodeFlags::APPEND | InodeFlags::IMMUTABLE | InodeFlags::SWAPFILE)
    {
        return Err(Errno::EPERM);
    }
    match kind {
        Victim::Directory if !victim.is_dir() => return Err(Errno::ENOTDIR),
        Victim::File if victim.is_dir() => return Err(Errno::EISDIR),
        _ => {}
    }
    if dir.has(InodeFlags::DEAD) {
        return Err(Errno::ENOENT);
    }
    Ok(())
}

/// man 5 proc, protected_symlinks: a link in a sticky world-writable directory is followed by its
/// owner and by everyone if the directory's owner made it.
pub(crate) fn may_follow_link(dir: &Inode, link: &Inode, creds: &Creds) -> Result<()> {
    // Relaxed: a setting.
    if PROTECTED_SYMLINKS.load(Ordering::Relaxed) == 0
        || creds.fsuid == link.uid()
        || dir.mode() & (S_ISVTX | 0o002) != S_ISVTX | 0o002
        || dir.uid() == link.uid()
    {
        return Ok(());
    }
    Err(Errno::EACCES)
}

/// man 5 proc, protected_hardlinks.
pub(crate) fn may_link(inode: &Inode, creds: &Creds) -> Result<()> {
    if PROTECTED_HARDLINKS.load(Ordering::Relaxed) == 0 || is_owner_or_capable(inode, creds) {
        return Ok(());
    }
    let mode = inode.mode();
    let special = inode.kind != FileKind::Regular
        || mode & S_ISUID != 0
        || mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP;
    if special || permission(inode, Access::READ | Access::WRITE, creds).is_err() {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// man 5 proc, protected_fifos and protected_regular: `O_CREAT` in sticky directories does not
/// open what somebody else put there.
pub(crate) fn may_create_in_sticky(dir: &Inode, inode: &Inode, creds: &Creds) -> Result<()> {
    let setting = match inode.kind {
        FileKind::Fifo => PROTECTED_FIFOS.load(Ordering::Relaxed),
        FileKind::Regular => PROTECTED_REGULAR.load(Ordering::Relaxed),
        _ => 0,
    };
    let mode = dir.mode();
    if setting == 0 || mode & S_ISVTX == 0 || inode.uid() == dir.uid() || creds.fsuid == inode.uid()
    {
        return Ok(());
    }
    if mode & 0o002 != 0 || (mode & 0o020 != 0 && setting >= 2) {
        return Err(Errno::EACCES);
    }
    Ok(())
}
