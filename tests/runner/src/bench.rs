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
        let (text, trouble) =
            machine::run_raw(kernel, &SHAPE, Clock::Instructions, options, &base)?;
        trouble.iter().for_each(|t| eprintln!("!!! {t}"));
        Ok(rows(&text))
    };
    let (linux, ours) = std::thread::scope(|scope| {
        let linux = scope.spawn(|| measure(Kernel::Linux));
        (linux.join(), measure(Kernel::Ours))
    });
    let linux = linux.map_err(|_| "the Linux run panicked".to_string())??;
    let ours = ours?;

    println!("{:<34}{:>12}{:>12}{:>8}", "instructions per operation", "Linux", "ours", "ratio");
    let mut logarithms = Vec::new();
    for (name, theirs) in &linux {
        match ours.iter().find(|(n, _)| n == name) {
            Some((_, mine)) => {
                logarithms.push((theirs / mine).ln());
                println!("{name:<34}{theirs:>12.1}{mine:>12.1}{:>8.2}", theirs / mine);
            }
            None => println!("{name:<34}{theirs:>12.1}{:>12}", "-"),
        }
    }
    let mean = (logarithms.iter().sum::<f64>() / logarithms.len().max(1) as f64).exp();
    println!("geometric mean over {} rows: {mean:.2}", logarithms.len());
    Ok(())
}

fn rows(text: &str) -> Vec<(String, f64)> {
    text.lines()
        .filter_map(|line| line.trim_end().split_once('\t'))
        .filter_map(|(name, cost)| Some((name.to_string(), cost.parse().ok()?)))
        .collect()
}
