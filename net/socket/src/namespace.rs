//! Network namespaces (network_namespaces(7)).
//!
//! A namespace has the limits of `net.core` and a part for each family that was asked for in it:
//! its names, interfaces, routes, tables of connections. Sockets hold their namespace; parts hold
//! sockets weakly, so that a namespace goes with its last task, descriptor and socket.

use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use arch::lock::Once;
use vfs::UserNamespace;

/// The place of a part in the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Slot {
    /// `AF_UNIX`.
    Unix,
    /// Interfaces, addresses, routes, neighbours.
    Devices,
    /// `AF_INET` and `AF_INET6` sockets.
    Inet,
    /// `AF_NETLINK`.
    Netlink,
    /// `AF_PACKET`.
    Packet,
    /// `AF_VSOCK`.
    Vsock,
    /// Packet filters.
    Netfilter,
}

const SLOTS: usize = 7;

/// What a family keeps per namespace.
pub trait NamespacePart: Any + Send + Sync + Sized {
    /// Where.
    const SLOT: Slot;
    /// Makes the part of `namespace`, which is kept alive by others: the part holds it weakly.
    fn new(namespace: &Weak<NetNamespace>) -> Self;
}

/// The limits of `/proc/sys/net/core` that sockets obey.
#[derive(Debug)]
#[expect(missing_docs, reason = "socket(7) and Documentation/sysctl/net describe them")]
pub struct CoreLimits {
    pub somaxconn: AtomicI32,
    pub optmem_max: AtomicI32,
    pub rmem_default: AtomicI32,
    pub rmem_max: AtomicI32,
    pub wmem_default: AtomicI32,
    pub wmem_max: AtomicI32,
}

impl CoreLimits {
    fn new() -> CoreLimits {
        CoreLimits {
            somaxconn: AtomicI32::new(4096),
            optmem_max: AtomicI32::new(20480),
            rmem_default: AtomicI32::new(212_992),
            rmem_max: AtomicI32::new(212_992),
            wmem_default: AtomicI32::new(212_992),
            wmem_max: AtomicI32::new(212_992),
        }
    }
}

/// A network namespace.
pub struct NetNamespace {
    /// Inode number in `/proc/PID/ns/net`.
    pub id: u64,
    /// A number that no other namespace ever has (`SO_NETNS_COOKIE`).
    pub cookie: u64,
    /// Who may act on it.
    pub user_ns: Arc<UserNamespace>,
    /// Its `net.core` limits.
    pub core: CoreLimits,
    this: Weak<NetNamespace>,
    parts: [Once<Arc<dyn Any + Send + Sync>>; SLOTS],
}

static INITIAL: Once<Arc<NetNamespace>> = Once::new();
static ON_INITIAL: Once<fn(&Arc<NetNamespace>)> = Once::new();

/// Says what to do with the machine's namespace when it is made: drivers' devices move in.
pub fn on_initial(act: fn(&Arc<NetNamespace>)) {
    ON_INITIAL.call_once(|| act);
}

impl NetNamespace {
    /// A namespace without interfaces and sockets.
    pub fn new(id: u64, user_ns: Arc<UserNamespace>) -> Arc<NetNamespace> {
        static COOKIE: AtomicU64 = AtomicU64::new(1);
        Arc::new_cyclic(|this| NetNamespace {
            id,
            // Relaxed: only uniqueness matters.
            cookie: COOKIE.fetch_add(1, Ordering::Relaxed),
            user_ns,
            core: CoreLimits::new(),
            this: this.clone(),
            parts: [const { Once::new() }; SLOTS],
        })
    }

    /// Says which namespace is the machine's: where devices of drivers appear.
    pub fn set_initial(namespace: &Arc<NetNamespace>) {
        INITIAL.call_once(|| namespace.clone());
        if let Some(act) = ON_INITIAL.get() {
            act(namespace);
        }
    }

    /// The machine's namespace, once it is there.
    pub fn initial() -> Option<&'static Arc<NetNamespace>> {
        INITIAL.get()
    }

    /// Whether it is the machine's.
    pub fn is_initial(&self) -> bool {
        INITIAL.get().is_some_and(|initial| core::ptr::eq(&**initial, self))
    }

    /// The namespace, counted.
    pub fn arc(&self) -> Option<Arc<NetNamespace>> {
        self.this.upgrade()
    }

    /// The part of type `T`, made if nobody has asked for it yet.
    pub fn part<T: NamespacePart>(&self) -> Option<&T> {
        let cell = self.parts.get(T::SLOT as usize)?;
        let part = match cell.get() {
            Some(part) => part,
            None => cell.call_once(|| Arc::new(T::new(&self.this))),
        };
        (**part).downcast_ref()
    }

    /// The part of type `T`, counted.
    pub fn part_arc<T: NamespacePart>(&self) -> Option<Arc<T>> {
        self.part::<T>()?;
        self.parts.get(T::SLOT as usize)?.get()?.clone().downcast().ok()
    }

    /// The part of type `T` if somebody has asked for it before.
    pub fn try_part<T: NamespacePart>(&self) -> Option<&T> {
        (**self.parts.get(T::SLOT as usize)?.get()?).downcast_ref()
    }
}

impl core::fmt::Debug for NetNamespace {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "NetNamespace({})", self.id)
    }
}
