//! Block devices: Virtio 1.2 §5.2.
//!
//! One virtqueue per CPU as far as the device has them. A request's tag is the number of its
//! descriptor, which is indirect: the descriptors proper, the request's header and its status lie
//! in a slot of their own, so submitting allocates nothing and searches nothing.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};
use arch::cpu::{self, CpuId};
use arch::irq::Handler;
use arch::lock::{IrqLock, LockClass};
use block::{BioFlags, Limits, Op, Request, TimeoutAction};
use hw::DmaBuffer;
use spin::Once;

use crate::driver::Served;
use crate::queue::{Descriptor, INDIRECT, NEXT, Notifier, Queue, WRITE};
use crate::transport::{Device, QueueHandler, Transport, feature, status};

static RING: LockClass = LockClass::new("virtio.blk", 580);

mod features {
    pub(super) const SIZE_MAX: u64 = 1 << 1;
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const READ_ONLY: u64 = 1 << 5;
    pub(super) const BLOCK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const CONFIG_WCE: u64 = 1 << 11;
    pub(super) const MULTI_QUEUE: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

mod config {
    pub(super) const CAPACITY: usize = 0;
    pub(super) const SIZE_MAX: usize = 8;
    pub(super) const SEG_MAX: usize = 12;
    pub(super) const BLOCK_SIZE: usize = 20;
    pub(super) const PHYSICAL_EXPONENT: usize = 24;
    pub(super) const IO_MIN: usize = 26;
    pub(super) const IO_OPT: usize = 28;
    pub(super) const WRITE_BACK: usize = 32;
    pub(super) const QUEUES: usize = 34;
    pub(super) const MAX_DISCARD: usize = 36;
    pub(super) const MAX_WRITE_ZEROES: usize = 48;
    pub(super) const WRITE_ZEROES_UNMAP: usize = 56;
}

const TYPE_READ: u32 = 0;
const TYPE_WRITE: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;

const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;
/// What a status byte holds until the device has written it.
const STATUS_PENDING: u8 = 0xff;

/// How long requests that are on their way are waited for before the machine goes off.
const DRAIN_NS: u64 = 2_000_000_000;

/// The most requests at once on a queue.
const DEPTH: u16 = 128;

/// A slot: header, status, the range of a discard, and a table of descriptors.
const SLOT: usize = 1024;
const SLOT_STATUS: usize = 16;
const SLOT_RANGE: usize = 32;
const SLOT_TABLE: usize = 48;
const TABLE_ENTRIES: usize = (SLOT - SLOT_TABLE) / size_of::<Descriptor>();

/// Two of the descriptors are the header's and the status's.
const MAX_SEGMENTS: usize = TABLE_ENTRIES - 2;

/// What the lock of a queue protects.
struct Ring {
    queue: Queue,
    requests: Vec<Option<Request>>,
    /// Room for what one pass of [`Blk::reap`] takes from the queue.
    finished: Vec<(Request, Result<()>)>,
}

/// How many completions are taken under one hold of a lane's lock.
const REAPED_AT_ONCE: usize = 32;

struct Lane {
    ring: IrqLock<Ring>,
    slots: DmaBuffer,
    notifier: Option<Notifier>,
}

struct Blk {
    device: Device,
    lanes: Vec<Lane>,
    limits: Limits,
    unmap_zeroes: bool,
    serial: Once<String>,
    is_broken: AtomicBool,
    /// The machine goes off: what is asked for from now on stays undone.
    is_off: AtomicBool,
    disk: Once<Arc<block::Disk>>,
}

/// Takes a device into service.
///
/// # Errors
/// `ENODEV` when it does not speak a dialect we know, `ENOMEM`.
pub(crate) fn probe(transport: Arc<dyn Transport>) -> Result<Arc<dyn Served>> {
    use features::*;
    let wanted = SIZE_MAX
        | SEG_MAX
        | READ_ONLY
        | BLOCK_SIZE
        | FLUSH
        | TOPOLOGY
        | CONFIG_WCE
        | MULTI_QUEUE
        | DISCARD
        | WRITE_ZEROES;
    let device = Device::begin(transport.clone(), wanted)?;
    if !device.has(feature::INDIRECT) {
        log::warn!("virtio-blk {}: no indirect descriptors", transport.name());
        transport.set_status(status::FAILED);
        return Err(Errno::ENODEV);
    }
    let offered = if device.has(MULTI_QUEUE) { transport.config16(config::QUEUES) } else { 1 };
    let count = usize::from(offered.max(1)).min(cpu::count());
    let shared: Arc<Once<Arc<Blk>>> = Arc::new(Once::new());
    let queues = (0..count).map(|index| QueueHandler {
        name: format!("req.{index}"),
        cpu: Some(cpu_of(index, count)),
        handler: on_queue(&shared, index),
    });
    transport.set_handlers(on_config(&shared), queues.collect())?;
    let lanes: Result<Vec<Lane>> =
        (0..count).map(|index| Lane::new(&device, index as u16)).collect();
    let lanes = lanes?;
    let limits = read_limits(&device, &lanes);
    let unmap_zeroes =
        device.has(WRITE_ZEROES) && transport.config8(config::WRITE_ZEROES_UNMAP) != 0;
    let blk = Arc::new(Blk {
        device,
        lanes,
        limits,
        unmap_zeroes,
        serial: Once::new(),
        is_broken: AtomicBool::new(false),
        is_off: AtomicBool::new(false),
        disk: Once::new(),
    });
    shared.call_once(|| blk.clone());
    blk.device.finish();
    blk.read_serial();
    let capacity = blk.capacity();
    let disk = block::Disk::add_named(block::names::VIRTIO, blk.clone(), capacity)?;
    blk.disk.call_once(|| disk);
    Ok(blk)
}

impl Served for Blk {
    fn transport(&self) -> &dyn Transport {
        &*self.device.transport
    }

