//! Files of the controller `pids`.

use crate::directory::Entry;
use crate::tasks;
use abi::{Errno, Result};
use alloc::sync::Arc;
use process::cgroup::{Controllers, Group, NO_LIMIT};
use pseudo::Put;
use vfs::cred::Creds;

/// More tasks than there can be numbers.
const LIMIT_MAX: i64 = 4 << 20;

pub(crate) const FILES: &[Entry] = &[
    Entry {
        name: "pids.current",
        mode: 0o444,
        is_in: is_controlled,
        show: |group, out| {
            out.dec(group.pids_current()).text("\n");
            Ok(())
        },
        store: None,
    },
    Entry {
        name: "pids.max",
        mode: 0o644,
        is_in: is_controlled,
        show: |group, out| {
            match group.pids_max() {
                NO_LIMIT => out.text("max\n"),
                max => out.dec(max).text("\n"),
            };
            Ok(())
        },
        store: Some(set_max),
    },
    Entry {
        name: "pids.events",
        mode: 0o444,
        is_in: is_controlled,
        show: |group, out| {
            out.text("max ").dec(group.pids_refused()).text("\n");
            Ok(())
        },
        store: None,
    },
];

fn is_controlled(group: &Group) -> bool {
    !group.is_root() && group.controllers().contains(Controllers::PIDS)
}

fn set_max(group: &Arc<Group>, bytes: &[u8], _: &Arc<Creds>) -> Result<()> {
    let max = match bytes {
        b"max" => NO_LIMIT,
        _ => match tasks::number(bytes)? {
            max @ 0..=LIMIT_MAX => max,
            _ => return Err(Errno::EINVAL),
        },
    };
    group.set_pids_max(max);
    Ok(())
}
