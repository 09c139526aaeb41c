//! Controller registers: NVMe 1.4 §3.1.

use abi::{Errno, Result};
use hw::{Mmio, Register32};

const CAP: usize = 0x00;
const VS: usize = 0x08;
const INTMS: usize = 0x0c;
const INTMC: usize = 0x10;
const CC: usize = 0x14;
const CSTS: usize = 0x1c;
const AQA: usize = 0x24;
const ASQ: usize = 0x28;
const ACQ: usize = 0x30;
const DOORBELLS: usize = 0x1000;

const CC_ENABLE: u32 = 1;
/// 64-byte submission and 16-byte completion entries.
const CC_ENTRY_SIZES: u32 = 6 << 16 | 4 << 20;
/// Shutdown notification: the field, and what announces a normal shutdown.
const CC_SHUTDOWN: u32 = 3 << 14;
const CC_SHUTDOWN_NORMAL: u32 = 1 << 14;
const CSTS_READY: u32 = 1;
const CSTS_FATAL: u32 = 2;
/// Shutdown status: the field, and its value when all is done.
const CSTS_SHUTDOWN: u32 = 3 << 2;
const CSTS_SHUTDOWN_DONE: u32 = 2 << 2;
/// How long a shutdown is waited for at least, and at most, whatever the controller says.
const SHUTDOWN_NS: u64 = 5_000_000_000;
const LONGEST_SHUTDOWN_NS: u64 = 60_000_000_000;

/// The registers of a controller.
pub(crate) struct Registers {
    mmio: Mmio,
    cap: u64,
}

impl Registers {
    pub(crate) fn new(mmio: Mmio) -> Result<Self> {
        if mmio.len() < DOORBELLS + 8 {
            return Err(Errno::ENODEV);
        }
        let cap = u64::from(mmio.read32(CAP + 4)) << 32 | u64::from(mmio.read32(CAP));
        let registers = Self { mmio, cap };
        // Pages of 4 KiB and the NVM command set.
        let min_page = cap >> 48 & 15;
        if cap == !0 || min_page != 0 || cap >> 37 & 1 == 0 {
            return Err(Errno::ENODEV);
        }
        Ok(registers)
    }

    /// Entries a queue can have.
    pub(crate) fn max_entries(&self) -> usize {
        (self.cap & 0xffff) as usize + 1
    }

    pub(crate) fn version(&self) -> (u32, u32) {
        let version = self.mmio.read32(VS);
        (version >> 16, version >> 8 & 0xff)
    }

    /// How long the controller may take to become ready, in nanoseconds.
    fn patience_ns(&self) -> u64 {
        (self.cap >> 24 & 0xff).max(1) * 500_000_000
    }

    /// The doorbell of a submission or completion queue (§3.1.24).
    pub(crate) fn doorbell(&self, queue: u16, is_completion: bool) -> Result<Register32> {
        let stride = 4usize << (self.cap >> 32 & 15);
        let index = 2 * usize::from(queue) + usize::from(is_completion);
        self.mmio.register32(DOORBELLS + index * stride)
    }

    fn status(&self) -> u32 {
        self.mmio.read32(CSTS)
    }

    /// The controller has gone, or says that it cannot go on.
    pub(crate) fn is_dead(&self) -> bool {
        self.status() == !0
    }

    pub(crate) fn is_failed(&self) -> bool {
        let status = self.status();
        status == !0 || status & CSTS_FATAL != 0
    }

    fn wait(&self, mask: u32, value: u32, patience_ns: u64) -> Result<()> {
        let deadline = arch::time::now_ns().saturating_add(patience_ns);
        loop {
            let status = self.status();
            if status == !0 {
                return Err(Errno::ENODEV);
            }
            if status & mask == value {
                return Ok(());
            }
            if arch::time::now_ns() > deadline {
                return Err(Errno::ETIMEDOUT);
            }
            crate::controller::pause();
        }
    }

    /// Stops the controller: it uses no memory when this has succeeded.
    pub(crate) fn disable(&self) -> Result<()> {
        let cc = self.mmio.read32(CC);
        if cc & CC_ENABLE != 0 {
            self.mmio.write32(CC, cc & !CC_ENABLE);
        }
        self.wait(CSTS_READY, 0, self.patience_ns())
    }

    /// Announces that the power goes, and waits until the controller is ready for that (§7.6.2).
    /// `latency_us` is how long it says that this takes.
    pub(crate) fn shut_down(&self, latency_us: u32) -> Result<()> {
        let cc = self.mmio.read32(CC);
        self.mmio.write32(CC, cc & !CC_SHUTDOWN | CC_SHUTDOWN_NORMAL);
        self.wait(CSTS_SHUTDOWN, CSTS_SHUTDOWN_DONE, shutdown_patience_ns(latency_us))
    }

    /// Starts the controller with these admin queues of `entries` entries each.
    pub(crate) fn enable(&self, submission: u64, completion: u64, entries: u32) -> Result<()> {
        let last = entries - 1;
        self.mmio.write32(AQA, last << 16 | last);
        self.mmio.write32(ASQ, submission as u32);
        self.mmio.write32(ASQ + 4, (submission >> 32) as u32);
        self.mmio.write32(ACQ, completion as u32);
        self.mmio.write32(ACQ + 4, (completion >> 32) as u32);
        self.mmio.write32(CC, CC_ENTRY_SIZES | CC_ENABLE);
        self.wait(CSTS_READY | CSTS_FATAL, CSTS_READY, self.patience_ns())
    }

    /// Masks or unmasks the single interrupt of controllers without MSI-X.
    pub(crate) fn mask_interrupts(&self, is_masked: bool) {
        self.mmio.write32(if is_masked { INTMS } else { INTMC }, !0);
    }
}

/// How long a shutdown is waited for.
fn shutdown_patience_ns(latency_us: u32) -> u64 {
    (u64::from(latency_us) * 1000).clamp(SHUTDOWN_NS, LONGEST_SHUTDOWN_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_controller_gets_its_time() {
        assert_eq!(shutdown_patience_ns(0), SHUTDOWN_NS);
        assert_eq!(shutdown_patience_ns(8_000_000), 8_000_000_000);
        assert_eq!(shutdown_patience_ns(u32::MAX), LONGEST_SHUTDOWN_NS);
    }
}
