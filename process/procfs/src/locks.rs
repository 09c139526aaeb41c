//! `/proc/locks`, and the lines `lock:` of `/proc/PID/fdinfo`: proc(5).

use abi::Result;
use alloc::sync::Arc;
use alloc::vec::Vec;
use process::pid::PidNamespace;
use vfs::locks::{self, LockKind, LockLine, Owner};
use vfs::{File, Inode};

/// The number of the lock's process for readers in `ns`; `None` hides the lock.
fn number(line: &LockLine, ns: &Arc<PidNamespace>) -> Option<i32> {
    let initial = PidNamespace::initial();
    let pid = line.lock.pid;
    // Whoever set the lock may be gone and the lock not: the number stays.
    if pid < 0 || Arc::ptr_eq(ns, initial) {
        return Some(pid);
    }
    Some(initial.group(pid)?.pid().number_in(ns)).filter(|nr| *nr > 0)
}

fn describe(line: &LockLine, pid: i32, inode: &Inode, out: &mut Vec<u8>) {
    let class = match (line.is_flock, line.lock.owner) {
        (true, _) => "FLOCK",
        (false, Owner::Table(_)) => "POSIX",
        (false, Owner::Description(_)) => "OFDLCK",
    };
    let kind = if line.lock.kind == LockKind::Read { "READ" } else { "WRITE" };
    let dev = inode.sb().dev;
    let (major, minor, start) = (dev.major(), dev.minor(), line.lock.start);
    put!(out, "{class:<6} ADVISORY  {kind} {pid} {major:02x}:{minor:02x}:{} {start} ", inode.ino);
    match line.lock.end {
        end if end == i64::MAX as u64 => out.extend_from_slice(b"EOF\n"),
        end => {
            put!(out, "{end}\n");
        }
    }
}

/// `/proc/locks`, where the processes of `ns` are shown. The order says nothing.
pub(crate) fn show(ns: &Arc<PidNamespace>, out: &mut Vec<u8>) -> Result<()> {
    let mut id = 0;
    for inode in locks::locked_inodes() {
        for lock in locks::list(&inode) {
            let Some(pid) = number(&lock.held, ns) else { continue };
            id += 1;
            put!(out, "{id}: ");
            describe(&lock.held, pid, &inode, out);
            for waiter in &lock.waiting {
                let Some(pid) = number(waiter, ns) else { continue };
                put!(out, "{id}: -> ");
                describe(waiter, pid, &inode, out);
            }
        }
    }
    Ok(())
}

/// The locks that `file` holds, or the table of descriptors numbered `table` through it.
pub(crate) fn of_file(file: &File, table: u64, ns: &Arc<PidNamespace>, out: &mut Vec<u8>) {
    let owners = [Owner::Table(table), file.lock_owner()];
    let own = locks::list(file.inode());
    let own = own.iter().map(|lock| &lock.held).filter(|held| owners.contains(&held.lock.owner));
    for (index, held) in own.enumerate() {
        let Some(pid) = number(held, ns) else { continue };
        put!(out, "lock:\t{}: ", index + 1);
        describe(held, pid, file.inode(), out);
    }
}
