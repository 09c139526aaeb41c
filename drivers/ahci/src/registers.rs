//! Registers of a controller and of its ports: AHCI 1.3.1 §3.

use abi::{Errno, Result};
use hw::{Mmio, Register32};

/// Bytes of the registers: 256 of the controller, 128 of each of 32 ports.
pub(crate) const LEN: usize = 0x1100;
const PORTS: usize = 0x100;
const PORT_LEN: usize = 0x80;

const CAP: usize = 0x00;
const GHC: usize = 0x04;
const IS: usize = 0x08;
const PI: usize = 0x0c;
const VS: usize = 0x10;
const CAP2: usize = 0x24;
const BOHC: usize = 0x28;

/// Capabilities (§3.1.1).
pub(crate) mod cap {
    pub(crate) const CLEAR_BUSY: u32 = 1 << 24;
    pub(crate) const NCQ: u32 = 1 << 30;
    pub(crate) const ADDRESSES_64: u32 = 1 << 31;
}

const GHC_RESET: u32 = 1 << 0;
const GHC_INTERRUPTS: u32 = 1 << 1;
const GHC_ENABLE: u32 = 1 << 31;

const CAP2_HAND_OFF: u32 = 1 << 0;
const BOHC_BIOS: u32 = 1 << 0;
const BOHC_OS: u32 = 1 << 1;
const BOHC_BUSY: u32 = 1 << 4;

/// §10.6: the firmware has 25 ms, and two seconds if it says that it is busy.
const HAND_OFF_NS: u64 = 25_000_000;
const BUSY_HAND_OFF_NS: u64 = 2_000_000_000;
/// §10.4.3: a reset takes a second at most.
const RESET_NS: u64 = 1_000_000_000;

/// Waits until a value that is read satisfies a condition.
///
/// # Errors
/// `ETIMEDOUT`; `ENODEV` when the device is gone, which reads as all ones.
pub(crate) fn wait(
    timeout_ns: u64,
    read: impl Fn() -> u32,
    is_done: impl Fn(u32) -> bool,
) -> Result<u32> {
    /// Longer waits are slept.
    const SPIN_NS: u64 = 200_000;
    const NAP_NS: u64 = 1_000_000;
    let began = arch::time::now_ns();
    loop {
        let value = read();
        if value == !0 {
            return Err(Errno::ENODEV);
        }
        if is_done(value) {
            return Ok(value);
        }
        let waited = arch::time::now_ns().saturating_sub(began);
        if waited >= timeout_ns {
            return Err(Errno::ETIMEDOUT);
        }
        if waited < SPIN_NS {
            core::hint::spin_loop();
        } else {
            sched::timer::sleep_ns(NAP_NS);
        }
    }
}

/// The registers of a controller.
pub(crate) struct HostRegisters {
    mmio: Mmio,
    interrupts: Register32,
    /// The capabilities, as they were before the reset: some of them are the firmware's word.
    pub(crate) cap: u32,
}

impl HostRegisters {
    pub(crate) fn new(mmio: Mmio) -> Result<Self> {
        let interrupts = mmio.register32(IS)?;
        let cap = mmio.read32(CAP);
        if cap == !0 {
            return Err(Errno::ENODEV);
        }
        Ok(Self { mmio, interrupts, cap })
    }

    /// Command slots of each port.
    pub(crate) fn slots(&self) -> usize {
        (self.cap >> 8 & 31) as usize + 1
    }

    /// The numbers of the ports there are (§3.1.4). A controller that says nothing sensible has as many as its
    /// capabilities say.
    pub(crate) fn ports(&self) -> impl Iterator<Item = usize> + use<> {
        let count = (self.cap & 31) + 1;
        let implemented = match self.mmio.read32(PI) {
            0 | u32::MAX => u32::MAX >> (32 - count),
            bits => bits,
        };
        (0..32).filter(move |number| implemented >> number & 1 != 0)
    }

    /// Major and minor version.
    pub(crate) fn version(&self) -> (u32, u32) {
        let version = self.mmio.read32(VS);
        (version >> 16, version >> 8 & 0xff)
    }

