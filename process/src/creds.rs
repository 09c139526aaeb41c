//! The rules by which credentials change: `set*id(2)`, groups, capabilities, `execve(2)`.
//!
//! Each rule is a function from the old credentials to the new ones (or `EPERM`), so that it is
//! tested without a process; [`commit`] installs the result in the running task.

use crate::task::Task;
use crate::user::User;
use abi::process::securebits::{KEEP_CAPS, NO_CAP_AMBIENT_RAISE, NO_SETUID_FIXUP, NOROOT};
use abi::{Errno, Result};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use spin::Once;
use vfs::cred::{Cap, CapSet, Creds, UserNamespace};

static INITIAL_NS: Once<Arc<UserNamespace>> = Once::new();
static INITIAL: Once<Arc<Creds>> = Once::new();

/// The user namespace of the machine.
pub fn initial_user_ns() -> &'static Arc<UserNamespace> {
    INITIAL_NS.call_once(UserNamespace::initial)
}

/// Root's credentials: process 1 and the kernel itself.
pub fn initial_creds() -> &'static Arc<Creds> {
    INITIAL.call_once(|| Arc::new(Creds::root(initial_user_ns().clone())))
}

/// "Leave as it is" in `setreuid(2)` and `setresuid(2)`.
pub const KEEP: u32 = u32::MAX;

fn may_setuid(old: &Creds) -> bool {
    old.ns_capable(&old.user_ns, Cap::SETUID)
}

fn may_setgid(old: &Creds) -> bool {
    old.ns_capable(&old.user_ns, Cap::SETGID)
}

fn kuid(old: &Creds, id: u32) -> Result<u32> {
    old.user_ns.uid_out(id)
}

fn kgid(old: &Creds, id: u32) -> Result<u32> {
    old.user_ns.gid_out(id)
}

/// What capabilities become when user ids change (`capabilities(7)`, "Effect of user ID changes").
fn fix_capabilities(old: &Creds, new: &mut Creds) {
    if old.securebits & NO_SETUID_FIXUP != 0 {
        return;
    }
    let root = old.user_ns.uid_out(0).unwrap_or(0);
    let had_root = [old.uid, old.euid, old.suid].contains(&root);
    let has_root = [new.uid, new.euid, new.suid].contains(&root);
    if had_root && !has_root {
        if old.securebits & KEEP_CAPS == 0 {
            new.permitted = CapSet::EMPTY;
            new.effective = CapSet::EMPTY;
        }
        new.ambient = CapSet::EMPTY;
    }
    if old.euid == root && new.euid != root {
        new.effective = CapSet::EMPTY;
    }
    if old.euid != root && new.euid == root {
        new.effective = new.permitted;
    }
}

/// `setuid(2)`.
pub fn setuid(old: &Creds, id: u32) -> Result<Creds> {
    let id = kuid(old, id)?;
    let mut new = old.clone();
    if may_setuid(old) {
        new.uid = id;
        new.suid = id;
    } else if id != old.uid && id != old.suid {
        return Err(Errno::EPERM);
    }
    new.euid = id;
    new.fsuid = id;
    fix_capabilities(old, &mut new);
    Ok(new)
}

/// `setreuid(2)`.
pub fn setreuid(old: &Creds, real: u32, effective: u32) -> Result<Creds> {
    let mut new = old.clone();
    let privileged = may_setuid(old);
    if real != KEEP {
        new.uid = kuid(old, real)?;
        if new.uid != old.uid && new.uid != old.euid && !privileged {
            return Err(Errno::EPERM);
        }
    }
    if effective != KEEP {
        new.euid = kuid(old, effective)?;
        if ![old.uid, old.euid, old.suid].contains(&new.euid) && !privileged {
            return Err(Errno::EPERM);
        }
    }
    if real != KEEP || (effective != KEEP && new.euid != old.uid) {
        new.suid = new.euid;
    }
    new.fsuid = new.euid;
    fix_capabilities(old, &mut new);
    Ok(new)
}

