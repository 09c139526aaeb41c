//! Headers and attributes as bytes (netlink(7), netlink(3), rtnetlink(3)).

use alloc::vec::Vec;

use abi::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct nlmsghdr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Length of the message with its header.
    pub len: u32,
    /// What it is.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The sender's number of the request.
    pub seq: u32,
    /// The port of the requester.
    pub port: u32,
}

/// Bytes of a header.
pub const HEADER: usize = size_of::<Header>();

#[expect(missing_docs, reason = "netlink(7) describes them")]
pub mod flag {
    pub const REQUEST: u16 = 1;
    pub const MULTI: u16 = 2;
    pub const ACK: u16 = 4;
    pub const ROOT: u16 = 0x100;
    pub const MATCH: u16 = 0x200;
    pub const DUMP: u16 = ROOT | MATCH;
    pub const REPLACE: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
    pub const CAPPED: u16 = 0x100;
}

/// `NLMSG_ERROR`.
pub const ERROR: u16 = 2;
/// `NLMSG_DONE`.
pub const DONE: u16 = 3;
/// The first type that is not control.
pub const MIN_TYPE: u16 = 16;

/// A message that is being written.
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of type `kind`; its answer's number and port come from `request`.
    pub fn new(kind: u16, flags: u16, request: &Header) -> Message {
        let header = Header { len: 0, kind, flags, seq: request.seq, port: request.port };
        Message { bytes: header.as_bytes().to_vec() }
    }

    /// Appends a structure.
    #[must_use]
    pub fn with<T: IntoBytes + Immutable>(mut self, value: &T) -> Message {
        self.bytes.extend_from_slice(value.as_bytes());
        self.align();
        self
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Appends bytes without alignment.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        let value = value.get(..usize::from(len) - 4).unwrap_or_default();
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.align();
    }

    /// Appends a number.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Appends a name with its NUL.
    pub fn name(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Appends attributes in one.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) {
        let mut inner = Message { bytes: Vec::new() };
        fill(&mut inner);
        self.attribute(kind, &inner.bytes);
    }

    /// The bytes, with their length at the start.
    pub fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(at) = self.bytes.get_mut(..4) {
            at.copy_from_slice(&len.to_ne_bytes());
        }
        self.bytes
    }
}

/// The answer to a request: an error, or 0 for none. The request follows; all of it if it failed.
pub fn acknowledge(
    request: &Header,
    whole: &[u8],
    error: Option<Errno>,
    is_capped: bool,
) -> Vec<u8> {
    let shows_all = error.is_some() && !is_capped;
    let flags = if shows_all { 0 } else { flag::CAPPED };
    let mut message = Message::new(ERROR, flags, request);
    message.raw(&error.map_or(0, |error| -error.raw()).to_ne_bytes());
    let shown = if shows_all { whole } else { whole.get(..HEADER).unwrap_or(whole) };
    message.raw(shown);
    message.finish()
}

/// The attributes after the first `skip` bytes of a payload.
pub fn attributes(payload: &[u8], skip: usize) -> Attributes<'_> {
    Attributes { rest: payload.get(skip.next_multiple_of(4)..).unwrap_or_default() }
}

/// Walks attributes: type and value; what is damaged ends the walk.
#[derive(Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

/// The bits of an attribute's type that say what it is.
const TYPE_MASK: u16 = 0x3fff;

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [a, b, c, d, ..] = *self.rest else { return None };
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let kind = u16::from_ne_bytes([c, d]) & TYPE_MASK;
        let value = self.rest.get(4..len)?;
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A number of 32 bits.
pub fn number(value: &[u8]) -> Option<u32> {
    u32::read_from_prefix(value).ok().map(|(number, _)| number)
}
