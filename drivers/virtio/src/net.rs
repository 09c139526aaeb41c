//! Network devices: Virtio 1.2 §5.1.
//!
//! One pair of queues per processor as far as the device has them. A frame that is sent keeps a slot of its
//! queue: header and table of descriptors lie there, the data is read where it is. Buffers for what comes are
//! pages, several of which may hold one frame; the pages go up the stack as they are. A thread per queue takes
//! what has come, a bounded number at a time.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::{Errno, Result};
use arch::cpu::{self, CpuId};
use arch::irq::Handler;
use arch::lock::{IrqLock, LockClass};
use frames::PageRef;
use hw::DmaBuffer;
use netdevice::{
    ChecksumRequest, Chunk, Frame, Interface, NetDevice, Offloads, Received, Segmentation,
};
use sched::WaitQueue;
use smallvec::SmallVec;
use spin::Once;

use crate::driver::Served;
use crate::queue::{Descriptor, INDIRECT, NEXT, Notifier, Queue, WRITE};
use crate::transport::{Device, QueueHandler, Transport, feature, status};

static SEND: LockClass = LockClass::new("virtio.net_send", 583);
static RECEIVE: LockClass = LockClass::new("virtio.net_receive", 584);

mod features {
    pub(super) const CHECKSUM: u64 = 1;
    pub(super) const GUEST_CHECKSUM: u64 = 1 << 1;
    pub(super) const MTU: u64 = 1 << 3;
    pub(super) const MAC: u64 = 1 << 5;
    pub(super) const GUEST_TSO4: u64 = 1 << 7;
    pub(super) const GUEST_TSO6: u64 = 1 << 8;
    pub(super) const HOST_TSO4: u64 = 1 << 11;
    pub(super) const HOST_TSO6: u64 = 1 << 12;
    pub(super) const MERGEABLE: u64 = 1 << 15;
    pub(super) const STATUS: u64 = 1 << 16;
    pub(super) const CONTROL: u64 = 1 << 17;
    pub(super) const MULTI_QUEUE: u64 = 1 << 22;
}

const CONFIG_STATUS: usize = 6;
const CONFIG_PAIRS: usize = 8;
const CONFIG_MTU: usize = 10;

/// The header before each frame.
const HEADER: usize = 12;
const NEEDS_CHECKSUM: u8 = 1;
const SUM_IS_GOOD: u8 = 2;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_ECN: u8 = 0x80;

const DEPTH: u16 = 256;
/// A slot for a frame that is sent: headers, then a table of descriptors.
const SLOT: usize = 512;
const SLOT_TABLE: usize = 144;
const ENTRIES: usize = (SLOT - SLOT_TABLE) / size_of::<Descriptor>();
const PAGE: usize = 4096;
/// Frames that are taken between two looks at other things.
const BUDGET: usize = 64;
/// How long the device may take for a command.
const CONTROL_NS: u64 = 1_000_000_000;
/// How long it waits for memory before it looks again.
const SHORTAGE_NS: u64 = 100_000_000;

struct Sender {
    queue: Queue,
    frames: Vec<Option<Frame>>,
    free: Vec<u16>,
}

struct SendLane {
    sender: IrqLock<Sender>,
    slots: DmaBuffer,
    notifier: Option<Notifier>,
}

struct Receiver {
    queue: Queue,
    pages: Vec<Option<PageRef>>,
    /// Slots without a page, for want of memory.
    empty: Vec<u16>,
}

struct ReceiveLane {
    receiver: IrqLock<Receiver>,
    wakeup: WaitQueue,
    is_due: AtomicBool,
}

struct Net {
    device: Device,
    mac: [u8; 6],
    mtu: u32,
    send: Vec<SendLane>,
    receive: Vec<ReceiveLane>,
    interface: Once<Arc<Interface>>,
    is_up: AtomicBool,
    is_off: AtomicBool,
    dropped: AtomicU32,
}

