//! What a disk with ext4 is used for, by the host's clock: `tests/bench/storage.sh`.

use super::{Measured, root, runs};
use crate::image::{self, Content, Measurement};
use crate::machine::{Disk, Setup, Shape};
use crate::options::Options;

/// Runs of each kernel.
const PAIRS: usize = 3;

/// All on each kind of disk.
pub(super) fn measure(options: &Options) -> Result<Measured, String> {
    let measurement = Measurement {
        script: include_str!("../../../bench/storage.sh"),
        words: &options.only,
        programs: None,
    };
    let root = root("applications", options)?;
    let base = image::build(&root, Content::Bench(measurement), &options.work_dir)?;
    let mut all = Measured { rows: Vec::new(), trouble: 0 };
    for disk in [Disk::Virtio, Disk::Nvme] {
        let setup = Setup::wall(Shape { cpus: 2, memory_mib: 1024, disk });
        let pairs = options.pairs.unwrap_or(PAIRS);
        let measured = runs::by_turns(pairs, &setup, options, &base, |run, _| {
            for reading in &mut run.readings {
                reading.group = format!("{disk}, {}", reading.group);
            }
            Ok(())
        })?;
        all.rows.extend(measured.rows);
        all.trouble += measured.trouble;
    }
    Ok(all)
}
