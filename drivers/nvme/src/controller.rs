//! A controller: bringing it up (NVMe 1.4 §7.6.1), admin commands, and its I/O queues.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

use abi::{Errno, Result};
use arch::cpu::{self, CpuId};
use arch::irq::Handler;
use arch::lock::{IrqLock, LockClass};
use block::Request;
use hw::DmaBuffer;
use pci::{Interrupts, Vector};
use sched::Mutex;
use spin::Once;

use crate::command::{Command, Completion, Status, admin};
use crate::queue::Rings;
use crate::registers::Registers;
use crate::transfer::{self, LIST};

static ADMIN: LockClass = LockClass::new("nvme.admin", 547);
static QUEUE: LockClass = LockClass::new("nvme.queue", 582);

const ADMIN_ENTRIES: u16 = 32;
/// Entries of I/O queues, as far as the controller has them.
const IO_ENTRIES: usize = 128;
const ADMIN_TIMEOUT_NS: u64 = 10_000_000_000;
/// How much of the BAR is the registers and 512 queues' doorbells.
const REGISTERS: usize = 0x2000;
/// How often a command is tried again.
const RETRIES: u8 = 5;

/// Waits a little, for a register or a completion.
pub(crate) fn pause() {
    for _ in 0..64 {
        core::hint::spin_loop();
    }
}

/// What the controller is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Live,
    /// Requests are kept and issued afterwards.
    Resetting,
    /// Requests fail.
    Dead,
    /// Requests are kept for ever: the machine goes off.
    Off,
}

/// What the controller says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) serial: String,
    pub(crate) model: String,
    /// The most bytes of a transfer.
    pub(crate) max_transfer: u64,
    /// How long a shutdown takes (RTD3 entry latency, §5.15.2.2); 0 if it does not say.
    pub(crate) shutdown_us: u32,
    pub(crate) namespaces: u32,
    pub(crate) has_dataset_management: bool,
    pub(crate) has_write_zeroes: bool,
    pub(crate) has_write_cache: bool,
    pub(crate) has_sgl: bool,
}

/// A request that the controller works on.
pub(crate) struct Pending {
    request: Request,
    command: Command,
    bounce: Option<DmaBuffer>,
    retries: u8,
    pub(crate) is_aborting: bool,
}

/// How many completions are taken under one hold of a queue's lock.
const REAPED_AT_ONCE: usize = 32;

/// What the lock of an I/O queue protects.
pub(crate) struct Lane {
    pub(crate) rings: Rings,
    pub(crate) pending: Vec<Option<Pending>>,
    /// Room for what one pass of [`Controller::reap`] takes from the rings.
    finished: Vec<(Pending, Status)>,
}

/// An I/O queue.
pub(crate) struct IoQueue {
    pub(crate) lane: IrqLock<Lane>,
    lists: DmaBuffer,
}

/// A controller.
pub(crate) struct Controller {
    pub(crate) number: u32,
    pub(crate) function: Arc<pci::Device>,
    pub(crate) registers: Registers,
    pub(crate) identity: Identity,
    admin: Mutex<Rings>,
    pub(crate) queues: Vec<IoQueue>,
    state: AtomicU8,
    interrupts: Once<Interrupts>,
}

impl Controller {
    /// Brings up the controller behind a function.
    ///
    /// # Errors
    /// `ENODEV`, `ETIMEDOUT`, `ENOMEM`, `EIO`.
    pub(crate) fn start(function: &Arc<pci::Device>, number: u32) -> Result<Arc<Self>> {
        function.enable();
        // Registers and doorbells only: the MSI-X table may lie behind them in the same BAR.
        let registers = Registers::new(function.map_bar_part(0, 0, REGISTERS)?)?;
        registers.disable()?;
        let rings = Rings::new(&registers, 0, ADMIN_ENTRIES)?;
        let (submission, completion) = rings.addresses();
        registers.enable(submission, completion, u32::from(ADMIN_ENTRIES))?;
        let mut this = Self {
            number,
            function: function.clone(),
            registers,
            identity: Identity::default(),
            admin: Mutex::new(&ADMIN, rings),
            queues: Vec::new(),
            state: AtomicU8::new(State::Live as u8),
            interrupts: Once::new(),
        };
        this.identity = this.identify()?;
        let count = this.request_queues(cpu::count())?;
        let entries = IO_ENTRIES.min(this.registers.max_entries());
        // A ring is full with one entry free; a power of two at most.
        let entries = 1u16 << entries.max(2).ilog2();
        for index in 0..count {
            let rings = Rings::new(&this.registers, index as u16 + 1, entries)?;
            let depth = usize::from(entries) - 1;
            let lane = Lane {
                rings,
                pending: core::iter::repeat_with(|| None).take(depth).collect(),
                finished: Vec::with_capacity(REAPED_AT_ONCE),
            };
            let lists = DmaBuffer::new(depth * LIST)?;
            this.queues.push(IoQueue { lane: IrqLock::new(&QUEUE, lane), lists });
        }
        let this = Arc::new(this);
        this.set_up_interrupts()?;
        this.create_queues()?;
        let (major, minor) = this.registers.version();
        log::info!(
            "nvme nvme{number}: {} ({}) NVMe {major}.{minor}, {count} queues of {entries}",
            this.identity.model,
            this.identity.serial
        );
        Ok(this)
    }

