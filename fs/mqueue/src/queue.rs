//! A queue: messages by priority and age, who waits, who is to be notified.

use crate::{Charge, Notifier};
use abi::fcntl::O_NONBLOCK;
use abi::poll::{POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use abi::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use arch::uio::Sink;
use core::any::Any;
use core::cmp::Reverse;
use sched::{Deadline, WaitError, WaitQueue};
use vfs::{File, FileOps, PollTable};

static QUEUE: LockClass = LockClass::new("mqueue.queue", 313);
static RESULT: LockClass = LockClass::new("mqueue.result", 649);

/// `MQ_PRIO_MAX`.
const PRIORITIES: u32 = 32768;

/// What a queue is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Most messages.
    pub max_messages: usize,
    /// Most bytes in one.
    pub message_size: usize,
}

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Its priority: higher ones are received first.
    pub priority: u32,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// A call that waits, and what comes of it.
struct Waiter<T> {
    result: SpinLock<Option<T>>,
    queue: WaitQueue,
}

impl<T> Waiter<T> {
    fn new() -> Arc<Waiter<T>> {
        Arc::new(Waiter { result: SpinLock::new(&RESULT, None), queue: WaitQueue::new() })
    }
    fn finish(&self, result: T) {
        *self.result.lock() = Some(result);
        self.queue.wake_all();
    }
    fn outcome(&self) -> Option<T> {
        self.result.lock().take()
    }
}

struct Sending {
    message: Message,
    waiter: Arc<Waiter<()>>,
}

#[derive(Default)]
struct State {
    messages: BTreeMap<(Reverse<u32>, u64), Message>,
    bytes: usize,
    next: u64,
    receivers: BTreeMap<u64, Arc<Waiter<Message>>>,
    /// By priority, as messages are.
    senders: BTreeMap<(Reverse<u32>, u64), Sending>,
    notifier: Option<Box<dyn Notifier>>,
}

/// A queue.
pub struct Queue {
    attributes: Attributes,
    state: SpinLock<State>,
    readiness: Arc<WaitQueue>,
    _charge: Option<Box<dyn Charge>>,
}

/// The queue behind an open file.
pub fn queue_of(file: &File) -> Option<&Queue> {
    file.ops().as_any().downcast_ref()
}

impl State {
    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn keep(&mut self, message: Message) {
        let ticket = self.ticket();
        self.bytes += message.data.len();
        self.messages.insert((Reverse(message.priority), ticket), message);
    }

    /// Puts a message in, or into the hands of who has waited longest for one; the registration
    /// that ends by it.
    fn take_in(&mut self, message: Message) -> Option<Box<dyn Notifier>> {
        if let Some((_, receiver)) = self.receivers.pop_first() {
            receiver.finish(message);
            return None;
        }
        let was_empty = self.messages.is_empty();
        self.keep(message);
        if was_empty { self.notifier.take() } else { None }
    }
}

impl Queue {
    pub(crate) fn new(attributes: Attributes, charge: Option<Box<dyn Charge>>) -> Queue {
        Queue {
            attributes,
            state: SpinLock::new(&QUEUE, State::default()),
            readiness: Arc::new(WaitQueue::new()),
            _charge: charge,
        }
    }

    /// What it was made with.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// How many messages are in it.
    pub fn len(&self) -> usize {
        self.state.lock().messages.len()
    }

    /// Whether no message is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `EINVAL` for a priority and `EMSGSIZE` for a length that no message may have.
    pub fn check(&self, len: usize, priority: u32) -> Result<()> {
        if priority >= PRIORITIES {
            return Err(Errno::EINVAL);
        }
        if len > self.attributes.message_size { Err(Errno::EMSGSIZE) } else { Ok(()) }
    }

    /// `mq_send(3)`, `mq_timedsend(3)`; the message was checked.
    pub fn send(&self, file: &File, message: Message, deadline: Option<Deadline>) -> Result<()> {
        let (place, waiter) = {
            let mut state = self.state.lock();
            if state.messages.len() < self.attributes.max_messages {
                let notifier = state.take_in(message);
                drop(state);
                self.changed(notifier);
                return Ok(());
            }
            if file.flags() & O_NONBLOCK != 0 {
                return Err(Errno::EAGAIN);
            }
            let place = (Reverse(message.priority), state.ticket());
            let waiter = Waiter::new();
            state.senders.insert(place, Sending { message, waiter: waiter.clone() });
            (place, waiter)
        };
        let waited = waiter.queue.wait_interruptible(|| waiter.outcome(), deadline);
        waited.or_else(|reason| {
            let sending = self.state.lock().senders.remove(&place);
            drop(sending);
            waiter.outcome().ok_or_else(|| errno(reason))
        })
    }

