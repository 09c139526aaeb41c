//! Addresses: names in the file system, abstract ones, and none.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::Write;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use abi::socket::{AF_UNIX, UNIX_PATH_MAX};
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use hashbrown::HashMap;
use socket::{Address, Call, Kind, NamespacePart, NetNamespace, Slot};
use vfs::{Access, DeviceNumber, FileKind, InodeRef, Walk};

use crate::connect::Control;
use crate::listing::Listing;
use crate::sock::Unix;

static NAMES: LockClass = LockClass::new("unix.names", 570);

/// Bytes of an address before the name.
const PREFIX: usize = 2;
/// What `net.unix.max_dgram_qlen` starts with.
const MAX_DGRAM_QLEN: i32 = 10;
/// Names that `autobind` may give: five digits.
const AUTO_NAMES: u32 = 1 << 20;

type Names = HashMap<(u32, Vec<u8>), Weak<Unix>>;

/// What the family keeps per network namespace.
pub(crate) struct Part {
    names: SpinLock<Names>,
    next_auto: AtomicU32,
    pub(crate) max_dgram_qlen: AtomicI32,
    pub(crate) listing: Listing,
}

impl NamespacePart for Part {
    const SLOT: Slot = Slot::Unix;

    fn new(_: &Weak<NetNamespace>) -> Part {
        Part {
            names: SpinLock::new(&NAMES, Names::new()),
            next_auto: AtomicU32::new(0),
            max_dgram_qlen: AtomicI32::new(MAX_DGRAM_QLEN),
            listing: Listing::new(),
        }
    }
}

/// `net.unix.max_dgram_qlen` of a namespace.
pub(crate) fn max_dgram_qlen(namespace: &NetNamespace) -> i32 {
    namespace
        .part::<Part>()
        .map_or(MAX_DGRAM_QLEN, |part| part.max_dgram_qlen.load(Ordering::Relaxed))
}

/// A name that a socket has. The sockets that a listener accepts share its.
pub(crate) struct Bound {
    pub(crate) address: Address,
    /// Keeps what leads from the file to the socket.
    _inode: Option<InodeRef>,
    /// The socket that took the name: it gives an abstract one back.
    owner: Weak<Unix>,
}

impl Bound {
    /// The abstract name, with its leading zero.
    fn abstract_name(&self) -> Option<&[u8]> {
        let name = self.address.bytes().get(PREFIX..)?;
        (name.first() == Some(&0)).then_some(name)
    }
}

/// What the inode of a name in the file system leads to.
struct Behind(Weak<Unix>);

/// The address of a socket without a name.
pub(crate) fn unnamed() -> Address {
    Address::from_bytes(&AF_UNIX.to_ne_bytes())
}

/// An address as programs give it.
enum Given<'a> {
    /// Only the family: some name, please.
    Any,
    /// A path without its NUL.
    Path(&'a [u8]),
    /// A name with its leading zero.
    Abstract(&'a [u8]),
}

/// Takes an address apart; `EINVAL` for a length or family that is none of ours.
fn take_apart(address: &Address) -> Result<Given<'_>> {
    let bytes = address.bytes();
    if bytes.len() < PREFIX || bytes.len() > PREFIX + UNIX_PATH_MAX || address.family() != AF_UNIX {
        return Err(Errno::EINVAL);
    }
    let name = bytes.get(PREFIX..).unwrap_or_default();
    Ok(match name {
        [] => Given::Any,
        [0, ..] => Given::Abstract(name),
        path => Given::Path(path.split(|byte| *byte == 0).next().unwrap_or_default()),
    })
}

/// The address of a path: with its NUL.
fn path_address(path: &[u8]) -> Address {
    let mut bytes = Vec::with_capacity(PREFIX + path.len() + 1);
    bytes.extend_from_slice(&AF_UNIX.to_ne_bytes());
    bytes.extend_from_slice(path);
    bytes.push(0);
    Address::from_bytes(&bytes)
}

fn part(socket: &Unix) -> Result<&Part> {
    socket.common.namespace.part::<Part>().ok_or(Errno::ENOBUFS)
}

/// `bind(2)`.
pub(crate) fn bind(socket: &Unix, call: &Call<'_>, address: &Address) -> Result<()> {
    match take_apart(address)? {
        Given::Any => {
            let _control = socket.control.lock();
            auto_bind(socket)
        }
        Given::Path(path) => bind_path(socket, call, path),
        Given::Abstract(name) => {
            let _control = socket.control.lock();
            if socket.bound.get().is_some() {
                return Err(Errno::EINVAL);
            }
            if bind_abstract(socket, name)? { Ok(()) } else { Err(Errno::EADDRINUSE) }
        }
    }
}

