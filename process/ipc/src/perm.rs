//! Who may use an object: svipc(7).

use abi::ipc::IpcPerm;
use abi::{Errno, Result};
use alloc::sync::Arc;
use vfs::cred::{Cap, Creds, UserNamespace};

/// Reading, as mode bits.
pub(crate) const READ: u32 = 0o4;
/// Changing.
pub(crate) const WRITE: u32 = 0o2;

/// Key, owner, maker and mode of an object. Identities are global ones.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "svipc(7) describes them")]
pub struct Perm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
}

impl Perm {
    /// The permissions of a new object.
    pub(crate) fn new(creds: &Creds, key: i32, flags: u32, seq: u16) -> Perm {
        Perm {
            key,
            uid: creds.euid,
            gid: creds.egid,
            cuid: creds.euid,
            cgid: creds.egid,
            mode: flags & 0o777,
            seq,
        }
    }

    /// `EACCES` unless `wanted` (an octal digit) is granted.
    pub(crate) fn check(
        &self,
        creds: &Creds,
        owner: &Arc<UserNamespace>,
        wanted: u32,
    ) -> Result<()> {
        let granted = if creds.euid == self.cuid || creds.euid == self.uid {
            self.mode >> 6
        } else if creds.in_effective_group(self.cgid) || creds.in_effective_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if wanted & !granted & 0o7 == 0 || creds.ns_capable(owner, Cap::IPC_OWNER) {
            return Ok(());
        }
        Err(Errno::EACCES)
    }

    /// As [`check`](Self::check) for the mode bits in the flags of a `*get` call.
    pub(crate) fn check_flags(
        &self,
        creds: &Creds,
        owner: &Arc<UserNamespace>,
        flags: u32,
    ) -> Result<()> {
        self.check(creds, owner, (flags >> 6 | flags >> 3 | flags) & 0o7)
    }

    /// `EPERM` unless the caller owns or made the object, or is privileged.
    pub(crate) fn check_owner(&self, creds: &Creds, owner: &Arc<UserNamespace>) -> Result<()> {
        let is_owner = creds.euid == self.cuid || creds.euid == self.uid;
        if is_owner || creds.ns_capable(owner, Cap::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `IPC_SET`: takes owner, group and mode.
    pub(crate) fn set(&mut self, creds: &Creds, new: &IpcPerm) -> Result<()> {
        let uid = creds.user_ns.uid_out(new.uid)?;
        let gid = creds.user_ns.gid_out(new.gid)?;
        (self.uid, self.gid) = (uid, gid);
        self.mode = self.mode & !0o777 | new.mode & 0o777;
        Ok(())
    }

    /// What programs see.
    pub fn export(&self, viewer: &UserNamespace) -> IpcPerm {
        IpcPerm {
            key: self.key,
            uid: viewer.uid_in(self.uid),
            gid: viewer.gid_in(self.gid),
            cuid: viewer.uid_in(self.cuid),
            cgid: viewer.gid_in(self.cgid),
            mode: self.mode,
            seq: self.seq,
            ..IpcPerm::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_fits_decides() {
        let ns = UserNamespace::initial();
        let mut creds = Creds::root(ns.clone());
        creds.effective = vfs::cred::CapSet::EMPTY;
        (creds.euid, creds.egid) = (7, 8);
        let mut perm = Perm::new(&creds, 1, 0o046, 0);
        assert_eq!(perm.check(&creds, &ns, READ), Err(Errno::EACCES));
        perm.uid = 1;
        perm.cuid = 1;
        assert_eq!(perm.check(&creds, &ns, READ), Ok(()));
        assert_eq!(perm.check(&creds, &ns, WRITE), Err(Errno::EACCES));
        assert_eq!(perm.check_owner(&creds, &ns), Err(Errno::EPERM));
        (perm.gid, perm.cgid) = (1, 1);
        assert_eq!(perm.check_flags(&creds, &ns, 0o006), Ok(()));
        perm.mode = 0;
        creds.effective = vfs::cred::CapSet::FULL;
        assert_eq!(perm.check(&creds, &ns, READ | WRITE), Ok(()));
    }
}
