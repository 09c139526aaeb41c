//! Files of version 2 that are no controller's.

use crate::directory::{Entry, always, below_root};
use crate::tasks;
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use process::cgroup::{self, Controllers, Group, Kind};
use pseudo::Put;
use vfs::cred::Creds;

pub(crate) const FILES: &[Entry] = &[
    Entry {
        name: "cgroup.procs",
        mode: 0o644,
        is_in: always,
        show: tasks::show_processes,
        store: Some(tasks::move_process),
    },
    Entry {
        name: "cgroup.threads",
        mode: 0o644,
        is_in: always,
        show: tasks::show_threads,
        store: Some(tasks::move_thread_unified),
    },
    Entry {
        name: "cgroup.controllers",
        mode: 0o444,
        is_in: always,
        show: |group, out| show_controllers(group.controllers(), out),
        store: None,
    },
    Entry {
        name: "cgroup.subtree_control",
        mode: 0o644,
        is_in: always,
        show: |group, out| show_controllers(group.enabled_for_children(), out),
        store: Some(set_control),
    },
    Entry {
        name: "cgroup.type",
        mode: 0o644,
        is_in: below_root,
        show: |group, out| {
            out.text(match cgroup::kind(group) {
                Kind::Domain => "domain\n",
                Kind::DomainThreaded => "domain threaded\n",
                Kind::DomainInvalid => "domain invalid\n",
            });
            Ok(())
        },
        // Threaded groups are not there yet.
        store: Some(|_, bytes, _| match bytes {
            b"threaded" => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EINVAL),
        }),
    },
    Entry {
        name: "cgroup.events",
        mode: 0o444,
        is_in: below_root,
        show: |group, out| {
            out.text("populated ").dec(u32::from(group.is_populated()));
            out.text("\nfrozen ").dec(u32::from(group.is_frozen())).text("\n");
            Ok(())
        },
        store: None,
    },
    Entry {
        name: "cgroup.max.descendants",
        mode: 0o644,
        is_in: always,
        show: |group, out| show_limit(&group.settings.max_descendants, out),
        store: Some(|group, bytes, _| set_limit(&group.settings.max_descendants, bytes)),
    },
    Entry {
        name: "cgroup.max.depth",
        mode: 0o644,
        is_in: always,
        show: |group, out| show_limit(&group.settings.max_depth, out),
        store: Some(|group, bytes, _| set_limit(&group.settings.max_depth, bytes)),
    },
    Entry {
        name: "cgroup.stat",
        mode: 0o444,
        is_in: always,
        show: |group, out| {
            let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
            out.text("nr_descendants ").dec(count(&group.settings.descendants));
            out.text("\nnr_dying_descendants ").dec(count(&group.settings.dying)).text("\n");
            Ok(())
        },
        store: None,
    },
    Entry {
        name: "cgroup.kill",
        mode: 0o200,
        is_in: below_root,
        show: |_, _| Err(Errno::EINVAL),
        store: Some(|group, bytes, _| {
            if tasks::number(bytes)? != 1 {
                return Err(Errno::ERANGE);
            }
            cgroup::kill(group);
            Ok(())
        }),
    },
];

fn show_controllers(controllers: Controllers, out: &mut Vec<u8>) -> Result<()> {
    for (index, name) in controllers.names().enumerate() {
        out.text(if index == 0 { "" } else { " " }).text(name);
    }
    if !controllers.is_empty() {
        out.text("\n");
    }
    Ok(())
}

/// `+NAME` and `-NAME`, of which the last word for a controller counts.
fn set_control(group: &Arc<Group>, bytes: &[u8], _: &Arc<Creds>) -> Result<()> {
    let (mut enable, mut disable) = (Controllers::empty(), Controllers::empty());
    for word in bytes.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
        let (sign, name) = word.split_first().ok_or(Errno::EINVAL)?;
        let controller = Controllers::named(name).ok_or(Errno::EINVAL)?;
        match sign {
            b'+' => {
                enable.insert(controller);
                disable.remove(controller);
            }
            b'-' => {
                disable.insert(controller);
                enable.remove(controller);
            }
            _ => return Err(Errno::EINVAL),
        }
    }
    cgroup::control(group, enable, disable)
}

fn show_limit(limit: &AtomicUsize, out: &mut Vec<u8>) -> Result<()> {
    match limit.load(Ordering::Relaxed) {
        usize::MAX => out.text("max\n"),
        limit => out.dec(limit).text("\n"),
    };
    Ok(())
}

fn set_limit(limit: &AtomicUsize, bytes: &[u8]) -> Result<()> {
    let new = match bytes {
        b"max" => usize::MAX,
        _ => match tasks::number(bytes)? {
            new @ 0..=0x7fff_ffff => new as usize,
            _ => return Err(Errno::ERANGE),
        },
    };
    limit.store(new, Ordering::Relaxed);
    Ok(())
}
