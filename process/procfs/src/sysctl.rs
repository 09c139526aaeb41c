//! `/proc/sys`: the knobs.

use crate::global::text;
use crate::status::parse;
use crate::sysrq;
use abi::{Errno, Result};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI64, Ordering};
use process::pid::PidNamespace;
use pseudo::{Node, Tree, knob, show};

/// A number that the kernel keeps for programs, with the range it may have.
pub(crate) fn number(value: &'static AtomicI64, range: core::ops::RangeInclusive<i64>) -> Node {
    knob(
        move |out| {
            put!(out, "{}\n", value.load(Ordering::Relaxed));
            Ok(())
        },
        move |bytes| {
            let new: i64 = parse(bytes)?;
            if !range.contains(&new) {
                return Err(Errno::EINVAL);
            }
            value.store(new, Ordering::Relaxed);
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

static FILE_MAX: AtomicI64 = AtomicI64::new(i64::MAX);
static NR_OPEN: AtomicI64 = AtomicI64::new(1 << 20);
static PIPE_MAX: AtomicI64 = AtomicI64::new(1 << 20);
static RANDOMIZE: AtomicI64 = AtomicI64::new(2);
static PANIC: AtomicI64 = AtomicI64::new(0);
static DMESG: AtomicI64 = AtomicI64::new(0);
static KPTR: AtomicI64 = AtomicI64::new(0);
static PTRACE: AtomicI64 = AtomicI64::new(0);
static LINKS: AtomicI64 = AtomicI64::new(0);
static SYMLINKS: AtomicI64 = AtomicI64::new(0);
static DUMPABLE: AtomicI64 = AtomicI64::new(0);

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
        .with("dmesg_restrict", number(&DMESG, 0..=1))
        .with(
            "domainname",
            knob(|out| put_name(out, |n| &n.domainname), |b| set_name(b, |n| &mut n.domainname)),
        )
        .with(
            "hostname",
            knob(|out| put_name(out, |n| &n.nodename), |b| set_name(b, |n| &mut n.nodename)),
        )
        .with("kptr_restrict", number(&KPTR, 0..=2))
        .with("ngroups_max", constant("65536"))
        .with("osrelease", show(|out| put_name(out, |n| &n.release)))
        .with("ostype", show(|out| put_name(out, |n| &n.sysname)))
        .with("overflowgid", constant("65534"))
        .with("overflowuid", constant("65534"))
        .with("panic", number(&PANIC, i64::from(i32::MIN)..=i64::from(i32::MAX)))
        .with("pid_max", pid_max)
        .with(
            "printk",
            show(|out| {
                let (now, default) = (klog::console_level(), klog::default_level());
                put!(out, "{now}\t{default}\t1\t7\n");
                Ok(())
            }),
        )
        .dir("random", random())
        .with("randomize_va_space", number(&RANDOMIZE, 0..=2))
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
        .dir("yama", Tree::new().with("ptrace_scope", number(&PTRACE, 0..=3)))
}

/// `/proc/sys`.
pub(crate) fn tree() -> Tree {
    let any = 0..=i64::MAX;
    let fs = Tree::new()
        .dir("mqueue", crate::sysvipc::mqueue())
        .dir("inotify", inotify())
        .with("file-max", number(&FILE_MAX, any.clone()))
        .with("nr_open", number(&NR_OPEN, 8..=i64::from(i32::MAX)))
        .with("pipe-max-size", number(&PIPE_MAX, 4096..=i64::from(i32::MAX)))
        .with("protected_hardlinks", number(&LINKS, 0..=1))
        .with("protected_symlinks", number(&SYMLINKS, 0..=1))
        .with("suid_dumpable", number(&DUMPABLE, 0..=2));
    Tree::new().dir("fs", fs).dir("kernel", kernel()).dir("vm", crate::sysctl_vm::tree())
}
