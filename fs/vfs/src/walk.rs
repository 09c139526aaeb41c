//! Path walk: from a name to a place, by the rules of `path_resolution(7)` and `openat2(2)`.
//!
//! The walker goes as far as it can under RCU, without locks and reference counts. It stops at a
//! name that is not cached, or at a symbolic link whose text is not at hand, counts a reference there,
//! does that step the slow way (which may sleep), and goes on under RCU.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fcntl::*;
use abi::{Errno, Result};
use bitflags::bitflags;
use sched::rcu::RcuRef;

use crate::context::Context;
use crate::dcache::{self, lookup_rcu, pin};
use crate::dentry::{Dentry, MOUNTPOINT, Name};
use crate::inode::Inode;
use crate::inode_ops::Link;
use crate::mount::{Mount, table};
use crate::path::Path;
use crate::perm;
use crate::texts::{IsLast, Texts};
use crate::types::*;

/// Links followed in one walk before `ELOOP`.
const MAX_LINKS: u32 = 40;
/// Longest name of an entry.
pub const NAME_MAX: usize = 255;

bitflags! {
    /// How a path is walked.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Walk: u32 {
        /// Follow a symbolic link in the last place.
        const FOLLOW = 1;
        /// The result must be a directory.
        const DIRECTORY = 2;
        /// An empty path means the base (`AT_EMPTY_PATH`).
        const EMPTY = 4;
        /// `RESOLVE_NO_XDEV`.
        const NO_XDEV = 8;
        /// `RESOLVE_NO_MAGICLINKS`.
        const NO_MAGIC = 16;
        /// `RESOLVE_NO_SYMLINKS`.
        const NO_SYMLINKS = 32;
        /// `RESOLVE_BENEATH`.
        const BENEATH = 64;
        /// `RESOLVE_IN_ROOT`.
        const IN_ROOT = 128;
        /// `RESOLVE_CACHED`: fail with `EAGAIN` instead of sleeping.
        const CACHED = 256;
    }
}

impl Walk {
    /// From the `resolve` word of `openat2(2)`.
    pub fn from_resolve(resolve: u64) -> Walk {
        let mut walk = Walk::empty();
        for (bit, flag) in [
            (RESOLVE_NO_XDEV, Walk::NO_XDEV),
            (RESOLVE_NO_MAGICLINKS, Walk::NO_MAGIC),
            (RESOLVE_NO_SYMLINKS, Walk::NO_SYMLINKS | Walk::NO_MAGIC),
            (RESOLVE_BENEATH, Walk::BENEATH),
            (RESOLVE_IN_ROOT, Walk::IN_ROOT),
            (RESOLVE_CACHED, Walk::CACHED),
        ] {
            if resolve & bit != 0 {
                walk |= flag;
            }
        }
        walk
    }
}

/// The last component of a path, not looked up.
#[derive(Clone)]
pub(crate) enum Last {
    Name(LastName),
    Dot,
    DotDot,
    /// The path was `/`.
    Root,
}

/// A plain name in the last place.
#[derive(Clone)]
pub(crate) struct LastName {
    pub(crate) name: Name,
    pub(crate) hash: u64,
    /// Slashes follow.
    pub(crate) trailing: bool,
}

impl Last {
    /// The name, or `error` for `.`, `..` and `/`.
    pub(crate) fn name(self, error: Errno) -> Result<LastName> {
        match self {
            Last::Name(name) => Ok(name),
            _ => Err(error),
        }
    }
}

/// Why a walk under RCU stopped.
enum Stop {
    /// The end of the path.
    Done,
    /// Before the last component.
    Parent(Last),
    /// At a symbolic link in the directory reached.
    Link(Arc<Dentry>, IsLast),
    /// At a name that is not cached.
    Miss(Name, u64, IsLast),
}

/// Where a run under RCU began.
struct Start {
    depth: usize,
    mark: usize,
    links: u32,
}

/// A walk in progress.
pub(crate) struct Walker<'a> {
    ctx: &'a Context<'a>,
    root: Path,
    /// Where the walk stands.
    pub(crate) at: Path,
    texts: Texts<'a>,
    links: u32,
    flags: Walk,
    /// The place of the last link followed or name looked up.
    stop_at_parent: bool,
    absolute_only: bool,
    /// The walk began at the root.
    from_root: bool,
}

