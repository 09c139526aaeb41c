//! The files of the controller `freezer`, and `cgroup.freeze`.

use crate::directory::{Entry, below_root};
use crate::tasks;
use abi::{Errno, Result};
use alloc::sync::Arc;
use process::cgroup::{self, Controllers, FreezerState, Group};
use pseudo::Put;
use vfs::cred::Creds;

pub(crate) const FILES: &[Entry] = &[
    Entry {
        name: "freezer.state",
        mode: 0o644,
        is_in: is_controlled,
        show: |group, out| {
            out.text(match group.freezer_state() {
                FreezerState::Thawed => "THAWED\n",
                FreezerState::Freezing => "FREEZING\n",
                FreezerState::Frozen => "FROZEN\n",
            });
            Ok(())
        },
        store: Some(set_state),
    },
    Entry {
        name: "freezer.self_freezing",
        mode: 0o444,
        is_in: is_controlled,
        show: |group, out| {
            out.dec(u32::from(group.is_to_freeze())).text("\n");
            Ok(())
        },
        store: None,
    },
    Entry {
        name: "freezer.parent_freezing",
        mode: 0o444,
        is_in: is_controlled,
        show: |group, out| {
            let is_above = group.parent().is_some_and(|parent| parent.is_freezing());
            out.dec(u32::from(is_above)).text("\n");
            Ok(())
        },
        store: None,
    },
];

pub(crate) const UNIFIED: &[Entry] = &[Entry {
    name: "cgroup.freeze",
    mode: 0o644,
    is_in: below_root,
    show: |group, out| {
        out.dec(u32::from(group.is_to_freeze())).text("\n");
        Ok(())
    },
    store: Some(|group, bytes, _| {
        let freezes = match tasks::number(bytes)? {
            0 => false,
            1 => true,
            _ => return Err(Errno::ERANGE),
        };
        cgroup::set_frozen(group, freezes)
    }),
}];

fn is_controlled(group: &Group) -> bool {
    !group.is_root() && group.controllers().contains(Controllers::FREEZER)
}

fn set_state(group: &Arc<Group>, bytes: &[u8], _: &Arc<Creds>) -> Result<()> {
    match bytes {
        b"FROZEN" => cgroup::set_frozen(group, true),
        b"THAWED" => cgroup::set_frozen(group, false),
        _ => Err(Errno::EINVAL),
    }
}
