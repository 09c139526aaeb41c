//! A database of SQLite's own shell, told through a pipe to commit one row after the other. It answers when
//! a commit has returned.

use std::io::{BufRead, BufReader, Error, Result, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use guest::marks::{DATABASES, Op, row_text};

use crate::stream::{ROOT, Stream};

/// The database.
pub(crate) struct Database {
    stream: Stream,
    name: String,
    shell: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    rows: u32,
}

impl Database {
    /// A new one that keeps its journal in this mode.
    pub(crate) fn open(stream: Stream, mode: &str, synchronous: &str) -> Result<Database> {
        let name = format!("{DATABASES}/{mode}.db");
        let mut shell = Command::new("/usr/bin/stdbuf");
        shell.args(["-oL", "/usr/bin/sqlite3", "-batch", "-bail"]).arg(format!("{ROOT}/{name}"));
        shell.env("PATH", "/usr/bin").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().map_err(|error| Error::other(format!("sqlite3: {error}")))?;
        let pipes = shell.stdin.take().zip(shell.stdout.take());
        let (input, output) = pipes.ok_or_else(|| Error::other("sqlite3 has no pipes"))?;
        let output = BufReader::new(output);
        let mut database = Database { stream, name, shell, input, output, rows: 0 };
        // Short logs, so that they are brought into the database in between.
        let tables = format!(
            "PRAGMA journal_mode={mode}; PRAGMA synchronous={synchronous};\
             PRAGMA wal_autocheckpoint=40; BEGIN;\
             CREATE TABLE rows(n INTEGER PRIMARY KEY, body TEXT);\
             CREATE INDEX bodies ON rows(body);\
             CREATE TABLE total(n INTEGER, length INTEGER); INSERT INTO total VALUES(0, 0); COMMIT;"
        );
        database.commit(0, &tables)?;
        Ok(database)
    }

    /// Commits rows until it is time.
    pub(crate) fn run(&mut self, deadline: Instant) -> Result<()> {
        while Instant::now() < deadline {
            self.rows += 1;
            let (row, text) = (self.rows, row_text(self.rows));
            let insert = format!(
                "BEGIN; INSERT INTO rows VALUES({row}, '{text}');\
                 UPDATE total SET n = n + 1, length = length + {}; COMMIT;",
                text.len()
            );
            self.commit(row, &insert)?;
        }
        Ok(())
    }

    /// Closes it; how many operations there were.
    pub(crate) fn end(mut self) -> Result<u64> {
        // The shell ends with its input, and brings the last log in.
        drop(self.input);
        let status = self.shell.wait()?;
        if !status.success() {
            return Err(Error::other(format!("{}: sqlite3: {status}", self.name)));
        }
        self.stream.end()
    }

    fn commit(&mut self, row: u32, words: &str) -> Result<()> {
        self.stream.announce(Op::Insert { database: self.name.clone(), row })?;
        self.input.write_all(format!("{words} SELECT 'done {row}';\n").as_bytes())?;
        self.input.flush()?;
        let wanted = format!("done {row}");
        let mut line = String::new();
        while line.trim_end() != wanted {
            line.clear();
            if self.output.read_line(&mut line)? == 0 {
                return Err(Error::other(format!("{}: sqlite3 ended at row {row}", self.name)));
            }
        }
        Ok(())
    }
}
