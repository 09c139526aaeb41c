//! Moments of a log, and whether what is left after each is what it has to be.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use guest::marks::{COMMON_PATH, DATABASES, Mark, mix};

use crate::database;
use crate::disk;
use crate::file::Mode;
use crate::log::{Bytes, Kind, Log};
use crate::replay::{Keep, Replay};
use crate::story::Story;
use crate::tree::{self, Found, Tree};

/// A guest's log with what its programs were promised.
pub struct Run {
    file: File,
    log: Log,
    stories: BTreeMap<u32, Story>,
    /// Places behind marks, and of flushes.
    marks: Vec<usize>,
    flushes: Vec<usize>,
    mode: Mode,
}

/// A moment, and what is kept of what was not durable then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// So many entries of the log came before it.
    pub moment: usize,
    /// What is kept.
    pub keep: Keep,
}

impl Run {
    /// Reads a log and its marks, which have to be complete.
    ///
    /// # Errors
    ///
    /// When something is missing, or the log is none.
    pub fn read(path: &Path, mode: Mode) -> Result<Run, String> {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let log = Log::read(&file, disk::LEN).map_err(|error| error.to_string())?;
        if log.is_cut_off {
            return Err("the log is cut off".into());
        }
        let stories = BTreeMap::new();
        let mut run = Run { file, log, stories, marks: Vec::new(), flushes: Vec::new(), mode };
        run.read_marks()?;
        let is_open = |(_, story): &(&u32, &Story)| !story.is_complete();
        if let Some((stream, _)) = run.stories.iter().find(is_open) {
            return Err(format!("stream {stream} did not come to its end"));
        }
        if run.stories.is_empty() {
            return Err("nobody made a mark".into());
        }
        Ok(run)
    }

    fn read_marks(&mut self) -> Result<(), String> {
        let mut id = None;
        for (place, entry) in self.log.entries.iter().enumerate() {
            if entry.is_flush {
                self.flushes.push(place);
            }
            let Kind::Write { data } = entry.kind else { continue };
            if !disk::MARKS.contains(&entry.at) {
                continue;
            }
            let mut bytes = vec![0; entry.len.min(1 << 16) as usize];
            if !self.file.read(data, &mut bytes) {
                return Err(format!("the log cannot be read at {data}"));
            }
            let mark = Mark::parse(&bytes).map_err(|error| format!("entry {place}: {error}"))?;
            if *id.get_or_insert(mark.run) != mark.run {
                return Err(format!("entry {place}: a mark of another run"));
            }
            self.marks.push(place + 1);
            self.stories.entry(mark.stream).or_default().add(place, mark)?;
        }
        Ok(())
    }

    /// What there is, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        let all = self.log.entries.len();
        let writes = self.log.entries.iter().filter(|entry| entry.kind != Kind::Nothing).count();
        let operations: usize = self.stories.values().map(|story| story.ended(all)).sum();
        format!(
            "{writes} writes, {} flushes, {} streams with {operations} operations",
            self.flushes.len(),
            self.stories.len()
        )
    }

    /// So many moments, in order: any, right behind a mark, right before a flush.
    #[must_use]
    pub fn moments(&self, seed: u64, count: u64) -> Vec<Cut> {
        let mut moments: Vec<usize> = (0..count)
            .map(|number| {
                let random = mix(seed ^ mix(number)) as usize;
                let some = |list: &[usize]| list.get(random % list.len().max(1)).copied();
                let any = random % (self.log.entries.len() + 1);
                match number % 4 {
                    0 => some(&self.marks).unwrap_or(any),
                    1 => some(&self.flushes).unwrap_or(any),
                    _ => any,
                }
            })
            .collect();
        moments.sort_unstable();
        moments.into_iter().map(|moment| Cut { moment, keep: keep_at(seed, moment) }).collect()
    }

    /// A disk whose moments are yet to come.
    #[must_use]
    pub fn replay(&self, base: Vec<u8>) -> Replay<'_, File> {
        Replay::new(&self.file, &self.log.entries, base)
    }

    /// Makes what the disk holds after a cut, recovers it and looks at it. `scratch` is a directory.
    ///
    /// # Errors
    ///
    /// What is not as it has to be; the file system is left in `scratch` then.
    pub fn judge(
        &self,
        replay: &mut Replay<'_, File>,
        cut: Cut,
        seed: u64,
        scratch: &Path,
    ) -> Result<(), String> {
        let mut state = mix(seed ^ mix(cut.moment as u64));
        let mut random = |limit: u64| {
            state = state.wrapping_add(1);
            mix(state) % limit
        };
        let mut disk = replay.cut(cut.moment, cut.keep, &mut random)?;
        disk.truncate(disk::FILES.end as usize);
        let image = disk.split_off(disk::FILES.start as usize);
        let outcome = tree::recover(image.clone(), &scratch.join("cut.img"))
            .and_then(|tree| self.check(&tree, cut.moment, scratch));
        outcome.map_err(|why| {
            let kept = scratch.join(format!("bad-{}.img", cut.moment));
            match std::fs::write(&kept, &image) {
                Ok(()) => format!("{why}\n        as it was before recovery: {}", kept.display()),
                Err(error) => format!("{why}\n        {}: {error}", kept.display()),
            }
        })
    }

    /// Whether all that programs were promised before a moment is in `tree`, and nothing else.
    fn check(&self, tree: &Tree, moment: usize, scratch: &Path) -> Result<(), String> {
        let parts = self.parts(tree)?;
        let nothing = Tree::new();
        for (number, story) in &self.stories {
            let mine = parts.get(number).unwrap_or(&nothing);
            let outcome = match story.database(moment) {
                Some((path, ended, begun)) => database::check(tree, path, ended, begun, scratch),
                None => story.at(moment).check(tree, mine, self.mode),
            };
            let context =
                |why| format!("stream {number}, {} operations: {why}", story.ended(moment));
            outcome.map_err(context)?;
        }
        Ok(())
    }

    /// What belongs to which stream.
    fn parts(&self, tree: &Tree) -> Result<BTreeMap<u32, Tree>, String> {
        let mut parts: BTreeMap<u32, Tree> = BTreeMap::new();
        for (path, found) in tree {
            if path.as_str() == "lost+found" {
                continue;
            }
            if *found == Found::Other {
                return Err(format!("{path} is neither a file nor a directory"));
            }
            let (top, rest) = path.split_once('/').unwrap_or((path, ""));
            let owner = match top {
                DATABASES if !rest.is_empty() => continue,
                _ if rest.is_empty() || path == COMMON_PATH => Some(0),
                "shared" => rest.split_once('-').and_then(|(name, _)| stream(name)),
                _ => stream(top),
            };
            let owner = owner.filter(|owner| self.stories.contains_key(owner));
            let owner = owner.ok_or_else(|| format!("{path} was made by nobody"))?;
            parts.entry(owner).or_default().insert(path.clone(), found.clone());
        }
        Ok(parts)
    }
}

/// Directories and files of a thread begin with its name.
fn stream(name: &str) -> Option<u32> {
    name.strip_prefix('t')?.parse().ok()
}

/// What is kept at a moment: it depends on the moment, so that one can be looked at alone.
#[must_use]
pub fn keep_at(seed: u64, moment: usize) -> Keep {
    let random = mix(seed ^ mix(!(moment as u64)));
    match random % 8 {
        0 | 1 => Keep::Nothing,
        2 => Keep::Everything,
        3 => Keep::Writes(50),
        4 => Keep::Writes(90),
        5 => Keep::Sectors(10),
        6 => Keep::Sectors(50),
        _ => Keep::Sectors(95),
    }
}
