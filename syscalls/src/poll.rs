//! poll, select.

use crate::Cx;
use abi::poll::*;
use abi::process::Resource;
use abi::signal::SigSet;
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::user;
use core::sync::atomic::{AtomicBool, Ordering};
use process::Task;
use process::signal::wait::{begin_temporary, end_temporary};
use sched::{Deadline, Listener, Thread, WaitError, WaitQueue};
use smallvec::SmallVec;
use vfs::{File, Lookups, PollTable};
use zerocopy::IntoBytes;

crate::syscalls! {
    7 poll => sys_poll(fds: Hex, count: Dec, timeout: Dec);
    23 select => sys_select(count: Dec, read: Hex, write: Hex, except: Hex, timeout: Hex);
    270 pselect6 => sys_pselect6(count: Dec, read: Hex, write: Hex, except: Hex, timeout: Timespec, mask: Hex);
    271 ppoll => sys_ppoll(fds: Hex, count: Dec, timeout: Timespec, mask: Hex, size: Dec);
}

/// Wakes a polling thread.
struct Poller {
    woken: AtomicBool,
    thread: Arc<Thread>,
}

impl Listener for Poller {
    fn notify(&self, _: u32) {
        self.woken.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// The queues a poll listens to, until it ends. Made of nothing until a file has a queue: most
/// calls find something ready, or only files that always are.
#[derive(Default)]
struct Registered {
    poller: Option<Arc<Poller>>,
    queues: SmallVec<[(Arc<WaitQueue>, u64); 8]>,
}

impl Registered {
    fn add(&mut self, queue: &Arc<WaitQueue>) {
        if self.poller.is_none() {
            let Some(thread) = sched::current().arc() else { return };
            self.poller = Some(Arc::new(Poller { woken: AtomicBool::new(false), thread }));
        }
        if let Some(poller) = &self.poller {
            let id = queue.add_listener(poller.clone(), 0);
            self.queues.push((queue.clone(), id));
        }
    }

    /// Whether a queue was notified since the last call.
    fn was_woken(&self) -> bool {
        self.poller.as_ref().is_some_and(|poller| poller.woken.swap(false, Ordering::SeqCst))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        for (queue, id) in &self.queues {
            queue.remove_listener(*id);
        }
    }
}

/// A descriptor that is waited for.
struct Entry {
    file: Arc<File>,
    /// Which of the caller's it is.
    place: usize,
    wanted: u32,
    found: u32,
}

/// Room for the descriptors of most calls.
type Entries = SmallVec<[Entry; 16]>;

/// The first look at a file: `registered` is told of its queues if the call may have to wait.
#[inline]
fn first_look(file: &File, wanted: u32, registered: Option<&mut Registered>) -> u32 {
    let events = match registered {
        Some(registered) => {
            let mut add = |queue: &Arc<WaitQueue>| registered.add(queue);
            file.poll(Some(&mut PollTable::new(wanted, &mut add)))
        }
        None => file.poll(None),
    };
    events & wanted
}

/// Waits until an entry has events, the deadline passes (0) or a signal comes (`EINTR`). Every
/// entry has had its first look.
fn wait(
    entries: &mut [Entry],
    registered: &Registered,
    deadline: Option<Deadline>,
) -> Result<usize> {
    loop {
        match sched::park_interruptible(|| registered.was_woken().then_some(()), deadline) {
            Ok(()) => {}
            Err(WaitError::TimedOut) => return Ok(0),
            Err(WaitError::Interrupted) => return Err(Errno::EINTR),
        }
        let mut ready = 0;
        for entry in entries.iter_mut() {
            entry.found = first_look(&entry.file, entry.wanted, None);
            ready += usize::from(entry.found != 0);
        }
        if ready > 0 {
            return Ok(ready);
        }
    }
}

/// Descriptors read from the caller at a time.
const CHUNK: usize = 32;

/// `struct pollfd`: the descriptor; wanted events in the low half and found ones in the high half.
type PollFd = [i32; 2];
/// Its length.
const POLL_FD: u64 = size_of::<PollFd>() as u64;
/// Where the found events are in it.
const FOUND: u64 = 6;

/// What is looked for: the caller always hears of errors and hang-ups.
fn wanted([_, events]: PollFd) -> u32 {
    events as u32 & 0xffff | POLLERR | POLLHUP
}

/// Looks at each descriptor; how many have events. Apart from [`first_looks`], because it needs so
/// little that all of it stays in registers.
#[inline(never)]
fn look_now(files: &mut Lookups<'_>, asked: &[PollFd], found: &mut [u16]) -> usize {
    let mut ready = 0;
    for (&entry, found) in asked.iter().zip(found) {
        let events = match files.get(entry[0]) {
            Ok(file) => first_look(&file, wanted(entry), None),
            Err(_) if entry[0] < 0 => 0,
            Err(_) => POLLNVAL,
        };
        *found = events as u16;
        ready += usize::from(events != 0);
    }
    ready
}

/// The descriptors that a call waits for.
#[derive(Default)]
struct Waited {
    registered: Registered,
    entries: Entries,
}

/// As [`look_now`], and notes descriptors without events, the first at `place` of the caller's,
/// to be waited for if none has some.
#[inline(never)]
fn first_looks(
    waited: &mut Waited,
    files: &mut Lookups<'_>,
    asked: &[PollFd],
    place: usize,
    found: &mut [u16],
) -> usize {
    for (at, &entry) in asked.iter().enumerate() {
        let events = match files.get(entry[0]) {
            Ok(file) => {
                let wanted = wanted(entry);
                let events = first_look(&file, wanted, Some(&mut waited.registered));
                if events == 0 {
                    waited.entries.push(Entry { file, place: place + at, wanted, found: 0 });
                    continue;
                }
                events
            }
            Err(_) if entry[0] < 0 => continue,
            Err(_) => POLLNVAL,
        };
        let rest = at + 1;
        if let (Some(asked), Some(found)) = (asked.get(rest..), found.get_mut(at..))
            && let Some((first, found)) = found.split_first_mut()
        {
            *first = events as u16;
            return 1 + look_now(files, asked, found);
        }
    }
    0
}

/// Tells the caller what was found of the descriptors from `at` on.
fn put_found(at: VirtAddr, found: &[u16]) -> Result<()> {
    Ok(user::scatter_u16(at.wrapping_add(FOUND), found)?)
}

fn poll_descriptors(
    task: &Task,
    fds: VirtAddr,
    count: usize,
    deadline: Option<Deadline>,
    now: bool,
) -> Result<usize> {
    if count as u64 > task.limit(Resource::Nofile) {
        return Err(Errno::EINVAL);
    }
    if !user::range_ok(fds, count * POLL_FD as usize) {
        return Err(Errno::EFAULT);
    }
    let files = task.files().ok_or(Errno::EBADF)?;
    let mut files = files.lookups();
    let mut waited = Waited::default();
    let mut ready = 0;
    for first in (0..count).step_by(CHUNK) {
        let mut chunk = [PollFd::default(); CHUNK];
        let len = (count - first).min(CHUNK);
        let asked = chunk.get_mut(..len).unwrap_or_default();
        let at = fds.wrapping_add(first as u64 * POLL_FD);
        user::copy_from_user(asked.as_mut_bytes(), at)?;
        let mut found = [0; CHUNK];
        ready += if now || ready > 0 {
            look_now(&mut files, asked, &mut found)
        } else {
            first_looks(&mut waited, &mut files, asked, first, &mut found)
        };
        put_found(at, found.get(..len).unwrap_or_default())?;
    }
    if ready > 0 || now {
        return Ok(ready);
    }
    let ready = wait(&mut waited.entries, &waited.registered, deadline)?;
    for entry in waited.entries.iter().filter(|entry| entry.found != 0) {
        put_found(fds.wrapping_add(entry.place as u64 * POLL_FD), &[entry.found as u16])?;
    }
    Ok(ready)
}

fn sys_poll(cx: &mut Cx<'_>, fds: VirtAddr, count: u32, timeout_ms: i32) -> Result<usize> {
    let deadline = crate::time::deadline_ms(timeout_ms);
    poll_again(cx.task, fds, count as usize, deadline, timeout_ms == 0)
}

fn poll_again(
    task: &Task,
    fds: VirtAddr,
    count: usize,
    deadline: Option<Deadline>,
    now: bool,
) -> Result<usize> {
    match poll_descriptors(task, fds, count, deadline, now) {
        Err(Errno::EINTR) => {
            Err(task.restart_with(move |task| poll_again(task, fds, count, deadline, now)))
        }
        other => other,
    }
}

/// Runs `call` under a temporary signal mask.
fn masked(
    task: &Task,
    mask: VirtAddr,
    size: usize,
    call: impl FnOnce() -> Result<usize>,
) -> Result<usize> {
    if mask.is_null() {
        return call().map_err(no_hand);
    }
    if size != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    let set: SigSet = user::read_val(mask)?;
    begin_temporary(task, set);
    let result = call().map_err(no_hand);
    end_temporary(task, result == Err(Errno::ERESTARTNOHAND));
    result
}

fn no_hand(error: Errno) -> Errno {
    if error == Errno::EINTR { Errno::ERESTARTNOHAND } else { error }
}

fn sys_ppoll(
    cx: &mut Cx<'_>,
    fds: VirtAddr,
    count: u32,
    timeout: VirtAddr,
    mask: VirtAddr,
    size: usize,
) -> Result<usize> {
    let limit = crate::time::read_timeout(timeout)?;
    let deadline = crate::time::deadline_ns(limit);
    let task = cx.task;
    let result = masked(task, mask, size, || {
        poll_descriptors(task, fds, count as usize, deadline, limit == Some(0))
    });
    write_left(timeout, deadline)?;
    result
}

/// Linux tells how much time was left.
fn write_left(at: VirtAddr, deadline: Option<Deadline>) -> Result<()> {
    if let Some(deadline) = deadline {
        let left = deadline.monotonic_ns().saturating_sub(arch::time::now_ns());
        // A time-out that cannot be written is not an error.
        let _ = crate::time::write_timespec(at, left);
    }
    Ok(())
}

/// Words of three sets of 1024 descriptors and of three answers: no allocation for most calls.
type Bits = SmallVec<[u64; 6 * 16]>;

/// Reads the caller's sets, `words` words each, of the first `count` descriptors.
fn read_sets(wanted: &mut [u64], words: usize, at: [VirtAddr; 3], count: usize) -> Result<()> {
    for (set, at) in wanted.chunks_exact_mut(words).zip(at).filter(|(_, at)| !at.is_null()) {
        user::copy_from_user(set.as_mut_bytes(), at)?;
        if let (Some(last), 1..) = (set.last_mut(), count % 64) {
            *last &= (1 << (count % 64)) - 1;
        }
    }
    Ok(())
}

/// What descriptors of each set are waited for.
const EVENTS: [u32; 3] = [
    POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR,
    POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR,
    POLLPRI,
];

/// The events that a descriptor is wanted for, whose `bit` is in the sets that it is in.
#[inline(always)]
fn asked(sets: [u64; 3], bit: u64) -> u32 {
    let of_set = |(set, events)| if set & bit != 0 { events } else { 0 };
    sets.into_iter().zip(EVENTS).map(of_set).fold(0, |all, one| all | one)
}

/// Enters a descriptor that has events, whose bit is `bit`, into the answers of all three sets.
#[inline(always)]
fn enter(answer: &mut [u64; 3], bit: u64, found: u32) {
    for (answer, events) in answer.iter_mut().zip(EVENTS) {
        if found & events != 0 {
            *answer |= bit;
        }
    }
}

/// Adds the answers for a word of each set to those of all, `words` a set, where they were asked for;
/// how many.
fn put_answer(
    found: &mut [u64],
    words: usize,
    index: usize,
    answer: [u64; 3],
    sets: [u64; 3],
) -> usize {
    let mut count = 0;
    for (set, (answer, asked)) in answer.into_iter().zip(sets).enumerate() {
        let answer = answer & asked;
        if answer != 0
            && let Some(word) = found.get_mut(set * words + index)
        {
            *word |= answer;
            count += answer.count_ones() as usize;
        }
    }
    count
}

fn select(
    task: &Task,
    count: i32,
    at: [VirtAddr; 3],
    deadline: Option<Deadline>,
    now: bool,
) -> Result<usize> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let files = task.files().ok_or(Errno::EBADF)?;
    let count = count.min(files.capacity() as usize);
    // One at least: of none there is nothing to divide.
    let words = count.div_ceil(64).max(1);
    let mut bits = Bits::new();
    bits.try_reserve(6 * words).map_err(|_| Errno::ENOMEM)?;
    bits.resize(6 * words, 0);
    let (wanted, found) = bits.split_at_mut(3 * words);
    if count > 0 {
        read_sets(wanted, words, at, count)?;
    }
    let word = |set: usize, index: usize| wanted.get(set * words + index).copied().unwrap_or(0);
    let mut files = files.lookups();
    let mut registered = Registered::default();
    let mut entries = Entries::new();
    let (mut total, mut is_ready) = (0, false);
    for index in 0..words {
        let sets = [word(0, index), word(1, index), word(2, index)];
        let mut answer = [0; 3];
        let mut left = sets[0] | sets[1] | sets[2];
        // Mostly all are in one set.
        let only = match sets {
            [_, 0, 0] => EVENTS[0],
            [0, _, 0] => EVENTS[1],
            _ => 0,
        };
        while left != 0 {
            let bit = left & left.wrapping_neg();
            let place = index * 64 + left.trailing_zeros() as usize;
            left ^= bit;
            let mask = if only != 0 { only } else { asked(sets, bit) };
            let file = files.get(place as i32)?;
            let may_wait = !now && !is_ready;
            let events = first_look(&file, mask, may_wait.then_some(&mut registered));
            if events != 0 {
                is_ready = true;
                enter(&mut answer, bit, events);
            } else if may_wait {
                entries.push(Entry { file, place, wanted: mask, found: 0 });
            }
        }
        if is_ready {
            total += put_answer(found, words, index, answer, sets);
        }
    }
    if total == 0 && !now {
        wait(&mut entries, &registered, deadline)?;
        for entry in entries.iter().filter(|entry| entry.found != 0) {
            let (index, bit) = (entry.place / 64, 1 << (entry.place % 64));
            let mut answer = [0; 3];
            let sets = [word(0, index), word(1, index), word(2, index)];
            enter(&mut answer, bit, entry.found);
            total += put_answer(found, words, index, answer, sets);
        }
    }
    if count > 0 {
        for (set, at) in found.chunks_exact(words).zip(at).filter(|(_, at)| !at.is_null()) {
            user::copy_to_user(at, set.as_bytes())?;
        }
    }
    Ok(total)
}

fn sys_select(
    cx: &mut Cx<'_>,
    count: i32,
    read: VirtAddr,
    write: VirtAddr,
    except: VirtAddr,
    timeout: VirtAddr,
) -> Result<usize> {
    let limit = if timeout.is_null() {
        None
    } else {
        let [sec, usec]: [i64; 2] = user::read_val(timeout)?;
        if sec < 0 || usec < 0 {
            return Err(Errno::EINVAL);
        }
        Some((sec as u64).saturating_mul(1_000_000_000).saturating_add(usec as u64 * 1000))
    };
    let deadline = crate::time::deadline_ns(limit);
    let result = select(cx.task, count, [read, write, except], deadline, limit == Some(0));
    if let Some(deadline) = deadline {
        let left = deadline.monotonic_ns().saturating_sub(arch::time::now_ns());
        let _ = user::write_val(timeout, &[left / 1_000_000_000, left % 1_000_000_000 / 1000]);
    }
    result.map_err(no_hand)
}

fn sys_pselect6(
    cx: &mut Cx<'_>,
    count: i32,
    read: VirtAddr,
    write: VirtAddr,
    except: VirtAddr,
    timeout: VirtAddr,
    mask: VirtAddr,
) -> Result<usize> {
    let (set, size) = if mask.is_null() {
        (VirtAddr(0), 0)
    } else {
        let [set, size]: [u64; 2] = user::read_val(mask)?;
        (VirtAddr(set), size as usize)
    };
    let limit = crate::time::read_timeout(timeout)?;
    let deadline = crate::time::deadline_ns(limit);
    let task = cx.task;
    let result = masked(task, set, size, || {
        select(task, count, [read, write, except], deadline, limit == Some(0))
    });
    write_left(timeout, deadline)?;
    result
}
