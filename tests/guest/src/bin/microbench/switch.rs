//! Switches between processes and threads.

use std::hint::black_box;

use crate::meter::{Cost, Failure, each};
use crate::rows::Rows;
use crate::sys::{Child, Pipe};

/// Bytes of a line of the processor's cache.
const LINE: usize = 64;

/// Adds the group's rows.
pub fn add(rows: &mut Rows) {
    for kib in [0, 16] {
        for (size, laps) in [(2, 2_800), (8, 600), (16, 300), (96, 50)] {
            let with = if kib > 0 { format!(", {kib} KiB") } else { String::new() };
            rows.add(format!("ring of {size}{with}"), move || ring(size, kib << 10, laps));
        }
    }
    rows.add("sched_yield", || each(40_000, yields));
    rows.add("sched_yield of 2 processes", || {
        let _other = Child::start(|| {
            while yields() {}
            false
        })?;
        each(11_000, yields)
    });
    rows.add("sched_yield of 2 threads", || {
        // Ends with the process.
        std::thread::spawn(|| while yields() {});
        each(11_000, yields)
    });
}

fn yields() -> bool {
    // SAFETY: no pointers.
    unsafe { libc::sched_yield() == 0 }
}

/// A byte that goes around `size` processes which are connected by pipes: the cost of one hop. Whoever
/// has it reads one word of every cache line of `len` bytes of its own.
fn ring(size: usize, len: usize, laps: u64) -> Cost {
    let pipes: Result<Vec<Pipe>, Failure> = (0..size).map(|_| Pipe::new()).collect();
    let pipes = pipes?;
    let mut set = vec![1u8; len];
    let mut others = Vec::with_capacity(size);
    for pair in pipes.windows(2) {
        others.push(Child::start(|| {
            // Memory of its own instead of what is shared with the parent.
            set.fill(2);
            while pair[0].from.take() {
                work(&set);
                pair[1].to.put();
            }
            false
        })?);
    }
    let (Some(first), Some(last)) = (pipes.first(), pipes.last()) else {
        return Err(Failure { what: "an empty ring", errno: 0 });
    };
    set.fill(2);
    let lap = || {
        work(&set);
        first.to.put() && last.from.take()
    };
    each(laps, lap).map(|cost_ns| cost_ns / size as f64)
}

#[inline(always)]
fn work(set: &[u8]) {
    black_box(set.iter().step_by(LINE).fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
}