    pub(crate) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Live,
            1 => State::Resetting,
            3 => State::Off,
            _ => State::Dead,
        }
    }

    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Enters a state if it is in another; whether it was this call that did.
    pub(crate) fn enter(&self, from: State, to: State) -> bool {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The requests a queue takes at once.
    pub(crate) fn depth(&self) -> usize {
        self.queues.first().map_or(1, |queue| queue.lists.len() / LIST).min(IO_ENTRIES - 1)
    }

    fn set_up_interrupts(self: &Arc<Self>) -> Result<()> {
        let vectors: Vec<Vector> = (0..self.queues.len())
            .map(|index| {
                let this = Arc::downgrade(self);
                let handler: Handler = Arc::new(move || {
                    if let Some(this) = this.upgrade() {
                        this.reap(index);
                    }
                });
                let cpu = index * cpu::count() / self.queues.len().max(1);
                // The queue of commands to the controller itself, number 0, is polled.
                let name = format!("nvme{}q{}", self.number, index + 1);
                Vector { name, cpu: Some(CpuId::from_index(cpu)), handler }
            })
            .collect();
        let interrupts = if self.function.msix_count() >= vectors.len() {
            self.function.enable_msix(vectors)
        } else {
            Err(Errno::ENODEV)
        };
        let interrupts = match interrupts {
            Ok(interrupts) => interrupts,
            Err(_) => {
                let this = Arc::downgrade(self);
                let handler = Arc::new(move || {
                    if let Some(this) = this.upgrade() {
                        (0..this.queues.len()).for_each(|index| {
                            this.reap(index);
                        });
                    }
                });
                self.function.enable_one(&format!("nvme{}", self.number), handler)?
            }
        };
        self.interrupts.call_once(|| interrupts);
        self.registers.mask_interrupts(false);
        Ok(())
    }

    fn vector_of(&self, queue: usize) -> u32 {
        let is_own = self.interrupts.get().is_some_and(|i| i.is_msix() && i.count() > queue);
        if is_own { queue as u32 } else { 0 }
    }

    /// Tells the controller of its I/O queues (§5.3, §5.4).
    pub(crate) fn create_queues(&self) -> Result<()> {
        for (index, queue) in self.queues.iter().enumerate() {
            let number = index as u32 + 1;
            let ((submission, completion), last) = {
                let lane = queue.lane.lock();
                (lane.rings.addresses(), u32::from(lane.rings.entries()) - 1)
            };
            let size = last << 16 | number;
            // Physically contiguous, interrupts on.
            let words = [size, self.vector_of(index) << 16 | 3];
            let mut command = Command::new(admin::CREATE_COMPLETION_QUEUE, 0).with_words(&words);
            command.data[0] = completion;
            self.admin(command)?;
            let words = [size, number << 16 | 1];
            let mut command = Command::new(admin::CREATE_SUBMISSION_QUEUE, 0).with_words(&words);
            command.data[0] = submission;
            self.admin(command)?;
        }
        Ok(())
    }

    /// Asks for I/O queues (§5.21.1.7); how many there will be.
    pub(crate) fn request_queues(&self, wanted: usize) -> Result<usize> {
        let last = wanted.clamp(1, 0xffff) as u32 - 1;
        let words = [admin::FEATURE_QUEUES, last << 16 | last];
        let command = Command::new(admin::SET_FEATURES, 0).with_words(&words);
        let granted = self.admin(command)?;
        let (submission, completion) = (granted & 0xffff, granted >> 16);
        Ok(wanted.min(submission.min(completion) as usize + 1))
    }

    /// Switches the volatile write cache on, where there is one.
    pub(crate) fn enable_write_cache(&self) {
        if self.identity.has_write_cache {
            let words = [admin::FEATURE_WRITE_CACHE, 1];
            let command = Command::new(admin::SET_FEATURES, 0).with_words(&words);
            if let Err(error) = self.admin(command) {
                log::warn!("nvme nvme{}: no write cache: {error:?}", self.number);
            }
        }
    }

    /// Restarts the admin queue of a controller that has been disabled.
    pub(crate) fn restart_admin(&self) -> Result<()> {
        let mut rings = self.admin.lock();
        rings.clear();
        let (submission, completion) = rings.addresses();
        self.registers.enable(submission, completion, u32::from(ADMIN_ENTRIES))
    }

    /// Runs an admin command; its result. Looks for the completion instead of being interrupted:
    /// these are few and short.
    pub(crate) fn admin(&self, command: Command) -> Result<u32> {
        let mut rings = self.admin.lock();
        rings.push(command.with_id(1));
        rings.ring();
        let deadline = arch::time::now_ns() + ADMIN_TIMEOUT_NS;
        loop {
            if let Some(completion) = rings.take() {
                rings.acknowledge();
                if completion.id != 1 {
                    // Of an abort that nobody waited for.
                    continue;
                }
                let status = Status::of(&completion);
                return status.to_result().map(|()| completion.result);
            }
            if self.registers.is_dead() {
                return Err(Errno::ENODEV);
            }
            if arch::time::now_ns() > deadline {
                return Err(Errno::ETIMEDOUT);
            }
            pause();
        }
    }

    /// Asks the controller to abort a command; nobody waits for the outcome.
    pub(crate) fn abort(&self, queue: usize, tag: usize) {
        if let Some(mut rings) = self.admin.try_lock() {
            let words = [(tag as u32) << 16 | (queue as u32 + 1)];
            rings.push(Command::new(admin::ABORT, 0).with_words(&words).with_id(2));
            rings.ring();
        }
    }

    /// Reads 4096 bytes of identification (§5.15).
    pub(crate) fn identify_data(&self, namespace: u32, what: u32) -> Result<DmaBuffer> {
        let buffer = DmaBuffer::new(4096)?;
        let mut command = Command::new(admin::IDENTIFY, namespace).with_words(&[what]);
        command.data[0] = buffer.phys().0;
        match self.admin(command) {
            Ok(_) => Ok(buffer),
            Err(Errno::ETIMEDOUT) => {
                buffer.leak();
                Err(Errno::ETIMEDOUT)
            }
            Err(error) => Err(error),
        }
    }

    fn identify(&self) -> Result<Identity> {
        let data = self.identify_data(0, 1)?;
        let text = |offset: usize, len: usize| {
            let mut bytes = [0; 40];
            let bytes = bytes.get_mut(..len).unwrap_or(&mut []);
            data.copy_out(offset, bytes);
            let printable = bytes.iter().filter(|byte| byte.is_ascii_graphic() || **byte == b' ');
            let text: String = printable.map(|byte| char::from(*byte)).collect();
            String::from(text.trim())
        };
        let optional: u16 = data.read(520);
        let mdts: u8 = data.read(77);
        let largest = 1u64 << 20;
        let max_transfer = match mdts {
            0 => largest,
            n => 4096u64.checked_shl(u32::from(n)).unwrap_or(largest).min(largest),
        };
        Ok(Identity {
            serial: text(4, 20),
            model: text(24, 40),
            max_transfer,
            shutdown_us: data.read(88),
            namespaces: data.read(516),
            has_dataset_management: optional & 4 != 0,
            has_write_zeroes: optional & 8 != 0,
            has_write_cache: data.read::<u8>(525) & 1 != 0,
            has_sgl: matches!(data.read::<u32>(536) & 3, 1 | 2),
        })
    }

    /// Puts a request on a queue; the doorbell is rung by [`Controller::kick`].
    pub(crate) fn submit(
        &self,
        index: usize,
        tag: usize,
        request: Request,
        mut command: Command,
        has_data: bool,
    ) {
        let Some(queue) = self.queues.get(index) else { return };
        if tag >= self.depth() || self.state() == State::Dead {
            request.complete(Err(Errno::EIO));
            return;
        }
        let mut bounce = None;
        if has_data {
            let sgl = self.identity.has_sgl;
            match transfer::describe(&request, &mut command, &queue.lists, tag * LIST, sgl) {
                Ok(buffer) => bounce = buffer,
                Err(error) => {
                    request.complete(Err(error));
                    return;
                }
            }
        }
        let command = command.with_id(tag as u16);
        let pending = Pending { request, command, bounce, retries: 0, is_aborting: false };
        let mut lane = queue.lane.lock();
        if let Some(place) = lane.pending.get_mut(tag) {
            *place = Some(pending);
        }
        // While it is being reset the command stays in the table, and is issued afterwards. The
        // state changes under every queue's lock.
        if self.state() == State::Live {
            lane.rings.push(command);
        }
    }

    /// Writes a discard's range into the tag's memory; where it is.
    pub(crate) fn put_range(
        &self,
        index: usize,
        tag: usize,
        block: u64,
        blocks: u32,
    ) -> Option<u64> {
        let queue = self.queues.get(index)?;
        let at = tag.checked_mul(LIST)?;
        queue.lists.write(at, 0u32);
        queue.lists.write(at + 4, blocks);
        queue.lists.write(at + 8, block);
        Some(queue.lists.phys().0 + at as u64)
    }

    /// Tells the controller of new commands.
    pub(crate) fn kick(&self, index: usize) {
        if let Some(queue) = self.queues.get(index)
            && self.state() == State::Live
        {
            queue.lane.lock().rings.ring();
        }
    }

    /// Ends the requests the controller has finished; how many.
    pub(crate) fn reap(&self, index: usize) -> usize {
        let Some(queue) = self.queues.get(index) else { return 0 };
        let mut total = 0;
        loop {
            let mut finished;
            {
                let mut lane = queue.lane.lock();
                if self.state() != State::Live {
                    return total;
                }
                // Kept in the lane between passes: requests are large, stacks are small. Without
                // room another processor is in here, and comes back for what is left.
                finished = core::mem::take(&mut lane.finished);
                if finished.capacity() == 0 {
                    return total;
                }
                let mut has_taken = false;
                let mut has_retried = false;
                while finished.len() < finished.capacity()
                    && let Some(completion) = lane.rings.take()
                {
                    has_taken = true;
                    match lane.finish(&completion) {
                        Some(done) => finished.push(done),
                        None => has_retried = true,
                    }
                }
                if has_taken {
                    lane.rings.acknowledge();
                }
                if has_retried {
                    lane.rings.ring();
                }
                // Under the same hold as the last look at the ring, so that a processor that found
                // no room has left nothing behind.
                if finished.is_empty() {
                    lane.finished = finished;
                    return total;
                }
            }
            total += finished.len();
            for (pending, status) in finished.drain(..) {
                pending.end(status.to_result());
            }
            queue.lane.lock().finished = finished;
        }
    }
}

impl Pending {
    fn end(self, result: Result<()>) {
        if let (Ok(()), Some(buffer), block::Op::Read) = (result, &self.bounce, self.request.op()) {
            transfer::unbounce(&self.request, buffer);
        }
        self.request.complete(result);
    }

    /// The controller is gone for good.
    pub(crate) fn fail(self) {
        self.end(Err(Errno::EIO));
    }

    /// Issues the command (again) on a controller that has been reset.
    pub(crate) fn reissue(&mut self, rings: &mut Rings) {
        self.is_aborting = false;
        rings.push(self.command);
    }
}

impl Lane {
    /// Takes the request a completion is of; `None` if it is tried again, or is nobody's.
    fn finish(&mut self, completion: &Completion) -> Option<(Pending, Status)> {
        let status = Status::of(completion);
        let place = self.pending.get_mut(usize::from(completion.id))?;
        let pending = place.as_mut()?;
        if status.is_retryable() && pending.retries < RETRIES {
            pending.retries += 1;
            pending.is_aborting = false;
            self.rings.push(pending.command);
            return None;
        }
        place.take().map(|pending| (pending, status))
    }
}
