//! `/proc/sysvipc` and the limits of System V IPC in `/proc/sys/kernel`, of the reader's namespace.

use abi::{Errno, Result};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use ipc::{Kind, Limits, Namespace, Who};
use process::pid::PidNamespace;
use pseudo::{Node, Tree, knob, show};
use vfs::cred::UserNamespace;

fn namespace() -> Result<Arc<Namespace>> {
    match process::try_current() {
        Some(task) => Ok(task.ns().ipc.sysv.clone()),
        None => process::nsproxy::try_initial().map(|ns| ns.ipc.sysv.clone()).ok_or(Errno::ENOENT),
    }
}

/// The reader's view: its users and process numbers.
struct Viewer {
    users: Arc<UserNamespace>,
    pids: Arc<PidNamespace>,
}

impl Viewer {
    fn new() -> Viewer {
        match process::try_current() {
            Some(task) => {
                Viewer { users: task.creds().user_ns.clone(), pids: task.group.pid_ns().clone() }
            }
            None => Viewer {
                users: process::creds::initial_user_ns().clone(),
                pids: PidNamespace::initial().clone(),
            },
        }
    }

    fn number(&self, who: &Who) -> i32 {
        process::ipc::number_of(who, &self.pids)
    }
}

/// `/proc/sysvipc`.
pub(crate) fn tree() -> Tree {
    Tree::new().with("msg", show(queues)).with("sem", show(sets)).with("shm", show(segments))
}

fn queues(out: &mut Vec<u8>) -> Result<()> {
    let viewer = Viewer::new();
    put!(
        out,
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n"
    );
    for queue in namespace()?.queues() {
        let ds = queue.export(&viewer.users, |who| viewer.number(who));
        let p = &ds.perm;
        put!(out, "{:10} {:10}  {:4o}  ", p.key, queue.id, p.mode);
        put!(out, "{:10} {:10} {:5} {:5} ", ds.cbytes, ds.qnum, ds.lspid, ds.lrpid);
        put!(out, "{:5} {:5} {:5} {:5} ", p.uid, p.gid, p.cuid, p.cgid);
        put!(out, "{:10} {:10} {:10}\n", ds.stime, ds.rtime, ds.ctime);
    }
    Ok(())
}

fn sets(out: &mut Vec<u8>) -> Result<()> {
    let viewer = Viewer::new();
    put!(
        out,
        "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n"
    );
    for set in namespace()?.sets() {
        let ds = set.export(&viewer.users);
        let p = &ds.perm;
        put!(out, "{:10} {:10}  {:4o} {:10} ", p.key, set.id, p.mode, ds.nsems);
        put!(out, "{:5} {:5} {:5} {:5} ", p.uid, p.gid, p.cuid, p.cgid);
        put!(out, "{:10} {:10}\n", ds.otime, ds.ctime);
    }
    Ok(())
}

fn segments(out: &mut Vec<u8>) -> Result<()> {
    let viewer = Viewer::new();
    put!(
        out,
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n"
    );
    for segment in namespace()?.segments() {
        let ds = segment.export(&viewer.users, |who| viewer.number(who));
        let p = &ds.perm;
        put!(out, "{:10} {:10}  {:4o} {:21} ", p.key, segment.id, p.mode, ds.segsz);
        put!(out, "{:5} {:5}  {:5} ", ds.cpid, ds.lpid, ds.nattch);
        put!(out, "{:5} {:5} {:5} {:5} ", p.uid, p.gid, p.cuid, p.cgid);
        put!(out, "{:10} {:10} {:10} ", ds.atime, ds.dtime, ds.ctime);
        put!(out, "{:21} {:21}\n", segment.resident << 12, 0);
    }
    Ok(())
}

/// Reads numbers between white space into as many places as there are.
fn parse_all<T: core::str::FromStr + Copy>(bytes: &[u8]) -> Result<Vec<T>> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    text.trim_end_matches('\0')
        .split_ascii_whitespace()
        .map(|word| word.parse().map_err(|_| Errno::EINVAL))
        .collect()
}

fn int(pick: fn(&Limits) -> &AtomicI32, range: core::ops::RangeInclusive<i32>) -> Node {
    knob(
        move |out| {
            put!(out, "{}\n", pick(&namespace()?.limits).load(Ordering::Relaxed));
            Ok(())
        },
        move |bytes| {
            let Some(&new) = parse_all::<i32>(bytes)?.first() else { return Ok(()) };
            if !range.contains(&new) {
                return Err(Errno::EINVAL);
            }
            pick(&namespace()?.limits).store(new, Ordering::Relaxed);
            Ok(())
        },
    )
}

fn long(pick: fn(&Limits) -> &AtomicU64) -> Node {
    knob(
        move |out| {
            put!(out, "{}\n", pick(&namespace()?.limits).load(Ordering::Relaxed));
            Ok(())
        },
        move |bytes| {
            if let Some(&new) = parse_all::<u64>(bytes)?.first() {
                pick(&namespace()?.limits).store(new, Ordering::Relaxed);
            }
            Ok(())
        },
    )
}

