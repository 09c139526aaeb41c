//! The comparison: the cases on both kernels, machine shape by machine shape.

use std::path::Path;

use crate::cases::Case;
use crate::compare::{self, Verdict};
use crate::image;
use crate::machine::{self, Disk, Kernel, Shape, Share};
use crate::options::Options;
use crate::report::Report;

/// Compares on every machine shape; what differs is shown and run a second time, by itself and on one
/// kernel after the other, and counts when it differs again: a busy machine breaks the timing of either
/// side.
/// Returns how many cases failed.
pub(crate) fn run(options: &Options, programs: &Path, selected: &[Case]) -> Result<usize, String> {
    let content = image::Content::Cases(selected, programs);
    let base = image::build(&options.rootfs(), content, &options.work_dir)?;
    let mut reference = Reference::default();
    let (mut passed, mut failed) = (0, 0);
    for shape in &options.machines {
        let mut verdict = both(options, shape, &mut reference, &base, selected, true);
        if !verdict.differences.is_empty() {
            println!("{shape}: {} differ at the first try:", verdict.differences.len());
            verdict.show();
            repeat(options, shape, programs, &mut verdict);
        }
        println!("{shape}: {} equal, {} different", verdict.equal, verdict.failed());
        verdict.show();
        passed += verdict.equal;
        failed += verdict.failed();
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed)
}

/// Runs what differs once more. If there can be no second run, the first stands.
fn repeat(options: &Options, shape: &Shape, programs: &Path, verdict: &mut Verdict) {
    let again: Vec<Case> = verdict.differences.iter().map(|d| d.case.clone()).collect();
    let content = image::Content::Cases(&again, programs);
    match image::build(&options.rootfs(), content, &options.work_dir) {
        Ok(base) => {
            let none = &mut Reference::default();
            verdict.settle(both(options, shape, none, &base, &again, false));
        }
        Err(why) => verdict.trouble.push(format!("no second try: {why}")),
    }
}

/// The last run on Linux that had no trouble, and the machine of it.
#[derive(Default)]
struct Reference(Option<(Shape, Report)>);

/// Runs the cases on both kernels, at once or one after the other. Linux gets an NVMe disk always, since Debian's
/// kernel has that driver built in; shapes that differ in the disk only share its run.
fn both(
    options: &Options,
    shape: &Shape,
    reference: &mut Reference,
    base: &image::Image,
    cases: &[Case],
    at_once: bool,
) -> Verdict {
    let of = Shape { disk: Disk::Nvme, ..*shape };
    let known = reference.0.take().filter(|(known, _)| *known == of);
    let run_ours = || machine::run(Kernel::Ours, shape, Share::ALL, options, base);
    let run_theirs = || match known {
        Some((_, report)) => report,
        None => linux(&of, options, base, cases.len(), at_once),
    };
    let (theirs, ours) = std::thread::scope(|scope| {
        if !at_once {
            return (run_theirs(), run_ours());
        }
        let ours = scope.spawn(run_ours);
        (run_theirs(), ours.join().unwrap_or_else(|_| Err("the run panicked".into())))
    });
    let ours = ours.unwrap_or_else(failed);
    for (kernel, report) in [("Linux", &theirs), ("ours", &ours)] {
        let slowest = report.slowest(8);
        if !slowest.is_empty() {
            println!("{shape}: slowest on {kernel}: {}", slowest.join(", "));
        }
    }
    let verdict = compare::compare(&theirs, &ours, cases);
    if theirs.trouble.is_empty() {
        reference.0 = Some((of, theirs));
    }
    verdict
}

/// From so many cases on, a second machine with Linux takes half of them: starting it costs less than that saves.
const WORTH_SHARING: usize = 60;

/// Runs the cases on Linux, which takes twice our time under QEMU.
fn linux(
    shape: &Shape,
    options: &Options,
    base: &image::Image,
    cases: usize,
    at_once: bool,
) -> Report {
    let run = |share| machine::run(Kernel::Linux, shape, share, options, base);
    if !at_once || cases < WORTH_SHARING {
        return run(Share::ALL).unwrap_or_else(failed);
    }
    std::thread::scope(|scope| {
        let runs: Vec<_> =
            Share::each(cases, 2).map(|share| scope.spawn(move || run(share))).collect();
        let reports = runs.into_iter().map(|run| {
            run.join().unwrap_or_else(|_| Err("the run panicked".into())).unwrap_or_else(failed)
        });
        Report::joined(reports)
    })
}

/// The report of a run that did not come about.
fn failed(why: String) -> Report {
    Report { trouble: vec![why], ..Report::default() }
}
