//! Operations that are tried, and tried again when their file is ready: no thread waits with them.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::uring::{Cqe, cqe};
use abi::{Errno, Result};
use aio::{Held, pool};
use arch::VirtAddr;
use arch::lock::{IrqLock, LockClass};
use arch::uio::{Segment, Sink, Source};
use sched::{Listener, WaitQueue};
use vfs::{Direction, File, PollTable};

use crate::issue::{Env, Runner};
use crate::pending::{Ended, Wait};
use crate::request::{Next, Request};

static CLASS: LockClass = LockClass::new("uring.waiting", 588);

/// Always told of.
const ALWAYS: u32 = abi::poll::POLLERR | abi::poll::POLLHUP;

/// How an operation has ended.
pub struct Outcome {
    /// What the program is told.
    pub result: Result<usize>,
    /// `IORING_CQE_F_*`.
    pub flags: u32,
    /// It moved less than it was to move: its chain is broken.
    pub is_short: bool,
}

impl From<Result<usize>> for Outcome {
    fn from(result: Result<usize>) -> Outcome {
        Outcome { result, flags: 0, is_short: false }
    }
}

/// What came of a try.
pub enum Try {
    /// It has ended.
    Done(Outcome),
    /// The file is not ready: it is tried again when that has some of these events.
    Wait(u32),
    /// There is no event to wait for: a thread waits with it.
    Thread,
}

impl Try {
    /// It has ended so.
    pub fn done(result: Result<usize>) -> Try {
        Try::Done(result.into())
    }
}

/// Something that is done with a file as soon as that is ready.
pub trait Operation: Send {
    /// Tries it.
    fn attempt(&mut self, turn: &Turn<'_>) -> Try;

    /// Events to wait for before the first try.
    fn first_wait(&self) -> Option<u32> {
        None
    }

    /// What it comes to when it is cancelled.
    fn cancelled(&self) -> Outcome {
        Err(Errno::ECANCELED).into()
    }

    /// Whether it waits for events as such.
    fn is_poll(&self) -> bool {
        false
    }

    /// Whether it goes on after what it has told of.
    fn is_multi(&self) -> bool {
        false
    }

    /// It waits for other events (`IORING_POLL_UPDATE_EVENTS`).
    fn set_wanted(&mut self, _wanted: u32) {}
}

/// One try of an operation.
pub struct Turn<'a> {
    /// For whom.
    pub env: &'a Env,
    /// Its file.
    pub file: &'a Arc<File>,
    /// It is made by a thread that may wait.
    pub may_wait: bool,
    runner: Runner,
    request: &'a Request,
}

