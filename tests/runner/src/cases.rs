//! The cases: `tests/oracle/*.cases`, each a name after `### ` and the shell lines that follow; what comes
//! before the first name begins all of them.

use std::fs;
use std::path::Path;

use crate::options::Options;

/// One test: a name and a script for bash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    /// `group.name`, unique.
    pub(crate) name: String,
    /// What bash runs.
    pub(crate) script: String,
}

/// The cases that the command line selects.
pub(crate) fn select(options: &Options) -> Result<Vec<Case>, String> {
    let mut selected = load(&options.cases_dir, &options.only)?;
    selected.retain(|case| !options.skip.iter().any(|word| case.name.contains(word)));
    Ok(selected)
}

/// Reads every case file below `dir`, in order of name, keeping what `only` selects.
fn load(dir: &Path, only: &[String]) -> Result<Vec<Case>, String> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .map_err(|e| format!("{}: {e}", dir.display()))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "cases"))
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let group = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        cases.extend(parse(&group, &text));
    }
    cases.retain(|case| only.is_empty() || only.iter().any(|word| case.name.contains(word)));
    if cases.is_empty() { Err("no case matches".into()) } else { Ok(cases) }
}

fn parse(group: &str, text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut prelude = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("### ") {
            let name = format!("{group}.{}", name.trim());
            cases.push(Case { name, script: prelude.clone() });
        } else {
            let script = cases.last_mut().map_or(&mut prelude, |case| &mut case.script);
            script.push_str(line);
            script.push('\n');
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_at_headings() {
        let cases = parse("g", "### one\necho 1\n### two\necho 2\necho 3\n");
        assert_eq!(cases.len(), 2);
        assert_eq!(cases[0].name, "g.one");
        assert_eq!(cases[1].script, "echo 2\necho 3\n");
    }

    #[test]
    fn what_comes_first_begins_every_case() {
        let cases = parse("g", "a() { :; }\n### one\necho 1\n### two\necho 2\n");
        assert_eq!(cases[0].script, "a() { :; }\necho 1\n");
        assert_eq!(cases[1].script, "a() { :; }\necho 2\n");
    }
}
