//! Flush sequences: what `PREFLUSH` and `FUA` become on a device with a write cache, and flushes
//! shared by all who asked while one was under way.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Result;
use arch::lock::{IrqLock, LockClass};

use crate::bio::{Bio, BioFlags, Done, Op};
use crate::queue::Core;

static FLUSH: LockClass = LockClass::new("block.flush", 510);

/// Flushes of one disk.
pub(crate) struct Flusher {
    state: IrqLock<State>,
}

#[derive(Default)]
struct State {
    running: bool,
    /// Wait for the flush after the one that runs.
    next: Vec<Done>,
}

impl Flusher {
    pub(crate) const fn new() -> Flusher {
        Flusher { state: IrqLock::new(&FLUSH, State { running: false, next: Vec::new() }) }
    }

    /// Calls `done` when a flush that began after this call has ended.
    fn flush(self: &Arc<Flusher>, core: &Arc<Core>, done: Done) {
        {
            let mut state = self.state.lock();
            state.next.push(done);
            if state.running {
                return;
            }
            state.running = true;
        }
        self.issue(core);
    }

    fn issue(self: &Arc<Flusher>, core: &Arc<Core>) {
        let served = core::mem::take(&mut self.state.lock().next);
        let (flusher, again) = (self.clone(), core.clone());
        core.start(Bio::without_data(Op::Flush, 0, 0, move |result| {
            for done in served {
                done(result);
            }
            let more = {
                let mut state = flusher.state.lock();
                state.running = !state.next.is_empty();
                state.running
            };
            if more {
                flusher.issue(&again);
            }
        }));
    }

    /// Starts `bio` with its flushes around it.
    pub(crate) fn start(self: &Arc<Flusher>, core: &Arc<Core>, mut bio: Bio) {
        let cached = core.limits.write_cache;
        if !cached {
            bio.flags.remove(BioFlags::PREFLUSH | BioFlags::FUA);
            if bio.op == Op::Flush {
                bio.complete(Ok(()));
            } else {
                core.start(bio);
            }
            return;
        }
        if bio.op == Op::Flush {
            self.flush(core, Box::new(move |result| bio.complete(result)));
            return;
        }
        if bio.flags.contains(BioFlags::FUA) && !core.limits.fua {
            bio.flags.remove(BioFlags::FUA);
            let (flusher, after) = (self.clone(), core.clone());
            bio.wrap_done(|done| {
                Box::new(move |result: Result<()>| match result {
                    Ok(()) => flusher.flush(&after, done),
                    Err(error) => done(Err(error)),
                })
            });
        }
        if !bio.flags.contains(BioFlags::PREFLUSH) {
            core.start(bio);
            return;
        }
        bio.flags.remove(BioFlags::PREFLUSH);
        let data = core.clone();
        self.flush(
            core,
            Box::new(move |result| match result {
                Ok(()) => data.start(bio),
                Err(error) => bio.complete(Err(error)),
            }),
        );
    }
}
