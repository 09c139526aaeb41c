//! Guest tests: the same programs on Debian's Linux kernel and on ours, in the same QEMU, with the
//! same disk; what they print must be equal.
//!
//! `cargo run -p runner -- oracle [options]` boots both kernels and compares case by case.
//! `cargo run -p runner -- linux|ours [options]` runs one side and prints its report.
//! `cargo run -p runner -- trace --cmd 'COMMAND'` traces one command on both and shows the first call
//! that differs.
//! `cargo run -p runner -- bench [options]` compares the cost of single kernel operations.

mod bench;
mod cases;
mod compare;
mod guest;
mod image;
mod machine;
mod options;
mod report;
mod trace;

use std::process::ExitCode;

use machine::{Disk, Kernel, Shape};
use options::{Command, Options};
use report::Report;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("runner: {why}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("runner: {why}");
            ExitCode::from(2)
        }
    }
}

/// Carries out the command; returns how many cases failed.
fn run(options: &Options) -> Result<usize, String> {
    if options.command == Command::Bench {
        return bench::run(options).map(|()| 0);
    }
    if options.command == Command::Trace {
        return trace::run(options);
    }
    let mut selected = cases::load(&options.cases_dir, &options.only)?;
    selected.retain(|case| !options.skip.iter().any(|word| case.name.contains(word)));
    let programs = guest::build(&options.work_dir)?;
    let content = image::Content::Cases(&selected, &programs);
    let base = image::build(&options.rootfs, content, &options.work_dir)?;
    match options.command {
        Command::Bench | Command::Trace => Ok(0),
        Command::Linux => one_side(Kernel::Linux, options, &base),
        Command::Ours => one_side(Kernel::Ours, options, &base),
        Command::Oracle => both_sides(options, &base, &selected),
    }
}

fn one_side(kernel: Kernel, options: &Options, base: &image::Image) -> Result<usize, String> {
    let report = machine::run(kernel, &options.machines[0], options, base)?;
    for outcome in &report.outcomes {
        println!("=== {} -> {}\n{}", outcome.name, outcome.status, outcome.output);
    }
    report.trouble.iter().for_each(|t| println!("!!! {t}"));
    Ok(report.trouble.len())
}

/// Compares on every machine shape; what differs is run a second time on both kernels, by itself,
/// and counts when it differs again: a busy machine breaks the timing of either side.
fn both_sides(
    options: &Options,
    base: &image::Image,
    selected: &[cases::Case],
) -> Result<usize, String> {
    let (mut passed, mut failed) = (0, 0);
    for (shape, first) in options.machines.iter().zip(verdicts(options, base, selected)?) {
        let mut verdict = first;
        let again: Vec<cases::Case> = verdict.differences.iter().map(|d| d.case.clone()).collect();
        if !again.is_empty() {
            let names: Vec<&str> = again.iter().map(|case| case.name.as_str()).collect();
            println!("{shape}: once more: {}", names.join(" "));
            let programs = guest::build(&options.work_dir)?;
            let content = image::Content::Cases(&again, &programs);
            let base = image::build(&options.rootfs, content, &options.work_dir)?;
            let only = Options { machines: vec![*shape], ..options.clone() };
            let second = verdicts(&only, &base, &again)?.pop().ok_or("no second run")?;
            verdict.equal += second.equal;
            verdict.differences = second.differences;
            verdict.trouble.extend(second.trouble);
        }
        let differences = verdict.differences.len() + verdict.trouble.len();
        println!("{shape}: {} equal, {differences} different", verdict.equal);
        verdict.trouble.iter().for_each(|trouble| println!("  {trouble}"));
        verdict.differences.iter().for_each(|difference| println!("{}", difference.text));
        passed += verdict.equal;
        failed += differences;
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed)
}

/// Runs every machine shape on both kernels, two QEMUs at a time. Linux gets an NVMe disk always, since
/// Debian's kernel has that driver built in; shapes that differ in the disk only share its run.
fn verdicts(
    options: &Options,
    base: &image::Image,
    selected: &[cases::Case],
) -> Result<Vec<compare::Verdict>, String> {
    let mut linux: Option<(Shape, Report)> = None;
    let mut verdicts = Vec::new();
    for shape in &options.machines {
        let reference = Shape { disk: Disk::Nvme, ..*shape };
        let known = linux.take().filter(|(of, _)| *of == reference);
        let (theirs, ours) = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| match known {
                Some((_, report)) => Ok(report),
                None => machine::run(Kernel::Linux, &reference, options, base),
            });
            let ours = machine::run(Kernel::Ours, shape, options, base);
            (theirs.join(), ours)
        });
        let theirs = theirs.map_err(|_| "the Linux run panicked".to_string())??;
        if let Some(trouble) = theirs.trouble.first() {
            return Err(format!("the reference run on Linux failed: {trouble}"));
        }
        verdicts.push(compare::compare(&theirs, &ours?, selected));
        linux = Some((reference, theirs));
    }
    Ok(verdicts)
}
