//! All sockets of a namespace: `/proc/net/unix`, `net.unix`.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::Write;
use core::hash::BuildHasherDefault;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use hashbrown::HashMap;
use socket::{Address, Kind, NetNamespace, Socket, trees};

use crate::name::Part;
use crate::rights::IdHasher;
use crate::sock::{CONNECTED, Unix};

static LISTING: LockClass = LockClass::new("unix.listing", 570);

const SHARDS: usize = 16;

type Shard = HashMap<u64, Weak<Unix>, BuildHasherDefault<IdHasher>>;

/// The sockets of a namespace by their inode numbers.
pub(crate) struct Listing {
    shards: [SpinLock<Shard>; SHARDS],
}

impl Listing {
    pub(crate) fn new() -> Listing {
        Listing {
            shards: [const { SpinLock::new(&LISTING, Shard::with_hasher(BuildHasherDefault::new())) };
                SHARDS],
        }
    }

    fn shard(&self, ino: u64) -> Option<&SpinLock<Shard>> {
        self.shards.get(ino as usize % SHARDS)
    }
}

pub(crate) fn add(socket: &Arc<Unix>) {
    let ino = socket.common.ino;
    let part = socket.common.namespace.part::<Part>();
    if let Some(shard) = part.and_then(|part| part.listing.shard(ino)) {
        shard.lock().insert(ino, Arc::downgrade(socket));
    }
}

pub(crate) fn remove(socket: &Unix) {
    let ino = socket.common.ino;
    let part = socket.common.namespace.try_part::<Part>();
    if let Some(shard) = part.and_then(|part| part.listing.shard(ino)) {
        let removed = shard.lock().remove(&ino);
        drop(removed);
    }
}

/// What tools are shown of a socket.
pub struct Shown {
    /// Inode number.
    pub ino: u64,
    /// Inode number of the peer; 0 is none.
    pub peer_ino: u64,
    /// The type.
    pub kind: Kind,
    /// Whether it listens.
    pub is_listening: bool,
    /// Whether it has a peer.
    pub is_connected: bool,
    /// The name as `getsockname(2)` tells it.
    pub name: Option<Address>,
    /// Bytes, packets or connections that wait.
    pub waiting: usize,
    /// `SO_COOKIE`.
    pub cookie: u64,
    /// Descriptors of it, as far as that can be told.
    pub references: usize,
}

/// The sockets of a namespace in the order of their numbers.
pub fn sockets(namespace: &NetNamespace) -> Vec<Shown> {
    let Some(part) = namespace.try_part::<Part>() else { return Vec::new() };
    let mut found: Vec<Arc<Unix>> = Vec::new();
    for shard in &part.listing.shards {
        let sockets: Vec<Arc<Unix>> = shard.lock().values().filter_map(Weak::upgrade).collect();
        found.extend(sockets);
    }
    found.sort_unstable_by_key(|socket| socket.common.ino);
    found.iter().map(show).collect()
}

/// The socket of a namespace that has this inode number, if a program holds it.
pub fn find(namespace: &NetNamespace, ino: u64) -> Option<Shown> {
    let shard = namespace.try_part::<Part>()?.listing.shard(ino)?;
    let found = shard.lock().get(&ino).and_then(Weak::upgrade)?;
    Some(show(&found)).filter(|shown| shown.ino == ino)
}

fn show(socket: &Arc<Unix>) -> Shown {
    let peer = socket.peer.get();
    let is_listening = socket.is_listening();
    let waiting = if is_listening { socket.pending.lock().len() } else { socket.unread() };
    Shown {
        ino: if socket.file.get().is_some() { socket.common.ino } else { 0 },
        peer_ino: peer.as_ref().map_or(0, |peer| peer.common.ino),
        kind: socket.common.kind,
        is_listening,
        is_connected: peer.is_some() || socket.has(CONNECTED),
        name: socket.bound.get().and_then(|_| socket.local_address().ok()),
        waiting,
        cookie: socket.common.cookie(),
        references: Arc::strong_count(socket).saturating_sub(1),
    }
}

/// `/proc/net/unix`, proc(5).
fn show_all(namespace: &NetNamespace, out: &mut Vec<u8>) -> Result<()> {
    /// A listener's flag, `__SO_ACCEPTCON`.
    const ACCEPTS: u32 = 1 << 16;
    out.extend_from_slice(b"Num       RefCount Protocol Flags    Type St Inode Path\n");
    for shown in sockets(namespace) {
        let flags = if shown.is_listening { ACCEPTS } else { 0 };
        // Of a socket that a program holds: 1 is free, 3 connected.
        let state = match (shown.ino, shown.is_connected) {
            (0, true) => 2,
            (_, true) => 3,
            _ => 1,
        };
        let mut line = alloc::string::String::new();
        // Writing to a string does not fail.
        let _ = write!(
            line,
            "{:016x}: {:08X} {:08X} {:08X} {:04X} {:02X} {:5}",
            0,
            shown.references + 1,
            0,
            flags,
            shown.kind as u32,
            state,
            shown.ino
        );
        out.extend_from_slice(line.as_bytes());
        if let Some(name) = shown.name {
            out.push(b' ');
            put_name(name.bytes().get(2..).unwrap_or_default(), out);
        }
        out.push(b'\n');
    }
    Ok(())
}

fn put_name(name: &[u8], out: &mut Vec<u8>) {
    match name {
        [0, rest @ ..] => {
            out.push(b'@');
            out.extend(rest.iter().map(|byte| if *byte == 0 { b'@' } else { *byte }));
        }
        path => out.extend(path.iter().take_while(|byte| **byte != 0)),
    }
}

fn show_qlen(namespace: &NetNamespace, out: &mut Vec<u8>) -> Result<()> {
    trees::put_number(out, crate::name::max_dgram_qlen(namespace).into());
    Ok(())
}

fn store_qlen(namespace: &NetNamespace, bytes: &[u8]) -> Result<()> {
    let value = trees::parse(bytes, i32::MIN.into()..=i32::MAX.into())? as i32;
    let part = namespace.part::<Part>().ok_or(Errno::EINVAL)?;
    part.max_dgram_qlen.store(value, Ordering::Relaxed);
    Ok(())
}

pub(crate) fn init() {
    trees::PROC_NET.register("unix", |namespace| trees::show(namespace, show_all));
    trees::SYS_NET.register("unix", |namespace| {
        let qlen = trees::knob(namespace, show_qlen, store_qlen);
        pseudo::Tree::new().with("max_dgram_qlen", qlen).into_node()
    });
}
