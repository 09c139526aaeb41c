//! The clock: nanoseconds from the time-stamp counter, or from the HPET where that is not to be
//! trusted.
//!
//! `now = base_ns + (tsc - base_tsc) * mult >> 32` with a 128-bit product, so nothing has to run
//! now and then to keep the counter from overflowing.
//!
//! The frequency comes from, in this order: CPUID (leaf 0x15), the hypervisor (leaf 0x4000_0010,
//! kvm-clock), or a measurement against HPET or PIT.

use crate::addr::PhysAddr;
use crate::lock::{LockClass, Once, SeqLock};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use machine::mmio::Registers;
use machine::x86::port::Port;
use machine::x86::{kvmclock, regs};

/// How cycles become nanoseconds.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Scale {
    /// Nanoseconds in a cycle, times 2^32.
    pub(crate) mult: u64,
    /// The instant of `base_cycles`.
    pub(crate) base_ns: u64,
    pub(crate) base_cycles: u64,
    /// Cycles in a second.
    pub(crate) hz: u64,
}

static CLASS: LockClass = LockClass::new("arch.clock", 950);
static SCALE: SeqLock<Scale> =
    SeqLock::new(&CLASS, Scale { mult: 1 << 32, base_ns: 0, base_cycles: 0, hz: 1_000_000_000 });

const SOURCE_TSC: u8 = 0;
const SOURCE_HPET: u8 = 1;
const SOURCE_KVM: u8 = 2;
static SOURCE: AtomicU8 = AtomicU8::new(SOURCE_TSC);

/// The HPET's registers, if there is one.
static HPET: Once<Registers> = Once::new();
/// The HPET's period in femtoseconds.
static HPET_PERIOD: AtomicU64 = AtomicU64::new(0);
/// The hypervisor's word on the local APIC's clock; 0 when it has none.
static APIC_HZ: AtomicU64 = AtomicU64::new(0);

#[inline(always)]
pub(crate) fn cycles() -> u64 {
    if SOURCE.load(Ordering::Relaxed) == SOURCE_HPET { hpet_count() } else { regs::rdtsc() }
}

impl Scale {
    /// The instant of a counter value; values before the base count as the base.
    #[inline(always)]
    fn ns(&self, cycles: u64) -> u64 {
        // Processors may be some cycles apart: never before the base.
        let delta = cycles.wrapping_sub(self.base_cycles);
        let delta = if (delta as i64) < 0 { 0 } else { delta };
        self.base_ns + ((u128::from(delta) * u128::from(self.mult)) >> 32) as u64
    }
}

#[inline]
pub(crate) fn now_ns() -> u64 {
    SCALE.read().ns(cycles())
}

/// The counter value of an instant, for TSC deadlines.
#[inline]
pub(crate) fn ns_to_tsc(ns: u64) -> u64 {
    let scale = SCALE.read();
    let delta = ns.saturating_sub(scale.base_ns);
    let cycles = (u128::from(delta) << 32) / u128::from(scale.mult.max(1));
    scale.base_cycles.saturating_add(cycles.min(u128::from(u64::MAX)) as u64).saturating_add(1)
}

/// How long so many cycles take.
#[inline]
pub(crate) fn cycles_to_ns(cycles: u64) -> u64 {
    ((u128::from(cycles) * u128::from(SCALE.read().mult)) >> 32) as u64
}

pub(crate) fn cycles_per_sec() -> u64 {
    SCALE.read().hz
}

pub(crate) fn is_tsc() -> bool {
    SOURCE.load(Ordering::Relaxed) != SOURCE_HPET
}

pub(crate) fn hypervisor_apic_hz() -> Option<u64> {
    Some(APIC_HZ.load(Ordering::Relaxed)).filter(|hz| *hz != 0)
}

pub(crate) fn clocksource_name() -> &'static str {
    match SOURCE.load(Ordering::Relaxed) {
        SOURCE_HPET => "hpet",
        SOURCE_KVM => "kvm-clock",
        _ => "tsc",
    }
}

pub(crate) fn available_clocksources() -> &'static [&'static str] {
    let has_hpet = HPET.is_completed();
    match (SOURCE.load(Ordering::Relaxed), has_hpet) {
        (SOURCE_HPET, _) => &["hpet"],
        (SOURCE_KVM, true) => &["kvm-clock", "tsc", "hpet"],
        (SOURCE_KVM, false) => &["kvm-clock", "tsc"],
        (_, true) => &["tsc", "hpet"],
        (_, false) => &["tsc"],
    }
}

/// A first guess at the TSC's frequency without measuring, so that log lines have times.
pub(crate) fn init_early() {
    let hz = stated_hz().unwrap_or(1_000_000_000);
    start(hz);
}

fn start(hz: u64) {
    let mult = ((1_000_000_000u128 << 32) / u128::from(hz.max(1))) as u64;
    SCALE.write(|scale| {
        let cycles = cycles();
        // Time goes on from where it is.
        let now = if scale.base_cycles == 0 { 0 } else { scale.ns(cycles) };
        *scale = Scale { mult, base_ns: now, base_cycles: cycles, hz };
    });
    let scale = SCALE.read();
    crate::vdso::set_scale(is_tsc().then_some((scale.base_cycles, scale.mult, scale.base_ns)));
}

