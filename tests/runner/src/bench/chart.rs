//! The bar chart: the geometric mean of each group's ratios, and a line where Linux is.
//!
//! It brings its own ground and colours for light and dark, since what shows it may be either and text
//! without a ground could not be read on one of them.

use std::fmt::Write;

use super::Kind;
use super::document::{Part, Record};
use super::markdown::by_cpus;
use super::table::{Summary, groups};

const WIDTH: f64 = 760.0;
/// Where bars begin, and where the longest may end.
const LEFT: f64 = 200.0;
const RIGHT: f64 = 690.0;
const TOP: f64 = 64.0;
const ROW: f64 = 22.0;
const BAR: f64 = 14.0;
/// A heading takes this much more than a row.
const HEADING: f64 = 12.0;
/// Longer bars are cut: one group that is ten times as fast would make all others unreadable.
const LONGEST_RATIO: f64 = 6.0;

const STYLE: &str = "\
.ground { fill: #ffffff; stroke: #d0d7de } .text { fill: #1f2328 } .faint { fill: #59636e }
.value { stroke: #ffffff; stroke-width: 4; paint-order: stroke } .faster, .slower { fill-opacity: 0.85 }
.grid, polyline.grid { stroke: #d0d7de; stroke-width: 1 } .linux { stroke: #1f2328; stroke-width: 1.5; stroke-dasharray: 4 3 }
.faster { fill: #1a7f64 } .slower { fill: #c4542b } polyline { fill: none; stroke-width: 2.5; stroke-linejoin: round }
.ours { stroke: #1a7f64 } .theirs { stroke: #6e7781 }
text { font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif }
.title { font-size: 15px; font-weight: 600 } .heading { font-weight: 600 } .end { text-anchor: end }
.middle { text-anchor: middle }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117; stroke: #3d444d } .value { stroke: #0d1117 } .text { fill: #f0f6fc } .faint { fill: #9198a1 }
.grid, polyline.grid { stroke: #2a3038 } .linux { stroke: #f0f6fc } .faster { fill: #3fb68b } .slower { fill: #f0883e }
.ours { stroke: #3fb68b } .theirs { stroke: #9198a1 }
}";

/// A section of the chart: a heading and a bar for each group.
struct Section {
    heading: String,
    bars: Vec<(String, f64)>,
}

/// `latest.svg`.
pub(crate) fn svg(record: &Record) -> String {
    let sections: Vec<Section> = record.parts.iter().flat_map(sections).collect();
    let bars = || sections.iter().flat_map(|section| &section.bars).map(|(_, ratio)| *ratio);
    let most = bars().fold(2.0, f64::max).min(LONGEST_RATIO).ceil();
    let rows = bars().count() as f64;
    let bottom = TOP + rows * ROW + sections.len() as f64 * (ROW + HEADING);
    let height = bottom + 44.0;
    let x = |ratio: f64| LEFT + ratio.min(most) / most * (RIGHT - LEFT);

    let mut out = Drawing::new(WIDTH, height, "Speed beside Linux by group");
    out.text("title text", 20.0, 28.0, "Speed beside Linux");
    out.text("faint", 20.0, 46.0, "geometric mean of each group's ratios; longer is faster");
    for tick in 0..=most as u32 {
        let at = x(f64::from(tick));
        if tick != 1 {
            out.line("grid", at, TOP, bottom);
        }
        out.text("faint middle", at, bottom + 16.0, &format!("{tick}×"));
    }
    out.line("linux", x(1.0), TOP, bottom);
    out.text("text middle", x(1.0), bottom + 32.0, "Linux");
    let mut y = TOP;
    for section in &sections {
        y += HEADING + ROW;
        out.text("heading text", 20.0, y - 7.0, &section.heading);
        for (label, ratio) in &section.bars {
            let class = if *ratio < 1.0 { "slower" } else { "faster" };
            out.text("text end", LEFT - 10.0, y + 15.0, label);
            out.bar(class, y + (ROW - BAR) / 2.0, x(*ratio) - LEFT);
            out.text("text value", x(*ratio) + 6.0, y + 15.0, &format!("{ratio:.2}"));
            y += ROW;
        }
    }
    out.finish()
}

fn sections(part: &Part) -> Vec<Section> {
    // Curves are not for bars, and bytes are no speed.
    if [Kind::Scaling, Kind::Size].contains(&part.kind) {
        return Vec::new();
    }
    let section = |(cpus, rows): (u32, Vec<_>)| {
        let mean = |members: Vec<_>| Summary::of(members).mean;
        let bars = groups(&rows);
        let bars = bars.into_iter().filter_map(|(group, rows)| Some((group.into(), mean(rows)?)));
        let mut bars: Vec<(String, f64)> = bars.collect();
        bars.extend(Summary::of(&rows).mean.map(|mean| ("all".to_string(), mean)));
        Section { heading: part.kind.label(cpus), bars }
    };
    by_cpus(part).into_iter().map(section).filter(|section| !section.bars.is_empty()).collect()
}

/// SVG as it is written.
pub(crate) struct Drawing(String);

impl Drawing {
    /// A ground of this size.
    pub(crate) fn new(width: f64, height: f64, label: &str) -> Drawing {
        let size = format!("width=\"{width}\" height=\"{height}\"");
        let (inner_width, inner_height) = (width - 1.0, height - 1.0);
        Drawing(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" {size} \
             role=\"img\" aria-label=\"{label}\">\n<style>\n{STYLE}\n</style>\n\
             <rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{inner_width}\" \
             height=\"{inner_height}\" rx=\"6\"/>\n"
        ))
    }

    pub(crate) fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }

    pub(crate) fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
    }

    /// From point to point.
    pub(crate) fn curve(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        let _ = writeln!(self.0, "<polyline class=\"{class}\" points=\"{points}\"/>");
    }

    fn line(&mut self, class: &str, x: f64, from: f64, to: f64) {
        let at = format!("x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from:.1}\" y2=\"{to:.1}\"");
        let _ = writeln!(self.0, "<line class=\"{class}\" {at}/>");
    }

    fn bar(&mut self, class: &str, y: f64, width: f64) {
        let at =
            format!("x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"");
        let _ = writeln!(self.0, "<rect class=\"{class}\" {at}/>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::tests::sample;

    #[test]
    fn every_group_has_a_bar_and_names_are_escaped() {
        let mut record = sample();
        record.parts[0].rows[0].group = "a<b & c".into();
        let text = svg(&record);
        assert_eq!(text.matches("class=\"faster\"").count(), 4, "{text}");
        assert!(text.contains("a&lt;b &amp; c") && text.contains(">2.13<"));
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
    }

    #[test]
    fn an_empty_record_has_a_chart_too() {
        assert!(svg(&Record::default()).contains("Linux"));
    }
}
