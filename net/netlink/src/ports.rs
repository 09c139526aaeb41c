//! Who has which port, who listens to which group.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use hashbrown::HashMap;
use socket::{Cred, NamespacePart, NetNamespace, Slot};

use crate::sock::{Incoming, Netlink};

static PORTS: LockClass = LockClass::new("netlink.ports", 567);

#[derive(Default)]
struct Tables {
    ports: HashMap<(i32, u32), Weak<Netlink>>,
    /// The members of a group by their inode numbers.
    groups: HashMap<(i32, u32), HashMap<u64, Weak<Netlink>>>,
}

/// What the family keeps per network namespace.
pub(crate) struct Ports {
    tables: SpinLock<Tables>,
    next: AtomicU32,
}

impl NamespacePart for Ports {
    const SLOT: Slot = Slot::Netlink;

    fn new(_: &Weak<NetNamespace>) -> Ports {
        Ports {
            tables: SpinLock::new(&PORTS, Tables::default()),
            // Ports that no process id is.
            next: AtomicU32::new(u32::MAX - 4096),
        }
    }
}

pub(crate) fn of(namespace: &NetNamespace) -> Result<&Ports> {
    namespace.part::<Ports>().ok_or(Errno::ENOBUFS)
}

impl Ports {
    /// Takes a port; `EADDRINUSE` if somebody has it.
    pub(crate) fn take(&self, socket: &Netlink, port: u32) -> Result<()> {
        let key = (socket.protocol(), port);
        let mut tables = self.tables.lock();
        if tables.ports.get(&key).is_some_and(|other| other.strong_count() > 0) {
            return Err(Errno::EADDRINUSE);
        }
        tables.ports.insert(key, socket.this.clone());
        Ok(())
    }

    /// Takes the process's port, or one that nobody has.
    pub(crate) fn take_any(&self, socket: &Netlink, process: u32) -> Result<u32> {
        if process != 0 && self.take(socket, process).is_ok() {
            return Ok(process);
        }
        loop {
            // Relaxed: only a start for the search.
            let port = self.next.fetch_sub(1, Ordering::Relaxed);
            if port != 0 && self.take(socket, port).is_ok() {
                return Ok(port);
            }
        }
    }

    pub(crate) fn give_back(&self, socket: &Netlink, port: u32) {
        let key = (socket.protocol(), port);
        let mut tables = self.tables.lock();
        if tables.ports.get(&key).is_some_and(|own| own.ptr_eq(&socket.this)) {
            tables.ports.remove(&key);
        }
    }

    pub(crate) fn find(&self, protocol: i32, port: u32) -> Option<Arc<Netlink>> {
        self.tables.lock().ports.get(&(protocol, port)).and_then(Weak::upgrade)
    }

    /// Makes a socket a member of a group, in the table and in the socket at once.
    pub(crate) fn join(&self, socket: &Netlink, group: u32) {
        let mut tables = self.tables.lock();
        let members = tables.groups.entry((socket.protocol(), group)).or_default();
        members.insert(socket.ino(), socket.this.clone());
        socket.note_group(group, true);
    }

    /// Ends what [`join`](Self::join) began.
    pub(crate) fn leave(&self, socket: &Netlink, group: u32) {
        let mut tables = self.tables.lock();
        let key = (socket.protocol(), group);
        if let Some(members) = tables.groups.get_mut(&key) {
            members.remove(&socket.ino());
            if members.is_empty() {
                tables.groups.remove(&key);
            }
        }
        socket.note_group(group, false);
    }

    /// The members of a group.
    pub(crate) fn members(&self, protocol: i32, group: u32) -> Vec<Arc<Netlink>> {
        let tables = self.tables.lock();
        let members = tables.groups.get(&(protocol, group));
        members.map_or_else(Vec::new, |all| all.values().filter_map(Weak::upgrade).collect())
    }
}

/// Sends a message of the kernel to a group of a protocol in a namespace: device events, changes of
/// addresses and routes. Whether anybody listens.
pub fn multicast(namespace: &NetNamespace, protocol: i32, group: u32, bytes: &[u8]) -> bool {
    let Some(ports) = namespace.try_part::<Ports>() else { return false };
    let members = ports.members(protocol, group);
    for member in &members {
        let cred = Cred { who: None, uid: 0, gid: 0 };
        member.deliver(Incoming { bytes: bytes.to_vec(), port: 0, group, cred });
    }
    !members.is_empty()
}

/// Whether anybody listens to a group, so that there is a message to be made.
pub fn has_listeners(namespace: &NetNamespace, protocol: i32, group: u32) -> bool {
    let ports = namespace.try_part::<Ports>();
    ports.is_some_and(|ports| ports.tables.lock().groups.contains_key(&(protocol, group)))
}
