//! Kernel paths: instructions per operation, counted by the guest's clock on one processor.

use super::table::{INSTRUCTIONS, Reading, paired};
use super::{Measured, root, runs};
use crate::guest;
use crate::image::{self, Content, Image, Measurement};
use crate::machine::{Clock, Disk, Kernel, Setup, Shape};
use crate::options::Options;

/// One machine for every row: a single CPU, as `-icount` wants it.
const SETUP: Setup = Setup {
    shape: Shape { cpus: 1, memory_mib: 1024, disk: Disk::Nvme },
    clock: Clock::Instructions,
    words: "",
};

/// Runs of each kernel. Some rows have two costs, by when the disk has answered, and the record is to have
/// both.
const RUNS: usize = 3;

/// Both kernels at once: what else the host does cannot be seen in a count of instructions.
pub(super) fn measure(options: &Options) -> Result<Measured, String> {
    let base = image(&options.only, options)?;
    // A look at some rows is to be quick.
    let usual = if options.only.is_empty() { RUNS } else { 1 };
    let count = options.pairs.unwrap_or(usual);
    let (linux, ours) = std::thread::scope(|scope| {
        let linux = scope.spawn(|| several(count, Kernel::Linux, &base, options));
        let ours = several(count, Kernel::Ours, &base, options);
        (linux.join(), ours)
    });
    let linux = linux.map_err(|_| "the Linux run panicked".to_string())??;
    let ours = ours?;
    let rows = paired(&linux.runs, &ours.runs, SETUP.shape.cpus)?;
    Ok(Measured { rows, trouble: ours.trouble })
}

/// Ours alone, once, the rows that these words select.
pub(super) fn once(words: &[String], options: &Options) -> Result<Runs, String> {
    several(1, Kernel::Ours, &image(words, options)?, options)
}

/// Ours alone, for the record.
pub(super) fn for_record(options: &Options) -> Result<Runs, String> {
    several(options.pairs.unwrap_or(RUNS), Kernel::Ours, &image(&[], options)?, options)
}

/// Runs of one kernel.
pub(super) struct Runs {
    pub(super) runs: Vec<Vec<Reading>>,
    /// How much went wrong besides.
    pub(super) trouble: usize,
}

fn several(count: usize, kernel: Kernel, base: &Image, options: &Options) -> Result<Runs, String> {
    let mut all = Runs { runs: Vec::new(), trouble: 0 };
    for _ in 0..count {
        let run = runs::run(kernel, &SETUP, options, base, INSTRUCTIONS)?;
        all.trouble += run.trouble;
        all.runs.push(run.readings);
    }
    Ok(all)
}

fn image(words: &[String], options: &Options) -> Result<Image, String> {
    let programs = guest::build(&options.work_dir)?;
    let mut command = vec!["microbench".to_string()];
    command.extend_from_slice(words);
    let measurement = Measurement {
        script: include_str!("../../../bench/programs.sh"),
        words: &command,
        programs: Some(&programs),
    };
    image::build(&root("debian", options)?, Content::Bench(measurement), &options.work_dir)
}
