//! [`Disk`]: a drive with its partitions, and the registry of all drives.

use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::{Errno, Result};
use arch::lock::{LockClass, RwSpinLock};
use pagecache::Flusher;

use crate::device::{Device, DeviceId, Shared};
use crate::driver::Driver;
use crate::flush;
use crate::names::Naming;
use crate::partition;
use crate::queue::Core;

static DISKS: LockClass = LockClass::new("block.disks", 500);
static PARTITIONS: LockClass = LockClass::new("block.partitions", 505);

/// A drive that went while it was open: its name and number are taken until the last one closes it.
struct Gone {
    prefix: &'static str,
    index: u32,
    shared: Weak<Shared>,
}

/// Forgets those that nobody has open any more. What it returns is dropped when the lock is given back: it may be
/// the last of a drive.
fn sweep(gone: &mut Vec<Gone>) -> Vec<Arc<Shared>> {
    let mut seen = Vec::new();
    gone.retain(|one| {
        let shared = one.shared.upgrade();
        let is_used = shared.as_ref().is_some_and(|it| it.users.load(Ordering::Acquire) > 0);
        seen.extend(shared);
        is_used
    });
    seen
}

static GONE: RwSpinLock<Vec<Gone>> = RwSpinLock::new(&DISKS, Vec::new());

static ALL: RwSpinLock<Vec<Arc<Disk>>> = RwSpinLock::new(&DISKS, Vec::new());
/// Minors of `blkext` (259): partitions of NVMe drives and those without a minor of their own.
static NEXT_EXTENDED: AtomicU32 = AtomicU32::new(0);
const EXTENDED_MAJOR: u32 = 259;

/// What happened to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is there now.
    Added,
    /// It is gone.
    Removed,
    /// Its size or table changed.
    Changed,
}

/// Who is told of devices coming and going (devtmpfs, sysfs, uevents).
pub type EventHook = fn(Event, &Arc<Disk>, &Arc<Device>);
static HOOK: spin::Once<EventHook> = spin::Once::new();

/// Sets the hook, once, and tells it of the devices that exist.
pub fn set_event_hook(hook: EventHook) {
    HOOK.call_once(|| hook);
    for disk in disks() {
        for device in disk.devices() {
            hook(Event::Added, &disk, &device);
        }
    }
}

static WATCHER: spin::Once<EventHook> = spin::Once::new();

/// Sets who tells programs of devices that come and go from now on, once.
pub fn set_watcher(watcher: EventHook) {
    WATCHER.call_once(|| watcher);
}

/// A drive.
pub struct Disk {
    name: String,
    naming: Naming,
    index: u32,
    shared: Arc<Shared>,
    whole: Arc<Device>,
    partitions: RwSpinLock<Vec<Arc<Device>>>,
}

impl Disk {
    /// Adds the next drive of a family (`vda`, `vdb`, …) with `capacity` 512-byte sectors, and scans
    /// its partitions. May sleep: reads the drive.
    pub fn add_named(naming: Naming, driver: Arc<dyn Driver>, capacity: u64) -> Result<Arc<Disk>> {
        loop {
            // In this order: a drive that is removed joins those that went before it leaves these.
            let mut taken: Vec<u32> = {
                let all = ALL.read();
                let same = all.iter().filter(|disk| disk.naming.prefix == naming.prefix);
                same.map(|disk| disk.index).collect()
            };
            let _seen = {
                let mut gone = GONE.write();
                let seen = sweep(&mut gone);
                let same = gone.iter().filter(|gone| gone.prefix == naming.prefix);
                taken.extend(same.map(|gone| gone.index));
                seen
            };
            let index = (0..u32::MAX).find(|index| !taken.contains(index)).unwrap_or(0);
            let name = naming.disk_name(index);
            match Self::add_as(name, naming, index, driver.clone(), capacity) {
                // Another drive took the name meanwhile.
                Err(Errno::EEXIST) => {}
                result => return result,
            }
        }
    }

    /// Adds a drive whose driver names it (`nvme0n1`).
    pub fn add(name: &str, driver: Arc<dyn Driver>, capacity: u64) -> Result<Arc<Disk>> {
        Self::add_as(String::from(name), crate::names::OWN, u32::MAX, driver, capacity)
    }

    /// Adds the drive of a family that has this number: `EEXIST` if there is one.
    pub fn add_numbered(
        naming: Naming,
        index: u32,
        driver: Arc<dyn Driver>,
        capacity: u64,
    ) -> Result<Arc<Disk>> {
        Self::add_as(naming.disk_name(index), naming, index, driver, capacity)
    }

