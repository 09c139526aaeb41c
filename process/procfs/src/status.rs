//! The text files of `/proc/PID`, proc(5).

use crate::pid::{View, inspect};
use abi::process::{RLIM_INFINITY, Resource};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::VirtAddr;
use core::sync::atomic::Ordering;
use process::Task;
use process::group::MemoryLayout;
use process::usage::Usage;
use pseudo::{Number, Put};
use sched::Policy;
use vm::AddressSpace;

const TICK_NS: u64 = 10_000_000;
/// Room for a whole `status`.
const STATUS: usize = 2048;
const PF_KTHREAD_NONE: u32 = 0x0040_0000;

fn state(task: &Task) -> (char, &'static str) {
    let letter = task.state_letter();
    let word = match letter {
        'R' => "running",
        'S' => "sleeping",
        'D' => "disk sleep",
        'T' => "stopped",
        't' => "tracing stop",
        'Z' => "zombie",
        _ => "dead",
    };
    (letter, word)
}

fn name(task: &Task) -> Vec<u8> {
    crate::global::text(&task.comm()).to_vec()
}

fn usage(view: &View) -> Usage {
    if view.whole { view.task.group.usage() } else { Usage::of(&view.task) }
}

fn parameters(task: &Task) -> (i64, i64, u32, u32) {
    let Some(thread) = task.thread() else { return (20, 0, 0, 0) };
    let params = thread.params();
    let nice = i64::from(params.nice);
    let priority = match params.policy {
        Policy::Fifo | Policy::RoundRobin => -1 - i64::from(params.rt_priority),
        _ => 20 + nice,
    };
    (priority, nice, u32::from(params.rt_priority), params.policy as u32)
}

pub(crate) fn stat(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let task = &view.task;
    let group = &task.group;
    // Who may not inspect the process sees 1 for addresses of the code, if it has memory at all.
    let layout = inspect(task, || group.layout());
    let is_permitted = layout.is_ok();
    let hidden = u64::from(task.mm().is_some());
    let layout = layout.unwrap_or_else(|_| MemoryLayout {
        start_code: hidden,
        end_code: hidden,
        ..MemoryLayout::default()
    });
    let used = usage(view);
    let children = group.children_usage();
    let (mut tty_nr, mut tpgid) = (0, -1);
    if let Some(tty) = group.terminal() {
        let dev = tty.dev();
        tty_nr = (dev.major() << 8 | dev.minor() & 0xff | (dev.minor() & 0xfff00) << 12) as i32;
        if let Some(foreground) = tty.foreground() {
            tpgid = process::jobs::number_of(&foreground, &view.ns).unwrap_or(-1);
        }
    }
    let parent = group.parent().map_or(0, |p| p.pid().number_in(&view.ns));
    out.dec(task.pid().number_in(&view.ns)).text(" (");
    out.extend_from_slice(&name(task));
    out.text(") ").push(state(task).0 as u8);
    let mut line = Numbers(out);
    let (pgrp, session) = (group.pgrp(), group.session());
    line.add(parent).add(pgrp.number_in(&view.ns)).add(session.number_in(&view.ns));
    line.add(tty_nr).add(tpgid).add(PF_KTHREAD_NONE);
    line.add(used.minor_faults).add(children.minor_faults);
    line.add(used.major_faults).add(children.major_faults);
    line.add(used.utime_ticks()).add(used.stime_ticks());
    line.add(children.utime_ticks()).add(children.stime_ticks());
    let (priority, nice, rt_priority, policy) = parameters(task);
    let start = task.start_time_ns / TICK_NS;
    line.add(priority).add(nice).add(group.thread_count()).add(0).add(start);
    let stats = task.mm().map(|mm| mm.stats()).unwrap_or_default();
    line.add(stats.total * 4096).add(stats.rss_pages()).add(group.limits.soft(Resource::Rss));
    line.add(layout.start_code).add(layout.end_code).add(layout.start_stack).add(0).add(0);
    let (ignored, caught) = task.dispositions();
    for set in [task.pending(), task.blocked(), ignored, caught] {
        line.add(set.0 & 0x7fff_ffff);
    }
    let cpu = task.thread().map_or(0, |thread| thread.arch().cpu().as_u32());
    let sleeps = is_permitted && !matches!(state(task).0, 'R' | 'Z' | 'X');
    line.add(u8::from(sleeps)).add(0).add(0).add(17).add(cpu).add(rt_priority).add(policy);
    line.add(0).add(0).add(0);
    line.add(layout.start_data).add(layout.end_data).add(layout.start_brk);
    line.add(layout.arg_start).add(layout.arg_end).add(layout.env_start).add(layout.env_end);
    line.add(0);
    out.push(b'\n');
    Ok(())
}

