//! Facts about the source tree, for `make stats`: lines per crate, the share of code in crates
//! that allow `unsafe`, `SAFETY` arguments, documentation, and files that are too long.
//!
//! Exits with 1 when a rule that has no exception is broken: a file above 1,000 lines, an unsafe
//! block without an argument.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// No file may be longer.
const LONGEST_FILE: usize = 1000;
/// Past this many lines a file is named: it may be two ideas.
const LONG_FILE: usize = 600;

/// What is counted in a crate or a file.
#[derive(Default)]
struct Counts {
    files: usize,
    code: usize,
    docs: usize,
    comments: usize,
    unsafe_blocks: usize,
    safety_arguments: usize,
    tests: usize,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.files += other.files;
        self.code += other.code;
        self.docs += other.docs;
        self.comments += other.comments;
        self.unsafe_blocks += other.unsafe_blocks;
        self.safety_arguments += other.safety_arguments;
        self.tests += other.tests;
    }

    fn of(text: &str) -> Counts {
        let mut counts = Counts { files: 1, ..Counts::default() };
        for line in text.lines().map(str::trim) {
            if line.starts_with("///") || line.starts_with("//!") {
                counts.docs += 1;
            } else if line.starts_with("//") {
                counts.comments += 1;
                counts.safety_arguments += usize::from(line.contains("SAFETY:"));
            } else if !line.is_empty() {
                counts.code += 1;
                counts.unsafe_blocks += usize::from(opens_unsafe_block(line));
                counts.tests += usize::from(line == "#[test]");
            }
        }
        counts
    }
}

fn opens_unsafe_block(line: &str) -> bool {
    line.contains("unsafe {") || (line.starts_with("unsafe impl") && !line.starts_with("//"))
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut crates = find_crates(&root);
    crates.sort();
    let (mut total, mut open) = (Counts::default(), Counts::default());
    let mut long: Vec<(usize, String)> = Vec::new();

    println!(
        "{:<22}{:>7}{:>9}{:>8}{:>8}{:>8}",
        "crate", "files", "code", "docs", "unsafe", "tests"
    );
    for directory in &crates {
        let mut counts = Counts::default();
        let mut forbids_unsafe = false;
        for file in rust_files(&directory.join("src")) {
            let text = fs::read_to_string(&file).unwrap_or_default();
            forbids_unsafe |= text.contains("#![forbid(unsafe_code)]");
            counts.add(&Counts::of(&text));
            let lines = text.lines().count();
            if lines > LONG_FILE {
                let shown = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
                long.push((lines, shown));
            }
        }
        let name = directory.strip_prefix(&root).unwrap_or(directory).display().to_string();
        println!(
            "{name:<22}{:>7}{:>9}{:>8}{:>8}{:>8}",
            counts.files,
            counts.code,
            counts.docs,
            if forbids_unsafe { "no".into() } else { counts.unsafe_blocks.to_string() },
            counts.tests
        );
        let is_kernel = !name.starts_with("tools") && !name.starts_with("tests");
        if is_kernel && !forbids_unsafe {
            open.add(&counts);
        }
        if is_kernel {
            total.add(&counts);
        }
    }

    let share = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
    println!(
        "\nkernel: {} lines of code in {} files, {} tests",
        total.code, total.files, total.tests
    );
    println!("code in crates that allow unsafe: {:.1} %", share(open.code, total.code));
    println!(
        "unsafe blocks: {}, SAFETY arguments: {}",
        total.unsafe_blocks, total.safety_arguments
    );
    println!("documentation: {:.1} % of code lines", share(total.docs, total.code));
    long.sort_by(|a, b| b.cmp(a));
    println!("files above {LONG_FILE} lines: {}", long.len());
    long.iter().for_each(|(lines, file)| println!("  {lines:>5} {file}"));

    let too_long = long.iter().any(|(lines, _)| *lines > LONGEST_FILE);
    if too_long || total.safety_arguments < total.unsafe_blocks {
        println!("broken: files above {LONGEST_FILE} lines or unsafe blocks without an argument");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn find_crates(root: &Path) -> Vec<PathBuf> {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap_or_default();
    manifest
        .lines()
        .skip_while(|line| !line.starts_with("members"))
        .skip(1)
        .take_while(|line| !line.starts_with(']'))
        .map(|line| root.join(line.trim().trim_matches(|c| c == '"' || c == ',')))
        .collect()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.filter_map(|e| e.ok().map(|e| e.path())) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_kinds_of_lines() {
        let counts = Counts::of("//! doc\n// SAFETY: fine\nlet x = unsafe { y() };\n\n");
        assert_eq!((counts.docs, counts.code), (1, 1));
        assert_eq!((counts.unsafe_blocks, counts.safety_arguments), (1, 1));
    }
}
