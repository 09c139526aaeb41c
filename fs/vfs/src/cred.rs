//! Credentials: user and group identities, capabilities, user namespaces.
//!
//! A [`Creds`] never changes: a task that changes identity gets a new one (`Arc` swap in
//! `process`). Open files and locks keep the one they were made with.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::lock::Once;
use core::sync::atomic::{AtomicBool, Ordering};

macro_rules! capabilities {
    ($($name:ident = $bit:literal;)*) => {
        /// A capability, as `capabilities(7)` numbers them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "capabilities(7) documents them")]
        #[expect(non_camel_case_types, reason = "Linux's names")]
        pub enum Cap { $($name = $bit,)* }
    };
}

capabilities! {
    CHOWN = 0; DAC_OVERRIDE = 1; DAC_READ_SEARCH = 2; FOWNER = 3; FSETID = 4; KILL = 5;
    SETGID = 6; SETUID = 7; SETPCAP = 8; LINUX_IMMUTABLE = 9; NET_BIND_SERVICE = 10;
    NET_BROADCAST = 11; NET_ADMIN = 12; NET_RAW = 13; IPC_LOCK = 14; IPC_OWNER = 15;
    SYS_MODULE = 16; SYS_RAWIO = 17; SYS_CHROOT = 18; SYS_PTRACE = 19; SYS_PACCT = 20;
    SYS_ADMIN = 21; SYS_BOOT = 22; SYS_NICE = 23; SYS_RESOURCE = 24; SYS_TIME = 25;
    SYS_TTY_CONFIG = 26; MKNOD = 27; LEASE = 28; AUDIT_WRITE = 29; AUDIT_CONTROL = 30;
    SETFCAP = 31; MAC_OVERRIDE = 32; MAC_ADMIN = 33; SYSLOG = 34; WAKE_ALARM = 35;
    BLOCK_SUSPEND = 36; AUDIT_READ = 37;
}

/// A set of capabilities, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapSet(pub u64);

impl CapSet {
    /// The highest capability number of Linux 5.4.
    pub const LAST: u32 = 37;
    /// None.
    pub const EMPTY: CapSet = CapSet(0);
    /// All that exist.
    pub const FULL: CapSet = CapSet((1 << (Self::LAST + 1)) - 1);
    /// Those that let a process ignore file permissions; dropped when `fsuid` leaves 0.
    pub const FS: CapSet = CapSet(
        1 << Cap::CHOWN as u64
            | 1 << Cap::DAC_OVERRIDE as u64
            | 1 << Cap::DAC_READ_SEARCH as u64
            | 1 << Cap::FOWNER as u64
            | 1 << Cap::FSETID as u64
            | 1 << Cap::LINUX_IMMUTABLE as u64
            | 1 << Cap::MKNOD as u64
            | 1 << Cap::MAC_OVERRIDE as u64,
    );

    /// Whether `cap` is in the set.
    pub const fn has(self, cap: Cap) -> bool {
        self.0 & (1 << cap as u64) != 0
    }

    /// The set with `cap`.
    #[must_use]
    pub const fn with(self, cap: Cap) -> CapSet {
        CapSet(self.0 | 1 << cap as u64)
    }

    /// The set without `cap`.
    #[must_use]
    pub const fn without(self, cap: Cap) -> CapSet {
        CapSet(self.0 & !(1 << cap as u64))
    }

    /// Whether every member is in `other`.
    pub const fn is_subset(self, other: CapSet) -> bool {
        self.0 & !other.0 == 0
    }

    /// The members in both.
    #[must_use]
    pub const fn and(self, other: CapSet) -> CapSet {
        CapSet(self.0 & other.0)
    }

    /// The members of either.
    #[must_use]
    pub const fn or(self, other: CapSet) -> CapSet {
        CapSet(self.0 | other.0)
    }
}

