//! The controller `devices`: which device nodes the tasks of a group may open and make. Of version 1 only:
//! Documentation/admin-guide/cgroup-v1/devices.rst.
//!
//! A group allows all devices but its exceptions, or none but them, and never more than the group above: what is
//! taken from a group is taken from those below, whose own exceptions go where they would allow more. So one look at
//! a task's own group answers, and only an open of a device looks.
//!
//! Rules change with the structure locked; a group's own lock is held for one look or change.

mod rules;

pub use rules::{Devices, Rule};

use super::group::Group;
use super::hierarchy::root_of;
use super::{Controllers, group_of, structure};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use rules::{Request, Rules};
use vfs::dev::DeviceAccess;
use vfs::{DeviceNumber, FileKind};

static CLASS: LockClass = LockClass::new("process.cgroup_devices", 619);

/// What a group says of devices.
pub(super) struct DeviceRules(SpinLock<Rules>);

impl DeviceRules {
    pub(super) fn new() -> DeviceRules {
        DeviceRules(SpinLock::new(&CLASS, Rules::new(true)))
    }
}

impl Group {
    fn device_rules(&self) -> Rules {
        self.state.devices.0.lock().clone()
    }

    /// `devices.list`: the exceptions that allow something; `None` if what is no exception is allowed.
    pub fn allowed_devices(&self) -> Option<Vec<Rule>> {
        let rules = self.state.devices.0.lock();
        (!rules.allows_by_default()).then(|| rules.exceptions())
    }
}

/// Whether the running task may use a device so. Errors: `EPERM`.
pub(super) fn check(kind: FileKind, dev: DeviceNumber, access: DeviceAccess) -> Result<()> {
    let Some(task) = crate::try_current() else { return Ok(()) };
    let group = group_of(task, &root_of(Controllers::DEVICES));
    let may = group.state.devices.0.lock().may(kind, dev, access);
    if may { Ok(()) } else { Err(Errno::EPERM) }
}

/// Asks the groups from now on whenever a device is opened or made.
pub fn init() {
    vfs::dev::set_gate(check);
}

/// What is written to `devices.allow`. Errors: `EINVAL`, also for all devices where groups are below; `EPERM` for
/// what the group above lacks; `ENODEV` in a group that is gone.
pub fn allow(group: &Arc<Group>, bytes: &[u8]) -> Result<()> {
    change(group, bytes, |request, above| {
        match request {
            Request::All if above.is_some_and(|above| !above.allows_by_default()) => {
                return Err(Errno::EPERM);
            }
            Request::All => {
                // What the group above forbids stays forbidden.
                let inherited = above.cloned().unwrap_or(Rules::new(true));
                *group.state.devices.0.lock() = inherited;
            }
            Request::One(rule) if above.is_some_and(|above| !above.may_pass_on(rule)) => {
                return Err(Errno::EPERM);
            }
            Request::One(rule) => group.state.devices.0.lock().allow(rule),
        }
        Ok(())
    })
}

/// What is written to `devices.deny`. Errors: `EINVAL`, also for all devices where groups are below; `ENODEV` in a
/// group that is gone.
pub fn deny(group: &Arc<Group>, bytes: &[u8]) -> Result<()> {
    change(group, bytes, |request, _| {
        match request {
            Request::All => *group.state.devices.0.lock() = Rules::new(false),
            Request::One(rule) => {
                group.state.devices.0.lock().deny(rule);
                take_below(group, rule);
            }
        }
        Ok(())
    })
}

/// Changes a group's rules by a request, knowing those of the group above.
fn change(
    group: &Arc<Group>,
    bytes: &[u8],
    how: impl FnOnce(Request, Option<&Rules>) -> Result<()>,
) -> Result<()> {
    let request = Request::parse(bytes)?;
    let _held = structure();
    if group.is_removed() {
        return Err(Errno::ENODEV);
    }
    if request == Request::All && group.child_count() != 0 {
        return Err(Errno::EINVAL);
    }
    let above = group.parent().map(|parent| parent.device_rules());
    how(request, above.as_ref())
}

/// Takes from all groups below what was taken from `group`.
fn take_below(group: &Arc<Group>, rule: Rule) {
    // Each group comes behind its parent.
    for below in group.subtree().iter().skip(1) {
        let Some(above) = below.parent().map(|parent| parent.device_rules()) else { continue };
        let mut rules = below.state.devices.0.lock();
        rules.deny(rule);
        rules.confine(&above);
    }
}

/// A group was made; the structure is locked.
pub(super) fn created(group: &Group) {
    if let Some(parent) = group.parent() {
        *group.state.devices.0.lock() = parent.device_rules();
    }
}
