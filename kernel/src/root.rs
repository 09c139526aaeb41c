//! The root file system and process 1.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Result;
use arch::boot::BootInfo;
use klog::CommandLine;
use vfs::MountNamespace;

/// Programs tried as process 1 when the command line names none, as init(1) has them.
const DEFAULT_PROGRAMS: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];
/// Words of the command line that mean something to the kernel and are not passed to init.
const KNOWN: [&str; 16] = [
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
    "quiet",
    "loglevel",
    "panic",
    "nosmp",
    "maxcpus",
];

/// The rest of start-up, in a thread of its own.
pub(crate) fn start(info: &'static BootInfo, line: &CommandLine) {
    tmpfs::set_memory(frames::total_pages());
    tmpfs::init();
    let total_kib = frames::total_pages() * 4;
    log::info!("Memory: {total_kib}K available, {} CPUs", arch::cpu::count());
    let mounts = match rootfs() {
        Ok(mounts) => mounts,
        Err(error) => panic!("rootfs: {error}"),
    };
    let root = match mounts.root_path() {
        Ok(root) => root,
        Err(error) => panic!("rootfs: {error}"),
    };
    let _ = info.initrd;

    let named = line.value("rdinit").or(line.value("init"));
    let is_known = |word: &str| KNOWN.contains(&word) || word.starts_with("tkernel.");
    let (arguments, environment) = line.for_init(is_known);
    let arguments: Vec<Vec<u8>> = arguments.into_iter().map(|a| a.into_bytes()).collect();
    let mut environment: Vec<Vec<u8>> = environment.into_iter().map(|e| e.into_bytes()).collect();
    environment.splice(0..0, [b"HOME=/".to_vec(), b"TERM=linux".to_vec()]);
    let programs = match named {
        Some(path) => alloc::vec![path],
        None => DEFAULT_PROGRAMS.to_vec(),
    };
    let programs =
        programs.into_iter().map(|path| (path.as_bytes().to_vec(), arguments.clone())).collect();
    let init = process::Init {
        mounts,
        root,
        console: None,
        programs,
        environment,
        max_threads: (frames::total_pages() / 32) as usize,
    };
    if let Err(error) = process::spawn_init(init) {
        match named {
            Some(path) => log::error!("Requested init {path} failed (error -{}).", error.raw()),
            None => log::error!("Starting init failed (error -{}).", error.raw()),
        }
        panic!("No working init found.  Try passing init= option to kernel.");
    }
}

/// The file system that is always there: everything else is mounted on or over it.
fn rootfs() -> Result<Arc<MountNamespace>> {
    let user_ns = process::creds::initial_user_ns().clone();
    let sb = tmpfs::create("rootfs", tmpfs::Options::default(), (0, 0))?;
    MountNamespace::with_root(0xf000_0000, user_ns, &sb, b"rootfs", 0)
}
