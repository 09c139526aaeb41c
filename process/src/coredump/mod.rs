//! Core dumps, core(5): whether a process may leave one, its name, and bringing the process to a
//! halt while it is written.
//!
//! The thread that took the signal writes the file. The others are told to end as for an
//! `execve(2)`; each leaves its registers with the process before it goes.

mod file;
mod notes;

use crate::group::ThreadGroup;
use crate::signal;
use crate::task::Task;
use abi::fcntl::{O_CREAT, O_NOFOLLOW, O_NONBLOCK, O_WRONLY};
use abi::process::Resource;
use abi::signal::{SigInfo, Signal};
use abi::{Errno, Result};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use arch::trap::TrapFrame;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use vfs::FileKind;
use vfs::file::File;

/// `fs.suid_dumpable` (0..=2): what `dumpable` becomes when credentials change.
pub static SUID_DUMPABLE: AtomicU32 = AtomicU32::new(0);
static USES_PID: AtomicBool = AtomicBool::new(false);
static PATTERN_CLASS: LockClass = LockClass::new("process.core_pattern", 651);
static PATTERN: SpinLock<Vec<u8>> = SpinLock::new(&PATTERN_CLASS, Vec::new());
/// The longest `kernel.core_pattern`.
const PATTERN_MAX: usize = 127;

pub(crate) fn suid_dumpable() -> u32 {
    SUID_DUMPABLE.load(Ordering::Relaxed)
}

/// `kernel.core_pattern`.
pub fn pattern() -> Vec<u8> {
    let own = PATTERN.lock().clone();
    if own.is_empty() { b"core".to_vec() } else { own }
}

/// Sets `kernel.core_pattern`. A pattern that starts with `|` names a program; none is started, so
/// with it nothing is dumped.
pub fn set_pattern(pattern: &[u8]) {
    let line = pattern.split(|b| *b == b'\n').next().unwrap_or_default();
    let new = line.get(..line.len().min(PATTERN_MAX)).unwrap_or_default().to_vec();
    *PATTERN.lock() = new;
}

/// `kernel.core_uses_pid`.
pub fn uses_pid() -> bool {
    USES_PID.load(Ordering::Relaxed)
}

/// Sets `kernel.core_uses_pid`.
pub fn set_uses_pid(on: bool) {
    USES_PID.store(on, Ordering::Relaxed);
}

/// What a thread leaves for the dump.
pub(crate) struct Registers {
    tid: i32,
    frame: TrapFrame,
    fs_base: u64,
    gs_base: u64,
    fpu: [u8; 512],
    pending: u64,
    blocked: u64,
}

impl Registers {
    fn of_current(task: &Task, frame: &TrapFrame) -> Option<Registers> {
        let thread = task.thread()?.arch();
        let mut area = alloc::vec![0u8; arch::thread::fpu::signal_area_len()];
        arch::thread::fpu::save_for_signal(&mut area);
        let legacy = area.first_chunk().copied().unwrap_or([0; 512]);
        Some(Registers {
            tid: task.tid(),
            frame: *frame,
            fs_base: thread.fs_base(),
            gs_base: thread.gs_base(),
            fpu: legacy,
            pending: task.pending().0,
            blocked: task.blocked().0,
        })
    }
}

/// A thread ends because another one dumps: its registers stay.
pub(crate) fn leave_registers(task: &Task, frame: &TrapFrame) {
    if task.group.dump.lock().is_none() {
        return;
    }
    if let Some(own) = Registers::of_current(task, frame)
        && let Some(all) = task.group.dump.lock().as_mut()
    {
        all.push(own);
    }
}

/// What became of a dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dumped {
    /// It is written.
    Yes,
    /// There is none.
    No,
    /// Another thread dumps, or executes a program: this one is to end as that one's others do.
    ByAnother,
}

/// Dumps core if the process may.
pub(crate) fn dump(task: &Task, frame: &TrapFrame, signal: Signal, info: &SigInfo) -> Dumped {
    let limit = task.limit(Resource::Core);
    let allowed = limit >= 4096 && task.group.dumpable.load(Ordering::Relaxed) == 1;
    if !allowed || pattern().starts_with(b"|") {
        return Dumped::No;
    }
    let halted = halt_others(task);
    if halted == Halted::ByAnother {
        return Dumped::ByAnother;
    }
    let others = task.group.dump.lock().take().unwrap_or_default();
    let own = Registers::of_current(task, frame).filter(|_| halted == Halted::Alone);
    let Some(own) = own else { return Dumped::No };
    let mut threads = alloc::vec![own];
    threads.extend(others);
    let written = create(task, signal)
        .and_then(|file| file::write(task, &file, &threads, signal, info, limit));
    if written.is_ok() { Dumped::Yes } else { Dumped::No }
}

