//! PCI functions: `/sys/devices/pci0000:00`, `/sys/bus/pci`, and virtio devices on them.

use crate::tree::Builder;
use abi::{Errno, Result};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::uio::{Sink, Source};
use core::any::Any;
use pci::Device;
use pseudo::{Body, Node, Text};
use vfs::{File, FileOps};

const VIRTIO: u16 = 0x1af4;

/// The directory of a function by its name, `0000:00:01.0`. Buses behind bridges are shown flat.
pub(crate) fn path_of(name: &str) -> String {
    let bus = name.get(..7).unwrap_or("0000:00");
    format!("devices/pci{bus}/{name}")
}

/// The device that a virtio function carries: `virtio0` and so on, in the order of the functions.
pub(crate) fn inner_device(function: &str) -> String {
    let carriers = carriers();
    let index = carriers.iter().position(|device| path_of(&device.name()) == function);
    format!("{function}/virtio{}", index.unwrap_or(0))
}

fn carriers() -> Vec<Arc<Device>> {
    let mut all = pci::devices();
    all.retain(|device| device.id.vendor == VIRTIO && device.driver().is_some());
    all
}

pub(crate) fn add(tree: &mut Builder) {
    for dir in ["bus/pci/devices", "bus/pci/drivers", "bus/pci/slots"] {
        tree.dir(dir);
    }
    for device in pci::devices() {
        add_function(tree, &device);
    }
    for device in carriers() {
        add_virtio(tree, &device);
    }
}

fn modalias(device: &Device) -> String {
    let id = &device.id;
    let (class, sub, interface) = (id.class >> 16 & 0xff, id.class >> 8 & 0xff, id.class & 0xff);
    format!(
        "pci:v{:08X}d{:08X}sv{:08X}sd{:08X}bc{class:02X}sc{sub:02X}i{interface:02X}",
        id.vendor, id.device, id.subsystem_vendor, id.subsystem
    )
}

fn add_function(tree: &mut Builder, device: &Arc<Device>) {
    let (id, name) = (&device.id, device.name());
    let path = path_of(&name);
    let mut lines = Vec::new();
    if let Some(driver) = device.driver() {
        lines.push(format!("DRIVER={driver}"));
        let of = format!("bus/pci/drivers/{driver}");
        tree.link(&format!("{path}/driver"), &of);
        tree.link(&format!("{of}/{name}"), &path);
    }
    let modalias = modalias(device);
    lines.push(format!("PCI_CLASS={:X}", id.class));
    lines.push(format!("PCI_ID={:04X}:{:04X}", id.vendor, id.device));
    lines.push(format!("PCI_SUBSYS_ID={:04X}:{:04X}", id.subsystem_vendor, id.subsystem));
    lines.push(format!("PCI_SLOT_NAME={name}"));
    lines.push(format!("MODALIAS={modalias}"));
    tree.uevent(&path, &lines);
    tree.device(&path, "bus/pci", &name);
    let (_, line) = device.interrupt;
    for (file, text) in [
        ("broken_parity_status", "0".into()),
        ("class", format!("{:#08x}", id.class)),
        ("device", format!("{:#06x}", id.device)),
        ("enable", u32::from(device.driver().is_some()).to_string()),
        ("irq", if line == 255 { "0".into() } else { line.to_string() }),
        ("local_cpulist", arch::cpu::online().to_string()),
        ("local_cpus", crate::system::mask(&arch::cpu::online())),
        ("modalias", modalias),
        ("numa_node", "-1".into()),
        ("resource", resources(device)),
        ("revision", format!("{:#04x}", id.revision)),
        ("subsystem_device", format!("{:#06x}", id.subsystem)),
        ("subsystem_vendor", format!("{:#06x}", id.subsystem_vendor)),
        ("vendor", format!("{:#06x}", id.vendor)),
    ] {
        tree.fixed(&format!("{path}/{file}"), text);
    }
    let config = Node {
        ino: 0,
        mode: 0o644,
        owner: (0, 0),
        body: Body::File(Arc::new(Config(device.clone()))),
    };
    tree.put(&format!("{path}/config"), config);
}

