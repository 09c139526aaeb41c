//! What is left of a database, by SQLite's own shell.

use std::path::Path;
use std::process::Command;

use guest::marks::row_text;

use crate::tree::{Found, Tree};

/// Looks whether a database is sound and has all rows whose commits had returned: `ended` transactions had,
/// `begun` had begun, the first of which makes the tables. `scratch` is a directory to work in.
///
/// # Errors
///
/// What is wrong with it.
pub fn check(
    tree: &Tree,
    path: &str,
    ended: usize,
    begun: usize,
    scratch: &Path,
) -> Result<(), String> {
    let place = scratch.join("cut.db");
    // What belongs to it but a map of the log, which is made anew.
    for suffix in ["", "-journal", "-wal", "-shm"] {
        let file = scratch.join(format!("cut.db{suffix}"));
        let outcome = match tree.get(&format!("{path}{suffix}")) {
            Some(Found::File(contents)) if suffix != "-shm" => std::fs::write(&file, contents),
            _ if file.exists() => std::fs::remove_file(&file),
            _ => Ok(()),
        };
        outcome.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    if ended == 0 && !place.exists() {
        return Ok(());
    }
    if !place.exists() {
        return Err(format!("{path} is lost"));
    }
    let sound = ask(&place, "PRAGMA integrity_check;")?;
    if sound.trim() != "ok" {
        return Err(format!("{path}: integrity check: {sound}"));
    }
    let tables = ask(&place, "SELECT count(*) FROM sqlite_master WHERE type = 'table';")?;
    match (tables.trim(), ended) {
        ("2", _) => {}
        ("0", 0) => return Ok(()),
        (count, _) => return Err(format!("{path} has {count} tables")),
    }
    let text = ask(&place, "SELECT n, length FROM total; SELECT n, body FROM rows ORDER BY n;")?;
    let rows = judge(&text).map_err(|why| format!("{path}: {why}"))?;
    // The first transaction has none.
    if rows + 1 < ended || rows + 1 > begun {
        let (committed, tried) = (ended.saturating_sub(1), begun.saturating_sub(1));
        return Err(format!("{path} has {rows} rows: {committed} were committed, {tried} begun"));
    }
    Ok(())
}

/// How many rows there are, if they are as they were written.
fn judge(text: &str) -> Result<usize, String> {
    let mut lines = text.lines();
    let total = lines.next().unwrap_or_default();
    let (mut rows, mut length) = (0, 0);
    for (number, line) in (1u32..).zip(lines) {
        let body = row_text(number);
        if line != format!("{number}|{body}") {
            return Err(format!("row {number} is wrong: {}", line.get(..40).unwrap_or(line)));
        }
        rows += 1;
        length += body.len();
    }
    if total != format!("{rows}|{length}") {
        return Err(format!("{rows} rows of {length} bytes, counted as {total}"));
    }
    Ok(rows)
}

fn ask(place: &Path, words: &str) -> Result<String, String> {
    let output = Command::new("sqlite3").arg("-batch").arg(place).arg(words).output();
    let output = output.map_err(|error| format!("sqlite3: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("sqlite3 says {}: {}", output.status, said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_when_they_are_sound() {
        let (first, second) = (row_text(1), row_text(2));
        let length = first.len() + second.len();
        let all = format!("2|{length}\n1|{first}\n2|{second}\n");
        assert_eq!(judge(&all), Ok(2));
        assert_eq!(judge("0|0\n"), Ok(0));
        assert!(judge("").is_err());
        assert!(judge(&format!("2|{length}\n1|{first}\n")).is_err());
        assert!(judge(&format!("1|{}\n1|{first}x\n", first.len())).is_err());
        assert!(judge(&format!("1|{}\n2|{second}\n", second.len())).is_err());
    }
}
