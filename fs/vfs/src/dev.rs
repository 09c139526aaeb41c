//! Device numbers and who serves them; openers for fifos and sockets.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result};
use arch::lock::{LockClass, Once, RwSpinLock};
use bitflags::bitflags;

use crate::context::Context;
use crate::file::{FileMode, FileOps};
use crate::inode::Inode;
use crate::types::{DeviceNumber, FileKind};

static DEVICES: LockClass = LockClass::new("vfs.devices", 286);

/// What an open of a device, fifo or socket node gives.
pub struct Opened {
    /// The operations of the new open file.
    pub ops: Arc<dyn FileOps>,
    /// Mode bits the device adds ([`FileMode::SEEK`] for devices with positions).
    pub mode: FileMode,
}

/// A driver's side of opening a device node.
pub trait DeviceOpen: Send + Sync {
    /// Opens the device `dev` through `inode` with `O_*` flags.
    fn open(
        &self,
        dev: DeviceNumber,
        inode: &Arc<Inode>,
        flags: u32,
        ctx: &Context<'_>,
    ) -> Result<Opened>;
}

/// A node that should exist in `/dev` (devtmpfs makes it) and in `/sys`.
#[derive(Clone, Debug)]
pub struct DeviceNode {
    /// Path below `/dev`: `null`, `pts/ptmx`, `input/event0`.
    pub name: String,
    /// Character or block.
    pub kind: FileKind,
    /// Its number.
    pub dev: DeviceNumber,
    /// Permission bits.
    pub mode: u32,
    /// Class in `/sys/class` (`mem`, `tty`, `block`, `misc`); empty for none.
    pub class: &'static str,
    /// Further files in `/sys`, by name.
    pub attributes: Vec<(&'static str, String)>,
}

/// Told about device nodes that come and go.
pub trait NodeListener: Send + Sync {
    /// A node appeared.
    fn added(&self, node: &DeviceNode);
    /// A node is gone.
    fn removed(&self, node: &DeviceNode);
}

struct Range {
    last: u32,
    name: String,
    open: Arc<dyn DeviceOpen>,
}

/// Ranges by their first number.
type Ranges = BTreeMap<(u32, u32), Range>;

static CHAR: RwSpinLock<Ranges> = RwSpinLock::new(&DEVICES, BTreeMap::new());
static BLOCK: RwSpinLock<Ranges> = RwSpinLock::new(&DEVICES, BTreeMap::new());
static NODES: RwSpinLock<Vec<DeviceNode>> = RwSpinLock::new(&DEVICES, Vec::new());
static LISTENERS: RwSpinLock<Vec<Arc<dyn NodeListener>>> = RwSpinLock::new(&DEVICES, Vec::new());

fn register(
    table: &RwSpinLock<Ranges>,
    first: DeviceNumber,
    count: u32,
    name: &str,
    open: Arc<dyn DeviceOpen>,
) -> Result<()> {
    let last = first.minor().checked_add(count.max(1) - 1).ok_or(Errno::EINVAL)?;
    let name = name.to_string();
    let key = (first.major(), first.minor());
    let mut table = table.write();
    let clash = table
        .range((key.0, 0)..=(key.0, last))
        .next_back()
        .is_some_and(|(_, range)| range.last >= key.1);
    if clash {
        return Err(Errno::EBUSY);
    }
    table.insert(key, Range { last, name, open });
    Ok(())
}

/// Serves `count` character devices from `first` on; `name` is shown in `/proc/devices`.
pub fn register_char(
    first: DeviceNumber,
    count: u32,
    name: &str,
    open: Arc<dyn DeviceOpen>,
) -> Result<()> {
    register(&CHAR, first, count, name, open)
}

/// Serves `count` block devices from `first` on.
pub fn register_block(
    first: DeviceNumber,
    count: u32,
    name: &str,
    open: Arc<dyn DeviceOpen>,
) -> Result<()> {
    register(&BLOCK, first, count, name, open)
}

/// Ends the service registered with this first number.
pub fn unregister(kind: FileKind, first: DeviceNumber) {
    let table = if kind == FileKind::BlockDevice { &BLOCK } else { &CHAR };
    table.write().remove(&(first.major(), first.minor()));
}

fn serving(table: &RwSpinLock<Ranges>, dev: DeviceNumber) -> Option<Arc<dyn DeviceOpen>> {
    let table = table.read();
    let (_, range) = table.range((dev.major(), 0)..=(dev.major(), dev.minor())).next_back()?;
    (range.last >= dev.minor()).then(|| range.open.clone())
}

/// Lines of `/proc/devices`: (major, name), character or block.
pub fn majors(kind: FileKind) -> Vec<(u32, String)> {
    let table = if kind == FileKind::BlockDevice { &BLOCK } else { &CHAR };
    let mut list: Vec<(u32, String)> =
        table.read().iter().map(|(key, range)| (key.0, range.name.clone())).collect();
    list.dedup();
    list
}

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Changes whenever a node appears or disappears.
pub fn generation() -> u32 {
    // Acquire: pairs with the Release of the change, so that who sees it sees the list.
    GENERATION.load(Ordering::Acquire)
}

/// Makes a node appear in `/dev`.
pub fn add_node(node: DeviceNode) {
    NODES.write().push(node.clone());
    GENERATION.fetch_add(1, Ordering::Release);
    let listeners = LISTENERS.read().clone();
    listeners.iter().for_each(|l| l.added(&node));
}

/// Makes a node disappear from `/dev`.
pub fn remove_node(kind: FileKind, dev: DeviceNumber) {
    let removed: Vec<DeviceNode> =
        NODES.write().extract_if(.., |n| n.kind == kind && n.dev == dev).collect();
    GENERATION.fetch_add(1, Ordering::Release);
    let listeners = LISTENERS.read().clone();
    for node in &removed {
        listeners.iter().for_each(|l| l.removed(node));
    }
}

/// Gives a node a further file in `/sys`, or that file another text.
pub fn set_attribute(kind: FileKind, dev: DeviceNumber, name: &'static str, text: String) {
    for node in NODES.write().iter_mut().filter(|n| n.kind == kind && n.dev == dev) {
        node.attributes.retain(|(known, _)| *known != name);
        node.attributes.push((name, text.clone()));
    }
    GENERATION.fetch_add(1, Ordering::Release);
}

/// All nodes there are.
pub fn nodes() -> Vec<DeviceNode> {
    NODES.read().clone()
}

/// Hears of all nodes: those that exist (at once) and those to come.
pub fn listen(listener: Arc<dyn NodeListener>) {
    LISTENERS.write().push(listener.clone());
    for node in nodes() {
        listener.added(&node);
    }
}

/// An unused major number for dynamic registration: from 254 down to 234, then 511 down to 384.
pub fn dynamic_major() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    if n <= 20 { 254 - n } else { 511 - (n - 21) % 128 }
}

