//! The root file system, the devices, and process 1.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fcntl::O_RDWR;
use abi::{Errno, Result};
use arch::boot::BootInfo;
use klog::CommandLine;
use vfs::{
    Context, DeviceNumber, File, FileKind, KernelCaller, MountNamespace, OpenHow, Path, Walk,
};

/// Programs tried as process 1 when the command line names none, as init(1) has them.
const DEFAULT_PROGRAMS: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];
/// The program of an initial RAM disk, when the command line names none.
const RAM_DISK_PROGRAM: &str = "/init";
/// Words of the command line that mean something to the kernel and are not passed to init.
const KNOWN: [&str; 26] = [
    "console",
    "root",
    "rootfstype",
    "rootflags",
    "ro",
    "rw",
    "rootwait",
    "rootdelay",
    "init",
    "rdinit",
    "initrd",
    "ip",
    "quiet",
    "loglevel",
    "panic",
    "nosmp",
    "maxcpus",
    "mem",
    "nokaslr",
    "noinitrd",
    "earlyprintk",
    "earlycon",
    "debug",
    "ignore_loglevel",
    "sysrq_always_enabled",
    "libata.fua",
];

/// The rest of start-up, in a thread of its own.
pub(crate) fn start(info: &'static BootInfo, line: &CommandLine) {
    let total_kib = frames::total_pages() * 4;
    log::info!("Memory: {total_kib}K available, {} CPUs", arch::cpu::count());
    file_systems(info);
    inet::set_random(process::random::next_u64);
    inet::init(line.value("ip"));
    let mounts = match rootfs() {
        Ok(mounts) => mounts,
        Err(error) => panic!("rootfs: {error}"),
    };
    let root = match mounts.root_path() {
        Ok(root) => root,
        Err(error) => panic!("rootfs: {error}"),
    };
    let creds = process::creds::initial_creds();
    let ctx = Context {
        creds,
        root: &root,
        cwd: &root,
        umask: 0,
        mounts: &mounts,
        caller: &KernelCaller,
    };
    report("rootfs", first_files(&ctx));
    devices(line, &mounts);
    if let Some(image) = arch::boot::initrd() {
        match initramfs::unpack(&ctx, image) {
            Ok(count) => log::info!("initramfs: {count} entries unpacked"),
            Err(error) => log::error!("{error}"),
        }
    }
    let in_ram = line.value("rdinit").unwrap_or(RAM_DISK_PROGRAM);
    if vfs::walk(&ctx, ctx.root, in_ram.as_bytes(), Walk::FOLLOW).is_ok() {
        return run_init(line, &ctx, Some(in_ram));
    }
    let mounts = crate::disk_root::mount(line);
    let root = match mounts.root_path() {
        Ok(root) => root,
        Err(error) => panic!("root: {error}"),
    };
    let ctx = Context { root: &root, cwd: &root, mounts: &mounts, ..ctx };
    report("/dev", mount_dev(&ctx));
    run_init(line, &ctx, None);
}

/// Puts devtmpfs on the disk's `/dev`, as Linux's `CONFIG_DEVTMPFS_MOUNT` does.
fn mount_dev(ctx: &Context<'_>) -> Result<()> {
    let target = vfs::walk(ctx, ctx.root, b"/dev", Walk::FOLLOW | Walk::DIRECTORY)?;
    let args = vfs::mount::MountArgs {
        source: Some(b"devtmpfs"),
        target,
        fs_type: Some(b"devtmpfs"),
        flags: 0,
        data: b"mode=0755",
    };
    vfs::mount::mount(ctx, args, |name| vfs::walk(ctx, ctx.cwd, name, Walk::FOLLOW))
}

fn report<T>(what: &str, result: Result<T>) {
    if let Err(error) = result {
        log::error!("{what}: {error}");
    }
}

fn file_systems(info: &BootInfo) {
    process::signal::files::serve_files();
    tmpfs::set_memory(frames::total_pages());
    tmpfs::init();
    ext4::init();
    iso9660::init();
    fat::init();
    squashfs::init();
    anon::pipe::init();
    socket::trees::init();
    unix::init();
    netlink::init();
    procfs::init(info.command_line());
    sysfs::init();
    cgroupfs::init();
    devtmpfs::set_random(process::random::fill);
    report("devtmpfs", devtmpfs::init());
}

/// The file system that is always there: everything else is mounted on or over it.
fn rootfs() -> Result<Arc<MountNamespace>> {
    let user_ns = process::creds::initial_user_ns().clone();
    let sb = tmpfs::create("rootfs", tmpfs::Options::default(), (0, 0))?;
    MountNamespace::with_root(MountNamespace::INITIAL, user_ns, &sb, b"rootfs", 0)
}

