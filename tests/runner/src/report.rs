//! The guest's report: what every case printed and how it ended.

/// The status of a case that the machine did not come to the end of.
const UNFINISHED: &str = "unfinished";

/// One case's result.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) output: String,
    /// How long it took by the guest's clock.
    pub(crate) seconds: u32,
}

impl Outcome {
    /// Whether the case did the same in both runs, however long it took.
    pub(crate) fn is_equal(&self, other: &Outcome) -> bool {
        (&self.status, &self.output) == (&other.status, &other.output)
    }

    /// Whether the case came to its own end: neither `timeout` nor the end of the machine cut it off.
    pub(crate) fn has_ended(&self) -> bool {
        // man 1 timeout: 124 when the time was up, 137 when the command had to be killed then.
        !["124", "137", UNFINISHED].contains(&self.status.as_str())
    }
}

/// A whole run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) outcomes: Vec<Outcome>,
    /// The guest said that it was through.
    pub(crate) is_complete: bool,
    /// What went wrong outside the cases: a hang, a crash, a dirty file system.
    pub(crate) trouble: Vec<String>,
}

impl Report {
    /// Reads the lines that `tests/oracle/init.sh` writes.
    pub(crate) fn parse(text: &str) -> Report {
        let mut report = Report::default();
        let mut current: Option<Outcome> = None;
        for line in text.lines() {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if let Some(name) = line.strip_prefix("@@BEGIN ") {
                let name = name.split_once('-').map_or(name, |(_, rest)| rest).to_string();
                report.outcomes.extend(current.take());
                let status = UNFINISHED.to_string();
                current = Some(Outcome { name, status, output: String::new(), seconds: 0 });
            } else if let Some(end) = line.strip_prefix("@@END ") {
                if let Some(mut outcome) = current.take() {
                    let mut words = end.split(' ').skip(1);
                    outcome.status = words.next().unwrap_or_default().to_string();
                    outcome.seconds = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
                    outcome.output = normalise(outcome.output.trim_end_matches('\n'));
                    report.outcomes.push(outcome);
                }
            } else if line == "@@DONE" {
                report.is_complete = true;
            } else if let Some(outcome) = &mut current {
                outcome.output.push_str(line);
                outcome.output.push('\n');
            }
        }
        report.outcomes.extend(current);
        report
    }

    /// One report of machines that ran a share of the cases each.
    pub(crate) fn joined(reports: impl IntoIterator<Item = Report>) -> Report {
        let whole = Report { is_complete: true, ..Report::default() };
        reports.into_iter().fold(whole, |mut whole, report| {
            whole.outcomes.extend(report.outcomes);
            whole.is_complete &= report.is_complete;
            whole.trouble.extend(report.trouble);
            whole
        })
    }

    /// The `count` cases that took longest, as `name 12 s`; none of under five seconds.
    pub(crate) fn slowest(&self, count: usize) -> Vec<String> {
        let mut slow: Vec<&Outcome> = self.outcomes.iter().filter(|o| o.seconds >= 5).collect();
        slow.sort_by_key(|outcome| core::cmp::Reverse(outcome.seconds));
        slow.iter().take(count).map(|o| format!("{} {} s", o.name, o.seconds)).collect()
    }
}

/// Removes what may differ between two runs on one kernel: process ids in bash's messages
/// (`line 1:   161 Terminated`).
fn normalise(output: &str) -> String {
    let lines: Vec<String> = output.lines().map(normalise_line).collect();
    lines.join("\n")
}

fn normalise_line(line: &str) -> String {
    let Some((head, tail)) = line.split_once(": line ") else { return line.into() };
    let Some((number, rest)) = tail.split_once(": ") else { return line.into() };
    let message = rest.trim_start();
    let after = message.trim_start_matches(|c: char| c.is_ascii_digit());
    if after.len() == message.len() || !after.starts_with(' ') {
        return line.into();
    }
    format!("{head}: line {number}: PID{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_outcomes() {
        let text = "@@READY\n@@BEGIN 000-g.a\nhi\n\n@@END 000-g.a 3 7\n@@BEGIN 001-g.b\npart";
        let report = Report::parse(text);
        assert_eq!(report.outcomes[0].output, "hi");
        assert_eq!(report.outcomes[0].status, "3");
        assert_eq!(report.outcomes[1].status, "unfinished");
        assert_eq!(report.slowest(3), ["g.a 7 s"]);
        assert!(!report.is_complete);
        assert!(report.outcomes[0].has_ended() && !report.outcomes[1].has_ended());
    }

    #[test]
    fn shares_are_joined() {
        let whole = Report::parse("@@BEGIN 000-g.a\n@@END 000-g.a 0 1\n@@DONE");
        let part = Report::parse("@@BEGIN 001-g.b\n@@END 001-g.b 0 1");
        let both = Report::joined([whole, part]);
        assert_eq!(both.outcomes.iter().map(|o| &*o.name).collect::<Vec<_>>(), ["g.a", "g.b"]);
        assert!(!both.is_complete);
    }

    #[test]
    fn process_ids_are_removed() {
        assert_eq!(normalise("/x: line 1:   161 Terminated  s"), "/x: line 1: PID Terminated  s");
        assert_eq!(normalise("/x: line 1: 5a: no"), "/x: line 1: 5a: no");
    }
}