bitflags! {
    /// What is done with a device node.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DeviceAccess: u8 {
        /// Opened to read.
        const READ = 1;
        /// Opened to write.
        const WRITE = 2;
        /// Made: `mknod(2)`.
        const MAKE = 4;
    }
}

/// Says whether the running task may use a device node so; the error if not.
pub type Gate = fn(kind: FileKind, dev: DeviceNumber, access: DeviceAccess) -> Result<()>;

static GATE: Once<Gate> = Once::new();

/// Sets who is asked before a device node is used, by open(2) or access(2), or made.
pub fn set_gate(gate: Gate) {
    GATE.call_once(|| gate);
}

/// Asks the gate; nothing if `access` is empty.
pub(crate) fn check_access(kind: FileKind, dev: DeviceNumber, access: DeviceAccess) -> Result<()> {
    if access.is_empty() {
        return Ok(());
    }
    GATE.get().map_or(Ok(()), |gate| gate(kind, dev, access))
}

/// Opens special files that no driver serves: fifos and sockets.
pub trait SpecialOpen: Send + Sync {
    /// Opens `inode` with `O_*` flags; may wait for the other end.
    fn open(&self, inode: &Arc<Inode>, flags: u32, ctx: &Context<'_>) -> Result<Opened>;
}

static FIFO: Once<&'static dyn SpecialOpen> = Once::new();

/// Sets who opens fifos (`anon`).
pub fn set_fifo_opener(opener: &'static dyn SpecialOpen) {
    FIFO.call_once(|| opener);
}

/// What opening a character device that nobody serves says: the devices of the major `misc` are one
/// driver's, which knows no such minor.
fn unserved(dev: DeviceNumber) -> Errno {
    const MISC_MAJOR: u32 = 10;
    if dev.major() == MISC_MAJOR { Errno::ENODEV } else { Errno::ENXIO }
}

/// Opens a device, fifo or socket inode.
pub(crate) fn open_special(inode: &Arc<Inode>, flags: u32, ctx: &Context<'_>) -> Result<Opened> {
    match inode.kind {
        FileKind::CharDevice => {
            let driver = serving(&CHAR, inode.rdev).ok_or_else(|| unserved(inode.rdev))?;
            driver.open(inode.rdev, inode, flags, ctx)
        }
        FileKind::BlockDevice => {
            let driver = serving(&BLOCK, inode.rdev).ok_or(Errno::ENXIO)?;
            driver.open(inode.rdev, inode, flags, ctx)
        }
        FileKind::Fifo => FIFO.get().ok_or(Errno::ENXIO)?.open(inode, flags, ctx),
        _ => Err(Errno::ENXIO),
    }
}
