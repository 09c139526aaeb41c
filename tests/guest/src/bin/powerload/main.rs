//! A load for power cuts: many threads that change files and wait for them to be durable in every way there
//! is, and databases that commit. What each was promised stands in marks on the same disk
//! ([`guest::marks`]); `tests/powercuts` reads them from a log of the disk's writes.
//!
//! Runs as process 1, steered by the kernel's command line:
//!
//! | word             | what                                                                    |
//! |------------------|-------------------------------------------------------------------------|
//! | `LOAD_DISK=`     | the disk: its first partition is an ext4 file system, its second marks   |
//! | `LOAD_MODE=`     | `data=` of the mount                                                     |
//! | `LOAD_SEED=`     | makes the work another, and names the run                                |
//! | `LOAD_SECONDS=`  | how long it works                                                       |
//! | `LOAD_THREADS=`  | how many threads                                                        |
//!
//! The last line it prints is `powerload: done, N operations` if nothing went wrong.

mod database;
mod machine;
mod stream;
mod worker;

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use database::Database;
use guest::marks::{COMMON_FILE, COMMON_PATH, DATABASES, Op};
use stream::{ROOT, Stream};
use worker::Worker;

/// Databases, by the name of their journal's mode, and the `synchronous` that makes a commit last: with a
/// journal that is deleted, a power cut may bring it back unless the directory is synced too.
const JOURNALS: [(&str, &str); 3] = [("delete", "EXTRA"), ("truncate", "FULL"), ("wal", "FULL")];

fn main() {
    if std::process::id() != 1 {
        eprintln!("powerload: runs as process 1");
        std::process::exit(1);
    }
    match run() {
        Ok(operations) => println!("powerload: done, {operations} operations"),
        Err(error) => println!("powerload: FAILED: {error}"),
    }
    machine::switch_off();
}

fn run() -> Result<u64> {
    machine::mount("devtmpfs", "/dev", "devtmpfs", "")?;
    machine::mount("proc", "/proc", "proc", "")?;
    machine::mount("tmpfs", "/tmp", "tmpfs", "")?;
    let disk: String = word("LOAD_DISK")?;
    let part = if disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    let (files, marks) = (format!("{disk}{part}1"), format!("{disk}{part}2"));
    machine::mount(&files, ROOT, "ext4", &format!("data={}", word::<String>("LOAD_MODE")?))?;
    let (seed, threads) = (word::<u64>("LOAD_SEED")?, word::<u32>("LOAD_THREADS")?);
    let deadline = Instant::now() + Duration::from_secs(word("LOAD_SECONDS")?);

    let mut setup = Stream::new(&marks, seed, 0)?;
    prepare(&mut setup, threads)?;
    let mut operations = setup.end()?;
    let mut workers = Vec::new();
    for number in 1..=threads {
        let mut worker = Worker::new(Stream::new(&marks, seed, number)?, seed);
        workers.push(std::thread::spawn(move || worker.run(deadline).and_then(|()| worker.end())));
    }
    for (number, (mode, synchronous)) in (threads + 1..).zip(JOURNALS) {
        let stream = Stream::new(&marks, seed, number)?;
        workers.push(std::thread::spawn(move || {
            let mut database = Database::open(stream, mode, synchronous)?;
            database.run(deadline)?;
            database.end()
        }));
    }
    let outcomes: Vec<Result<u64>> = workers
        .into_iter()
        .map(|worker| worker.join().unwrap_or(Err(Error::other("a thread panicked"))))
        .collect();
    for outcome in outcomes {
        operations += outcome?;
    }
    machine::unmount(ROOT)?;
    Ok(operations)
}

/// What the threads find.
fn prepare(setup: &mut Stream, threads: u32) -> Result<()> {
    for path in [DATABASES, "shared"] {
        setup.run(Op::MakeDir { path: path.into() })?;
    }
    for number in 1..=threads {
        setup.run(Op::MakeDir { path: worker::home(number) })?;
    }
    setup.run(Op::Create { file: COMMON_FILE, path: COMMON_PATH.into() })?;
    setup.run(Op::Sync)
}

/// The value of a word of the command line.
fn word<T: std::str::FromStr>(name: &str) -> Result<T> {
    let value = std::env::var(name).ok().and_then(|text| text.parse().ok());
    value.ok_or_else(|| Error::other(format!("no {name}= on the command line, or a wrong one")))
}
