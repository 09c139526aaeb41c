//! The scaling curves: a small chart for each row, operations per second over the number of workers.

use std::fmt::Write;

use super::document::Record;
use super::table::{Figure, Row, groups};
use super::{Kind, chart};

const COLUMNS: usize = 3;
const PANEL_WIDTH: f64 = 250.0;
const PANEL_HEIGHT: f64 = 150.0;
const TOP: f64 = 64.0;
/// What is around the curves in a panel: axis labels at the left and below, the title above.
const LEFT: f64 = 48.0;
const RIGHT: f64 = 14.0;
const ABOVE: f64 = 26.0;
const BELOW: f64 = 26.0;

/// `scaling.svg`; nothing if nothing was measured.
pub(crate) fn svg(record: &Record) -> Option<String> {
    let part = record.part(Kind::Scaling)?;
    let panels = groups(&part.rows);
    let lines = panels.len().div_ceil(COLUMNS) as f64;
    let (width, height) = (PANEL_WIDTH * COLUMNS as f64 + 10.0, TOP + lines * PANEL_HEIGHT + 12.0);
    let mut out = chart::Drawing::new(width, height, "Operations per second by workers");
    out.text("title text", 20.0, 28.0, "Operations per second by workers");
    let cpus = part.rows.first().map_or(0, |row| row.cpus);
    out.text("faint", 20.0, 46.0, &format!("{cpus} virtual processors; higher is faster"));
    out.curve("ours", &[(width - 170.0, 24.0), (width - 140.0, 24.0)]);
    out.text("text", width - 134.0, 28.0, "ours");
    out.curve("theirs", &[(width - 90.0, 24.0), (width - 60.0, 24.0)]);
    out.text("text", width - 54.0, 28.0, "Linux");
    for (index, (name, rows)) in panels.iter().enumerate() {
        let x = 5.0 + (index % COLUMNS) as f64 * PANEL_WIDTH;
        let y = TOP + (index / COLUMNS) as f64 * PANEL_HEIGHT;
        panel(&mut out, (x, y), name, rows);
    }
    Some(out.finish())
}

fn panel(out: &mut chart::Drawing, (x, y): (f64, f64), name: &str, rows: &[&Row]) {
    let figures = || rows.iter().flat_map(|row| [&row.linux, &row.ours]).filter_map(Figure::median);
    let most = figures().fold(1.0, f64::max);
    let (left, right) = (x + LEFT, x + PANEL_WIDTH - RIGHT);
    let (top, bottom) = (y + ABOVE, y + PANEL_HEIGHT - BELOW);
    let last = rows.len().saturating_sub(1).max(1) as f64;
    let across = |index: usize| left + index as f64 / last * (right - left);
    let up = |figure: f64| bottom - figure / most * (bottom - top);

    out.text("heading text", x + 15.0, y + 14.0, name);
    out.text("faint end", left - 6.0, top + 8.0, &short(most));
    out.text("faint end", left - 6.0, bottom, "0");
    out.curve("grid", &[(left, bottom), (right, bottom)]);
    out.curve("grid", &[(left, top), (right, top)]);
    for (index, row) in rows.iter().enumerate() {
        // `4 workers`
        let workers = row.name.split(' ').next().unwrap_or_default();
        out.text("faint middle", across(index), bottom + 15.0, workers);
    }
    let points = |side: fn(&Row) -> &Figure| -> Vec<(f64, f64)> {
        let figures = rows.iter().enumerate();
        figures.filter_map(|(i, row)| Some((across(i), up(side(row).median()?)))).collect()
    };
    out.curve("theirs", &points(|row| &row.linux));
    out.curve("ours", &points(|row| &row.ours));
}

/// `1234` as `1.2k`.
fn short(figure: f64) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match figure {
        _ if figure >= 1e6 => write!(text, "{:.1}M", figure / 1e6),
        _ if figure >= 1e4 => write!(text, "{:.0}k", figure / 1e3),
        _ if figure >= 1e3 => write!(text, "{:.1}k", figure / 1e3),
        _ => write!(text, "{figure:.0}"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::{Part, tests::sample};

    #[test]
    fn a_row_has_two_curves() {
        assert_eq!(svg(&sample()), None);
        let rows = ["1 worker", "2 workers", "4 workers"].map(|name| Row {
            group: "pipe pairs".into(),
            name: name.into(),
            cpus: 16,
            unit: "ops/s".into(),
            linux: Figure::Runs(vec![1000.0]),
            ours: Figure::Runs(vec![2000.0]),
        });
        let mut record = sample();
        let rows = rows.to_vec();
        record.replace(Part { kind: Kind::Scaling, rows, ..record.parts[0].clone() });
        let text = svg(&record).unwrap_or_default();
        assert!(text.contains(">pipe pairs<") && text.contains(">2.0k<"), "{text}");
        // One of each is in the legend.
        assert_eq!(text.matches("class=\"ours\"").count(), 2);
        assert_eq!(text.matches("class=\"theirs\"").count(), 2);
    }

    #[test]
    fn figures_are_shortened() {
        let texts = [5.4, 999.0, 1234.0, 45_678.0, 1_234_567.0].map(short);
        assert_eq!(texts, ["5", "999", "1.2k", "46k", "1.2M"]);
    }
}