/// Takes a device into service.
///
/// # Errors
/// `ENODEV` when it does not speak a dialect we know, `ENOMEM`.
pub(crate) fn probe(transport: Arc<dyn Transport>) -> Result<Arc<dyn Served>> {
    use features::*;
    let wanted = CHECKSUM
        | GUEST_CHECKSUM
        | MTU
        | MAC
        | GUEST_TSO4
        | GUEST_TSO6
        | HOST_TSO4
        | HOST_TSO6
        | MERGEABLE
        | STATUS
        | CONTROL
        | MULTI_QUEUE;
    let device = Device::begin(transport.clone(), wanted)?;
    let is_usable = device.has(feature::INDIRECT) && device.has(MERGEABLE) && device.has(MAC);
    if !is_usable {
        log::warn!("virtio-net {}: neither indirect nor mergeable buffers", transport.name());
        transport.set_status(status::FAILED);
        return Err(Errno::ENODEV);
    }
    let has_pairs = device.has(MULTI_QUEUE) && device.has(CONTROL);
    // §5.1.4: the number of the control queue, which follows all pairs, must be one of a queue.
    let offered = match usize::from(transport.config16(CONFIG_PAIRS)) {
        offered @ 1..=0x7fff if has_pairs => offered,
        _ => 1,
    };
    let pairs = offered.min(cpu::count());
    let shared: Arc<Once<Arc<Net>>> = Arc::new(Once::new());
    let handlers = (0..pairs).flat_map(|pair| {
        let cpu = Some(CpuId::from_index(pair * cpu::count() / pairs));
        let nothing: Handler = Arc::new(|| ());
        [
            QueueHandler { name: format!("input.{pair}"), cpu, handler: on_receive(&shared, pair) },
            QueueHandler { name: format!("output.{pair}"), cpu, handler: nothing },
        ]
    });
    transport.set_handlers(on_config(&shared), handlers.collect())?;
    let mut send = Vec::new();
    let mut receive = Vec::new();
    for pair in 0..pairs as u16 {
        receive.push(ReceiveLane::new(&device, 2 * pair)?);
        send.push(SendLane::new(&device, 2 * pair + 1)?);
    }
    let mut mac = [0; 6];
    mac.iter_mut().enumerate().for_each(|(index, byte)| *byte = transport.config8(index));
    let mtu = if device.has(MTU) { u32::from(transport.config16(CONFIG_MTU)) } else { 1500 };
    let control =
        if has_pairs && pairs > 1 { Some(device.queue(2 * offered as u16, 8)?) } else { None };
    let net = Arc::new(Net {
        device,
        mac,
        mtu: mtu.max(68),
        send,
        receive,
        interface: Once::new(),
        is_up: AtomicBool::new(true),
        is_off: AtomicBool::new(false),
        dropped: AtomicU32::new(0),
    });
    shared.call_once(|| net.clone());
    net.device.finish();
    if let Some(control) = control
        && let Err(error) = set_pairs(control, pairs as u16)
    {
        log::warn!("virtio-net: the device keeps to one pair of queues: {error:?}");
    }
    net.config_changed();
    for index in 0..pairs {
        let worker = net.clone();
        sched::spawn_kernel(&format!("net-rx/{index}"), move || worker.serve(index));
    }
    let of_interface = net.clone();
    netdevice::announce("eth%d", net.clone(), move |interface| {
        of_interface.interface.call_once(|| interface.clone());
        (0..of_interface.receive.len()).for_each(|index| of_interface.wake(index));
    });
    Ok(net)
}

/// §5.1.6.5.5: how many pairs of queues are in use.
fn set_pairs(mut queue: Queue, pairs: u16) -> Result<()> {
    let memory = DmaBuffer::new(16)?;
    memory.write(0, [4u8, 0u8]);
    memory.write(2, pairs);
    memory.write(4, 0xffu8);
    let base = memory.phys().0;
    queue.set(0, Descriptor { addr: base, len: 2, flags: NEXT, next: 1 });
    queue.set(1, Descriptor { addr: base + 2, len: 2, flags: NEXT, next: 2 });
    queue.set(2, Descriptor { addr: base + 4, len: 1, flags: WRITE, next: 0 });
    queue.publish(0);
    queue.notify();
    let end = arch::time::now_ns().saturating_add(CONTROL_NS);
    while queue.take().is_none() {
        if arch::time::now_ns() >= end {
            // The device may still write the answer.
            memory.leak();
            return Err(Errno::ETIMEDOUT);
        }
        sched::yield_now();
    }
    if memory.read::<u8>(4) == 0 { Ok(()) } else { Err(Errno::EIO) }
}

