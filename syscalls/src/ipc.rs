//! System V IPC: the calls on shared memory and semaphores; `msg` has those on messages.

mod msg;
mod sem;
mod shm;

use crate::Cx;
use abi::{Errno, Result};
use alloc::sync::Arc;
use ipc::{Caller, Namespace, Who};
use vfs::cred::Creds;

crate::syscalls! {
    29 shmget => sys_shmget(key: Hex, size: Dec, flags: Oct);
    30 shmat => sys_shmat(id: Dec, addr: Hex, flags: Oct);
    31 shmctl => sys_shmctl(id: Dec, command: Dec, buffer: Hex);
    64 semget => sys_semget(key: Hex, count: Dec, flags: Oct);
    65 semop => sys_semop(id: Dec, ops: Hex, count: Dec);
    66 semctl => sys_semctl(id: Dec, num: Dec, command: Dec, arg: Hex);
    67 shmdt => sys_shmdt(addr: Hex);
    68 msgget => sys_msgget(key: Hex, flags: Oct);
    69 msgsnd => sys_msgsnd(id: Dec, message: Hex, size: Dec, flags: Oct);
    70 msgrcv => sys_msgrcv(id: Dec, message: Hex, size: Dec, kind: Dec, flags: Oct);
    71 msgctl => sys_msgctl(id: Dec, command: Dec, buffer: Hex);
    220 semtimedop => sys_semtimedop(id: Dec, ops: Hex, count: Dec, timeout: Timespec);
}

use msg::{sys_msgctl, sys_msgget, sys_msgrcv, sys_msgsnd};
use sem::{sys_semctl, sys_semget, sys_semop, sys_semtimedop};
use shm::{sys_shmat, sys_shmctl, sys_shmdt, sys_shmget};

/// The caller's credentials and namespace for the length of a call.
struct Context {
    creds: Arc<Creds>,
    ns: Arc<Namespace>,
    who: Who,
}

impl Context {
    fn of(cx: &Cx<'_>) -> Context {
        Context {
            creds: cx.task.creds(),
            ns: cx.task.ns().ipc.sysv.clone(),
            who: process::ipc::who(cx.task),
        }
    }

    fn caller(&self) -> Caller<'_> {
        Caller { creds: &self.creds, who: self.who.clone() }
    }
}

/// How the caller numbers a process.
fn number<'a>(cx: &'a Cx<'_>) -> impl Fn(&Who) -> i32 + 'a {
    |who| process::ipc::number_of(who, cx.task.group.pid_ns())
}

/// Identifiers and slots are not negative.
fn check_id(id: i32) -> Result<()> {
    if id < 0 { Err(Errno::EINVAL) } else { Ok(()) }
}
