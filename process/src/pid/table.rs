//! What goes by a number: nodes of adjacent numbers behind a directory, so that a lookup is two loads and taking a
//! number in never moves what is there, however many there are.
//!
//! Costs 8 bytes a number in use and 8 bytes of the directory for each [`WIDTH`] numbers up to the highest: 32 KiB at
//! 4,096 threads, 8.5 MiB at a million. Its owner locks it.

use abi::{Errno, Result};
use alloc::vec::Vec;

/// Numbers of a node.
const WIDTH: usize = 128;

/// [`WIDTH`] entries, or none while no number of the node is in use.
struct Node<T> {
    entries: Vec<Option<T>>,
    used: usize,
}

/// A table by number.
pub(super) struct Table<T> {
    nodes: Vec<Node<T>>,
}

impl<T> Table<T> {
    pub(super) const fn new() -> Table<T> {
        Table { nodes: Vec::new() }
    }

    /// What goes by `nr`.
    #[inline]
    pub(super) fn get(&self, nr: i32) -> Option<&T> {
        let (node, entry) = place(nr)?;
        self.nodes.get(node)?.entries.get(entry)?.as_ref()
    }

    /// Puts `value` at `nr`, which is in use for nothing; `ENOMEM` if there is no memory for the node.
    pub(super) fn insert(&mut self, nr: i32, value: T) -> Result<()> {
        let (index, entry) = place(nr).ok_or(Errno::EINVAL)?;
        if index >= self.nodes.len() {
            self.nodes.try_reserve(index + 1 - self.nodes.len()).map_err(|_| Errno::ENOMEM)?;
            self.nodes.resize_with(index + 1, || Node { entries: Vec::new(), used: 0 });
        }
        let node = self.nodes.get_mut(index).ok_or(Errno::ENOMEM)?;
        if node.entries.is_empty() {
            node.entries.try_reserve_exact(WIDTH).map_err(|_| Errno::ENOMEM)?;
            node.entries.resize_with(WIDTH, || None);
        }
        if let Some(free) = node.entries.get_mut(entry) {
            node.used += usize::from(free.is_none());
            *free = Some(value);
        }
        Ok(())
    }

    /// Takes out what goes by `nr`. Its node goes with its last entry, unless numbers are being given out of it: `last`
    /// was the last one.
    pub(super) fn remove(&mut self, nr: i32, last: i32) -> Option<T> {
        let (index, entry) = place(nr)?;
        let node = self.nodes.get_mut(index)?;
        let removed = node.entries.get_mut(entry)?.take()?;
        node.used -= 1;
        if node.used == 0 && place(last).is_none_or(|(recent, _)| recent != index) {
            node.entries = Vec::new();
        }
        Some(removed)
    }

    /// Everything, in ascending order of the numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.nodes.iter().flat_map(|node| node.entries.iter().flatten())
    }
}

/// The node of a number and its entry there.
fn place(nr: i32) -> Option<(usize, usize)> {
    let nr = usize::try_from(nr).ok()?;
    Some((nr / WIDTH, nr % WIDTH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn is_a_map(steps in prop::collection::vec((0..1000i32, any::<bool>()), 0..500)) {
            let mut table = Table::new();
            let mut model = BTreeMap::new();
            let mut last = 0;
            for (nr, insert) in steps {
                if insert && !model.contains_key(&nr) {
                    prop_assert_eq!(table.insert(nr, nr * 3), Ok(()));
                    model.insert(nr, nr * 3);
                    last = nr;
                } else {
                    prop_assert_eq!(table.remove(nr, last), model.remove(&nr));
                }
                prop_assert_eq!(table.get(nr), model.get(&nr));
            }
            prop_assert!(table.iter().eq(model.values()));
        }
    }

    #[test]
    fn keeps_only_nodes_in_use() {
        let mut table = Table::new();
        for nr in 0..1000 {
            assert_eq!(table.insert(nr, ()), Ok(()));
        }
        for nr in 0..1000 {
            assert_eq!(table.remove(nr, 999), Some(()));
        }
        let kept: Vec<usize> =
            (0..table.nodes.len()).filter(|&node| !table.nodes[node].entries.is_empty()).collect();
        assert_eq!(kept, [999 / WIDTH]);
        assert_eq!(table.get(-1), None);
        assert_eq!(table.insert(-1, ()), Err(Errno::EINVAL));
    }
}
