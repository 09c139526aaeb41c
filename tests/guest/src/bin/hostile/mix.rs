//! Mixes: every system call with arguments of all kinds at random, and how often it answered what.
//!
//! What the structures in memory say is random as well. A line is a call and its answers, each with
//! how often it came: an errno, `0`, `+` for more than 0, `!N` for a death by signal N. As in the
//! table the text is the same on every kernel that implements the call.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Random;
use super::table::{self, ARENA, VALUES};

/// Pages of argument memory that are filled with random words.
const FILLED: usize = 0x1_0000;

/// Prints the lines of the calls `first..last`, each made about `count` times.
pub(super) fn run(first: i64, last: i64, count: usize, seed: u64, user: Option<u32>) {
    table::each_call(first, last, |call, shared| {
        let mut random = Random(seed.wrapping_mul(1000) + call as u64 + 1);
        let mut answers: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..count.div_ceil(VALUES.len()) {
            fill(&mut random);
            let vectors = VALUES.map(|_| [0; 6].map(|_: u64| argument(&mut random)));
            let mut row = String::new();
            table::row(&mut row, call, "", &vectors, user, shared);
            for answer in row.split_whitespace().skip(2) {
                *answers.entry(answer.to_string()).or_default() += 1;
            }
        }
        let mut line = format!("{call}:");
        for (answer, count) in answers {
            let _ = write!(line, " {answer}x{count}");
        }
        line.push('\n');
        line
    });
}

/// One argument of any kind.
fn argument(random: &mut Random) -> u64 {
    match random.below(8) {
        0 | 1 => VALUES[random.below(VALUES.len())],
        // A descriptor, a number, a flag, a few flags.
        2 => random.below(9) as u64,
        3 => random.below(300) as u64,
        4 => 1 << random.below(64),
        5 => 1 << random.below(32) | 1 << random.below(32) | random.below(4) as u64,
        // Addresses in the argument memory, aligned and not.
        6 => (ARENA + 8 * random.below(0x5_0000 / 8)) as u64,
        _ => (ARENA + random.below(FILLED)) as u64,
    }
}

/// Fills argument memory with words of all kinds, so that structures have fields of all kinds.
fn fill(random: &mut Random) {
    for index in 0..FILLED / 8 {
        let word = match random.below(4) {
            0 => 0,
            1 => random.below(16) as u64 | (random.below(16) as u64) << 32,
            2 => random.next(),
            _ => argument(random),
        };
        // SAFETY: these pages of the argument memory are mapped and written by this thread alone.
        unsafe { (ARENA as *mut u64).add(index).write_volatile(word) };
    }
}
