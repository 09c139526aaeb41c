//! The command line of the runner.

use std::path::PathBuf;

use crate::bench::Kind;
use crate::machine::{Disk, Shape};

/// Shown after a wrong call.
pub(crate) const USAGE: &str = "\
usage: runner oracle|linux|ours|trace|bench|bench-check|bench-record [OPTION VALUE]...
  --rootfs   the distribution to run in (default: CentOS 7.2 beside the project; what is measured runs
             in roots of Debian that xtask makes)
  --cases    a directory of other *.cases files (default: tests/oracle)
  --only     run only the cases (or benchmark rows) whose name contains WORD
  --skip     leave out the cases whose name contains WORD
  --shape    a machine for our kernel, for example 2:1024:nvme (default: 2:1024:nvme)
  --cmd      the command that `trace` runs, as a line of bash
  --kernel   our kernel (default: target/vmlinuz)
  --append   words added to our kernel's command line
  --parts    what `bench` measures: paths,applications,storage,network,scaling,size
             (default: all; with --rows: paths)
  --rows     the rows of `bench` whose GROUP/NAME contains one of WORD,WORD: printed and not saved
  --pairs    runs of each kernel where the host's clock counts (default: 5; storage, network, scaling: 3)
  --cpus     processors of the machine that `scaling` runs on (default: 16)
  --docs     where the results of `bench` are kept (default: docs/benchmarks)";

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// Both kernels, compared.
    Oracle,
    /// Linux alone, its report printed.
    Linux,
    /// Our kernel alone, its report printed.
    Ours,
    /// What both kernels need: paths, applications, storage, network, scaling, size.
    Bench,
    /// The kernel paths of ours, compared with what is recorded.
    BenchCheck,
    /// The kernel paths of ours, recorded.
    BenchRecord,
    /// One command on both kernels, its system calls compared.
    Trace,
}

/// A parsed command line.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) command: Command,
    /// The distribution that was named.
    pub(crate) root: Option<PathBuf>,
    pub(crate) only: Vec<String>,
    pub(crate) skip: Vec<String>,
    pub(crate) machines: Vec<Shape>,
    pub(crate) append: String,
    pub(crate) cmd: Option<String>,
    pub(crate) parts: Vec<Kind>,
    pub(crate) pairs: Option<usize>,
    pub(crate) cpus: u32,
    pub(crate) docs_dir: PathBuf,
    pub(crate) project: PathBuf,
    pub(crate) cases_dir: PathBuf,
    pub(crate) work_dir: PathBuf,
    pub(crate) vmlinuz: PathBuf,
}

impl Options {
    /// Parses the words after the program's name.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let command = match words.next().as_deref() {
            Some("oracle") => Command::Oracle,
            Some("linux") => Command::Linux,
            Some("ours") => Command::Ours,
            Some("bench") => Command::Bench,
            Some("bench-check") => Command::BenchCheck,
            Some("bench-record") => Command::BenchRecord,
            Some("trace") => Command::Trace,
            other => return Err(format!("unknown command {other:?}")),
        };
        let project = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or(project.join("target"), PathBuf::from);
        let mut options = Options {
            command,
            root: None,
            only: Vec::new(),
            skip: Vec::new(),
            machines: Vec::new(),
            append: String::new(),
            cmd: None,
            parts: Vec::new(),
            pairs: None,
            cpus: 16,
            docs_dir: project.join("docs/benchmarks"),
            cases_dir: project.join("tests/oracle"),
            work_dir: target.join("tests"),
            vmlinuz: target.join("vmlinuz"),
            project,
        };
        while let Some(word) = words.next() {
            let value = words.next().ok_or(format!("{word} wants a value"))?;
            match word.as_str() {
                "--rootfs" => options.root = Some(PathBuf::from(value)),
                "--cases" => options.cases_dir = PathBuf::from(value),
                "--only" => options.only.push(value),
                "--skip" => options.skip.push(value),
                "--shape" => options.machines.push(value.parse()?),
                "--append" => options.append = value,
                "--cmd" => options.cmd = Some(value),
                "--parts" => {
                    options.parts = listed(&value).map(str::parse).collect::<Result<_, _>>()?
                }
                "--rows" => options.only.extend(listed(&value).map(String::from)),
                "--pairs" => options.pairs = Some(positive(&word, &value)?),
                "--cpus" => options.cpus = positive(&word, &value)?,
                "--docs" => options.docs_dir = PathBuf::from(value),
                "--kernel" => options.vmlinuz = PathBuf::from(value),
                _ => return Err(format!("unknown option {word}")),
            }
        }
        if options.machines.is_empty() {
            options.machines.push(Shape { cpus: 2, memory_mib: 1024, disk: Disk::Nvme });
        }
        Ok(options)
    }

    /// The distribution that cases run in.
    pub(crate) fn rootfs(&self) -> PathBuf {
        let usual = || self.project.join("../shared/userspace/centos-7.2.tar.xz");
        self.root.clone().unwrap_or_else(usual)
    }
}

/// The words between commas. Make passes an empty list where nobody gave one.
fn listed(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn positive<T: TryFrom<u32>>(word: &str, value: &str) -> Result<T, String> {
    let number: Option<u32> = value.parse().ok().filter(|number| *number > 0);
    let fitting = number.and_then(|number| T::try_from(number).ok());
    fitting.ok_or_else(|| format!("{word} wants a number above zero, not {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split(' ').map(String::from))
    }

    #[test]
    fn parts_and_rows_are_lists() {
        let options = parse("bench --parts size,paths --rows fork,pipe --pairs 7").expect("fine");
        assert_eq!(options.parts, [Kind::Size, Kind::Paths]);
        assert_eq!(options.only, ["fork", "pipe"]);
        assert_eq!((options.pairs, options.cpus), (Some(7), 16));
        // As make passes them when nobody asked for any.
        let options =
            Options::parse(["bench", "--parts", "", "--rows", ""].map(String::from).into_iter());
        assert!(options.is_ok_and(|options| options.parts.is_empty() && options.only.is_empty()));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in ["", "banch", "bench --parts path", "bench --pairs 0", "bench --pairs"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn words_may_hold_spaces() {
        let words = ["bench-check", "--rows", "tmpfs pread 1 B, fork"].map(String::from);
        let options = Options::parse(words.into_iter()).expect("fine");
        assert_eq!(options.only, ["tmpfs pread 1 B", "fork"]);
    }
}