    /// Takes the controller from the firmware (§10.6.3). One that does not let go is taken anyway.
    pub(crate) fn take_over(&self) {
        if self.mmio.read32(CAP2) & CAP2_HAND_OFF == 0 {
            return;
        }
        let read = || self.mmio.read32(BOHC);
        self.mmio.write32(BOHC, read() | BOHC_OS);
        let is_free = |value| value & BOHC_BIOS == 0;
        if wait(HAND_OFF_NS, read, is_free).is_err() && read() & BOHC_BUSY != 0 {
            // The outcome does not matter: the reset that follows takes it.
            let _ = wait(BUSY_HAND_OFF_NS, read, is_free);
        }
    }

    /// Resets the controller and switches its AHCI registers on (§10.4.3).
    pub(crate) fn reset(&self) -> Result<()> {
        let ports = self.mmio.read32(PI);
        self.mmio.write32(GHC, GHC_ENABLE);
        self.mmio.write32(GHC, GHC_ENABLE | GHC_RESET);
        wait(RESET_NS, || self.mmio.read32(GHC), |value| value & GHC_RESET == 0)?;
        self.mmio.write32(GHC, GHC_ENABLE);
        // Written once after a reset by firmware that knows the board (§3.1.4); some controllers forget it.
        if self.mmio.read32(PI) == 0 {
            self.mmio.write32(PI, ports);
        }
        self.acknowledge(!0);
        Ok(())
    }

    pub(crate) fn enable_interrupts(&self) {
        self.mmio.write32(GHC, GHC_ENABLE | GHC_INTERRUPTS);
    }

    pub(crate) fn disable_interrupts(&self) {
        self.mmio.write32(GHC, GHC_ENABLE);
    }

    /// The ports that have something to tell, a bit each.
    #[inline]
    pub(crate) fn interrupts(&self) -> u32 {
        self.interrupts.read()
    }

    #[inline]
    pub(crate) fn acknowledge(&self, ports: u32) {
        self.interrupts.write(ports);
    }

    pub(crate) fn port(&self, number: usize) -> Result<PortRegisters> {
        PortRegisters::new(self.mmio.part(PORTS + number * PORT_LEN, PORT_LEN)?)
    }
}

const CLB: usize = 0x00;
const FB: usize = 0x08;
const PORT_IS: usize = 0x10;
const IE: usize = 0x14;
const CMD: usize = 0x18;
const TFD: usize = 0x20;
const SIG: usize = 0x24;
const SSTS: usize = 0x28;
const SCTL: usize = 0x2c;
const SERR: usize = 0x30;
const SACT: usize = 0x34;
const CI: usize = 0x38;

/// Interrupts of a port (§3.3.5).
pub(crate) mod event {
    /// A device-to-host FIS, one that sets up PIO, one of DMA, one that sets bits.
    pub(crate) const COMPLETIONS: u32 = 0b1111;
    pub(crate) const CONNECT: u32 = 1 << 6;
    pub(crate) const PHY_READY: u32 = 1 << 22;
    pub(crate) const OVERFLOW: u32 = 1 << 24;
    pub(crate) const INTERFACE_FATAL: u32 = 1 << 27;
    pub(crate) const BUS_DATA: u32 = 1 << 28;
    pub(crate) const BUS_FATAL: u32 = 1 << 29;
    pub(crate) const TASK_FILE: u32 = 1 << 30;
    /// The device or its link may be another.
    pub(crate) const LINK: u32 = CONNECT | PHY_READY;
    /// The link or the controller failed, not the device.
    pub(crate) const WAY: u32 = OVERFLOW | INTERFACE_FATAL | BUS_DATA | BUS_FATAL;
    pub(crate) const TROUBLE: u32 = LINK | WAY | TASK_FILE;
}

/// What a port is told (§3.3.7).
mod cmd {
    pub(super) const START: u32 = 1 << 0;
    pub(super) const SPIN_UP: u32 = 1 << 1;
    pub(super) const POWER: u32 = 1 << 2;
    pub(super) const OVERRIDE: u32 = 1 << 3;
    pub(super) const RECEIVE: u32 = 1 << 4;
    pub(super) const RECEIVES: u32 = 1 << 14;
    pub(super) const RUNS: u32 = 1 << 15;
    pub(super) const ATAPI: u32 = 1 << 24;
    /// Partial and slumber by the controller itself, and the state that is asked for.
    pub(super) const POWER_SAVING: u32 = 1 << 26;
    pub(super) const STATE: u32 = 0xf << 28;
    pub(super) const ACTIVE: u32 = 1 << 28;
}

