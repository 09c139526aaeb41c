//! Facts about the source tree, for `make stats`: lines per crate, the share of code in crates
//! that allow `unsafe` and inside `unsafe` blocks, `SAFETY` arguments, documentation, tests, and
//! files that are too long.
//!
//! Exits with 1 when a rule that has no exception is broken: a file above 1,000 lines, an unsafe
//! block without an argument, a crate above the hardware layers that does not forbid `unsafe`, a
//! class of locks whose rank the crate's README does not tell.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// No file may be longer.
const LONGEST_FILE: usize = 1000;
/// Past this many lines a file is named: it may be two ideas.
const LONG_FILE: usize = 600;

/// Crates whose root must have `#![forbid(unsafe_code)]`: these folders and what is in them.
const SAFE_FOLDERS: [&str; 5] = ["fs", "net", "process", "syscalls", "drivers"];
fn must_forbid_unsafe(name: &str) -> bool {
    let top = name.split('/').next().unwrap_or_default();
    SAFE_FOLDERS.contains(&top)
}

/// What is counted in a crate or a file.
#[derive(Default)]
struct Counts {
    files: usize,
    code: usize,
    docs: usize,
    comments: usize,
    unsafe_blocks: usize,
    /// Lines from `unsafe {` to its end.
    unsafe_lines: usize,
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
        self.unsafe_lines += other.unsafe_lines;
        self.safety_arguments += other.safety_arguments;
        self.tests += other.tests;
    }

    fn of(text: &str) -> Counts {
        let mut counts = Counts { files: 1, ..Counts::default() };
        // Braces still open of the unsafe block that the line is in.
        let mut depth = 0;
        for line in text.lines().map(str::trim) {
            if line.starts_with("///") || line.starts_with("//!") {
                counts.docs += 1;
            } else if line.starts_with("//") {
                counts.comments += 1;
                counts.safety_arguments += usize::from(line.contains("SAFETY:"));
            } else if !line.is_empty() {
                counts.code += 1;
                counts.unsafe_blocks += usize::from(opens_unsafe_block(line));
                let opened = line.find("unsafe {").and_then(|at| line.get(at..));
                if depth > 0 || opened.is_some() {
                    let part = if depth > 0 { line } else { opened.unwrap_or(line) };
                    let braces = |brace: char| part.matches(brace).count();
                    counts.unsafe_lines += 1;
                    depth = (depth + braces('{')).saturating_sub(braces('}'));
                }
                counts.tests += usize::from(line == "#[test]");
            }
        }
        counts
    }
}

fn opens_unsafe_block(line: &str) -> bool {
    line.contains("unsafe {") || (line.starts_with("unsafe impl") && !line.starts_with("//"))
}

/// The sources' folder as cargo tells it when the program runs: the compiled one may be of a checkout that is gone.
fn root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR");
    own.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from).join("../..")
}

fn main() -> ExitCode {
    let root = root();
    let mut crates = find_crates(&root);
    if crates.is_empty() {
        eprintln!("stats: no crate below {}: run it by `make stats`", root.display());
        return ExitCode::FAILURE;
    }
    crates.sort();
    let (mut total, mut open) = (Counts::default(), Counts::default());
    let mut long: Vec<(usize, String)> = Vec::new();
    let mut too_open: Vec<String> = Vec::new();
    let mut untold: Vec<String> = Vec::new();
    let mut other_tests = 0;

    println!(
        "{:<22}{:>7}{:>9}{:>8}{:>8}{:>8}",
        "crate", "files", "code", "docs", "unsafe", "tests"
    );
    for directory in &crates {
        let mut counts = Counts::default();
        let mut forbids_unsafe = false;
        let readme = fs::read_to_string(directory.join("README.md")).unwrap_or_default();
        for file in rust_files(&directory.join("src")) {
            let text = fs::read_to_string(&file).unwrap_or_default();
            forbids_unsafe |= text.contains("#![forbid(unsafe_code)]");
            counts.add(&Counts::of(&text));
            untold.extend(lock_classes(&text).filter(|class| !readme.contains(class)));
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
        if must_forbid_unsafe(&name) && !forbids_unsafe {
            too_open.push(name);
        }
        for file in rust_files(&directory.join("tests")) {
            let text = fs::read_to_string(&file).unwrap_or_default();
            counts.tests += Counts::of(&text).tests;
        }
        if !is_kernel {
            other_tests += counts.tests;
        }
        if is_kernel {
            total.add(&counts);
        }
    }

    let share = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
    println!(
        "\nkernel: {} lines of code in {} files, {} tests; {other_tests} tests in tests/ and tools/, \
         {} cases compared with Linux",
        total.code,
        total.files,
        total.tests,
        cases(&root)
    );
    println!("code in crates that allow unsafe: {:.1} %", share(open.code, total.code));
    println!(
        "code inside unsafe blocks: {:.1} % of these, {:.1} % of all",
        share(open.unsafe_lines, open.code),
        share(total.unsafe_lines, total.code)
    );
    println!(
        "unsafe blocks: {}, SAFETY arguments: {}",
        total.unsafe_blocks, total.safety_arguments
    );
    println!("documentation: {:.1} % of code lines", share(total.docs, total.code));
    long.sort_by(|a, b| b.cmp(a));
    println!("files above {LONG_FILE} lines: {}", long.len());
    long.iter().for_each(|(lines, file)| println!("  {lines:>5} {file}"));

    println!("crates that should forbid unsafe code and do not: {}", too_open.len());
    too_open.iter().for_each(|name| println!("        {name}"));

    println!("lock classes without their rank in a README: {}", untold.len());
    untold.iter().for_each(|class| println!("        {class}"));

    let too_long = long.iter().any(|(lines, _)| *lines > LONGEST_FILE);
    if too_long
        || total.safety_arguments < total.unsafe_blocks
        || !too_open.is_empty()
        || !untold.is_empty()
    {
        println!("broken: see the head of tools/stats/src/main.rs for the rules");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The classes of locks that a file declares, as READMEs write them: `` `vfs.inode` (230) ``.
fn lock_classes(text: &str) -> impl Iterator<Item = String> {
    text.split("LockClass::new(").skip(1).filter_map(|rest| {
        let (name, rest) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
        let rank = rest.trim_start_matches([',', ' ', '\n']);
        let rank: String = rank.chars().take_while(char::is_ascii_digit).collect();
        (!rank.is_empty() && !name.starts_with("test.")).then(|| format!("`{name}` ({rank})"))
    })
}

/// Cases of `tests/oracle`.
fn cases(root: &Path) -> usize {
    let Ok(entries) = fs::read_dir(root.join("tests/oracle")) else { return 0 };
    entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .map(|text| text.lines().filter(|line| line.starts_with("### ")).count())
        .sum()
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
        assert_eq!(counts.unsafe_lines, 1);
        let block = Counts::of("let x = unsafe {\n    y()\n};\nz();\n");
        assert_eq!(block.unsafe_lines, 3);
    }

    #[test]
    fn lock_classes_are_found() {
        let text = "static A: LockClass = LockClass::new(\"vfs.inode\", 230);";
        assert_eq!(lock_classes(text).collect::<Vec<_>>(), ["`vfs.inode` (230)"]);
    }

    #[test]
    fn drivers_forbid_unsafe_code() {
        assert!(must_forbid_unsafe("drivers/nvme") && must_forbid_unsafe("process/procfs"));
        assert!(must_forbid_unsafe("drivers/hw") && !must_forbid_unsafe("mm/frames"));
    }
}
