//! The notes of a core file: one `NT_PRSTATUS` (and what belongs to it) for each thread, and what
//! describes the process. `linux/elf.h`, `sys/procfs.h`.

use super::Registers;
use crate::ptrace::registers::user_words;
use crate::task::Task;
use abi::signal::{SigInfo, Signal};
use alloc::vec::Vec;
use arch::addr::PAGE_SIZE;
use vm::MapInfo;
use zerocopy::IntoBytes;

const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;
/// The longest command line that is kept.
const ARGS_MAX: usize = 80;

fn put(out: &mut Vec<u8>, kind: u32, contents: &[u8]) {
    const NAME: &[u8] = b"CORE\0\0\0\0";
    out.extend_from_slice(&5u32.to_le_bytes());
    out.extend_from_slice(&(contents.len() as u32).to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(NAME);
    out.extend_from_slice(contents);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn time(ns: u64) -> [u64; 2] {
    [ns / 1_000_000_000, ns % 1_000_000_000 / 1000]
}

/// Parent, process group and session as the process sees them.
fn relatives(task: &Task) -> [i32; 3] {
    let ns = task.group.pid_ns();
    [task.group.ppid(), task.group.pgrp().number_in(ns), task.group.session().number_in(ns)]
}

/// `struct elf_prstatus`.
fn prstatus(task: &Task, regs: &Registers, signal: Signal, is_first: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let number = signal.raw() as i32;
    for word in [number, 0, 0, number] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for word in [regs.pending, regs.blocked] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    let [parent, pgrp, session] = relatives(task);
    for word in [regs.tid, parent, pgrp, session] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    let (own, children) = (task.group.cpu_time(), task.group.children_usage());
    let own = if is_first { own } else { (0, 0) };
    for ns in [own.0, own.1, children.utime_ns, children.stime_ns] {
        time(ns).iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }
    for word in user_words(&regs.frame, regs.fs_base, regs.gs_base) {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out
}

/// `struct elf_prpsinfo`.
fn prpsinfo(task: &Task) -> Vec<u8> {
    let creds = task.creds();
    let nice = task.thread().map_or(0, |thread| thread.params().nice);
    let mut out = alloc::vec![0u8, b'R', 0, nice as u8, 0, 0, 0, 0];
    out.extend_from_slice(&0u64.to_le_bytes());
    for word in [creds.uid, creds.gid, task.group.tgid() as u32] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for word in relatives(task) {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&task.comm());
    let layout = task.group.layout();
    let len = (layout.arg_end.saturating_sub(layout.arg_start) as usize).min(ARGS_MAX - 1);
    let mut args = alloc::vec![0u8; len];
    if let Some(mm) = task.mm() {
        let _ = mm.read_remote(arch::VirtAddr(layout.arg_start), &mut args);
    }
    args.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    args.resize(ARGS_MAX, 0);
    out.extend_from_slice(&args);
    out
}

/// `NT_FILE`: which file is mapped where.
fn files(areas: &[MapInfo]) -> Vec<u8> {
    let mapped: Vec<&MapInfo> = areas.iter().filter(|area| area.file.ino != 0).collect();
    let mut out = Vec::new();
    for word in [mapped.len() as u64, PAGE_SIZE as u64] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for area in &mapped {
        for word in [area.start, area.end, area.offset / PAGE_SIZE as u64] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
    for area in &mapped {
        out.extend_from_slice(area.file.path.as_bytes());
        out.push(0);
    }
    out
}

/// All notes; the first thread is the one that took the signal.
pub(super) fn all(
    task: &Task,
    threads: &[Registers],
    areas: &[MapInfo],
    signal: Signal,
    info: &SigInfo,
) -> Vec<u8> {
    let mut out = Vec::new();
    for (n, regs) in threads.iter().enumerate() {
        put(&mut out, NT_PRSTATUS, &prstatus(task, regs, signal, n == 0));
        if n == 0 {
            put(&mut out, NT_PRPSINFO, &prpsinfo(task));
            put(&mut out, NT_SIGINFO, info.as_bytes());
            put(&mut out, NT_AUXV, task.group.layout().auxv.as_bytes());
            put(&mut out, NT_FILE, &files(areas));
        }
        put(&mut out, NT_FPREGSET, &regs.fpu);
    }
    out
}