/// Numbers at the end of a line, a space before each.
struct Numbers<'a>(&'a mut Vec<u8>);

impl Numbers<'_> {
    fn add(&mut self, number: impl Number) -> &mut Self {
        self.0.next_dec(number);
        self
    }
}

pub(crate) fn statm(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let stats = view.task.mm().map(|mm| mm.stats()).unwrap_or_default();
    let shared = stats.file + stats.shmem;
    let (text, data) = (stats.code, stats.data + stats.stack);
    out.dec(stats.total).text(" ").dec(stats.rss_pages()).text(" ").dec(shared).text(" ");
    out.dec(text).text(" 0 ").dec(data).text(" 0\n");
    Ok(())
}

/// Four numbers behind a name, tabs between.
fn put_ids(out: &mut Vec<u8>, name: &str, ids: [u32; 4]) {
    out.text(name);
    for id in ids {
        out.text("\t").dec(id);
    }
    out.text("\n");
}

/// A number behind a name.
fn put_number(out: &mut Vec<u8>, name: &str, number: impl Number) {
    out.text(name).text(":\t").dec(number).text("\n");
}

pub(crate) fn status(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let task = &view.task;
    let group = &task.group;
    let fs_mask = task.fs().map(|fs| fs.umask());
    out.reserve(STATUS);
    out.text("Name:\t");
    for byte in name(task) {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            byte => out.push(byte),
        }
    }
    out.push(b'\n');
    if let Some(mask) = fs_mask {
        put!(out, "Umask:\t{mask:04o}\n");
    }
    let (letter, word) = state(task);
    out.text("State:\t").push(letter as u8);
    out.text(" (").text(word).text(")\n");
    let tgid = group.pid().number_in(&view.ns);
    let pid = task.pid().number_in(&view.ns);
    let ppid = group.parent().map_or(0, |p| p.pid().number_in(&view.ns));
    put_number(out, "Tgid", tgid);
    put_number(out, "Ngid", 0);
    put_number(out, "Pid", pid);
    put_number(out, "PPid", ppid);
    let tracer = process::ptrace::tracer_of(task).map_or(0, |t| t.pid().number_in(&view.ns));
    put_number(out, "TracerPid", tracer);
    let creds = task.creds();
    put_ids(out, "Uid:", [creds.uid, creds.euid, creds.suid, creds.fsuid]);
    put_ids(out, "Gid:", [creds.gid, creds.egid, creds.sgid, creds.fsgid]);
    put_number(out, "FDSize", task.files().map_or(0, |files| files.capacity()));
    out.text("Groups:\t");
    for gid in creds.groups.iter() {
        out.dec(*gid).text(" ");
    }
    out.text("\n");
    put_number(out, "NStgid", tgid);
    put_number(out, "NSpid", pid);
    put_number(out, "NSpgid", group.pgrp().number_in(&view.ns));
    put_number(out, "NSsid", group.session().number_in(&view.ns));
    if let Some(mm) = task.mm() {
        put_memory(out, &mm);
    }
    put_number(out, "Threads", group.thread_count());
    let queued = task.user().map_or(0, |user| user.signals());
    out.text("SigQ:\t").dec(queued).text("/").dec(group.limits.soft(Resource::Sigpending));
    out.text("\n");
    let (ignored, caught) = task.dispositions();
    let all = process::signal::all_pending(task).0;
    let own = task.pending().0;
    let rows = [
        ("SigPnd", own),
        ("ShdPnd", all & !own),
        ("SigBlk", task.blocked().0),
        ("SigIgn", ignored.0),
        ("SigCgt", caught.0),
        ("CapInh", creds.inheritable.0),
        ("CapPrm", creds.permitted.0),
        ("CapEff", creds.effective.0),
        ("CapBnd", creds.bounding.0),
        ("CapAmb", creds.ambient.0),
    ];
    for (name, bits) in rows {
        out.text(name).text(":\t").hex(bits, 16).text("\n");
    }
    put_number(out, "NoNewPrivs", u8::from(task.no_new_privs()));
    put_number(out, "Seccomp", task.seccomp_mode());
    out.text("Speculation_Store_Bypass:\tvulnerable\n");
    if let Some(thread) = task.thread() {
        let allowed = thread.affinity().and(&arch::cpu::possible());
        out.text("Cpus_allowed:\t");
        crate::cpu::put_mask(out, &allowed);
        put!(out, "\nCpus_allowed_list:\t{allowed}\n");
        out.text("Mems_allowed:\t1\nMems_allowed_list:\t0\n");
    }
    let used = Usage::of(task);
    put_number(out, "voluntary_ctxt_switches", used.voluntary_switches);
    put_number(out, "nonvoluntary_ctxt_switches", used.involuntary_switches);
    Ok(())
}

