//! POSIX message queues: mq_overview(7).

use crate::Cx;
use crate::fsctx::{any_file, context, install, read_path};
use abi::fcntl::{O_ACCMODE, O_CREAT, O_EXCL, O_NONBLOCK};
use abi::ipc::MqAttr;
use abi::signal::Signal;
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::user;
use core::sync::atomic::Ordering;
use mqueue::{Attributes, Instance, Message, Queue, queue_of};
use sched::Deadline;
use vfs::{Cap, CloseOnExec, File};

crate::syscalls! {
    240 mq_open => sys_mq_open(name: Path, flags: OpenFlags, mode: Oct, attributes: Hex);
    241 mq_unlink => sys_mq_unlink(name: Path);
    242 mq_timedsend => sys_mq_timedsend(queue: Fd, text: Data, len: Dec, priority: Dec, until: Timespec);
    243 mq_timedreceive => sys_mq_timedreceive(queue: Fd, to: Hex, len: Dec, priority: Hex, until: Timespec);
    244 mq_notify => sys_mq_notify(queue: Fd, event: Hex);
    245 mq_getsetattr => sys_mq_getsetattr(queue: Fd, new: Hex, old: Hex);
}

fn instance(cx: &Cx<'_>) -> Arc<Instance> {
    cx.task.ns().ipc.queues.clone()
}

fn queue(file: &File) -> Result<&Queue> {
    queue_of(file).ok_or(Errno::EBADF)
}

/// What `mq_open` was asked for, within the limits: `EINVAL`.
fn wanted(cx: &Cx<'_>, instance: &Instance, asked: MqAttr) -> Result<Attributes> {
    const MESSAGES_MOST: i64 = 65536;
    const SIZE_MOST: i64 = 16 * 1024 * 1024;
    let (messages, size) = if cx.task.capable(Cap::SYS_RESOURCE) {
        (MESSAGES_MOST, SIZE_MOST)
    } else {
        let load = |limit: &core::sync::atomic::AtomicU32| i64::from(limit.load(Ordering::Relaxed));
        (load(&instance.limits.messages), load(&instance.limits.size))
    };
    if !(1..=messages).contains(&asked.maxmsg) || !(1..=size).contains(&asked.msgsize) {
        return Err(Errno::EINVAL);
    }
    Ok(Attributes { max_messages: asked.maxmsg as usize, message_size: asked.msgsize as usize })
}

/// `mq_open(3)`.
fn sys_mq_open(
    cx: &mut Cx<'_>,
    name: VirtAddr,
    flags: u32,
    mode: u32,
    attributes: VirtAddr,
) -> Result<usize> {
    let asked =
        if attributes.is_null() { None } else { Some(user::read_val::<MqAttr>(attributes)?) };
    let name = read_path(name, false)?;
    let flags = flags & (O_ACCMODE | O_CREAT | O_EXCL | O_NONBLOCK);
    let instance = instance(cx);
    let attributes = match asked {
        Some(asked) if flags & O_CREAT != 0 => wanted(cx, &instance, asked)?,
        _ => instance.default_attributes(),
    };
    let fs = context(cx);
    let charge = || process::ipc::mq::charge(cx.task, attributes);
    let file = instance.open(&fs.get(), &name, (flags, mode), attributes, charge)?;
    install(cx, file, CloseOnExec::Yes)
}

/// `mq_unlink(3)`.
fn sys_mq_unlink(cx: &mut Cx<'_>, name: VirtAddr) -> Result<usize> {
    let name = read_path(name, false)?;
    instance(cx).unlink(&context(cx).get(), &name)?;
    Ok(0)
}

fn deadline(at: VirtAddr) -> Result<Option<Deadline>> {
    Ok(crate::time::read_timeout(at)?.map(Deadline::at_realtime_ns))
}

/// `mq_timedsend(2)`.
fn sys_mq_timedsend(
    cx: &mut Cx<'_>,
    fd: i32,
    text: VirtAddr,
    len: usize,
    priority: u32,
    until: VirtAddr,
) -> Result<usize> {
    let deadline = deadline(until)?;
    if priority >= 32768 {
        return Err(Errno::EINVAL);
    }
    let file = any_file(cx, fd)?;
    let queue = queue(&file)?;
    if !file.can_write() {
        return Err(Errno::EBADF);
    }
    queue.check(len, priority)?;
    let mut data = Vec::new();
    data.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    data.resize(len, 0);
    user::copy_from_user(&mut data, text)?;
    queue.send(&file, Message { priority, data }, deadline)?;
    Ok(0)
}

/// `mq_timedreceive(2)`.
fn sys_mq_timedreceive(
    cx: &mut Cx<'_>,
    fd: i32,
    to: VirtAddr,
    len: usize,
    priority: VirtAddr,
    until: VirtAddr,
) -> Result<usize> {
    let deadline = deadline(until)?;
    let file = any_file(cx, fd)?;
    let queue = queue(&file)?;
    if !file.can_read() {
        return Err(Errno::EBADF);
    }
    let message = queue.receive(&file, len, deadline)?;
    if !priority.is_null() {
        user::write_val(priority, &message.priority)?;
    }
    user::copy_to_user(to, &message.data)?;
    Ok(message.data.len())
}

/// `mq_notify(2)`. `SIGEV_THREAD`, which the C library builds from a netlink socket, is `EBADF`
/// as for any descriptor that is not one.
fn sys_mq_notify(cx: &mut Cx<'_>, fd: i32, event: VirtAddr) -> Result<usize> {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    const SIGEV_THREAD: i32 = 2;
    let request = if event.is_null() {
        None
    } else {
        // struct sigevent: sigev_value, sigev_signo, sigev_notify.
        let value: u64 = user::read_val(event)?;
        let [signo, notify]: [i32; 2] = user::read_val(event.wrapping_add(8))?;
        let signal = match notify {
            SIGEV_NONE => None,
            // Signal 0 is none.
            SIGEV_SIGNAL if signo == 0 => None,
            SIGEV_SIGNAL => Some(Signal::new(signo).ok_or(Errno::EINVAL)?),
            // The value would name a netlink socket, of which there are none.
            SIGEV_THREAD => return Err(Errno::EBADF),
            _ => return Err(Errno::EINVAL),
        };
        Some((signal, value))
    };
    let file = any_file(cx, fd)?;
    let queue = queue(&file)?;
    match request {
        None => queue.unregister(),
        Some((signal, value)) => {
            queue.register(process::ipc::mq::notifier(cx.task, signal, value))?;
        }
    }
    Ok(0)
}

/// `mq_getattr(3)`, `mq_setattr(3)`.
fn sys_mq_getsetattr(cx: &mut Cx<'_>, fd: i32, new: VirtAddr, old: VirtAddr) -> Result<usize> {
    let new: Option<MqAttr> = if new.is_null() { None } else { Some(user::read_val(new)?) };
    if new.is_some_and(|new| new.flags & !i64::from(O_NONBLOCK) != 0) {
        return Err(Errno::EINVAL);
    }
    let file = any_file(cx, fd)?;
    let queue = queue(&file)?;
    let before = MqAttr {
        flags: i64::from(file.flags() & O_NONBLOCK),
        maxmsg: queue.attributes().max_messages as i64,
        msgsize: queue.attributes().message_size as i64,
        curmsgs: queue.len() as i64,
        ..MqAttr::default()
    };
    if let Some(new) = new {
        file.replace_flags(O_NONBLOCK, new.flags as u32);
    }
    if !old.is_null() {
        user::write_val(old, &before)?;
    }
    Ok(0)
}
