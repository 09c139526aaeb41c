//! Taking entries from the submission ring, chain by chain.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering;

use abi::uring::{Sqe, setup, sqe};
use aio::context::{self, Follower};
use vm::AddressSpace;

use crate::issue::{Env, Runner, run_chain};
use crate::prepare::{Prepared, Reader, prepare};
use crate::rings::{Uring, word};

/// What was taken and not started yet.
#[derive(Default)]
pub(crate) struct Queue {
    /// Chains that wait until all before them have ended.
    deferred: VecDeque<(Arc<Env>, VecDeque<Prepared>)>,
    /// The memory of who submitted last: the instance follows it.
    last: Weak<AddressSpace>,
}

impl Follower for Uring {
    fn space_ended(&self) {
        self.pending.cancel_orphans();
    }
}

impl Uring {
    /// The next entry of the ring; `None` if there is none, or the ring names none. The queue is locked.
    fn next_entry(&self) -> Option<Sqe> {
        let head = self.shared.load(word::SQ_HEAD);
        if head == self.shared.load(word::SQ_TAIL) {
            return None;
        }
        let at = self.array + (head & (self.sq_entries - 1)) as usize * 4;
        let index: u32 = self.shared.read(at);
        let entry =
            (index < self.sq_entries).then(|| self.entries.read(index as usize * size_of::<Sqe>()));
        self.shared.store(word::SQ_HEAD, head.wrapping_add(1));
        if entry.is_none() {
            let dropped = self.shared.load(word::SQ_DROPPED);
            self.shared.store(word::SQ_DROPPED, dropped.wrapping_add(1));
        }
        entry
    }

    /// Entries that wait to be taken.
    pub(crate) fn to_submit(&self) -> u32 {
        self.shared.load(word::SQ_TAIL).wrapping_sub(self.shared.load(word::SQ_HEAD))
    }

    /// Takes up to `count` entries and starts them; how many were taken. None while the program leaves too
    /// many completions.
    pub fn submit(self: &Arc<Self>, env: &Arc<Env>, reader: &Reader<'_>, count: u32) -> u32 {
        let runner = match reader {
            Reader::Current => Runner::Program,
            Reader::Other(_) => Runner::Thread,
        };
        // More are not in the ring, whatever its tail says.
        let count = if self.is_overfull() { 0 } else { count.min(self.sq_entries) };
        let mut queue = self.queue.lock();
        if !self.follow(&mut queue, env) {
            return 0;
        }
        let mut taken = 0;
        let mut is_wrong = false;
        while taken < count && !is_wrong {
            let mut chain = VecDeque::new();
            let mut drains = false;
            while taken < count {
                let Some(entry) = self.next_entry() else { break };
                taken += 1;
                let prepared = prepare(env, &entry, reader);
                drains |= entry.flags & sqe::IO_DRAIN != 0;
                is_wrong |= prepared.is_wrong && self.flags & setup::SUBMIT_ALL == 0;
                let goes_on = prepared.has_link() && !is_wrong;
                chain.push_back(prepared);
                if !goes_on {
                    break;
                }
            }
            if chain.is_empty() {
                break;
            }
            // Counted from here on, started or not.
            let before = self.running.load(Ordering::Acquire);
            if drains && before != 0 || !queue.deferred.is_empty() {
                queue.deferred.push_back((env.clone(), chain));
                self.has_deferred.store(true, Ordering::Release);
                if self.running.load(Ordering::Acquire) == 0 {
                    self.start_deferred(&mut queue);
                }
                continue;
            }
            self.start(env, runner, chain);
        }
        taken
    }

    /// Sees to it that what waits for instances ends with the program; whether there was memory for that.
    fn follow(self: &Arc<Self>, queue: &mut Queue, env: &Env) -> bool {
        let space = &env.who.space;
        if queue.last.ptr_eq(space) {
            return true;
        }
        let follower: Weak<Uring> = Arc::downgrade(self);
        let follows =
            space.upgrade().is_some_and(|space| context::follow(&space, follower).is_ok());
        if follows {
            queue.last = space.clone();
        }
        follows
    }

    fn start(self: &Arc<Self>, env: &Arc<Env>, runner: Runner, mut chain: VecDeque<Prepared>) {
        self.running.fetch_add(chain.len(), Ordering::AcqRel);
        if let Some(first) = chain.pop_front() {
            run_chain(env, runner, first, chain);
        }
    }

    /// All that was running has ended.
    pub(crate) fn go_on(self: &Arc<Self>) {
        let mut queue = self.queue.lock();
        if self.running.load(Ordering::Acquire) == 0 {
            self.start_deferred(&mut queue);
        }
    }

    /// Starts the first chain that waits, and those behind it that need not wait for it.
    fn start_deferred(self: &Arc<Self>, queue: &mut Queue) {
        while let Some((env, chain)) = queue.deferred.pop_front() {
            env.who.act(|| self.start(&env, Runner::Thread, chain));
            let waits = queue.deferred.front().is_some_and(|(_, chain)| {
                chain.iter().any(|entry| entry.flags & sqe::IO_DRAIN != 0)
            });
            if waits && self.running.load(Ordering::Acquire) != 0 {
                break;
            }
        }
        self.has_deferred.store(!queue.deferred.is_empty(), Ordering::Release);
    }

    /// Whether a thread of the kernel submits.
    pub fn has_poller(&self) -> bool {
        self.flags & setup::SQPOLL != 0
    }
}