impl<'a> Walker<'a> {
    pub(crate) fn new(
        ctx: &'a Context<'a>,
        base: &Path,
        name: &'a [u8],
        flags: Walk,
        stop_at_parent: bool,
    ) -> Result<Walker<'a>> {
        if name.is_empty() && !flags.contains(Walk::EMPTY) {
            return Err(Errno::ENOENT);
        }
        let absolute = name.first() == Some(&b'/');
        let root = if flags.intersects(Walk::IN_ROOT | Walk::BENEATH) { base } else { ctx.root };
        if absolute && flags.contains(Walk::BENEATH) {
            return Err(Errno::EXDEV);
        }
        let at = if absolute { root } else { base };
        Ok(Walker {
            ctx,
            root: root.clone(),
            at: at.clone(),
            texts: Texts::new(name),
            links: 0,
            flags,
            stop_at_parent,
            absolute_only: name.iter().all(|&b| b == b'/'),
            from_root: absolute || flags.contains(Walk::IN_ROOT),
        })
    }

    /// Whether slashes followed the last component.
    pub(crate) fn trailing(&self) -> bool {
        self.texts.trailing
    }

    /// Walks to the end; the place is in `at`.
    fn finish(&mut self) -> Result<()> {
        loop {
            match self.advance()? {
                Stop::Done | Stop::Parent(_) => break,
                Stop::Link(link, last) => self.link(&link, last)?,
                Stop::Miss(name, hash, last) => self.miss(&name, hash, last)?,
            }
        }
        if (self.texts.trailing || self.flags.contains(Walk::DIRECTORY))
            && !self.at.inode()?.is_dir()
        {
            return Err(Errno::ENOTDIR);
        }
        Ok(())
    }

    /// Walks to the directory of the last component, which stands in `at`.
    pub(crate) fn parent(&mut self) -> Result<Last> {
        loop {
            match self.advance()? {
                Stop::Parent(last) => return Ok(last),
                Stop::Done if self.absolute_only => return Ok(Last::Root),
                Stop::Done => return Ok(Last::Dot),
                Stop::Link(link, last) => self.link(&link, last)?,
                Stop::Miss(name, hash, last) => self.miss(&name, hash, last)?,
            }
        }
    }

    /// One run under RCU.
    fn advance(&mut self) -> Result<Stop> {
        loop {
            if let Some(stop) = self.try_advance()? {
                return Ok(stop);
            }
            // The shrinker took the dentry that was reached: rare. It is not cached any more, so
            // the next round misses where this one arrived.
            core::hint::spin_loop();
        }
    }

    /// `None` if the place that was reached could not be pinned; nothing has changed then.
    fn try_advance(&mut self) -> Result<Option<Stop>> {
        let mark = self.texts.mark();
        let guard = sched::rcu::read_lock();
        let creds = &**self.ctx.creds;
        let start = Start { depth: self.texts.depth(), mark, links: self.links };
        let mut mount = &self.at.mount;
        let mut dentry = RcuRef::from_arc(&self.at.dentry);
        let stop = loop {
            let Some(component) = self.texts.next() else { break Stop::Done };
            let Some(dir) = dentry.get().inode_rcu(&guard) else { return Err(Errno::ENOENT) };
            if !dir.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            perm::may_search(&dir, creds)?;
            let name = self.texts.front(&component);
            match name {
                b"." => {
                    if self.stop_at_parent && component.last == IsLast::Yes {
                        break Stop::Parent(Last::Dot);
                    }
                    self.texts.consume(&component);
                    continue;
                }
                b".." => {
                    if self.stop_at_parent && component.last == IsLast::Yes {
                        break Stop::Parent(Last::DotDot);
                    }
                    self.texts.consume(&component);
                    // Up: out of mounts, then one step, then onto what is mounted there.
                    loop {
                        let at_root = core::ptr::eq(dentry.get(), &*self.root.dentry)
                            && Arc::ptr_eq(mount, &self.root.mount);
                        if at_root {
                            if self.flags.contains(Walk::BENEATH) {
                                return Err(Errno::EXDEV);
                            }
                            break;
                        }
                        if !core::ptr::eq(dentry.get(), &*mount.root) {
                            let entry = dentry.get().entry.load(&guard);
                            if let Some(parent) = entry.and_then(|e| e.get().parent.as_ref()) {
                                dentry = RcuRef::from_arc(parent);
                            }
                            break;
                        }
                        let Some(up) = table::attachment(&guard, mount) else { break };
                        if self.flags.contains(Walk::NO_XDEV) {
                            return Err(Errno::EXDEV);
                        }
                        let up = up.get();
                        mount = &up.parent;
                        dentry = RcuRef::from_arc(&up.mountpoint);
                    }
                    while dentry.get().has(MOUNTPOINT) {
                        let Some(child) = table::child(&guard, mount, dentry.get()) else { break };
                        mount = child;
                        dentry = RcuRef::from_arc(&child.root);
                    }
                    continue;
                }
                _ => {}
            }
            if self.stop_at_parent && component.last == IsLast::Yes {
                let name = Name::new(name);
                let trailing = self.texts.trailing;
                self.texts.consume(&component);
                break Stop::Parent(Last::Name(LastName { name, hash: component.hash, trailing }));
            }
            let found = lookup_rcu(&guard, dentry.get(), name, component.hash);
            let Some(child) = found else {
                let name = Name::new(name);
                self.texts.consume(&component);
                break Stop::Miss(name, component.hash, component.last);
            };
            let inode = child.get().inode_rcu(&guard);
            if dir.has(InodeFlags::REVALIDATE) {
                let target = inode.map(|i| i.get());
                if !dir.ops().revalidate(dir.get(), name, target) {
                    let name = Name::new(name);
                    self.texts.consume(&component);
                    break Stop::Miss(name, component.hash, component.last);
                }
            }
            let Some(inode) = inode else { return Err(Errno::ENOENT) };
            if inode.kind == FileKind::Symlink
                && (component.last == IsLast::No
                    || self.flags.contains(Walk::FOLLOW)
                    || self.texts.trailing)
            {
                if let Some(text) = self.text_at_hand(mount, &dir, &inode, component.last) {
                    self.texts.consume(&component);
                    self.links += 1;
                    if text.first() == Some(&b'/') {
                        mount = &self.root.mount;
                        dentry = RcuRef::from_arc(&self.root.dentry);
                        self.absolute_only = text.iter().all(|&b| b == b'/');
                    }
                    self.texts.push(text);
                    continue;
                }
                let Some(link) = pin(child) else {
                    self.rewind(&start)?;
                    return Ok(None);
                };
                self.texts.consume(&component);
                break Stop::Link(link, component.last);
            }
            self.texts.consume(&component);
            dentry = child;
            while dentry.get().has(MOUNTPOINT) {
                let Some(child) = table::child(&guard, mount, dentry.get()) else { break };
                if self.flags.contains(Walk::NO_XDEV) {
                    return Err(Errno::EXDEV);
                }
                mount = child;
                dentry = RcuRef::from_arc(&child.root);
            }
        };
        if core::ptr::eq(dentry.get(), &*self.at.dentry) && Arc::ptr_eq(mount, &self.at.mount) {
            return Ok(Some(stop));
        }
        let Some(dentry) = pin(dentry) else {
            self.rewind(&start)?;
            return Ok(None);
        };
        let mount = mount.clone();
        drop(guard);
        self.at = Path { mount, dentry };
        Ok(Some(stop))
    }

    /// Undoes what `try_advance` consumed. Texts of links that were finished on the way are lost:
    /// then the walk cannot go back.
    fn rewind(&mut self, start: &Start) -> Result<()> {
        if self.texts.depth() != start.depth || self.links != start.links {
            return Err(Errno::ESTALE);
        }
        self.texts.go_back(start.mark);
        Ok(())
    }

    /// The text of a link that can be followed under RCU: it is at hand, nothing about it has to be
    /// written, and no rule but the usual ones holds.
    #[inline]
    fn text_at_hand(
        &self,
        mount: &Mount,
        dir: &Inode,
        link: &Inode,
        last: IsLast,
    ) -> Option<Arc<[u8]>> {
        let special = Walk::NO_SYMLINKS | Walk::BENEATH | Walk::IN_ROOT | Walk::NO_XDEV;
        if self.links >= MAX_LINKS || self.flags.intersects(special) {
            return None;
        }
        let text = link.ops().link_text().filter(|text| !text.is_empty())?;
        let may_follow =
            last == IsLast::No || perm::may_follow_link(dir, link, self.ctx.creds).is_ok();
        (may_follow && crate::atime::due(mount, link).is_none()).then_some(text)
    }

    /// Looks a name up the slow way, and steps onto it.
    fn miss(&mut self, name: &Name, hash: u64, last: IsLast) -> Result<()> {
        if self.flags.contains(Walk::CACHED) {
            return Err(Errno::EAGAIN);
        }
        let dentry = lookup_slow(&self.at, name.bytes(), hash)?.ok_or(Errno::ENOENT)?;
        let inode = dentry.inode().ok_or(Errno::ENOENT)?;
        if inode.kind == FileKind::Symlink
            && (last == IsLast::No || self.flags.contains(Walk::FOLLOW) || self.texts.trailing)
        {
            return self.link(&dentry, last);
        }
        self.step_onto(dentry)
    }

    /// Makes `dentry`, a child of where the walk stands, the place, and climbs what is mounted.
    pub(crate) fn step_onto(&mut self, dentry: Arc<Dentry>) -> Result<()> {
        let mount = self.at.mount.clone();
        let covered = dentry.has(MOUNTPOINT);
        let mut path = Path { mount, dentry };
        if covered {
            path = table::top(path);
            if self.flags.contains(Walk::NO_XDEV) && !Arc::ptr_eq(&path.mount, &self.at.mount) {
                return Err(Errno::EXDEV);
            }
        }
        self.at = path;
        Ok(())
    }

    fn link(&mut self, link: &Arc<Dentry>, last: IsLast) -> Result<()> {
        self.follow(link, last == IsLast::Yes)
    }

    /// Follows a symbolic link that is in the directory where the walk stands.
    pub(crate) fn follow(&mut self, link: &Arc<Dentry>, is_last: bool) -> Result<()> {
        let inode = link.inode().ok_or(Errno::ENOENT)?;
        self.links += 1;
        if self.links > MAX_LINKS || self.flags.contains(Walk::NO_SYMLINKS) {
            return Err(Errno::ELOOP);
        }
        if is_last {
            perm::may_follow_link(&*self.at.inode()?, &inode, self.ctx.creds)?;
        }
        crate::atime::touch(&self.at.mount, &inode);
        match inode.ops().follow(&inode, self.ctx)? {
            Link::Text(text) => {
                if text.is_empty() {
                    return Err(Errno::ENOENT);
                }
                if text.first() == Some(&b'/') {
                    if self.flags.contains(Walk::BENEATH) {
                        return Err(Errno::EXDEV);
                    }
                    // Linux also takes the jump of a relative walk to the root for a crossing.
                    if self.flags.contains(Walk::NO_XDEV)
                        && !(self.from_root && Arc::ptr_eq(&self.root.mount, &self.at.mount))
                    {
                        return Err(Errno::EXDEV);
                    }
                    self.at = self.root.clone();
                    self.absolute_only = text.iter().all(|&b| b == b'/');
                }
                self.texts.push(text);
                Ok(())
            }
            Link::Jump(path) => {
                if self.flags.intersects(Walk::NO_MAGIC | Walk::BENEATH | Walk::IN_ROOT) {
                    return Err(Errno::ELOOP);
                }
                if self.flags.contains(Walk::NO_XDEV) && !Arc::ptr_eq(&path.mount, &self.at.mount) {
                    return Err(Errno::EXDEV);
                }
                self.at = path;
                Ok(())
            }
        }
    }
}

