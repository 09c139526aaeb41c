//! Starting what was prepared.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::uring::{Sqe, sqe};
use abi::{Errno, Result};
use aio::transfer::Started;
use aio::watch::Watch;
use aio::{Held, Memory, Submitter, Transfer};
use vfs::rw::At;
use vfs::{Direction, FdTable, File, FileKind, FileMode};

use crate::buffers::{Picked, Row};
use crate::pending::{Ended, Wait};
use crate::poll::ReadSelected;
use crate::prepare::{Prepared, Reader};
use crate::request::{Next, Request};
use crate::retry::{self, Operation, Outcome};
use crate::rings::Uring;
use crate::timeout::{self, Timeout, When};

/// What an entry does that is over when it returns.
pub type Call = Box<dyn FnOnce(&Env) -> Result<usize> + Send>;

/// An entry that somebody else made ready.
pub enum Made {
    /// It is over when it returns.
    Call(Call),
    /// It is tried on a file, and tried again when that is ready.
    Operation(Box<dyn Operation>),
}

/// Entries that the calls on paths, descriptors and sockets serve.
pub trait Extra: Send + Sync {
    /// Makes an entry ready; `None` if there is no such operation.
    fn prepare(&self, entry: &Sqe, reader: &Reader<'_>) -> Option<Result<Made>>;

    /// Whether there is such an operation.
    fn knows(&self, opcode: u8) -> bool;
}

/// For whom entries are started.
pub struct Env {
    /// The instance.
    pub ring: Arc<Uring>,
    /// Who submitted.
    pub who: Arc<Submitter>,
    /// The descriptors. They are closed when the program ends, also while requests wait, and that is what
    /// ends those.
    pub files: Weak<FdTable>,
    /// The other operations.
    pub extra: Arc<dyn Extra>,
}

/// What an entry asks for.
pub(crate) enum Work {
    Nop,
    Transfer { fd: i32, direction: Direction, pos: u64, rwf: u32, memory: Memory },
    Sync { fd: i32, range: Range<u64>, data_only: bool },
    SyncRange { fd: i32, range: Range<u64>, flags: u32 },
    Select { fd: i32, group: u16, wanted: usize, pos: u64, rwf: u32 },
    Try { fd: i32, operation: Box<dyn Operation> },
    PollRemove { target: u64, wanted: Option<u32>, user_data: Option<u64> },
    Timeout { at_ns: u64, completions: u64, is_success: bool },
    LinkTimeout { at_ns: u64 },
    TimeoutRemove { target: u64, at_ns: Option<u64>, is_limit: bool },
    Cancel { target: Target, all: bool },
    Provide { group: u16, row: Row },
    RemoveBuffers { group: u16, most: u32 },
    FilesUpdate { first: u32, fds: Vec<i32> },
    Extra(Call),
}

/// What is to be cancelled.
pub(crate) enum Target {
    Named(u64),
    File { fd: i32, is_fixed: bool },
    Any,
}

impl Env {
    /// The descriptors; `EBADF` once the program has none any more.
    pub fn files(&self) -> Result<Arc<FdTable>> {
        self.files.upgrade().ok_or(Errno::EBADF)
    }

    /// The file of an entry: a registered one if its flags say so.
    pub fn file(&self, fd: i32, flags: u8) -> Result<Arc<File>> {
        if flags & sqe::FIXED_FILE != 0 {
            return self.ring.registered.file(fd as u32);
        }
        self.files()?.get(fd)
    }
}

/// Who starts an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Runner {
    /// The program that submitted it: its memory is at hand.
    Program,
    /// A thread of the kernel.
    Thread,
}

/// Starts an entry, and those behind it as they become due.
pub(crate) fn run_chain(env: &Arc<Env>, runner: Runner, first: Prepared, rest: VecDeque<Prepared>) {
    let mut next = Some(Next { prepared: first, rest });
    while let Some(Next { prepared, rest }) = next {
        next = start(env, runner, prepared, rest);
    }
}