    fn quiesce(&self) {
        let end = arch::time::now_ns().saturating_add(DRAIN_NS);
        while self.is_busy() && arch::time::now_ns() < end {
            for index in 0..self.lanes.len() {
                self.reap(index);
            }
            core::hint::spin_loop();
        }
        self.is_off.store(true, Ordering::Release);
    }
}

/// The CPU whose requests go to this queue first.
fn cpu_of(queue: usize, queues: usize) -> CpuId {
    CpuId::from_index(queue * cpu::count() / queues.max(1))
}

fn on_queue(shared: &Arc<Once<Arc<Blk>>>, index: usize) -> Handler {
    let shared = shared.clone();
    Arc::new(move || {
        if let Some(blk) = shared.get() {
            blk.reap(index);
        }
    })
}

fn on_config(shared: &Arc<Once<Arc<Blk>>>) -> Handler {
    let shared = shared.clone();
    Arc::new(move || {
        if let Some(blk) = shared.get() {
            blk.config_changed();
        }
    })
}

fn read_limits(device: &Device, lanes: &[Lane]) -> Limits {
    use features::*;
    let t = &*device.transport;
    let mut limits = Limits { queues: lanes.len(), ..Limits::default() };
    limits.queue_depth = lanes.iter().map(|lane| lane.depth()).min().unwrap_or(1);
    limits.max_segments = MAX_SEGMENTS;
    if device.has(SEG_MAX) {
        limits.max_segments = (t.config32(config::SEG_MAX) as usize).clamp(1, MAX_SEGMENTS);
    }
    limits.max_segment_size = !4095;
    if device.has(SIZE_MAX) {
        limits.max_segment_size = t.config32(config::SIZE_MAX).max(4096) & !511;
    }
    if device.has(BLOCK_SIZE) {
        let size = t.config32(config::BLOCK_SIZE);
        if size.is_power_of_two() && (512..=4096).contains(&size) {
            limits.logical_block_size = size;
            limits.physical_block_size = size;
        }
    }
    if device.has(TOPOLOGY) {
        let exponent = u32::from(t.config8(config::PHYSICAL_EXPONENT)).min(8);
        limits.physical_block_size = (limits.logical_block_size << exponent).min(1 << 20);
        let block = limits.logical_block_size;
        limits.io_min = u32::from(t.config16(config::IO_MIN)).saturating_mul(block);
        limits.io_opt = t.config32(config::IO_OPT).saturating_mul(block);
    }
    // §5.2.5: with CONFIG_WCE the mode is in the configuration, else FLUSH alone tells.
    limits.write_cache =
        device.has(FLUSH) && (!device.has(CONFIG_WCE) || t.config8(config::WRITE_BACK) != 0);
    limits.max_sectors = 2560;
    if device.has(DISCARD) {
        limits.max_discard_sectors = u64::from(t.config32(config::MAX_DISCARD));
    }
    if device.has(WRITE_ZEROES) {
        limits.max_write_zeroes_sectors = u64::from(t.config32(config::MAX_WRITE_ZEROES));
    }
    limits.read_only = device.has(READ_ONLY);
    limits.rotational = false;
    limits
}

impl Lane {
    fn new(device: &Device, index: u16) -> Result<Self> {
        let queue = device.queue(index, DEPTH)?;
        let depth = usize::from(queue.size());
        let slots = DmaBuffer::new(depth * SLOT)?;
        let notifier = queue.notifier();
        let requests = core::iter::repeat_with(|| None).take(depth).collect();
        let mut ring = Ring { queue, requests, finished: Vec::with_capacity(REAPED_AT_ONCE) };
        // The interrupt is wanted from the first request on.
        ring.queue.enable_interrupts();
        Ok(Self { ring: IrqLock::new(&RING, ring), slots, notifier })
    }

