//! The clusters of a file as extents, known from its start as far as anybody has asked: a chain is
//! walked once.

use alloc::vec::Vec;

use abi::{Errno, Result};

use crate::boot::FIRST_CLUSTER;
use crate::space::Run;
use crate::table::{Entry, Table};

/// Clusters of a file that follow each other on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    /// The first of them in the file.
    at: u32,
    run: Run,
}

impl Extent {
    fn end(&self) -> u32 {
        self.at + self.run.len
    }
}

/// What follows those that are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rest {
    /// A chain that begins with this cluster.
    From(u32),
    Nothing,
}

/// The clusters of a file.
#[derive(Debug)]
pub(crate) struct Chain {
    extents: Vec<Extent>,
    rest: Rest,
    /// The last cluster of the walk whose place in the file is a power of two: it comes again only in a circle.
    mark: u32,
}

impl Chain {
    /// A chain that begins with the cluster `first`; 0: none.
    pub(crate) fn new(first: u32) -> Chain {
        let rest = if first == 0 { Rest::Nothing } else { Rest::From(first) };
        Chain { extents: Vec::new(), rest, mark: 0 }
    }

    /// The first cluster; 0: none.
    pub(crate) fn first(&self) -> u32 {
        match (self.extents.first(), self.rest) {
            (Some(extent), _) => extent.run.first,
            (None, Rest::From(first)) => first,
            (None, Rest::Nothing) => 0,
        }
    }

    /// How many clusters are known.
    pub(crate) fn known(&self) -> u32 {
        self.extents.last().map_or(0, Extent::end)
    }

    fn push(&mut self, run: Run) {
        match self.extents.last_mut() {
            Some(last) if last.run.first + last.run.len == run.first => last.run.len += run.len,
            _ => {
                let at = self.known();
                self.extents.push(Extent { at, run });
            }
        }
    }

    /// Walks on until `count` clusters are known, or the chain ends. `EIO` where it is damaged.
    pub(crate) fn learn(&mut self, table: &Table, count: u32) -> Result<()> {
        while let Rest::From(cluster) = self.rest {
            let known = self.known();
            if known >= count {
                break;
            }
            if cluster == self.mark || cluster < FIRST_CLUSTER {
                return Err(Errno::EIO);
            }
            let rest = match table.get(cluster)? {
                Entry::Next(next) => Rest::From(next),
                Entry::End => Rest::Nothing,
                Entry::Free | Entry::Bad => return Err(Errno::EIO),
            };
            if known.is_power_of_two() {
                self.mark = cluster;
            }
            self.push(Run { first: cluster, len: 1 });
            self.rest = rest;
        }
        Ok(())
    }

    /// The run on the disk that has the cluster `at` of the file, from there on; `None`: not known.
    pub(crate) fn find(&self, at: u32) -> Option<Run> {
        let after = self.extents.partition_point(|extent| extent.at <= at);
        let extent = self.extents.get(after.checked_sub(1)?)?;
        let within = at - extent.at;
        let len = extent.run.len.checked_sub(within).filter(|len| *len > 0)?;
        Some(Run { first: extent.run.first + within, len })
    }

    /// Makes the file at least `count` clusters long. What was allocated stays if there are not enough.
    pub(crate) fn grow(&mut self, table: &Table, count: u32) -> Result<()> {
        self.learn(table, count)?;
        while self.known() < count {
            let tail = self.extents.last().map(|extent| extent.run.first + extent.run.len - 1);
            let goal = tail.map(|tail| tail + 1);
            let run = table.take(goal, count - self.known())?;
            if let Some(tail) = tail
                && let Err(error) = table.link(tail, Entry::Next(run.first))
            {
                // Nobody else would give them back.
                let _ = table.give_chain(run.first, &|_| ());
                return Err(error);
            }
            self.push(run);
        }
        Ok(())
    }

    /// Cuts the file to `count` clusters; `discard` gets the runs that are free then, before others take them.
    pub(crate) fn cut(&mut self, table: &Table, count: u32, discard: &dyn Fn(Run)) -> Result<()> {
        self.learn(table, count)?;
        let rest = match self.find(count) {
            Some(run) => Rest::From(run.first),
            None => self.rest,
        };
        let Rest::From(first) = rest else { return Ok(()) };
        self.extents.retain(|extent| extent.at < count);
        if let Some(last) = self.extents.last_mut() {
            last.run.len = last.run.len.min(count - last.at);
        }
        self.rest = Rest::Nothing;
        if let Some(last) = self.extents.last() {
            table.link(last.run.first + last.run.len - 1, Entry::End)?;
        }
        table.give_chain(first, discard)
    }
}