/// Starts one; what is due if it has ended by now.
fn start(
    env: &Arc<Env>,
    runner: Runner,
    prepared: Prepared,
    mut rest: VecDeque<Prepared>,
) -> Option<Next> {
    let Prepared { user_data, flags, work, is_wrong: _ } = prepared;
    let limit = match rest.front().map(|next| &next.work) {
        Some(Work::LinkTimeout { at_ns }) => {
            let at_ns = *at_ns;
            rest.pop_front().map(|limit| (limit, at_ns))
        }
        _ => None,
    };
    let mut request = Request::new(env, user_data, flags, rest);
    if let Some((limit, at_ns)) = limit {
        let timer = Request::new(env, limit.user_data, limit.flags, VecDeque::new());
        let when = When { at_ns, completions: 0, is_success: false };
        let number = env.ring.pending.number();
        request.number = Some(number);
        let target = timeout::Target::new(user_data, number);
        request.limit = Some(Timeout::begin(timer, &when, Some(target)));
    }
    match work {
        Work::Transfer { fd, direction, pos, rwf, memory } => {
            let file = match env.file(fd, flags) {
                Ok(file) => file,
                Err(error) => return request.complete_now(Err(error)),
            };
            let memory = match memory {
                Memory::User(list) if runner == Runner::Thread => {
                    match env.who.space().and_then(|space| Held::hold(&space, &list, direction)) {
                        Ok(held) => Memory::Held(held),
                        Err(error) => return request.complete_now(Err(error)),
                    }
                }
                memory => memory,
            };
            transfer(env, request, file, direction, pos, (rwf, flags), (memory, None));
            None
        }
        Work::Sync { fd, range, data_only } => {
            let file = match env.file(fd, flags) {
                Ok(file) => file,
                Err(error) => return request.complete_now(Err(error)),
            };
            request.file = Some(file.clone());
            aio::transfer::sync(
                file,
                range,
                data_only,
                Box::new(|result| request.complete(result)),
            );
            None
        }
        Work::Select { fd, group, wanted, pos, rwf } => {
            let file = match env.file(fd, flags) {
                Ok(file) => file,
                Err(error) => return request.complete_now(Err(error)),
            };
            select(env, request, file, (group, wanted), pos, (rwf, flags))
        }
        Work::Try { fd, operation } => {
            let file = match env.file(fd, flags) {
                Ok(file) => file,
                Err(error) => return request.complete_now(Err(error)),
            };
            let in_background = flags & sqe::ASYNC != 0;
            retry::begin(env, runner, request, operation, file, in_background)
        }
        Work::Timeout { at_ns, completions, is_success } => {
            Timeout::begin(request, &When { at_ns, completions, is_success }, None);
            None
        }
        Work::Extra(call) if flags & sqe::ASYNC != 0 => {
            let env = env.clone();
            aio::pool::run(move || request.complete(env.who.act(|| call(&env))));
            None
        }
        now => {
            let result = at_once(env, flags, now);
            request.complete_now(result)
        }
    }
}

/// What is over when it returns.
fn at_once(env: &Env, flags: u8, work: Work) -> Result<usize> {
    let pending = &env.ring.pending;
    match work {
        Work::Nop => Ok(0),
        Work::SyncRange { fd, range, flags: how } => {
            let file = env.file(fd, flags)?;
            if how & !7 != 0 {
                return Err(Errno::EINVAL);
            }
            match file.inode().kind {
                FileKind::Regular | FileKind::BlockDevice => {}
                _ => return Err(Errno::ESPIPE),
            }
            if how & 2 != 0 {
                vfs::rw::fsync(&file, range, true)?;
            }
            Ok(0)
        }
        Work::PollRemove { target, wanted, user_data } => {
            let found = pending.named(target, |wait| match wait {
                Wait::Try(waiting) => waiting.is_poll,
                _ => false,
            });
            let Some(Wait::Try(waiting)) = found.into_iter().next() else {
                return Err(Errno::ENOENT);
            };
            if wanted.is_some() || user_data.is_some() {
                return waiting.update(wanted, user_data).map(|()| 0);
            }
            cancelled([waiting.cancel()].into_iter())
        }
        Work::TimeoutRemove { target, at_ns, is_limit } => {
            let found = pending.named(target, |wait| match wait {
                Wait::Time(timeout) => timeout.is_limit() == is_limit,
                _ => false,
            });
            let Some(Wait::Time(timeout)) = found.into_iter().next() else {
                return Err(Errno::ENOENT);
            };
            let is_in_time = match at_ns {
                Some(at_ns) => timeout.move_to(at_ns),
                None => timeout.cancel(),
            };
            if is_in_time { Ok(0) } else { Err(Errno::EALREADY) }
        }
        Work::Cancel { target, all } => {
            let found: Vec<Wait> = match target {
                Target::Named(target) => pending.named(target, |_| true),
                Target::Any => pending.matching(|_| true),
                Target::File { fd, is_fixed } => {
                    let file = env.file(fd, if is_fixed { sqe::FIXED_FILE } else { 0 })?;
                    pending
                        .matching(|wait| wait.file().is_some_and(|other| Arc::ptr_eq(other, &file)))
                }
            };
            let mut ended = found.iter().map(Wait::cancel);
            if all {
                return Ok(ended.filter(|ended| *ended != Ended::Before).count());
            }
            cancelled(&mut ended)
        }
        Work::Provide { group, row } => env.ring.groups.provide(group, &row).map(|()| 0),
        Work::RemoveBuffers { group, most } => env.ring.groups.remove(group, most),
        Work::FilesUpdate { first, fds } => env.ring.update_files(&*env.files()?, first, &fds),
        // One that no entry comes before.
        Work::LinkTimeout { .. } => Err(Errno::EINVAL),
        Work::Extra(call) => call(env),
        _ => Err(Errno::EINVAL),
    }
}