/// `setresuid(2)`.
pub fn setresuid(old: &Creds, ids: [u32; 3]) -> Result<Creds> {
    let mut new = old.clone();
    let privileged = may_setuid(old);
    for (id, slot) in ids.into_iter().zip([&mut new.uid, &mut new.euid, &mut new.suid]) {
        if id == KEEP {
            continue;
        }
        *slot = kuid(old, id)?;
        if ![old.uid, old.euid, old.suid].contains(slot) && !privileged {
            return Err(Errno::EPERM);
        }
    }
    new.fsuid = new.euid;
    fix_capabilities(old, &mut new);
    Ok(new)
}

/// `setfsuid(2)`: the new credentials, or `None` if nothing changes.
pub fn setfsuid(old: &Creds, id: u32) -> Option<Creds> {
    let id = kuid(old, id).ok()?;
    if ![old.uid, old.euid, old.suid, old.fsuid].contains(&id) && !may_setuid(old)
        || id == old.fsuid
    {
        return None;
    }
    let mut new = old.clone();
    new.fsuid = id;
    if old.securebits & NO_SETUID_FIXUP == 0 {
        let root = old.user_ns.uid_out(0).unwrap_or(0);
        if old.fsuid == root {
            new.effective = CapSet(new.effective.0 & !CapSet::FS.0);
        } else if id == root {
            new.effective = new.effective.or(new.permitted.and(CapSet::FS));
        }
    }
    Some(new)
}

/// `setgid(2)`.
pub fn setgid(old: &Creds, id: u32) -> Result<Creds> {
    let id = kgid(old, id)?;
    let mut new = old.clone();
    if may_setgid(old) {
        new.gid = id;
        new.sgid = id;
    } else if id != old.gid && id != old.sgid {
        return Err(Errno::EPERM);
    }
    new.egid = id;
    new.fsgid = id;
    Ok(new)
}

/// `setregid(2)`.
pub fn setregid(old: &Creds, real: u32, effective: u32) -> Result<Creds> {
    let mut new = old.clone();
    let privileged = may_setgid(old);
    if real != KEEP {
        new.gid = kgid(old, real)?;
        if new.gid != old.gid && new.gid != old.egid && !privileged {
            return Err(Errno::EPERM);
        }
    }
    if effective != KEEP {
        new.egid = kgid(old, effective)?;
        if ![old.gid, old.egid, old.sgid].contains(&new.egid) && !privileged {
            return Err(Errno::EPERM);
        }
    }
    if real != KEEP || (effective != KEEP && new.egid != old.gid) {
        new.sgid = new.egid;
    }
    new.fsgid = new.egid;
    Ok(new)
}

/// `setresgid(2)`.
pub fn setresgid(old: &Creds, ids: [u32; 3]) -> Result<Creds> {
    let mut new = old.clone();
    let privileged = may_setgid(old);
    for (id, slot) in ids.into_iter().zip([&mut new.gid, &mut new.egid, &mut new.sgid]) {
        if id == KEEP {
            continue;
        }
        *slot = kgid(old, id)?;
        if ![old.gid, old.egid, old.sgid].contains(slot) && !privileged {
            return Err(Errno::EPERM);
        }
    }
    new.fsgid = new.egid;
    Ok(new)
}

/// `setfsgid(2)`: the new credentials, or `None` if nothing changes.
pub fn setfsgid(old: &Creds, id: u32) -> Option<Creds> {
    let id = kgid(old, id).ok()?;
    if ![old.gid, old.egid, old.sgid, old.fsgid].contains(&id) && !may_setgid(old)
        || id == old.fsgid
    {
        return None;
    }
    let mut new = old.clone();
    new.fsgid = id;
    Some(new)
}

/// `setgroups(2)` with numbers of the caller's namespace.
pub fn setgroups(old: &Creds, groups: &[u32]) -> Result<Creds> {
    if !may_setgid(old) {
        return Err(Errno::EPERM);
    }
    let mut outside = alloc::vec::Vec::new();
    outside.try_reserve_exact(groups.len()).map_err(|_| Errno::ENOMEM)?;
    for &group in groups {
        outside.push(kgid(old, group)?);
    }
    outside.sort_unstable();
    let mut new = old.clone();
    new.groups = Arc::from(outside);
    Ok(new)
}