/// One line of `/proc/PID/uid_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First number inside the namespace.
    pub inside: u32,
    /// First number in the initial namespace.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A user namespace. Numbers in [`Creds`] are always those of the initial namespace.
#[derive(Debug)]
pub struct UserNamespace {
    /// Inode number in `/proc/PID/ns/user`.
    pub id: u64,
    /// The namespace it was made in; `None` for the initial one.
    pub parent: Option<Arc<UserNamespace>>,
    /// The effective uid of the maker.
    pub owner: u32,
    /// The effective gid of the maker.
    pub group: u32,
    /// Depth below the initial one.
    pub level: u32,
    /// `uid_map`, once written.
    pub uid_map: Once<Vec<IdRange>>,
    /// `gid_map`, once written.
    pub gid_map: Once<Vec<IdRange>>,
    /// `setgroups(2)` is denied for good (`/proc/PID/setgroups`).
    pub setgroups_denied: AtomicBool,
}

impl UserNamespace {
    /// The initial namespace: one map of everything onto itself.
    pub fn initial() -> Arc<UserNamespace> {
        let all =
            || Once::initialized([IdRange { inside: 0, outside: 0, count: u32::MAX }].to_vec());
        Arc::new(UserNamespace {
            id: 0xeffffffd,
            parent: None,
            owner: 0,
            group: 0,
            level: 0,
            uid_map: all(),
            gid_map: all(),
            setgroups_denied: AtomicBool::new(false),
        })
    }

    /// Whether this is the initial namespace.
    pub fn is_initial(&self) -> bool {
        self.parent.is_none()
    }

    fn map_in(map: &Once<Vec<IdRange>>, outside: u32) -> Option<u32> {
        map.get()?
            .iter()
            .find(|r| outside.wrapping_sub(r.outside) < r.count)
            .map(|r| r.inside + (outside - r.outside))
    }

    fn map_out(map: &Once<Vec<IdRange>>, inside: u32) -> Option<u32> {
        map.get()?
            .iter()
            .find(|r| inside.wrapping_sub(r.inside) < r.count)
            .map(|r| r.outside + (inside - r.inside))
    }

    /// The number outside of all namespaces for the `count` numbers from `inside` on, if one line
    /// of `map` has them all.
    fn range_out(&self, map: &Once<Vec<IdRange>>, inside: u32, count: u32) -> Option<u32> {
        let fits = |r: &&IdRange| {
            inside >= r.inside && u64::from(inside - r.inside) + u64::from(count) <= r.count.into()
        };
        let line = map.get()?.iter().find(fits)?;
        line.outside.checked_add(inside - line.inside)
    }

    /// [`IdRange::outside`] for `count` uids from `inside` on; `None` where not all are mapped.
    pub fn uid_range_out(&self, inside: u32, count: u32) -> Option<u32> {
        self.range_out(&self.uid_map, inside, count)
    }

    /// [`IdRange::outside`] for `count` gids from `inside` on; `None` where not all are mapped.
    pub fn gid_range_out(&self, inside: u32, count: u32) -> Option<u32> {
        self.range_out(&self.gid_map, inside, count)
    }

    /// Whether programs in it may call `setgroups(2)`: not before `gid_map` is written, and not
    /// when that was forbidden.
    pub fn may_setgroups(&self) -> bool {
        // Relaxed: a lone flag.
        self.gid_map.get().is_some() && !self.setgroups_denied.load(Ordering::Relaxed)
    }

    /// The number in this namespace of a uid outside of all, if it has one.
    pub fn uid_seen(&self, outside: u32) -> Option<u32> {
        Self::map_in(&self.uid_map, outside)
    }

    /// The number in this namespace of a gid outside of all, if it has one.
    pub fn gid_seen(&self, outside: u32) -> Option<u32> {
        Self::map_in(&self.gid_map, outside)
    }

