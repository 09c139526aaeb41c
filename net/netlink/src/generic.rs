//! `NETLINK_GENERIC`: the controller, which knows itself only.

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::{Errno, Result};

use crate::kernel::{Outcome, Request};
use crate::wire::{Header, Message, attributes, flag};

/// `GENL_ID_CTRL`.
const CONTROLLER: u16 = 16;
const NAME: &str = "nlctrl";
const NEW_FAMILY: u8 = 1;
const GET_FAMILY: u8 = 3;
const VERSION: u8 = 2;

fn describe(flags: u16, request: &Header) -> Vec<u8> {
    let mut out = Message::new(CONTROLLER, flags, request).with(&[NEW_FAMILY, VERSION, 0, 0]);
    out.name(2, NAME);
    out.attribute(1, &CONTROLLER.to_ne_bytes());
    out.number(3, u32::from(VERSION));
    out.number(4, 0);
    out.number(5, 10);
    // Its one operation: may be asked for, with a dump as well.
    out.nested(6, |operations| {
        operations.nested(1, |operation| {
            operation.number(1, u32::from(GET_FAMILY));
            operation.number(2, 0xe);
        });
    });
    out.nested(7, |groups| {
        groups.nested(1, |group| {
            group.number(2, 16);
            group.name(1, "notify");
        });
    });
    out.finish()
}

/// Serves a request of the controller.
pub(crate) fn serve(request: &Request<'_>) -> Result<Outcome> {
    if request.header.kind != CONTROLLER {
        return Err(Errno::ENOENT);
    }
    if request.payload.first() != Some(&GET_FAMILY) {
        return Err(Errno::EOPNOTSUPP);
    }
    let header = request.header;
    if request.is_dump() {
        let all = core::iter::once_with(move || describe(flag::MULTI, &header));
        return Ok(Outcome::Dump(Box::new(all)));
    }
    let (mut is_known, mut is_named) = (false, false);
    for (kind, value) in attributes(request.payload, 4) {
        match kind {
            1 => {
                is_named = true;
                is_known |= value.get(..2) == Some(&CONTROLLER.to_ne_bytes()[..]);
            }
            2 => {
                is_named = true;
                is_known |= value.split(|byte| *byte == 0).next() == Some(NAME.as_bytes());
            }
            _ => {}
        }
    }
    match (is_named, is_known) {
        (false, _) => Err(Errno::EINVAL),
        (_, false) => Err(Errno::ENOENT),
        _ => Ok(Outcome::Answer([describe(0, &header)].to_vec())),
    }
}
