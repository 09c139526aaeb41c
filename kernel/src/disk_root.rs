//! `root=`: the root file system on a disk, with the words and the messages of Linux (bootparam(7)).

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::Write;

use abi::Errno;
use abi::mount::{MS_RDONLY, MS_RELATIME};
use arch::time::NANOS_PER_SEC;
use block::{Device, DeviceId};
use klog::CommandLine;
use vfs::MountNamespace;

/// How often `rootwait` looks for the device.
const LOOK_INTERVAL_NS: u64 = NANOS_PER_SEC / 20;
/// What can be mounted from a disk, in the order in which it is tried.
const FILE_SYSTEMS: [&str; 1] = ["ext4"];

/// Mounts what `root=` names. Panics with the devices that exist if that cannot be done: there is
/// nothing to go on with.
pub(crate) fn mount(line: &CommandLine) -> Arc<MountNamespace> {
    let spec = line.value("root");
    if let Some(seconds) = line.number("rootdelay").and_then(|s| u64::try_from(s).ok()) {
        log::info!("Waiting {seconds} sec before mounting root device...");
        pause(seconds.saturating_mul(NANOS_PER_SEC));
    }
    let Some(device) = find(spec, line.has("rootwait")) else {
        cannot_open(spec, None, Errno::ENXIO);
    };
    // The last of `ro` and `rw` counts; without either Linux starts read-only.
    let last = line.parameters().iter().rfind(|word| word.name == "ro" || word.name == "rw");
    let mut flags = if last.is_some_and(|word| word.name == "rw") { 0 } else { MS_RDONLY };
    let options = line.value("rootflags").unwrap_or_default();
    let sb = loop {
        if !is_wanted(line.value("rootfstype")) {
            no_file_system(&device, line.value("rootfstype").unwrap_or_default());
        }
        match ext4::mount(&device, flags, options.as_bytes()) {
            Ok(sb) => break sb,
            // A device that cannot be written to is mounted as it can be.
            Err(Errno::EACCES | Errno::EROFS) if flags & MS_RDONLY == 0 => flags |= MS_RDONLY,
            Err(Errno::EINVAL) => no_file_system(&device, &FILE_SYSTEMS.join(" ")),
            Err(error) => cannot_open(spec, Some(device.id()), error),
        }
    };
    let user_ns = process::creds::initial_user_ns().clone();
    let (id, mount_flags) = (MountNamespace::INITIAL, flags | MS_RELATIME);
    let mounts = MountNamespace::with_root(id, user_ns, &sb, b"/dev/root", mount_flags);
    let mounts = match mounts {
        Ok(mounts) => mounts,
        Err(error) => cannot_open(spec, Some(device.id()), error),
    };
    let mode = if flags & MS_RDONLY != 0 { " readonly" } else { "" };
    let id = device.id();
    log::info!("VFS: Mounted root (ext4 filesystem){mode} on device {}:{}.", id.major, id.minor);
    mounts
}

/// The device; with `rootwait` one that is there at last.
fn find(spec: Option<&str>, is_patient: bool) -> Option<Arc<Device>> {
    let spec = spec?;
    if let Some(device) = block::by_spec(spec) {
        return Some(device);
    }
    // SATA disks are looked for beside all else.
    ahci::settle();
    if let Some(device) = block::by_spec(spec) {
        return Some(device);
    }
    if !is_patient {
        return None;
    }
    log::info!("Waiting for root device {spec}...");
    loop {
        pause(LOOK_INTERVAL_NS);
        if let Some(device) = block::by_spec(spec) {
            return Some(device);
        }
    }
}

fn pause(duration_ns: u64) {
    let nobody = sched::WaitQueue::new();
    let deadline = arch::time::now_ns().saturating_add(duration_ns);
    let _: Option<()> = nobody.wait_deadline(deadline, || None);
}

/// Whether `rootfstype=`, a list, leaves something to try.
fn is_wanted(types: Option<&str>) -> bool {
    types.is_none_or(|types| types.split(',').any(|name| FILE_SYSTEMS.contains(&name)))
}

fn cannot_open(spec: Option<&str>, id: Option<DeviceId>, error: Errno) -> ! {
    let name = Unknown(id);
    let spec = spec.unwrap_or("(null)");
    log::error!("VFS: Cannot open root device \"{spec}\" or {name}: error -{}", error.raw());
    log::error!(
        "Please append a correct \"root=\" boot option; here are the available partitions:"
    );
    list();
    panic!("VFS: Unable to mount root fs on {name}");
}

fn no_file_system(device: &Device, tried: &str) -> ! {
    log::error!("List of all partitions:");
    list();
    log::error!("No filesystem could mount root, tried: {tried}");
    panic!("VFS: Unable to mount root fs on {}", Unknown(Some(device.id())));
}

/// Every disk and partition: number, size in KiB, name, and the identifier that `PARTUUID=` takes.
///
/// A boot ends with it: the console that was asked for is to show that, and may still be on its way.
fn list() {
    tty::console::wait_for_chosen();
    for device in block::devices() {
        let id = device.id();
        let mut number = String::new();
        let _ = if id.major < 256 && id.minor < 256 {
            write!(number, "{:02x}{:02x}", id.major, id.minor)
        } else {
            write!(number, "{:x}:{:x}", id.major, id.minor)
        };
        let kib = device.sectors() / 2;
        let name = device.name();
        match device.partition() {
            Some(partition) => log::error!("  {number:<8} {kib:>10} {name} {}", partition.uuid),
            None => log::error!("{number:<8} {kib:>10} {name}"),
        }
    }
}

/// A device by its number alone, `unknown-block(254,1)`.
struct Unknown(Option<DeviceId>);

impl core::fmt::Display for Unknown {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (major, minor) = self.0.map_or((0, 0), |id| (id.major, id.minor));
        write!(f, "unknown-block({major},{minor})")
    }
}