/// `capset(2)` on oneself.
pub fn capset(
    old: &Creds,
    effective: CapSet,
    inheritable: CapSet,
    permitted: CapSet,
) -> Result<Creds> {
    let may_add = old.ns_capable(&old.user_ns, Cap::SETPCAP);
    let addable = old.inheritable.or(old.permitted);
    if !may_add && !inheritable.is_subset(addable) {
        return Err(Errno::EPERM);
    }
    if !inheritable.is_subset(old.inheritable.or(old.bounding))
        || !permitted.is_subset(old.permitted)
        || !effective.is_subset(permitted)
    {
        return Err(Errno::EPERM);
    }
    let mut new = old.clone();
    new.effective = effective;
    new.inheritable = inheritable;
    new.permitted = permitted;
    new.ambient = old.ambient.and(permitted).and(inheritable);
    Ok(new)
}

/// What the program file contributes to its process's credentials.
#[derive(Clone, Copy, Debug, Default)]
pub struct FilePrivileges {
    /// The owner, if set-user-id.
    pub uid: Option<u32>,
    /// The group, if set-group-id.
    pub gid: Option<u32>,
    /// `security.capability`: permitted, inheritable, and whether the effective bit is set.
    pub caps: Option<(CapSet, CapSet, bool)>,
}

/// Credentials after `execve(2)` (`capabilities(7)`, "Transformation of capabilities during
/// execve"), and whether the program is to run in secure mode (`AT_SECURE`).
pub fn exec(old: &Creds, file: &FilePrivileges) -> Result<(Creds, bool)> {
    let mut new = old.clone();
    if let Some(uid) = file.uid {
        new.euid = uid;
    }
    if let Some(gid) = file.gid {
        new.egid = gid;
    }
    let is_setid = new.euid != old.euid || new.egid != old.egid;
    let root = old.user_ns.uid_out(0).unwrap_or(0);
    let (mut f_permitted, mut f_inheritable, mut f_effective) =
        file.caps.unwrap_or((CapSet::EMPTY, CapSet::EMPTY, false));
    let mut is_file_privileged =
        file.caps.is_some_and(|_| is_setid) || is_setid || file.caps.is_some();
    if old.securebits & NOROOT == 0 {
        let by_setuid_with_caps = file.caps.is_some() && new.uid != root && new.euid == root;
        if (new.euid == root || new.uid == root) && !by_setuid_with_caps {
            f_permitted = CapSet::FULL;
            f_inheritable = CapSet::FULL;
            if new.uid == root && !is_setid && file.caps.is_none() {
                is_file_privileged = false;
            }
            if new.euid == root {
                f_effective = true;
            }
        }
    }
    new.permitted = old.inheritable.and(f_inheritable).or(f_permitted.and(old.bounding));
    if file
        .caps
        .is_some_and(|(permitted, _, effective)| effective && !permitted.is_subset(new.permitted))
    {
        return Err(Errno::EPERM);
    }
    if is_file_privileged {
        new.ambient = CapSet::EMPTY;
    }
    new.permitted = new.permitted.or(new.ambient);
    new.effective = if f_effective { new.permitted } else { new.ambient };
    new.suid = new.euid;
    new.fsuid = new.euid;
    new.sgid = new.egid;
    new.fsgid = new.egid;
    new.securebits &= !KEEP_CAPS;
    let gained = !new.effective.is_subset(new.ambient) && new.uid != root;
    let secure = new.euid != new.uid
        || new.egid != new.gid
        || (gained && (f_effective || file.caps.is_some()));
    Ok((new, secure))
}

/// `PR_CAP_AMBIENT_RAISE`.
pub fn raise_ambient(old: &Creds, cap: Cap) -> Result<Creds> {
    if !old.permitted.has(cap)
        || !old.inheritable.has(cap)
        || old.securebits & NO_CAP_AMBIENT_RAISE != 0
    {
        return Err(Errno::EPERM);
    }
    let mut new = old.clone();
    new.ambient = new.ambient.with(cap);
    Ok(new)
}

