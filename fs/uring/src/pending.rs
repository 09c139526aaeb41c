//! Requests that wait for something, and can be cancelled: files that are watched, timeouts.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use aio::Submitter;
use aio::watch::Watch;
use arch::lock::{IrqLock, LockClass};
use vfs::File;

use crate::retry::Waiting;
use crate::timeout::Timeout;

static CLASS: LockClass = LockClass::new("uring.pending", 585);

/// What a request waits for.
#[derive(Clone)]
pub(crate) enum Wait {
    /// A file, to try something with it then.
    Try(Arc<Waiting>),
    /// A file, to be read or written then.
    Transfer(Arc<Watch>),
    Time(Arc<Timeout>),
}

/// What became of the attempt to end something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// It had ended.
    Before,
    /// It has ended.
    Now,
    /// It ends by itself, and does not wait any more.
    Soon,
}

/// Something that waits, and for whom.
struct Entry {
    wait: Wait,
    who: Arc<Submitter>,
}

/// Requests by what the program calls them, and a number.
pub(crate) struct Pending(IrqLock<Inner>);

#[derive(Default)]
struct Inner {
    waits: BTreeMap<(u64, u64), Entry>,
    next: u64,
    /// Timeouts that a number of completions ends, by that number and theirs.
    counted: BTreeMap<(u64, u64), Arc<Timeout>>,
    /// The completions that were told of.
    completed: u64,
    /// Somebody ends timeouts that are due.
    is_counting: bool,
}

impl Pending {
    pub(crate) fn new() -> Pending {
        Pending(IrqLock::new(&CLASS, Inner::default()))
    }

    /// A number for something that waits.
    pub(crate) fn number(&self) -> u64 {
        let mut inner = self.0.lock();
        inner.next += 1;
        inner.next
    }

    /// Remembers it.
    pub(crate) fn add(&self, user_data: u64, number: u64, wait: Wait, who: &Arc<Submitter>) {
        let entry = Entry { wait, who: who.clone() };
        let before = self.0.lock().waits.insert((user_data, number), entry);
        drop(before);
    }

    /// It does not wait any more.
    pub(crate) fn remove(&self, user_data: u64, number: u64) {
        let gone = self.0.lock().waits.remove(&(user_data, number));
        let Some(Entry { wait, who }) = gone else { return };
        aio::pool::let_go(who);
        match wait {
            Wait::Try(waiting) => aio::pool::let_go(waiting),
            Wait::Transfer(watch) => aio::pool::let_go(watch),
            Wait::Time(timeout) => aio::pool::let_go(timeout),
        }
    }

    /// Ends a timeout when there have been `count` completions.
    pub(crate) fn count(&self, count: u64, number: u64, timeout: Arc<Timeout>) {
        self.0.lock().counted.insert((count, number), timeout);
    }

    /// It has ended otherwise.
    pub(crate) fn forget_count(&self, count: u64, number: u64) {
        let gone = self.0.lock().counted.remove(&(count, number));
        if let Some(timeout) = gone {
            aio::pool::let_go(timeout);
        }
    }

    /// There have been `count` completions. A timeout that ends is one more, which the caller that ends it
    /// finds here: one of them after the other, however many there are.
    pub(crate) fn completed(&self, count: u64) {
        let mut inner = self.0.lock();
        inner.completed = inner.completed.max(count);
        if inner.is_counting {
            return;
        }
        while let Some((&key, _)) = inner.counted.first_key_value()
            && key.0 <= inner.completed
            && let Some(timeout) = inner.counted.remove(&key)
        {
            inner.is_counting = true;
            drop(inner);
            timeout.reached();
            aio::pool::let_go(timeout);
            inner = self.0.lock();
        }
        inner.is_counting = false;
    }

    /// The one with this number that the program calls `user_data`.
    pub(crate) fn get(&self, user_data: u64, number: u64) -> Option<Wait> {
        self.0.lock().waits.get(&(user_data, number)).map(|entry| entry.wait.clone())
    }

    /// Those that the program calls `user_data`, of the kind that `wants` picks.
    pub(crate) fn named(&self, user_data: u64, wants: impl Fn(&Wait) -> bool) -> Vec<Wait> {
        let inner = self.0.lock();
        let named = inner.waits.range((user_data, 0)..=(user_data, u64::MAX));
        named.map(|(_, entry)| &entry.wait).filter(|wait| wants(wait)).cloned().collect()
    }

    /// Those that `wants` picks, whatever they are called: some at a time, as interrupts are off meanwhile.
    pub(crate) fn matching(&self, wants: impl Fn(&Wait) -> bool) -> Vec<Wait> {
        self.collect(|entry| wants(&entry.wait))
    }

    fn collect(&self, wants: impl Fn(&Entry) -> bool) -> Vec<Wait> {
        const AT_A_TIME: usize = 64;
        let mut found = Vec::new();
        let mut from = Some((0, 0));
        while let Some(first) = from.take() {
            found.reserve(AT_A_TIME);
            let inner = self.0.lock();
            let mut entries = inner.waits.range(first..);
            let some = entries.by_ref().take(AT_A_TIME).map(|(_, entry)| entry);
            found.extend(some.filter(|entry| wants(entry)).map(|entry| entry.wait.clone()));
            from = entries.next().map(|(key, _)| *key);
        }
        found
    }

    /// Ends all of them.
    pub(crate) fn cancel_all(&self) {
        let waits = core::mem::take(&mut self.0.lock().waits);
        for entry in waits.into_values() {
            entry.wait.cancel();
        }
    }

    /// Ends those of programs that are gone and that wait for an instance, which they would keep for ever: it may be
    /// this one. What waits for something else ends with the descriptor, or when that happens.
    pub(crate) fn cancel_orphans(&self) {
        let keeps_one = |wait: &Wait| wait.file().is_some_and(|file| crate::file::of(file).is_ok());
        let is_orphan = |who: &Submitter| who.space.strong_count() == 0;
        for wait in self.collect(|entry| is_orphan(&entry.who) && keeps_one(&entry.wait)) {
            wait.cancel();
        }
    }
}

impl Wait {
    /// Ends it with `ECANCELED`.
    pub(crate) fn cancel(&self) -> Ended {
        match self {
            Wait::Time(timeout) if timeout.cancel() => Ended::Now,
            Wait::Time(_) => Ended::Before,
            Wait::Try(waiting) => waiting.cancel(),
            Wait::Transfer(watch) => match watch.cancel() {
                Some(ready) => {
                    // No events: the request was cancelled.
                    ready(0);
                    Ended::Now
                }
                None => Ended::Before,
            },
        }
    }

    /// The file that is waited for.
    pub(crate) fn file(&self) -> Option<&Arc<File>> {
        match self {
            Wait::Try(waiting) => Some(&waiting.file),
            Wait::Transfer(watch) => Some(watch.file()),
            Wait::Time(_) => None,
        }
    }
}