/// The state of the device (§3.3.8).
pub(crate) mod status {
    pub(crate) const ERROR: u32 = 1 << 0;
    pub(crate) const DATA_REQUEST: u32 = 1 << 3;
    pub(crate) const FAULT: u32 = 1 << 5;
    pub(crate) const BUSY: u32 = 1 << 7;
}

/// §10.1.2: a port stops within 500 ms.
const STOP_NS: u64 = 500_000_000;
/// A device answers a COMRESET in 10 ms (Serial ATA 3.0 §8.4.1). One that comes later is a device that was plugged in.
const DETECT_NS: u64 = 20_000_000;
const LINK_NS: u64 = 1_000_000_000;
const RESET_HOLD_NS: u64 = 1_000_000;

/// The registers of a port.
pub(crate) struct PortRegisters {
    mmio: Mmio,
    interrupts: Register32,
    issue: Register32,
    active: Register32,
}

impl PortRegisters {
    fn new(mmio: Mmio) -> Result<Self> {
        let (interrupts, issue, active) =
            (mmio.register32(PORT_IS)?, mmio.register32(CI)?, mmio.register32(SACT)?);
        Ok(Self { mmio, interrupts, issue, active })
    }

    /// Commands without a queue.
    #[inline]
    pub(crate) fn issue(&self, slots: u32) {
        self.issue.write(slots);
    }

    /// Commands of the device's queue (§5.5.1: the bits in SACT come first).
    #[inline]
    pub(crate) fn issue_queued(&self, slots: u32) {
        self.active.write(slots);
        self.issue.write(slots);
    }

    /// Slots whose command is not done: of the device's queue.
    #[inline]
    pub(crate) fn active(&self) -> u32 {
        self.active.read() | self.issue.read()
    }

    /// The same of commands without a queue.
    #[inline]
    pub(crate) fn issued(&self) -> u32 {
        self.issue.read()
    }

    /// What happened since the last time.
    #[inline]
    pub(crate) fn take_events(&self) -> u32 {
        let events = self.interrupts.read();
        if events != 0 && events != !0 {
            self.interrupts.write(events);
        }
        events
    }

    /// Whether one of these happened that nobody has taken.
    pub(crate) fn has_raised(&self, events: u32) -> bool {
        self.interrupts.read() & events != 0
    }

    /// Interrupts for what ends, fails or changes.
    pub(crate) fn unmask(&self) {
        self.mmio.write32(IE, event::COMPLETIONS | event::TROUBLE);
    }

    /// Interrupts for a device that comes, and nothing else.
    pub(crate) fn unmask_link(&self) {
        self.mmio.write32(IE, event::LINK);
    }

    pub(crate) fn mask(&self) {
        self.mmio.write32(IE, 0);
    }

    /// Status in the lower byte, error in the second.
    pub(crate) fn task_file(&self) -> u32 {
        self.mmio.read32(TFD)
    }

    /// What the device said it is after the last reset.
    pub(crate) fn signature(&self) -> u32 {
        self.mmio.read32(SIG)
    }

    /// Whether a device is there and the link is up.
    pub(crate) fn is_linked(&self) -> bool {
        self.mmio.read32(SSTS) & 15 == 3
    }

