//! `root=`: the root file system on a disk.

use alloc::string::String;
use alloc::sync::Arc;

use abi::mount::MS_RDONLY;
use klog::CommandLine;
use vfs::MountNamespace;

/// Mounts what `root=` names. Panics with the devices that exist if that cannot be done: there is
/// nothing to go on with.
pub(crate) fn mount(line: &CommandLine, spec: &str) -> Arc<MountNamespace> {
    let patient = line.has("rootwait");
    let device = loop {
        if let Some(device) = block::by_spec(spec) {
            break device;
        }
        if !patient {
            give_up(spec, "no such device");
        }
        let pause = sched::WaitQueue::new();
        let deadline = arch::time::now_ns() + 100_000_000;
        let _: Option<()> = pause.wait_deadline(deadline, || None);
    };
    // The last of `ro` and `rw` counts; without either Linux starts read-only.
    let last = line.parameters().iter().rfind(|word| word.name == "ro" || word.name == "rw");
    let flags = if last.is_some_and(|word| word.name == "rw") { 0 } else { MS_RDONLY };
    let sb = match ext4::mount(&device, flags) {
        Ok(sb) => sb,
        Err(error) => give_up(spec, error.name()),
    };
    let user_ns = process::creds::initial_user_ns().clone();
    let source = alloc::format!("/dev/{}", device.name());
    match MountNamespace::with_root(0xf000_0000, user_ns, &sb, source.as_bytes(), flags) {
        Ok(mounts) => {
            log::info!("VFS: Mounted root (ext4 filesystem) on device {}.", device.name());
            mounts
        }
        Err(error) => give_up(spec, error.name()),
    }
}

fn give_up(spec: &str, why: &str) -> ! {
    log::error!("VFS: Cannot open root device \"{spec}\": {why}");
    log::error!(
        "Please append a correct \"root=\" boot option; here are the available partitions:"
    );
    for device in block::devices() {
        let id = device.id();
        let uuid = device.partition().map_or(String::new(), |partition| partition.uuid.clone());
        let blocks = device.sectors() / 2;
        log::error!("{:04x}{:02x} {blocks:>10} {} {uuid}", id.major, id.minor, device.name());
    }
    panic!("VFS: Unable to mount root fs on \"{spec}\"");
}