/// Maps the HPET the firmware's table names; before [`init`]. Needs kernel mappings.
pub fn set_hpet(base: PhysAddr) {
    let Ok(registers) = Registers::map(base, 1024) else { return };
    // IA-PC HPET specification 2.3.
    let period = registers.read64(0) >> 32;
    // The specification's limit is 100 ns.
    if period == 0 || period > 100_000_000 {
        return;
    }
    registers.write64(0x10, registers.read64(0x10) | 1);
    HPET_PERIOD.store(period, Ordering::Relaxed);
    HPET.call_once(|| registers);
}

fn hpet_count() -> u64 {
    HPET.get().map_or(0, |registers| registers.read64(0xf0))
}

/// Chooses the clock source and its frequency; the boot processor, after `set_hpet`.
pub(crate) fn init() {
    let is_invariant = regs::cpuid(0x8000_0000, 0)[0] >= 0x8000_0007
        && regs::cpuid(0x8000_0007, 0)[3] & (1 << 8) != 0;
    let is_virtual = regs::cpuid(1, 0)[2] & (1 << 31) != 0;
    let is_kvm = is_virtual && kvm_clock_hz().is_some();
    let has_hpet = HPET.is_completed();
    // An emulator's counter runs evenly, though it does not say so; a real one that stops in deep
    // sleep does not.
    if !is_invariant && !is_virtual && has_hpet {
        SOURCE.store(SOURCE_HPET, Ordering::Relaxed);
        SCALE.write(|scale| scale.base_cycles = 0);
        start(1_000_000_000_000_000 / HPET_PERIOD.load(Ordering::Relaxed).max(1));
    } else {
        if is_kvm {
            SOURCE.store(SOURCE_KVM, Ordering::Relaxed);
        }
        let hz = stated_hz().unwrap_or_else(|| if has_hpet { by_hpet() } else { by_pit() });
        start(hz);
    }
    let hz = cycles_per_sec();
    let name = clocksource_name();
    log::info!("clock: {name} at {}.{:03} MHz", hz / 1_000_000, hz / 1000 % 1000);
}

/// TSC and HPET at the first measurement, for [`refine`]; zero when the frequency was stated.
static FIRST: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Measures the frequency again over the time since [`init`]: a second gives parts per million.
/// Time goes on without a step, only its pace changes.
pub(crate) fn refine() {
    let [tsc0, hpet0] = [&FIRST[0], &FIRST[1]].map(|word| word.load(Ordering::Relaxed));
    if tsc0 == 0 || SOURCE.load(Ordering::Relaxed) == SOURCE_HPET {
        return;
    }
    let (tsc1, hpet1) = {
        let _irq = crate::irq::disable();
        bracket(hpet_count)
    };
    let period = HPET_PERIOD.load(Ordering::Relaxed).max(1);
    // The counter may have 32 bits only: 42 seconds at 100 MHz.
    let femtoseconds = u128::from(hpet1.wrapping_sub(hpet0) & 0xffff_ffff) * u128::from(period);
    let old = cycles_per_sec();
    let hz = u128::from(tsc1.wrapping_sub(tsc0)) * 1_000_000_000_000_000 / femtoseconds.max(1);
    let (hz, apart) = (hz as u64, (hz as u64).abs_diff(old));
    // More than a thousandth apart: the counter wrapped, or something stood still.
    if femtoseconds > 500_000_000_000_000 && apart < old / 1000 {
        start(hz);
        super::timer::rescale(old, hz);
        log::debug!(
            "clock: {} at {}.{:06} MHz",
            clocksource_name(),
            hz / 1_000_000,
            hz % 1_000_000
        );
    }
}

/// What CPUID or the hypervisor says about the TSC's frequency.
fn stated_hz() -> Option<u64> {
    let max = regs::cpuid(0, 0)[0];
    if regs::cpuid(1, 0)[2] & (1 << 31) != 0 {
        let max = regs::cpuid(0x4000_0000, 0)[0];
        if (0x4000_0010..0x4000_1000).contains(&max) {
            let [tsc_khz, apic_khz, ..] = regs::cpuid(0x4000_0010, 0);
            APIC_HZ.store(u64::from(apic_khz) * 1000, Ordering::Relaxed);
            if tsc_khz != 0 {
                return Some(u64::from(tsc_khz) * 1000);
            }
        }
        if let Some(hz) = kvm_clock_hz() {
            return Some(hz);
        }
    }
    if max >= 0x15 {
        let [denominator, numerator, crystal, _] = regs::cpuid(0x15, 0);
        if denominator != 0 && numerator != 0 && crystal != 0 {
            return Some(u64::from(crystal) * u64::from(numerator) / u64::from(denominator));
        }
    }
    None
}

