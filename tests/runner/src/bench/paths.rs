//! Kernel paths: instructions per operation, counted by the guest's clock on one processor.

use super::table::{INSTRUCTIONS, Reading, paired};
use super::{Measured, root, runs};
use crate::guest;
use crate::image::{self, Content, Image, Measurement};
use crate::machine::{Clock, Disk, Kernel, Setup, Shape, Share};
use crate::options::Options;

/// One machine for every row: a single CPU, as `-icount` wants it.
const SETUP: Setup = Setup {
    shape: Shape { cpus: 1, memory_mib: 1024, disk: Disk::Nvme },
    clock: Clock::Instructions,
    // Tables that are hashed by address come out the same at each boot.
    words: "nokaslr",
    has_network: false,
    share: Share::ALL,
};

/// Runs of ours: what processes do to each other may go one way or another, at each boot the same way, and
/// the record is to know both.
const RUNS: usize = 3;

/// Both kernels at once: what else the host does cannot be seen in a count of instructions.
pub(super) fn measure(options: &Options) -> Result<Measured, String> {
    let base = image(&options.only, options)?;
    let run = |kernel| runs::run(kernel, &SETUP, options, &base, INSTRUCTIONS);
    let (linux, ours) = std::thread::scope(|scope| {
        let linux = scope.spawn(|| run(Kernel::Linux));
        (linux.join(), repeatedly(options, &base))
    });
    let linux = linux.map_err(|_| "the Linux run panicked".to_string())??;
    let (ours, trouble) = ours?;
    let rows = paired(&[linux.readings], &ours, SETUP.shape.cpus)?;
    Ok(Measured { rows, trouble })
}

/// All rows of ours in several runs, and how much went wrong.
pub(super) fn ours_repeatedly(options: &Options) -> Result<(Vec<Vec<Reading>>, usize), String> {
    repeatedly(options, &image(&[], options)?)
}

fn repeatedly(options: &Options, base: &Image) -> Result<(Vec<Vec<Reading>>, usize), String> {
    let (mut all, mut trouble) = (Vec::new(), 0);
    for _ in 0..RUNS {
        let run = runs::run(Kernel::Ours, &SETUP, options, base, INSTRUCTIONS)?;
        trouble += run.trouble;
        all.push(run.readings);
    }
    Ok((all, trouble))
}

/// Ours alone, the rows that these words select.
pub(super) fn ours(words: &[String], options: &Options) -> Result<runs::Run, String> {
    let base = image(words, options)?;
    runs::run(Kernel::Ours, &SETUP, options, &base, INSTRUCTIONS)
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
