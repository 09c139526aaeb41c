//! Guest tests: the same programs on Debian's Linux kernel and on ours, in the same QEMU, with the
//! same disk; what they print must be equal.
//!
//! `cargo run -p runner -- oracle [options]` boots both kernels and compares case by case.
//! `cargo run -p runner -- linux|ours [options]` runs one side and prints its report.
//! `cargo run -p runner -- trace --cmd 'COMMAND'` traces one command on both and shows the first call
//! that differs.
//! `cargo run -p runner -- bench [options]` measures both kernels side by side: see [`bench`].
//! `cargo run -p runner -- bench-check|bench-record` compares our kernel's paths with the record, or
//! renews it.

mod bench;
mod cases;
mod compare;
mod guest;
mod image;
mod machine;
mod options;
mod oracle;
mod packages;
mod report;
mod trace;

use std::process::ExitCode;

use machine::{Kernel, Share};
use options::{Command, Options};

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
    packages::ensure_programs()?;
    match options.command {
        Command::Bench => bench::run(options),
        Command::BenchCheck => bench::check::run(options),
        Command::BenchRecord => bench::check::record(options),
        Command::Trace => trace::run(options),
        Command::Linux => one_side(Kernel::Linux, options),
        Command::Ours => one_side(Kernel::Ours, options),
        Command::Oracle => {
            let selected = cases::select(options)?;
            oracle::run(options, &guest::build(&options.work_dir)?, &selected)
        }
    }
}

/// Runs the cases on one kernel and prints its report. Failures are what went wrong outside the
/// cases, and cases that did not come to their end.
fn one_side(kernel: Kernel, options: &Options) -> Result<usize, String> {
    let selected = cases::select(options)?;
    let programs = guest::build(&options.work_dir)?;
    let content = image::Content::Cases(&selected, &programs);
    let base = image::build(&options.rootfs(), content, &options.work_dir)?;
    let mut report = machine::run(kernel, &options.machines[0], Share::ALL, options, &base)?;
    for outcome in &report.outcomes {
        println!("=== {} -> {}\n{}", outcome.name, outcome.status, outcome.output);
        if !outcome.has_ended() {
            report.trouble.push(format!("{} did not end: {}", outcome.name, outcome.status));
        }
    }
    report.trouble.iter().for_each(|t| println!("!!! {t}"));
    Ok(report.trouble.len())
}