impl Turn<'_> {
    /// Lets `read` put bytes into the program's memory.
    pub fn with_sink<R>(
        &self,
        list: &[Segment],
        read: impl FnOnce(&mut Sink<'_>) -> Result<R>,
    ) -> Result<R> {
        if self.runner == Runner::Program {
            return read(&mut Sink::user_segments(list));
        }
        let held = Held::hold(&*self.env.who.space()?, list, Direction::Read)?;
        held.with_sink(read)
    }

    /// Lets `write` take bytes from the program's memory.
    pub fn with_source<R>(
        &self,
        list: &[Segment],
        write: impl FnOnce(&mut Source<'_>) -> Result<R>,
    ) -> Result<R> {
        if self.runner == Runner::Program {
            return write(&mut Source::user_segments(list));
        }
        let held = Held::hold(&*self.env.who.space()?, list, Direction::Write)?;
        held.with_source(write)
    }

    /// Writes to the program's memory.
    pub fn write(&self, to: VirtAddr, bytes: &[u8]) -> Result<()> {
        if self.runner == Runner::Program {
            return Ok(arch::user::copy_to_user(to, bytes)?);
        }
        let count = self.env.who.space()?.write_remote(to, bytes)?;
        if count == bytes.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Tells of a part of an operation that goes on, unless too many completions wait for room: then it has
    /// to end with this one.
    pub fn post(&self, count: usize, flags: u32) -> Option<Try> {
        let ring = &self.env.ring;
        if ring.is_overfull() {
            return Some(Try::Done(Outcome { result: Ok(count), flags, is_short: false }));
        }
        let res = count.min(i32::MAX as usize) as i32;
        let flags = flags | cqe::MORE;
        ring.post(Cqe { user_data: self.request.user_data, res, flags }, true);
        None
    }
}

type What = (Request, Box<dyn Operation>);

/// An operation that waits for its file.
pub(crate) struct Waiting {
    env: Arc<Env>,
    pub(crate) file: Arc<File>,
    user_data: u64,
    number: u64,
    wanted: u32,
    /// It waits for events as such.
    pub(crate) is_poll: bool,
    is_multi: bool,
    me: Weak<Waiting>,
    state: IrqLock<State>,
    /// A try is on its way.
    is_told: AtomicBool,
}

#[derive(Default)]
struct State {
    /// What is tried; not there while it is, and when it is over.
    what: Option<What>,
    queues: Vec<(Arc<WaitQueue>, u64)>,
    /// The file changed during a try.
    again: bool,
    is_cancelled: bool,
    is_over: bool,
}

impl Listener for Waiting {
    fn notify(&self, events: u32) {
        if events != 0 && events & (self.wanted | ALWAYS) == 0 {
            return;
        }
        if self.is_told.swap(true, Ordering::AcqRel) {
            return;
        }
        // A try takes the file's locks, which whoever tells may hold.
        let me = self.me.clone();
        pool::run(move || {
            if let Some(waiting) = me.upgrade() {
                waiting.is_told.store(false, Ordering::Release);
                waiting.go(Runner::Thread);
            }
        });
    }
}

/// Starts an operation; what is due if it has ended by now.
pub(crate) fn begin(
    env: &Arc<Env>,
    runner: Runner,
    mut request: Request,
    mut operation: Box<dyn Operation>,
    file: Arc<File>,
    in_background: bool,
) -> Option<Next> {
    if in_background {
        let env = env.clone();
        pool::run(move || {
            let next = begin(&env, Runner::Thread, request, operation, file, false);
            if let Some(Next { prepared, rest }) = next {
                crate::issue::run_chain(&env, Runner::Thread, prepared, rest);
            }
        });
        return None;
    }
    request.file = Some(file.clone());
    let first = match operation.first_wait() {
        Some(wanted) => Try::Wait(wanted),
        None => {
            let turn = Turn { env, file: &file, may_wait: false, runner, request: &request };
            operation.attempt(&turn)
        }
    };
    match first {
        Try::Done(outcome) => return request.finish_now(outcome),
        Try::Wait(wanted) => wait(env, runner, (request, operation), file, wanted),
        Try::Thread => in_thread(env.clone(), (request, operation), file),
    }
    None
}

/// A thread waits with it.
fn in_thread(env: Arc<Env>, (request, mut operation): What, file: Arc<File>) {
    pool::run(move || {
        let runner = Runner::Thread;
        let turn = Turn { env: &env, file: &file, may_wait: true, runner, request: &request };
        let outcome = match operation.attempt(&turn) {
            Try::Done(outcome) => outcome,
            Try::Wait(_) | Try::Thread => Err(Errno::EAGAIN).into(),
        };
        request.finish(outcome);
    });
}

/// Waits for the file.
fn wait(env: &Arc<Env>, runner: Runner, what: What, file: Arc<File>, wanted: u32) {
    let ring = env.ring.clone();
    let (user_data, number) = (what.0.user_data, ring.pending.number());
    let limit = what.0.limit.clone();
    let waiting = Arc::new_cyclic(|me| Waiting {
        env: env.clone(),
        file: file.clone(),
        user_data,
        number,
        wanted,
        is_poll: what.1.is_poll(),
        is_multi: what.1.is_multi(),
        me: me.clone(),
        state: IrqLock::new(&CLASS, State { what: Some(what), ..State::default() }),
        is_told: AtomicBool::new(false),
    });
    ring.pending.add(user_data, number, Wait::Try(waiting.clone()));
    let mut queues = Vec::new();
    let mut add = |queue: &Arc<WaitQueue>| {
        let listener: Arc<dyn Listener> = waiting.clone();
        queues.push((queue.clone(), queue.add_listener(listener, 0)));
    };
    let events = file.poll(Some(&mut PollTable::new(wanted, &mut add)));
    // Told meanwhile, it may be over already.
    let is_over = {
        let mut state = waiting.state.lock();
        if !state.is_over {
            state.queues = core::mem::take(&mut queues);
        }
        state.is_over
    };
    leave(queues);
    if is_over {
        ring.pending.remove(user_data, number);
        return;
    }
    // What would have ended it may have come before it could be found.
    if limit.is_some_and(|limit| limit.is_over()) || ring.is_closed.load(Ordering::Acquire) {
        waiting.cancel();
    } else if events & (wanted | ALWAYS) != 0 {
        waiting.go(runner);
    }
}

impl Waiting {
    /// Tries it until it has to wait.
    fn go(&self, runner: Runner) {
        loop {
            let (request, mut operation) = {
                let mut state = self.state.lock();
                let Some(what) = state.what.take() else {
                    // Whoever tries it now does so again.
                    state.again = true;
                    return;
                };
                state.again = false;
                what
            };
            let (env, file) = (&*self.env, &self.file);
            let turn = Turn { env, file, may_wait: false, runner, request: &request };
            let ended = match operation.attempt(&turn) {
                Try::Done(outcome) => Some(outcome),
                Try::Thread => {
                    self.end();
                    return in_thread(self.env.clone(), (request, operation), self.file.clone());
                }
                Try::Wait(_) => None,
            };
            let outcome = match ended {
                Some(outcome) => outcome,
                None => {
                    let mut state = self.state.lock();
                    if !state.is_cancelled {
                        state.what = Some((request, operation));
                        if state.again {
                            continue;
                        }
                        return;
                    }
                    drop(state);
                    operation.cancelled()
                }
            };
            self.end();
            return request.finish(outcome);
        }
    }

    /// It waits no more.
    fn end(&self) {
        let queues = {
            let mut state = self.state.lock();
            state.is_over = true;
            core::mem::take(&mut state.queues)
        };
        leave(queues);
        self.env.ring.pending.remove(self.user_data, self.number);
    }

    /// Takes it out of what waits, if it is not being tried.
    fn take(&self) -> Result<What> {
        let what = self.state.lock().what.take().ok_or(Errno::EALREADY)?;
        self.end();
        Ok(what)
    }

    /// Ends it, or sees to it that it ends after the try that is under way. Any context.
    pub(crate) fn cancel(&self) -> Ended {
        let what = {
            let mut state = self.state.lock();
            if state.is_over {
                return Ended::Before;
            }
            state.is_cancelled = true;
            state.what.take()
        };
        let Some((request, operation)) = what else {
            // One that goes on does so no more, whatever the try comes to.
            return if self.is_multi { Ended::Now } else { Ended::Soon };
        };
        self.end();
        request.finish(operation.cancelled());
        // What it holds may take locks to give up.
        pool::run(move || drop(operation));
        Ended::Now
    }

    /// `IORING_POLL_UPDATE_EVENTS` and `IORING_POLL_UPDATE_USER_DATA`.
    pub(crate) fn update(&self, wanted: Option<u32>, user_data: Option<u64>) -> Result<()> {
        let (mut request, mut operation) = self.take()?;
        if let Some(user_data) = user_data {
            request.user_data = user_data;
        }
        if let Some(wanted) = wanted {
            operation.set_wanted(wanted);
        }
        let wanted = operation.first_wait().unwrap_or(self.wanted);
        wait(&self.env, Runner::Thread, (request, operation), self.file.clone(), wanted);
        Ok(())
    }
}

fn leave(queues: Vec<(Arc<WaitQueue>, u64)>) {
    for (queue, id) in queues {
        queue.remove_listener(id);
    }
}