/// How an attempt to be the only thread ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Halted {
    /// The others have ended and left their registers.
    Alone,
    /// The process is being killed.
    Dying,
    /// Another thread was faster.
    ByAnother,
}

/// Has the other threads end.
fn halt_others(task: &Task) -> Halted {
    let group = &task.group;
    {
        let mut signals = group.signals.lock();
        if signals.is_exiting() {
            return Halted::Dying;
        }
        if signals.exec_by.is_some() {
            return Halted::ByAnother;
        }
        signals.exec_by = Some(task.thread_key.load(Ordering::Relaxed));
    }
    // Before the others are told to end, who look here then; nobody else dumps or executes meanwhile.
    *group.dump.lock() = Some(Vec::new());
    signal::send::kill_others(task, &mut group.signals.lock());
    group.resume.wait(|| {
        let is_killed = group.signals.lock().is_exiting();
        (group.is_single_threaded() || is_killed).then_some(())
    });
    let mut signals = group.signals.lock();
    signals.exec_by = None;
    if signals.is_exiting() { Halted::Dying } else { Halted::Alone }
}

/// The name that a pattern gives.
fn file_name(pattern: &[u8], group: &ThreadGroup, task: &Task, signal: Signal) -> Vec<u8> {
    let mut name = Vec::new();
    let mut has_pid = false;
    let mut bytes = pattern.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            name.push(byte);
            continue;
        }
        let creds = task.creds();
        let comm = task.comm();
        // A name is one component, whatever the program calls itself.
        let comm = comm.split(|b| *b == 0).next().unwrap_or_default();
        let plain = |text: &[u8]| -> Vec<u8> {
            text.iter().map(|b| if *b == b'/' { b'!' } else { *b }).collect()
        };
        let text = match bytes.next() {
            None => break,
            Some(b'%') => b"%".to_vec(),
            Some(b'p') => {
                has_pid = true;
                format!("{}", group.tgid()).into_bytes()
            }
            Some(b'P') => format!("{}", group.pid().global()).into_bytes(),
            Some(b'i') => format!("{}", task.tid()).into_bytes(),
            Some(b'I') => format!("{}", task.global_tid()).into_bytes(),
            Some(b'u') => format!("{}", creds.uid).into_bytes(),
            Some(b'g') => format!("{}", creds.gid).into_bytes(),
            Some(b'd') => format!("{}", group.dumpable.load(Ordering::Relaxed)).into_bytes(),
            Some(b's') => format!("{}", signal.raw()).into_bytes(),
            Some(b't') => format!("{}", sched::clock::realtime_ns() / 1_000_000_000).into_bytes(),
            Some(b'h') => {
                let names = task.ns().uts.names();
                plain(names.nodename.split(|b| *b == 0).next().unwrap_or_default())
            }
            Some(b'e') => plain(comm),
            Some(b'c') => format!("{}", task.limit(Resource::Core)).into_bytes(),
            Some(_) => Vec::new(),
        };
        name.extend_from_slice(&text);
    }
    if uses_pid() && !has_pid {
        name.extend_from_slice(format!(".{}", group.tgid()).as_bytes());
    }
    name
}

/// Makes the file in the place of one with its name. What could not be removed is overwritten only if
/// it is a plain file of the user's with no second name.
fn create(task: &Task, signal: Signal) -> Result<Arc<File>> {
    let name = file_name(&pattern(), &task.group, task, signal);
    let context = task.vfs_context();
    let ctx = context.get();
    let _ = vfs::ops::unlink(&ctx, ctx.cwd, &name);
    let how = vfs::OpenHow::new(O_CREAT | O_WRONLY | O_NOFOLLOW | O_NONBLOCK, 0o600);
    let file = vfs::open(&ctx, ctx.cwd, &name, &how)?;
    let inode = file.inode();
    let is_own =
        inode.kind == FileKind::Regular && inode.nlink() == 1 && inode.uid() == ctx.creds.fsuid;
    if !is_own {
        return Err(Errno::EPERM);
    }
    vfs::ops::truncate_file(&ctx, &file, 0)?;
    Ok(file)
}
