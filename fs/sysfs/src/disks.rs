//! Disks and partitions: `/sys/block`, `/sys/class/block`, and the devices they hang on.

use crate::tree::Builder;
use crate::{functions, scsi, uevents};
use abi::{Errno, Result};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use block::partition::Partition;
use block::{DeadlineKnobs, Device, Disk, Event, KindStats, Scheduler};
use core::num::IntErrorKind;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use socket::NetNamespace;

pub(crate) fn add(tree: &mut Builder) {
    for disk in block::disks() {
        let path = place(tree, &disk);
        add_disk(tree, &disk, &path);
        for partition in disk.partitions() {
            add_partition(tree, &partition, &path);
        }
    }
}

/// Where a disk is in the tree; makes the controller it hangs on.
fn place(tree: &mut Builder, disk: &Disk) -> String {
    let name = disk.name();
    let Some(parent) = disk.whole().driver().parent() else {
        return format!("devices/virtual/block/{name}");
    };
    let function = functions::path_of(&parent.function);
    if let Some(scsi) = disk.whole().driver().scsi() {
        return scsi::place(tree, name, &function, scsi);
    }
    match parent.controller {
        Some(controller) => {
            let path = format!("{function}/{}/{}", controller.class, controller.name);
            for (file, text) in controller.attributes {
                tree.fixed(&format!("{path}/{file}"), text);
            }
            tree.fixed(&format!("{path}/state"), "live");
            tree.uevent(&path, &[]);
            tree.device(&path, &format!("class/{}", controller.class), &controller.name);
            tree.link(&format!("{path}/device"), &function);
            tree.link(&format!("{path}/{name}/device"), &path);
            format!("{path}/{name}")
        }
        None => {
            let inner = functions::inner_device(&function);
            let path = format!("{inner}/block/{name}");
            tree.link(&format!("{path}/device"), &inner);
            path
        }
    }
}

fn add_disk(tree: &mut Builder, disk: &Arc<Disk>, path: &str) {
    let device = disk.whole();
    let is_removable = device.limits().removable;
    common(tree, device, path, "disk", &[]);
    tree.link(&format!("block/{}", disk.name()), path);
    for (file, text) in [
        ("capability", if is_removable { "5" } else { "0" }),
        ("events", if is_removable { "media_change eject_request" } else { "" }),
        ("events_async", ""),
        ("events_poll_msecs", "-1"),
        ("ext_range", if device.id().major == 11 { "1" } else { "256" }),
        ("hidden", "0"),
        ("removable", if is_removable { "1" } else { "0" }),
    ] {
        tree.fixed(&format!("{path}/{file}"), text);
    }
    tree.fixed(
        &format!("{path}/range"),
        match device.id().major {
            259 => "0",
            7 | 11 => "1",
            _ => "16",
        },
    );
    tree.dir(&format!("{path}/slaves"));
    if let Some(serial) = device.driver().serial() {
        tree.fixed(&format!("{path}/serial"), serial);
    }
    let id = device.id();
    for file in device.driver().attributes() {
        tree.line(&format!("{path}/{file}"), move || {
            block::by_id(id).and_then(|device| device.driver().attribute(file)).unwrap_or_default()
        });
    }
    queue(tree, device, &format!("{path}/queue"));
    scheduler(tree, device, &format!("{path}/queue"));
}

