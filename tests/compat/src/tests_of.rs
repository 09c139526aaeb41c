//! Which test uses a thing: the first that names it.

use crate::source::files;

/// The texts of all tests, in the order of preference.
pub(crate) struct Tests {
    /// Name of the case, its lines.
    cases: Vec<(String, String)>,
    /// Name of the program, its source: those that a test runs.
    programs: Vec<(String, String)>,
}

impl Tests {
    pub(crate) fn find() -> Tests {
        let mut cases = Vec::new();
        for (path, text) in files("tests/oracle", "cases") {
            let family = path.trim_start_matches("tests/oracle/").trim_end_matches(".cases");
            for case in text.split("### ").skip(1) {
                let (name, body) = case.split_once('\n').unwrap_or((case, ""));
                cases.push((format!("`{family}.{}`", name.trim()), body.to_owned()));
            }
        }
        let boots = files("tools/xtask/src", "rs");
        let is_run = |path: &str| {
            program_of(path).is_some_and(|program| {
                let in_case = format!("/oracle/bin/{program}");
                let in_boot = format!("guest::program(\"{program}\")");
                cases.iter().any(|(_, text)| has_word(text, &in_case))
                    || boots.iter().any(|(_, text)| text.contains(&in_boot))
            })
        };
        let programs = files("tests/guest", "rs")
            .into_iter()
            .filter(|(path, _)| is_run(path))
            .map(|(path, text)| {
                (format!("`{}`", path.trim_start_matches("tests/guest/src/")), text)
            })
            .collect();
        Tests { cases, programs }
    }

    /// The test of a system call: a guest program that makes it, or a case that names it.
    pub(crate) fn of_call(&self, name: &str) -> String {
        let direct = [format!("libc::{name}("), format!("SYS_{name}")];
        let calls = |text: &str| direct.iter().any(|call| has_word(text, call));
        let program = self.programs.iter().find(|(_, text)| calls(text));
        let case = || {
            let is_command = name.len() > 4;
            self.cases.iter().find(|(_, text)| is_command && has_word(text, name))
        };
        program.or_else(case).map_or(String::new(), |(name, _)| name.clone())
    }

    /// The test that names a path; `[pid]` stands for `self`, a number or a variable.
    pub(crate) fn of_text(&self, path: &str) -> String {
        let tail = path.rsplit_once("[pid]/").map(|(_, tail)| tail);
        let names = |text: &str| match tail {
            Some(tail) => ["self", "$$", "$!", "$p", "$pid", "1"]
                .iter()
                .any(|process| has_word(text, &format!("/proc/{process}/{tail}"))),
            None => has_word(text, path) || has_sysctl(text, path),
        };
        let all = self.cases.iter().chain(&self.programs);
        all.clone().find(|(_, text)| names(text)).map_or(String::new(), |(name, _)| name.clone())
    }

    /// The case that mounts with an option.
    pub(crate) fn of_option(&self, option: &str) -> String {
        let names = |text: &str| {
            text.lines().any(|line| {
                let in_shell = line.split(" -o ").skip(1).filter(|_| line.contains("mount"));
                let in_python = line.split("mounted('").skip(1);
                in_shell.chain(in_python).any(|rest| {
                    let list = rest.split([' ', '\'']).next().unwrap_or_default();
                    list.split([',', ';']).any(|o| o.split('=').next() == Some(option))
                })
            })
        };
        self.cases
            .iter()
            .find(|(_, text)| names(text))
            .map_or(String::new(), |(name, _)| name.clone())
    }
}

/// The program that a source file is part of.
fn program_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("tests/guest/src/bin/")?;
    inside.split(['/', '.']).next()
}

/// `/proc/sys/kernel/pid_max` is `kernel.pid_max` to `sysctl`.
fn has_sysctl(text: &str, path: &str) -> bool {
    path.strip_prefix("/proc/sys/")
        .is_some_and(|name| text.contains("sysctl") && has_word(text, &name.replace('/', ".")))
}

/// Whether the text has the words and they do not go on in a longer name.
fn has_word(text: &str, word: &str) -> bool {
    let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '/' || c == '-';
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let after = text.get(at + word.len()..).and_then(|t| t.chars().next());
        let open_end = word.ends_with('(') || !after.is_some_and(goes_on);
        open_end && !before.is_some_and(goes_on)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_folders_or_files() {
        assert_eq!(program_of("tests/guest/src/bin/hostile/cpu.rs"), Some("hostile"));
        assert_eq!(program_of("tests/guest/src/bin/lastwords.rs"), Some("lastwords"));
        assert_eq!(program_of("tests/guest/src/lib.rs"), None);
    }

    #[test]
    fn only_programs_that_a_test_runs_count() {
        let tests = Tests::find();
        let has = |name: &str| tests.programs.iter().any(|(program, _)| program.contains(name));
        // The first is run by a case, the second boots; the third is `make bench`.
        assert!(has("bin/hostile/") && has("bin/lastwords") && !has("bin/microbench"));
    }

    #[test]
    fn words_end_where_names_end() {
        assert!(has_word("cat /proc/stat;", "/proc/stat"));
        assert!(!has_word("cat /proc/status", "/proc/stat"));
        assert!(!has_word("my_read(", "read("));
        assert!(has_word("libc::read(fd", "libc::read("));
    }
}
