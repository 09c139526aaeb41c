//! POSIX access control lists (`acl(5)`): permission, inheritance, and their life beside the mode.
//!
//! File systems store them as the extended attributes `system.posix_acl_access` and
//! `system.posix_acl_default`, in the form programs use; what permission checks need is kept in the
//! inode's extra state, because a walk must not sleep. [`InodeFlags::ACL`] and
//! [`InodeFlags::DEFAULT_ACL`] say that there is one.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::stat::S_ISGID;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};

use crate::cred::{Cap, Creds, UserNamespace};
use crate::inode::{Inode, InodeRef};
use crate::inode_ops::NewInode;
use crate::perm::{capable_towards, override_denial};
use crate::types::*;

static CLASS: LockClass = LockClass::new("vfs.acl", 291);

/// Name of the attribute with the list that governs access.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the attribute with the list new files of a directory get.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// A list without entries, which removes the one there is.
pub(crate) const EMPTY: [u8; 4] = VERSION.to_le_bytes();

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;

mod tag {
    pub(super) const USER_OBJ: u16 = 1;
    pub(super) const USER: u16 = 2;
    pub(super) const GROUP_OBJ: u16 = 4;
    pub(super) const GROUP: u16 = 8;
    pub(super) const MASK: u16 = 0x10;
    pub(super) const OTHER: u16 = 0x20;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A valid list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

/// The lists of one inode.
pub struct Acls(SpinLock<[Option<Arc<Acl>>; 2]>);

impl Default for Acls {
    fn default() -> Acls {
        Acls(SpinLock::new(&CLASS, [None, None]))
    }
}

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that governs access.
    Access,
    /// The one for new files in a directory.
    Default,
}

impl Which {
    /// The list an attribute's name means.
    pub fn of(name: &[u8]) -> Option<Which> {
        match name {
            _ if name == ACCESS => Some(Which::Access),
            _ if name == DEFAULT => Some(Which::Default),
            _ => None,
        }
    }

    fn name(self) -> &'static [u8] {
        match self {
            Which::Access => ACCESS,
            Which::Default => DEFAULT,
        }
    }

    fn flag(self) -> InodeFlags {
        match self {
            Which::Access => InodeFlags::ACL,
            Which::Default => InodeFlags::DEFAULT_ACL,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

impl Acl {
    /// Parses what a program sets; `None` for a list without entries, which removes.
    pub fn parse(bytes: &[u8]) -> Result<Option<Acl>> {
        let (head, rest) = bytes.split_at_checked(4).ok_or(Errno::EINVAL)?;
        if word(head, 0) != Some(VERSION) {
            return Err(Errno::EOPNOTSUPP);
        }
        if rest.len() % 8 != 0 {
            return Err(Errno::EINVAL);
        }
        let entries = rest.chunks_exact(8).map(|raw| Entry {
            tag: u16::from_le_bytes([raw[0], raw[1]]),
            perm: u16::from_le_bytes([raw[2], raw[3]]),
            id: word(raw, 4).unwrap_or(NO_ID),
        });
        let acl = Acl(entries.collect());
        if acl.0.is_empty() {
            return Ok(None);
        }
        if acl.is_valid() { Ok(Some(acl)) } else { Err(Errno::EINVAL) }
    }

    /// The form programs and file systems exchange.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            let has_id = matches!(entry.tag, tag::USER | tag::GROUP);
            out.extend_from_slice(&entry.tag.to_le_bytes());
            out.extend_from_slice(&entry.perm.to_le_bytes());
            out.extend_from_slice(&if has_id { entry.id } else { NO_ID }.to_le_bytes());
        }
        out
    }

    /// One entry for owner, group and others each, a mask if anyone is named, in this order.
    fn is_valid(&self) -> bool {
        let order = [tag::USER_OBJ, tag::USER, tag::GROUP_OBJ, tag::GROUP, tag::MASK, tag::OTHER];
        let place = |tag: u16| order.iter().position(|&known| known == tag);
        let known = self.0.iter().all(|e| {
            let named = matches!(e.tag, tag::USER | tag::GROUP);
            place(e.tag).is_some() && e.perm <= 7 && !(named && e.id == NO_ID)
        });
        let sorted = self.0.windows(2).all(|pair| place(pair[0].tag) <= place(pair[1].tag));
        let count = |tag: u16| self.0.iter().filter(|e| e.tag == tag).count();
        let named = count(tag::USER) + count(tag::GROUP) > 0;
        let masks = count(tag::MASK);
        known
            && sorted
            && [tag::USER_OBJ, tag::GROUP_OBJ, tag::OTHER].iter().all(|&tag| count(tag) == 1)
            && (masks == 1 || masks == 0 && !named)
    }

    fn perm_of(&self, tag: u16) -> Option<u32> {
        self.0.iter().find(|e| e.tag == tag).map(|e| e.perm.into())
    }

    /// The permission bits that say the same as far as they can.
    pub fn mode(&self) -> u32 {
        let group = self.perm_of(tag::MASK).or(self.perm_of(tag::GROUP_OBJ));
        self.perm_of(tag::USER_OBJ).unwrap_or(0) << 6
            | group.unwrap_or(0) << 3
            | self.perm_of(tag::OTHER).unwrap_or(0)
    }

    /// Whether permission bits say everything.
    pub fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    fn update(&mut self, change: impl Fn(u16, u16) -> u16, mode: u32) {
        let has_mask = self.perm_of(tag::MASK).is_some();
        for entry in &mut self.0 {
            let bits = match entry.tag {
                tag::USER_OBJ => mode >> 6,
                tag::MASK => mode >> 3,
                tag::GROUP_OBJ if !has_mask => mode >> 3,
                tag::OTHER => mode,
                _ => continue,
            };
            entry.perm = change(entry.perm, bits as u16 & 7);
        }
    }

    /// The algorithm of `acl(5)`; whether access is granted.
    fn grants(&self, inode: &Inode, wanted: u32, creds: &Creds) -> bool {
        let mask = self.perm_of(tag::MASK).unwrap_or(7);
        let has = |perm: u32| wanted & !perm & 7 == 0;
        if creds.fsuid == inode.uid() {
            return has(self.perm_of(tag::USER_OBJ).unwrap_or(0));
        }
        if let Some(named) = self.0.iter().find(|e| e.tag == tag::USER && e.id == creds.fsuid) {
            return has(u32::from(named.perm) & mask);
        }
        let mut in_some_group = false;
        for entry in &self.0 {
            let is_member = match entry.tag {
                tag::GROUP_OBJ => creds.in_group(inode.gid()),
                tag::GROUP => creds.in_group(entry.id),
                _ => false,
            };
            if is_member && has(u32::from(entry.perm) & mask) {
                return true;
            }
            in_some_group |= is_member;
        }
        !in_some_group && has(self.perm_of(tag::OTHER).unwrap_or(0))
    }

    /// Replaces ids by what `change` makes of them.
    fn with_ids(mut self, change: impl Fn(bool, u32) -> Result<u32>) -> Result<Acl> {
        for entry in &mut self.0 {
            if matches!(entry.tag, tag::USER | tag::GROUP) {
                entry.id = change(entry.tag == tag::USER, entry.id)?;
            }
        }
        Ok(self)
    }
}

