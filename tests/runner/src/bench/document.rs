//! What is kept of the measurements: `latest.json`, and what is written from it: `latest.md`, the charts
//! `latest.svg` and `scaling.svg`, and the digest in the project's README.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::table::Row;
use super::{Kind, chart, curves, markdown};

/// The digest goes between these lines of the README.
const MARKS: [&str; 2] = ["<!-- benchmarks -->", "<!-- /benchmarks -->"];

/// The latest figures of every part.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) parts: Vec<Part>,
}

/// The figures of one part, all measured in one go.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) kind: Kind,
    /// When it was measured: a day.
    pub(crate) date: String,
    /// Our kernel's commit; with a `+` if the sources had been changed since.
    pub(crate) commit: String,
    /// The file name of Linux's kernel.
    pub(crate) linux: String,
    pub(crate) rows: Vec<Row>,
}

impl Record {
    /// The record below a directory; an empty one if there is none yet.
    pub(crate) fn load(docs: &Path) -> Result<Record, String> {
        let path = docs.join("latest.json");
        match fs::read_to_string(&path) {
            Ok(text) => Record::parse(&text).map_err(|why| format!("{}: {why}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    pub(crate) fn part(&self, kind: Kind) -> Option<&Part> {
        self.parts.iter().find(|part| part.kind == kind)
    }

    /// Takes a part's new figures; the other parts keep theirs.
    pub(crate) fn replace(&mut self, part: Part) {
        self.parts.retain(|known| known.kind != part.kind);
        self.parts.push(part);
        self.parts.sort_by_key(|part| part.kind);
    }

    /// Writes the documents, and the digest into `readme`.
    pub(crate) fn save(&self, docs: &Path, readme: &Path) -> Result<(), String> {
        let old =
            fs::read_to_string(readme).map_err(|why| format!("{}: {why}", readme.display()))?;
        let digest = markdown::digest(self);
        let new = with_digest(&old, &digest).ok_or_else(|| {
            format!("{}: no {} and {} in it", readme.display(), MARKS[0], MARKS[1])
        })?;
        let mut files = vec![
            (docs.join("latest.json"), self.json()?),
            (docs.join("latest.md"), markdown::document(self)),
            (docs.join("latest.svg"), chart::svg(self)),
            (readme.to_path_buf(), new),
        ];
        files.extend(curves::svg(self).map(|text| (docs.join("scaling.svg"), text)));
        for (path, text) in files {
            fs::write(&path, text).map_err(|why| format!("{}: {why}", path.display()))?;
        }
        Ok(())
    }

    fn parse(text: &str) -> Result<Record, String> {
        serde_json::from_str(text).map_err(|why| why.to_string())
    }

    /// One row a line, so that a change of the file shows which rows changed.
    fn json(&self) -> Result<String, String> {
        let line = |row: &Row| serde_json::to_string(row).map_err(|why| why.to_string());
        let mut parts = Vec::new();
        for part in &self.parts {
            let head = serde_json::to_string(&Part { rows: Vec::new(), ..part.clone() });
            let head = head.map_err(|why| why.to_string())?;
            let head = head.strip_suffix("]}").ok_or("a part does not end in its rows")?;
            let rows: Vec<String> = part.rows.iter().map(line).collect::<Result<_, _>>()?;
            parts.push(format!("{head}\n{}\n]}}", rows.join(",\n")));
        }
        Ok(format!("{{\"parts\":[\n{}\n]}}\n", parts.join(",\n")))
    }
}

/// The text with the digest between the marks, if it has them.
fn with_digest(text: &str, digest: &str) -> Option<String> {
    let [start, end] = MARKS;
    let (before, rest) = text.split_once(start)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{start}\n{digest}{end}{after}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bench::table::Figure;

    /// A record with a row of every kind.
    pub(crate) fn sample() -> Record {
        let row = |name: &str, unit: &str, linux: Figure, ours: Figure| Row {
            group: "a".into(),
            name: name.into(),
            cpus: 2,
            unit: unit.into(),
            linux,
            ours,
        };
        let runs = |runs: &[f64]| Figure::Runs(runs.to_vec());
        let part = |kind, rows| Part {
            kind,
            date: "2026-01-31".into(),
            commit: "0123abc+".into(),
            linux: "vmlinuz-6.1".into(),
            rows,
        };
        let mut record = Record::default();
        record.replace(part(
            Kind::Applications,
            vec![
                row("rate", "ops/s", runs(&[10.0, 11.0, 12.0]), runs(&[21.0, 22.0, 23.5])),
                row("no <sockets> & \"such\"", "s", runs(&[1.0]), Figure::Lacks),
                row("dies", "s", runs(&[1.0]), Figure::Fails("status 1\\: \"why\"".into())),
            ],
        ));
        record.replace(part(
            Kind::Paths,
            vec![row("call", "instructions", runs(&[337.4]), runs(&[158.1]))],
        ));
        record
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let record = sample();
        let text = record.json().expect("fine");
        assert_eq!(Record::parse(&text), Ok(record.clone()));
        // A row is a line, and the parts are in their order.
        assert!(text.lines().any(|line| line.starts_with(r#"{"group":"a","name":"call""#)));
        assert_eq!(record.parts[0].kind, Kind::Paths);
        assert!(Record::parse("{}").is_err());
    }

    #[test]
    fn a_part_is_replaced_alone() {
        let mut record = sample();
        let old = record.part(Kind::Paths).cloned();
        let mut part = record.part(Kind::Applications).cloned().expect("there");
        part.date = "2026-02-01".into();
        record.replace(part.clone());
        assert_eq!(record.part(Kind::Applications), Some(&part));
        assert_eq!(record.part(Kind::Paths), old.as_ref());
        assert_eq!(record.parts.len(), 2);
    }

    #[test]
    fn the_digest_goes_between_the_marks() {
        let text = format!("before\n{}\nold\n{}\nafter\n", MARKS[0], MARKS[1]);
        let once = with_digest(&text, "new\n").expect("marks");
        assert_eq!(once, format!("before\n{}\nnew\n{}\nafter\n", MARKS[0], MARKS[1]));
        assert_eq!(with_digest(&once, "new\n"), Some(once.clone()));
        assert_eq!(with_digest("no marks", "new"), None);
    }

    #[test]
    fn a_missing_record_is_empty_and_a_broken_one_an_error() {
        let place = std::env::temp_dir().join(format!("runner-record-{}", std::process::id()));
        fs::create_dir_all(&place).expect("a directory");
        assert_eq!(Record::load(&place), Ok(Record::default()));
        let readme = place.join("README.md");
        fs::write(&readme, MARKS.join("\n")).expect("written");
        sample().save(&place, &readme).expect("saved");
        assert_eq!(Record::load(&place), Ok(sample()));
        fs::write(place.join("latest.json"), "{").expect("written");
        assert!(Record::load(&place).is_err());
        fs::remove_dir_all(&place).expect("removed");
    }
}
