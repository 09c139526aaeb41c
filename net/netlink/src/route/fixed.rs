//! Dumps of what does not change here: the rules of routing, queueing disciplines, the parameters of the
//! tables of neighbours and of interfaces.

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::socket::{AF_INET, AF_INET6, AF_UNSPEC};
use abi::{Errno, Result};

use super::Link;
use super::encode::RtMsg;
use crate::kernel::{Outcome, Request};
use crate::wire::{Header, Message, attributes, flag, number};

const NEWRULE: u16 = 32;
const NEWQDISC: u16 = 36;
const NEWNEIGHTBL: u16 = 64;
const NEWNETCONF: u16 = 80;

fn outcome(messages: Vec<Vec<u8>>) -> Outcome {
    Outcome::Dump(Box::new(messages.into_iter()))
}

fn families(wanted: u16) -> impl Iterator<Item = u16> {
    [AF_INET, AF_INET6].into_iter().filter(move |own| wanted == AF_UNSPEC || wanted == *own)
}

/// The rules every namespace begins with: the table `local` first, then `main`, then `default`, which version
/// 6 does not have.
pub(super) fn rules(wanted: u16, request: Header) -> Outcome {
    let mut messages = Vec::new();
    for family in families(wanted) {
        let all = [(0, 255), (32766, 254), (32767, 253)];
        let count = if family == AF_INET { 3 } else { 2 };
        for (priority, table) in all.into_iter().take(count) {
            // FR_ACT_TO_TBL.
            let header = RtMsg { family: family as u8, table, kind: 1, ..RtMsg::default() };
            let mut out = Message::new(NEWRULE, flag::MULTI, &request).with(&header);
            out.number(15, u32::from(table));
            out.number(14, u32::MAX);
            // RTPROT_KERNEL.
            out.attribute(21, &[2]);
            if priority > 0 {
                out.number(6, priority);
            }
            messages.push(out.finish());
        }
    }
    outcome(messages)
}

/// What orders the packets of interfaces that were up.
pub(super) fn disciplines(links: &[Link], request: Header) -> Outcome {
    let mut messages = Vec::new();
    for link in links.iter().filter(|link| link.queueing != "noop") {
        // struct tcmsg: family, interface, handle, parent TC_H_ROOT, references.
        let header = [0, link.index, 0, u32::MAX, 2];
        let mut out = Message::new(NEWQDISC, flag::MULTI, &request).with(&header);
        out.name(1, link.queueing);
        out.attribute(12, &[0]);
        out.nested(7, |stats| {
            stats.attribute(1, &[0; 16]);
            stats.attribute(3, &[0; 20]);
        });
        out.attribute(3, &[0; 40]);
        messages.push(out.finish());
    }
    outcome(messages)
}

/// `NDTPA_QUEUE_LEN`, `NDTPA_APP_PROBES`, `NDTPA_UCAST_PROBES`, `NDTPA_MCAST_PROBES`: frames that wait for one
/// address, and how often who is asked. What else there is on Linux has no like here.
const PARAMETERS: [(u16, u32); 4] = [(8, 64), (9, 0), (10, 0), (11, 3)];
/// `NDTPA_REACHABLE_TIME`, `NDTPA_BASE_REACHABLE_TIME`, `NDTPA_RETRANS_TIME`.
const TIMES_MS: [(u16, u64); 3] = [(3, 30_000), (4, 30_000), (5, 1_000)];

fn parameters(out: &mut Message, index: Option<u32>) {
    out.nested(6, |all| {
        if let Some(index) = index {
            all.number(1, index);
        }
        PARAMETERS.iter().for_each(|(kind, value)| all.number(*kind, *value));
        TIMES_MS.iter().for_each(|(kind, value)| all.attribute(*kind, &value.to_ne_bytes()));
    });
}

/// The tables of neighbours: what holds for all interfaces, then each.
pub(super) fn neighbour_tables(wanted: u16, links: &[Link], request: Header) -> Outcome {
    let mut messages = Vec::new();
    for family in families(wanted) {
        let name = if family == AF_INET { "arp_cache" } else { "ndisc_cache" };
        let begin = || {
            let header = [family as u8, 0, 0, 0];
            let mut out = Message::new(NEWNEIGHTBL, flag::MULTI, &request).with(&header);
            out.name(1, name);
            out
        };
        let mut out = begin();
        // NDTA_THRESH3: the most that are remembered.
        out.number(4, 1024);
        parameters(&mut out, None);
        messages.push(out.finish());
        for link in links {
            let mut out = begin();
            parameters(&mut out, Some(link.index));
            messages.push(out.finish());
        }
    }
    outcome(messages)
}

/// `NETCONFA_IFINDEX_ALL`, `NETCONFA_IFINDEX_DEFAULT`.
const ALL: u32 = -1i32 as u32;
const DEFAULT: u32 = -2i32 as u32;

/// `struct netconfmsg` and its attributes: of all interfaces, or of the one that is asked for.
pub(super) fn configuration(
    wanted: u16,
    links: &[Link],
    forwards: bool,
    request: &Request<'_>,
) -> Result<Outcome> {
    let header = request.header;
    let one = |family: u16, index: u32, flags: u16| {
        let mut out = Message::new(NEWNETCONF, flags, &header).with(&[family as u8, 0, 0, 0]);
        out.number(1, index);
        out.number(2, u32::from(forwards && family == AF_INET));
        let zeros: &[u16] = if family == AF_INET { &[3, 4, 8, 5, 6] } else { &[4, 5, 6] };
        zeros.iter().for_each(|kind| out.number(*kind, 0));
        out.finish()
    };
    let indices = links.iter().map(|link| link.index).chain([ALL, DEFAULT]);
    if request.is_dump() {
        let mut messages = Vec::new();
        for family in families(wanted) {
            messages.extend(indices.clone().map(|index| one(family, index, flag::MULTI)));
        }
        return Ok(outcome(messages));
    }
    let index = attributes(request.payload, 4).find(|(kind, _)| *kind == 1);
    let index = index.and_then(|(_, value)| number(value)).ok_or(Errno::EINVAL)?;
    let family = families(wanted).next().filter(|_| wanted != AF_UNSPEC);
    let family = family.ok_or(Errno::EOPNOTSUPP)?;
    if !indices.clone().any(|known| known == index) {
        return Err(Errno::EINVAL);
    }
    Ok(Outcome::Answer([one(family, index, 0)].to_vec()))
}
