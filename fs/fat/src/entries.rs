//! Names that come, go and move.
//!
//! Order: the inodes' locks, which the VFS holds; the listing of one directory; the records; a node's state.

use alloc::sync::Arc;
use alloc::vec;

use abi::{Errno, Result};
use arch::uio::Source;
use pagecache::Mapping;
use vfs::{FileKind, Inode, NewInode, RenameEnd, Time};

use crate::alias;
use crate::bytes::put;
use crate::data::{peek, poke};
use crate::dir::{DOT, DOT_DOT, place};
use crate::names::NewName;
use crate::node::{Home, Node, ROOT_INO, node};
use crate::record::{RECORD, Record, attr, parts};
use crate::time::Stamp;

fn pages(dir: &Inode) -> Result<&Arc<Mapping>> {
    dir.mapping().ok_or(Errno::EIO)
}

/// The cluster that `..` of what is in `dir` names: 0 for the root directory, wherever that is.
fn cluster_for_children(dir: &Inode) -> Result<u32> {
    if dir.ino == ROOT_INO { Ok(0) } else { Ok(node(dir)?.first_cluster()) }
}

/// Where to begin looking for a free alias: depends on the whole name.
fn seed(name: &[u8]) -> u16 {
    let hash = name
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash >> 16 ^ hash) as u16
}

impl Node {
    /// The file that a name means.
    pub(crate) fn look_up(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let listing = self.listing.lock();
        let found = listing.find(name, &self.fs.rules);
        let found = found.map(|(first, entry)| (entry.ino, place(first, entry.count)));
        // Who has the directory's lock keeps the entry where it is.
        drop(listing);
        let Some((ino, at)) = found else { return Ok(None) };
        if let Some(inode) = self.fs.inodes.get(ino) {
            return Ok(Some(inode));
        }
        let mut bytes = [0; RECORD];
        peek(pages(dir)?, at, &mut bytes)?;
        let home = Home { dir: dir.clone(), at };
        Node::load(&self.fs, dir.sb(), ino, Record::parse(&bytes), home).map(Some)
    }

    /// Writes the records of a name; returns where the file's own is.
    fn add_name(
        &self,
        dir: &Inode,
        name: &[u8],
        new: &NewName,
        record: &Record,
        ino: u64,
    ) -> Result<u64> {
        let rules = &self.fs.rules;
        let mut listing = self.listing.lock();
        let is_taken = |raw: &_| {
            let record = Record { raw: *raw, ..Record::default() };
            listing.has_short(raw) || listing.find(&rules.show_short(&record), rules).is_some()
        };
        let raw = alias::choose(&new.short, rules.prefers_plain_alias(), seed(name), is_taken);
        let raw = raw.ok_or(Errno::ENOSPC)?;
        if new.units.is_empty() && raw != new.short.raw {
            return Err(Errno::EEXIST);
        }
        let record = Record { raw, case: new.case, ..*record };
        let shown = if new.units.is_empty() { None } else { rules.show_long(&new.units) };
        let shown = shown.unwrap_or_else(|| rules.show_short(&record));
        let long = parts(&new.units, &raw);
        let count = long.len() as u32 + 1;
        let cluster = self.fs.geometry.cluster;
        let first = listing.add(pages(dir)?, long, &record, (shown, ino), rules, cluster)?;
        Ok(place(first, count))
    }

    /// Frees the records of a name.
    fn remove_name(&self, dir: &Inode, name: &[u8]) -> Result<()> {
        let mut listing = self.listing.lock();
        let (first, _) = listing.find(name, &self.fs.rules).ok_or(Errno::ENOENT)?;
        listing.remove(pages(dir)?, first, &self.fs.rules)
    }

    /// Makes a file or a directory.
    pub(crate) fn make(
        &self,
        dir: &Arc<Inode>,
        name: &[u8],
        new: &NewInode<'_>,
    ) -> Result<Arc<Inode>> {
        let kind = match new.kind {
            FileKind::Regular => attr::ARCHIVE,
            FileKind::Directory => attr::DIRECTORY,
            _ => return Err(Errno::EPERM),
        };
        let names = self.fs.rules.new_name(name)?;
        let stamp = self.fs.zone.write(new.now);
        let mut record = Record {
            attr: kind | names.attr,
            born: stamp,
            accessed: stamp.date,
            modified: Stamp { centis: 0, ..stamp },
            ..Record::default()
        };
        if !self.fs.options.is_vfat {
            (record.born, record.accessed) = Default::default();
        }
        let inode = Node::create(&self.fs, dir.sb(), record)?;
        let made = node(&inode)?;
        let named = made.begin_dir(&inode, dir, &record).and_then(|()| {
            record.cluster = made.first_cluster();
            self.add_name(dir, name, &names, &record, inode.ino)
        });
        let at = match named {
            Ok(at) => at,
            Err(error) => {
                inode.set_nlink(0);
                made.delete(&inode)?;
                return Err(error);
            }
        };
        {
            let _records = self.fs.records.lock();
            made.state.lock().home = Some(Home { dir: dir.clone(), at });
        }
        let inode = self.fs.inodes.insert(inode);
        if inode.is_dir() {
            dir.add_link();
        }
        changed(dir)?;
        self.fs.after_change(&[dir])?;
        Ok(inode)
    }

