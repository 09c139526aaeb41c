//! Connections and servers, by the host's clock: `tests/bench/network.sh`.

use std::process::{Child, Command, Stdio};

use super::{Measured, root, runs};
use crate::image::{self, Content, Measurement};
use crate::machine::{Disk, Setup, Shape};
use crate::options::Options;
use crate::packages;

/// Runs of each kernel.
const PAIRS: usize = 3;
/// Processors of the machines.
const CPUS: [u32; 2] = [1, 4];

/// All on each machine.
pub(super) fn measure(options: &Options) -> Result<Measured, String> {
    let measurement = Measurement {
        script: include_str!("../../../bench/network.sh"),
        words: &options.only,
        programs: None,
    };
    let root = root("network", options)?;
    let base = image::build(&root, Content::Bench(measurement), &options.work_dir)?;
    let _peer = Peer::start()?;
    let mut all = Measured { rows: Vec::new(), trouble: 0 };
    for cpus in CPUS {
        let shape = Shape { cpus, memory_mib: 1024, disk: Disk::Nvme };
        let setup = Setup { has_network: true, ..Setup::wall(shape) };
        let pairs = options.pairs.unwrap_or(PAIRS);
        let measured = runs::by_turns(pairs, &setup, options, &base, |_, _| Ok(()))?;
        all.rows.extend(measured.rows);
        all.trouble += measured.trouble;
    }
    Ok(all)
}

/// What the guests' `iperf3` calls on the host; it ends with this.
struct Peer(Child);

impl Peer {
    fn start() -> Result<Peer, String> {
        packages::need("iperf3", "iperf3")?;
        let mut command = Command::new("iperf3");
        command.args(["-s", "-B", "127.0.0.1", "-p", "5201"]).stdout(Stdio::null());
        command.spawn().map(Peer).map_err(|why| format!("iperf3: {why}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
