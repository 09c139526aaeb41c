//! What the kernel does with the messages of a request.

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::{Errno, Result};
use zerocopy::FromBytes;

use crate::sock::{Dump, Netlink};
use crate::wire::{self, DONE, HEADER, Header, MIN_TYPE, Message, flag};
use crate::{GENERIC, ROUTE, SOCK_DIAG, diag, generic, route};

/// A request: its header and what follows.
pub(crate) struct Request<'a> {
    pub(crate) header: Header,
    pub(crate) payload: &'a [u8],
}

impl Request<'_> {
    pub(crate) fn is_dump(&self) -> bool {
        self.header.flags & flag::DUMP == flag::DUMP
    }

    /// The payload as a structure; `EINVAL` if it is shorter.
    pub(crate) fn read<T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable>(
        &self,
    ) -> Result<T> {
        T::read_from_prefix(self.payload).map(|(value, _)| value).map_err(|_| Errno::EINVAL)
    }
}

/// What a request that did not fail is answered with.
pub(crate) enum Outcome {
    /// Nothing but an acknowledgement, if it asks for one.
    Done,
    /// These messages, then an acknowledgement if it asks for one.
    Answer(Vec<Vec<u8>>),
    /// These messages and the mark of their end, as they are received.
    Dump(Dump),
}

/// Serves the messages that `port` sent. Errors are answers: the send itself has succeeded. Answers bear
/// the sender's port, whatever the request says.
pub(crate) fn receive(socket: &Netlink, port: u32, bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok((header, _)) = Header::read_from_prefix(rest) {
        let len = header.len as usize;
        if len < HEADER || len > rest.len() {
            return;
        }
        let whole = rest.get(..len).unwrap_or_default();
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        let header = Header { port, ..header };
        let request = Request { header, payload: whole.get(HEADER..).unwrap_or_default() };
        serve(socket, &request, whole);
    }
}

fn serve(socket: &Netlink, request: &Request<'_>, whole: &[u8]) {
    let header = &request.header;
    // Nothing is to be done with control messages, and with what is no request.
    let is_request = header.flags & flag::REQUEST != 0 && header.kind >= MIN_TYPE;
    let outcome = if is_request { dispatch(socket, request) } else { Ok(Outcome::Done) };
    let error = match outcome {
        Ok(Outcome::Done) => None,
        Ok(Outcome::Answer(messages)) => {
            messages.into_iter().for_each(|message| socket.answer(message));
            None
        }
        Ok(Outcome::Dump(dump)) => match socket.start_dump(with_end(dump, *header)) {
            Ok(()) => return,
            Err(error) => Some(error),
        },
        Err(error) => Some(error),
    };
    if error.is_some() || header.flags & flag::ACK != 0 {
        let is_capped = socket.caps_acknowledgements();
        socket.answer(wire::acknowledge(header, whole, error, is_capped));
    }
}

/// A dump with the message that ends it.
fn with_end(dump: Dump, request: Header) -> Dump {
    let end = core::iter::once_with(move || {
        Message::new(DONE, flag::MULTI, &request).with(&0i32).finish()
    });
    Box::new(dump.chain(end))
}

fn dispatch(socket: &Netlink, request: &Request<'_>) -> Result<Outcome> {
    match socket.protocol() {
        ROUTE => route::serve(socket, request),
        SOCK_DIAG => diag::serve(socket, request),
        GENERIC => generic::serve(request),
        // Audit is off; nobody takes events from programs.
        _ => Err(Errno::ECONNREFUSED),
    }
}