    /// `mq_receive(3)`, `mq_timedreceive(3)` into `room` bytes.
    pub fn receive(&self, file: &File, room: usize, deadline: Option<Deadline>) -> Result<Message> {
        if room < self.attributes.message_size {
            return Err(Errno::EMSGSIZE);
        }
        let (place, waiter) = {
            let mut state = self.state.lock();
            if let Some((_, message)) = state.messages.pop_first() {
                state.bytes -= message.data.len();
                // The room goes to who has waited for it.
                if let Some((_, sending)) = state.senders.pop_first() {
                    state.keep(sending.message);
                    sending.waiter.finish(());
                }
                drop(state);
                self.changed(None);
                return Ok(message);
            }
            if file.flags() & O_NONBLOCK != 0 {
                return Err(Errno::EAGAIN);
            }
            let place = state.ticket();
            let waiter = Waiter::new();
            state.receivers.insert(place, waiter.clone());
            (place, waiter)
        };
        let waited = waiter.queue.wait_interruptible(|| waiter.outcome(), deadline);
        waited.or_else(|reason| {
            let left = self.state.lock().receivers.remove(&place);
            drop(left);
            waiter.outcome().ok_or_else(|| errno(reason))
        })
    }

    fn changed(&self, notifier: Option<Box<dyn Notifier>>) {
        self.readiness.notify(self.events());
        if let Some(notifier) = notifier {
            notifier.fire();
        }
    }

    fn events(&self) -> u32 {
        let count = self.len();
        let mut events = 0;
        if count > 0 {
            events |= POLLIN | POLLRDNORM;
        }
        if count < self.attributes.max_messages {
            events |= POLLOUT | POLLWRNORM;
        }
        events
    }

    /// `mq_notify(3)`: `EBUSY` if somebody is registered.
    pub fn register(&self, notifier: Box<dyn Notifier>) -> Result<()> {
        let mut state = self.state.lock();
        if state.notifier.is_some() {
            return Err(Errno::EBUSY);
        }
        state.notifier = Some(notifier);
        Ok(())
    }

    /// Ends the registration of the running process, if it has one.
    pub fn unregister(&self) {
        let mut state = self.state.lock();
        let mine = state.notifier.as_ref().is_some_and(|notifier| notifier.is_callers());
        let old = if mine { state.notifier.take() } else { None };
        drop(state);
        drop(old);
    }
}

fn errno(reason: WaitError) -> Errno {
    match reason {
        WaitError::Interrupted => Errno::ERESTARTSYS,
        WaitError::TimedOut => Errno::ETIMEDOUT,
    }
}

impl FileOps for Queue {
    fn read_at(&self, _file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        let (bytes, (notify, signal, pid)) = {
            let state = self.state.lock();
            let registered = state.notifier.as_ref().map(|notifier| notifier.describe());
            (state.bytes, registered.unwrap_or((0, 0, 0)))
        };
        let text =
            format!("QSIZE:{bytes:<10} NOTIFY:{notify:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n");
        let from = usize::try_from(pos).unwrap_or(usize::MAX).min(text.len());
        let rest = text.as_bytes().get(from..).unwrap_or_default();
        let rest = rest.get(..rest.len().min(sink.remaining())).unwrap_or_default();
        Ok(sink.put(rest)?)
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        if let Some(table) = table {
            table.add(&self.readiness);
        }
        self.events()
    }

    fn flush(&self, _file: &File) -> Result<()> {
        self.unregister();
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(priority: u32, text: &[u8]) -> Message {
        Message { priority, data: text.into() }
    }

    struct Counter(Arc<core::sync::atomic::AtomicU32>);
    impl Notifier for Counter {
        fn is_callers(&self) -> bool {
            true
        }
        fn fire(self: Box<Self>) {
            self.0.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
        fn describe(&self) -> (i32, i32, i32) {
            (0, 10, 1)
        }
    }

    #[test]
    fn priorities_then_age() {
        let mut state = State::default();
        for (priority, text) in [(1, b"a"), (5, b"b"), (1, b"c"), (5, b"d")] {
            assert!(state.take_in(message(priority, text)).is_none());
        }
        let mut order = Vec::new();
        while let Some((_, message)) = state.messages.pop_first() {
            order.extend(message.data);
        }
        assert_eq!(order, b"bdac");
    }

    #[test]
    fn notification_is_for_an_empty_queue_that_nobody_waits_for() {
        let fired = Arc::new(core::sync::atomic::AtomicU32::new(0));
        let queue = Queue::new(Attributes { max_messages: 4, message_size: 8 }, None);
        queue.register(Box::new(Counter(fired.clone()))).expect("free");
        assert_eq!(queue.register(Box::new(Counter(fired.clone()))).err(), Some(Errno::EBUSY));
        let waiter = Waiter::new();
        queue.state.lock().receivers.insert(1, waiter.clone());
        assert!(queue.state.lock().take_in(message(0, b"x")).is_none());
        assert_eq!(waiter.outcome(), Some(message(0, b"x")));
        let notifier = queue.state.lock().take_in(message(0, b"y"));
        queue.changed(notifier);
        assert_eq!(fired.load(core::sync::atomic::Ordering::Relaxed), 1);
        assert!(queue.state.lock().take_in(message(0, b"z")).is_none());
        assert_eq!((queue.len(), queue.check(9, 0)), (2, Err(Errno::EMSGSIZE)));
        assert_eq!(queue.check(8, 32768), Err(Errno::EINVAL));
    }
}
