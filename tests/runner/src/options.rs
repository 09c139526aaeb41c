//! The command line of the runner.

use std::path::PathBuf;

use crate::machine::{Disk, Shape};

/// Shown after a wrong call.
pub(crate) const USAGE: &str = "\
usage: runner oracle|linux|ours|bench|trace [--rootfs FILE.tar.xz] [--only WORD]... [--skip WORD]... [--shape CPUS:MIB:DISK]...
  --rootfs   the distribution to run in (default: CentOS 7.2 beside the project)
  --cases    a directory of other *.cases files (default: tests/oracle)
  --only     run only the cases (or benchmark rows) whose name contains WORD
  --skip     leave out the cases whose name contains WORD
  --shape    a machine for our kernel, for example 2:1024:nvme (default: 2:1024:nvme)
  --cmd      the command that `trace` runs, as a line of bash
  --kernel   our kernel (default: target/vmlinuz)
  --save     also write the table of `bench` to this file, as Markdown
  --append   words added to our kernel's command line";

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// Both kernels, compared.
    Oracle,
    /// Linux alone, its report printed.
    Linux,
    /// Our kernel alone, its report printed.
    Ours,
    /// The microbenchmarks on both kernels.
    Bench,
    /// One command on both kernels, its system calls compared.
    Trace,
}

/// A parsed command line.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) command: Command,
    pub(crate) rootfs: PathBuf,
    pub(crate) only: Vec<String>,
    pub(crate) skip: Vec<String>,
    pub(crate) machines: Vec<Shape>,
    pub(crate) append: String,
    pub(crate) cmd: Option<String>,
    pub(crate) save: Option<PathBuf>,
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
            Some("trace") => Command::Trace,
            other => return Err(format!("unknown command {other:?}")),
        };
        let project = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or(project.join("target"), PathBuf::from);
        let mut options = Options {
            command,
            rootfs: project.join("../shared/userspace/centos-7.2.tar.xz"),
            only: Vec::new(),
            skip: Vec::new(),
            machines: Vec::new(),
            append: String::new(),
            cmd: None,
            save: None,
            cases_dir: project.join("tests/oracle"),
            work_dir: target.join("tests"),
            vmlinuz: project.join("target/vmlinuz"),
        };
        while let Some(word) = words.next() {
            let value = words.next().ok_or(format!("{word} wants a value"))?;
            match word.as_str() {
                "--rootfs" => options.rootfs = PathBuf::from(value),
                "--cases" => options.cases_dir = PathBuf::from(value),
                "--only" => options.only.push(value),
                "--skip" => options.skip.push(value),
                "--shape" => options.machines.push(value.parse()?),
                "--append" => options.append = value,
                "--cmd" => options.cmd = Some(value),
                "--save" => options.save = Some(PathBuf::from(value)),
                "--kernel" => options.vmlinuz = PathBuf::from(value),
                _ => return Err(format!("unknown option {word}")),
            }
        }
        if options.machines.is_empty() {
            options.machines.push(Shape { cpus: 2, memory_mib: 1024, disk: Disk::Nvme });
        }
        Ok(options)
    }
}
