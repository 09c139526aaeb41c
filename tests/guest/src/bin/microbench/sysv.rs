//! The semaphores, queues and memory of System V, and the message queues of POSIX.

use std::ptr;

use crate::area::PAGE;
use crate::meter::{Failure, each};
use crate::rows::Rows;
use crate::sys::{Fd, ok, ping_pong};

/// Bytes of a message.
const LEN: usize = 64;

/// Adds the rows to the group of communication between processes.
pub fn add(rows: &mut Rows) {
    semaphores(rows);
    queues(rows);
    posix_queues(rows);
    rows.add("shmat+shmdt", || {
        // SAFETY: no pointers.
        let id = unsafe { libc::shmget(libc::IPC_PRIVATE, 16 * PAGE, 0o600) };
        let memory = Id { number: ok("shmget", id)? as i32, remove: remove_memory };
        // SAFETY: nobody uses what is mapped.
        each(2_000, || unsafe {
            let base = libc::shmat(memory.number, ptr::null(), 0);
            base as isize != -1 && libc::shmdt(base) == 0
        })
    });
}

/// A thing of System V, removed when its owner goes.
struct Id {
    number: i32,
    remove: fn(i32),
}

impl Drop for Id {
    fn drop(&mut self) {
        (self.remove)(self.number);
    }
}

fn remove_memory(id: i32) {
    // SAFETY: removing takes no pointer.
    unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) };
}

fn remove_semaphores(id: i32) {
    // SAFETY: removing takes no pointer.
    unsafe { libc::semctl(id, 0, libc::IPC_RMID) };
}

fn remove_queue(id: i32) {
    // SAFETY: removing takes no pointer.
    unsafe { libc::msgctl(id, libc::IPC_RMID, ptr::null_mut()) };
}

/// Two semaphores that are 0.
fn pair() -> Result<Id, Failure> {
    // SAFETY: no pointers.
    let id = unsafe { libc::semget(libc::IPC_PRIVATE, 2, 0o600) };
    Ok(Id { number: ok("semget", id)? as i32, remove: remove_semaphores })
}

/// Adds to a semaphore: whether it worked.
#[inline(always)]
fn change(pair: &Id, semaphore: u16, by: i16) -> bool {
    let mut change = libc::sembuf { sem_num: semaphore, sem_op: by, sem_flg: 0 };
    // SAFETY: the one change is there.
    unsafe { libc::semop(pair.number, &mut change, 1) == 0 }
}

fn semaphores(rows: &mut Rows) {
    rows.add("semop up+down", || {
        let pair = pair()?;
        each(15_000, || change(&pair, 0, 1) && change(&pair, 0, -1))
    });
    rows.add("semop ping-pong", || {
        let pair = pair()?;
        let (there, back) = (0, 1);
        let serve = || change(&pair, there, -1) && change(&pair, back, 1);
        ping_pong(3_200, serve, || change(&pair, there, 1) && change(&pair, back, -1))
    });
}

/// A message as the calls want it.
#[repr(C)]
struct Message {
    kind: i64,
    text: [u8; LEN],
}

/// A new queue.
fn queue() -> Result<Id, Failure> {
    // SAFETY: no pointers.
    let id = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) };
    Ok(Id { number: ok("msgget", id)? as i32, remove: remove_queue })
}

/// Sends a message of a kind: whether it worked.
#[inline(always)]
fn send(queue: &Id, kind: i64) -> bool {
    let message = Message { kind, text: [1; LEN] };
    // SAFETY: a message of this length.
    unsafe { libc::msgsnd(queue.number, (&raw const message).cast(), LEN, 0) == 0 }
}

/// Receives a message of a kind: whether it worked.
#[inline(always)]
fn receive(queue: &Id, kind: i64) -> bool {
    let mut message = Message { kind: 0, text: [0; LEN] };
    // SAFETY: room for a message of this length.
    unsafe { libc::msgrcv(queue.number, (&raw mut message).cast(), LEN, kind, 0) == LEN as isize }
}

fn queues(rows: &mut Rows) {
    rows.add("msgsnd+msgrcv", || {
        let queue = queue()?;
        each(13_000, || send(&queue, 1) && receive(&queue, 1))
    });
    rows.add("msg ping-pong", || {
        let queue = queue()?;
        let serve = || receive(&queue, 1) && send(&queue, 2);
        ping_pong(3_200, serve, || send(&queue, 1) && receive(&queue, 2))
    });
}

/// A new queue of POSIX without a name. On Linux its number is a descriptor.
fn posix_queue() -> Result<Fd, Failure> {
    let name = c"/microbench".as_ptr();
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    // SAFETY: a valid C string, and attributes that outlive the call.
    unsafe {
        let mut attributes: libc::mq_attr = std::mem::zeroed();
        (attributes.mq_maxmsg, attributes.mq_msgsize) = (8, LEN as i64);
        libc::mq_unlink(name);
        let queue = Fd::new("mq_open", libc::mq_open(name, flags, 0o600, &raw mut attributes))?;
        ok("mq_unlink", libc::mq_unlink(name)).map(|_| queue)
    }
}

/// Sends a message: whether it worked.
#[inline(always)]
fn mq_send(queue: &Fd) -> bool {
    let text = [1; LEN];
    // SAFETY: a text of this length.
    unsafe { libc::mq_send(queue.raw(), text.as_ptr(), LEN, 0) == 0 }
}

/// Receives a message: whether it worked.
#[inline(always)]
fn mq_receive(queue: &Fd) -> bool {
    let mut text = [0; LEN];
    // SAFETY: room of this length.
    unsafe {
        libc::mq_receive(queue.raw(), text.as_mut_ptr(), LEN, ptr::null_mut()) == LEN as isize
    }
}

fn posix_queues(rows: &mut Rows) {
    rows.add("mq_send+mq_receive", || {
        let queue = posix_queue()?;
        each(12_000, || mq_send(&queue) && mq_receive(&queue))
    });
    rows.add("mq ping-pong", || {
        let (there, back) = (posix_queue()?, posix_queue()?);
        let serve = || mq_receive(&there) && mq_send(&back);
        ping_pong(3_200, serve, || mq_send(&there) && mq_receive(&back))
    });
}
