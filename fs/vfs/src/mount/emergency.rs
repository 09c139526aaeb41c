//! The emergency remount of the magic system request `u`: what is on disks becomes read-only and
//! clean there, whoever has files open for writing. From then on these get `EROFS`.

use super::tree;
use super::*;
use crate::superblock::super_blocks;

/// How long changes that have begun get to end.
const PATIENCE_NS: u64 = 5_000_000_000;
const STEP_NS: u64 = 1_000_000;

/// Makes all file systems on block devices read-only, the ones that were mounted last first. Waits
/// for the disks.
pub fn make_all_read_only() {
    for sb in super_blocks().iter().rev() {
        let is_on_disk = sb.dev.major() != 0;
        if !is_on_disk || sb.is_read_only() || !sb.try_activate() {
            continue;
        }
        make_read_only(sb);
        sb.deactivate();
    }
}

fn make_read_only(sb: &Arc<SuperBlock>) {
    sb.set_flags(sb.flags() | MS_RDONLY);
    // Pairs with `Mount::want_write`: it counts itself first and looks at the flag then.
    core::sync::atomic::fence(Ordering::SeqCst);
    await_changes(sb);
    match sb.ops().seal(sb) {
        Ok(()) => log::info!("{}: re-mounted read-only", sb.id),
        // What could not be written stays as it is: nothing more is tried.
        Err(error) => log::error!("{}: cannot be made clean: {error}", sb.id),
    }
}

/// Waits until nobody is between asking for the right to write and the end of what it was for.
fn await_changes(sb: &Arc<SuperBlock>) {
    let end = arch::time::now_ns().saturating_add(PATIENCE_NS);
    loop {
        let is_changing = {
            let tree = tree::lock();
            let mut mounts = tree.nodes.values().map(|node| &node.mount);
            mounts.any(|mount| Arc::ptr_eq(&mount.sb, sb) && mount.is_changing())
        };
        if !is_changing {
            return;
        }
        if arch::time::now_ns() > end {
            log::warn!("{}: changes go on", sb.id);
            return;
        }
        sched::timer::sleep_ns(STEP_NS);
    }
}