fn on_receive(shared: &Arc<Once<Arc<Net>>>, index: usize) -> Handler {
    let shared = shared.clone();
    Arc::new(move || {
        if let Some(net) = shared.get() {
            net.wake(index);
        }
    })
}

fn on_config(shared: &Arc<Once<Arc<Net>>>) -> Handler {
    let shared = shared.clone();
    Arc::new(move || {
        if let Some(net) = shared.get() {
            net.config_changed();
        }
    })
}

impl SendLane {
    fn new(device: &Device, index: u16) -> Result<Self> {
        let queue = device.queue(index, DEPTH)?;
        let size = queue.size();
        let slots = DmaBuffer::new(usize::from(size) * SLOT)?;
        let notifier = queue.notifier();
        let frames = core::iter::repeat_with(|| None).take(usize::from(size)).collect();
        let sender = Sender { queue, frames, free: (0..size).rev().collect() };
        Ok(Self { sender: IrqLock::new(&SEND, sender), slots, notifier })
    }

    fn send(&self, mut frame: Frame) -> Result<()> {
        if frame.payload.len() + 1 > ENTRIES {
            frame.payload = gather(&frame.payload)?;
        }
        let mut done: SmallVec<[Frame; 16]> = SmallVec::new();
        let notify = {
            let mut sender = self.sender.lock();
            while done.len() < 16
                && let Some(finished) = sender.queue.take()
            {
                // A head that was not given is a device's mistake.
                if let Some(frame) =
                    sender.frames.get_mut(usize::from(finished.head)).and_then(Option::take)
                {
                    done.push(frame);
                    sender.free.push(finished.head);
                }
            }
            let slot = sender.free.pop().ok_or(Errno::ENOBUFS)?;
            let entries = self.write(usize::from(slot), &frame);
            let table = self.slots.phys().0 + (usize::from(slot) * SLOT + SLOT_TABLE) as u64;
            let len = (entries * size_of::<Descriptor>()) as u32;
            sender.queue.set(slot, Descriptor { addr: table, len, flags: INDIRECT, next: 0 });
            if let Some(place) = sender.frames.get_mut(usize::from(slot)) {
                *place = Some(frame);
            }
            sender.queue.publish(slot);
            sender.queue.wants_notify()
        };
        if notify && let Some(notifier) = &self.notifier {
            notifier.notify();
        }
        drop(done);
        Ok(())
    }

    /// Writes a slot; how many descriptors its table has.
    fn write(&self, slot: usize, frame: &Frame) -> usize {
        let at = slot * SLOT;
        let header = frame.header.bytes();
        let mut words = [0u8; HEADER];
        if let Some(sum) = frame.checksum {
            words[0] = NEEDS_CHECKSUM;
            let (start, offset) = (sum.start.to_le_bytes(), sum.offset.to_le_bytes());
            [words[6], words[7]] = start;
            [words[8], words[9]] = offset;
        }
        if let Some(cut) = frame.segmentation {
            words[1] = if cut.is_v6 { GSO_TCP6 } else { GSO_TCP4 };
            [words[2], words[3]] = (header.len() as u16).to_le_bytes();
            [words[4], words[5]] = cut.size.to_le_bytes();
        }
        self.slots.copy_in(at, &words);
        self.slots.copy_in(at + HEADER, header);
        let entry = |index: usize, addr: u64, len: usize, is_last: bool| {
            let flags = if is_last { 0 } else { NEXT };
            let descriptor = Descriptor { addr, len: len as u32, flags, next: index as u16 + 1 };
            self.slots.write(at + SLOT_TABLE + index * size_of::<Descriptor>(), descriptor);
        };
        let count = frame.payload.len();
        entry(0, self.slots.phys().0 + at as u64, HEADER + header.len(), count == 0);
        for (index, piece) in frame.payload.iter().enumerate() {
            let addr = piece.page.phys_at(piece.offset as usize).0;
            entry(index + 1, addr, piece.len(), index + 1 == count);
        }
        count + 1
    }
}

