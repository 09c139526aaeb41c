//! `make test`: formatting, lints, host tests and boots in QEMU, with one total at the end.
//!
//! Every step runs, whatever happened before it. The last line is `N passed, N failed`: host tests
//! and QEMU tests, where a check or a build that fails counts as one failure.

use crate::build::{TARGET, cargo, use_core_source_if_needed};
use crate::tally::Tally;
use crate::{
    Result, paths, shell, test_bench, test_boot, test_locks, test_oracle, test_powercuts,
    test_shell,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

/// Seconds that the tests of one crate may take; more is a hang.
const PATIENCE_PER_CRATE: &str = "300";
/// Seconds for building all of the workspace, or checking it, from nothing.
const PATIENCE_PER_BUILD: &str = "900";
/// Lines of a failed test program's output that are shown.
const SHOWN_LINES: usize = 200;

type Step = fn() -> Result<Tally>;

/// One after the other; those in one line side by side, since neither of them uses two processors all the time.
const STEPS: [&[(&str, Step)]; 8] = [
    &[("formatting", formatting)],
    &[("rules of the source", rules)],
    &[("lints", lints)],
    &[("host tests", host_tests)],
    &[("boots in QEMU", boots)],
    &[("a shell on a terminal", test_shell::cases), ("instruction counts", test_bench::cases)],
    &[("power cuts", test_powercuts::step), ("lock checker", test_locks::cases)],
    &[("the same on Linux", test_oracle::cases)],
];

/// Runs everything and prints the total; the status is 1 if anything failed.
pub(crate) fn run() -> Result<u8> {
    let start = Instant::now();
    let mut total = Tally::default();
    shell::ensure_programs(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("mke2fs", "e2fsprogs"),
        ("strip", "binutils"),
        ("sgdisk", "gdisk"),
        ("gzip", "gzip"),
        ("xz", "xz-utils"),
        ("zstd", "zstd"),
        ("xorriso", "xorriso"),
        ("mkfs.vfat", "dosfstools"),
        ("mcopy", "mtools"),
        ("mksquashfs", "squashfs-tools"),
    ])?;
    ensure_components()?;
    for together in STEPS {
        let names: Vec<&str> = together.iter().map(|(name, _)| *name).collect();
        println!("==> {} ({} s)", names.join(", and "), start.elapsed().as_secs());
        total.add(side_by_side(together));
    }
    println!("==> done ({} s)", start.elapsed().as_secs());
    // Again at the end, where they are found.
    total.failures.iter().for_each(|name| println!("failed: {name}"));
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(u8::from(total.failed > 0))
}

/// Runs steps at the same time, each in a thread of its own, and adds up what they count.
fn side_by_side(steps: &[(&'static str, Step)]) -> Tally {
    let mut total = Tally::default();
    thread::scope(|scope| {
        let running: Vec<_> =
            steps.iter().map(|&(name, step)| scope.spawn(move || counted(name, step))).collect();
        for ((name, _), thread) in steps.iter().zip(running) {
            let mut tally = thread.join().unwrap_or(Tally::FAILURE);
            tally.name_failures(name);
            total.add(tally);
        }
    });
    total
}

/// What a step counts; a step that cannot be run has failed.
fn counted(name: &str, step: Step) -> Tally {
    step().unwrap_or_else(|failure| {
        println!("FAILED  {name}: {failure}");
        Tally::FAILURE
    })
}

/// A toolchain installed with rustup's minimal profile lacks the formatter and the lints.
fn ensure_components() -> Result {
    let has = |name: &str| shell::output(cargo().args([name, "--version"])).is_ok();
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !has(command) {
            shell::run(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    Ok(())
}

fn formatting() -> Result<Tally> {
    shell::run(cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Tally::default())
}

/// What `make stats` holds for broken.
fn rules() -> Result<Tally> {
    let output = patient_cargo(PATIENCE_PER_BUILD)
        .stderr(Stdio::inherit())
        .args(["run", "--quiet", "--release", "-p", "stats"])
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stdout).into_owned().into());
    }
    Ok(Tally::default())
}

/// The compiler's and clippy's, for the host with its tests and for the kernel's target.
fn lints() -> Result<Tally> {
    let mut host = patient_cargo(PATIENCE_PER_BUILD);
    host.args(["clippy", "--quiet", "--workspace", "--all-targets"]);
    let mut kernel = patient_cargo(PATIENCE_PER_BUILD);
    kernel.args(["clippy", "--quiet", "-p", "kernel", "-p", "setup", "--target", TARGET]);
    use_core_source_if_needed(&mut kernel)?;
    for mut command in [host, kernel] {
        shell::run(command.args(["--", "-D", "warnings"]))?;
    }
    Ok(Tally::default())
}

fn boots() -> Result<Tally> {
    test_boot::all(&[])
}

/// Builds all test programs at once, then runs those of each crate in the crate's folder.
fn host_tests() -> Result<Tally> {
    let mut total = Tally::default();
    for (manifest, programs) in test_programs()? {
        let folder = manifest.parent().unwrap_or(Path::new("/"));
        let name = folder.strip_prefix(paths::project()).unwrap_or(folder).display().to_string();
        for program in programs {
            let start = Instant::now();
            let mut tally = run_program(&name, folder, &program)?;
            tally.name_failures(&name);
            let label = if tally.failed == 0 { "ok     " } else { "FAILED " };
            println!(
                "{label} {name}: {} passed, {} failed ({:.1} s)",
                tally.passed,
                tally.failed,
                start.elapsed().as_secs_f32()
            );
            total.add(tally);
        }
    }
    total.add(doc_tests()?);
    Ok(total)
}

/// The test programs of each crate, by manifest.
fn test_programs() -> Result<BTreeMap<PathBuf, Vec<PathBuf>>> {
    let mut command = patient_cargo(PATIENCE_PER_BUILD);
    command.args(["test", "--quiet", "--workspace", "--no-run", "--message-format=json"]);
    let output = command.stderr(Stdio::inherit()).output()?;
    let messages = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = messages.lines().filter(|line| line.contains("\"level\":\"error\""));
        for text in errors.filter_map(|line| string_field(line, "rendered")) {
            println!("{}", text.replace("\\n", "\n").replace("\\\"", "\""));
        }
        return Err("the tests do not compile".into());
    }
    let mut programs: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for line in messages.lines() {
        let (Some(manifest), Some(program)) =
            (string_field(line, "manifest_path"), string_field(line, "executable"))
        else {
            continue;
        };
        if line.contains("\"test\":true},") {
            programs.entry(manifest.into()).or_default().push(program.into());
        }
    }
    Ok(programs)
}

