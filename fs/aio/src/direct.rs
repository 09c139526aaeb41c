//! Direct transfers whose submitter waits for them: `read(2)` and its like with `O_DIRECT`.

use alloc::boxed::Box;
use alloc::sync::Arc;

use abi::Result;
use arch::uio::Segment;
use sched::{Completion, IoWait};
use vfs::{Context, DirectIo, Direction, File, rw};
use vm::AddressSpace;

use crate::memory::Held;

/// Moves bytes between a file at `pos` and a program's memory; `None` where they have to go through the
/// cache.
pub fn transfer(
    ctx: &Context<'_>,
    space: &AddressSpace,
    file: &File,
    pos: u64,
    segments: &[Segment],
    direction: Direction,
) -> Option<Result<usize>> {
    struct Outcome {
        done: Completion,
        result: spin::Once<Result<usize>>,
    }
    let held = match Held::hold(space, segments, direction) {
        Ok(held) => held,
        Err(error) => return Some(Err(error)),
    };
    let outcome = Arc::new(Outcome { done: Completion::new(), result: spin::Once::new() });
    let told = outcome.clone();
    let done = Box::new(move |result| {
        told.result.call_once(|| result);
        told.done.complete();
    });
    rw::start_direct(ctx, file, DirectIo { pos, direction, pieces: held.into_pieces(), done })
        .ok()?;
    let waiting = IoWait::begin();
    outcome.done.wait();
    drop(waiting);
    outcome.result.get().copied()
}
