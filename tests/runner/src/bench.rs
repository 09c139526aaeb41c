//! The microbenchmarks on both kernels, side by side.

use crate::guest;
use crate::image::{self, Content};
use crate::machine::{self, Clock, Disk, Kernel, Shape};
use crate::options::Options;

/// One machine for every row: a single CPU, as `-icount` wants it.
const SHAPE: Shape = Shape { cpus: 1, memory_mib: 1024, disk: Disk::Nvme };

/// Runs the rows on Linux and on ours and prints a table; a ratio above 1 means ours is faster. There is
/// none unless both runs reported to the end and every row has both figures. Returns how much else went
/// wrong on ours, in which case nothing is saved.
///
/// What goes wrong on Linux after its report is told only: the guest's clock counts instructions, so that
/// a disk of a busy host may take minutes of the guest's time to write, and Linux gives it up.
pub(crate) fn run(options: &Options) -> Result<usize, String> {
    let programs = guest::build(&options.work_dir)?;
    let content = Content::Bench(&options.only, &programs);
    let base = image::build(&options.rootfs, content, &options.work_dir)?;
    let measure = |kernel| -> Result<Measured, String> {
        let raw = machine::run_raw(kernel, &SHAPE, Clock::Instructions, options, &base)?;
        raw.trouble.iter().for_each(|trouble| eprintln!("!!! {kernel:?}: {trouble}"));
        if !raw.is_complete() {
            return Err(format!("{kernel:?}: the guest stopped early"));
        }
        Ok(Measured { rows: rows(&raw.report), trouble: raw.trouble.len() })
    };
    let (linux, ours) = std::thread::scope(|scope| {
        let linux = scope.spawn(|| measure(Kernel::Linux));
        (linux.join(), measure(Kernel::Ours))
    });
    let linux = linux.map_err(|_| "the Linux run panicked".to_string())??;
    let ours = ours?;
    let rows = paired(linux.rows, &ours.rows)?;
    println!("{:<34}{:>12}{:>12}{:>8}", "instructions per operation", "Linux", "ours", "ratio");
    for row in &rows {
        let [linux, ours, ratio] = row.cells();
        println!("{:<34}{linux:>12}{ours:>12}{ratio:>8}", row.name);
    }
    println!("{}", summary(&rows));
    if let Some(path) = options.save.as_ref().filter(|_| ours.trouble == 0) {
        std::fs::write(path, document(&rows))
            .map_err(|why| format!("{}: {why}", path.display()))?;
    }
    Ok(ours.trouble)
}

/// What a run gave.
struct Measured {
    rows: Vec<(String, f64)>,
    /// How much went wrong.
    trouble: usize,
}

/// What one operation costs on both kernels.
struct Row {
    name: String,
    linux: f64,
    ours: f64,
}

/// The figures of both sides by row; an error if there are none, or one side lacks a row.
fn paired(linux: Vec<(String, f64)>, ours: &[(String, f64)]) -> Result<Vec<Row>, String> {
    if linux.is_empty() {
        return Err("no row was measured".into());
    }
    let is_of_linux = |name: &str| linux.iter().any(|(known, _)| known == name);
    if let Some((name, _)) = ours.iter().find(|(name, _)| !is_of_linux(name)) {
        return Err(format!("{name}: no figure on Linux"));
    }
    let pair = |(name, linux): (String, f64)| {
        let ours = ours.iter().find(|(known, _)| *known == name);
        let (_, ours) = ours.ok_or_else(|| format!("{name}: no figure on ours"))?;
        Ok(Row { name, linux, ours: *ours })
    };
    linux.into_iter().map(pair).collect()
}

impl Row {
    fn ratio(&self) -> f64 {
        self.linux / self.ours
    }

    /// Linux, ours, ratio.
    fn cells(&self) -> [String; 3] {
        let figure = |cost: f64| format!("{cost:.1}");
        [figure(self.linux), figure(self.ours), format!("{:.2}", self.ratio())]
    }
}

fn summary(rows: &[Row]) -> String {
    let ratios: Vec<f64> = rows.iter().map(Row::ratio).collect();
    let sum: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
    let mean = (sum / ratios.len().max(1) as f64).exp();
    let slower = ratios.iter().filter(|ratio| **ratio < 1.0).count();
    format!("geometric mean over {} rows: {mean:.2}; slower than Linux: {slower}", ratios.len())
}

/// The table as it is kept in `docs/benchmarks`.
fn document(rows: &[Row]) -> String {
    let mut text = String::from(
        "# Instructions per operation\n\n\
         Written by `make bench`: Debian's 6.1 cloud kernel (`mitigations=off`) and ours in the same\n\
         QEMU (`-accel tcg -icount shift=0,sleep=off -smp 1 -cpu max,-erms,-fsrm`, NVMe), the same disk\n\
         and the same program. A ratio above 1 means that ours needs fewer instructions.\n\n\
         | operation | Linux | ours | ratio |\n| --- | ---: | ---: | ---: |\n",
    );
    for row in rows {
        let [linux, ours, ratio] = row.cells();
        text.push_str(&format!("| {} | {linux} | {ours} | {ratio} |\n", row.name));
    }
    text.push_str(&format!("\nThe {}.\n", summary(rows)));
    text
}

fn rows(text: &str) -> Vec<(String, f64)> {
    text.lines()
        .filter_map(|line| line.trim_end().split_once('\t'))
        .filter_map(|(name, cost)| Some((name.to_string(), cost.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_wants_both_figures() {
        let both = || rows("getppid\t100\nread\t200\n");
        assert_eq!(paired(both(), &both()).map(|rows| rows.len()), Ok(2));
        assert!(paired(both(), &rows("getppid\t90\n")).is_err());
        assert!(paired(rows("read\t200\n"), &both()).is_err());
        assert!(paired(Vec::new(), &[]).is_err());
    }
}
