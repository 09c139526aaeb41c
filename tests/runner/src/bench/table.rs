//! Rows: what a guest reports, the figures of both kernels side by side, ratios and their means.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the runs of one kernel gave for a row.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Figure {
    /// The figure of each run.
    Runs(Vec<f64>),
    /// The program failed; why.
    Fails(String),
    /// The kernel lacks what the row needs.
    Lacks,
}

impl Figure {
    /// The median of the runs, if the row was measured.
    pub(crate) fn median(&self) -> Option<f64> {
        let Figure::Runs(runs) = self else { return None };
        let mut sorted = runs.clone();
        sorted.sort_by(f64::total_cmp);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
        Some((lower + upper) / 2.0)
    }

    /// The least and the most of the runs.
    pub(crate) fn extremes(&self) -> Option<(f64, f64)> {
        let Figure::Runs(runs) = self else { return None };
        let least = runs.iter().copied().reduce(f64::min)?;
        Some((least, runs.iter().copied().reduce(f64::max)?))
    }

    /// How far apart the runs are, as a part of their median.
    pub(crate) fn spread(&self) -> Option<f64> {
        let (least, most) = self.extremes()?;
        Some((most - least) / self.median()?)
    }

    /// Of several runs: what failed once has failed.
    fn of_runs(runs: Vec<Figure>) -> Figure {
        let lacking = runs.iter().filter(|run| **run == Figure::Lacks).count();
        if lacking == runs.len() {
            return Figure::Lacks;
        }
        let mut all = Vec::new();
        for run in runs {
            match run {
                Figure::Runs(figures) => all.extend(figures),
                Figure::Fails(why) => return Figure::Fails(why),
                Figure::Lacks => return Figure::Fails("could not run every time".into()),
            }
        }
        Figure::Runs(all)
    }
}

/// A line of a guest's report.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Reading {
    pub(crate) group: String,
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) figure: Figure,
}

impl Reading {
    /// Of `GROUP<TAB>NAME<TAB>FIGURE[<TAB>UNIT]`; other lines are none.
    pub(crate) fn parse(line: &str, usual_unit: &str) -> Option<Reading> {
        let mut fields = line.trim_end().split('\t');
        let (group, name, text) = (fields.next()?, fields.next()?, fields.next()?);
        let unit = fields.next().unwrap_or(usual_unit).to_string();
        let figure = match (text, text.parse::<f64>()) {
            ("-", _) => Figure::Lacks,
            (_, Ok(figure)) if figure > 0.0 && figure.is_finite() => Figure::Runs(vec![figure]),
            // Neither a ratio nor a mean can be had of it.
            (_, Ok(figure)) => Figure::Fails(format!("the figure is {figure}")),
            _ => Figure::Fails(text.trim_start_matches(['!', ' ']).to_string()),
        };
        Some(Reading { group: group.into(), name: name.into(), unit, figure })
    }

    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }
}

/// The readings of a report; an error if a row comes twice.
pub(crate) fn readings(report: &str, usual_unit: &str) -> Result<Vec<Reading>, String> {
    let mut all: Vec<Reading> = Vec::new();
    for reading in report.lines().filter_map(|line| Reading::parse(line, usual_unit)) {
        let name = reading.full_name();
        if all.iter().any(|known| known.full_name() == name) {
            return Err(format!("{name}: measured twice in one run"));
        }
        all.push(reading);
    }
    Ok(all)
}

/// What one thing costs on both kernels, or how fast it goes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) group: String,
    pub(crate) name: String,
    /// Processors of the machine.
    pub(crate) cpus: u32,
    /// A rate, of which more is better, ends in `/s`; of anything else less is.
    pub(crate) unit: String,
    pub(crate) linux: Figure,
    pub(crate) ours: Figure,
}

impl Row {
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    /// How many times better ours is, where both have a figure.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let (linux, ours) = (self.linux.median()?, self.ours.median()?);
        Some(if is_rate(&self.unit) { ours / linux } else { linux / ours })
    }

    pub(crate) fn has_failed(&self) -> bool {
        [&self.linux, &self.ours].iter().any(|figure| matches!(figure, Figure::Fails(_)))
    }

    /// Linux, ours, ratio.
    pub(crate) fn cells(&self) -> [String; 3] {
        let ratio = self.ratio().map_or("—".into(), |ratio| format!("{ratio:.2}"));
        [shown(&self.linux, &self.unit), shown(&self.ours, &self.unit), ratio]
    }
}