/// The dentry for `name` in the directory, asking the file system if it is not cached. Negative
/// dentries are returned; `None` stands for an absent name that must not be cached.
pub(crate) fn lookup_slow(dir: &Path, name: &[u8], hash: u64) -> Result<Option<Arc<Dentry>>> {
    let inode = dir.inode()?;
    if let Some(dentry) = cached(&dir.dentry, &inode, name, hash) {
        return Ok(Some(dentry));
    }
    let _held = inode.lock().read();
    lookup_locked(&dir.dentry, &inode, name, hash)
}

/// A valid cached dentry.
fn cached(dir: &Arc<Dentry>, inode: &Arc<Inode>, name: &[u8], hash: u64) -> Option<Arc<Dentry>> {
    let dentry = dcache::lookup(dir, name, hash)?;
    if inode.has(InodeFlags::REVALIDATE) {
        let target = dentry.inode();
        if !inode.ops().revalidate(inode, name, target.as_deref()) {
            drop(dcache::unhash(&dentry));
            return None;
        }
    }
    Some(dentry)
}

/// Like [`lookup_slow`] with the directory locked (shared suffices).
pub(crate) fn lookup_locked(
    dir: &Arc<Dentry>,
    inode: &Arc<Inode>,
    name: &[u8],
    hash: u64,
) -> Result<Option<Arc<Dentry>>> {
    if let Some(dentry) = cached(dir, inode, name, hash) {
        return Ok(Some(dentry));
    }
    if name.len() > NAME_MAX && name.len() > inode.sb().name_max as usize {
        return Err(Errno::ENAMETOOLONG);
    }
    let spelling = spelling(inode, name);
    let (name, hash) = match &spelling {
        Some(spelling) => (&spelling[..], dcache::hash_name(spelling)),
        None => (name, hash),
    };
    if spelling.is_some()
        && let Some(dentry) = cached(dir, inode, name, hash)
    {
        return Ok(Some(dentry));
    }
    if inode.has(InodeFlags::DEAD) {
        return Err(Errno::ENOENT);
    }
    let found = inode.ops().lookup(inode, name)?;
    if found.is_none() && inode.has(InodeFlags::NO_NEGATIVE | InodeFlags::REVALIDATE) {
        return Ok(None);
    }
    Ok(Some(dcache::insert(dir, name, hash, found)))
}