/// What a root file system has before anything is unpacked into it.
fn first_files(ctx: &Context<'_>) -> Result<()> {
    vfs::ops::mkdir(ctx, ctx.root, b"/dev", 0o755)?;
    vfs::ops::mkdir(ctx, ctx.root, b"/root", 0o700)?;
    let console = DeviceNumber::new(5, 1);
    vfs::ops::mknod(ctx, ctx.root, b"/dev/console", FileKind::CharDevice, 0o600, console)?;
    Ok(())
}

/// Finds the machine's devices and brings their drivers up.
fn devices(line: &CommandLine, mounts: &Arc<MountNamespace>) {
    for word in line.values("console") {
        tty::console::choose(word);
    }
    report("tty", tty::init());
    report("serial", tty::serial::init());
    report("hvc", tty::hvc::init());
    report("devpts", devpts::init());
    report("rtc", platform::rtc::init());
    platform::sysrq::init(line.has("sysrq_always_enabled"));
    process::sysrq::init();
    platform::power::init();
    platform::power::set_preparation(crate::power::prepare);
    process::power::set_hook(crate::power::act);
    tty::serial::set_sysrq(platform::sysrq::key_pressed);
    block::init();
    blockdev::init();
    report("loop", loopdev::init(mounts));
    bridge::init();
    report("tun", tun::init(process::random::next_u64));
    virtio::init();
    if line.has("tkernel.nofua") {
        nvme::forgo_fua();
    }
    nvme::init();
    if line.value("libata.fua").is_some_and(|value| value != "0") {
        ahci::use_fua();
    }
    ahci::init();
    report("pci", pci::init(&configuration_space()));
}

/// Where the firmware says that PCI's configuration space is.
fn configuration_space() -> Vec<pci::EcamRegion> {
    let region = |segment: &arch::acpi::PciSegment| pci::EcamRegion {
        base: segment.base.0,
        segment: segment.segment,
        first_bus: segment.first_bus,
        last_bus: segment.last_bus,
    };
    arch::acpi::platform().pci.iter().map(region).collect()
}

/// Starts process 1: the initial RAM disk's program, else what `init=` names and nothing else,
/// else the first of the usual ones that can be started.
fn run_init(line: &CommandLine, ctx: &Context<'_>, in_ram: Option<&str>) {
    let is_known = |word: &str| KNOWN.contains(&word) || word.starts_with("tkernel.");
    let (arguments, environment) = line.for_init(is_known);
    let arguments: Vec<Vec<u8>> = arguments.into_iter().map(|a| a.into_bytes()).collect();
    let mut environment: Vec<Vec<u8>> = environment.into_iter().map(|e| e.into_bytes()).collect();
    environment.splice(0..0, [b"HOME=/".to_vec(), b"TERM=linux".to_vec()]);
    let named = line.value("init");
    let programs: Vec<&str> = match named {
        Some(path) => in_ram.into_iter().chain([path]).collect(),
        None => in_ram.into_iter().chain(DEFAULT_PROGRAMS).collect(),
    };
    let init = process::Init {
        mounts: ctx.mounts.clone(),
        root: ctx.root.clone(),
        console: console(ctx, ctx.root),
        programs: programs.iter().map(|path| path.as_bytes().to_vec()).collect(),
        arguments,
        environment,
        max_threads: (frames::total_pages() / 32) as usize,
    };
    vfs::filecount::init(frames::total_pages());
    // Programs find all disks that there are.
    ahci::settle();
    let failed = |index: usize, error: Errno| {
        let (path, number) = (programs.get(index).copied().unwrap_or_default(), error.raw());
        if index == 0 && in_ram.is_some() {
            log::error!("Failed to execute {path} (error -{number})");
        } else if named.is_some() {
            panic!("Requested init {path} failed (error -{number}).");
        } else if error != Errno::ENOENT {
            log::error!("Starting init: {path} exists but couldn't execute it (error -{number})");
        }
    };
    if process::spawn_init(init, failed).is_err() {
        panic!("No working init found.  Try passing init= option to kernel.");
    }
}

fn console(ctx: &Context<'_>, root: &Path) -> Option<Arc<File>> {
    tty::console::wait_for_chosen();
    match vfs::open(ctx, root, b"/dev/console", &OpenHow::new(O_RDWR, 0)) {
        Ok(file) => Some(file),
        Err(error) => {
            log::warn!("unable to open an initial console: {error}");
            None
        }
    }
}