/// The same bytes in as few pages as they need.
fn gather(pieces: &[Chunk]) -> Result<SmallVec<[Chunk; 4]>> {
    let mut whole: SmallVec<[Chunk; 4]> = SmallVec::new();
    let mut buffer = [0; 512];
    for piece in pieces {
        let mut at = 0;
        while at < piece.len() {
            if whole.last().is_none_or(|last| last.len() == PAGE) {
                let page = frames::alloc_page(frames::Flags::empty());
                whole.push(Chunk { page: page.map_err(|_| Errno::ENOBUFS)?, offset: 0, len: 0 });
            }
            let Some(last) = whole.last_mut() else { break };
            let part = piece.part(at, buffer.len().min(PAGE - last.len()));
            let Some(bytes) = buffer.get_mut(..part.len()) else { break };
            part.copy_out(bytes);
            last.page.copy_in(last.len(), bytes);
            last.len += part.len;
            at += part.len();
        }
    }
    if whole.len() + 1 > ENTRIES { Err(Errno::EMSGSIZE) } else { Ok(whole) }
}

impl ReceiveLane {
    fn new(device: &Device, index: u16) -> Result<Self> {
        let queue = device.queue(index, DEPTH)?;
        let size = queue.size();
        let pages = core::iter::repeat_with(|| None).take(usize::from(size)).collect();
        let mut receiver = Receiver { queue, pages, empty: (0..size).collect() };
        receiver.fill();
        receiver.queue.enable_interrupts();
        Ok(Self {
            receiver: IrqLock::new(&RECEIVE, receiver),
            wakeup: WaitQueue::new(),
            is_due: AtomicBool::new(false),
        })
    }
}

impl Receiver {
    /// Gives the device pages to fill.
    fn fill(&mut self) {
        while let Some(slot) = self.empty.pop() {
            let Ok(page) = frames::alloc_page(frames::Flags::empty()) else {
                self.empty.push(slot);
                break;
            };
            let addr = page.phys_at(0).0;
            self.queue.set(slot, Descriptor { addr, len: PAGE as u32, flags: WRITE, next: 0 });
            if let Some(place) = self.pages.get_mut(usize::from(slot)) {
                *place = Some(page);
            }
            self.queue.publish(slot);
        }
        self.queue.notify();
    }

    /// A filled page and how much is in it.
    fn take(&mut self) -> Option<(PageRef, usize)> {
        loop {
            let finished = self.queue.take()?;
            let page = self.pages.get_mut(usize::from(finished.head)).and_then(Option::take);
            if let Some(page) = page {
                self.empty.push(finished.head);
                return Some((page, (finished.written as usize).min(PAGE)));
            }
        }
    }

    /// A frame, which may lie in several pages.
    fn frame(&mut self) -> Option<Received> {
        loop {
            let (page, written) = self.take()?;
            if written < HEADER {
                continue;
            }
            let mut header = [0; HEADER];
            page.copy_out(0, &mut header);
            let pages = u16::from_le_bytes([header[10], header[11]]).max(1);
            let len = (written - HEADER) as u32;
            let mut data = SmallVec::new();
            data.push(Chunk { page, offset: HEADER as u32, len });
            for _ in 1..pages {
                // All pages of a frame are finished together (§5.1.6.3.2).
                let Some((page, written)) = self.take() else { break };
                data.push(Chunk { page, offset: 0, len: written as u32 });
            }
            let is_sum_good = header[0] & (NEEDS_CHECKSUM | SUM_IS_GOOD) != 0;
            return Some(asked(&header, Received::new(data, is_sum_good)));
        }
    }
}

/// What the host left to be done if the frame goes on: its sum, its segments.
fn asked(header: &[u8; HEADER], received: Received) -> Received {
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (start, offset) = (word(6), word(8));
    // A place beyond the frame's end is none, whatever the host says.
    let end = usize::from(start) + usize::from(offset) + 2;
    let has_sum = header[0] & NEEDS_CHECKSUM != 0 && end <= received.len();
    let checksum = has_sum.then_some(ChecksumRequest { start, offset });
    let is_v6 = match header[1] & !GSO_ECN {
        GSO_TCP4 => Some(false),
        GSO_TCP6 => Some(true),
        _ => None,
    };
    let size = word(4);
    let is_v6 = is_v6.filter(|_| size > 0 && has_sum);
    let segmentation = is_v6.map(|is_v6| Segmentation { is_v6, size });
    Received { checksum, segmentation, ..received }
}