    /// The generation of the link: 1.5, 3 or 6 Gb/s.
    pub(crate) fn speed(&self) -> &'static str {
        match self.mmio.read32(SSTS) >> 4 & 15 {
            1 => "1.5 Gbps",
            2 => "3.0 Gbps",
            3 => "6.0 Gbps",
            _ => "<unknown>",
        }
    }

    pub(crate) fn clear_errors(&self) {
        self.mmio.write32(SERR, self.mmio.read32(SERR));
        self.mmio.write32(PORT_IS, !0);
    }

    /// Where the port finds its commands and puts what it receives.
    pub(crate) fn set_memory(&self, commands: u64, received: u64) {
        for (register, address) in [(CLB, commands), (FB, received)] {
            self.mmio.write32(register, address as u32);
            self.mmio.write32(register + 4, (address >> 32) as u32);
        }
    }

    fn command(&self) -> u32 {
        self.mmio.read32(CMD)
    }

    /// Keeps the port from working on commands: it uses the memory of none when this has succeeded (§10.3.2).
    pub(crate) fn stop(&self) -> Result<()> {
        self.mmio.write32(CMD, self.command() & !cmd::START);
        wait(STOP_NS, || self.command(), |value| value & cmd::RUNS == 0)?;
        Ok(())
    }

    /// Keeps the port from writing what it receives too.
    pub(crate) fn stop_receiving(&self) -> Result<()> {
        self.stop()?;
        self.mmio.write32(CMD, self.command() & !cmd::RECEIVE);
        wait(STOP_NS, || self.command(), |value| value & cmd::RECEIVES == 0)?;
        Ok(())
    }

    /// Has the port receive, and gives its device power (§10.1.1).
    pub(crate) fn power_up(&self) {
        let old = self.command() & !(cmd::STATE | cmd::POWER_SAVING);
        self.mmio.write32(CMD, old | cmd::POWER | cmd::SPIN_UP | cmd::ACTIVE);
        self.mmio.write32(CMD, self.command() | cmd::RECEIVE);
    }

    /// Has the port work on commands (§10.3.1).
    pub(crate) fn start(&self, is_atapi: bool) {
        let old = self.command() & !cmd::ATAPI;
        let kind = if is_atapi { cmd::ATAPI } else { 0 };
        self.mmio.write32(CMD, old | kind | cmd::START);
    }

    /// Whether the device wants something of a command that is no more.
    pub(crate) fn is_busy(&self) -> bool {
        self.task_file() & (status::BUSY | status::DATA_REQUEST) != 0
    }

    /// Forgets that (§3.3.7, CLO).
    pub(crate) fn override_busy(&self) -> Result<()> {
        self.mmio.write32(CMD, self.command() | cmd::OVERRIDE);
        wait(STOP_NS, || self.command(), |value| value & cmd::OVERRIDE == 0)?;
        Ok(())
    }

    /// Begins the reset of the link (§10.4.2); the port is stopped. No power saving on the link from now on.
    pub(crate) fn begin_reset(&self) {
        self.mmio.write32(SCTL, 0x301);
    }

    /// Ends it, a millisecond later.
    pub(crate) fn end_reset(&self) {
        self.mmio.write32(SCTL, 0x300);
    }

    /// Resets the link, and with it the device; the port is stopped.
    pub(crate) fn reset_link(&self) {
        self.begin_reset();
        sched::timer::sleep_ns(RESET_HOLD_NS);
        self.end_reset();
    }

    /// Waits for the link after a reset that ended then: `ENODEV` if there is no device.
    pub(crate) fn wait_for_link(&self, reset_ns: u64) -> Result<()> {
        let read = || self.mmio.read32(SSTS);
        let passed = arch::time::now_ns().saturating_sub(reset_ns);
        let seen = wait(DETECT_NS.saturating_sub(passed), read, |value| value & 15 != 0)
            .map_err(|_| Errno::ENODEV)?;
        if seen & 15 != 3 {
            wait(LINK_NS, read, |value| value & 15 == 3).map_err(|_| Errno::ENODEV)?;
        }
        Ok(())
    }

    /// Waits until the device is ready for commands: it may have to spin up first.
    pub(crate) fn wait_until_ready(&self, timeout_ns: u64) -> Result<()> {
        // 0x7f is what the register holds before the device has sent its first FIS.
        let is_ready = |value| value & (status::BUSY | status::DATA_REQUEST) == 0;
        wait(timeout_ns, || self.task_file(), |value| is_ready(value) || !self.is_linked())?;
        if self.is_linked() { Ok(()) } else { Err(Errno::ENODEV) }
    }
}

/// Waits as long as a reset of the link is held.
pub(crate) fn hold_reset() {
    sched::timer::sleep_ns(RESET_HOLD_NS);
}
