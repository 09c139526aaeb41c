//! The microbenchmarks on both kernels, side by side.

use crate::guest;
use crate::image::{self, Content};
use crate::machine::{self, Clock, Disk, Kernel, Shape};
use crate::options::Options;

/// One machine for every row: a single CPU, as `-icount` wants it.
const SHAPE: Shape = Shape { cpus: 1, memory_mib: 1024, disk: Disk::Nvme };

/// Runs the rows on Linux and on ours and prints a table; a ratio above 1 means ours is faster.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let programs = guest::build(&options.work_dir)?;
    let content = Content::Bench(&options.only, &programs);
    let base = image::build(&options.rootfs, content, &options.work_dir)?;
    let measure = |kernel| -> Result<Vec<(String, f64)>, String> {
        let raw = machine::run_raw(kernel, &SHAPE, Clock::Instructions, options, &base)?;
        raw.trouble.iter().for_each(|t| eprintln!("!!! {t}"));
        Ok(rows(&raw.report))
    };
    let (linux, ours) = std::thread::scope(|scope| {
        let linux = scope.spawn(|| measure(Kernel::Linux));
        (linux.join(), measure(Kernel::Ours))
    });
    let linux = linux.map_err(|_| "the Linux run panicked".to_string())??;
    let ours = ours?;

    let rows: Vec<Row> = linux
        .into_iter()
        .map(|(name, linux)| {
            let ours = ours.iter().find(|(n, _)| *n == name).map(|(_, cost)| *cost);
            Row { name, linux, ours }
        })
        .collect();
    println!("{:<34}{:>12}{:>12}{:>8}", "instructions per operation", "Linux", "ours", "ratio");
    for row in &rows {
        let [linux, ours, ratio] = row.cells();
        println!("{:<34}{linux:>12}{ours:>12}{ratio:>8}", row.name);
    }
    println!("{}", summary(&rows));
    match &options.save {
        Some(path) => std::fs::write(path, document(&rows))
            .map_err(|why| format!("{}: {why}", path.display())),
        None => Ok(()),
    }
}

/// What one operation costs on both kernels.
struct Row {
    name: String,
    linux: f64,
    ours: Option<f64>,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.ours.map(|ours| self.linux / ours)
    }

    /// Linux, ours, ratio.
    fn cells(&self) -> [String; 3] {
        let ours = self.ours.map_or("-".into(), |ours| format!("{ours:.1}"));
        let ratio = self.ratio().map_or("-".into(), |ratio| format!("{ratio:.2}"));
        [format!("{:.1}", self.linux), ours, ratio]
    }
}

fn summary(rows: &[Row]) -> String {
    let ratios: Vec<f64> = rows.iter().filter_map(Row::ratio).collect();
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
