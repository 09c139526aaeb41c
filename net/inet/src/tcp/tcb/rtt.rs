//! How long an answer takes (RFC 6298).

/// Estimates of the round trip, in microseconds.
pub(crate) struct Rtt {
    pub(crate) srtt_us: u32,
    pub(crate) var_us: u32,
    min_us: u32,
    max_us: u32,
}

impl Rtt {
    pub(super) fn new(min_ms: u32, max_ms: u32) -> Rtt {
        let us = |ms: u32| ms.saturating_mul(1000);
        Rtt { srtt_us: 0, var_us: 0, min_us: us(min_ms.max(1)), max_us: us(max_ms.max(1)) }
    }

    /// A measurement.
    pub(super) fn sample(&mut self, us: u64) {
        let us = us.clamp(1, 600_000_000) as u32;
        if self.srtt_us == 0 {
            (self.srtt_us, self.var_us) = (us, us / 2);
            return;
        }
        let off = self.srtt_us.abs_diff(us);
        self.var_us = self.var_us - self.var_us / 4 + off / 4;
        self.srtt_us = self.srtt_us - self.srtt_us / 8 + us / 8;
    }

    /// The time-out before any back-off.
    pub(crate) fn rto_us(&self) -> u32 {
        if self.srtt_us == 0 {
            return 1_000_000.min(self.max_us);
        }
        // Linux keeps the deviation's part at the minimum, not the sum.
        let part = self.var_us.saturating_mul(4).max(self.min_us);
        self.srtt_us.saturating_add(part).min(self.max_us)
    }

    /// The time-out after it has passed so often.
    pub(super) fn backed_off_ns(&self, times: u32) -> u64 {
        let us = u64::from(self.rto_us()) << times.min(16);
        us.min(u64::from(self.max_us)) * 1000
    }
}
