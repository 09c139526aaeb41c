//! `make bench-check` and `make bench-record`: the kernel paths of ours beside what is recorded of them.

use std::fmt;

use super::document::Record;
use super::table::{Figure, INSTRUCTIONS, Reading, Row, amount, find, joined};
use super::{Kind, part, paths, save};
use crate::options::Options;

/// How far from the recorded runs a row may be, as a part of them. Most counts repeat to a thousandth.
const TOLERANCE: f64 = 0.03;

/// Measures ours and compares; returns how many rows failed. Rows that fail are measured a second time,
/// by themselves, and the better figure counts.
pub(crate) fn run(options: &Options) -> Result<usize, String> {
    let record = Record::load(&options.docs_dir)?;
    let recorded = selected(&record, options)?;
    let first = paths::once(&options.only, options)?;
    let mut trouble = first.trouble;
    let mut readings: Vec<Reading> = first.runs.into_iter().flatten().collect();
    let failing: Vec<String> = findings(&recorded, &readings)
        .into_iter()
        .filter(Finding::is_bad)
        .map(|f| f.name)
        .collect();
    if !failing.is_empty() {
        eprintln!("==> once more: {}", failing.join(", "));
        let second = paths::once(&failing, options)?;
        trouble += second.trouble;
        second.runs.iter().for_each(|run| settle(&mut readings, &failing, run));
    }
    let findings = findings(&recorded, &readings);
    let failed = findings.iter().filter(|finding| finding.is_bad()).count() + trouble;
    for finding in findings.iter().filter(|finding| finding.verdict != Verdict::Same) {
        println!("{finding}");
    }
    if trouble > 0 {
        println!("FAILED  the kernel or its disk: {trouble}");
    }
    let is_better = |finding: &Finding| matches!(finding.verdict, Verdict::Better { .. });
    if findings.iter().any(is_better) {
        println!("better rows: record them with `make bench-record`");
    }
    println!("{} passed, {failed} failed", findings.len() + trouble - failed);
    Ok(failed)
}

/// Measures ours and puts its figures into the record, where Linux's stay. The rows must be the same.
pub(crate) fn record(options: &Options) -> Result<usize, String> {
    let mut record = Record::load(&options.docs_dir)?;
    if !options.only.is_empty() {
        return Err("the record is made of all rows".into());
    }
    let mut rows = selected(&record, options)?;
    let measured = paths::for_record(options)?;
    if measured.trouble > 0 {
        return Ok(measured.trouble);
    }
    let first = measured.runs.first().map_or(&[][..], Vec::as_slice);
    for finding in findings(&rows, first) {
        if finding.verdict != Verdict::Same {
            // A choice of whoever records it, which must not go unseen.
            println!("{}", finding.to_string().replacen("FAILED", "worse ", 1));
        }
    }
    renew(&mut rows, &measured.runs)?;
    record.replace(part(Kind::Paths, rows, options)?);
    save(&record, options)?;
    Ok(0)
}

/// Replaces the figures of ours; an error if a row is missing, new or failing.
fn renew(rows: &mut [Row], runs: &[Vec<Reading>]) -> Result<(), String> {
    let advice = "measure both kernels with `make bench PARTS=paths`";
    let is_new = |reading: &&Reading| rows.iter().all(|r| r.full_name() != reading.full_name());
    if let Some(new) = runs.iter().flatten().find(is_new) {
        return Err(format!("{} is new: {advice}", new.full_name()));
    }
    for row in rows {
        let name = row.full_name();
        let figure = joined(runs, &name, "ours").map_err(|why| format!("{why}: {advice}"))?;
        if let Figure::Fails(why) = &figure {
            return Err(format!("{name}: {why}"));
        }
        row.ours = figure;
    }
    Ok(())
}

/// The recorded rows that are asked for.
fn selected(record: &Record, options: &Options) -> Result<Vec<Row>, String> {
    let part = record.part(Kind::Paths);
    let part = part.ok_or("no record of kernel paths: `make bench PARTS=paths` makes it")?;
    let is_wanted = |row: &&Row| {
        let name = row.full_name();
        options.only.is_empty() || options.only.iter().any(|word| name.contains(word))
    };
    Ok(part.rows.iter().filter(is_wanted).cloned().collect())
}

