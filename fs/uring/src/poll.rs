//! What waits for events: `IORING_OP_POLL_ADD`, once, or each time that the file changes
//! (`IORING_POLL_ADD_MULTI`), and reads of pipes and their like into provided buffers.

use abi::poll::{POLLIN, POLLRDNORM};
use vfs::rw::{self, At};

use crate::retry::{Operation, Outcome, Try, Turn};

/// Always told of.
const ALWAYS: u32 = abi::poll::POLLERR | abi::poll::POLLHUP;

pub(crate) struct Poll {
    pub(crate) wanted: u32,
    /// Each change is told of.
    pub(crate) is_multi: bool,
}

impl Operation for Poll {
    fn attempt(&mut self, turn: &Turn<'_>) -> Try {
        let events = turn.file.poll(None) & (self.wanted | ALWAYS);
        if events == 0 {
            return Try::Wait(self.wanted);
        }
        if !self.is_multi {
            return Try::done(Ok(events as usize));
        }
        turn.post(events as usize, 0, self.wanted).unwrap_or(Try::Wait(self.wanted))
    }

    fn first_wait(&self) -> Option<u32> {
        Some(self.wanted)
    }

    fn is_poll(&self) -> bool {
        true
    }

    fn is_multi(&self) -> bool {
        self.is_multi
    }

    fn set_wanted(&mut self, wanted: u32) {
        self.wanted = wanted;
    }
}

/// A read of something that may have to be waited for, into a buffer that is taken then.
pub(crate) struct ReadSelected {
    pub(crate) group: u16,
    pub(crate) wanted: usize,
    pub(crate) pos: u64,
}

impl Operation for ReadSelected {
    fn attempt(&mut self, turn: &Turn<'_>) -> Try {
        const READY: u32 = POLLIN | POLLRDNORM;
        let at = if self.pos == 0 { At::Position } else { At::Offset(self.pos) };
        let at = if self.pos == u64::MAX { At::Position } else { at };
        if let Err(error) = rw::check_read(turn.file, at) {
            return Try::done(Err(error));
        }
        if turn.file.poll(None) & (READY | ALWAYS) == 0 && !turn.file.is_nonblocking() {
            return Try::Wait(READY);
        }
        let picked = match turn.env.ring.pick(self.group) {
            Ok(picked) => picked,
            Err(error) => return Try::done(Err(error)),
        };
        let list = [picked.segment(self.wanted)];
        let result = turn.with_sink(&list, |sink| rw::read(turn.file, at, sink));
        if result.is_err() {
            turn.env.ring.put_back(picked);
            return Try::done(result);
        }
        Try::Done(Outcome { result, flags: picked.flags(), is_short: false })
    }
}