    fn add_as(
        name: String,
        naming: Naming,
        index: u32,
        driver: Arc<dyn Driver>,
        capacity: u64,
    ) -> Result<Arc<Disk>> {
        let core = Arc::new(Core::new(driver));
        let read_only = core.limits.read_only;
        let shared = Arc::new(Shared {
            flush: Arc::new(flush::Flusher::new()),
            flusher: Flusher::new(&name),
            block_size: AtomicU32::new(core.limits.logical_block_size),
            core,
            read_only: AtomicBool::new(read_only),
            users: AtomicU32::new(0),
        });
        let id = match naming.major {
            EXTENDED_MAJOR => extended_id(),
            major => DeviceId { major, minor: index * naming.minors },
        };
        let whole = Device::new(&shared, name.clone(), id, None, capacity);
        let partitions = RwSpinLock::new(&PARTITIONS, Vec::new());
        let disk = Arc::new(Disk { name, naming, index, shared, whole, partitions });
        {
            let mut all = ALL.write();
            if all.iter().any(|known| known.name == disk.name) {
                disk.shared.flusher.stop();
                return Err(Errno::EEXIST);
            }
            all.push(disk.clone());
        }
        log::info!("{}: {} sectors of 512 bytes", disk.name, capacity);
        disk.tell(Event::Added, &disk.whole);
        if naming == crate::names::CDROM {
            return Ok(disk);
        }
        if let Err(error) = disk.rescan() {
            log::warn!("{}: cannot read the partition table: {error}", disk.name);
        }
        Ok(disk)
    }

    fn tell(self: &Arc<Disk>, event: Event, device: &Arc<Device>) {
        for hook in [&HOOK, &WATCHER].into_iter().filter_map(spin::Once::get) {
            hook(event, self, device);
        }
    }

    /// `vda`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole disk as a device.
    pub fn whole(&self) -> &Arc<Device> {
        &self.whole
    }

    /// Its partitions.
    pub fn partitions(&self) -> Vec<Arc<Device>> {
        self.partitions.read().clone()
    }

    /// The whole disk and its partitions.
    pub fn devices(&self) -> Vec<Arc<Device>> {
        let mut devices = alloc::vec![self.whole.clone()];
        devices.extend(self.partitions());
        devices
    }

    /// Reads the partition table again: `BLKRRPART`. `EBUSY` while a partition is in use, `EINVAL` for drives
    /// whose media have none.
    pub fn rescan(self: &Arc<Disk>) -> Result<()> {
        if self.naming == crate::names::CDROM {
            return Err(Errno::EINVAL);
        }
        let old = self.partitions();
        if old.iter().any(|device| device.is_claimed()) {
            return Err(Errno::EBUSY);
        }
        let block = self.whole.block_size();
        let read = |offset: u64, buffer: &mut [u8]| self.whole.read_at(offset, buffer);
        let found = partition::scan(self.whole.sectors(), block, &read)?;
        for device in &old {
            self.tell(Event::Removed, device);
        }
        let mut devices = Vec::new();
        for partition in found {
            let digit = self.name.ends_with(|c: char| c.is_ascii_digit());
            let separator = if digit { "p" } else { "" };
            let name = alloc::format!("{}{separator}{}", self.name, partition.number);
            let base = self.whole.id();
            let id = if base.major != EXTENDED_MAJOR && partition.number < self.naming.minors {
                DeviceId { major: base.major, minor: base.minor + partition.number }
            } else {
                extended_id()
            };
            let sectors = partition.sectors;
            devices.push(Device::new(&self.shared, name, id, Some(partition), sectors));
        }
        *self.partitions.write() = devices.clone();
        for device in &devices {
            self.tell(Event::Added, device);
        }
        Ok(())
    }

    /// The drive's size changed; thread context.
    pub fn set_capacity(self: &Arc<Disk>, sectors: u64) {
        if sectors != self.whole.sectors() {
            log::info!("{}: now {sectors} sectors", self.name);
            self.whole.set_sectors(sectors);
            self.tell(Event::Changed, &self.whole);
        }
    }

    /// Chooses another size of logical blocks: a power of two from 512 to that of a page. Nobody
    /// transfers anything.
    pub fn set_block_size(&self, bytes: u32) {
        self.shared.block_size.store(bytes, Ordering::Relaxed);
        attributes_changed();
    }

