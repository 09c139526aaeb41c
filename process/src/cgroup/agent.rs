//! Tells user space of groups that nobody is in any more: cgroups(7), "Notification of an empty cgroup".

use super::group::Group;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// Runs the hierarchy's `release_agent` if `group` asks for it and has neither tasks nor groups.
pub(super) fn tell_if_released(group: &Arc<Group>) {
    if !group.settings.notifies_on_release.load(Ordering::Relaxed)
        || group.is_removed()
        || group.is_root()
        || group.is_populated()
        || group.child_count() != 0
    {
        return;
    }
    let agent = group.hierarchy().release_agent.lock().clone();
    if agent.is_empty() {
        return;
    }
    let Some(root) = group.ancestors().last() else { return };
    let arguments = [agent.clone(), group.path_from(root)];
    let environment: [&[u8]; 2] = [b"HOME=/", b"PATH=/sbin:/bin:/usr/sbin:/usr/bin"];
    let environment: Vec<Vec<u8>> = environment.iter().map(|word| word.to_vec()).collect();
    if let Err(error) = crate::helper::spawn(&agent, &arguments, &environment) {
        let name = core::str::from_utf8(&agent).unwrap_or("?");
        log::warn!("cgroup: release agent {name}: {error}");
    }
}
