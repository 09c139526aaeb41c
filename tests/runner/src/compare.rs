//! Compares our report with Linux's, case by case.

use crate::cases::Case;
use crate::report::{Outcome, Report};

/// How many lines of a difference are shown.
const SHOWN_LINES: usize = 12;

/// The result of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// How many cases both sides did alike, to the end.
    pub(crate) equal: usize,
    pub(crate) differences: Vec<Difference>,
    /// What went wrong on ours outside the cases.
    pub(crate) trouble: Vec<String>,
    /// The same on Linux, which is to be known and is no fault of ours: a case that it cost is a
    /// difference.
    pub(crate) linux_trouble: Vec<String>,
}

/// A case that did not end as on Linux, or did not end.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) case: Case,
    /// What differs, to be read.
    pub(crate) text: String,
}

/// Every selected case must be in both reports, with equal status and output, and have ended: two
/// cases that hang are not equal.
pub(crate) fn compare(linux: &Report, ours: &Report, cases: &[Case]) -> Verdict {
    let mut verdict = Verdict {
        trouble: ours.trouble.clone(),
        linux_trouble: linux.trouble.clone(),
        ..Verdict::default()
    };
    for case in cases {
        let find = |report: &'_ Report| -> Option<Outcome> {
            report.outcomes.iter().find(|o| o.name == case.name).cloned()
        };
        let text = match (find(linux), find(ours)) {
            (Some(theirs), Some(ours)) if theirs.is_equal(&ours) && ours.has_ended() => {
                verdict.equal += 1;
                continue;
            }
            (Some(theirs), Some(ours)) => difference(&theirs, &ours),
            (_, None) => format!("  {}: did not run on ours", case.name),
            (None, _) => format!("  {}: did not run on Linux", case.name),
        };
        verdict.differences.push(Difference { case: case.clone(), text });
    }
    verdict
}

impl Verdict {
    /// Takes in the second try of all that differed, which decides about them. What went wrong
    /// outside the cases at the first try stays.
    pub(crate) fn settle(&mut self, second: Verdict) {
        self.equal += second.equal;
        self.differences = second.differences;
        self.trouble.extend(second.trouble);
        self.linux_trouble.extend(second.linux_trouble);
    }

    /// How much counts as failed.
    pub(crate) fn failed(&self) -> usize {
        self.differences.len() + self.trouble.len()
    }

    /// Prints what went wrong and what differs.
    pub(crate) fn show(&self) {
        self.linux_trouble.iter().for_each(|trouble| println!("  on Linux: {trouble}"));
        self.trouble.iter().for_each(|trouble| println!("  {trouble}"));
        self.differences.iter().for_each(|difference| println!("{}", difference.text));
    }
}

fn difference(theirs: &Outcome, ours: &Outcome) -> String {
    let mut text = format!("  {}:", ours.name);
    if theirs.is_equal(ours) {
        text += &format!(" did not end on either side (status {})", ours.status);
    } else if theirs.status != ours.status {
        text += &format!(" status {} on Linux, {} on ours", theirs.status, ours.status);
    }
    let (a, b): (Vec<&str>, Vec<&str>) =
        (theirs.output.lines().collect(), ours.output.lines().collect());
    let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    for (sign, lines) in [("-", &a), ("+", &b)] {
        for line in lines.iter().skip(same).take(SHOWN_LINES) {
            text += &format!("\n    {sign} {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(output: &str, status: &str) -> Report {
        Report::parse(&format!("@@BEGIN 0-g.a\n{output}\n@@END 0-g.a {status}\n@@DONE\n"))
    }

    fn report(output: &str) -> Report {
        ended(output, "0")
    }

    fn cases() -> [Case; 1] {
        [Case { name: "g.a".into(), script: String::new() }]
    }

    #[test]
    fn a_missing_or_different_case_is_a_difference() {
        assert_eq!(compare(&report("x"), &report("x"), &cases()).equal, 1);
        assert_eq!(compare(&report("x"), &report("y"), &cases()).differences.len(), 1);
        assert_eq!(compare(&report("x"), &Report::default(), &cases()).differences.len(), 1);
    }

    #[test]
    fn how_long_a_case_took_is_no_difference() {
        assert_eq!(compare(&ended("x", "0 2"), &ended("x", "0 9"), &cases()).equal, 1);
        assert_eq!(compare(&ended("x", "1 2"), &ended("x", "0 2"), &cases()).differences.len(), 1);
    }

    #[test]
    fn two_cases_that_do_not_end_are_not_equal() {
        for status in ["124", "137"] {
            let verdict = compare(&ended("x", status), &ended("x", status), &cases());
            assert_eq!(verdict.equal, 0);
            assert!(verdict.differences[0].text.contains("did not end"));
        }
        let cut = Report::parse("@@BEGIN 0-g.a\nx");
        assert_eq!(compare(&cut, &cut, &cases()).differences.len(), 1);
    }

    #[test]
    fn trouble_of_ours_alone_fails() {
        let broken = || Report { trouble: vec!["t".into()], ..report("x") };
        assert_eq!(compare(&report("x"), &broken(), &cases()).failed(), 1);
        let verdict = compare(&broken(), &report("x"), &cases());
        assert_eq!((verdict.failed(), verdict.linux_trouble.len()), (0, 1));
        let lost = Report { trouble: vec!["t".into()], ..Report::default() };
        assert_eq!(compare(&lost, &report("x"), &cases()).failed(), 1);
    }

    #[test]
    fn the_second_try_decides_about_differences_and_not_about_trouble() {
        let settled = |first: Report, second: &str| {
            let mut verdict = compare(&report("x"), &first, &cases());
            verdict.settle(compare(&report("x"), &report(second), &cases()));
            (verdict.equal, verdict.failed())
        };
        assert_eq!(settled(report("y"), "x"), (1, 0));
        assert_eq!(settled(report("y"), "y"), (0, 1));
        let broken = Report { trouble: vec!["t".into()], ..report("y") };
        assert_eq!(settled(broken, "x"), (1, 1));
    }
}
