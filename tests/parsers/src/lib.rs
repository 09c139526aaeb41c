//! Every parser of bytes from outside as a function that takes bytes and must return: whether it
//! accepts them, where it may refuse.
//!
//! The targets of `fuzz/` call these, and so does `tests/damage.rs`, which runs with the host tests:
//! random bytes, and sound inputs with bytes changed, cut and swapped. ACPI tables are read inside
//! `arch` only, so its own tests do the same there.

mod images;

use std::sync::Arc;

use abi::Errno;
use process::exec::elf;
use process::seccomp::bpf;
use vfs::{Context, Creds, KernelCaller, MountNamespace, UserNamespace};
use zerocopy::FromBytes;

pub use images::{ext4, fat, squashfs};

const PAGE: u64 = 4096;
const USER_END: u64 = 1 << 47;

/// An ELF file: header, program headers and the plan of each segment.
pub fn elf(bytes: &[u8]) -> bool {
    let Ok(header) = elf::Header::parse(bytes) else { return false };
    let at = usize::try_from(header.phoff).unwrap_or(usize::MAX);
    let end = at.saturating_add(header.phdr_bytes());
    let segments = elf::parse_segments(bytes.get(at..end).unwrap_or_default());
    let mut is_sound = elf::load_span(&segments, PAGE).is_some();
    let _ = elf::max_alignment(&segments);
    let _ = elf::phdr_address(&header, &segments);
    for segment in &segments {
        let plan = elf::plan(segment, PAGE, USER_END);
        is_sound &= plan.is_ok();
        if let Ok(plan) = plan {
            assert!(plan.start <= plan.zero_to && plan.zero_to <= USER_END);
            assert_eq!(plan.start % PAGE, 0);
        }
    }
    is_sound
}

/// A seccomp program in the form of `struct sock_filter`, run on a call made of the first bytes.
pub fn seccomp(bytes: &[u8]) -> bool {
    let code = bytes.chunks_exact(8).filter_map(|i| bpf::Instruction::read_from_bytes(i).ok());
    let Ok(program) = bpf::check(code.collect()) else { return false };
    let word = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let args = core::array::from_fn(|n| u64::from(word(n)) << (n * 9));
    let data = bpf::Data { nr: word(0).into(), arch: 0xc000_003e, ip: u64::MAX, args };
    let _ = program.run(&data);
    true
}

/// A command line; none is refused.
pub fn command_line(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let line = klog::parse_command_line(&text);
    let _ = line.for_init(|name| name == "root");
    let _ = line.number("panic");
    let _ = line.value("console");
}

/// The partition table of a disk of these bytes, and of a disk that goes on without an end to read;
/// how many partitions the former has.
pub fn partitions(bytes: &[u8]) -> usize {
    let mut found_inside = 0;
    let sectors = (bytes.len() as u64 / 512).max(1);
    for (capacity, block) in [(sectors, 512), (sectors, 4096), (u64::MAX / 1024, 512)] {
        let read = |offset: u64, buffer: &mut [u8]| {
            let at = usize::try_from(offset).map_err(|_| Errno::EIO)?;
            let from = bytes.get(at..).ok_or(Errno::EIO)?;
            let have = from.get(..buffer.len()).ok_or(Errno::EIO)?;
            buffer.copy_from_slice(have);
            Ok(())
        };
        let all = block::partition::scan(capacity, block, &read).unwrap_or_default();
        if (capacity, block) == (sectors, 512) {
            found_inside = all.len();
        }
        for found in all {
            let end = found.start.checked_add(found.sectors);
            assert!(end.is_some_and(|end| end <= capacity), "{found:?} ends after {capacity}");
        }
    }
    found_inside
}

/// An initial RAM disk, unpacked into an empty tmpfs.
pub fn initramfs(bytes: &[u8]) -> Result<usize, ::initramfs::Error> {
    const NO_ROOM: ::initramfs::Error = ::initramfs::Error::NoMemory;
    frames::init_host(256 << 20);
    let user_ns = UserNamespace::initial();
    let options = tmpfs::Options::default();
    let Ok(sb) = tmpfs::create("tmpfs", options, (0, 0)) else { return Err(NO_ROOM) };
    let Ok(mounts) = MountNamespace::with_root(1, user_ns.clone(), &sb, b"root", 0) else {
        return Err(NO_ROOM);
    };
    let Ok(root) = mounts.root_path() else { return Err(NO_ROOM) };
    let ctx = Context {
        creds: &Arc::new(Creds::root(user_ns)),
        root: &root,
        cwd: &root,
        umask: 0,
        mounts: &mounts,
        caller: &KernelCaller,
    };
    ::initramfs::unpack(&ctx, bytes)
}
