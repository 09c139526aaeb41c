//! Signals that open files send to their owners: `SIGIO` and what `F_SETSIG` chose.

use abi::fcntl::{F_OWNER_PGRP, F_OWNER_TID};
use abi::signal::{SigInfo, Signal, si};
use vfs::file::SignalOwner;
use vfs::sigio::{Notice, set_sender};

use super::{send_to_group, send_to_task};
use crate::pid::PidNamespace;
use crate::task::Task;

/// Lets open files send signals.
pub fn serve_files() {
    set_sender(signal_owner);
}

/// man 2 fcntl, F_SETOWN: who set the owner must have been allowed to signal it.
fn allowed(owner: &SignalOwner, task: &Task) -> bool {
    let target = task.creds();
    let (uid, euid) = owner.uids;
    euid == 0 || [uid, euid].iter().any(|id| *id == target.uid || *id == target.suid)
}

/// Out-of-band data came for a socket: whoever owns it gets `SIGURG`.
pub(crate) fn signal_urgent(file: &vfs::File) {
    if let Some(owner) = file.signal_owner().filter(|owner| owner.id != 0) {
        signal_with(&owner, SigInfo::new(Signal::SIGURG, si::KERNEL));
    }
}

fn signal_owner(owner: &SignalOwner, notice: &Notice) {
    signal_with(
        owner,
        match Signal::new(owner.signal as i32) {
            // With a signal of its own, the owner hears which file it was and why.
            Some(signal) => SigInfo::poll(signal, notice.code, notice.band, notice.fd),
            None => SigInfo::new(Signal::SIGIO, si::KERNEL),
        },
    );
}

fn signal_with(owner: &SignalOwner, info: SigInfo) {
    let pids = PidNamespace::initial();
    match owner.kind {
        F_OWNER_TID => {
            if let Some(task) = pids.task(owner.id).filter(|task| allowed(owner, task)) {
                send_to_task(&task, info);
            }
        }
        F_OWNER_PGRP => {
            let members = pids.find(owner.id).map(|pid| pid.members()).unwrap_or_default();
            for group in members {
                if group.any_task().is_some_and(|task| allowed(owner, &task)) {
                    // A full queue loses the notice: `sigqueue(3)`.
                    let _ = send_to_group(&group, info);
                }
            }
        }
        _ => {
            let group = pids.group(owner.id);
            if let Some(group) = group
                && group.any_task().is_some_and(|task| allowed(owner, &task))
            {
                let _ = send_to_group(&group, info);
            }
        }
    }
}