/// The name under which the dentry cache keeps what `name` means in a directory, which is locked, if
/// that is another.
pub(crate) fn spelling(inode: &Arc<Inode>, name: &[u8]) -> Option<Vec<u8>> {
    if !inode.has(InodeFlags::FOLDS_NAMES) {
        return None;
    }
    inode.ops().canonical_name(inode, name)
}

/// The place that `name` means, from `base` (the working directory, or the directory of an `…at`
/// call) on.
pub fn walk(ctx: &Context<'_>, base: &Path, name: &[u8], flags: Walk) -> Result<Path> {
    for _ in 0..3 {
        let mut walker = Walker::new(ctx, base, name, flags, false)?;
        match walker.finish() {
            Ok(()) => return Ok(walker.at),
            // Lost a race with the shrinker in the middle of a link.
            Err(Errno::ESTALE) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ESTALE)
}

/// The directory of the last component, which need not be there.
pub fn walk_to_parent(ctx: &Context<'_>, base: &Path, name: &[u8]) -> Result<Path> {
    walk_parent(ctx, base, name, Walk::empty()).map(|(parent, _)| parent)
}

/// The directory of the last component, and that component.
pub(crate) fn walk_parent(
    ctx: &Context<'_>,
    base: &Path,
    name: &[u8],
    flags: Walk,
) -> Result<(Path, Last)> {
    for _ in 0..3 {
        let mut walker = Walker::new(ctx, base, name, flags, true)?;
        match walker.parent() {
            Ok(last) => return Ok((walker.at, last)),
            // As in `walk`.
            Err(Errno::ESTALE) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ESTALE)
}

/// The entries of a name, for callers that walk by themselves (initramfs).
pub fn components(path: &[u8]) -> Vec<&[u8]> {
    path.split(|&b| b == b'/').filter(|c| !c.is_empty() && *c != b".").collect()
}
