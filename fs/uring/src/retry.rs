//! Operations that are tried, and tried again when their file is ready: no thread waits with them.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::cell::Cell;
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

/// Most completions of one try: others that wait for the thread, or for the call that submits, come next.
const AT_A_TIME: usize = 32;

/// Most bytes of a stream that are moved by one try in a thread, which holds their pages.
const WINDOW: usize = 1 << 20;

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
    /// It may go on at once, after others.
    Again(u32),
    /// It is tried again when this queue is told of something.
    Queue(Arc<WaitQueue>),
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
    runner: Runner,
    request: &'a Request,
    /// What waits for the file between tries.
    waiting: Option<&'a Waiting>,
    /// Completions of this try.
    posted: Cell<usize>,
}

impl<'a> Turn<'a> {
    fn new(
        env: &'a Env,
        file: &'a Arc<File>,
        runner: Runner,
        request: &'a Request,
        waiting: Option<&'a Waiting>,
    ) -> Turn<'a> {
        Turn { env, file, runner, request, waiting, posted: Cell::new(0) }
    }

    /// As much of the program's memory as one try should move of a stream; the rest is the next one's.
    pub fn window<'l>(&self, list: &'l [Segment]) -> Cow<'l, [Segment]> {
        if self.runner == Runner::Program {
            return Cow::Borrowed(list);
        }
        let mut left = WINDOW;
        let cut = |segment: &Segment| {
            let len = segment.len.min(left);
            left -= len;
            Segment { addr: segment.addr, len }
        };
        list.iter().map(cut).filter(|segment| segment.len > 0).collect()
    }

    /// Whether it is not to go on: it was cancelled, or the instance is closed.
    fn is_unwanted(&self) -> bool {
        let is_cancelled = |waiting: &Waiting| waiting.state.lock().is_cancelled;
        self.waiting.is_some_and(is_cancelled) || self.env.ring.is_closed.load(Ordering::Acquire)
    }

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

    /// Tells of a part of an operation that goes on when its file has some of the events `wanted`, unless the
    /// ring has no room: then it has to end with this one. What the try comes to, if it is over.
    pub fn post(&self, count: usize, flags: u32, wanted: u32) -> Option<Try> {
        let res = count.min(i32::MAX as usize) as i32;
        let user_data = self.request.user_data;
        if !self.env.ring.post_if_room(Cqe { user_data, res, flags: flags | cqe::MORE }) {
            return Some(Try::Done(Outcome { result: Ok(count), flags, is_short: false }));
        }
        if self.is_unwanted() {
            return Some(Try::Wait(wanted));
        }
        self.posted.set(self.posted.get() + 1);
        (self.posted.get() >= AT_A_TIME).then_some(Try::Again(wanted))
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
                waiting.env.who.act(|| waiting.go(Runner::Thread));
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
        let (env, who) = (env.clone(), env.who.clone());
        let run = move || {
            let next = begin(&env, Runner::Thread, request, operation, file, false);
            if let Some(Next { prepared, rest }) = next {
                crate::issue::run_chain(&env, Runner::Thread, prepared, rest);
            }
        };
        pool::run(move || who.act(run));
        return None;
    }
    request.file = Some(file.clone());
    let first = match operation.first_wait() {
        Some(wanted) => Try::Wait(wanted),
        None => operation.attempt(&Turn::new(env, &file, runner, &request, None)),
    };
    let on = match first {
        Try::Done(outcome) => return request.finish_now(outcome),
        Try::Wait(wanted) => On::File(wanted),
        Try::Again(wanted) => On::Turn(wanted),
        Try::Queue(queue) => On::Queue(queue),
    };
    wait(env, runner, (request, operation), file, on);
    None
}

/// What is waited for.
enum On {
    /// Events of the file.
    File(u32),
    /// The same, if there are none now; else that others have had their turn.
    Turn(u32),
    Queue(Arc<WaitQueue>),
}

/// Waits for the file.
fn wait(env: &Arc<Env>, runner: Runner, what: What, file: Arc<File>, on: On) {
    let ring = env.ring.clone();
    let (user_data, number) = (what.0.user_data, what.0.take_number());
    let limit = what.0.limit.clone();
    let wanted = match on {
        On::File(wanted) | On::Turn(wanted) => wanted,
        On::Queue(_) => u32::MAX,
    };
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
    ring.pending.add(user_data, number, Wait::Try(waiting.clone()), &env.who);
    let mut queues = Vec::new();
    let mut add = |queue: &Arc<WaitQueue>| {
        let listener: Arc<dyn Listener> = waiting.clone();
        queues.push((queue.clone(), queue.add_listener(listener, 0)));
    };
    let is_ready = match &on {
        // It may have been told before somebody listened.
        On::Queue(queue) => {
            add(queue);
            true
        }
        _ => file.poll(Some(&mut PollTable::new(wanted, &mut add))) & (wanted | ALWAYS) != 0,
    };
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
        return;
    }
    // What would have ended it may have come before it could be found.
    if limit.is_some_and(|limit| limit.is_over()) || ring.is_closed.load(Ordering::Acquire) {
        waiting.cancel();
    } else if is_ready {
        match on {
            On::File(_) => waiting.go(runner),
            _ => waiting.notify(0),
        }
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
            let turn = Turn::new(&self.env, &self.file, runner, &request, Some(self));
            // Nothing is done any more for a program that is gone.
            let came = match self.env.who.space.strong_count() {
                0 => Try::Done(operation.cancelled()),
                _ => operation.attempt(&turn),
            };
            if let Try::Done(outcome) = came {
                self.end();
                return request.finish(outcome);
            }
            let mut state = self.state.lock();
            if state.is_cancelled {
                drop(state);
                self.end();
                return request.finish(operation.cancelled());
            }
            if let Try::Queue(queue) = &came
                && !state.queues.iter().any(|(other, _)| Arc::ptr_eq(other, queue))
            {
                // It waits for something else now.
                drop(state);
                self.end();
                let on = On::Queue(queue.clone());
                return wait(&self.env, runner, (request, operation), self.file.clone(), on);
            }
            let is_due = core::mem::take(&mut state.again);
            state.what = Some((request, operation));
            drop(state);
            match came {
                Try::Again(_) => return self.notify(0),
                _ if is_due => {}
                _ => return,
            }
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
            if let Some(limit) = &request.limit {
                limit.rename_target(user_data);
            }
        }
        if let Some(wanted) = wanted {
            operation.set_wanted(wanted);
        }
        let wanted = operation.first_wait().unwrap_or(self.wanted);
        let on = On::File(wanted);
        wait(&self.env, Runner::Thread, (request, operation), self.file.clone(), on);
        Ok(())
    }
}

fn leave(queues: Vec<(Arc<WaitQueue>, u64)>) {
    for (queue, id) in queues {
        queue.remove_listener(id);
    }
}
