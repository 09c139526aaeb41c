//! What the tests in QEMU have in common: counting, choosing by name, and what of a kernel's log is
//! a complaint.

use crate::Result;

/// How many tests passed and failed, and the names of those that failed as far as they are known.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) failures: Vec<String>,
}

impl Tally {
    /// One failure.
    pub(crate) const FAILURE: Tally = Tally { passed: 0, failed: 1, failures: Vec::new() };

    /// So many tests without names.
    pub(crate) const fn of(passed: u64, failed: u64) -> Tally {
        Tally { passed, failed, failures: Vec::new() }
    }

    /// What a program's last line tells, `N passed, N failed`, with the names on the lines that begin with
    /// `FAILED`.
    pub(crate) fn told(text: &str) -> Option<Tally> {
        let (passed, failed) = text.lines().last()?.split_once(" passed, ")?;
        let failed = failed.strip_suffix(" failed")?.parse().ok()?;
        let mut tally = Tally::of(passed.parse().ok()?, failed);
        let name = |line: &str| line.strip_prefix("FAILED  ").map(String::from);
        tally.failures = text.lines().filter_map(name).collect();
        Some(tally)
    }

    /// Adds what another step counted.
    pub(crate) fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
    }

    /// Names the failures after what failed, if none has a name yet.
    pub(crate) fn name_failures(&mut self, name: &str) {
        if self.failed > 0 && self.failures.is_empty() {
            self.failures.push(format!("{name}: {}", self.failed));
        }
    }

    /// Counts one test and prints how it went.
    pub(crate) fn count(&mut self, name: &str, outcome: Result) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {name}");
            }
            Err(failure) => {
                self.failed += 1;
                self.failures.push(name.to_string());
                println!("FAILED  {name}: {failure}");
            }
        }
    }
}

/// Whether a test of this name is asked for: it contains one of `filters`, or there are none.
pub(crate) fn is_wanted(name: &str, filters: &[&str]) -> bool {
    filters.is_empty() || filters.iter().any(|filter| name.contains(filter))
}

/// What a kernel says of its own mistakes: a report of the lock checker (debug builds have it), a
/// panic, a panic within one, and what Linux begins such lines with; and a panic of a program of ours.
const COMPLAINTS: [&str; 5] =
    ["lock check:", "Kernel panic", "panic while panicking", "BUG:", "panicked at"];

/// The first line of a log in which the kernel complains of itself.
pub(crate) fn complaint(log: &str) -> Option<&str> {
    log.lines().find(|line| COMPLAINTS.iter().any(|sign| line.contains(sign)))
}

/// Looks through the log of a machine: all of `expected` must be there, and no complaint, apart from the
/// panic that the test is to end in, if it is.
pub(crate) fn check(log: &str, expected: &[&str], panic: Option<&str>) -> Result {
    if let Some(missing) = expected.iter().chain(&panic).find(|text| !log.contains(**text)) {
        return Err(format!("no {missing:?} in\n{log}").into());
    }
    let is_expected = |line: &&str| panic.is_some_and(|words| line.contains(words));
    let others: Vec<&str> = log.lines().filter(|line| !is_expected(line)).collect();
    match complaint(&others.join("\n")) {
        Some(line) => Err(format!("found {line:?} in\n{log}").into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_sound_without_complaints_other_than_the_expected_one() {
        let log = "smp: 4 CPUs\nKernel panic - not syncing: VFS: no root\n";
        assert!(check(log, &["smp: 4 CPUs"], Some("not syncing: VFS")).is_ok());
        assert!(check(log, &["smp: 4 CPUs"], None).is_err());
        assert!(check(log, &["smp: 8 CPUs"], Some("not syncing: VFS")).is_err());
        assert!(check("smp: 4 CPUs\n", &[], Some("not syncing: VFS")).is_err());
        let two = format!("{log}Kernel panic - not syncing: index out of bounds\n");
        assert!(check(&two, &[], Some("not syncing: VFS")).is_err());
        assert!(check("lock check: rank\n", &[], None).is_err());
        assert!(check("DEBUG mode\n", &[], None).is_ok());
    }

    #[test]
    fn totals_are_read_with_the_names() {
        let text = "better  a/x: recorded 3.0, now 2.0 (-33.3 %)\n\
                    FAILED  a/y z: recorded 2.0, now 3.0 (+50.0 %)\n7 passed, 1 failed\n";
        let tally = Tally::told(text);
        assert_eq!(tally.as_ref().map(|tally| (tally.passed, tally.failed)), Some((7, 1)));
        let names = tally.map(|tally| tally.failures).unwrap_or_default();
        assert_eq!(names, ["a/y z: recorded 2.0, now 3.0 (+50.0 %)"]);
        assert_eq!(Tally::told("noise\n200 passed, 3 failed\n"), Some(Tally::of(200, 3)));
        assert_eq!(Tally::told("runner: no kernel"), None);
    }

    #[test]
    fn failures_are_remembered_by_name() {
        let mut step = Tally::default();
        step.count("one", Ok(()));
        step.count("two", Err("why".into()));
        let mut program = Tally::of(5, 3);
        program.name_failures("program");
        step.add(program);
        step.name_failures("step");
        assert_eq!((step.passed, step.failed), (6, 4));
        assert_eq!(step.failures, ["two", "program: 3"]);
    }

    #[test]
    fn filters_choose() {
        assert!(is_wanted("PVH, 1 CPU", &[]) && is_wanted("PVH, 1 CPU", &["x", "PVH"]));
        assert!(!is_wanted("PVH, 1 CPU", &["bzImage"]));
    }
}