/// The rows of `status` about memory.
fn put_memory(out: &mut Vec<u8>, mm: &AddressSpace) {
    let s = mm.stats();
    let peak = s.peak_rss.max(s.rss_pages());
    let rows = [
        ("VmPeak", s.peak_total.max(s.total)),
        ("VmSize", s.total),
        ("VmLck", s.locked),
        ("VmPin", 0),
        ("VmHWM", peak),
        ("VmRSS", s.rss_pages()),
        ("RssAnon", s.anon),
        ("RssFile", s.file),
        ("RssShmem", s.shmem),
        ("VmData", s.data),
        ("VmStk", s.stack),
        ("VmExe", s.code),
        ("VmLib", 0),
        ("VmPTE", 0),
        ("VmSwap", 0),
        ("HugetlbPages", 0),
    ];
    for (name, pages) in rows {
        out.text(name).text(":\t").dec_in(pages * 4, 8).text(" kB\n");
    }
    put_number(out, "CoreDumping", 0);
    put_number(out, "THP_enabled", u8::from(!mm.is_thp_disabled()));
}

/// Reads a piece of a program's memory.
fn read_memory(mm: Option<&AddressSpace>, start: u64, end: u64, out: &mut Vec<u8>) -> Result<()> {
    const LIMIT: u64 = 1 << 20;
    let Some(mm) = mm else { return Ok(()) };
    let len = usize::try_from(end.saturating_sub(start).min(LIMIT)).unwrap_or(0);
    let mut bytes = alloc::vec![0; len];
    let done = mm.read_remote(VirtAddr(start), &mut bytes).unwrap_or(0);
    bytes.truncate(done);
    out.extend_from_slice(&bytes);
    Ok(())
}

pub(crate) fn cmdline(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let (layout, mm) = (view.task.group.layout(), view.task.mm());
    read_memory(mm.as_deref(), layout.arg_start, layout.arg_end, out)?;
    // A program that wrote over its arguments up to the end goes on in its environment.
    if out.last().is_some_and(|last| *last != 0) {
        read_memory(mm.as_deref(), layout.env_start, layout.env_end, out)?;
        if let Some(end) = out.iter().position(|b| *b == 0) {
            out.truncate(end + 1);
        }
    }
    Ok(())
}

pub(crate) fn environ(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let task = &view.task;
    let (layout, mm) = inspect(task, || (task.group.layout(), task.mm()))?;
    read_memory(mm.as_deref(), layout.env_start, layout.env_end, out)
}