/// Whether more of a unit is better.
pub(crate) fn is_rate(unit: &str) -> bool {
    unit.ends_with("/s")
}

fn shown(figure: &Figure, unit: &str) -> String {
    match figure.median() {
        Some(value) => amount(value, unit),
        None if *figure == Figure::Lacks => "not there yet".into(),
        None => "fails".into(),
    }
}

/// A figure with its unit; instructions, which whole tables are of, go without.
pub(crate) fn amount(value: f64, unit: &str) -> String {
    match unit {
        "s" if value < 1e-3 => format!("{:.1} µs", value * 1e6),
        "s" if value < 1.0 => format!("{:.1} ms", value * 1e3),
        "s" => format!("{value:.2} s"),
        INSTRUCTIONS => format!("{value:.1}"),
        _ if value < 100.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// The unit of kernel paths.
pub(crate) const INSTRUCTIONS: &str = "instructions";

/// Joins the runs of both kernels, row by row in the order of Linux's first. Every run must have every
/// row, by whatever figure.
pub(crate) fn paired(
    linux: &[Vec<Reading>],
    ours: &[Vec<Reading>],
    cpus: u32,
) -> Result<Vec<Row>, String> {
    let expected = linux.first().filter(|run| !run.is_empty()).ok_or("no row was measured")?;
    for run in ours {
        let is_known = |reading: &Reading| find(expected, &reading.full_name()).is_some();
        if let Some(extra) = run.iter().find(|reading| !is_known(reading)) {
            return Err(format!("{}: no figure on Linux", extra.full_name()));
        }
    }
    let row = |reading: &Reading| -> Result<Row, String> {
        let name = reading.full_name();
        Ok(Row {
            group: reading.group.clone(),
            name: reading.name.clone(),
            cpus,
            unit: reading.unit.clone(),
            linux: joined(linux, &name, "Linux")?,
            ours: joined(ours, &name, "ours")?,
        })
    };
    expected.iter().map(row).collect()
}

pub(crate) fn find<'a>(run: &'a [Reading], full_name: &str) -> Option<&'a Reading> {
    run.iter().find(|reading| reading.full_name() == full_name)
}

/// The figures of all runs for a row; an error if one lacks it. `side` is whose runs they are.
pub(crate) fn joined(runs: &[Vec<Reading>], full_name: &str, side: &str) -> Result<Figure, String> {
    let of_run = |run: &Vec<Reading>| find(run, full_name).map(|reading| reading.figure.clone());
    let figures: Option<Vec<Figure>> = runs.iter().map(of_run).collect();
    Ok(Figure::of_runs(figures.ok_or_else(|| format!("{full_name}: no figure on {side}"))?))
}

/// What many rows come to.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(crate) struct Summary {
    /// The rows that both kernels have a figure for.
    pub(crate) compared: usize,
    /// The geometric mean of their ratios.
    pub(crate) mean: Option<f64>,
    /// How many of them are below 1.
    pub(crate) slower: usize,
    /// Rows that one kernel lacks something for.
    pub(crate) lacking: usize,
    pub(crate) failing: usize,
}

impl Summary {
    pub(crate) fn of<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Summary {
        let mut summary = Summary::default();
        let mut logarithms = 0.0;
        for row in rows {
            match row.ratio() {
                Some(ratio) => {
                    summary.compared += 1;
                    summary.slower += usize::from(ratio < 1.0);
                    logarithms += ratio.ln();
                }
                None if row.has_failed() => summary.failing += 1,
                None => summary.lacking += 1,
            }
        }
        let mean = || (logarithms / summary.compared as f64).exp();
        summary.mean = (summary.compared > 0).then(mean);
        summary
    }

    pub(crate) fn mean_cell(&self) -> String {
        self.mean.map_or("—".into(), |mean| format!("{mean:.2}"))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { compared, slower, lacking, failing, .. } = self;
        write!(f, "geometric mean over {compared} rows: {}; ", self.mean_cell())?;
        write!(f, "slower than Linux: {slower}")?;
        for (count, what) in [(lacking, "not there yet"), (failing, "failing")] {
            if *count > 0 {
                write!(f, "; {what}: {count}")?;
            }
        }
        Ok(())
    }
}

