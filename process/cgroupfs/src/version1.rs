//! Files of version 1 that are no controller's.

use crate::directory::{Entry, always, in_root};
use crate::tasks;
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use process::cgroup::Group;
use pseudo::Put;
use vfs::cred::Creds;

/// The longest `release_agent`, its end included.
const AGENT_MAX: usize = 4096;

pub(crate) const FILES: &[Entry] = &[
    Entry {
        name: "cgroup.procs",
        mode: 0o644,
        is_in: always,
        show: tasks::show_processes,
        store: Some(tasks::move_process),
    },
    Entry {
        name: "tasks",
        mode: 0o644,
        is_in: always,
        show: tasks::show_threads,
        store: Some(tasks::move_thread),
    },
    Entry {
        name: "notify_on_release",
        mode: 0o644,
        is_in: always,
        show: |group, out| show_switch(&group.settings.notifies_on_release, out),
        store: Some(|group, bytes, _| set_switch(&group.settings.notifies_on_release, bytes)),
    },
    Entry {
        name: "cgroup.clone_children",
        mode: 0o644,
        is_in: always,
        show: |group, out| show_switch(&group.settings.clones_children, out),
        store: Some(|group, bytes, _| set_switch(&group.settings.clones_children, bytes)),
    },
    Entry {
        name: "cgroup.sane_behavior",
        mode: 0o444,
        is_in: in_root,
        show: |_, out| {
            out.text("0\n");
            Ok(())
        },
        store: None,
    },
    Entry {
        name: "release_agent",
        mode: 0o644,
        is_in: in_root,
        show: |group, out| {
            out.extend_from_slice(&group.hierarchy().release_agent.lock());
            out.text("\n");
            Ok(())
        },
        store: Some(set_agent),
    },
];

fn show_switch(switch: &AtomicBool, out: &mut Vec<u8>) -> Result<()> {
    out.dec(u32::from(switch.load(Ordering::Relaxed))).text("\n");
    Ok(())
}

/// Any number is a switch, on unless it is 0.
fn set_switch(switch: &AtomicBool, bytes: &[u8]) -> Result<()> {
    let number = tasks::number(bytes)?;
    switch.store(number != 0, Ordering::Relaxed);
    Ok(())
}

/// Only who may do anything to the machine names a program that the kernel runs.
fn set_agent(group: &Arc<Group>, bytes: &[u8], opener: &Arc<Creds>) -> Result<()> {
    if !opener.capable(vfs::Cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let mut agent = Vec::from(bytes);
    agent.truncate(AGENT_MAX - 1);
    *group.hierarchy().release_agent.lock() = agent;
    Ok(())
}
