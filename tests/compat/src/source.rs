//! The kernel's source as text: which words it understands.

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the project.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All files under a folder of the project that end in `extension`, in order, with their text.
pub(crate) fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let mut paths = Vec::new();
    collect(&project().join(folder), extension, &mut paths);
    paths.sort();
    let name = |path: &Path| {
        path.strip_prefix(project()).map_or(String::new(), |p| p.display().to_string())
    };
    paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap_or_default())).collect()
}

fn collect(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

/// The text of the kernel's crates, tests left out.
pub(crate) struct Sources {
    files: Vec<(String, String)>,
}

impl Sources {
    pub(crate) fn read() -> Sources {
        let folders = ["arch", "kernel", "syscalls", "process", "fs", "drivers", "mm"];
        let mut all: Vec<_> = folders.iter().flat_map(|folder| files(folder, "rs")).collect();
        all.retain(|(name, _)| !name.contains("/tests"));
        for (_, text) in &mut all {
            if let Some(start) = text.find("#[cfg(test)]\nmod tests {") {
                text.truncate(start);
            }
        }
        Sources { files: all }
    }

    /// Whether a string of a file under one of the folders is the word, or the word and `=`.
    pub(crate) fn knows(&self, folders: &[&str], word: &str) -> bool {
        let texts = [format!("\"{word}\""), format!("\"{word}=\"")];
        let is_inside = |name: &str| folders.iter().any(|folder| name.starts_with(folder));
        self.files
            .iter()
            .filter(|(name, _)| is_inside(name))
            .any(|(_, text)| texts.iter().any(|wanted| text.contains(wanted)))
    }
}
