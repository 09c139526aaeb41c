//! Operations per second of 1, 2, 4, 8 and 16 workers on many processors, by the host's clock.

use super::{Measured, root, runs};
use crate::guest;
use crate::image::{self, Content, Measurement};
use crate::machine::{Disk, Setup, Shape};
use crate::options::Options;

/// Runs of each kernel.
const PAIRS: usize = 3;

/// The rows of `scaling`, a group for each of its rows.
pub(super) fn measure(options: &Options) -> Result<Measured, String> {
    let programs = guest::build(&options.work_dir)?;
    let mut command = vec!["scaling".to_string(), options.cpus.to_string()];
    command.extend_from_slice(&options.only);
    let measurement = Measurement {
        script: include_str!("../../../bench/programs.sh"),
        words: &command,
        programs: Some(&programs),
    };
    let root = root("debian", options)?;
    let base = image::build(&root, Content::Bench(measurement), &options.work_dir)?;
    let setup = Setup::wall(Shape { cpus: options.cpus, memory_mib: 2048, disk: Disk::Nvme });
    let pairs = options.pairs.unwrap_or(PAIRS);
    runs::by_turns(pairs, &setup, options, &base, |run, _| {
        // `ROW<TAB>WORKERS<TAB>OPERATIONS_PER_SECOND`
        for reading in &mut run.readings {
            let workers: u32 = reading.name.parse().map_err(|_| {
                format!("{}: {:?} is no number of workers", reading.group, reading.name)
            })?;
            reading.name = format!("{workers} worker{}", if workers == 1 { "" } else { "s" });
            reading.unit = "ops/s".into();
        }
        Ok(())
    })
}