fn cached(inode: &Inode, which: Which) -> Option<Arc<Acl>> {
    if !inode.has(which.flag()) {
        return None;
    }
    inode.existing_extra()?.acls.0.lock()[which as usize].clone()
}

fn remember(inode: &Inode, which: Which, acl: Option<Acl>) {
    let is_some = acl.is_some();
    if is_some || inode.has(which.flag()) {
        inode.extra().acls.0.lock()[which as usize] = acl.map(Arc::new);
    }
    if is_some {
        inode.set_flags(which.flag());
    } else {
        inode.clear_flags(which.flag());
    }
}

/// Reads the lists of an inode that may have some: called by a file system that has just read the
/// inode from its disk, before anybody else sees it.
pub fn load(inode: &Arc<Inode>) -> Result<()> {
    for which in [Which::Access, Which::Default] {
        if !inode.has(which.flag()) {
            continue;
        }
        let mut value = Vec::new();
        match inode.ops().get_xattr(inode, which.name(), &mut value) {
            Ok(()) => remember(inode, which, Acl::parse(&value)?),
            Err(Errno::ENODATA) => remember(inode, which, None),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The permission check of an inode with [`InodeFlags::ACL`].
pub(crate) fn permission(inode: &Inode, access: Access, creds: &Creds) -> Result<()> {
    let wanted = (access & (Access::READ | Access::WRITE | Access::EXEC)).bits();
    let Some(acl) = cached(inode, Which::Access) else {
        return crate::perm::generic_permission(inode, access, creds);
    };
    if acl.grants(inode, wanted, creds) { Ok(()) } else { override_denial(inode, wanted, creds) }
}

/// What `getxattr(2)` returns for a stored list: ids as the caller's namespace has them.
pub(crate) fn to_namespace(value: &[u8], ns: &UserNamespace) -> Result<Vec<u8>> {
    if ns.is_initial() {
        return Ok(value.to_vec());
    }
    let acl = Acl::parse(value)?.ok_or(Errno::EINVAL)?;
    let inside = acl.with_ids(|user, id| Ok(if user { ns.uid_in(id) } else { ns.gid_in(id) }))?;
    Ok(inside.bytes())
}

/// Sets or (with an empty list) removes a list; the inode is locked, the caller may. The mode
/// follows.
pub(crate) fn set(inode: &Arc<Inode>, which: Which, value: &[u8], creds: &Creds) -> Result<()> {
    if inode.kind == FileKind::Symlink {
        return Err(Errno::EOPNOTSUPP);
    }
    let ns = &creds.user_ns;
    let acl = match Acl::parse(value)? {
        Some(acl) => {
            Some(acl.with_ids(|user, id| if user { ns.uid_out(id) } else { ns.gid_out(id) })?)
        }
        None => None,
    };
    if which == Which::Default {
        return match acl {
            Some(_) if !inode.is_dir() => Err(Errno::EACCES),
            acl => store(inode, which, acl),
        };
    }
    let Some(acl) = acl else { return store(inode, which, None) };
    let mut mode = inode.mode() & 0o7000 | acl.mode();
    // man 2 chmod: set-group-id of a group one is not in goes silently.
    if !creds.in_group(inode.gid()) && !capable_towards(inode, creds, Cap::FSETID) {
        mode &= !S_ISGID;
    }
    let minimal = acl.is_minimal();
    store(inode, which, (!minimal).then_some(acl))?;
    let change = SetAttr { mode: Some(mode), now: Time::now(), ..SetAttr::default() };
    inode.ops().setattr(inode, &change)
}

fn store(inode: &Arc<Inode>, which: Which, acl: Option<Acl>) -> Result<()> {
    match &acl {
        Some(acl) => inode.ops().set_xattr(inode, which.name(), &acl.bytes(), 0)?,
        None => match inode.ops().remove_xattr(inode, which.name()) {
            Ok(()) | Err(Errno::ENODATA) => {}
            Err(error) => return Err(error),
        },
    }
    remember(inode, which, acl);
    Ok(())
}

/// After `chmod(2)`: owner, mask and others follow the mode.
pub(crate) fn follow_mode(inode: &Arc<Inode>) -> Result<()> {
    let Some(acl) = cached(inode, Which::Access) else { return Ok(()) };
    let mut acl = (*acl).clone();
    acl.update(|_, mode| mode, inode.mode());
    store(inode, Which::Access, Some(acl))
}

/// Makes something with what it inherits from the default list of its directory: `create` gets the
/// facts with the mode that results, `undo` what was made when its lists cannot be stored.
pub(crate) fn inheriting(
    dir: &Inode,
    new: &NewInode<'_>,
    create: impl FnOnce(&NewInode<'_>) -> Result<Arc<Inode>>,
    undo: impl FnOnce(&Arc<Inode>),
) -> Result<Arc<Inode>> {
    let default = if new.kind == FileKind::Symlink { None } else { cached(dir, Which::Default) };
    let Some(default) = default else { return create(new) };
    let mut acl = (*default).clone();
    acl.update(|perm, mode| perm & mode, new.mode);
    let new = NewInode { mode: new.mode & 0o7000 | acl.mode(), ..*new };
    let inode = create(&new)?;
    let give = || {
        if !acl.is_minimal() {
            store(&inode, Which::Access, Some(acl))?;
        }
        if inode.is_dir() {
            store(&inode, Which::Default, Some((*default).clone()))?;
        }
        Ok(())
    };
    match give() {
        Ok(()) => Ok(inode),
        Err(error) => {
            // The end of the last user puts away what has no name any more.
            let made = InodeRef::new(inode);
            undo(made.arc());
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        Acl(entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect()).bytes()
    }

    #[test]
    fn only_valid_lists_parse() {
        let good = list(&[(1, 7, 0), (2, 5, 1000), (4, 4, 0), (0x10, 5, 0), (0x20, 0, 0)]);
        let acl = Acl::parse(&good).unwrap().unwrap();
        assert_eq!(acl.mode(), 0o750);
        assert_eq!(acl.bytes(), good);
        assert!(!acl.is_minimal());
        assert_eq!(Acl::parse(&list(&[])).unwrap(), None);
        for bad in [
            // No mask, wrong order, two owners, no others, permission out of range.
            list(&[(1, 7, 0), (2, 5, 1000), (4, 4, 0), (0x20, 0, 0)]),
            list(&[(4, 7, 0), (1, 7, 0), (0x20, 0, 0)]),
            list(&[(1, 7, 0), (1, 7, 0), (4, 4, 0), (0x20, 0, 0)]),
            list(&[(1, 7, 0), (4, 4, 0)]),
            list(&[(1, 8, 0), (4, 4, 0), (0x20, 0, 0)]),
        ] {
            assert_eq!(Acl::parse(&bad), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn modes_change_owner_mask_and_others() {
        let bytes = list(&[(1, 7, 0), (2, 7, 9), (4, 6, 0), (0x10, 7, 0), (0x20, 7, 0)]);
        let mut acl = Acl::parse(&bytes).unwrap().unwrap();
        acl.update(|_, mode| mode, 0o640);
        assert_eq!(acl.perm_of(tag::GROUP_OBJ), Some(6));
        assert_eq!(acl.perm_of(tag::MASK), Some(4));
        assert_eq!(acl.mode(), 0o640);
    }
}
