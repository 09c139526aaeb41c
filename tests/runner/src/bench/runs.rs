//! Runs of a measurement: one of a kernel, and both by turns.

use std::time::Duration;

use super::Measured;
use super::table::{Reading, Row, paired, readings};
use crate::image::Image;
use crate::machine::{self, Kernel, Setup};
use crate::options::Options;

/// What one run gave.
pub(super) struct Run {
    pub(super) readings: Vec<Reading>,
    /// How much went wrong besides.
    pub(super) trouble: usize,
    /// The time from the start of QEMU until the report began.
    pub(super) began_after: Duration,
}

/// Boots a kernel and reads its rows; shows them as they come. An error if the guest does not report to
/// the end.
pub(super) fn run(
    kernel: Kernel,
    setup: &Setup,
    options: &Options,
    base: &Image,
    usual_unit: &str,
) -> Result<Run, String> {
    let side = side(kernel);
    let mut show = |line: &str| {
        if !line.starts_with("@@") {
            eprintln!("{side:<6} {}", line.replace('\t', "  "));
        }
    };
    let raw = machine::run_raw(kernel, setup, options, base, &mut show)?;
    raw.trouble.iter().for_each(|trouble| eprintln!("!!! {side}: {trouble}"));
    if !raw.is_complete() {
        let cause = raw.trouble.first().map_or(String::new(), |trouble| format!(": {trouble}"));
        return Err(format!("{side}: {}{cause}", end(&raw.report)));
    }
    let readings = readings(&raw.report, usual_unit).map_err(|why| format!("{side}: {why}"))?;
    let trouble = if kernel == Kernel::Ours { raw.trouble.len() } else { 0 };
    Ok(Run { readings, trouble, began_after: raw.began_after.unwrap_or_default() })
}

fn side(kernel: Kernel) -> &'static str {
    if kernel == Kernel::Linux { "Linux" } else { "ours" }
}

/// How a report ended that is not complete: that its program failed, or where it stopped, and what was
/// said beside the rows, which names those that failed.
fn end(report: &str) -> String {
    let mut end = "the guest stopped before its first row".to_string();
    let mut said = Vec::new();
    for line in report.lines().map(str::trim_end) {
        if let Some(name) = line.strip_prefix("@@BEGIN ") {
            end = format!("the guest stopped in {name}");
        } else if let Some(status) = line.strip_prefix("@@FAILED ") {
            end = format!("the guest's program failed with {status}");
        } else if let Some(reading) = Reading::parse(line, "") {
            end = format!("the guest stopped after {}", reading.full_name());
        } else if !line.starts_with("@@") && !line.is_empty() {
            said.push(line);
        }
    }
    if said.is_empty() { end } else { format!("{end}, saying:\n    {}", said.join("\n    ")) }
}

/// Runs both kernels by turns, each so many times, and joins their rows. `finish` may add to a run.
pub(super) fn by_turns(
    count: usize,
    setup: &Setup,
    options: &Options,
    base: &Image,
    finish: impl Fn(&mut Run, Kernel) -> Result<(), String>,
) -> Result<Measured, String> {
    let (mut linux, mut ours, mut trouble) = (Vec::new(), Vec::new(), 0);
    for pair in 0..count {
        for kernel in turn(pair) {
            eprintln!("--> {}, {}, pair {} of {count}", side(kernel), setup.shape, pair + 1);
            let mut run = run(kernel, setup, options, base, "")?;
            finish(&mut run, kernel)?;
            trouble += run.trouble;
            if kernel == Kernel::Linux { &mut linux } else { &mut ours }.push(run.readings);
        }
    }
    let rows: Vec<Row> = paired(&linux, &ours, setup.shape.cpus)?;
    Ok(Measured { rows, trouble })
}

/// Who goes first changes, so that a host that grows slower or faster favours neither.
fn turn(pair: usize) -> [Kernel; 2] {
    if pair.is_multiple_of(2) {
        [Kernel::Linux, Kernel::Ours]
    } else {
        [Kernel::Ours, Kernel::Linux]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_report_is_told() {
        assert_eq!(end(""), "the guest stopped before its first row");
        assert_eq!(end("a\tx\t1\r\n"), "the guest stopped after a/x");
        assert_eq!(end("@@BEGIN a/x\na\tx\t1\n@@BEGIN a/y z\n"), "the guest stopped in a/y z");
        let text = "a\tx\t1\na/y: stuck\na\tz\t1\n@@FAILED status 1\n";
        let expected = "the guest's program failed with status 1, saying:\n    a/y: stuck";
        assert_eq!(end(text), expected);
    }

    #[test]
    fn turns_alternate() {
        assert_eq!(turn(0), [Kernel::Linux, Kernel::Ours]);
        assert_eq!(turn(1), [Kernel::Ours, Kernel::Linux]);
    }
}
