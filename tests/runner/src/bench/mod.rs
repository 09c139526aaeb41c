//! `make bench`: both kernels side by side, in six parts, and the record that is kept of it.
//!
//! | part | what | how |
//! | --- | --- | --- |
//! | [`paths`] | the cost of single kernel operations | instructions, one processor |
//! | [`applications`] | programs from Debian's packages | the host's clock, 2 and 4 processors |
//! | [`storage`] | a disk with ext4: `fio`, trees of files, `sqlite` | the host's clock, 2 processors |
//! | [`network`] | connections and servers | the host's clock, 1 and 4 processors |
//! | [`scaling`] | operations from 1 to 16 workers | the host's clock, 16 processors |
//! | [`size`] | time to init, memory of the kernel, its file | the host's clock, 2 processors |
//!
//! What the host's clock measures is run by turns, several times on each kernel. `docs/benchmarks` has
//! the results, and tells more of the methods.

mod applications;
mod chart;
pub(crate) mod check;
mod curves;
mod document;
mod markdown;
mod network;
mod paths;
mod runs;
mod scaling;
mod size;
mod storage;
mod table;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::machine;
use crate::options::Options;
use document::{Part, Record};
use table::Row;

/// A part of the measurements.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Paths,
    Applications,
    Storage,
    Network,
    Scaling,
    Size,
}

impl Kind {
    const ALL: [Kind; 6] =
        [Kind::Paths, Kind::Applications, Kind::Storage, Kind::Network, Kind::Scaling, Kind::Size];

    fn name(self) -> &'static str {
        match self {
            Kind::Paths => "paths",
            Kind::Applications => "applications",
            Kind::Storage => "storage",
            Kind::Network => "network",
            Kind::Scaling => "scaling",
            Kind::Size => "size",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Kind::Paths => "Kernel paths: instructions per operation",
            Kind::Applications => "Applications by wall clock",
            Kind::Storage => "Storage by wall clock",
            Kind::Network => "Network by wall clock",
            Kind::Scaling => "Operations per second by workers",
            Kind::Size => "Boot, memory, size",
        }
    }

    /// What is measured, on a machine of so many processors.
    fn label(self, cpus: u32) -> String {
        match self {
            Kind::Paths => "kernel paths, instructions".into(),
            Kind::Applications => format!("applications, {cpus} CPUs"),
            Kind::Storage => format!("storage, {cpus} CPUs"),
            Kind::Network => format!("network, {cpus} CPUs"),
            Kind::Scaling => format!("1 to 16 workers, {cpus} CPUs"),
            Kind::Size => "boot, memory, size".into(),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
        let names = Kind::ALL.map(Kind::name).join(", ");
        found.ok_or_else(|| format!("no part {text:?}: there are {names}"))
    }
}

/// What came of measuring a part.
struct Measured {
    rows: Vec<Row>,
    /// How much went wrong on ours beside the rows.
    trouble: usize,
}

/// Measures the parts that are asked for, prints their tables and keeps them. Returns how much went wrong:
/// rows that fail, parts that could not be measured, and what ours did wrong besides.
///
/// A part is kept if both kernels reported every row to the end and nothing else went wrong on ours.
/// What goes wrong on Linux after its report is told only: the guest's clock may count instructions, so that
/// a disk of a busy host may take minutes of the guest's time to write, and Linux gives it up.
pub(crate) fn run(options: &Options) -> Result<usize, String> {
    let mut record = Record::load(&options.docs_dir)?;
    let mut bad = 0;
    for kind in parts(options) {
        eprintln!("==> {}", kind.name());
        let measured = match measure(kind, options) {
            Ok(measured) => measured,
            Err(why) => {
                eprintln!("runner: {}: {why}", kind.name());
                bad += 1;
                continue;
            }
        };
        bad += measured.trouble + measured.rows.iter().filter(|row| row.has_failed()).count();
        let part = part(kind, measured.rows, options)?;
        print!("{}", markdown::printed(&part));
        if options.only.is_empty() && measured.trouble == 0 {
            record.replace(part);
            save(&record, options)?;
        }
    }
    Ok(bad)
}

/// All parts, or those named; with rows that are named, the part that is quick.
fn parts(options: &Options) -> Vec<Kind> {
    match options.parts.as_slice() {
        [] if options.only.is_empty() => Kind::ALL.to_vec(),
        [] => vec![Kind::Paths],
        named => named.to_vec(),
    }
}

fn measure(kind: Kind, options: &Options) -> Result<Measured, String> {
    match kind {
        Kind::Paths => paths::measure(options),
        Kind::Applications => applications::measure(options),
        Kind::Storage => storage::measure(options),
        Kind::Network => network::measure(options),
        Kind::Scaling => scaling::measure(options),
        Kind::Size => size::measure(options),
    }
}

fn part(kind: Kind, rows: Vec<Row>, options: &Options) -> Result<Part, String> {
    let linux = machine::linux_kernel()?;
    let linux = linux.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Part { kind, date: today()?, commit: commit(options)?, linux, rows })
}

fn save(record: &Record, options: &Options) -> Result<(), String> {
    record.save(&options.docs_dir, &options.docs_dir.join("../../README.md"))
}

fn today() -> Result<String, String> {
    output(Command::new("date").args(["-u", "+%Y-%m-%d"]))
}

/// The commit of the sources, with a `+` if they differ from it: apart from what is written here.
fn commit(options: &Options) -> Result<String, String> {
    let git =
        |words: &[&str]| output(Command::new("git").arg("-C").arg(&options.project).args(words));
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changes = git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ".",
        ":!docs",
        ":!README.md",
    ])?;
    Ok(if changes.is_empty() { commit } else { format!("{commit}+") })
}

/// The archive of one of the roots that xtask makes, unless one was named.
fn root(name: &str, options: &Options) -> Result<PathBuf, String> {
    if let Some(root) = &options.root {
        return Ok(root.clone());
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(&options.project).args(["xtask", "rootfs", name]);
    Ok(PathBuf::from(output(&mut command)?))
}

/// What a command prints, without the last end of line.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|why| format!("{command:?}: {why}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_from_the_options() {
        let of = |words: &[&str]| {
            let words = ["bench"].iter().chain(words).map(|word| word.to_string());
            parts(&Options::parse(words).expect("fine"))
        };
        assert_eq!(of(&[]), Kind::ALL);
        assert_eq!(of(&["--rows", "fork"]), [Kind::Paths]);
        assert_eq!(of(&["--rows", "fio", "--parts", "applications"]), [Kind::Applications]);
    }
}
