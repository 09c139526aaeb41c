//! [`Traces`]: what a process traces, and which of it `wait(2)` has to look at ([`News`]).

use super::relation::{ThreadExit, key};
use crate::group::ThreadGroup;
use crate::task::Task;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::{Arc, Weak};

/// The traced threads of a process that may have stopped since they were last waited for, by the
/// numbers of their threads. So waiting costs nothing for those that stand still or run.
///
/// These are hints: a thread's own state says whether there is something to report, and what is
/// found to have nothing is forgotten. It is added after its state says that it is stopped and
/// before the tracer is woken, so no stop is missed.
#[derive(Default)]
pub(super) struct News(BTreeSet<u64>);

/// Why there is nothing to report of a thread.
enum Miss {
    /// It is not what is waited for.
    Unwanted,
    /// It has no news.
    Quiet,
}

impl News {
    pub(super) fn add(&mut self, key: u64) {
        self.0.insert(key);
    }

    pub(super) fn remove(&mut self, key: u64) {
        self.0.remove(&key);
    }

    /// The first that `look` finds something about, in the order of the threads' numbers.
    fn find<R>(&mut self, mut look: impl FnMut(u64) -> Result<R, Miss>) -> Option<R> {
        let mut from = 0;
        loop {
            let key = *self.0.range(from..).next()?;
            match look(key) {
                Ok(found) => return Some(found),
                Err(Miss::Unwanted) => {}
                Err(Miss::Quiet) => self.remove(key),
            }
            from = key.saturating_add(1);
        }
    }
}

/// What the threads of a process trace.
#[derive(Default)]
pub(crate) struct Traces {
    /// Traced threads, by the number of their thread.
    pub(crate) threads: BTreeMap<u64, Arc<Task>>,
    /// Those of them that may have stopped since they were last waited for.
    pub(super) news: News,
    /// Traced threads that have ended and were not waited for.
    pub(crate) exits: VecDeque<ThreadExit>,
    /// Other parents' children whose leader was traced from here: they have ended and are this
    /// process's to wait for first. With the thread that traced.
    pub(crate) zombies: BTreeMap<u64, (Arc<ThreadGroup>, Weak<Task>)>,
}

impl Traces {
    /// Whether nobody is traced, nor to be waited for.
    pub(crate) fn is_empty(&self) -> bool {
        self.threads.is_empty() && self.zombies.is_empty() && self.exits.is_empty()
    }

    /// Whether a thread of this process traces `task`.
    pub(crate) fn has(&self, task: &Task) -> bool {
        self.threads.contains_key(&key(task))
    }

    /// A traced thread whose stop has not been reported, with what `wait(2)` says of it. Another
    /// call does not find it again if `take`.
    pub(crate) fn find_stop(
        &mut self,
        is_wanted: impl Fn(&Task) -> bool,
        take: bool,
    ) -> Option<(Arc<Task>, i32)> {
        let Traces { threads, news, .. } = self;
        news.find(|key| {
            let tracee = threads.get(&key).ok_or(Miss::Quiet)?;
            if !is_wanted(tracee) {
                return Err(Miss::Unwanted);
            }
            let code = tracee.tracing.take_report(take).ok_or(Miss::Quiet)?;
            Ok((tracee.clone(), code))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_ones_are_looked_at_once() {
        let mut news = News::default();
        (1..=100).for_each(|key| news.add(key));
        let mut looks = 0;
        let mut look = |news: &mut News| {
            news.find(|key| {
                looks += 1;
                if key == 70 { Ok(key) } else { Err(Miss::Quiet) }
            })
        };
        assert_eq!(look(&mut news), Some(70));
        assert_eq!(look(&mut news), Some(70));
        assert_eq!(looks, 71);
        assert_eq!(news.find::<()>(|_| Err(Miss::Quiet)), None);
        assert!(news.0.is_empty());
    }

    #[test]
    fn what_is_not_waited_for_stays() {
        let mut news = News::default();
        [3, 5].into_iter().for_each(|key| news.add(key));
        let one =
            |wanted: u64| move |key| if key == wanted { Ok(key) } else { Err(Miss::Unwanted) };
        assert_eq!(news.find(one(5)), Some(5));
        assert_eq!(news.find(one(3)), Some(3));
        news.remove(3);
        assert_eq!(news.find(one(3)), None);
    }
}