/// The choice of an I/O scheduler and the knobs of the chosen one.
fn scheduler(tree: &mut Builder, device: &Arc<Device>, path: &str) {
    let (shown, chosen) = (device.clone(), device.clone());
    let choice = pseudo::knob(
        move |out| {
            let line = match shown.scheduler() {
                Scheduler::None => "[none] mq-deadline \n",
                Scheduler::Deadline => "[mq-deadline] none\n",
            };
            out.extend_from_slice(line.as_bytes());
            Ok(())
        },
        move |text| {
            let name = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?.trim();
            let scheduler = Scheduler::by_name(name).ok_or(Errno::EINVAL)?;
            if scheduler != chosen.scheduler() {
                chosen.set_scheduler(scheduler);
                CHOICES.fetch_add(1, Ordering::Release);
            }
            Ok(())
        },
    );
    tree.put(&format!("{path}/scheduler"), choice);
    if device.scheduler() != Scheduler::Deadline {
        return;
    }
    type Pick = fn(&DeadlineKnobs) -> &AtomicI32;
    let knobs: [(&str, Pick, RangeInclusive<i32>); 5] = [
        ("fifo_batch", |knobs| &knobs.fifo_batch, 0..=i32::MAX),
        ("front_merges", |knobs| &knobs.front_merges, 0..=1),
        ("read_expire", |knobs| &knobs.read_expire, 0..=i32::MAX),
        ("write_expire", |knobs| &knobs.write_expire, 0..=i32::MAX),
        ("writes_starved", |knobs| &knobs.writes_starved, i32::MIN..=i32::MAX),
    ];
    for (name, pick, range) in knobs {
        let (shown, set) = (device.clone(), device.clone());
        let knob = pseudo::knob(
            move |out| {
                let value = pick(shown.deadline_knobs()).load(Ordering::Relaxed);
                out.extend_from_slice(format!("{value}\n").as_bytes());
                Ok(())
            },
            move |text| {
                let value = number(text)?.clamp(*range.start(), *range.end());
                pick(set.deadline_knobs()).store(value, Ordering::Relaxed);
                Ok(())
            },
        );
        tree.put(&format!("{path}/iosched/{name}"), knob);
    }
}

/// A decimal number with at most a newline behind it: `EINVAL` for anything else, `ERANGE` beyond 32 bits.
fn number(text: &[u8]) -> Result<i32> {
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    text.strip_suffix('\n').unwrap_or(text).parse::<i32>().map_err(|error| match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => Errno::ERANGE,
        _ => Errno::EINVAL,
    })
}

static CHOICES: AtomicU32 = AtomicU32::new(0);

/// Grows when a disk gets another scheduler, whose knobs come and go, or a driver tells something else.
pub(crate) fn generation() -> u32 {
    CHOICES.load(Ordering::Acquire).wrapping_add(block::attributes_generation())
}

/// Files that disks and partitions have alike.
fn common(tree: &mut Builder, device: &Arc<Device>, path: &str, kind: &str, more: &[String]) {
    let id = device.id();
    let number = format!("{}:{}", id.major, id.minor);
    tree.fixed(&format!("{path}/dev"), number.as_str());
    tree.fixed(&format!("{path}/alignment_offset"), "0");
    tree.fixed(&format!("{path}/discard_alignment"), "0");
    // Looked up when they are read: another device may have come with the number of one that went, and the
    // file of that is known still.
    let mut line = |file: &str, text: fn(&Device) -> String| {
        tree.line(&format!("{path}/{file}"), move || {
            block::by_id(id).map(|device| text(&device)).unwrap_or_default()
        });
    };
    line("size", |device| device.sectors().to_string());
    line("ro", |device| u32::from(device.is_read_only()).to_string());
    line("stat", stat);
    // Reads and writes are counted together.
    line("inflight", |device| format!("{:>8} {:>8}", device.stats().in_flight, 0));
    tree.dir(&format!("{path}/holders"));
    tree.uevent(path, &facts(device, kind, more));
    tree.device(path, "class/block", device.name());
    tree.link(&format!("dev/block/{number}"), path);
}

/// The lines of a device's `uevent`.
fn facts(device: &Device, kind: &str, more: &[String]) -> Vec<String> {
    let id = device.id();
    let mut lines = [
        format!("MAJOR={}", id.major),
        format!("MINOR={}", id.minor),
        format!("DEVNAME={}", device.name()),
        format!("DEVTYPE={kind}"),
    ]
    .to_vec();
    lines.extend_from_slice(more);
    lines
}

/// What a partition's `uevent` has besides.
fn partition_facts(partition: &Partition) -> Vec<String> {
    let mut more = [format!("PARTN={}", partition.number)].to_vec();
    if !partition.label.is_empty() {
        more.push(format!("PARTNAME={}", partition.label));
    }
    more
}

/// Tells programs of devices that come and go.
pub(crate) fn follow() {
    block::set_watcher(tell);
}

