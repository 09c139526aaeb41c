//! Changes at random beside a model, on every shape of image.

use super::*;

use std::collections::BTreeMap;

use vfs::{RenameEnd, RenameFlags};

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

/// Files by directory and name.
type Model = BTreeMap<(usize, String), Vec<u8>>;

struct Run {
    random: Random,
    dirs: Vec<InodeRef>,
    model: Model,
    /// Bytes that all files may have together.
    room: u64,
}

impl Run {
    fn name(&mut self, step: u64) -> String {
        match self.random.below(4) {
            0 => format!("F{step}.TXT"),
            1 => format!("lower{step}"),
            2 => format!(
                "A name that is long {step} y{}",
                "x".repeat(self.random.below(80) as usize)
            ),
            _ => format!("Nämé €{step}.tar.gz"),
        }
    }

    fn pick(&mut self) -> Option<(usize, String)> {
        let at = self.random.below(self.model.len() as u64) as usize;
        self.model.keys().nth(at).cloned()
    }

    /// Passes on what became of a change of a file's length: where there was no room, the model is what
    /// there is now.
    fn settled(
        &mut self,
        result: Result<()>,
        inode: &InodeRef,
        key: &(usize, String),
    ) -> Result<()> {
        if result == Err(Errno::ENOSPC) {
            let bytes = read(inode)?;
            let model = self.model.get_mut(key).unwrap();
            assert!(bytes.len() >= model.len());
            *model = bytes;
        }
        result
    }

    fn step(&mut self, step: u64) -> Result<()> {
        let what = self.random.below(10);
        let Some((dir, name)) = self.pick().filter(|_| what > 1) else {
            let dir = self.random.below(self.dirs.len() as u64) as usize;
            let name = self.name(step);
            make(&self.dirs[dir], &name, FileKind::Regular)?;
            self.model.insert((dir, name), Vec::new());
            return Ok(());
        };
        let parent = self.dirs[dir].arc().clone();
        let inode = InodeRef::new(find(&parent, &name)?);
        match what {
            2 => {
                remove(&parent, &name, inode.arc())?;
                self.model.remove(&(dir, name));
            }
            3 => {
                let size = self.random.below(self.room / 16);
                let result = set_size(inode.arc(), size);
                self.settled(result, &inode, &(dir, name.clone()))?;
                self.model.get_mut(&(dir, name)).unwrap().resize(size as usize, 0);
            }
            4 | 5 => self.rename(&parent, (dir, name), &inode, step)?,
            _ => {
                let pos = self.random.below(self.room / 32) as usize;
                let len = self.random.below(self.room / 64) as usize + 1;
                let bytes = vec![step as u8 | 1; len];
                let result = write(&inode, pos as u64, &bytes);
                self.settled(result, &inode, &(dir, name.clone()))?;
                let model = self.model.get_mut(&(dir, name)).unwrap();
                model.resize(model.len().max(pos + len), 0);
                model[pos..pos + len].copy_from_slice(&bytes);
            }
        }
        Ok(())
    }

    fn rename(
        &mut self,
        parent: &Arc<Inode>,
        key: (usize, String),
        inode: &InodeRef,
        step: u64,
    ) -> Result<()> {
        let over = self.pick().filter(|other| step.is_multiple_of(2) && *other != key);
        let to = match over {
            Some(other) => other,
            None => (self.random.below(self.dirs.len() as u64) as usize, self.name(step)),
        };
        let target = self.dirs[to.0].arc().clone();
        let replaced = target.ops().lookup(&target, to.1.as_bytes())?.map(InodeRef::new);
        let old = RenameEnd { dir: parent, name: key.1.as_bytes() };
        let new = RenameEnd { dir: &target, name: to.1.as_bytes() };
        let replaced = replaced.as_ref().map(InodeRef::arc);
        parent.ops().rename(old, inode.arc(), new, replaced, RenameFlags::empty())?;
        let bytes = self.model.remove(&key).unwrap();
        self.model.insert(to, bytes);
        Ok(())
    }
}

fn compare(root: &Arc<Inode>, model: &Model) {
    let dirs = [root.clone(), find(root, "sub").unwrap(), find(root, "Sub directory two").unwrap()];
    for ((dir, name), bytes) in model {
        let inode = find(&dirs[*dir], name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(read(&inode).unwrap() == *bytes, "{name}");
    }
    let count: usize = dirs.iter().map(|dir| list(dir).len()).sum();
    assert_eq!(count, model.len() + 2);
}

#[test]
fn random_changes_leave_a_clean_image() {
    for (round, (options, kib)) in SHAPES.into_iter().enumerate() {
        let fixture = Fixture::new(options, kib, "");
        let root = fixture.root();
        let sub = make(&root, "sub", FileKind::Directory).unwrap();
        let two = make(&root, "Sub directory two", FileKind::Directory).unwrap();
        let mut run = Run {
            random: Random(0x0135_79bd_f246_8ace + round as u64),
            dirs: vec![InodeRef::new(root.clone()), sub, two],
            model: Model::new(),
            room: (kib << 10).min(8 << 20),
        };
        let steps = if kib < 4096 { 150 } else { 400 };
        for step in 0..steps {
            match run.step(step) {
                // A small volume is full now and then, and so is its root directory.
                Ok(()) | Err(Errno::ENOSPC) => {}
                Err(error) => panic!("{options}: step {step}: {error}"),
            }
            if step == steps / 2 {
                fixture.sb.ops().sync(&fixture.sb, true).unwrap();
            }
        }
        compare(&root, &run.model);
        let model = core::mem::take(&mut run.model);
        drop((run, root));
        let image = fixture.check();
        let fixture = Fixture::on(image, "");
        compare(&fixture.root(), &model);
        let image = fixture.check();
        for ((dir, name), bytes) in model.iter().take(5) {
            let path = format!("::/{}{name}", ["", "sub/", "Sub directory two/"][*dir]);
            let target = image.0.with_extension("copy");
            let arguments = [path.as_str(), target.to_str().unwrap()];
            if name.is_ascii() {
                image.run("mcopy", &["-n", "-i"], &arguments);
                assert!(fs::read(&target).unwrap() == *bytes, "{name}");
                fs::remove_file(target).unwrap();
            }
        }
    }
}
