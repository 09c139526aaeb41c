//! Compares our report with Linux's, case by case.

use crate::cases::Case;
use crate::report::{Outcome, Report};

/// How many lines of a difference are shown.
const SHOWN_LINES: usize = 12;

/// The result of a comparison.
pub(crate) struct Verdict {
    pub(crate) equal: usize,
    pub(crate) differences: Vec<Difference>,
    /// What went wrong outside the cases.
    pub(crate) trouble: Vec<String>,
}

/// A case that did not end as on Linux.
pub(crate) struct Difference {
    pub(crate) case: Case,
    /// What differs, to be read.
    pub(crate) text: String,
}

/// Every selected case must be in both reports, with equal status and output.
pub(crate) fn compare(linux: &Report, ours: &Report, cases: &[Case]) -> Verdict {
    let trouble = ours.trouble.clone();
    let mut verdict = Verdict { equal: 0, differences: Vec::new(), trouble };
    for case in cases {
        let find = |report: &'_ Report| -> Option<Outcome> {
            report.outcomes.iter().find(|o| o.name == case.name).cloned()
        };
        let text = match (find(linux), find(ours)) {
            (Some(theirs), Some(ours)) if theirs == ours => {
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

fn difference(theirs: &Outcome, ours: &Outcome) -> String {
    let mut text = format!("  {}:", ours.name);
    if theirs.status != ours.status {
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

    fn report(output: &str) -> Report {
        Report::parse(&format!("@@BEGIN 0-g.a\n{output}\n@@END 0-g.a 0\n@@DONE\n"))
    }

    #[test]
    fn a_missing_or_different_case_is_a_difference() {
        let cases = [Case { name: "g.a".into(), script: String::new() }];
        assert_eq!(compare(&report("x"), &report("x"), &cases).equal, 1);
        assert_eq!(compare(&report("x"), &report("y"), &cases).differences.len(), 1);
        assert_eq!(compare(&report("x"), &Report::default(), &cases).differences.len(), 1);
    }
}