fn bind_path(socket: &Unix, call: &Call<'_>, path: &[u8]) -> Result<()> {
    let _control = socket.control.lock();
    if socket.bound.get().is_some() {
        return Err(Errno::EINVAL);
    }
    let made =
        vfs::ops::mknod(call.fs, call.fs.cwd, path, FileKind::Socket, 0o777, DeviceNumber::NONE);
    let inode = made.map_err(|error| match error {
        Errno::EEXIST => Errno::EADDRINUSE,
        other => other,
    })?;
    let behind: Arc<dyn Any + Send + Sync> = Arc::new(Behind(socket.this.clone()));
    inode.extra().special.call_once(|| behind);
    socket.bound.call_once(|| {
        Arc::new(Bound {
            address: path_address(path),
            _inode: Some(InodeRef::new(inode)),
            owner: socket.this.clone(),
        })
    });
    Ok(())
}

/// Takes an abstract name; whether it was free.
fn bind_abstract(socket: &Unix, name: &[u8]) -> Result<bool> {
    let key = (socket.common.kind as u32, name.to_vec());
    let mut bytes = Vec::with_capacity(PREFIX + name.len());
    bytes.extend_from_slice(&AF_UNIX.to_ne_bytes());
    bytes.extend_from_slice(name);
    let bound = Arc::new(Bound {
        address: Address::from_bytes(&bytes),
        _inode: None,
        owner: socket.this.clone(),
    });
    let mut names = part(socket)?.names.lock();
    if names.get(&key).is_some_and(|other| other.strong_count() > 0) {
        return Ok(false);
    }
    names.insert(key, socket.this.clone());
    drop(names);
    socket.bound.call_once(|| bound);
    Ok(true)
}

/// Gives a socket without a name an abstract one; its control lock is held.
pub(crate) fn auto_bind(socket: &Unix) -> Result<()> {
    if socket.bound.get().is_some() {
        return Ok(());
    }
    let part = part(socket)?;
    for _ in 0..AUTO_NAMES {
        // Relaxed: only a start for the search.
        let number = part.next_auto.fetch_add(1, Ordering::Relaxed) % AUTO_NAMES;
        let mut text = alloc::string::String::new();
        // Writing to a string does not fail.
        let _ = write!(text, "\0{number:05x}");
        if bind_abstract(socket, text.as_bytes())? {
            return Ok(());
        }
    }
    Err(Errno::ENOSPC)
}

/// Gives a socket that shows its credentials a name, as its messages have to have a sender.
pub(crate) fn auto_bind_for_credentials(
    socket: &Unix,
    control: Option<&mut Control>,
) -> Result<()> {
    if !socket.passes_credentials() || socket.bound.get().is_some() {
        return Ok(());
    }
    match control {
        Some(_) => auto_bind(socket),
        None => {
            let _control = socket.control.lock();
            auto_bind(socket)
        }
    }
}

/// Gives the abstract name of a socket that is closed back.
pub(crate) fn unbind(socket: &Unix) {
    let Some(bound) = socket.bound.get() else { return };
    if !bound.owner.ptr_eq(&socket.this) {
        return;
    }
    if let (Some(name), Ok(part)) = (bound.abstract_name(), part(socket)) {
        let key = (socket.common.kind as u32, name.to_vec());
        let mut names = part.names.lock();
        if names.get(&key).is_some_and(|own| own.ptr_eq(&socket.this)) {
            names.remove(&key);
        }
    }
}

/// The socket of an address, for a sender or connector of type `kind`.
pub(crate) fn find(socket: &Unix, call: &Call<'_>, address: &Address) -> Result<Arc<Unix>> {
    let kind = socket.common.kind;
    match take_apart(address)? {
        Given::Any => Err(Errno::EINVAL),
        Given::Path(path) => find_path(call, path, kind),
        Given::Abstract(name) => {
            let key = (kind as u32, name.to_vec());
            let found = part(socket)?.names.lock().get(&key).and_then(Weak::upgrade);
            found.ok_or(Errno::ECONNREFUSED)
        }
    }
}

fn find_path(call: &Call<'_>, path: &[u8], kind: Kind) -> Result<Arc<Unix>> {
    let place = vfs::walk(call.fs, call.fs.cwd, path, Walk::FOLLOW)?;
    let inode = place.inode()?;
    vfs::perm::permission(&inode, Access::WRITE, call.creds())?;
    if inode.kind != FileKind::Socket {
        return Err(Errno::ECONNREFUSED);
    }
    let special = inode.extra().special.get().cloned().ok_or(Errno::ECONNREFUSED)?;
    let behind = special.downcast::<Behind>().map_err(|_| Errno::ECONNREFUSED)?;
    let found = behind.0.upgrade().filter(|found| !found.has(crate::sock::DEAD));
    let found = found.ok_or(Errno::ECONNREFUSED)?;
    if found.common.kind != kind { Err(Errno::EPROTOTYPE) } else { Ok(found) }
}
