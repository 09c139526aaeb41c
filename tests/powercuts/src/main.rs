//! Looks at what a guest's disk may have held when the power failed: `cargo xtask test-powercuts` runs it.
//!
//! ```text
//! powercuts prepare DISK
//! powercuts check DISK LOG MODE SEED COUNT
//! powercuts check DISK LOG MODE SEED moment NUMBER
//! ```
//!
//! `prepare` makes a disk with a file system. `check` cuts the power at COUNT moments of the log of a guest
//! that began with DISK, or at one.

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use powercuts::disk;
use powercuts::file::Mode;
use powercuts::judge::{Cut, Run, keep_at};

/// After so many failures the rest is left.
const MAX_FAILURES: usize = 5;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["prepare", path] => prepare(Path::new(path)).map(|()| 0),
        ["check", base, log, mode, seed, count] => check(base, log, mode, seed, &["count", count]),
        ["check", base, log, mode, seed, "moment", moment] => {
            check(base, log, mode, seed, &["moment", moment])
        }
        _ => {
            Err("usage: powercuts prepare DISK | check DISK LOG MODE SEED (COUNT | moment NUMBER)"
                .into())
        }
    };
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            println!("powercuts: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the disk: a small journal, so that it wraps.
fn prepare(path: &Path) -> Result<(), String> {
    let text = |error: std::io::Error| format!("{}: {error}", path.display());
    let files = path.with_extension("files");
    let size = format!("{}k", (disk::FILES.end - disk::FILES.start) >> 10);
    File::create(&files).map_err(text)?;
    let mut make = Command::new("mke2fs");
    let search = std::env::var("PATH").unwrap_or_default();
    make.env("PATH", format!("{search}:/usr/sbin:/sbin"));
    make.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-J", "size=4"]).arg(&files).arg(size);
    let status = make.status().map_err(|error| format!("mke2fs: {error}"))?;
    if !status.success() {
        return Err(format!("mke2fs failed ({status})"));
    }
    let bytes = std::fs::read(&files).map_err(text)?;
    let made = File::create(path).map_err(text)?;
    made.set_len(disk::LEN).map_err(text)?;
    made.write_all_at(&disk::table(), 0).map_err(text)?;
    made.write_all_at(&bytes, disk::FILES.start).map_err(text)?;
    std::fs::remove_file(files).map_err(text)
}

/// Looks at moments; how many are not as they have to be.
fn check(
    base: &str,
    log: &str,
    mode: &str,
    seed: &str,
    which: &[&str; 2],
) -> Result<usize, String> {
    let start = Instant::now();
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let (seed, count) = (number(seed)?, number(which[1])?);
    let strictness = match mode {
        "ordered" | "journal" => Mode::Strict,
        "writeback" => Mode::Writeback,
        _ => return Err(format!("{mode}: ordered, writeback or journal")),
    };
    let run = Run::read(Path::new(log), strictness)?;
    println!("powercuts: {}", run.describe());
    let cuts = match which[0] {
        "moment" => vec![Cut { moment: count as usize, keep: keep_at(seed, count as usize) }],
        _ => run.moments(seed, count),
    };
    let disk = std::fs::read(base).map_err(|error| format!("{base}: {error}"))?;
    if disk.len() as u64 != disk::LEN {
        return Err(format!("{base} has {} bytes", disk.len()));
    }
    let mut replay = run.replay(disk);
    let scratch = Path::new(log).parent().unwrap_or(Path::new("."));
    let (mut passed, mut failed) = (0, 0);
    for cut in cuts {
        match run.judge(&mut replay, cut, seed, scratch) {
            Ok(()) => passed += 1,
            Err(why) => {
                failed += 1;
                let Cut { moment, keep } = cut;
                println!(
                    "powercuts: WRONG after {moment} entries of the log, kept {keep:?}: {why}"
                );
                println!(
                    "        again: cargo run --release -p powercuts -- check {base} {log} {mode} {seed} \
                     moment {moment}"
                );
            }
        }
        if failed == MAX_FAILURES {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f32();
    println!("powercuts: {passed} moments are sound, {failed} are not ({seconds:.1} s)");
    Ok(failed)
}