/// The TSC's frequency as kvm-clock scales it.
fn kvm_clock_hz() -> Option<u64> {
    let (multiplier, shift) = kvmclock::scale()?;
    if multiplier == 0 {
        return None;
    }
    let base = (1_000_000_000u128 << 32) / u128::from(multiplier);
    let hz = if shift >= 0 { base >> shift } else { base << shift.unsigned_abs() };
    Some(hz as u64)
}

/// A reading of a reference clock between two of the TSC: the middle of the closest pair.
fn bracket(read: impl Fn() -> u64) -> (u64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..8 {
        let before = regs::rdtsc();
        let value = read();
        let after = regs::rdtsc();
        let spread = after.wrapping_sub(before);
        if spread < best.0 {
            best = (spread, before + spread / 2, value);
        }
    }
    (best.1, best.2)
}

fn by_hpet() -> u64 {
    const WINDOW_NS: u64 = 5_000_000;
    let _irq = crate::irq::disable();
    let period = HPET_PERIOD.load(Ordering::Relaxed).max(1);
    let window = WINDOW_NS * 1_000_000 / period;
    let (tsc0, first) = bracket(hpet_count);
    FIRST[0].store(tsc0, Ordering::Relaxed);
    FIRST[1].store(first, Ordering::Relaxed);
    while hpet_count().wrapping_sub(first) & 0xffff_ffff < window {
        core::hint::spin_loop();
    }
    let (tsc1, last) = bracket(hpet_count);
    // The counter may have 32 bits only.
    let ticks = last.wrapping_sub(first) & 0xffff_ffff;
    let femtoseconds = u128::from(ticks) * u128::from(period);
    (u128::from(tsc1.wrapping_sub(tsc0)) * 1_000_000_000_000_000 / femtoseconds.max(1)) as u64
}

fn by_pit() -> u64 {
    const HZ: u64 = 1_193_182;
    let _irq = crate::irq::disable();
    // Channel 2 of the PIT drives nothing but the speaker, which is switched off.
    let [gate, command, count] = [0x61, 0x43, 0x42].map(Port::legacy);
    gate.write(gate.read() & !2 | 1);
    command.write(0xb0);
    count.write(0xff);
    count.write(0xff);
    let read = || {
        // Latches and reads it.
        command.write(0x80);
        let low = u64::from(count.read());
        0xffff - (u64::from(count.read()) << 8 | low)
    };
    while read() == 0 {
        core::hint::spin_loop();
    }
    let (tsc0, first) = bracket(read);
    while read() < first + HZ / 100 {
        core::hint::spin_loop();
    }
    let (tsc1, last) = bracket(read);
    tsc1.wrapping_sub(tsc0) * HZ / (last - first).max(1)
}

/// Index and data port of the clock chip; bit 7 of the index keeps NMIs as they are (on).
const CMOS: [Port; 2] = [Port::legacy(0x70), Port::legacy(0x71)];

fn cmos(register: u8) -> u8 {
    CMOS[0].write(register);
    CMOS[1].read()
}

fn set_cmos(register: u8, value: u8) {
    CMOS[0].write(register);
    CMOS[1].write(value);
}

/// Seconds, minutes, hours, day, month, year as the chip has them.
const FIELDS: [u8; 6] = [0, 2, 4, 7, 8, 9];

pub(crate) fn read_persistent_clock() -> Option<u64> {
    let read = || {
        for _ in 0..100_000 {
            if cmos(0x0a) & 0x80 == 0 {
                break;
            }
            core::hint::spin_loop();
        }
        FIELDS.map(cmos)
    };
    let mut fields = read();
    // Until two readings agree no update came between.
    for _ in 0..10 {
        let again = read();
        if again == fields {
            break;
        }
        fields = again;
    }
    let status = cmos(0x0b);
    let is_pm = fields[2] & 0x80 != 0;
    fields[2] &= 0x7f;
    let [second, minute, mut hour, day, month, year] = if status & 4 == 0 {
        fields.map(|bcd| u64::from(bcd >> 4) * 10 + u64::from(bcd & 15))
    } else {
        fields.map(u64::from)
    };
    if status & 2 == 0 {
        hour = hour % 12 + if is_pm { 12 } else { 0 };
    }
    let year = year + if year < 70 { 2000 } else { 1900 };
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
        return None;
    }
    Some(((days_from_civil(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

pub(crate) fn write_persistent_clock(seconds: u64) {
    let (year, month, day) = civil_from_days(seconds / 86400);
    let rest = seconds % 86400;
    let status = cmos(0x0b);
    let values = [rest % 60, rest / 60 % 60, rest / 3600, day, month, year % 100];
    // Updates stop while the date is being set; 24-hour format from now on.
    set_cmos(0x0b, status | 0x80 | 2);
    for (register, value) in FIELDS.into_iter().zip(values) {
        let value = value as u8;
        set_cmos(
            register,
            if status & 4 == 0 { ((value / 10) << 4) | (value % 10) } else { value },
        );
    }
    set_cmos(0x0b, (status | 2) & !0x80);
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    // Years start in March, so that the odd day comes last.
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = (shifted + 2) % 12 + 1;
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}