fn tell(event: Event, disk: &Arc<Disk>, device: &Arc<Device>) {
    let Some(namespace) = NetNamespace::initial() else { return };
    let path = place(&mut Builder::default(), disk);
    let (path, mut lines) = match device.partition() {
        Some(partition) => {
            let path = format!("{path}/{}", device.name());
            (path, facts(device, "partition", &partition_facts(partition)))
        }
        None => (path, facts(device, "disk", &[])),
    };
    let action = match event {
        Event::Added => "add",
        Event::Removed => "remove",
        Event::Changed if device.limits().removable => {
            lines.push(String::from("DISK_MEDIA_CHANGE=1"));
            "change"
        }
        Event::Changed => {
            lines.push(String::from("RESIZE=1"));
            "change"
        }
    };
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    uevents::send(namespace, action, &path, "block", &text);
}

fn add_partition(tree: &mut Builder, device: &Arc<Device>, disk: &str) {
    let Some(partition) = device.partition() else { return };
    let path = format!("{disk}/{}", device.name());
    common(tree, device, &path, "partition", &partition_facts(partition));
    tree.fixed(&format!("{path}/partition"), partition.number.to_string());
    tree.fixed(&format!("{path}/start"), partition.start.to_string());
}

/// As `/proc/diskstats` has it, without the name.
fn stat(device: &Device) -> String {
    let s = device.stats();
    let kind = |k: &KindStats| format!("{:>8} {:>8} {:>8} {:>8}", k.ios, k.merges, k.sectors, k.ms);
    let weighted = s.read.ms + s.write.ms + s.discard.ms;
    let flow = format!("{:>8} {:>8} {weighted:>8}", s.in_flight, s.busy_ms);
    format!("{} {} {flow} {}", kind(&s.read), kind(&s.write), kind(&s.discard))
}

fn queue(tree: &mut Builder, device: &Device, path: &str) {
    let limits = device.limits();
    let logical = u64::from(device.block_size());
    let max_kb = limits.max_sectors / 2;
    let discard = limits.max_discard_sectors.saturating_mul(512).min(u64::from(u32::MAX) & !511);
    let zeroes = limits.max_write_zeroes_sectors.saturating_mul(512);
    let cache = if limits.write_cache { "write back" } else { "write through" };
    let granularity = if discard == 0 { 0 } else { logical };
    let rows: [(&str, u64); 21] = [
        ("add_random", 0),
        ("chunk_sectors", 0),
        ("dax", 0),
        ("discard_granularity", granularity),
        ("discard_max_bytes", discard),
        ("discard_max_hw_bytes", discard),
        ("discard_zeroes_data", 0),
        ("fua", u64::from(limits.fua)),
        ("io_poll", 0),
        ("iostats", 1),
        ("max_hw_sectors_kb", u64::from(max_kb)),
        ("max_sectors_kb", u64::from(max_kb)),
        ("max_segment_size", u64::from(limits.max_segment_size)),
        ("max_segments", limits.max_segments as u64),
        ("minimum_io_size", u64::from(limits.io_min).max(logical)),
        ("nr_requests", limits.queue_depth as u64),
        ("optimal_io_size", u64::from(limits.io_opt)),
        ("physical_block_size", u64::from(limits.physical_block_size).max(logical)),
        ("read_ahead_kb", 128),
        ("rotational", u64::from(limits.rotational)),
        ("write_zeroes_max_bytes", zeroes),
    ];
    for (file, value) in rows {
        tree.fixed(&format!("{path}/{file}"), value.to_string());
    }
    let id = device.id();
    for file in ["logical_block_size", "hw_sector_size"] {
        tree.line(&format!("{path}/{file}"), move || {
            block::by_id(id).map_or(0, |device| device.block_size()).to_string()
        });
    }
    for (file, text) in [
        ("io_poll_delay", "-1"),
        ("io_timeout", "30000"),
        ("max_discard_segments", if discard == 0 { "1" } else { "256" }),
        ("max_integrity_segments", "0"),
        ("nomerges", "0"),
        ("rq_affinity", "1"),
        ("write_cache", cache),
        ("write_same_max_bytes", "0"),
        ("zoned", "none"),
    ] {
        tree.fixed(&format!("{path}/{file}"), text);
    }
}