/// The value of the first field of this name that is a string, escapes left as they are.
fn string_field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let key = format!("\"{name}\":\"");
    let value = json.get(json.find(&key)? + key.len()..)?;
    let mut is_escaped = false;
    let end = value.find(|c| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    })?;
    value.get(..end)
}

fn run_program(name: &str, folder: &Path, program: &Path) -> Result<Tally> {
    let mut command = Command::new("timeout");
    command.args(["-k", "10", PATIENCE_PER_CRATE]).arg(program).current_dir(folder);
    command.env("CARGO_MANIFEST_DIR", folder);
    run_logged(name, &mut command)
}

/// The examples in the documentation.
fn doc_tests() -> Result<Tally> {
    let mut command = patient_cargo(PATIENCE_PER_CRATE);
    command.args(["test", "--quiet", "--workspace", "--doc", "--no-fail-fast"]);
    let mut tally = run_logged("documentation", &mut command)?;
    tally.name_failures("documentation");
    println!("ok      documentation: {} passed, {} failed", tally.passed, tally.failed);
    Ok(tally)
}

/// Runs a test program with its output in a file, which is shown if it fails.
fn run_logged(name: &str, command: &mut Command) -> Result<Tally> {
    let directory = paths::cargo_target().join("test-logs");
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{}.log", name.replace('/', "-")));
    let log = File::create(&path)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = command.status()?;
    let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
    let mut tally = results(&text);
    if status.success() {
        return Ok(tally);
    }
    tally.failed = tally.failed.max(1);
    let lines: Vec<&str> = text.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(SHOWN_LINES)) {
        println!("        {line}");
    }
    match status.code() {
        Some(124 | 137) => println!("FAILED  {name}: no end after {PATIENCE_PER_CRATE} s"),
        _ => println!("FAILED  {name}: {status}"),
    }
    Ok(tally)
}

/// Adds up the lines `test result: ok. 5 passed; 0 failed; …`.
fn results(text: &str) -> Tally {
    let mut tally = Tally::default();
    for line in text.lines() {
        let Some((_, counts)) = line.split_once("test result: ") else { continue };
        let count = |word: &str| {
            let mut parts = counts.split([';', '.']).map(str::trim);
            parts.find_map(|part| part.strip_suffix(word)?.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        tally.add(Tally::of(count("passed"), count("failed")));
    }
    tally
}

fn patient_cargo(seconds: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "10", seconds]);
    command.arg(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(paths::project());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_results() {
        let text = "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured\n\
                    noise\ntest result: FAILED. 2 passed; 3 failed; 0 ignored";
        assert_eq!(results(text), Tally::of(7, 3));
    }

    #[test]
    fn steps_side_by_side_are_added_up_whatever_becomes_of_them() {
        let steps: [(&str, Step); 3] = [
            ("fine", || Ok(Tally::of(3, 0))),
            ("broken", || Err("why".into())),
            ("gone", || panic!("a bug of the tests")),
        ];
        let tally = side_by_side(&steps);
        assert_eq!((tally.passed, tally.failed), (3, 2));
        assert_eq!(tally.failures, ["broken: 1", "gone: 1"]);
    }

    #[test]
    fn finds_string_fields() {
        let line = r#"{"executable":null,"name":"a\"b","manifest_path":"/x/Cargo.toml"}"#;
        assert_eq!(string_field(line, "executable"), None);
        assert_eq!(string_field(line, "name"), Some(r#"a\"b"#));
        assert_eq!(string_field(line, "manifest_path"), Some("/x/Cargo.toml"));
    }
}
