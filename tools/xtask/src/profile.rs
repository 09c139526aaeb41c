//! `make profile CMD='…'`: where the instructions of a command go, by kernel function.
//!
//! The machine runs in emulation with the plugin of `tools/profiler`, which counts executions of
//! every translation block; here they are added up by symbol. `FOLDED=FILE` also writes lines for
//! a flame graph, with the modules of a function's path as its stack.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::elf::Elf;
use crate::options::Options;
use crate::{Result, build, paths, qemu, shell};

/// Functions listed.
const SHOWN: usize = 60;
/// What runs below this address is a program.
const KERNEL_START: u64 = 1 << 63;

/// Runs the command of the environment under the profiler and prints its table.
pub(crate) fn run(options: &Options) -> Result<u8> {
    let raw = paths::output().join("profile.raw");
    let mut options = options.clone();
    options.accel = Some("tcg,thread=single".into());
    options.append.push_str(" nokaslr");
    options.qemu_args.push("-plugin".into());
    options.qemu_args.push(format!("{},out={}", plugin()?, raw.display()));
    let kernel = build::build(build::Profile::Release)?;
    let status = qemu::run(&options)?;
    report(&raw, &kernel.vmlinux)?;
    Ok(status)
}

/// Builds the plugin; where it is.
fn plugin() -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let words = ["build", "--quiet", "--release", "-p", "profiler"];
    shell::run(Command::new(cargo).current_dir(paths::project()).args(words))?;
    Ok(paths::cargo_target().join("release/libprofiler.so").display().to_string())
}

/// Prints the table of a file that the plugin has written.
pub(crate) fn report(raw: &Path, vmlinux: &Path) -> Result {
    let image = fs::read(vmlinux)?;
    let symbols = Symbols::read(&image)?;
    let mut counts: HashMap<String, u64> = HashMap::new();
    for line in fs::read_to_string(raw)?.lines() {
        let mut words = line.split(' ');
        let mut word = || words.next().ok_or("profile line is cut short");
        let address = u64::from_str_radix(word()?, 16)?;
        let (instructions, executions): (u64, u64) = (word()?.parse()?, word()?.parse()?);
        *counts.entry(symbols.name(address)).or_default() += instructions * executions;
    }
    let total: u64 = counts.values().sum();
    let mut rows: Vec<(&String, &u64)> = counts.iter().collect();
    rows.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let mut table = format!("{:>16} {:>6}  function\n", "instructions", "%");
    for (name, count) in rows.iter().take(SHOWN) {
        let share = **count as f64 * 100.0 / total.max(1) as f64;
        table.push_str(&format!("{count:>16} {share:>6.2}  {name}\n"));
    }
    table.push_str(&format!("{total:>16} 100.00  in {} functions\n", rows.len()));
    // Whoever closes the pipe has seen enough.
    let _ = std::io::stdout().write_all(table.as_bytes());
    if let Ok(path) = std::env::var("FOLDED") {
        let folded: String =
            rows.iter().map(|(name, n)| format!("{} {n}\n", name.replace("::", ";"))).collect();
        fs::write(path, folded)?;
    }
    Ok(())
}

/// Functions by address.
struct Symbols(Vec<(u64, String)>);

impl Symbols {
    fn read(image: &[u8]) -> Result<Symbols> {
        let elf = Elf::parse(image)?;
        // Labels of assembly code have no type.
        let is_code = |address| {
            let text = elf.sections.iter().filter(|s| [".text", ".head"].contains(&&*s.name));
            text.into_iter().any(|s| address >= s.address && address - s.address < s.len as u64)
        };
        let mut all: Vec<(u64, String)> = elf
            .symbols()?
            .into_iter()
            .filter(|s| s.address >= KERNEL_START && !s.name.is_empty())
            .filter(|s| s.is_function || is_code(s.address))
            .filter(|s| !s.name.starts_with(".L"))
            .map(|s| (s.address, format!("{:#}", rustc_demangle::demangle(&s.name))))
            .collect();
        all.sort();
        all.dedup_by_key(|symbol| symbol.0);
        Ok(Symbols(all))
    }

    fn name(&self, address: u64) -> String {
        if address < KERNEL_START {
            return "[programs and firmware]".into();
        }
        let index = self.0.partition_point(|symbol| symbol.0 <= address);
        match index.checked_sub(1).and_then(|index| self.0.get(index)) {
            Some((_, name)) => name.clone(),
            None => format!("{address:#x}"),
        }
    }
}
