//! Messages as bytes.

use crate::wire::{self, Header, Message, attributes, flag};
use std::vec::Vec;
use zerocopy::FromBytes;

#[test]
fn attributes_are_read_as_they_were_written() {
    let request = Header { seq: 7, port: 9, ..Header::default() };
    let mut message = Message::new(20, flag::MULTI, &request).with(&[1u8, 2, 3, 4]);
    message.name(3, "lo");
    message.number(4, 65536);
    message.attribute(5, &[1, 2, 3, 4, 5]);
    let bytes = message.finish();
    let (header, _) = Header::read_from_prefix(&bytes).unwrap();
    assert_eq!((header.len as usize, header.seq, header.port), (bytes.len(), 7, 9));
    let found: Vec<_> = attributes(&bytes[wire::HEADER..], 4).collect();
    let wanted: [(u16, &[u8]); 3] = [(3, b"lo\0"), (4, &[0, 0, 1, 0]), (5, &[1, 2, 3, 4, 5])];
    assert_eq!(found, wanted);
}

#[test]
fn damaged_attributes_end_the_walk() {
    for bytes in [&[0u8, 0, 1, 0][..], &[3, 0, 1, 0], &[200, 0, 1, 0, 5], &[8, 0, 1]] {
        assert_eq!(attributes(bytes, 0).count(), 0);
    }
    assert_eq!(attributes(&[4, 0, 1, 0, 9, 0, 0, 0], 0).count(), 1);
}

#[test]
fn an_error_carries_the_request() {
    let request = Header { len: 20, kind: 99, flags: 5, seq: 3, port: 4 };
    let whole = [7u8; 20];
    let refused = wire::acknowledge(&request, &whole, Some(abi::Errno::EPERM), false);
    assert_eq!(
        (refused.len(), i32::from_ne_bytes([refused[16], refused[17], refused[18], refused[19]])),
        (40, -1)
    );
    assert_eq!(wire::acknowledge(&request, &whole, None, false).len(), 36);
}