    /// The last descriptor is kept for the driver's own requests.
    fn depth(&self) -> usize {
        let size = self.slots.len() / SLOT;
        size.min(usize::from(DEPTH)).saturating_sub(1).max(1)
    }

    fn slot(&self, tag: usize) -> usize {
        tag * SLOT
    }

    fn put_header(&self, tag: usize, kind: u32, sector: u64) {
        let at = self.slot(tag);
        self.slots.write(at, kind);
        self.slots.write(at + 4, 0u32);
        self.slots.write(at + 8, sector);
        self.slots.write(at + SLOT_STATUS, STATUS_PENDING);
    }

    fn put_entry(&self, tag: usize, index: usize, addr: u64, len: u32, flags: u16) {
        let at = self.slot(tag) + SLOT_TABLE + index * size_of::<Descriptor>();
        let descriptor = Descriptor { addr, len, flags, next: index as u16 + 1 };
        self.slots.write(at, descriptor);
    }

    /// Writes the descriptors around the data; returns how many there are in all.
    fn frame(&self, tag: usize, data_entries: usize) -> usize {
        let base = self.slots.phys().0 + self.slot(tag) as u64;
        self.put_entry(tag, 0, base, 16, NEXT);
        self.put_entry(tag, data_entries + 1, base + SLOT_STATUS as u64, 1, WRITE);
        data_entries + 2
    }

    fn publish(&self, ring: &mut Ring, tag: usize, entries: usize) {
        let table = self.slots.phys().0 + (self.slot(tag) + SLOT_TABLE) as u64;
        let len = (entries * size_of::<Descriptor>()) as u32;
        let head = Descriptor { addr: table, len, flags: INDIRECT, next: 0 };
        ring.queue.set(tag as u16, head);
        ring.queue.publish(tag as u16);
    }

    fn status(&self, tag: usize) -> Result<()> {
        match self.slots.read::<u8>(self.slot(tag) + SLOT_STATUS) {
            STATUS_OK => Ok(()),
            STATUS_UNSUPPORTED => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EIO),
        }
    }
}

impl Blk {
    fn is_busy(&self) -> bool {
        self.lanes.iter().any(|lane| lane.ring.lock().requests.iter().any(Option::is_some))
    }

    fn capacity(&self) -> u64 {
        self.device.config64(config::CAPACITY)
    }

    /// The device's configuration changed: most likely its size.
    fn config_changed(&self) {
        if self.device.transport.status() & status::NEEDS_RESET != 0 {
            self.is_broken.store(true, Ordering::Release);
            log::error!("virtio-blk {}: device needs a reset", self.device.transport.name());
            return;
        }
        // The block layer wants to be told in a thread.
        if let Some(disk) = self.disk.get().cloned() {
            let capacity = self.capacity();
            sched::work::queue(move || disk.set_capacity(capacity));
        }
    }

    /// Ends the requests the device has finished; how many.
    fn reap(&self, index: usize) -> usize {
        let Some(lane) = self.lanes.get(index) else { return 0 };
        let mut total = 0;
        loop {
            let mut finished;
            {
                let mut ring = lane.ring.lock();
                // Kept in the ring between passes: requests are large, stacks are small. Without
                // room another processor is in here, and comes back for what is left.
                finished = core::mem::take(&mut ring.finished);
                if finished.capacity() == 0 {
                    return total;
                }
                while finished.len() < finished.capacity()
                    && let Some(done) = ring.queue.take()
                {
                    let tag = usize::from(done.head);
                    // A head that is not ours to end is a device's mistake.
                    if let Some(request) = ring.requests.get_mut(tag).and_then(Option::take) {
                        finished.push((request, lane.status(tag)));
                    }
                }
                // Checked under the lock that the room was taken under, so that a processor that
                // found no room has left nothing behind.
                if finished.is_empty() {
                    ring.finished = finished;
                    if ring.queue.enable_interrupts() {
                        continue;
                    }
                    return total;
                }
            }
            total += finished.len();
            for (request, result) in finished.drain(..) {
                request.complete(result);
            }
            lane.ring.lock().finished = finished;
        }
    }

