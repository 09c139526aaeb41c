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
    let tally = Tally::told(&text);
    if tally.is_none() {
        // There is no verdict: what the runner said tells why.
        print!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(tally.unwrap_or(Tally::FAILURE))
}
