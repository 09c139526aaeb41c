//! `cgroup.procs`, `cgroup.threads` and `tasks`: who is in a group, and who may move whom where.

use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use process::Task;
use process::cgroup::{self, Group, Mode};
use process::pid::PidNamespace;
use pseudo::Put;
use vfs::cred::{Cap, Creds};

/// A number as programs write it: decimal, octal behind `0`, hexadecimal behind `0x`, with a sign.
pub(crate) fn number(bytes: &[u8]) -> Result<i64> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let (is_negative, digits) = match text.split_at_checked(1) {
        Some(("-", rest)) => (true, rest),
        Some(("+", rest)) => (false, rest),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', rest @ ..] => (16, rest),
        [b'0', rest @ ..] if !rest.is_empty() => (8, rest),
        all => (10, all),
    };
    // No second sign.
    if !digits.first().is_some_and(u8::is_ascii_alphanumeric) {
        return Err(Errno::EINVAL);
    }
    let digits = core::str::from_utf8(digits).map_err(|_| Errno::EINVAL)?;
    let number = i64::from_str_radix(digits, radix).map_err(|error| match error.kind() {
        core::num::IntErrorKind::PosOverflow => Errno::ERANGE,
        _ => Errno::EINVAL,
    })?;
    Ok(if is_negative { -number } else { number })
}

/// The namespace of the numbers that the running task reads and writes.
fn numbers() -> Arc<PidNamespace> {
    match process::try_current() {
        Some(task) => task.pid().namespace().clone(),
        None => PidNamespace::initial().clone(),
    }
}

fn show(mut numbers: Vec<i32>, out: &mut Vec<u8>) -> Result<()> {
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers {
        out.dec(number).text("\n");
    }
    Ok(())
}

/// `cgroup.procs`: processes of which a thread is in the group.
pub(crate) fn show_processes(group: &Arc<Group>, out: &mut Vec<u8>) -> Result<()> {
    let ns = numbers();
    let tasks = cgroup::tasks(group);
    show(tasks.iter().map(|task| task.group.pid().number_in(&ns)).collect(), out)
}

/// `tasks` and `cgroup.threads`.
pub(crate) fn show_threads(group: &Arc<Group>, out: &mut Vec<u8>) -> Result<()> {
    let ns = numbers();
    let tasks = cgroup::tasks(group);
    show(tasks.iter().map(|task| task.pid().number_in(&ns)).collect(), out)
}

/// `cgroup.procs` of either version.
pub(crate) fn move_process(group: &Arc<Group>, bytes: &[u8], opener: &Arc<Creds>) -> Result<()> {
    let task = find(bytes)?;
    may_move(group, &task, opener)?;
    cgroup::attach(group, &task, true)
}

/// `tasks`.
pub(crate) fn move_thread(group: &Arc<Group>, bytes: &[u8], opener: &Arc<Creds>) -> Result<()> {
    let task = find(bytes)?;
    may_move(group, &task, opener)?;
    cgroup::attach(group, &task, false)
}

/// `cgroup.threads`, which moves nothing where no group is threaded: a process stays whole.
pub(crate) fn move_thread_unified(
    group: &Arc<Group>,
    bytes: &[u8],
    opener: &Arc<Creds>,
) -> Result<()> {
    let task = find(bytes)?;
    may_move(group, &task, opener)?;
    let own = cgroup::group_of(&task, cgroup::unified());
    if Arc::ptr_eq(&own, group) { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

/// The task that is written: 0 is the writer.
fn find(bytes: &[u8]) -> Result<Arc<Task>> {
    let number = i32::try_from(number(bytes)?).map_err(|_| Errno::EINVAL)?;
    match number {
        0 => process::try_current().and_then(Task::arc).ok_or(Errno::ESRCH),
        1.. => numbers().task(number).ok_or(Errno::ESRCH),
        _ => Err(Errno::EINVAL),
    }
}

/// Whether `opener` may move `task` to `group`.
///
/// In version 1 whoever may write the file moves tasks of his own, root everybody's. In version 2 he must
/// be able to write `cgroup.procs` of the nearest group that is above both places too: cgroups(7),
/// "Cgroups delegation containment rules". Errors: `EACCES`.
fn may_move(group: &Arc<Group>, task: &Task, opener: &Creds) -> Result<()> {
    if !group.hierarchy().is_unified() {
        let target = task.creds();
        let is_own = opener.euid == target.uid || opener.euid == target.suid;
        return if opener.euid == 0 || is_own { Ok(()) } else { Err(Errno::EACCES) };
    }
    let from = cgroup::group_of(task, cgroup::unified());
    let Some(common) = group.ancestors().find(|above| above.contains(&from)) else {
        return Err(Errno::EACCES);
    };
    let usual = Mode { bits: 0o644, owner: common.settings.maker };
    let mode = common.settings.mode("cgroup.procs").unwrap_or(usual);
    if may_write(mode, opener) { Ok(()) } else { Err(Errno::EACCES) }
}

fn may_write(mode: Mode, who: &Creds) -> bool {
    let bit = if who.fsuid == mode.owner.0 {
        0o200
    } else if who.in_group(mode.owner.1) {
        0o020
    } else {
        0o002
    };
    mode.bits & bit != 0 || who.capable(Cap::DAC_OVERRIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_bases_of_c() {
        assert_eq!(number(b"10"), Ok(10));
        assert_eq!(number(b"+0x10"), Ok(16));
        assert_eq!(number(b"010"), Ok(8));
        assert_eq!(number(b"0"), Ok(0));
        assert_eq!(number(b"-7"), Ok(-7));
        for wrong in ["", "x", "1x", "--1", "+-1", "0x", "08", "1 2"] {
            assert_eq!(number(wrong.as_bytes()), Err(Errno::EINVAL), "{wrong}");
        }
        assert_eq!(number(b"99999999999999999999"), Err(Errno::ERANGE));
    }

    #[test]
    fn who_may_write() {
        let mode = |bits| Mode { bits, owner: (5, 6) };
        let mut who = (**process::creds::initial_creds()).clone();
        assert!(may_write(mode(0o444), &who));
        who.effective = vfs::cred::CapSet::EMPTY;
        assert!(!may_write(mode(0o664), &who));
        assert!(may_write(mode(0o666), &who));
        who.fsgid = 6;
        assert!(may_write(mode(0o664), &who));
        who.fsuid = 5;
        assert!(!may_write(mode(0o464), &who));
    }
}
