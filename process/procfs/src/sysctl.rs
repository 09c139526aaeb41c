//! `/proc/sys`: the knobs.

use crate::global::text;
use crate::status::parse;
use crate::sysrq;
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use process::pid::PidNamespace;
use pseudo::{Body, Directory, Lister, Node, Tree, knob, show};

/// A number that a lower layer obeys.
pub(crate) trait Value: Sync {
    /// What it is now.
    fn get(&self) -> i64;
    /// Changes it.
    fn set(&self, new: i64);
}

macro_rules! value {
    ($($atomic:ty),*) => {$(
        impl Value for $atomic {
            // Relaxed: lone numbers.
            fn get(&self) -> i64 {
                i64::try_from(self.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
            }
            fn set(&self, new: i64) {
                // The range of its file lets nothing through that does not fit.
                if let Ok(new) = new.try_into() {
                    self.store(new, Ordering::Relaxed);
                }
            }
        }
    )*};
}

value!(AtomicU32, AtomicU64, AtomicUsize);

impl Value for AtomicI64 {
    fn get(&self) -> i64 {
        self.load(Ordering::Relaxed)
    }
    fn set(&self, new: i64) {
        self.store(new, Ordering::Relaxed);
    }
}

/// A number as Linux reads it in these files: decimal, hexadecimal after `0x`, octal after `0`.
pub(crate) fn parse_int(bytes: &[u8]) -> Result<i64> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => (16, hex),
        None if digits.len() > 1 && digits.starts_with('0') => (8, digits),
        None => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return Err(Errno::EINVAL);
    }
    let value = i64::from_str_radix(digits, radix).map_err(|_| Errno::EINVAL)?;
    Ok(if is_negative { -value } else { value })
}

/// A number, with the range it may have.
pub(crate) fn number(value: &'static dyn Value, range: RangeInclusive<i64>) -> Node {
    exclusive(value, None, range)
}

/// A number of which its counterpart (bytes for a ratio, a ratio for bytes) becomes 0 when it is
/// set.
pub(crate) fn exclusive(
    value: &'static dyn Value,
    counterpart: Option<&'static dyn Value>,
    range: RangeInclusive<i64>,
) -> Node {
    knob(
        move |out| {
            put!(out, "{}\n", value.get());
            Ok(())
        },
        move |bytes| {
            let new = parse_int(bytes)?;
            if !range.contains(&new) {
                return Err(Errno::EINVAL);
            }
            value.set(new);
            if let Some(other) = counterpart {
                other.set(0);
            }
            Ok(())
        },
    )
}

pub(crate) fn constant(value: &'static str) -> Node {
    show(move |out| {
        put!(out, "{value}\n");
        Ok(())
    })
}

fn names() -> Option<alloc::sync::Arc<process::nsproxy::UtsNamespace>> {
    match process::try_current() {
        Some(task) => Some(task.ns().uts.clone()),
        None => process::nsproxy::try_initial().map(|ns| ns.uts.clone()),
    }
}

fn put_name(out: &mut Vec<u8>, pick: fn(&abi::process::UtsName) -> &[u8; 65]) -> Result<()> {
    let uts = names().ok_or(Errno::ENOENT)?;
    out.extend_from_slice(text(pick(&uts.names())));
    out.push(b'\n');
    Ok(())
}

fn set_name(bytes: &[u8], pick: fn(&mut abi::process::UtsName) -> &mut [u8; 65]) -> Result<()> {
    let uts = names().ok_or(Errno::ENOENT)?;
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.get(..line.len().min(64)).unwrap_or_default();
    uts.update(|names| {
        let field = pick(names);
        *field = [0; 65];
        if let Some(to) = field.get_mut(..line.len()) {
            to.copy_from_slice(line);
        }
    });
    Ok(())
}

fn put_uuid(out: &mut Vec<u8>, words: [u64; 2]) {
    let (high, low) = (words[0] & !0xf000 | 0x4000, words[1] & !(3 << 62) | 1 << 63);
    put!(out, "{:08x}-{:04x}-{:04x}-", high >> 32, high >> 16 & 0xffff, high & 0xffff);
    put!(out, "{:04x}-{:012x}\n", low >> 48, low & 0xffff_ffff_ffff);
}

fn random() -> Tree {
    static BOOT_ID: spin::Once<[u64; 2]> = spin::Once::new();
    let fresh = || [process::random::next_u64(), process::random::next_u64()];
    Tree::new()
        .with(
            "boot_id",
            show(move |out| {
                put_uuid(out, *BOOT_ID.call_once(fresh));
                Ok(())
            }),
        )
        .with("entropy_avail", constant("256"))
        .with("poolsize", constant("256"))
        .with(
            "uuid",
            show(move |out| {
                put_uuid(out, fresh());
                Ok(())
            }),
        )
}

fn inotify() -> Tree {
    let any = 0..=i64::from(i32::MAX);
    Tree::new()
        .with("max_queued_events", number(&anon::inotify::MAX_QUEUED_EVENTS, any.clone()))
        .with("max_user_instances", number(&anon::inotify::MAX_USER_INSTANCES, any.clone()))
        .with("max_user_watches", number(&anon::inotify::MAX_USER_WATCHES, any))
}

fn core_pattern() -> Node {
    knob(
        |out| {
            out.extend_from_slice(&process::coredump::pattern());
            out.push(b'\n');
            Ok(())
        },
        |bytes| {
            process::coredump::set_pattern(bytes);
            Ok(())
        },
    )
}

fn core_uses_pid() -> Node {
    knob(
        |out| {
            put!(out, "{}\n", u32::from(process::coredump::uses_pid()));
            Ok(())
        },
        |bytes| {
            let value: i64 = parse(bytes)?;
            process::coredump::set_uses_pid(value != 0);
            Ok(())
        },
    )
}