/// Installs `new` in the running task.
pub fn commit(task: &Task, new: Creds) {
    let old = task.creds();
    let ids_changed = old.euid != new.euid
        || old.egid != new.egid
        || old.fsuid != new.fsuid
        || old.fsgid != new.fsgid
        || !new.permitted.is_subset(old.permitted);
    if ids_changed {
        task.group.dumpable.store(crate::coredump::suid_dumpable(), Ordering::Relaxed);
        task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    if old.uid != new.uid {
        move_account(task, new.uid);
    }
    task.set_creds(Arc::new(new));
}

/// Charges the task to another user.
fn move_account(task: &Task, uid: u32) {
    let user = User::of(uid);
    user.add_task();
    let old = task.user.lock().replace(user);
    if let Some(old) = old {
        old.remove_task();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Creds {
        let mut creds = Creds::root(initial_user_ns().clone());
        creds = setresuid(&creds, [uid; 3]).expect("root may");
        setresgid(&creds, [creds.gid; 3]).expect("same")
    }

    #[test]
    fn root_drops_everything_for_good() {
        let creds = user(1000);
        assert_eq!((creds.uid, creds.euid, creds.suid, creds.fsuid), (1000, 1000, 1000, 1000));
        assert_eq!(creds.permitted, CapSet::EMPTY);
        assert_eq!(setuid(&creds, 0).err(), Some(Errno::EPERM));
    }

    #[test]
    fn saved_ids_let_a_program_switch() {
        let file = FilePrivileges { uid: Some(0), ..FilePrivileges::default() };
        let (su, secure) = exec(&user(1000), &file).expect("exec");
        assert!(secure);
        assert_eq!((su.uid, su.euid, su.suid), (1000, 0, 0));
        assert_eq!(su.effective, CapSet::FULL);
        let dropped = setreuid(&su, KEEP, 1000).expect("own id");
        assert_eq!(dropped.effective, CapSet::EMPTY);
        assert_eq!(dropped.permitted, CapSet::FULL);
        let again = setresuid(&dropped, [KEEP, 0, KEEP]).expect("saved id");
        assert_eq!(again.effective, CapSet::FULL);
    }

    #[test]
    fn exec_of_a_plain_file_keeps_nothing_but_ambient() {
        let mut creds = user(1000);
        creds.permitted = CapSet::EMPTY.with(Cap::NET_RAW);
        creds.inheritable = creds.permitted;
        let creds = raise_ambient(&creds, Cap::NET_RAW).expect("raise");
        let (after, secure) = exec(&creds, &FilePrivileges::default()).expect("exec");
        assert!(!secure);
        assert_eq!(after.effective, CapSet::EMPTY.with(Cap::NET_RAW));
        let (root, secure) =
            exec(&Creds::root(initial_user_ns().clone()), &FilePrivileges::default())
                .expect("exec");
        assert_eq!((root.effective, secure), (CapSet::FULL, false));
    }

    #[test]
    fn file_capabilities_are_bounded() {
        let mut creds = user(1000);
        let caps = CapSet::EMPTY.with(Cap::NET_RAW);
        let file = FilePrivileges { caps: Some((caps, CapSet::EMPTY, true)), ..Default::default() };
        let (after, secure) = exec(&creds, &file).expect("exec");
        assert_eq!((after.effective, secure), (caps, true));
        creds.bounding = creds.bounding.without(Cap::NET_RAW);
        assert_eq!(exec(&creds, &file).err(), Some(Errno::EPERM));
    }

    #[test]
    fn capset_only_shrinks() {
        let creds = user(1000);
        let some = CapSet::EMPTY.with(Cap::CHOWN);
        assert!(capset(&creds, some, CapSet::EMPTY, some).is_err());
        let root = Creds::root(initial_user_ns().clone());
        let less = capset(&root, some, CapSet::EMPTY, some).expect("shrink");
        assert_eq!(less.permitted, some);
        assert!(capset(&less, CapSet::EMPTY, CapSet::EMPTY, CapSet::FULL).is_err());
    }
}
