//! How `nice(2)` values become shares of a processor.
//!
//! `sched(7)`: each step of nice is worth about a factor of 1.25 in the share a thread gets. The
//! table is computed from exactly that, with 1024 for nice 0.

/// The weight of nice 0.
pub const NICE_0_WEIGHT: u32 = 1024;
/// The weight of a `SCHED_IDLE` thread, below that of nice 19.
pub const IDLE_WEIGHT: u32 = 3;

/// 1024 × 1.25^(-nice), rounded, for nice -20..=19.
pub const WEIGHTS: [u32; 40] = weights();

/// 2^32 / weight, rounded, so that a division by the weight is a multiplication.
pub const INVERSE: [u32; 40] = inverses();

const fn weights() -> [u32; 40] {
    let mut table = [0; 40];
    let mut index = 0;
    while index < 40 {
        // In 64 fractional bits: value = 1024 × (5/4)^(20 - index).
        let mut value: u128 = (NICE_0_WEIGHT as u128) << 64;
        let mut step = 20 - index as i32;
        while step > 0 {
            value = value * 5 / 4;
            step -= 1;
        }
        while step < 0 {
            value = value * 4 / 5;
            step += 1;
        }
        table[index] = ((value + (1 << 63)) >> 64) as u32;
        index += 1;
    }
    table
}

const fn inverses() -> [u32; 40] {
    let mut table = [0; 40];
    let mut index = 0;
    while index < 40 {
        table[index] = inverse(WEIGHTS[index]);
        index += 1;
    }
    table
}

const fn inverse(weight: u32) -> u32 {
    (((1u64 << 32) + weight as u64 / 2) / weight as u64) as u32
}

/// Weight and inverse of a nice value; values outside -20..=19 are clamped.
pub fn of_nice(nice: i8) -> (u32, u32) {
    let index = (i32::from(nice) + 20).clamp(0, 39) as usize;
    (WEIGHTS[index], INVERSE[index])
}

/// Weight and inverse of the `SCHED_IDLE` policy.
pub const fn of_idle_policy() -> (u32, u32) {
    (IDLE_WEIGHT, inverse(IDLE_WEIGHT))
}

/// Real time scaled to virtual time: `delta_ns` × 1024 / weight.
#[inline]
pub fn virtual_time(delta_ns: u64, weight: u32, inverse: u32) -> u64 {
    if weight == NICE_0_WEIGHT {
        return delta_ns;
    }
    ((u128::from(delta_ns) * u128::from(inverse)) >> 22) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_a_quarter() {
        assert_eq!(WEIGHTS[20], 1024);
        for pair in WEIGHTS.windows(2) {
            let ratio = f64::from(pair[0]) / f64::from(pair[1]);
            assert!((1.2..1.3).contains(&ratio), "{pair:?}");
        }
    }

    #[test]
    fn virtual_time_scales() {
        let (weight, inverse) = of_nice(5);
        let expected = 1_000_000u64 * 1024 / u64::from(weight);
        assert!(virtual_time(1_000_000, weight, inverse).abs_diff(expected) < expected / 1000);
    }
}