pub(crate) fn auxv(view: &View, out: &mut Vec<u8>) -> Result<()> {
    for word in inspect(&view.task, || view.task.group.layout())?.auxv {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    Ok(())
}

/// `coredump_filter`, core(5).
pub(crate) fn coredump_filter(view: &View, out: &mut Vec<u8>) -> Result<()> {
    put!(out, "{:08x}\n", view.task.group.coredump_filter());
    Ok(())
}

pub(crate) fn set_coredump_filter(view: &View, bytes: &[u8]) -> Result<()> {
    let text = core::str::from_utf8(bytes).map_err(|_| abi::Errno::EINVAL)?.trim();
    let value = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    view.task.group.set_coredump_filter(value.map_err(|_| abi::Errno::EINVAL)?);
    Ok(())
}

pub(crate) fn comm(view: &View, out: &mut Vec<u8>) -> Result<()> {
    out.extend_from_slice(&name(&view.task));
    out.push(b'\n');
    Ok(())
}

pub(crate) fn set_comm(view: &View, bytes: &[u8]) -> Result<()> {
    let own = process::try_current().ok_or(Errno::EINVAL)?;
    if !Arc::ptr_eq(&own.group, &view.task.group) {
        return Err(Errno::EINVAL);
    }
    // What `echo` writes ends in a line feed, which becomes part of the name on Linux too.
    view.task.set_comm(bytes);
    Ok(())
}

/// The group whose processors count: cpuset(7).
pub(crate) fn cpuset(view: &View, out: &mut Vec<u8>) -> Result<()> {
    use process::cgroup::{Controllers, current_namespace, group_of, root_of};
    let root = root_of(Controllers::CPUSET);
    let group = group_of(&view.task, &root);
    out.extend_from_slice(&group.path_from(current_namespace().root(&root)));
    out.text(if group.is_removed() { " (deleted)\n" } else { "\n" });
    Ok(())
}

/// The group in each hierarchy, as the reader's namespace sees it: cgroups(7), "/proc/[pid]/cgroup".
pub(crate) fn cgroup(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let ns = process::cgroup::current_namespace();
    for (group, root) in process::cgroup::groups_of(&view.task) {
        let hierarchy = root.hierarchy();
        out.dec(hierarchy.id).text(":");
        let mut words = 0;
        for name in hierarchy.controllers.names() {
            out.text(if words == 0 { "" } else { "," }).text(name);
            words += 1;
        }
        if !hierarchy.name.is_empty() {
            out.text(if words == 0 { "name=" } else { ",name=" });
            out.extend_from_slice(&hierarchy.name);
        }
        out.text(":");
        out.extend_from_slice(&group.path_from(ns.root(&root)));
        out.text(if group.is_removed() { " (deleted)\n" } else { "\n" });
    }
    Ok(())
}

pub(crate) fn io(view: &View, out: &mut Vec<u8>) -> Result<()> {
    inspect(&view.task, || ())?;
    let tasks = if view.whole { view.task.group.tasks() } else { Vec::from([view.task.clone()]) };
    let mut sums = [0u64; 4];
    for task in tasks {
        let io = &task.io;
        let all = [&io.read_bytes, &io.written_bytes, &io.read_calls, &io.write_calls];
        for (sum, counter) in sums.iter_mut().zip(all) {
            *sum += counter.load(Ordering::Relaxed);
        }
    }
    let [read, written, reads, writes] = sums;
    put!(out, "rchar: {read}\nwchar: {written}\nsyscr: {reads}\nsyscw: {writes}\n");
    let used = usage(view);
    let (from, to) = (used.blocks_read * 512, used.blocks_written * 512);
    put!(out, "read_bytes: {from}\nwrite_bytes: {to}\ncancelled_write_bytes: 0\n");
    Ok(())
}

pub(crate) fn limits(view: &View, out: &mut Vec<u8>) -> Result<()> {
    const ROWS: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    put!(out, "{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for (index, (name, unit)) in ROWS.iter().enumerate() {
        let Some(resource) = Resource::from_raw(index as u32) else { continue };
        let limit = view.task.group.limits.get(resource);
        put!(out, "{name:<25} ");
        for value in [limit.cur, limit.max] {
            if value == RLIM_INFINITY {
                put!(out, "{:<20} ", "unlimited");
            } else {
                put!(out, "{value:<20} ");
            }
        }
        if !unit.is_empty() {
            put!(out, "{unit:<10}");
        }
        out.push(b'\n');
    }
    Ok(())
}

pub(crate) fn loginuid(view: &View, out: &mut Vec<u8>) -> Result<()> {
    put!(out, "{}", view.task.group.loginuid.load(Ordering::Relaxed));
    Ok(())
}

/// A number as programs write it to a knob.
pub(crate) fn parse<T: core::str::FromStr>(bytes: &[u8]) -> Result<T> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    text.trim_matches(|c: char| c.is_whitespace() || c == '\0').parse().map_err(|_| Errno::EINVAL)
}