/// Thirteen lines, as for a device with a ROM and bridge windows: start, end, flags.
fn resources(device: &Device) -> String {
    const IO: u64 = 0x100;
    const MEMORY: u64 = 0x200;
    const PREFETCH: u64 = 0x2000;
    const SIZE_ALIGNED: u64 = 0x4_0000;
    const IS_64BIT: u64 = 0x10_0000;
    let mut lines: Vec<String> = Vec::new();
    for bar in device.bars() {
        let Some(bar) = bar.filter(|bar| bar.address != 0) else {
            lines.push(row(0, 0, 0));
            continue;
        };
        let flags = match bar.kind {
            pci::BarKind::Ports => IO | SIZE_ALIGNED | 1,
            pci::BarKind::Memory { is_64bit, is_prefetchable } => {
                let mut flags = MEMORY | SIZE_ALIGNED;
                if is_64bit {
                    flags |= IS_64BIT | 4;
                }
                if is_prefetchable {
                    flags |= PREFETCH | 8;
                }
                flags
            }
        };
        lines.push(row(bar.address, bar.address + (bar.size - 1), flags));
    }
    lines.resize(13, row(0, 0, 0));
    lines.join("\n")
}

fn row(start: u64, end: u64, flags: u64) -> String {
    format!("{start:#018x} {end:#018x} {flags:#018x}")
}

fn add_virtio(tree: &mut Builder, device: &Arc<Device>) {
    let path = inner_device(&path_of(&device.name()));
    let Some((_, name)) = path.rsplit_once('/') else { return };
    // Virtio 1.1 §4.1.2: transitional functions say what they are in the subsystem number.
    let kind = match device.id.device {
        modern @ 0x1040.. => u32::from(modern) - 0x1040,
        _ => u32::from(device.id.subsystem),
    };
    let modalias = format!("virtio:d{kind:08X}v{:08X}", device.id.subsystem_vendor);
    tree.fixed(&format!("{path}/device"), format!("{kind:#06x}"));
    tree.fixed(&format!("{path}/vendor"), format!("{:#06x}", device.id.subsystem_vendor));
    tree.fixed(&format!("{path}/modalias"), modalias.as_str());
    let driver = match kind {
        2 => Some("virtio_blk"),
        4 => Some("virtio_rng"),
        _ => None,
    };
    let mut lines = Vec::new();
    if let Some(driver) = driver {
        lines.push(format!("DRIVER={driver}"));
        let of = format!("bus/virtio/drivers/{driver}");
        tree.link(&format!("{path}/driver"), &of);
        tree.link(&format!("{of}/{name}"), &path);
    }
    lines.push(format!("MODALIAS={modalias}"));
    tree.uevent(&path, &lines);
    tree.device(&path, "bus/virtio", name);
}

/// `config`: the configuration space, bytes as the device has them.
struct Config(Arc<Device>);

impl Text for Config {
    fn show(&self, _: &mut Vec<u8>) -> Result<()> {
        Err(Errno::EINVAL)
    }
    fn open(&self) -> Option<Result<Arc<dyn FileOps>>> {
        Some(Ok(Arc::new(ConfigFile(self.0.clone()))))
    }
}

struct ConfigFile(Arc<Device>);

/// What everybody may read of the configuration space.
const PUBLIC: u64 = 64;

impl FileOps for ConfigFile {
    fn read_at(&self, file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        let may_all = file.creds.capable(vfs::Cap::SYS_ADMIN);
        let size = if may_all { u64::from(self.0.config_size()) } else { PUBLIC };
        let mut bytes = alloc::vec![0; sink.remaining().min(size.saturating_sub(pos) as usize)];
        let offset = u16::try_from(pos.min(size)).map_err(|_| Errno::EINVAL)?;
        let n = pci::config_bytes(&self.0, offset, &mut bytes);
        Ok(sink.put(bytes.get(..n).unwrap_or_default())?)
    }

    fn write_at(&self, _: &File, _: u64, _: &mut Source<'_>) -> Result<usize> {
        // Drivers own their devices; nothing else may change them.
        Err(Errno::EPERM)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
