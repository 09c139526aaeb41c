//! Time to init, memory that the kernel takes for itself, and the size of its file.

use std::path::Path;

use super::table::{Figure, Reading};
use super::{Measured, root, runs};
use crate::image::{self, Content, Measurement};
use crate::machine::{self, Clock, Disk, Kernel, Setup, Shape, Share};
use crate::options::Options;

/// Runs of each kernel.
const PAIRS: usize = 5;
/// Processes that sleep while memory is measured: so many that what comes and goes meanwhile is little beside.
const IDLE_PROCESSES: u32 = 500;
/// No messages on the serial line, which would be most of the time to init.
const SETUP: Setup = Setup {
    shape: Shape { cpus: 2, memory_mib: 1024, disk: Disk::Nvme },
    clock: Clock::Wall,
    words: "quiet",
    has_network: false,
    share: Share::ALL,
};

/// All rows; with words, those whose names have one of them.
pub(super) fn measure(options: &Options) -> Result<Measured, String> {
    let words = [SETUP.shape.memory_mib * 1024, IDLE_PROCESSES].map(|number| number.to_string());
    let script = include_str!("../../../bench/size.sh");
    let measurement = Measurement { script, words: &words, programs: None };
    let root = root("debian", options)?;
    let base = image::build(&root, Content::Bench(measurement), &options.work_dir)?;
    let linux = machine::linux_kernel()?;
    let pairs = options.pairs.unwrap_or(PAIRS);
    let mut measured = runs::by_turns(pairs, &SETUP, options, &base, |run, kernel| {
        let boot = reading("boot", "time to init", "s", run.began_after.as_secs_f64());
        run.readings.insert(0, boot);
        let file = if kernel == Kernel::Linux { &linux } else { &options.vmlinuz };
        run.readings.push(reading("file", "vmlinuz", "KiB", kibibytes(file)?));
        Ok(())
    })?;
    if !options.only.is_empty() {
        let is_wanted = |name: String| options.only.iter().any(|word| name.contains(word));
        measured.rows.retain(|row| is_wanted(row.full_name()));
    }
    Ok(measured)
}

fn reading(group: &str, name: &str, unit: &str, figure: f64) -> Reading {
    let figure = Figure::Runs(vec![figure]);
    Reading { group: group.into(), name: name.into(), unit: unit.into(), figure }
}

fn kibibytes(path: &Path) -> Result<f64, String> {
    let metadata = path.metadata().map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(metadata.len() as f64 / 1024.0)
}