fn kernel() -> Tree {
    let pid_max = knob(
        |out| {
            put!(out, "{}\n", PidNamespace::initial().max());
            Ok(())
        },
        |bytes| PidNamespace::initial().set_max(parse(bytes)?),
    );
    crate::sysvipc::add_limits(Tree::new())
        .with("cap_last_cap", constant("37"))
        .with("core_pattern", core_pattern())
        .with("core_uses_pid", core_uses_pid())
        .with("dmesg_restrict", number(&klog::DMESG_RESTRICT, 0..=1))
        .with(
            "domainname",
            knob(|out| put_name(out, |n| &n.domainname), |b| set_name(b, |n| &mut n.domainname)),
        )
        .with(
            "hostname",
            knob(|out| put_name(out, |n| &n.nodename), |b| set_name(b, |n| &mut n.nodename)),
        )
        .with("kptr_restrict", number(&crate::mem::KPTR_RESTRICT, 0..=2))
        .with("ngroups_max", constant("65536"))
        .with("osrelease", show(|out| put_name(out, |n| &n.release)))
        .with("ostype", show(|out| put_name(out, |n| &n.sysname)))
        .with("overflowgid", constant("65534"))
        .with("overflowuid", constant("65534"))
        .with("panic", number(&klog::PANIC_TIMEOUT_S, i64::from(i32::MIN)..=i64::from(i32::MAX)))
        .with("pid_max", pid_max)
        .with("printk", crate::printk::levels())
        .with("printk_devkmsg", crate::printk::writers())
        .dir("random", random())
        .with("randomize_va_space", number(&process::exec::RANDOMIZE_VA_SPACE, 0..=2))
        .with("sysrq", sysrq::allowed())
        .with("tainted", constant("0"))
        .with(
            "threads-max",
            knob(
                |out| {
                    put!(out, "{}\n", process::fork::max_threads());
                    Ok(())
                },
                |bytes| process::fork::change_max_threads(parse(bytes)?),
            ),
        )
        .with("version", show(|out| put_name(out, |n| &n.version)))
}

/// `pipe-max-size`: rounded up to what a pipe can have.
fn pipe_max_size() -> Node {
    let size = &anon::pipe::PIPE_MAX_SIZE;
    knob(
        move |out| {
            put!(out, "{}\n", size.get());
            Ok(())
        },
        move |bytes| {
            let new: u32 = parse(bytes)?;
            let new = new.max(4096).checked_next_power_of_two().filter(|n| *n <= 1 << 31);
            size.set(i64::from(new.ok_or(Errno::EINVAL)?));
            Ok(())
        },
    )
}

/// `fs/file-nr`, proc(5): open files, 0, the limit.
fn file_nr() -> Node {
    show(|out| {
        let most = vfs::filecount::FILE_MAX.load(Ordering::Relaxed);
        put!(out, "{}\t0\t{most}\n", vfs::filecount::open_files());
        Ok(())
    })
}

/// The root of the knobs. Those of the network are those of the caller's namespace.
struct Root(Tree);

const NET: &[u8] = b"net";
/// The cursor behind `net`, which is listed last.
const END: u64 = u64::MAX >> 1;

fn net() -> Option<Node> {
    let namespace = match process::try_current() {
        Some(task) => task.ns().net.clone(),
        None => process::nsproxy::try_initial()?.net.clone(),
    };
    Some(socket::trees::sys_net(&namespace))
}

impl Directory for Root {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        if name == NET { Ok(net()) } else { self.0.lookup(name) }
    }

    fn list(&self, cursor: u64, out: &mut Lister<'_>) -> Result<()> {
        if cursor >= END {
            return Ok(());
        }
        let mut is_full = false;
        self.0.list(cursor, &mut |next, name, ino, kind| {
            is_full = !out(next, name, ino, kind);
            !is_full
        })?;
        if let Some(node) = net().filter(|_| !is_full) {
            out(END, NET, node.ino, node.dirent_kind());
        }
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }
}

/// `fs/aio-nr`, proc(5): requests that all contexts of `io_setup(2)` have room for.
fn aio_nr() -> Node {
    show(|out| {
        put!(out, "{}\n", aio::context::NR.load(Ordering::Relaxed));
        Ok(())
    })
}

/// `/proc/sys`.
pub(crate) fn node() -> Node {
    let tree = tree();
    let body = Body::Dir(Arc::new(Root(tree)));
    Node { ino: Tree::new().into_node().ino, mode: 0o555, owner: (0, 0), body }
}

fn tree() -> Tree {
    let fs = Tree::new()
        .dir("binfmt_misc", Tree::new())
        .dir("mqueue", crate::sysvipc::mqueue())
        .dir("inotify", inotify())
        .with("aio-max-nr", number(&aio::context::MAX_NR, 0..=i64::MAX))
        .with("aio-nr", aio_nr())
        .with("file-max", number(&vfs::filecount::FILE_MAX, 0..=i64::MAX))
        .with("file-nr", file_nr())
        .with("nr_open", constant("1048576"))
        .with("pipe-max-size", pipe_max_size())
        .with("protected_fifos", number(&vfs::perm::PROTECTED_FIFOS, 0..=2))
        .with("protected_hardlinks", number(&vfs::perm::PROTECTED_HARDLINKS, 0..=1))
        .with("protected_regular", number(&vfs::perm::PROTECTED_REGULAR, 0..=2))
        .with("protected_symlinks", number(&vfs::perm::PROTECTED_SYMLINKS, 0..=1))
        .with("suid_dumpable", number(&process::coredump::SUID_DUMPABLE, 0..=2));
    Tree::new().dir("fs", fs).dir("kernel", kernel()).dir("vm", crate::sysctl_vm::tree())
}
