//! `COMPATIBILITY.md`: every system call, file of `/proc` and `/sys`, mount option and boot
//! parameter, with its state and the test that uses it.
//!
//! Nothing in the file is typed in: system calls come from the table of `syscalls`, the trees are
//! listed as a mount shows them, and whether a word of [`words`] is understood is read from the
//! source that would have to understand it. `compat` prints the document, `compat write` replaces
//! the file; a host test fails when the file is not what would be written.

mod source;
mod tests_of;
mod trees;
mod words;

use std::fmt::Write as _;
use std::process::ExitCode;

use source::Sources;
use tests_of::Tests;

/// Below this the numbers are Linux 5.4's; what follows came later.
const FIRST_NEWER_CALL: u16 = 436;

fn main() -> ExitCode {
    let document = document();
    if std::env::args().nth(1).as_deref() != Some("write") {
        print!("{document}");
        return ExitCode::SUCCESS;
    }
    match std::fs::write(path(), document) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compat: {}: {error}", path().display());
            ExitCode::FAILURE
        }
    }
}

fn path() -> std::path::PathBuf {
    source::project().join("COMPATIBILITY.md")
}

fn document() -> String {
    let tests = Tests::find();
    let mut out = String::from(
        "# Compatibility\n\n\
         Written by `cargo xtask compat`; a host test compares this file with the kernel's tables.\n\
         *Test* is the first thing that names the row: a case of `tests/oracle`, run on Linux and on\n\
         this kernel and compared, a program of `tests/guest`, or a host test.\n",
    );
    system_calls(&mut out, &tests);
    files(&mut out, &tests);
    let sources = Sources::read();
    options(&mut out, &tests, &sources);
    parameters(&mut out, &sources);
    out
}

fn system_calls(out: &mut String, tests: &Tests) {
    let all = syscalls::names::NAMES;
    let of_linux = all.iter().filter(|(nr, _)| *nr < FIRST_NEWER_CALL).count();
    let present = |nr: u16| syscalls::table::describe(u64::from(nr)).is_some();
    let there = all.iter().filter(|(nr, _)| *nr < FIRST_NEWER_CALL && present(*nr)).count();
    let _ = write!(
        out,
        "\n## System calls\n\n{there} of the {of_linux} of Linux 5.4 have a function; the others \
         return `ENOSYS`. What a\nfunction does not support is in its comment, with the errno it \
         returns.\n\n| number | call | state | test |\n| --: | --- | --- | --- |\n"
    );
    for (nr, name) in all {
        let state = if present(*nr) { "yes" } else { "`ENOSYS`" };
        let _ = writeln!(out, "| {nr} | `{name}` | {state} | {} |", tests.of_call(name));
    }
}

fn files(out: &mut String, tests: &Tests) {
    for (title, listing) in [("/proc", trees::proc()), ("/sys", trees::sys())] {
        let there = listing.iter().filter(|row| row.mode.is_some()).count();
        let _ = write!(
            out,
            "\n## `{title}`\n\n{there} files there, {} of Linux's absent.\n\n\
             | file | state | test |\n| --- | --- | --- |\n",
            listing.len() - there
        );
        for row in listing {
            let state = match row.mode {
                Some(mode) if mode & 0o222 != 0 => "read, write",
                Some(_) => "read",
                None => "absent",
            };
            let test = if row.mode.is_some() { tests.of_text(&row.path) } else { String::new() };
            let _ = writeln!(out, "| `{}` | {state} | {test} |", row.path);
        }
    }
}

fn options(out: &mut String, tests: &Tests, sources: &Sources) {
    out.push_str("\n## Mount options\n\n| file system | option | state | test |\n| --- | --- | --- | --- |\n");
    for (system, folder, names) in words::MOUNT_OPTIONS {
        for name in *names {
            let state = if sources.knows(&[folder], name) { "yes" } else { "`EINVAL`" };
            let test = tests.of_option(name);
            let _ = writeln!(out, "| {system} | `{name}` | {state} | {test} |");
        }
    }
}

fn parameters(out: &mut String, sources: &Sources) {
    out.push_str(
        "\n## Boot parameters\n\nWhat is not understood goes to init, as on Linux.\n\n\
         | parameter | state |\n| --- | --- |\n",
    );
    for name in words::BOOT_PARAMETERS {
        let is_known = sources.knows(words::BOOT_FOLDERS, name);
        let _ = writeln!(out, "| `{name}` | {} |", if is_known { "yes" } else { "no" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_what_would_be_written() {
        let found = std::fs::read_to_string(path()).unwrap_or_default();
        let wanted = document();
        let first = found.lines().zip(wanted.lines()).find(|(a, b)| a != b);
        assert!(found == wanted, "run `cargo xtask compat`; first difference: {first:?}");
    }
}
