//! What lies on top of interfaces: masters, whose ports they are; kinds of devices that programs ask for by name; and
//! files in `/sys` that both have.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Result;
use arch::lock::{LockClass, RwSpinLock};

use crate::frame::{NetDevice, Received};
use crate::interface::Interface;

static KINDS: LockClass = LockClass::new("netdevice.kinds", 537);

/// Takes the frames of an interface before the protocols do: a master's port.
pub trait Upper: Send + Sync {
    /// A frame came on the port. What is given back is for the port itself. In a thread, without locks.
    fn receive(&self, port: &Arc<Interface>, frame: Received) -> Option<Received>;
    /// The interface on top (`IFLA_MASTER`).
    fn master(&self) -> Option<Arc<Interface>>;
    /// `IFLA_INFO_SLAVE_KIND`.
    fn kind(&self) -> &'static str;
    /// `IFLA_INFO_SLAVE_DATA`: attributes by their numbers.
    fn details(&self) -> Vec<(u16, Vec<u8>)>;
    /// What is told of the port (`IFLA_INFO_SLAVE_DATA`, `IFLA_PROTINFO`).
    fn set_details(&self, details: &[(u16, &[u8])]) -> Result<()>;
    /// The port went up or down, its link came or went, or its address or longest packet is another.
    fn port_changed(&self);
    /// The port's files in `/sys/class/net`.
    fn attributes(&self) -> Vec<Attribute>;
}

/// What a file of an interface has.
pub enum Content {
    /// A line, without its end, and what is done with what is written.
    Line(Box<dyn Fn() -> String + Send + Sync>, Option<Setter>),
    /// A symbolic link to a file or folder of another interface, by that one's name.
    Link(String),
    /// A folder, even if nothing is in it.
    Folder,
}

/// Takes what a program writes.
pub type Setter = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// A file of an interface in `/sys/class/net`.
pub struct Attribute {
    /// Its path below the interface's folder.
    pub path: String,
    /// What it has.
    pub content: Content,
}

impl Attribute {
    /// A file with one line that is only read.
    pub fn line(path: &str, text: impl Fn() -> String + Send + Sync + 'static) -> Attribute {
        let content = Content::Line(Box::new(text), None);
        Attribute { path: String::from(path), content }
    }

    /// A file with one line that can be written.
    pub fn knob(
        path: &str,
        text: impl Fn() -> String + Send + Sync + 'static,
        set: impl Fn(&str) -> Result<()> + Send + Sync + 'static,
    ) -> Attribute {
        let content = Content::Line(Box::new(text), Some(Box::new(set)));
        Attribute { path: String::from(path), content }
    }

    /// A folder that may be empty.
    pub fn folder(path: &str) -> Attribute {
        Attribute { path: String::from(path), content: Content::Folder }
    }

    /// A link to the folder of another interface.
    pub fn link(path: &str, to: &str) -> Attribute {
        Attribute { path: String::from(path), content: Content::Link(String::from(to)) }
    }
}

/// Makes devices of a kind, which is asked for by name (`IFLA_INFO_KIND`).
pub trait Kind: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// The name of an interface whose maker gave none.
    fn pattern(&self) -> &'static str;
    /// A device with this hardware address, and what is told of it (`IFLA_INFO_DATA`).
    fn make(&self, mac: [u8; 6], details: &[(u16, &[u8])]) -> Result<Arc<dyn NetDevice>>;
}

static ALL: RwSpinLock<Vec<&'static dyn Kind>> = RwSpinLock::new(&KINDS, Vec::new());

/// Makes a kind known.
pub fn register_kind(kind: &'static dyn Kind) {
    ALL.write().push(kind);
}

/// The kind of a name.
pub fn kind(name: &str) -> Option<&'static dyn Kind> {
    ALL.read().iter().find(|kind| kind.name() == name).copied()
}

/// An address that a bridge knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The address.
    pub mac: [u8; 6],
    /// The number of the interface behind which it is.
    pub interface: u32,
    /// It is this host's.
    pub is_local: bool,
    /// It does not age.
    pub is_static: bool,
    /// When a frame came from it.
    pub seen_ns: u64,
    /// When a frame went to it.
    pub used_ns: u64,
}

/// What a bridge knows of who is behind which port.
pub trait Forwarding {
    /// All that is known.
    fn entries(&self) -> Vec<Forwarded>;
    /// Notes that an address is behind a port, or the bridge's own, if it may be made, and if it may be replaced.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `EOPNOTSUPP` for what is no port.
    fn add(&self, on: &Interface, entry: &Forwarded, how: (bool, bool)) -> Result<()>;
    /// Forgets an address. `ENOENT`.
    fn remove(&self, on: &Interface, mac: [u8; 6]) -> Result<()>;
}
