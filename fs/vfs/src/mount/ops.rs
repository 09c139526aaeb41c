//! `mount(2)`, `umount2(2)`, `pivot_root(2)` and new mount namespaces.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::mount::*;
use abi::{Errno, Result};

use super::propagate::{Copy, Depth};
use super::tree::{self, Tree};
use super::{MOUNT_FLAGS, Mount, MountNamespace, table};
use crate::context::{Context, FsPaths};
use crate::cred::{Cap, UserNamespace};
use crate::dentry::Dentry;
use crate::path::Path;
use crate::superblock::{FileSystemType, MountRequest, SuperBlock, file_system};
use crate::types::FileKind;

const SUPER_FLAGS: u64 = MS_RDONLY
    | MS_SYNCHRONOUS
    | MS_DIRSYNC
    | MS_MANDLOCK
    | MS_POSIXACL
    | MS_I_VERSION
    | MS_LAZYTIME
    | MS_SILENT;
pub(super) const ATIME_FLAGS: u64 = MS_NOATIME | MS_NODIRATIME | MS_RELATIME;
const PROPAGATION: u64 = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE;

/// Whether the caller may change its mount namespace; `EPERM` if not.
pub fn may_mount(ctx: &Context<'_>) -> Result<()> {
    if ctx.creds.ns_capable(&ctx.mounts.user_ns, Cap::SYS_ADMIN) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// Makes a file system of a type for someone who [`may_mount`]: in a user namespace only types that are
/// safe there, user_namespaces(7).
pub(super) fn make(fs: &dyn FileSystemType, request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
    if !fs.userns_mount() {
        request.ctx.creds.require(Cap::SYS_ADMIN)?;
    }
    let sb = fs.mount(request)?;
    if fs.userns_mount() {
        sb.set_owner(&request.ctx.creds.user_ns);
    }
    Ok(sb)
}

/// The per-mount flags that `mount(2)` flags mean: `relatime` unless told otherwise.
fn mount_flags(flags: u64) -> u64 {
    let mut result = flags & MOUNT_FLAGS;
    if flags & MS_NOATIME == 0 {
        result |= MS_RELATIME;
    }
    if flags & MS_STRICTATIME != 0 {
        result &= !(MS_RELATIME | MS_NOATIME);
    }
    if result & MS_NOATIME != 0 {
        result &= !MS_RELATIME;
    }
    result
}

/// The arguments of `mount(2)`; the source path of binds and moves is resolved by the caller.
#[derive(Debug)]
pub struct MountArgs<'a> {
    /// First argument.
    pub source: Option<&'a [u8]>,
    /// Where.
    pub target: Path,
    /// Type.
    pub fs_type: Option<&'a [u8]>,
    /// `MS_*`.
    pub flags: u64,
    /// Options.
    pub data: &'a [u8],
}

/// `mount(2)`. `resolve` walks a path (source of a bind or move), following links.
pub fn mount(
    ctx: &Context<'_>,
    args: MountArgs<'_>,
    resolve: impl FnOnce(&[u8]) -> Result<Path>,
) -> Result<()> {
    may_mount(ctx)?;
    let mut flags = args.flags;
    if flags & MS_MGC_MSK == MS_MGC_VAL {
        flags &= !MS_MGC_MSK;
    }
    if flags & MS_REMOUNT != 0 {
        remount(ctx, &args.target, flags, args.data)
    } else if flags & MS_BIND != 0 {
        let from = resolve(path_name(args.source)?)?;
        bind(ctx, &from, args.target, flags & MS_REC != 0)
    } else if flags & PROPAGATION != 0 {
        change_propagation(&args.target, flags)
    } else if flags & MS_MOVE != 0 {
        let from = resolve(path_name(args.source)?)?;
        move_mount(ctx, &from, args.target)
    } else {
        let name = args.fs_type.ok_or(Errno::EINVAL)?;
        new_mount(ctx, name, args.source.unwrap_or(b"none"), args.target, flags, args.data)
    }
}

/// The source of a bind or move: must be given.
fn path_name(source: Option<&[u8]>) -> Result<&[u8]> {
    source.filter(|name| !name.is_empty()).ok_or(Errno::EINVAL)
}