    /// Whether `other` is this namespace or one below it.
    pub fn is_or_contains(&self, other: &UserNamespace) -> bool {
        let mut at = Some(other);
        while let Some(ns) = at {
            if ns.id == self.id {
                return true;
            }
            at = ns.parent.as_deref();
        }
        false
    }

    /// The uid as a program in this namespace sees it; the overflow uid where unmapped.
    pub fn uid_in(&self, outside: u32) -> u32 {
        if self.is_initial() {
            outside
        } else {
            Self::map_in(&self.uid_map, outside).unwrap_or(65534)
        }
    }

    /// The gid as a program in this namespace sees it; the overflow gid where unmapped.
    pub fn gid_in(&self, outside: u32) -> u32 {
        if self.is_initial() {
            outside
        } else {
            Self::map_in(&self.gid_map, outside).unwrap_or(65534)
        }
    }

    /// The global uid for a number given by a program in this namespace.
    pub fn uid_out(&self, inside: u32) -> Result<u32> {
        if self.is_initial() && inside != u32::MAX {
            return Ok(inside);
        }
        Self::map_out(&self.uid_map, inside).ok_or(Errno::EINVAL)
    }

    /// The global gid for a number given by a program in this namespace.
    pub fn gid_out(&self, inside: u32) -> Result<u32> {
        if self.is_initial() && inside != u32::MAX {
            return Ok(inside);
        }
        Self::map_out(&self.gid_map, inside).ok_or(Errno::EINVAL)
    }
}

/// Who acts: the identities and capabilities of a task at one moment.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "credentials(7) documents them")]
pub struct Creds {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    /// Supplementary groups, sorted.
    pub groups: Arc<[u32]>,
    pub effective: CapSet,
    pub permitted: CapSet,
    pub inheritable: CapSet,
    pub bounding: CapSet,
    pub ambient: CapSet,
    /// `SECBIT_*`.
    pub securebits: u32,
    pub user_ns: Arc<UserNamespace>,
}

impl Creds {
    /// Root with every capability, in the namespace `user_ns`.
    pub fn root(user_ns: Arc<UserNamespace>) -> Creds {
        Creds {
            uid: 0,
            euid: 0,
            suid: 0,
            fsuid: 0,
            gid: 0,
            egid: 0,
            sgid: 0,
            fsgid: 0,
            groups: Arc::from([]),
            effective: CapSet::FULL,
            permitted: CapSet::FULL,
            inheritable: CapSet::EMPTY,
            bounding: CapSet::FULL,
            ambient: CapSet::EMPTY,
            securebits: 0,
            user_ns,
        }
    }

    /// Whether `cap` is effective towards the whole machine (the initial user namespace).
    pub fn capable(&self, cap: Cap) -> bool {
        self.effective.has(cap) && self.user_ns.is_initial()
    }

    /// Whether `cap` is effective towards things that belong to `target`.
    pub fn ns_capable(&self, target: &Arc<UserNamespace>, cap: Cap) -> bool {
        let mut ns = target;
        loop {
            if Arc::ptr_eq(ns, &self.user_ns) {
                return self.effective.has(cap);
            }
            let Some(parent) = &ns.parent else { return false };
            // The maker of a namespace, acting from its parent, has every capability in it.
            if Arc::ptr_eq(parent, &self.user_ns) && ns.owner == self.euid {
                return true;
            }
            ns = parent;
        }
    }

    /// `Ok` if [`Creds::capable`], else `EPERM`.
    pub fn require(&self, cap: Cap) -> Result<()> {
        if self.capable(cap) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Whether `gid` is the file-system group or a supplementary one.
    pub fn in_group(&self, gid: u32) -> bool {
        gid == self.fsgid || self.groups.binary_search(&gid).is_ok()
    }

    /// Whether `gid` is the effective group or a supplementary one.
    pub fn in_effective_group(&self, gid: u32) -> bool {
        gid == self.egid || self.groups.binary_search(&gid).is_ok()
    }
}
