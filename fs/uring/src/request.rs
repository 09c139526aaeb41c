//! [`Request`]: an entry under way, and the chain behind it.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::uring::{Cqe, sqe};
use abi::{Errno, Result};
use vfs::File;

use crate::issue::{self, Env, Runner};
use crate::prepare::Prepared;
use crate::retry::Outcome;
use crate::rings::Uring;
use crate::timeout::Timeout;

/// An entry that was started. It is completed once.
pub struct Request {
    pub(crate) ring: Arc<Uring>,
    pub(crate) user_data: u64,
    flags: u8,
    /// What is started when it has succeeded.
    rest: VecDeque<Prepared>,
    pub(crate) env: Arc<Env>,
    /// Its number among those that wait, if it has one from the first on.
    pub(crate) number: Option<u64>,
    /// The result that counts as success, if only one does.
    pub(crate) expected: Option<usize>,
    pub(crate) file: Option<Arc<File>>,
    /// What its completion has besides the result.
    pub(crate) cqe_flags: u32,
    /// Ends it when it takes too long.
    pub(crate) limit: Option<Arc<Timeout>>,
}

/// What a completion leaves to be done.
pub(crate) struct Next {
    pub(crate) prepared: Prepared,
    pub(crate) rest: VecDeque<Prepared>,
}

/// A result as the program sees it.
pub(crate) fn res_of(result: Result<usize>) -> i32 {
    match result {
        Ok(count) => count.min(i32::MAX as usize) as i32,
        Err(error) if error.raw() >= 512 => -Errno::EINTR.raw(),
        Err(error) => -error.raw(),
    }
}

impl Request {
    pub(crate) fn new(
        env: &Arc<Env>,
        user_data: u64,
        flags: u8,
        rest: VecDeque<Prepared>,
    ) -> Request {
        Request {
            ring: env.ring.clone(),
            user_data,
            flags,
            rest,
            env: env.clone(),
            number: None,
            expected: None,
            file: None,
            cqe_flags: 0,
            limit: None,
        }
    }

    /// Its number among those that wait.
    pub(crate) fn take_number(&self) -> u64 {
        self.number.unwrap_or_else(|| self.ring.pending.number())
    }

    /// It has ended, in any context; the rest of its chain goes on in a thread.
    pub(crate) fn complete(self, result: Result<usize>) {
        let res = res_of(result);
        let is_success = self.is_success(res);
        self.complete_as(res, is_success);
    }

    pub(crate) fn complete_as(self, res: i32, is_success: bool) {
        let env = self.env.clone();
        match self.settle(res, is_success, true) {
            Some(next) => aio::pool::run(move || {
                let run = || issue::run_chain(&env, Runner::Thread, next.prepared, next.rest);
                env.who.act(run);
            }),
            None => aio::pool::let_go(env),
        }
    }

    /// It has ended while it was started; what comes next.
    pub(crate) fn complete_now(self, result: Result<usize>) -> Option<Next> {
        let res = res_of(result);
        let is_success = self.is_success(res);
        self.settle(res, is_success, false)
    }

    /// The same as [`complete`](Self::complete) for an operation that was tried.
    pub(crate) fn finish(mut self, outcome: Outcome) {
        self.cqe_flags = outcome.flags;
        let res = res_of(outcome.result);
        self.complete_as(res, res >= 0 && !outcome.is_short);
    }

    /// The same while it was started; what comes next.
    pub(crate) fn finish_now(mut self, outcome: Outcome) -> Option<Next> {
        self.cqe_flags = outcome.flags;
        let res = res_of(outcome.result);
        self.settle(res, res >= 0 && !outcome.is_short, false)
    }

    fn is_success(&self, res: i32) -> bool {
        res >= 0 && self.expected.is_none_or(|expected| res as usize == expected)
    }

    fn settle(mut self, res: i32, is_success: bool, is_late: bool) -> Option<Next> {
        let silent = self.flags & sqe::CQE_SKIP_SUCCESS != 0 && res >= 0;
        let cqe = Cqe { user_data: self.user_data, res, flags: self.cqe_flags };
        if !silent {
            self.ring.post(cqe, is_late);
        }
        if let Some(file) = self.file.take() {
            aio::pool::let_go(file);
        }
        if let Some(limit) = self.limit.take() {
            limit.cancel();
        }
        let mut rest = core::mem::take(&mut self.rest);
        let goes_on = is_success || self.flags & sqe::IO_HARDLINK != 0;
        let next = match goes_on {
            true => rest.pop_front(),
            false => {
                // The timeout of a link that never came about ends with it.
                for prepared in rest.drain(..) {
                    cancelled(&self.ring, &prepared);
                }
                None
            }
        };
        self.ring.ended(1);
        next.map(|prepared| Next { prepared, rest })
    }
}

/// An entry of a broken chain.
fn cancelled(ring: &Arc<Uring>, prepared: &Prepared) {
    let cqe = Cqe { user_data: prepared.user_data, res: -Errno::ECANCELED.raw(), flags: 0 };
    ring.post(cqe, true);
    ring.ended(1);
}

impl Uring {
    /// Requests have ended; those that waited for all before them may go on.
    pub(crate) fn ended(self: &Arc<Self>, count: usize) {
        if self.running.fetch_sub(count, Ordering::AcqRel) == count
            && self.has_deferred.load(Ordering::Acquire)
        {
            let ring = self.clone();
            aio::pool::run(move || ring.go_on());
        }
    }
}