    /// The drive's name for itself, read without interrupts before the disk is known.
    fn read_serial(&self) {
        let Some(lane) = self.lanes.first() else { return };
        let tag = lane.depth();
        let Ok(buffer) = DmaBuffer::new(20) else { return };
        lane.put_header(tag, TYPE_GET_ID, 0);
        lane.put_entry(tag, 1, buffer.phys().0, 20, NEXT | WRITE);
        let entries = lane.frame(tag, 1);
        {
            let mut ring = lane.ring.lock();
            lane.publish(&mut ring, tag, entries);
            ring.queue.notify();
        }
        let deadline = arch::time::now_ns() + 1_000_000_000;
        while lane.slots.read::<u8>(lane.slot(tag) + SLOT_STATUS) == STATUS_PENDING {
            if arch::time::now_ns() > deadline {
                buffer.leak();
                return;
            }
            core::hint::spin_loop();
        }
        self.reap(0);
        if lane.status(tag).is_err() {
            return;
        }
        let mut bytes = [0; 20];
        buffer.copy_out(0, &mut bytes);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let text = bytes.get(..end).unwrap_or(&[]);
        if !text.is_empty() && text.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            let text = text.iter().map(|byte| char::from(*byte)).collect();
            self.serial.call_once(|| text);
        }
    }

    /// Writes the request into its slot; how many descriptors it took.
    fn fill(&self, lane: &Lane, tag: usize, request: &Request) -> usize {
        let (kind, flags) = match request.op() {
            Op::Read => (TYPE_READ, NEXT | WRITE),
            Op::Write => (TYPE_WRITE, NEXT),
            Op::Flush => (TYPE_FLUSH, NEXT),
            Op::Discard => (TYPE_DISCARD, NEXT),
            Op::WriteZeroes => (TYPE_WRITE_ZEROES, NEXT),
        };
        let mut entries = 0;
        match request.op() {
            Op::Read | Op::Write => {
                lane.put_header(tag, kind, request.sector());
                request.for_each_phys(self.limits.max_segment_size, |address, len| {
                    entries += 1;
                    lane.put_entry(tag, entries, address.0, len, flags);
                });
            }
            Op::Flush => lane.put_header(tag, kind, 0),
            Op::Discard | Op::WriteZeroes => {
                lane.put_header(tag, kind, 0);
                let at = lane.slot(tag) + SLOT_RANGE;
                lane.slots.write(at, request.sector());
                lane.slots.write(at + 8, request.sectors() as u32);
                let unmap = request.op() == Op::WriteZeroes && self.unmap_zeroes;
                lane.slots.write(at + 12, u32::from(unmap));
                entries = 1;
                lane.put_entry(tag, 1, lane.slots.phys().0 + at as u64, 16, flags);
            }
        }
        lane.frame(tag, entries)
    }
}

impl block::Driver for Blk {
    fn limits(&self) -> Limits {
        self.limits.clone()
    }

    fn submit(&self, queue: usize, request: Request) -> core::result::Result<(), Request> {
        let Some(lane) = self.lanes.get(queue) else { return Err(request) };
        let tag = request.tag();
        let is_too_big = request.segment_count() > MAX_SEGMENTS || tag >= lane.depth();
        if is_too_big || self.is_broken.load(Ordering::Relaxed) {
            request.complete(Err(Errno::EIO));
            return Ok(());
        }
        debug_assert!(!request.flags().contains(BioFlags::FUA));
        // The tag makes the slot this request's own, so it is written without the lock.
        let entries = self.fill(lane, tag, &request);
        let mut ring = lane.ring.lock();
        if let Some(place) = ring.requests.get_mut(tag) {
            *place = Some(request);
        }
        lane.publish(&mut ring, tag, entries);
        Ok(())
    }

    fn kick(&self, queue: usize) {
        let Some(lane) = self.lanes.get(queue) else { return };
        // §2.4.1: a device that was reset is not to be notified.
        if self.is_off.load(Ordering::Acquire) {
            return;
        }
        let wants = lane.ring.lock().queue.wants_notify();
        if wants && let Some(notifier) = &lane.notifier {
            notifier.notify();
        }
    }

    fn timed_out(&self, queue: usize, tag: usize) -> TimeoutAction {
        // An interrupt may have been lost; there is no way to take a request back.
        if self.reap(queue) == 0 {
            log::warn!(
                "virtio-blk {}: request {tag} of queue {queue} takes long",
                self.device.transport.name()
            );
        }
        TimeoutAction::Extend
    }

    fn poll(&self, queue: usize) -> usize {
        self.reap(queue)
    }

    fn parent(&self) -> Option<block::Parent> {
        let function = self.device.transport.name();
        Some(block::Parent { function, controller: None })
    }

    fn serial(&self) -> Option<String> {
        self.serial.get().cloned()
    }
}
