//! Programs from Debian's packages, by the host's clock: `tests/bench/applications.sh`.

use super::{Measured, root, runs};
use crate::image::{self, Content, Measurement};
use crate::machine::{Disk, Setup, Shape};
use crate::options::Options;

/// Runs of each kernel.
const PAIRS: usize = 5;
/// Processors of the machines.
const CPUS: [u32; 2] = [2, 4];

/// All on each machine.
pub(super) fn measure(options: &Options) -> Result<Measured, String> {
    let measurement = Measurement {
        script: include_str!("../../../bench/applications.sh"),
        words: &options.only,
        programs: None,
    };
    let root = root("applications", options)?;
    let base = image::build(&root, Content::Bench(measurement), &options.work_dir)?;
    let mut all = Measured { rows: Vec::new(), trouble: 0 };
    for cpus in CPUS {
        let setup = Setup::wall(Shape { cpus, memory_mib: 1024, disk: Disk::Nvme });
        let pairs = options.pairs.unwrap_or(PAIRS);
        let measured = runs::by_turns(pairs, &setup, options, &base, |_, _| Ok(()))?;
        all.rows.extend(measured.rows);
        all.trouble += measured.trouble;
    }
    Ok(all)
}
