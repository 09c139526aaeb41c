//! What devices send and deliver.

use crate::{ARPHRD_ETHER, Attribute, Chunk, Forwarding, Interface, Spread, flag};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use smallvec::SmallVec;

/// Room for the headers of a frame: Ethernet with a tag, IPv6, TCP with all options.
pub const HEADER_ROOM: usize = 128;

/// Headers, which are written from the last to the first.
#[derive(Clone)]
pub struct Header {
    bytes: [u8; HEADER_ROOM],
    start: u8,
}

impl Default for Header {
    fn default() -> Self {
        Self::new()
    }
}

impl Header {
    /// No header yet.
    pub const fn new() -> Header {
        Header { bytes: [0; HEADER_ROOM], start: HEADER_ROOM as u8 }
    }

    /// Puts `len` zeroed bytes before what is there; `None` when there is no room.
    pub fn push(&mut self, len: usize) -> Option<&mut [u8]> {
        let end = usize::from(self.start);
        let start = end.checked_sub(len)?;
        let room = self.bytes.get_mut(start..end)?;
        room.fill(0);
        self.start = start as u8;
        Some(room)
    }

    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(usize::from(self.start)..).unwrap_or(&[])
    }

    /// What is there, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(usize::from(self.start)..).unwrap_or_default()
    }

    /// How much is there.
    pub fn len(&self) -> usize {
        HEADER_ROOM - usize::from(self.start)
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a device is to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumRequest {
    /// Where the sum begins, from the start of the frame.
    pub start: u16,
    /// Where it is stored, from there.
    pub offset: u16,
}

/// How a device is to cut a frame into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// TCP over IPv6 and not over IPv4.
    pub is_v6: bool,
    /// The payload of a segment.
    pub size: u16,
}

/// A frame to be sent.
#[derive(Clone)]
pub struct Frame {
    /// The headers, the link's included.
    pub header: Header,
    /// The rest.
    pub payload: SmallVec<[Chunk; 4]>,
    /// The sum the device is to compute.
    pub checksum: Option<ChecksumRequest>,
    /// How the device is to cut it.
    pub segmentation: Option<Segmentation>,
    /// `ETH_P_*` of what is in it, for devices without a link's header, which else would say so.
    pub protocol: u16,
}

impl Frame {
    /// A frame of which the device is asked nothing.
    pub fn new(header: Header, payload: SmallVec<[Chunk; 4]>) -> Frame {
        Frame { header, payload, checksum: None, segmentation: None, protocol: 0 }
    }

    /// Its length.
    pub fn len(&self) -> usize {
        self.header.len() + self.payload.iter().map(Chunk::len).sum::<usize>()
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes.
    pub fn bytes(&self) -> Spread<'_> {
        Spread { head: self.header.bytes(), body: &[], chunks: &self.payload }
    }

    /// The same with exactly the first `len` bytes in the header; `None` if there are not as many, or no room.
    #[must_use]
    pub fn with_header(&self, len: usize) -> Option<Frame> {
        let mut head = [0; HEADER_ROOM];
        let head = head.get_mut(..len)?;
        if self.bytes().copy_out(0, head) < len {
            return None;
        }
        let mut header = Header::new();
        header.push(len)?.copy_from_slice(head);
        let mut payload = SmallVec::new();
        // What the header gives up follows as a page of its own.
        let left = self.header.bytes().get(len..).unwrap_or_default();
        if !left.is_empty() {
            payload.push(Chunk::from_bytes(left)?);
        }
        let skip = len.saturating_sub(self.header.len());
        payload.extend(after(&self.payload, skip));
        Some(Frame { header, payload, ..*self })
    }
}

/// What follows the first `skip` bytes of pieces.
fn after(chunks: &[Chunk], mut skip: usize) -> impl Iterator<Item = Chunk> + '_ {
    chunks.iter().filter_map(move |chunk| {
        let count = skip.min(chunk.len());
        skip -= count;
        (count < chunk.len()).then(|| chunk.part(count, chunk.len()))
    })
}

/// A frame that came.
#[derive(Clone, Debug)]
pub struct Received {
    /// The bytes, the link's header first.
    pub data: SmallVec<[Chunk; 2]>,
    /// The device vouches for the sums of TCP and UDP.
    pub is_sum_good: bool,
    /// The sum that nobody has computed yet, since the frame never left this machine's memory.
    pub checksum: Option<ChecksumRequest>,
    /// The segments that it is of.
    pub segmentation: Option<Segmentation>,
    /// `ETH_P_*` of what is in it, from devices without a link's header.
    pub protocol: u16,
}

impl Received {
    /// A frame as it was on a wire.
    pub fn new(data: SmallVec<[Chunk; 2]>, is_sum_good: bool) -> Received {
        Received { data, is_sum_good, checksum: None, segmentation: None, protocol: 0 }
    }