fn new_mount(
    ctx: &Context<'_>,
    fs_type: &[u8],
    source: &[u8],
    target: Path,
    flags: u64,
    data: &[u8],
) -> Result<()> {
    let fs = file_system(fs_type).ok_or(Errno::ENODEV)?;
    let request = MountRequest { source, flags: flags & SUPER_FLAGS, data, ctx };
    let sb = make(fs, &request)?;
    mount_super(ctx, &sb, source, target, flags)
}

/// Mounts a super block at `target`.
pub fn mount_super(
    ctx: &Context<'_>,
    sb: &Arc<SuperBlock>,
    source: &[u8],
    target: Path,
    flags: u64,
) -> Result<()> {
    let mount = Mount::new(sb, sb.root()?, source, mount_flags(flags));
    attach(ctx, &mount, target, |target| {
        // The same file system twice on the same place.
        let is_same = Arc::ptr_eq(&target.mount.sb, sb) && target.is_mount_root();
        if is_same { Err(Errno::EBUSY) } else { Ok(()) }
    })
}

/// Puts a mount that is nowhere yet on top of `target`, if `check` lets it.
fn attach(
    ctx: &Context<'_>,
    mount: &Arc<Mount>,
    target: Path,
    check: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let mut tree = tree::lock();
    let target = table::top(target);
    let result = (|| {
        tree.in_ns(&target.mount, ctx.mounts)?;
        check(&target)?;
        check_kinds(&mount.root, &target.dentry)?;
        tree.add(mount, 0);
        let done = tree.graft(target.mount.id, &target.dentry, mount.id);
        if done.is_err() {
            tree.discard(mount.id);
        }
        done
    })();
    drop(tree);
    if result.is_err() {
        mount.finish();
    }
    result
}

/// The file system of the files in `/proc/PID/ns`, which is mounted nowhere by itself.
const NAMESPACES: &str = "nsfs";

/// namespaces(7): a bind mount of such a file keeps the namespace alive, which is how `ip netns add` names one.
/// mount(2), `EINVAL`: a mount namespace that held itself would never end. Linux was seen to refuse the caller's own
/// and older ones and to take newer ones; numbers of namespaces grow.
fn bind_namespace(ctx: &Context<'_>, from: &Path, target: Path) -> Result<()> {
    let number = from.dentry.inode().ok_or(Errno::ENOENT)?.ino;
    let is_mounts = from.dentry.with_name(|name| name.starts_with(b"mnt:"));
    if is_mounts && number <= ctx.mounts.id {
        return Err(Errno::EINVAL);
    }
    let mount = Mount::new(&from.mount.sb, from.dentry.clone(), NAMESPACES.as_bytes(), 0);
    attach(ctx, &mount, target, |_| Ok(()))
}

fn kind(dentry: &Arc<Dentry>) -> Result<FileKind> {
    Ok(dentry.inode().ok_or(Errno::ENOENT)?.kind)
}

fn check_kinds(root: &Arc<Dentry>, point: &Arc<Dentry>) -> Result<()> {
    if point.is_deleted() {
        return Err(Errno::ENOENT);
    }
    let (root, point) = (kind(root)?, kind(point)?);
    if (root == FileKind::Directory) != (point == FileKind::Directory) {
        return Err(Errno::ENOTDIR);
    }
    Ok(())
}

/// `MS_BIND`: makes `from` appear at `target`, with everything below if `recursive`.
pub fn bind(ctx: &Context<'_>, from: &Path, target: Path, recursive: bool) -> Result<()> {
    if from.mount.sb.fs_type == NAMESPACES && !from.is_mount_root() {
        return bind_namespace(ctx, from, target);
    }
    let mut tree = tree::lock();
    let target = table::top(target);
    tree.in_ns(&target.mount, ctx.mounts)?;
    let node = tree.in_ns(&from.mount, ctx.mounts)?;
    if node.unbindable {
        return Err(Errno::EINVAL);
    }
    check_kinds(&from.dentry, &target.dentry)?;
    tree.check_revealing(from, recursive)?;
    let depth = if recursive { Depth::Bindable } else { Depth::One };
    let copy = tree.copy_tree(from.mount.id, &from.dentry, depth, Copy::Peer)?;
    let result = tree.graft(target.mount.id, &target.dentry, copy);
    let gone = if result.is_err() { tree.discard(copy) } else { Vec::new() };
    drop(tree);
    tree::finish(gone);
    result
}

