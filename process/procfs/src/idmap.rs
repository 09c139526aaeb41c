//! `/proc/PID/uid_map`, `gid_map`, `projid_map` and `setgroups`: the maps of the task's user
//! namespace, user_namespaces(7).

use crate::pid::View;
use abi::{Errno, Result};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use process::userns::{Map, read_map, write_map, write_setgroups};

fn show(view: &View, map: Map, out: &mut Vec<u8>) -> Result<()> {
    let ns = view.task.creds().user_ns.clone();
    let reader = process::try_current().map_or_else(|| ns.clone(), |t| t.creds().user_ns.clone());
    for line in read_map(&ns, map, &reader) {
        put!(out, "{:10} {:10} {:10}\n", line.inside, line.outside, line.count);
    }
    Ok(())
}

fn store(view: &View, map: Map, bytes: &[u8]) -> Result<()> {
    let creds = process::try_current().ok_or(Errno::EPERM)?.creds();
    let opener = view.opener.as_ref().ok_or(Errno::EPERM)?;
    write_map(&view.task.creds().user_ns, map, opener, &creds, bytes)
}

pub(crate) fn uid_map(view: &View, out: &mut Vec<u8>) -> Result<()> {
    show(view, Map::Uid, out)
}

pub(crate) fn set_uid_map(view: &View, bytes: &[u8]) -> Result<()> {
    store(view, Map::Uid, bytes)
}

pub(crate) fn gid_map(view: &View, out: &mut Vec<u8>) -> Result<()> {
    show(view, Map::Gid, out)
}

pub(crate) fn set_gid_map(view: &View, bytes: &[u8]) -> Result<()> {
    store(view, Map::Gid, bytes)
}

pub(crate) fn setgroups(view: &View, out: &mut Vec<u8>) -> Result<()> {
    // Relaxed: a lone flag.
    let is_denied = view.task.creds().user_ns.setgroups_denied.load(Ordering::Relaxed);
    put!(out, "{}\n", if is_denied { "deny" } else { "allow" });
    Ok(())
}

pub(crate) fn set_setgroups(view: &View, bytes: &[u8]) -> Result<()> {
    let opener = view.opener.as_ref().ok_or(Errno::EPERM)?;
    write_setgroups(&view.task.creds().user_ns, opener, bytes)
}