    /// Its length.
    pub fn len(&self) -> usize {
        self.data.iter().map(Chunk::len).sum()
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes from a place on; how many there were.
    pub fn copy_out(&self, at: usize, to: &mut [u8]) -> usize {
        Spread { head: &[], body: &[], chunks: &self.data }.copy_out(at, to)
    }

    /// The same frame on its way out: its headers are copied to where devices look for them.
    pub fn into_frame(self) -> Frame {
        let mut head = [0; HEADER_ROOM];
        let len = self.copy_out(0, &mut head);
        let mut header = Header::new();
        if let (Some(room), Some(head)) = (header.push(len), head.get(..len)) {
            room.copy_from_slice(head);
        }
        let Received { data, checksum, segmentation, protocol, .. } = self;
        let payload = after(&data, len).collect();
        Frame { header, payload, checksum, segmentation, protocol }
    }
}

/// What takes the frames of all devices.
pub trait Receiver: Send + Sync {
    /// Frames came, in order. Called in a thread.
    fn receive(&self, interface: &Arc<Interface>, frames: &mut dyn Iterator<Item = Received>);
}

bitflags::bitflags! {
    /// What a device can do by itself.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Offloads: u32 {
        /// Compute the sum of TCP and UDP.
        const CHECKSUM = 1;
        /// Cut TCP over IPv4.
        const SEGMENT4 = 2;
        /// Cut TCP over IPv6.
        const SEGMENT6 = 4;
        /// Verify sums.
        const RX_CHECKSUM = 8;
        /// Join segments.
        const RX_JOIN = 16;
    }
}

/// A device's driver. Who makes devices finds its own by their type (`Any`).
pub trait NetDevice: Any + Send + Sync {
    /// Its address.
    fn mac(&self) -> [u8; 6];
    /// What it can do.
    fn offloads(&self) -> Offloads;
    /// Sends a frame, or says that its queue is full (`ENOBUFS`). Not to be called in interrupts.
    fn transmit(&self, frame: Frame) -> Result<()>;
    /// Tells the device of frames it was given and not told of.
    fn flush(&self) {}
    /// Whether the link is there.
    fn has_carrier(&self) -> bool {
        true
    }
    /// The name of the driver, for `ethtool`.
    fn driver(&self) -> &'static str;
    /// Where the device is on its bus.
    fn bus(&self) -> alloc::string::String {
        alloc::string::String::new()
    }
    /// The largest MTU it takes.
    fn max_mtu(&self) -> u32 {
        1500
    }
    /// The MTU that an interface has at first.
    fn first_mtu(&self) -> u32 {
        self.max_mtu()
    }
    /// The flags that an interface has at first.
    fn first_flags(&self) -> u32 {
        flag::BROADCAST | flag::MULTICAST
    }
    /// The `txqueuelen` that an interface has at first.
    fn first_queue_len(&self) -> u32 {
        1000
    }
    /// The `ARPHRD_*` that an interface has at first.
    fn hardware(&self) -> u16 {
        ARPHRD_ETHER
    }
    /// The length of the link's header: Ethernet's, or 0 of a device that carries packets as they are, which has
    /// neither an address nor neighbours to ask.
    fn link_len(&self) -> usize {
        14
    }
    /// What the link's address of version 6 of a device without a hardware address ends in.
    fn identifier(&self) -> Option<[u8; 8]> {
        None
    }
    /// Whether it knows that its link is there, and does not only take it for granted.
    fn knows_link(&self) -> bool {
        true
    }
    /// Whether it counts itself what it sent, since what it was given may still be lost.
    fn counts_sent(&self) -> bool {
        false
    }
    /// What its kind tells of it (`IFLA_INFO_DATA`): attributes by their numbers.
    fn details(&self) -> Vec<(u16, Vec<u8>)> {
        Vec::new()
    }
    /// What its kind is told (`IFLA_INFO_DATA` of `RTM_NEWLINK`).
    fn set_details(&self, _details: &[(u16, &[u8])]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// What its events and `/sys` call its type (`DEVTYPE`).
    fn type_name(&self) -> Option<&'static str> {
        None
    }
    /// Its files in `/sys/class/net`, beside those that every interface has.
    fn attributes(&self) -> Vec<Attribute> {
        Vec::new()
    }
    /// How fast its link is, as far as there is an answer.
    fn speed_mbps(&self) -> Option<u32> {
        None
    }
    /// What it knows of who is behind which port, if it is a bridge.
    fn forwarding(&self) -> Option<&dyn Forwarding> {
        None
    }
    /// Takes an interface as one of its ports (`IFLA_MASTER`); who is no master does not.
    fn take_port(&self, _port: &Arc<Interface>) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Gives one of its ports up.
    fn give_up_port(&self, _port: &Arc<Interface>) -> Result<()> {
        Err(Errno::EINVAL)
    }
    /// The kind of a device that is no hardware (`IFLA_INFO_KIND`).
    fn kind(&self) -> Option<&'static str> {
        None
    }
    /// Whether it is no hardware: it can be taken away, moves between namespaces and ends with its namespace.
    fn is_virtual(&self) -> bool {
        self.kind().is_some()
    }
    /// Whether it stays in the namespace that it was made in.
    fn stays(&self) -> bool {
        false
    }
    /// The interface at the other end.
    fn peer(&self) -> Option<Arc<Interface>> {
        None
    }
    /// An administrator gave its interface another hardware address.
    fn address_changed(&self) {}
    /// The longest packet of its interface changed.
    fn mtu_changed(&self) {}
    /// This is the device's interface from now on.
    fn attach(&self, _interface: &Arc<Interface>) {}
    /// Its interface went up or down.
    fn changed(&self) {}
    /// Its interface was taken away. In a thread, without locks.
    fn removed(&self) {}
}
