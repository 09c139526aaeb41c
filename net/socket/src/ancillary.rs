//! Control messages (cmsg(3)) as values, and the credentials of unix(7).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::socket::*;
use vfs::{Creds, File, UserNamespace};
use zerocopy::IntoBytes;

use crate::common::{Common, Flag};
use crate::identity::{self, Who};

/// The sender of a message, or the peer of a connection. Ids are those of the initial namespace.
#[derive(Clone)]
pub struct Cred {
    /// The process.
    pub who: Option<Who>,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Cred {
    /// Nobody: what a message has that was sent without credentials.
    pub const fn nobody() -> Cred {
        Cred { who: None, uid: 65534, gid: 65534 }
    }

    /// The running process with its real ids: what a message carries that names none.
    pub fn current() -> Cred {
        match identity::current() {
            Some((who, creds)) => Cred { who: Some(who), uid: creds.uid, gid: creds.gid },
            None => Cred { who: None, uid: 0, gid: 0 },
        }
    }

    /// As the running task, whose user namespace is `user_ns`, sees it.
    pub fn seen_from(&self, user_ns: &UserNamespace) -> Ucred {
        Ucred {
            pid: self.who.as_ref().map_or(0, identity::number),
            uid: user_ns.uid_in(self.uid),
            gid: user_ns.gid_in(self.gid),
        }
    }

    /// Whether both are the same process and ids: streams do not mix what different ones wrote.
    pub fn is_same(&self, other: &Cred) -> bool {
        let same_who = match (&self.who, &other.who) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same_who && self.uid == other.uid && self.gid == other.gid
    }
}

impl core::fmt::Debug for Cred {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Cred(uid {}, gid {})", self.uid, self.gid)
    }
}

/// Who is at the other end (`SO_PEERCRED`, `SO_PEERGROUPS`): fixed when it connected.
#[derive(Clone)]
pub struct PeerCred {
    /// The process and its effective ids.
    pub cred: Cred,
    /// Its supplementary groups.
    pub groups: Arc<[u32]>,
}

impl PeerCred {
    /// The running process with its effective ids.
    pub fn current() -> PeerCred {
        match identity::current() {
            Some((who, creds)) => Self::of(Some(who), &creds),
            None => PeerCred { cred: Cred { who: None, uid: 0, gid: 0 }, groups: Arc::from([]) },
        }
    }

    fn of(who: Option<Who>, creds: &Creds) -> PeerCred {
        let cred = Cred { who, uid: creds.euid, gid: creds.egid };
        PeerCred { cred, groups: creds.groups.clone() }
    }
}

/// The time stamp that a socket wants with what came at an instant of the real-time clock (`SO_TIMESTAMP` and its
/// relatives).
pub fn stamp(common: &Common, time_ns: u64) -> Option<Ancillary> {
    let options = &common.options;
    if !options.has(Flag::TIMESTAMP) {
        return None;
    }
    let (seconds, rest) = (time_ns / 1_000_000_000, time_ns % 1_000_000_000);
    let is_ns = options.has(Flag::TIMESTAMPNS);
    let time = [seconds, if is_ns { rest } else { rest / 1000 }];
    let kind = match (is_ns, options.has(Flag::TIMESTAMP_NEW)) {
        (false, false) => SO_TIMESTAMP_OLD,
        (false, true) => SO_TIMESTAMP_NEW,
        (true, false) => SO_TIMESTAMPNS_OLD,
        (true, true) => SO_TIMESTAMPNS_NEW,
    };
    Some(Ancillary::Raw { level: SOL_SOCKET, kind, data: time.as_bytes().to_vec() })
}

/// One control message.
#[derive(Clone)]
pub enum Ancillary {
    /// `SCM_RIGHTS`.
    Rights(Vec<Arc<File>>),
    /// `SCM_CREDENTIALS`.
    Credentials(Cred),
    /// A message that only its family understands; the data without the header.
    Raw {
        /// `cmsg_level`.
        level: i32,
        /// `cmsg_type`.
        kind: i32,
        /// The data.
        data: Vec<u8>,
    },
}

impl core::fmt::Debug for Ancillary {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Ancillary::Rights(files) => write!(f, "Rights({})", files.len()),
            Ancillary::Credentials(cred) => cred.fmt(f),
            Ancillary::Raw { level, kind, data } => write!(f, "Raw({level}, {kind}, {data:?})"),
        }
    }
}
