//! Files of the whole system that need little.

use abi::Result;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use process::pid::PidNamespace;
use pseudo::{Put, Tree, show};
use spin::Once;
use vfs::FileKind;

static COMMAND_LINE: Once<String> = Once::new();

pub(crate) fn set_command_line(line: &str) {
    COMMAND_LINE.call_once(|| line.into());
}

/// A field of `uname(2)` without its padding.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    let len = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    field.get(..len).unwrap_or_default()
}

pub(crate) fn cmdline(out: &mut Vec<u8>) -> Result<()> {
    put!(out, "{}\n", COMMAND_LINE.get().map_or("", |line| line.as_str()));
    Ok(())
}

pub(crate) fn version(out: &mut Vec<u8>) -> Result<()> {
    let Some(ns) = process::nsproxy::try_initial() else { return Ok(()) };
    let names = ns.uts.names();
    let (system, release) = (text(&names.sysname), text(&names.release));
    let version = text(&names.version);
    for (part, between) in
        [(system, &b" version "[..]), (release, b" (tkernel) (rustc) "), (version, b"\n")]
    {
        out.extend_from_slice(part);
        out.extend_from_slice(between);
    }
    Ok(())
}

pub(crate) fn uptime(out: &mut Vec<u8>) -> Result<()> {
    let up = sched::clock::boottime_ns() / 10_000_000;
    let cpus = arch::cpu::online();
    let idle: u64 = cpus.iter().map(|cpu| sched::processor_times(cpu).idle_ns).sum();
    let idle = idle / 10_000_000;
    put!(out, "{}.{:02} {}.{:02}\n", up / 100, up % 100, idle / 100, idle % 100);
    Ok(())
}

pub(crate) fn loadavg(out: &mut Vec<u8>) -> Result<()> {
    for average in sched::loadavg() {
        // Rounded to hundredths, as the fixed-point number allows.
        let hundredths = (average * 100 + (1 << 15)) >> 16;
        put!(out, "{}.{:02} ", hundredths / 100, hundredths % 100);
    }
    let last = PidNamespace::initial().last();
    put!(out, "{}/{} {last}\n", sched::nr_running(), process::group::thread_count());
    Ok(())
}

/// The controllers, the hierarchy of each and how many groups that has: cgroups(7).
pub(crate) fn cgroups(out: &mut Vec<u8>) -> Result<()> {
    use process::cgroup::{Controllers, root_of};
    out.text("#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
    for (name, controller) in Controllers::NAMES {
        let root = root_of(controller);
        let groups = root.settings.descendants.load(Ordering::Relaxed) + 1;
        out.text(name).text("\t").dec(root.hierarchy().id).text("\t").dec(groups);
        out.text("\t1\n");
    }
    Ok(())
}

pub(crate) fn filesystems(out: &mut Vec<u8>) -> Result<()> {
    for fs in vfs::file_systems() {
        put!(out, "{}\t{}\n", if fs.needs_device() { "" } else { "nodev" }, fs.name());
    }
    Ok(())
}

pub(crate) fn partitions(out: &mut Vec<u8>) -> Result<()> {
    let devices = block::devices();
    if !devices.is_empty() {
        put!(out, "major minor  #blocks  name\n\n");
    }
    for device in devices {
        let id = device.id();
        let kib = device.sectors() / 2;
        put!(out, "{:4}  {:7} {kib:10} {}\n", id.major, id.minor, device.name());
    }
    Ok(())
}

pub(crate) fn diskstats(out: &mut Vec<u8>) -> Result<()> {
    for device in block::devices() {
        let (id, s) = (device.id(), device.stats());
        put!(out, "{:4} {:7} {}", id.major, id.minor, device.name());
        for kind in [&s.read, &s.write] {
            put!(out, " {} {} {} {}", kind.ios, kind.merges, kind.sectors, kind.ms);
        }
        let weighted = s.read.ms + s.write.ms + s.discard.ms;
        put!(out, " {} {} {weighted}", s.in_flight, s.busy_ms);
        let d = &s.discard;
        put!(out, " {} {} {} {}", d.ios, d.merges, d.sectors, d.ms);
        out.push(b'\n');
    }
    Ok(())
}

pub(crate) fn devices(out: &mut Vec<u8>) -> Result<()> {
    for (title, kind) in [("Character", FileKind::CharDevice), ("\nBlock", FileKind::BlockDevice)] {
        put!(out, "{title} devices:\n");
        for (major, name) in vfs::dev::majors(kind) {
            put!(out, "{major:3} {name}\n");
        }
    }
    Ok(())
}

/// `/proc/consoles`, proc(5): what it can (write), and that it is enabled, the preferred one, an early
/// one, keeps messages, and can print at any time.
pub(crate) fn consoles(out: &mut Vec<u8>) -> Result<()> {
    for console in klog::consoles() {
        let preferred = if console.is_preferred { 'C' } else { ' ' };
        let early = if console.is_boot { 'B' } else { ' ' };
        put!(out, "{:<21}-W- (E{preferred}{early}p a)", console.name);
        if let Some((major, minor)) = console.device {
            put!(out, " {major:4}:{minor}");
        }
        out.push(b'\n');
    }
    Ok(())
}

/// `/proc/tty`.
pub(crate) fn terminals() -> Tree {
    let text = |make: fn() -> String| {
        show(move |out: &mut Vec<u8>| {
            out.extend_from_slice(make().as_bytes());
            Ok(())
        })
    };
    Tree::new()
        .dir("driver", Tree::new().with("serial", text(tty::serial::describe)))
        .with("drivers", text(tty::describe_drivers))
        .dir("ldisc", Tree::new())
        .with(
            "ldiscs",
            show(|out: &mut Vec<u8>| {
                out.extend_from_slice(b"n_tty       0\n");
                Ok(())
            }),
        )
}
