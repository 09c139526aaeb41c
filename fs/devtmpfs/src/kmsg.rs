//! `/dev/kmsg`: the kernel log, a record per read, a message per write.

use alloc::sync::Arc;
use core::any::Any;

use abi::fcntl::{O_ACCMODE, O_RDONLY, O_WRONLY, SEEK_DATA, SEEK_END, SEEK_SET};
use abi::poll::{POLLERR, POLLIN, POLLPRI, POLLRDNORM};
use abi::{Errno, Result};
use arch::lock::{LockClass, Once, SpinLock};
use arch::uio::{Sink, Source};
use arrayvec::ArrayVec;
use klog::{Position, ReadError};
use sched::WaitQueue;
use vfs::dev::Opened;
use vfs::{Cap, Context, File, FileMode, FileOps, PollTable};

static KMSG: LockClass = LockClass::new("devtmpfs.kmsg", 560);

fn queue() -> &'static Arc<WaitQueue> {
    static QUEUE: Once<Arc<WaitQueue>> = Once::new();
    QUEUE.call_once(|| Arc::new(WaitQueue::new()))
}

/// Wakes readers: there are new messages. From a context that may wake threads.
pub fn kmsg_notify() {
    queue().notify(POLLIN | POLLRDNORM);
}

struct Kmsg {
    position: SpinLock<Position>,
    writer: klog::Writer,
}

impl Drop for Kmsg {
    fn drop(&mut self) {
        let dropped = self.writer.dropped();
        if dropped > 0 {
            let name = sched::current().name();
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default().escape_ascii();
            log::warn!("printk: {name}: {dropped} output lines suppressed due to ratelimiting");
        }
    }
}

impl Kmsg {
    fn has_more(&self) -> bool {
        self.position.lock().seq < klog::next_seq()
    }
}

/// Opens the log. Reading is as open to all as the node's mode says, unless `dmesg_restrict` is set.
pub(crate) fn open(flags: u32, ctx: &Context<'_>) -> Result<Opened> {
    // Relaxed: a lone number.
    let is_restricted = klog::DMESG_RESTRICT.load(core::sync::atomic::Ordering::Relaxed) != 0;
    if is_restricted && flags & O_ACCMODE != O_WRONLY && !ctx.creds.capable(Cap::SYSLOG) {
        ctx.creds.require(Cap::SYS_ADMIN)?;
    }
    if flags & O_ACCMODE != O_RDONLY && klog::dev_kmsg() == klog::DevKmsg::Off {
        return Err(Errno::EPERM);
    }
    let position = SpinLock::new(&KMSG, Position::at(klog::first_seq()));
    let kmsg = Kmsg { position, writer: klog::Writer::new() };
    Ok(Opened { ops: Arc::new(kmsg), mode: FileMode::SEEK | FileMode::POSITIONAL })
}

impl FileOps for Kmsg {
    fn read_at(&self, file: &File, _pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        loop {
            let record = klog::read(&mut self.position.lock());
            match record {
                Ok(record) => {
                    let mut line = ArrayVec::new();
                    record.format_dev_kmsg(&mut line);
                    if line.len() > sink.remaining() {
                        return Err(Errno::EINVAL);
                    }
                    return Ok(sink.put(&line)?);
                }
                Err(ReadError::Overwritten) => return Err(Errno::EPIPE),
                Err(ReadError::Empty) if file.is_nonblocking() => return Err(Errno::EAGAIN),
                Err(ReadError::Empty) => {
                    let waited = queue().wait_interruptible(|| self.has_more().then_some(()), None);
                    waited.map_err(|_| Errno::ERESTARTSYS)?;
                }
            }
        }
    }

    fn write_at(&self, _file: &File, _pos: u64, source: &mut Source<'_>) -> Result<usize> {
        let mut buffer = [0u8; klog::WRITE_MAX];
        let len = source.remaining();
        let Some(room) = buffer.get_mut(..len) else { return Err(Errno::EINVAL) };
        source.take_all(room)?;
        self.writer.write(room)?;
        Ok(len)
    }

    fn seek(&self, _file: &File, _current: u64, offset: i64, whence: u32) -> Result<u64> {
        if offset != 0 {
            return Err(Errno::ESPIPE);
        }
        let seq = match whence {
            SEEK_SET => klog::first_seq(),
            // After what `dmesg --clear` has hidden.
            SEEK_DATA => klog::first_shown_seq(),
            SEEK_END => klog::next_seq(),
            _ => return Err(Errno::EINVAL),
        };
        *self.position.lock() = Position::at(seq);
        Ok(0)
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        vfs::poll_wait(table, queue());
        if !self.has_more() {
            return 0;
        }
        let lost = self.position.lock().seq < klog::first_seq();
        POLLIN | POLLRDNORM | if lost { POLLERR | POLLPRI } else { 0 }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
