//! The record as Markdown: the whole of it, and the digest for the README.

use super::Kind;
use super::document::{Part, Record};
use super::table::{Figure, INSTRUCTIONS, Row, Summary, groups};

/// `docs/benchmarks/latest.md`.
pub(crate) fn document(record: &Record) -> String {
    let mut text = String::from(
        "# Measured beside Linux\n\n\
         Written by `make bench`. Debian's cloud kernel (`mitigations=off`) and ours run the same programs in\n\
         the same QEMU from the same disk. A ratio above 1 means that ours is better: it needs fewer\n\
         instructions, less time or less memory, or does more in a second. How each figure comes about and\n\
         what it does not show: [README.md](README.md).\n\n\
         ![Ratios by group](latest.svg)\n\n",
    );
    text.push_str(&summary_table(record));
    for part in &record.parts {
        text.push_str(&format!("\n## {}\n\n{}", part.kind.title(), measured(part)));
        if part.kind == Kind::Scaling {
            text.push_str("\n![Operations per second by workers](scaling.svg)\n");
        }
        for (cpus, rows) in by_cpus(part) {
            for (group, members) in groups(&rows) {
                text.push_str(&group_table(part.kind, &caption(part.kind, cpus, group), &members));
            }
        }
    }
    text
}

/// What the README shows: the summary and the chart.
pub(crate) fn digest(record: &Record) -> String {
    let mut text = summary_table(record);
    if let Some(size) = record.part(Kind::Size) {
        text.push_str("\n| | Linux | ours | ratio |\n| --- | ---: | ---: | ---: |\n");
        for row in &size.rows {
            let [linux, ours, ratio] = row.cells();
            text.push_str(&format!("| {} | {linux} | {ours} | {ratio} |\n", row.name));
        }
    }
    text.push_str(
        "\n![Speed beside Linux, by group](docs/benchmarks/latest.svg)\n\n\
         Every row: [docs/benchmarks/latest.md](docs/benchmarks/latest.md). How it is measured, and what\n\
         it does not show: [docs/benchmarks/README.md](docs/benchmarks/README.md).\n",
    );
    text
}

/// A line for each part, and for each machine of a part.
fn summary_table(record: &Record) -> String {
    let mut text = String::from(
        "| measured | rows | geometric mean | slower than Linux | not there yet | failing |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for part in record.parts.iter().filter(|part| part.kind != Kind::Size) {
        for (cpus, rows) in by_cpus(part) {
            let summary = Summary::of(&rows);
            let Summary { compared, slower, lacking, failing, .. } = summary;
            let (label, mean) = (part.kind.label(cpus), summary.mean_cell());
            text.push_str(&format!(
                "| {label} | {compared} | **{mean}** | {slower} | {lacking} | {failing} |\n"
            ));
        }
    }
    text
}

/// The rows of each machine, the smallest first.
pub(crate) fn by_cpus(part: &Part) -> Vec<(u32, Vec<Row>)> {
    let mut sizes: Vec<u32> = part.rows.iter().map(|row| row.cpus).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let of = |cpus: u32| part.rows.iter().filter(|row| row.cpus == cpus).cloned().collect();
    sizes.into_iter().map(|cpus| (cpus, of(cpus))).collect()
}

fn measured(part: &Part) -> String {
    let Part { kind, date, commit, linux, rows } = part;
    let mut text = format!("Measured on {date}, our commit `{commit}`, Linux's `{linux}`.");
    if *kind != Kind::Size {
        text.push_str(&format!(" The {}.", Summary::of(rows)));
    }
    text + "\n"
}

fn caption(kind: Kind, cpus: u32, group: &str) -> String {
    match kind {
        Kind::Applications | Kind::Network => format!("{group}, {cpus} CPUs"),
        _ => group.to_string(),
    }
}

fn group_table(kind: Kind, caption: &str, rows: &[&Row]) -> String {
    let has_spread = rows.iter().any(|row| spread(row).is_some());
    let (title, line) = if has_spread { (" spread |", " ---: |") } else { ("", "") };
    let mut text = format!("\n### {caption}\n\n| row | Linux | ours | ratio |{title}\n");
    text.push_str(&format!("| --- | ---: | ---: | ---: |{line}\n"));
    for row in rows {
        let [linux, ours, ratio] = row.cells();
        text.push_str(&format!("| {} | {linux} | {ours} | {ratio} |", row.name));
        if has_spread {
            let percent =
                spread(row).map_or(String::new(), |part| format!("{:.0} %", part * 100.0));
            text.push_str(&format!(" {percent} |"));
        }
        text.push('\n');
    }
    if kind != Kind::Size && rows.len() > 1 {
        text.push_str(&format!("\nThe {}.\n", Summary::of(rows.iter().copied())));
    }
    for row in rows {
        for (side, figure) in [("Linux", &row.linux), ("ours", &row.ours)] {
            if let Figure::Fails(why) = figure {
                text.push_str(&format!("\n{} fails on {side}: `{why}`\n", row.name));
            }
        }
    }
    text
}

/// How far apart the runs of either kernel are, where there are enough to say.
fn spread(row: &Row) -> Option<f64> {
    let of = |figure: &Figure| match figure {
        Figure::Runs(runs) if runs.len() > 2 => figure.spread(),
        _ => None,
    };
    [of(&row.linux), of(&row.ours)].into_iter().flatten().reduce(f64::max)
}

/// The rows as they are printed.
pub(crate) fn printed(part: &Part) -> String {
    let mut text = String::new();
    for (cpus, rows) in by_cpus(part) {
        for (group, members) in groups(&rows) {
            let unit =
                if members.iter().all(|r| r.unit == INSTRUCTIONS) { INSTRUCTIONS } else { "" };
            let title = format!("{} {unit}", caption(part.kind, cpus, group));
            text.push_str(&format!("{title:<46}{:>16}{:>16}{:>8}\n", "Linux", "ours", "ratio"));
            for row in members {
                let [linux, ours, ratio] = row.cells();
                text.push_str(&format!("  {:<44}{linux:>16}{ours:>16}{ratio:>8}\n", row.name));
            }
        }
        if part.kind != Kind::Size {
            text.push_str(&format!("{}: {}\n", part.kind.label(cpus), Summary::of(&rows)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::tests::sample;

    #[test]
    fn the_document_has_every_row_and_tells_what_is_missing() {
        let text = document(&sample());
        for expected in [
            "| call | 337.4 | 158.1 | 2.13 |\n",
            "| rate | 11.0 ops/s | 22.0 ops/s | 2.00 | 18 % |",
            "| 1.00 s | not there yet | — |",
            "| dies | 1.00 s | fails | — |",
            "\ndies fails on ours: `status 1",
            "geometric mean over 1 rows: 2.00; slower than Linux: 0; not there yet: 1; failing: 1",
            "Measured on 2026-01-31, our commit `0123abc+`",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }

    #[test]
    fn the_digest_sums_up() {
        let text = digest(&sample());
        assert!(text.contains("| 1 | **2.13** | 0 | 0 | 0 |\n"), "{text}");
        assert!(text.contains("2 CPUs"), "{text}");
    }
}