/// `MS_MOVE`, `move_mount(2)`: `from` is the root of a mount, or of a detached tree, which becomes
/// part of the namespace.
pub fn move_mount(ctx: &Context<'_>, from: &Path, target: Path) -> Result<()> {
    let mut tree = tree::lock();
    let target = table::top(target);
    tree.in_ns(&target.mount, ctx.mounts)?;
    if !tree.is_detached_root(&from.mount) {
        let node = tree.in_ns(&from.mount, ctx.mounts)?;
        let parent = node.parent.ok_or(Errno::EINVAL)?;
        if node.locked || tree.node(parent)?.group != 0 {
            return Err(Errno::EINVAL);
        }
    }
    if !from.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    check_kinds(&from.dentry, &target.dentry).map_err(|error| match error {
        Errno::ENOTDIR => Errno::EINVAL,
        other => other,
    })?;
    let moved = tree.subtree(from.mount.id);
    let to_shared = tree.node(target.mount.id)?.group != 0;
    if to_shared && moved.iter().any(|id| tree.node(*id).is_ok_and(|n| n.unbindable)) {
        return Err(Errno::EINVAL);
    }
    if moved.contains(&target.mount.id) {
        return Err(Errno::ELOOP);
    }
    tree.detach(from.mount.id)?;
    from.mount.expiring.store(false, Ordering::Relaxed);
    tree.graft(target.mount.id, &target.dentry, from.mount.id)
}

/// `MS_SHARED`, `MS_PRIVATE`, `MS_SLAVE`, `MS_UNBINDABLE`, with `MS_REC` for all below.
pub fn change_propagation(target: &Path, flags: u64) -> Result<()> {
    let kind = flags & PROPAGATION;
    if !kind.is_power_of_two() || flags & !(PROPAGATION | MS_REC | MS_SILENT) != 0 {
        return Err(Errno::EINVAL);
    }
    if !target.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    let mut tree = tree::lock();
    let id = target.mount.id;
    tree.node(id)?;
    let list = if flags & MS_REC != 0 { tree.subtree(id) } else { alloc::vec![id] };
    for id in list {
        set_propagation(&mut tree, id, kind)?;
    }
    let ns = tree.node(id)?.ns;
    tree.tell(ns);
    Ok(())
}

fn set_propagation(tree: &mut Tree, id: u64, kind: u64) -> Result<()> {
    let group = tree.node(id)?.group;
    match kind {
        MS_SHARED => {
            if group == 0 {
                let group = tree.new_group();
                tree.set_group(id, group);
            }
        }
        MS_SLAVE => {
            let peers = tree.groups.get(&group).map_or(0, |g| g.members.len());
            if peers > 1 {
                tree.set_master(id, group);
            }
            tree.set_group(id, 0);
        }
        _ => {
            tree.set_group(id, 0);
            tree.set_master(id, 0);
            tree.node_mut(id)?.unbindable = kind == MS_UNBINDABLE;
        }
    }
    Ok(())
}

/// `MS_REMOUNT`: changes the flags of the mount and, without `MS_BIND`, the file system's.
pub fn remount(ctx: &Context<'_>, target: &Path, flags: u64, data: &[u8]) -> Result<()> {
    let tree = tree::lock();
    let locked = tree.in_ns(&target.mount, ctx.mounts)?.locked_flags;
    if !target.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    let mut new = mount_flags(flags);
    if flags & (ATIME_FLAGS | MS_STRICTATIME) == 0 {
        // The atime mode is kept unless one is given.
        new = (new & !ATIME_FLAGS) | (target.mount.flags() & ATIME_FLAGS);
    }
    if (new ^ target.mount.flags()) & locked != 0 {
        return Err(Errno::EPERM);
    }
    if flags & MS_BIND == 0 {
        target.mount.sb.may_change(ctx.creds)?;
        remount_super(&tree, &target.mount.sb, flags, data)?;
    }
    target.mount.set_flags(new)?;
    ctx.mounts.changed();
    Ok(())
}