/// Takes the second figures of rows that failed, where they are better or the only ones.
fn settle(readings: &mut Vec<Reading>, names: &[String], second: &[Reading]) {
    for name in names {
        let Some(again) = find(second, name) else { continue };
        match readings.iter_mut().find(|reading| reading.full_name() == *name) {
            Some(reading) => match (reading.figure.median(), again.figure.median()) {
                (Some(before), Some(now)) if now >= before => {}
                (Some(_), None) => {}
                _ => reading.figure = again.figure.clone(),
            },
            None => readings.push(again.clone()),
        }
    }
}

/// A row beside its record.
#[derive(Clone, PartialEq, Debug)]
struct Finding {
    name: String,
    verdict: Verdict,
}

/// What became of a row. The figures are instructions per operation.
#[derive(Clone, PartialEq, Debug)]
enum Verdict {
    Same,
    Better {
        recorded: f64,
        now: f64,
    },
    Worse {
        recorded: f64,
        now: f64,
    },
    Vanished,
    Unrecorded,
    Fails(String),
    /// The kernel has what the row needs, and the record says that it lacks it.
    Arrived,
}

impl Finding {
    fn is_bad(&self) -> bool {
        !matches!(self.verdict, Verdict::Same | Verdict::Better { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { name, verdict } = self;
        let change = |recorded: f64, now: f64| {
            let percent = (now / recorded - 1.0) * 100.0;
            let [recorded, now] = [recorded, now].map(|figure| amount(figure, INSTRUCTIONS));
            format!("recorded {recorded}, now {now} ({percent:+.1} %)")
        };
        match verdict {
            Verdict::Same => write!(f, "ok      {name}"),
            Verdict::Better { recorded, now } => {
                write!(f, "better  {name}: {}", change(*recorded, *now))
            }
            Verdict::Worse { recorded, now } => {
                write!(f, "FAILED  {name}: {}", change(*recorded, *now))
            }
            Verdict::Vanished => write!(f, "FAILED  {name}: recorded, and not measured any more"),
            Verdict::Unrecorded => {
                write!(f, "FAILED  {name}: not recorded: `make bench PARTS=paths`")
            }
            Verdict::Fails(why) => write!(f, "FAILED  {name}: {why}"),
            Verdict::Arrived => {
                write!(f, "FAILED  {name}: recorded as not there yet: `make bench-record`")
            }
        }
    }
}

/// Every recorded row, and every one that is measured and not recorded.
fn findings(recorded: &[Row], readings: &[Reading]) -> Vec<Finding> {
    let known = recorded.iter().map(|row| {
        let name = row.full_name();
        let verdict = verdict(&row.ours, find(readings, &name).map(|reading| &reading.figure));
        Finding { name, verdict }
    });
    let is_new = |reading: &&Reading| {
        let name = reading.full_name();
        !recorded.iter().any(|row| row.full_name() == name)
    };
    let new = readings.iter().filter(is_new);
    let new =
        new.map(|reading| Finding { name: reading.full_name(), verdict: Verdict::Unrecorded });
    known.chain(new).collect()
}

fn verdict(recorded: &Figure, now: Option<&Figure>) -> Verdict {
    match (recorded.extremes(), now) {
        (_, Some(Figure::Fails(why))) => Verdict::Fails(why.clone()),
        (None, Some(Figure::Lacks)) => Verdict::Same,
        (_, None | Some(Figure::Lacks)) => Verdict::Vanished,
        (recorded, Some(figure)) => match (recorded, figure.median()) {
            (Some((_, most)), Some(now)) if now > most * (1.0 + TOLERANCE) => {
                Verdict::Worse { recorded: most, now }
            }
            (Some((least, _)), Some(now)) if now < least * (1.0 - TOLERANCE) => {
                Verdict::Better { recorded: least, now }
            }
            (Some(_), Some(_)) => Verdict::Same,
            _ => Verdict::Arrived,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::table::{paired, readings};

    fn run(text: &str) -> Vec<Reading> {
        readings(text, INSTRUCTIONS).expect("fine")
    }

    fn recorded(text: &str) -> Vec<Row> {
        paired(&[run(text)], &[run(text)], 1).expect("fine")
    }

    const RECORD: &str =
        "a\tsame\t100\na\tworse\t100\na\tbetter\t100\na\tgone\t100\na\tlacking\t-\n";
    const NOW: &str =
        "a\tsame\t102.9\na\tworse\t103.1\na\tbetter\t96.9\na\tnew\t5\na\tlacking\t-\n";

    #[test]
    fn rows_are_judged_by_the_record() {
        let lines: Vec<String> =
            findings(&recorded(RECORD), &run(NOW)).iter().map(Finding::to_string).collect();
        assert_eq!(
            lines,
            [
                "ok      a/same",
                "FAILED  a/worse: recorded 100.0, now 103.1 (+3.1 %)",
                "better  a/better: recorded 100.0, now 96.9 (-3.1 %)",
                "FAILED  a/gone: recorded, and not measured any more",
                "ok      a/lacking",
                "FAILED  a/new: not recorded: `make bench PARTS=paths`",
            ]
        );
    }

    #[test]
    fn what_the_kernel_lost_or_got_counts() {
        let figure = |text: &str| run(&format!("a\tx\t{text}"))[0].figure.clone();
        assert_eq!(verdict(&figure("100"), Some(&figure("-"))), Verdict::Vanished);
        assert_eq!(verdict(&figure("-"), Some(&figure("100"))), Verdict::Arrived);
        assert_eq!(verdict(&figure("100"), Some(&figure("! no"))), Verdict::Fails("no".into()));
        assert_eq!(verdict(&figure("100"), None), Verdict::Vanished);
    }

    #[test]
    fn a_row_may_cost_what_it_did_in_any_recorded_run() {
        let recorded = Figure::Runs(vec![100.0, 120.0, 100.0]);
        let now = |figure: f64| verdict(&recorded, Some(&Figure::Runs(vec![figure])));
        assert_eq!((now(98.0), now(123.0)), (Verdict::Same, Verdict::Same));
        assert_eq!(now(124.0), Verdict::Worse { recorded: 120.0, now: 124.0 });
        assert_eq!(now(96.0), Verdict::Better { recorded: 100.0, now: 96.0 });
    }

    #[test]
    fn the_better_of_two_figures_counts() {
        let names = ["a/worse", "a/same", "a/late", "a/dead"].map(String::from);
        let mut first = run("a\tworse\t110\na\tsame\t100\na\tdead\t! no\n");
        settle(&mut first, &names, &run("a\tworse\t101\na\tsame\t120\na\tlate\t7\na\tdead\t8\n"));
        assert_eq!(first, run("a\tworse\t101\na\tsame\t100\na\tdead\t8\na\tlate\t7\n"));
    }

    #[test]
    fn the_record_takes_ours_and_keeps_linux() {
        let mut rows = recorded("a\tx\t100\na\ty\t100\n");
        let both = [run("a\tx\t50\na\ty\t40\n"), run("a\tx\t52\na\ty\t40\n")];
        renew(&mut rows, &both).expect("the same rows");
        assert_eq!(rows[0].ours, Figure::Runs(vec![50.0, 52.0]));
        assert_eq!(rows[1].ratio(), Some(2.5));
        assert_eq!(rows[1].linux.median(), Some(100.0));
        assert!(
            renew(&mut rows, &[run("a\tx\t50\n")]).is_err_and(|why| why.contains("a/y: no figure"))
        );
        let more = run("a\tx\t50\na\ty\t40\na\tz\t1\n");
        assert!(renew(&mut rows, &[more]).is_err_and(|why| why.contains("a/z is new")));
        assert!(renew(&mut rows, &[run("a\tx\t50\na\ty\t! no\n")]).is_err());
    }
}
