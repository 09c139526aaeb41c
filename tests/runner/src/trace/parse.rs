//! Traces from text: strace's files, and our kernel's log.

use std::collections::BTreeMap;

use super::call::Call;
use super::{TRACEE, Trace};

/// The files of `strace -ff`, each after a line `@@PID number`.
pub(super) fn strace(report: &str) -> Vec<Trace> {
    let mut traces: Vec<Trace> = Vec::new();
    for line in report.lines().map(|line| line.trim_end_matches('\r')) {
        if line.starts_with("@@OUTPUT") {
            break;
        }
        if let Some(pid) = line.strip_prefix("@@PID ") {
            traces.push(Trace { pid: pid.trim().parse().unwrap_or(0), calls: Vec::new() });
        } else if let Some(trace) = traces.last_mut() {
            trace.calls.extend(Call::parse(line));
        }
    }
    // Our tracer begins when the program has been started.
    if let Some(first) = traces.first_mut()
        && first.calls.first().is_some_and(|c| c.name == "execve" && c.text.contains(TRACEE))
    {
        first.calls.remove(0);
    }
    traces
}

/// The lines `[time] [name:pid] call` of our kernel's log.
pub(super) fn kernel_log(log: &str) -> Vec<Trace> {
    let mut traces: BTreeMap<u32, Trace> = BTreeMap::new();
    let mut order = Vec::new();
    for line in log.lines().map(|line| line.trim_end_matches('\r')) {
        let Some((pid, text)) = traced(line) else { continue };
        let trace = traces.entry(pid).or_insert_with(|| {
            order.push(pid);
            Trace { pid, calls: Vec::new() }
        });
        trace.calls.extend(Call::parse(text));
    }
    let mut traces: Vec<Trace> = traces.into_values().collect();
    // The end of the call that started the program.
    if let Some(trace) = traces.iter_mut().find(|trace| Some(&trace.pid) == order.first())
        && trace.calls.first().is_some_and(|call| call.name == "execve")
    {
        trace.calls.remove(0);
    }
    traces
}

fn traced(line: &str) -> Option<(u32, &str)> {
    let (_, rest) = line.strip_prefix('[')?.split_once("] [")?;
    let (who, text) = rest.split_once("] ")?;
    let pid = who.rsplit_once(':')?.1.parse().ok()?;
    Some((pid, text))
}
