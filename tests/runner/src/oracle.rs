//! The comparison: the cases on both kernels, machine shape by machine shape.

use std::path::Path;

use crate::cases::Case;
use crate::compare::{self, Verdict};
use crate::image;
use crate::machine::{self, Disk, Kernel, Shape};
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
    let (theirs, ours) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| match known {
            Some((_, report)) => Ok(report),
            None => machine::run(Kernel::Linux, &of, options, base),
        });
        if at_once {
            let ours = machine::run(Kernel::Ours, shape, options, base);
            return (theirs.join(), ours);
        }
        (theirs.join(), machine::run(Kernel::Ours, shape, options, base))
    });
    let theirs = theirs.unwrap_or_else(|_| Err("the run panicked".into()));
    let theirs = theirs.unwrap_or_else(failed);
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

/// The report of a run that did not come about.
fn failed(why: String) -> Report {
    Report { trouble: vec![why], ..Report::default() }
}