    /// Gives a new directory its first cluster and the records that it begins with.
    fn begin_dir(&self, inode: &Inode, parent: &Inode, record: &Record) -> Result<()> {
        if !self.is_dir {
            return Ok(());
        }
        let len = self.fs.geometry.cluster;
        self.reserve(len.into())?;
        let mut bytes = vec![0; len as usize];
        for (at, raw, cluster) in
            [(0, DOT, self.first_cluster()), (RECORD, DOT_DOT, cluster_for_children(parent)?)]
        {
            put(&mut bytes, at, &Record { raw: *raw, cluster, ..*record }.bytes());
        }
        if pages(inode)?.write(0, &mut Source::kernel(&bytes))? < bytes.len() {
            return Err(Errno::ENOMEM);
        }
        self.reload(inode)
    }

    /// Removes a name and leaves its file without one.
    pub(crate) fn remove(&self, dir: &Arc<Inode>, name: &[u8], victim: &Arc<Inode>) -> Result<()> {
        if victim.is_dir() && !node(victim)?.listing.lock().is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.remove_name(dir, name)?;
        self.leave(victim)?;
        if victim.is_dir() {
            drop_dir_link(dir);
        }
        changed(dir)?;
        self.fs.after_change(&[dir])
    }

    /// A file has no name any more.
    fn leave(&self, victim: &Inode) -> Result<()> {
        {
            let _records = self.fs.records.lock();
            node(victim)?.state.lock().home = None;
        }
        victim.set_nlink(0);
        victim.set_ctime(self.fs.zone.modified(Time::now()));
        Ok(())
    }

    /// Gives a file, which is `moved`, another name.
    pub(crate) fn move_name(
        &self,
        old: &RenameEnd<'_>,
        moved: &Arc<Inode>,
        new: &RenameEnd<'_>,
        replaced: Option<&Arc<Inode>>,
    ) -> Result<()> {
        if let Some(victim) = replaced
            && victim.is_dir()
            && !node(victim)?.listing.lock().is_empty()
        {
            return Err(Errno::ENOTEMPTY);
        }
        let to = node(new.dir)?;
        let at = match replaced {
            Some(victim) => {
                let at = to.take_over(new.name, moved.ino)?;
                self.leave(victim)?;
                at
            }
            None => {
                let names = self.fs.rules.new_name(new.name)?;
                let record = node(moved)?.record(moved);
                to.add_name(new.dir, new.name, &names, &record, moved.ino)?
            }
        };
        node(moved)?.settle_at(moved, new.dir, at)?;
        self.remove_name(old.dir, old.name)?;
        self.move_links(old.dir, moved, new.dir, replaced.is_some())?;
        changed(old.dir)?;
        changed(new.dir)?;
        self.fs.after_change(&[old.dir, new.dir])
    }

    /// Lets a name that there is mean another file; where the record is.
    fn take_over(&self, name: &[u8], ino: u64) -> Result<u64> {
        let mut listing = self.listing.lock();
        let (first, entry) = listing.find(name, &self.fs.rules).ok_or(Errno::ENOENT)?;
        let at = place(first, entry.count);
        listing.set_number(first, ino);
        Ok(at)
    }

    /// The record of a file as it would be written, but for the name.
    fn record(&self, inode: &Inode) -> Record {
        let zone = self.fs.zone;
        let is_vfat = self.fs.options.is_vfat;
        let state = self.state.lock();
        Record {
            attr: state.attr,
            born: inode.btime().map(|time| zone.write(time)).unwrap_or_default(),
            accessed: if is_vfat { zone.write(inode.atime()).date } else { 0 },
            modified: zone.write(inode.mtime()),
            ..Record::default()
        }
    }

    /// Says where a file's record is from now on, and writes it there.
    fn settle_at(&self, inode: &Inode, dir: &Arc<Inode>, at: u64) -> Result<()> {
        let born = self.record(inode).bytes();
        let _records = self.fs.records.lock();
        self.state.lock().home = Some(Home { dir: dir.clone(), at });
        poke(pages(dir)?, at + 13, born.get(13..18).unwrap_or(&[]))?;
        self.write_record(inode)
    }

    /// Counts the links of directories after a move, and tells a directory of its new parent.
    fn move_links(
        &self,
        from: &Arc<Inode>,
        moved: &Arc<Inode>,
        to: &Arc<Inode>,
        has_replaced: bool,
    ) -> Result<()> {
        if !moved.is_dir() {
            return Ok(());
        }
        if has_replaced {
            drop_dir_link(to);
        }
        if Arc::ptr_eq(from, to) {
            return Ok(());
        }
        drop_dir_link(from);
        to.add_link();
        let record = Record { cluster: cluster_for_children(to)?, ..Record::default() }.bytes();
        for part in [20..22, 26..28] {
            let at = RECORD + part.start;
            poke(pages(moved)?, at as u64, record.get(part).unwrap_or(&[]))?;
        }
        Ok(())
    }
}

fn drop_dir_link(dir: &Inode) {
    if dir.nlink() > 2 {
        dir.drop_link();
    }
}

/// A directory has other names now.
fn changed(dir: &Inode) -> Result<()> {
    dir.touch(Time::now());
    dir.bump_version();
    node(dir)?.settle_times(dir);
    Ok(())
}