/// The rows group by group, in the order of their first rows.
pub(crate) fn groups(rows: &[Row]) -> Vec<(&str, Vec<&Row>)> {
    let mut groups: Vec<(&str, Vec<&Row>)> = Vec::new();
    for row in rows {
        match groups.iter_mut().find(|(group, _)| *group == row.group) {
            Some((_, members)) => members.push(row),
            None => groups.push((&row.group, vec![row])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Vec<Reading> {
        readings(text, INSTRUCTIONS).expect("fine")
    }

    #[test]
    fn a_row_wants_both_figures() {
        let both = "calls\tgetppid\t100\ncalls\tread\t200\n";
        assert_eq!(paired(&[run(both)], &[run(both)], 1).map(|rows| rows.len()), Ok(2));
        let one = run("calls\tread\t90\n");
        let missing = paired(&[run(both)], std::slice::from_ref(&one), 1);
        assert_eq!(missing, Err("calls/getppid: no figure on ours".into()));
        let extra = paired(&[one], &[run(both)], 1);
        assert_eq!(extra, Err("calls/getppid: no figure on Linux".into()));
        assert!(paired(&[run("")], &[run("")], 1).is_err());
        assert!(paired(&[], &[], 1).is_err());
    }

    #[test]
    fn every_run_wants_every_row() {
        let both = || run("a\tx\t1\na\ty\t2\n");
        let rows = paired(&[both(), run("a\tx\t3\n")], &[both(), both()], 2);
        assert_eq!(rows, Err("a/y: no figure on Linux".into()));
        assert!(readings("a\tx\t1\na\tx\t1\n", "s").is_err());
    }

    #[test]
    fn the_direction_of_a_ratio_follows_from_the_unit() {
        let ratio = |unit: &str| {
            let linux = readings(&format!("a\tx\t100\t{unit}"), "").expect("fine");
            let ours = readings(&format!("a\tx\t200\t{unit}"), "").expect("fine");
            paired(&[linux], &[ours], 2).expect("fine")[0].ratio()
        };
        assert_eq!((ratio("s"), ratio("ops/s"), ratio("KiB")), (Some(0.5), Some(2.0), Some(0.5)));
    }

    #[test]
    fn medians_and_spreads() {
        let figure = |runs: &[f64]| Figure::Runs(runs.to_vec());
        assert_eq!(figure(&[9.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(figure(&[4.0, 1.0, 2.0, 9.0]).median(), Some(3.0));
        assert_eq!(figure(&[9.0, 11.0, 10.0]).spread(), Some(0.2));
        assert_eq!((figure(&[]).median(), Figure::Lacks.median()), (None, None));
    }

    #[test]
    fn what_is_no_figure_is_told_apart() {
        let figure =
            |text: &str| Reading::parse(&format!("a\tx\t{text}\ts\r"), "").map(|r| r.figure);
        assert_eq!(figure("-"), Some(Figure::Lacks));
        assert_eq!(figure("! status 1: no"), Some(Figure::Fails("status 1: no".into())));
        assert_eq!(figure("0"), Some(Figure::Fails("the figure is 0".into())));
        assert_eq!(figure("1.5"), Some(Figure::Runs(vec![1.5])));
        assert_eq!(Reading::parse("@@DONE", ""), None);
    }

    #[test]
    fn one_failure_of_many_runs_is_one() {
        let one = || Figure::Runs(vec![1.0]);
        assert_eq!(Figure::of_runs(vec![one(), one()]), Figure::Runs(vec![1.0, 1.0]));
        let fails = Figure::Fails("x".into());
        assert_eq!(Figure::of_runs(vec![one(), fails.clone()]), fails);
        assert_eq!(Figure::of_runs(vec![Figure::Lacks, Figure::Lacks]), Figure::Lacks);
        assert!(matches!(Figure::of_runs(vec![Figure::Lacks, one()]), Figure::Fails(_)));
    }

    #[test]
    fn means_leave_out_what_has_no_ratio() {
        let linux = run("a\tx\t100\na\ty\t100\nb\tz\t5\nb\tw\t5\n");
        let ours = run("a\tx\t25\na\ty\t400\nb\tz\t-\nb\tw\t! dead\n");
        let rows = paired(&[linux], &[ours], 1).expect("fine");
        let summary = Summary::of(&rows);
        assert!(summary.mean.is_some_and(|mean| (mean - 1.0).abs() < 1e-9));
        let Summary { compared, slower, lacking, failing, .. } = summary;
        assert_eq!((compared, slower, lacking, failing), (2, 1, 1, 1));
        assert_eq!(Summary::of(&[]).mean, None);
        let of_groups: Vec<(&str, usize)> =
            groups(&rows).into_iter().map(|(group, rows)| (group, rows.len())).collect();
        assert_eq!(of_groups, [("a", 2), ("b", 2)]);
    }
}