/// What the first of them that could be cancelled says.
fn cancelled(mut ended: impl Iterator<Item = Ended>) -> Result<usize> {
    match ended.find(|ended| *ended != Ended::Before) {
        Some(Ended::Now) => Ok(0),
        Some(_) => Err(Errno::EALREADY),
        None => Err(Errno::ENOENT),
    }
}

/// A read into a provided buffer: it is taken when there is something to read.
fn select(
    env: &Arc<Env>,
    request: Request,
    file: Arc<File>,
    (group, wanted): (u16, usize),
    pos: u64,
    how: (u32, u8),
) -> Option<Next> {
    let is_stream = !matches!(file.inode().kind, FileKind::Regular | FileKind::BlockDevice);
    if is_stream {
        let operation = Box::new(ReadSelected { group, wanted, pos });
        return retry::begin(env, Runner::Thread, request, operation, file, false);
    }
    let picked = match env.ring.pick(group) {
        Ok(picked) => picked,
        Err(error) => return request.complete_now(Err(error)),
    };
    let list = [picked.segment(wanted)];
    match env.who.space().and_then(|space| Held::hold(&space, &list, Direction::Read)) {
        Ok(held) => {
            let memory = (Memory::Held(held), Some(picked));
            transfer(env, request, file, Direction::Read, pos, how, memory);
            None
        }
        Err(error) => {
            env.ring.put_back(picked);
            request.complete_now(Err(error))
        }
    }
}

fn transfer(
    env: &Env,
    mut request: Request,
    file: Arc<File>,
    direction: Direction,
    pos: u64,
    (rwf, flags): (u32, u8),
    (memory, picked): (Memory, Option<Picked>),
) {
    let known = abi::fcntl::RWF_HIPRI
        | abi::fcntl::RWF_DSYNC
        | abi::fcntl::RWF_SYNC
        | abi::fcntl::RWF_NOWAIT
        | abi::fcntl::RWF_APPEND;
    if rwf & !known != 0 {
        return request.complete(Err(Errno::EOPNOTSUPP));
    }
    let is_stream = !file.mode().contains(FileMode::POSITIONAL);
    let at = match pos {
        u64::MAX => At::Position,
        0 if is_stream => At::Position,
        pos => At::Offset(pos),
    };
    let in_background = flags & sqe::ASYNC != 0;
    request.file = Some(file.clone());
    request.expected = Some(memory.len());
    let user_data = request.user_data;
    let limit = request.limit.clone();
    let number = request.take_number();
    let done = Box::new(move |result| {
        request.ring.pending.remove(user_data, number);
        match picked {
            None => request.complete(result),
            Some(picked) if result.is_ok() => {
                request.finish(Outcome { result, flags: picked.flags(), is_short: false });
            }
            Some(picked) => {
                request.ring.put_back(picked);
                request.complete(result);
            }
        }
    });
    let transfer = Transfer { file, direction, at, rwf, in_background };
    if let Started::Watching(watch) = transfer.start(&env.who, memory, done) {
        remember(env, (user_data, number), &watch, limit);
    }
}

/// Lets a request that waits for a file be found, unless it has ended by now, and ends it if what would have
/// ended it came before it could be found.
fn remember(
    env: &Env,
    (user_data, number): (u64, u64),
    watch: &Arc<Watch>,
    limit: Option<Arc<Timeout>>,
) {
    if !watch.is_waiting() {
        return;
    }
    let (ring, wait) = (&env.ring, Wait::Transfer(watch.clone()));
    ring.pending.add(user_data, number, wait.clone(), &env.who);
    if !watch.is_waiting() {
        return ring.pending.remove(user_data, number);
    }
    let is_late = limit.is_some_and(|limit| limit.is_over());
    if is_late || ring.is_closed.load(Ordering::Acquire) {
        wait.cancel();
    }
}