    /// The drive is gone.
    pub fn remove(self: &Arc<Disk>) {
        let gone = Gone {
            prefix: self.naming.prefix,
            index: self.index,
            shared: Arc::downgrade(&self.shared),
        };
        let _seen = {
            let mut all = GONE.write();
            let seen = sweep(&mut all);
            all.push(gone);
            seen
        };
        ALL.write().retain(|disk| !Arc::ptr_eq(disk, self));
        // Partitions go before their disk.
        for device in self.devices().iter().rev() {
            self.tell(Event::Removed, device);
        }
        self.shared.flusher.stop();
    }

    /// Sets or clears the read-only state: `BLKROSET`.
    pub fn set_read_only(&self, state: ReadOnly) {
        self.shared.read_only.store(state == ReadOnly::Yes, Ordering::Relaxed);
    }

    pub(crate) fn check_timeouts(&self) {
        self.shared.core.check_timeouts();
    }
}

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Grows with every change of what [`Driver::attributes`] tells.
pub fn attributes_generation() -> u32 {
    // Acquire: pairs with the Release of the change, so that who sees it sees what changed.
    GENERATION.load(Ordering::Acquire)
}

/// What a driver's attributes tell has changed.
pub fn attributes_changed() {
    GENERATION.fetch_add(1, Ordering::Release);
}

/// Whether writes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOnly {
    /// They are.
    Yes,
    /// They are not.
    No,
}

fn extended_id() -> DeviceId {
    // Relaxed: only uniqueness matters.
    DeviceId { major: EXTENDED_MAJOR, minor: NEXT_EXTENDED.fetch_add(1, Ordering::Relaxed) }
}

/// All drives, in the order they came.
pub fn disks() -> Vec<Arc<Disk>> {
    ALL.read().clone()
}

/// Every disk and partition.
pub fn devices() -> Vec<Arc<Device>> {
    disks().iter().flat_map(|disk| disk.devices()).collect()
}

/// The device with this number.
pub fn by_id(id: DeviceId) -> Option<Arc<Device>> {
    devices().into_iter().find(|device| device.id() == id)
}

/// The disk a device belongs to.
pub fn disk_of(device: &Device) -> Option<Arc<Disk>> {
    disks().into_iter().find(|disk| disk.devices().iter().any(|known| known.id() == device.id()))
}

/// The partition with this number on the disk of another.
fn neighbour(device: &Device, number: i64) -> Option<Arc<Device>> {
    let is_it = |found: &Arc<Device>| {
        found.partition().is_some_and(|partition| i64::from(partition.number) == number)
    };
    disk_of(device)?.devices().into_iter().find(is_it)
}

/// The device that a `root=` value names: `/dev/vda1`, `vda1`, `254:1`, hexadecimal `fe01`,
/// `UUID=…`, `LABEL=…`, `PARTUUID=…`, `PARTUUID=…/PARTNROFF=n` (the partition that is `n` further
/// on), `PARTLABEL=…`.
pub fn by_spec(spec: &str) -> Option<Arc<Device>> {
    let spec = spec.trim_matches('"');
    if let Some((tag, value)) = spec.split_once('=') {
        let value = value.trim_matches('"');
        let probed = |wanted: fn(&crate::probe::Probed) -> &str| {
            devices().into_iter().find(|device| match device.probe() {
                Ok(Some(found)) => wanted(&found).eq_ignore_ascii_case(value),
                _ => false,
            })
        };
        let part = |wanted: fn(&partition::Partition) -> &str| {
            let mut all = devices().into_iter();
            all.find(|d| d.partition().is_some_and(|p| wanted(p).eq_ignore_ascii_case(value)))
        };
        return match tag {
            "UUID" => probed(|found| &found.uuid),
            "LABEL" => probed(|found| &found.label),
            "PARTUUID" => match value.split_once("/PARTNROFF=") {
                Some((value, offset)) => {
                    let first = by_spec(&alloc::format!("PARTUUID={value}"))?;
                    let number = i64::from(first.partition()?.number);
                    neighbour(&first, number.checked_add(offset.parse().ok()?)?)
                }
                None => part(|partition| &partition.uuid),
            },
            "PARTLABEL" => part(|partition| &partition.label),
            _ => None,
        };
    }
    let name = spec.strip_prefix("/dev/").unwrap_or(spec);
    if let Some(device) = devices().into_iter().find(|device| device.name() == name) {
        return Some(device);
    }
    let id = if let Some((major, minor)) = name.split_once(':') {
        DeviceId { major: major.parse().ok()?, minor: minor.parse().ok()? }
    } else {
        let old = u32::from_str_radix(name, 16).ok()?;
        DeviceId { major: old >> 8 & 0xfff, minor: old & 0xff | old >> 12 & 0xf_ff00 }
    };
    by_id(id)
}
