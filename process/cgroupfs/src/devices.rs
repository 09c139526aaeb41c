//! The files of the controller `devices`: Documentation/admin-guide/cgroup-v1/devices.rst.

use crate::directory::Entry;
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use process::cgroup::devices::{self, Rule};
use process::cgroup::{Controllers, Group};
use pseudo::Put;
use vfs::cred::{Cap, Creds};
use vfs::dev::DeviceAccess;

pub(crate) const FILES: &[Entry] = &[
    Entry {
        name: "devices.allow",
        mode: 0o200,
        is_in: is_controlled,
        show: |_, _| Err(Errno::EINVAL),
        store: Some(|group, bytes, opener| change(group, bytes, opener, devices::allow)),
    },
    Entry {
        name: "devices.deny",
        mode: 0o200,
        is_in: is_controlled,
        show: |_, _| Err(Errno::EINVAL),
        store: Some(|group, bytes, opener| change(group, bytes, opener, devices::deny)),
    },
    Entry { name: "devices.list", mode: 0o444, is_in: is_controlled, show, store: None },
];

fn is_controlled(group: &Group) -> bool {
    group.controllers().contains(Controllers::DEVICES)
}

fn change(
    group: &Arc<Group>,
    bytes: &[u8],
    opener: &Arc<Creds>,
    how: fn(&Arc<Group>, &[u8]) -> Result<()>,
) -> Result<()> {
    opener.require(Cap::SYS_ADMIN)?;
    how(group, bytes)
}

fn show(group: &Arc<Group>, out: &mut Vec<u8>) -> Result<()> {
    match group.allowed_devices() {
        None => {
            out.text("a *:* rwm\n");
        }
        Some(rules) => rules.iter().for_each(|rule| show_rule(rule, out)),
    }
    Ok(())
}

fn show_rule(rule: &Rule, out: &mut Vec<u8>) {
    out.text(if rule.devices.is_block { "b " } else { "c " });
    show_number(rule.devices.major, out);
    out.text(":");
    show_number(rule.devices.minor, out);
    out.text(" ");
    let letters =
        [(DeviceAccess::READ, "r"), (DeviceAccess::WRITE, "w"), (DeviceAccess::MAKE, "m")];
    for (access, letter) in letters {
        if rule.access.contains(access) {
            out.text(letter);
        }
    }
    out.text("\n");
}

fn show_number(number: Option<u32>, out: &mut Vec<u8>) {
    match number {
        Some(number) => out.dec(number),
        None => out.text("*"),
    };
}