pub(super) fn remount_super(
    tree: &Tree,
    sb: &Arc<SuperBlock>,
    flags: u64,
    data: &[u8],
) -> Result<()> {
    let mask = MS_RDONLY | MS_SYNCHRONOUS | MS_MANDLOCK | MS_I_VERSION | MS_LAZYTIME;
    let old = sb.flags();
    let nature = if sb.ops().is_for_reading() { MS_RDONLY } else { 0 };
    let new = (old & !mask) | (flags & mask) | nature;
    let closing = new & MS_RDONLY != 0 && old & MS_RDONLY == 0;
    if closing {
        let written =
            tree.nodes.values().any(|n| Arc::ptr_eq(&n.mount.sb, sb) && n.mount.is_written());
        if written {
            return Err(Errno::EBUSY);
        }
        // Nobody may begin to write while the file system settles.
        sb.set_flags(old | MS_RDONLY);
        if let Err(error) = sb.ops().sync(sb, true) {
            sb.set_flags(old);
            return Err(error);
        }
    }
    if let Err(error) = sb.ops().remount(sb, new, data) {
        sb.set_flags(old);
        return Err(error);
    }
    sb.set_flags(new);
    Ok(())
}

/// `umount2(2)`; `target` was resolved as the flags say.
pub fn umount(ctx: &Context<'_>, target: Path, flags: u32) -> Result<()> {
    if flags & !(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    may_mount(ctx)?;
    if !target.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    let Path { mount, dentry } = target;
    drop(dentry);
    if tree::lock().in_ns(&mount, ctx.mounts)?.locked {
        return Err(Errno::EINVAL);
    }
    if flags & MNT_FORCE != 0 {
        ctx.creds.require(Cap::SYS_ADMIN)?;
        mount.sb.ops().umount_begin(&mount.sb);
    }
    if flags & MNT_EXPIRE != 0 {
        if flags & (MNT_FORCE | MNT_DETACH) != 0 || Arc::ptr_eq(&mount, &ctx.root.mount) {
            return Err(Errno::EINVAL);
        }
        if is_busy(&tree::lock(), &mount) {
            sched::rcu::barrier();
            if is_busy(&tree::lock(), &mount) {
                return Err(Errno::EBUSY);
            }
        }
        if !mount.expiring.swap(true, Ordering::AcqRel) {
            return Err(Errno::EAGAIN);
        }
    }
    if Arc::ptr_eq(&mount, &ctx.root.mount) && flags & MNT_DETACH == 0 {
        // Unmounting the root makes it read-only.
        mount.sb.may_change(ctx.creds)?;
        let tree = tree::lock();
        if mount.sb.is_read_only() {
            return Ok(());
        }
        return remount_super(&tree, &mount.sb, mount.sb.flags() | MS_RDONLY, b"");
    }
    let gone = if flags & MNT_DETACH != 0 {
        detach_lazily(mount)?
    } else {
        let gone = detach_unused(&mount).or_else(|_| {
            // References that wait for the end of a grace period do not count.
            sched::rcu::barrier();
            detach_unused(&mount)
        })?;
        drop(mount);
        gone
    };
    // The hash's references go now, so that the file system is put away before the call returns.
    sched::rcu::barrier();
    tree::finish(gone);
    Ok(())
}

/// Whether anyone but the tree, the hash and the caller refers to the mount.
fn is_busy(tree: &Tree, mount: &Arc<Mount>) -> bool {
    if tree.nodes.get(&mount.id).is_none_or(|n| !n.children.is_empty()) {
        return true;
    }
    Arc::strong_count(mount) > 3
}

fn detach_unused(mount: &Arc<Mount>) -> Result<Vec<Arc<Mount>>> {
    let mut tree = tree::lock();
    if is_busy(&tree, mount) {
        return Err(Errno::EBUSY);
    }
    let mut list = alloc::vec![mount.id];
    for copy in tree.counterparts(mount.id) {
        let copy_mount = tree.node(copy)?.mount.clone();
        if tree.node(copy)?.children.is_empty() {
            if is_busy(&tree, &copy_mount) {
                return Err(Errno::EBUSY);
            }
            list.push(copy);
        }
    }
    let mut gone = Vec::new();
    for id in list {
        tree.detach(id)?;
        gone.extend(tree.remove(id));
    }
    Ok(gone)
}

fn detach_lazily(mount: Arc<Mount>) -> Result<Vec<Arc<Mount>>> {
    let mut tree = tree::lock();
    let mut roots = alloc::vec![mount.id];
    roots.extend(tree.counterparts(mount.id));
    drop(mount);
    let mut gone = Vec::new();
    for root in roots {
        let mut list = tree.subtree(root);
        list.reverse();
        for id in list {
            for copy in tree.counterparts(id) {
                if tree.node(copy).is_ok_and(|n| n.children.is_empty()) {
                    tree.detach(copy)?;
                    gone.extend(tree.remove(copy));
                }
            }
            if tree.nodes.contains_key(&id) {
                tree.detach(id)?;
                gone.extend(tree.remove(id));
            }
        }
    }
    Ok(gone)
}

/// Whether `path` is at or below `top`, crossing mounts.
fn is_reachable(path: &Path, top: &Path) -> bool {
    let mut at = path.clone();
    loop {
        if Arc::ptr_eq(&at.mount, &top.mount) {
            return at.dentry.is_within(&top.dentry);
        }
        match at.mount.mountpoint() {
            Some(up) => at = up,
            None => return false,
        }
    }
}

/// `pivot_root(2)`: `new` becomes the root of the namespace, the old root moves to `put_old`.
/// Returns the old root and the new one: the caller moves every task that stands in the old.
pub fn pivot_root(ctx: &Context<'_>, new: &Path, put_old: &Path) -> Result<(Path, Path)> {
    may_mount(ctx)?;
    let mut tree = tree::lock();
    let put_old = table::top(put_old.clone());
    let root = ctx.root.clone();
    let root_node = tree.in_ns(&root.mount, ctx.mounts)?;
    let new_node = tree.in_ns(&new.mount, ctx.mounts)?;
    let old_node = tree.in_ns(&put_old.mount, ctx.mounts)?;
    let shared_parent =
        |id: Option<u64>| id.and_then(|id| tree.nodes.get(&id)).is_some_and(|n| n.group != 0);
    if old_node.group != 0 || shared_parent(new_node.parent) || shared_parent(root_node.parent) {
        return Err(Errno::EINVAL);
    }
    if new.dentry.is_deleted() {
        return Err(Errno::ENOENT);
    }
    if Arc::ptr_eq(&new.mount, &root.mount) || Arc::ptr_eq(&put_old.mount, &root.mount) {
        return Err(Errno::EBUSY);
    }
    let root_at = root_node.parent.zip(root_node.mountpoint.clone());
    let valid = root.is_mount_root()
        && new.is_mount_root()
        && !new_node.locked
        && !root_node.locked
        && new_node.parent.is_some()
        && is_reachable(&put_old, new)
        && is_reachable(new, &root);
    let (Some((root_parent, root_point)), true) = (root_at, valid) else {
        return Err(Errno::EINVAL);
    };
    tree.detach(new.mount.id)?;
    tree.detach(root.mount.id)?;
    tree.attach(root_parent, &root_point, new.mount.id)?;
    tree.attach(put_old.mount.id, &put_old.dentry, root.mount.id)?;
    Ok((root, new.clone()))
}

/// `CLONE_NEWNS`: a copy of the namespace, and `paths` moved into it.
pub fn clone_namespace(
    ns: &Arc<MountNamespace>,
    id: u64,
    user_ns: Arc<UserNamespace>,
    paths: &mut FsPaths,
) -> Result<Arc<MountNamespace>> {
    let new = MountNamespace::new(id, user_ns);
    let root = ns.root_mount().ok_or(Errno::EINVAL)?;
    let mut tree = tree::lock();
    let how = if Arc::ptr_eq(&new.user_ns, &ns.user_ns) { Copy::Peer } else { Copy::Slave };
    let mut pairs = Vec::new();
    let copy = tree.copy_tree_into(root.id, &root.root, Depth::All, how, &mut pairs)?;
    for id in tree.subtree(copy) {
        tree.node_mut(id)?.ns = new.id;
    }
    if how == Copy::Slave {
        tree.lock_below(copy)?;
    }
    tree.spaces.insert(new.id, Arc::downgrade(&new));
    new.set_root(tree.node(copy)?.mount.clone());
    let pairs: BTreeMap<u64, u64> = pairs.into_iter().collect();
    for path in [&mut paths.root, &mut paths.cwd] {
        if let Some(copy) = pairs.get(&path.mount.id) {
            path.mount = tree.node(*copy)?.mount.clone();
        }
    }
    Ok(new)
}
