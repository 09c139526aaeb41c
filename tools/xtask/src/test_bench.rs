//! The kernel paths of `docs/benchmarks/latest.json`: no row may cost 3 % more instructions than it says.

use crate::build::{Profile, build};
use crate::tally::Tally;
use crate::{Result, test_locks};
use std::process::Stdio;

/// Measures our kernel and compares it with the record.
pub(crate) fn cases() -> Result<Tally> {
    let kernel = build(Profile::Release)?;
    let mut command = test_locks::runner("bench-check");
    command.arg("--kernel").arg(&kernel.vmlinuz);
    let output = command.stderr(Stdio::piped()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{text}");
    let tally = total(&text);
    if tally.is_none() {
        // There is no verdict: what the runner said tells why.
        print!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(tally.unwrap_or(Tally::FAILURE))
}

/// The runner's last line, `N passed, N failed`, with the rows that it names as failed.
fn total(text: &str) -> Option<Tally> {
    let (passed, failed) = text.lines().last()?.split_once(" passed, ")?;
    let failed = failed.strip_suffix(" failed")?.parse().ok()?;
    let mut tally = Tally::of(passed.parse().ok()?, failed);
    let name = |line: &str| line.strip_prefix("FAILED  ").map(String::from);
    tally.failures = text.lines().filter_map(name).collect();
    Some(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_total_and_the_names() {
        let text = "better  a/x: recorded 3.0, now 2.0 (-33.3 %)\n\
                    FAILED  a/y z: recorded 2.0, now 3.0 (+50.0 %)\n7 passed, 1 failed\n";
        let tally = total(text);
        assert_eq!(tally.as_ref().map(|tally| (tally.passed, tally.failed)), Some((7, 1)));
        let names = tally.map(|tally| tally.failures).unwrap_or_default();
        assert_eq!(names, ["a/y z: recorded 2.0, now 3.0 (+50.0 %)"]);
        assert_eq!(total("runner: no record\n"), None);
    }
}