impl Net {
    fn wake(&self, index: usize) {
        if let Some(lane) = self.receive.get(index) {
            lane.is_due.store(true, Ordering::SeqCst);
            lane.wakeup.wake_one();
        }
    }

    fn config_changed(&self) {
        if self.device.has(features::STATUS) {
            let is_up = self.device.transport.config16(CONFIG_STATUS) & 1 != 0;
            self.is_up.store(is_up, Ordering::Relaxed);
        }
    }

    /// The thread of a queue.
    fn serve(&self, index: usize) {
        let Some(lane) = self.receive.get(index) else { return };
        // Pages were short when the queue was filled first, or last.
        let mut is_short = !lane.receiver.lock().empty.is_empty();
        loop {
            let is_due = || lane.is_due.swap(false, Ordering::SeqCst).then_some(());
            if is_short {
                // The device interrupts for nothing when it has no pages: memory is looked for again.
                let again = arch::time::now_ns().saturating_add(SHORTAGE_NS);
                lane.wakeup.wait_deadline(again, is_due);
            } else {
                lane.wakeup.wait(is_due);
            }
            loop {
                if self.is_off.load(Ordering::Relaxed) {
                    return;
                }
                let mut batch: SmallVec<[Received; 8]> = SmallVec::new();
                let is_more = {
                    let mut receiver = lane.receiver.lock();
                    while batch.len() < BUDGET
                        && let Some(frame) = receiver.frame()
                    {
                        batch.push(frame);
                    }
                    receiver.fill();
                    is_short = !receiver.empty.is_empty();
                    // Asked for again only when nothing is left.
                    batch.len() == BUDGET || receiver.queue.enable_interrupts()
                };
                match self.interface.get() {
                    Some(interface) => interface.receive(&mut batch.into_iter()),
                    None => {
                        self.dropped.fetch_add(batch.len() as u32, Ordering::Relaxed);
                    }
                }
                if !is_more {
                    break;
                }
                sched::yield_now();
            }
        }
    }
}

impl NetDevice for Net {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn offloads(&self) -> Offloads {
        let pairs = [
            (features::CHECKSUM, Offloads::CHECKSUM),
            (features::HOST_TSO4, Offloads::SEGMENT4),
            (features::HOST_TSO6, Offloads::SEGMENT6),
            (features::GUEST_CHECKSUM, Offloads::RX_CHECKSUM),
            (features::GUEST_TSO4, Offloads::RX_JOIN),
        ];
        let has = pairs.into_iter().filter(|(bit, _)| self.device.has(*bit));
        has.fold(Offloads::empty(), |all, (_, offload)| all | offload)
    }

    fn transmit(&self, frame: Frame) -> Result<()> {
        if self.is_off.load(Ordering::Relaxed) {
            return Err(Errno::ENETDOWN);
        }
        let index = cpu::id().index() % self.send.len().max(1);
        self.send.get(index).ok_or(Errno::ENETDOWN)?.send(frame)
    }

    fn has_carrier(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    fn driver(&self) -> &'static str {
        "virtio_net"
    }

    fn bus(&self) -> String {
        self.device.transport.name()
    }

    fn max_mtu(&self) -> u32 {
        self.mtu
    }
}

impl Served for Net {
    fn transport(&self) -> &dyn Transport {
        &*self.device.transport
    }

    fn quiesce(&self) {
        self.is_off.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_pieces_are_gathered() {
        frames::init_host(64 << 20);
        let all: Vec<u8> = (0..30_000u32).map(|at| (at / 3) as u8).collect();
        let pieces: Vec<Chunk> =
            all.chunks(700).map(|part| Chunk::from_bytes(part).unwrap()).collect();
        let whole = gather(&pieces).unwrap();
        assert_eq!(whole.len(), all.len().div_ceil(PAGE));
        let mut bytes = Vec::new();
        for chunk in &whole {
            let mut part = alloc::vec![0; chunk.len()];
            chunk.copy_out(&mut part);
            bytes.extend(part);
        }
        assert!(bytes == all);
        let too_many = alloc::vec![Chunk::from_bytes(&[1; PAGE]).unwrap(); ENTRIES];
        assert_eq!(gather(&too_many).err(), Some(Errno::EMSGSIZE));
    }
}
