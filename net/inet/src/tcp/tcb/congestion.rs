//! How much may be on its way: slow start and congestion avoidance (RFC 5681), Cubic (RFC 9438).

/// An algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Reno,
    Cubic,
}

/// The congestion window, in bytes.
pub(crate) struct Congestion {
    algorithm: Algorithm,
    pub(crate) cwnd: u64,
    pub(crate) ssthresh: u64,
    mss: u64,
    /// Bytes acknowledged since the window last grew by a segment.
    acked: u64,
    /// Cubic: the window before the last reduction, in segments.
    w_max: u64,
    /// When the present epoch began, and the time until `w_max` is reached again.
    epoch_ms: Option<u64>,
    k_ms: u64,
    /// What Reno would have, in bytes.
    w_est: u64,
}

impl Congestion {
    pub(super) fn new(algorithm: Algorithm, init_cwnd: u32, mss: usize) -> Congestion {
        let mss = mss.max(1) as u64;
        let cwnd = u64::from(init_cwnd.max(1)) * mss;
        Congestion {
            algorithm,
            cwnd,
            ssthresh: u64::MAX,
            mss,
            acked: 0,
            w_max: 0,
            epoch_ms: None,
            k_ms: 0,
            w_est: 0,
        }
    }

    pub(super) fn set_mss(&mut self, mss: usize) {
        let segments = (self.cwnd / self.mss).max(1);
        self.mss = mss.max(1) as u64;
        self.cwnd = segments * self.mss;
    }

    /// Bytes were acknowledged while nothing was lost and the window was in use.
    pub(super) fn acked(&mut self, bytes: u64, now_ms: u64, srtt_ms: u64) {
        if self.cwnd < self.ssthresh {
            self.cwnd += bytes.min(2 * self.mss);
            return;
        }
        match self.algorithm {
            Algorithm::Reno => self.grow_one_per(self.cwnd, bytes),
            Algorithm::Cubic => self.cubic(bytes, now_ms, srtt_ms),
        }
    }

    fn grow_one_per(&mut self, per: u64, bytes: u64) {
        self.acked += bytes;
        let per = per.max(self.mss);
        if self.acked >= per {
            self.acked -= per;
            self.cwnd += self.mss;
        }
    }

    /// RFC 9438 §4.2, in thousandths: C = 0.4, t in milliseconds.
    fn cubic(&mut self, bytes: u64, now_ms: u64, srtt_ms: u64) {
        let segments = (self.cwnd / self.mss).max(1);
        let epoch = *self.epoch_ms.get_or_insert_with(|| {
            self.w_est = self.cwnd;
            let gap = self.w_max.saturating_sub(segments);
            // K = cbrt(gap / 0.4) seconds.
            self.k_ms = cube_root(gap.saturating_mul(2_500_000_000));
            self.w_max = self.w_max.max(segments);
            now_ms
        });
        let t = now_ms.saturating_sub(epoch) + srtt_ms;
        let off = t.abs_diff(self.k_ms).min(1_000_000);
        // 0.4 · off³ / 10⁹
        let delta = off * off / 1000 * off / 2_500_000;
        let target = if t < self.k_ms {
            self.w_max.saturating_sub(delta)
        } else {
            self.w_max.saturating_add(delta)
        };
        // §4.3: never below what Reno, adjusted to the milder decrease, would have.
        self.w_est += self.mss * bytes / self.w_est.max(1) * 53 / 100;
        let target = target.min(segments + segments / 2 + 1) * self.mss;
        if self.w_est > self.cwnd && self.w_est > target {
            self.cwnd = self.w_est;
        } else if target > self.cwnd {
            let per = self.cwnd * self.mss / (target - self.cwnd).max(1);
            self.grow_one_per(per.max(2 * self.mss), bytes);
        } else {
            self.grow_one_per(100 * self.cwnd, bytes);
        }
    }

    /// Something was lost: the window for the recovery.
    pub(super) fn lost(&mut self, in_flight: u64) {
        let least = 2 * self.mss;
        match self.algorithm {
            Algorithm::Reno => self.ssthresh = (in_flight / 2).max(least),
            Algorithm::Cubic => {
                let segments = self.cwnd / self.mss;
                // §4.7: a flow that loses again below its last maximum makes room for others.
                self.w_max = if segments < self.w_max { segments * 17 / 20 } else { segments };
                self.ssthresh = (self.cwnd.min(in_flight.max(least)) * 7 / 10).max(least);
            }
        }
        self.epoch_ms = None;
        self.acked = 0;
        self.cwnd = self.ssthresh;
    }

    /// Nothing came back for a whole time-out.
    pub(super) fn timed_out(&mut self, in_flight: u64, loss_cwnd: u32) {
        self.lost(in_flight);
        self.cwnd = u64::from(loss_cwnd.max(1)) * self.mss;
    }

    /// The connection was idle for longer than a time-out (RFC 5681 §4.1).
    pub(super) fn was_idle(&mut self, init_cwnd: u32) {
        self.cwnd = self.cwnd.min(u64::from(init_cwnd.max(1)) * self.mss);
        self.epoch_ms = None;
    }
}

fn cube_root(n: u64) -> u64 {
    let (mut low, mut high) = (0u64, 2_097_152u64);
    while low < high {
        let mid = (low + high).div_ceil(2);
        if u128::from(mid) * u128::from(mid) * u128::from(mid) <= u128::from(n) {
            low = mid;
        } else {
            high = mid - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_grow_and_shrink() {
        assert_eq!(cube_root(27), 3);
        assert_eq!(cube_root(u64::MAX / 1000), 264_224);
        for algorithm in [Algorithm::Reno, Algorithm::Cubic] {
            let mut c = Congestion::new(algorithm, 10, 1000);
            for _ in 0..50 {
                c.acked(1000, 100, 10);
            }
            assert_eq!(c.cwnd, 60_000);
            c.lost(60_000);
            assert!(c.cwnd < 60_000 && c.cwnd >= 30_000);
            let after = c.cwnd;
            for ms in 0..20_000 {
                c.acked(1000, 100 + ms, 10);
            }
            assert!(c.cwnd > after + 20_000, "{algorithm:?} {}", c.cwnd);
            c.timed_out(60_000, 1);
            assert_eq!(c.cwnd, 1000);
        }
    }
}