pub(crate) fn set_loginuid(view: &View, bytes: &[u8]) -> Result<()> {
    let own = process::try_current().ok_or(Errno::EPERM)?;
    if !Arc::ptr_eq(&own.group, &view.task.group) {
        return Err(Errno::EPERM);
    }
    own.creds().require(vfs::Cap::AUDIT_CONTROL)?;
    view.task.group.loginuid.store(parse(bytes)?, Ordering::Relaxed);
    Ok(())
}

pub(crate) fn sessionid(_: &View, out: &mut Vec<u8>) -> Result<()> {
    put!(out, "{}", u32::MAX);
    Ok(())
}

pub(crate) fn oom_score(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let total = frames::stats().total.max(1);
    let points = process::oom::badness(&view.task.group, total).unwrap_or(0);
    put!(out, "{}\n", points * 1000 / total);
    Ok(())
}

pub(crate) fn oom_score_adj(view: &View, out: &mut Vec<u8>) -> Result<()> {
    put!(out, "{}\n", view.task.group.oom_score_adj.load(Ordering::Relaxed));
    Ok(())
}

pub(crate) fn oom_adj(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let adj = view.task.group.oom_score_adj.load(Ordering::Relaxed);
    put!(out, "{}\n", if adj == 1000 { 15 } else { adj * 17 / 1000 });
    Ok(())
}

/// The older scale: -17 never, 15 first. proc(5).
pub(crate) fn set_oom_adj(view: &View, bytes: &[u8]) -> Result<()> {
    let value: i32 = parse(bytes)?;
    match value {
        15 => set_score_adj(view, 1000),
        -17..15 => set_score_adj(view, value * 1000 / 17),
        _ => Err(Errno::EINVAL),
    }
}

pub(crate) fn set_oom_score_adj(view: &View, bytes: &[u8]) -> Result<()> {
    set_score_adj(view, parse(bytes)?)
}

fn set_score_adj(view: &View, value: i32) -> Result<()> {
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    let group = &view.task.group;
    let is_lower = value < group.oom_score_adj_min.load(Ordering::Relaxed);
    let privileged = process::try_current().is_none_or(|t| t.capable(vfs::Cap::SYS_RESOURCE));
    if is_lower && !privileged {
        return Err(Errno::EACCES);
    }
    group.oom_score_adj.store(value, Ordering::Relaxed);
    if privileged {
        group.oom_score_adj_min.store(value, Ordering::Relaxed);
    }
    Ok(())
}

pub(crate) fn personality(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let personality = inspect(&view.task, || view.task.personality.load(Ordering::Relaxed))?;
    put!(out, "{personality:08x}\n");
    Ok(())
}

pub(crate) fn schedstat(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let times = view.task.thread().map(|thread| thread.cpu_times()).unwrap_or_default();
    let ran = times.user_ns + times.system_ns;
    let slices = times.voluntary_switches + times.involuntary_switches;
    put!(out, "{ran} {} {slices}\n", times.wait_ns);
    Ok(())
}

/// `sched`: those of Linux's rows whose names mean something here.
pub(crate) fn sched(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let task = &view.task;
    let times = task.thread().map(|thread| thread.cpu_times()).unwrap_or_default();
    let ran = times.user_ns + times.system_ns;
    let (priority, _, _, policy) = parameters(task);
    out.extend_from_slice(&name(task));
    let number = task.pid().number_in(&view.ns);
    put!(out, " ({number}, #threads: {})\n{:->67}\n", task.group.thread_count(), "");
    let (ms, rest) = (ran / 1_000_000, ran % 1_000_000);
    put!(out, "{:<45}:{ms:>14}.{rest:06}\n", "se.sum_exec_runtime");
    let rows = [
        ("nr_switches", times.voluntary_switches + times.involuntary_switches),
        ("nr_voluntary_switches", times.voluntary_switches),
        ("nr_involuntary_switches", times.involuntary_switches),
        ("policy", u64::from(policy)),
        // 100 is the first that is not for real time.
        ("prio", (priority + 100).max(0) as u64),
    ];
    for (name, value) in rows {
        put!(out, "{name:<45}:{value:>21}\n");
    }
    Ok(())
}

pub(crate) fn wchan(_: &View, out: &mut Vec<u8>) -> Result<()> {
    out.push(b'0');
    Ok(())
}