fn next_id(kind: Kind) -> Node {
    knob(
        move |out| {
            put!(out, "{}\n", namespace()?.next_id(kind));
            Ok(())
        },
        move |bytes| {
            let Some(&id) = parse_all::<i32>(bytes)?.first() else { return Ok(()) };
            if id < 0 {
                return Err(Errno::EINVAL);
            }
            namespace()?.set_next_id(kind, id);
            Ok(())
        },
    )
}

fn sem_limits() -> Node {
    knob(
        |out| {
            let ns = namespace()?;
            let values: Vec<_> =
                ns.limits.sem.iter().map(|l| format!("{}", l.load(Ordering::Relaxed))).collect();
            put!(out, "{}\n", values.join("\t"));
            Ok(())
        },
        |bytes| {
            let ns = namespace()?;
            let new = parse_all::<i32>(bytes)?;
            // The number of sets is bounded by what identifiers can name.
            if new.get(3).is_some_and(|&sets| !(0..=ipc::SLOTS as i32).contains(&sets)) {
                return Err(Errno::ERANGE);
            }
            for (limit, value) in ns.limits.sem.iter().zip(new) {
                limit.store(value, Ordering::Relaxed);
            }
            Ok(())
        },
    )
}

/// Setting it to 1 removes what the dead have left behind and nobody is attached to.
fn rmid_forced() -> Node {
    knob(
        |out| {
            let forced = namespace()?.limits.shm_rmid_forced.load(Ordering::Relaxed);
            put!(out, "{forced}\n");
            Ok(())
        },
        |bytes| {
            let Some(&new) = parse_all::<i32>(bytes)?.first() else { return Ok(()) };
            if !(0..=1).contains(&new) {
                return Err(Errno::EINVAL);
            }
            let ns = namespace()?;
            ns.limits.shm_rmid_forced.store(new, Ordering::Relaxed);
            if new == 1 {
                ns.sweep_segments(process::ipc::is_gone);
            }
            Ok(())
        },
    )
}

/// Adds the limits to `/proc/sys/kernel`.
pub(crate) fn add_limits(kernel: Tree) -> Tree {
    let slots = 0..=ipc::SLOTS as i32;
    kernel
        // Obsolete since Linux 3.19: `msgmni` is not tuned by itself any more.
        .with(
            "auto_msgmni",
            knob(
                |out| {
                    put!(out, "0\n");
                    Ok(())
                },
                |bytes| match parse_all::<i32>(bytes)?.first() {
                    Some(0 | 1) | None => Ok(()),
                    _ => Err(Errno::EINVAL),
                },
            ),
        )
        .with("msg_next_id", next_id(Kind::Msg))
        .with("msgmax", int(|l| &l.msgmax, 0..=i32::MAX))
        .with("msgmnb", int(|l| &l.msgmnb, 0..=i32::MAX))
        .with("msgmni", int(|l| &l.msgmni, slots.clone()))
        .with("sem", sem_limits())
        .with("sem_next_id", next_id(Kind::Sem))
        .with("shm_next_id", next_id(Kind::Shm))
        .with("shm_rmid_forced", rmid_forced())
        .with("shmall", long(|l| &l.shmall))
        .with("shmmax", long(|l| &l.shmmax))
        .with("shmmni", int(|l| &l.shmmni, slots))
}

/// `/proc/sys/fs/mqueue`.
pub(crate) fn mqueue() -> Tree {
    fn limit(
        pick: fn(&mqueue::Limits) -> &core::sync::atomic::AtomicU32,
        range: core::ops::RangeInclusive<u32>,
    ) -> Node {
        let queues = || match process::try_current() {
            Some(task) => Ok(task.ns().ipc.queues.clone()),
            None => Err(Errno::ENOENT),
        };
        knob(
            move |out| {
                put!(out, "{}\n", pick(&queues()?.limits).load(Ordering::Relaxed));
                Ok(())
            },
            move |bytes| {
                let Some(&new) = parse_all::<i64>(bytes)?.first() else { return Ok(()) };
                let new = u32::try_from(new).map_err(|_| Errno::EINVAL)?;
                if !range.contains(&new) {
                    return Err(Errno::EINVAL);
                }
                pick(&queues()?.limits).store(new, Ordering::Relaxed);
                Ok(())
            },
        )
    }
    // Linux's bounds.
    let (messages, size) = (1..=65536, 128..=16 * 1024 * 1024);
    Tree::new()
        .with("msg_default", limit(|l| &l.messages_default, messages.clone()))
        .with("msg_max", limit(|l| &l.messages, messages))
        .with("msgsize_default", limit(|l| &l.size_default, size.clone()))
        .with("msgsize_max", limit(|l| &l.size, size))
        .with("queues_max", limit(|l| &l.queues, 0..=i32::MAX as u32))
}
