//! Clocks and the timer of the simulator.

use crate::timer::Mode;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

pub(crate) fn now_ns() -> u64 {
    start().elapsed().as_nanos() as u64
}
pub(crate) fn cycles() -> u64 {
    now_ns()
}
pub(crate) fn cycles_to_ns(cycles: u64) -> u64 {
    cycles
}
pub(crate) fn cycles_per_sec() -> u64 {
    1_000_000_000
}
pub(crate) fn clocksource_name() -> &'static str {
    "tsc"
}
pub(crate) fn available_clocksources() -> &'static [&'static str] {
    &["tsc"]
}
pub(crate) fn read_persistent_clock() -> Option<u64> {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|d| d.as_secs())
}
pub(crate) fn refine() {}
pub(crate) fn write_persistent_clock(_seconds: u64) {}

struct Timers {
    handler: Option<fn(Mode)>,
    /// Processor → deadline.
    armed: BTreeMap<u32, u64>,
}

static TIMERS: Mutex<Timers> = Mutex::new(Timers { handler: None, armed: BTreeMap::new() });
static CHANGED: Condvar = Condvar::new();

pub(crate) fn set_handler(handler: fn(Mode)) {
    TIMERS.lock().unwrap_or_else(PoisonError::into_inner).handler = Some(handler);
    static RUNNER: OnceLock<()> = OnceLock::new();
    RUNNER.get_or_init(|| drop(std::thread::spawn(run)));
}

pub(crate) fn arm(deadline_ns: u64) {
    let mut timers = TIMERS.lock().unwrap_or_else(PoisonError::into_inner);
    timers.armed.insert(machine::host::cpu::number(), deadline_ns);
    CHANGED.notify_all();
}

pub(crate) fn cancel() {
    TIMERS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .armed
        .remove(&machine::host::cpu::number());
}

/// Waits for deadlines and plays the interrupt on the processor that armed.
fn run() {
    let mut timers = TIMERS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let next = timers.armed.iter().map(|(cpu, deadline)| (*deadline, *cpu)).min();
        let Some((deadline, cpu)) = next else {
            timers = CHANGED.wait(timers).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let now = now_ns();
        if deadline > now {
            let wait = Duration::from_nanos(deadline - now);
            timers = CHANGED.wait_timeout(timers, wait).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        timers.armed.remove(&cpu);
        let handler = timers.handler;
        drop(timers);
        machine::host::set_cpu(crate::cpu::CpuId::from_index(cpu as usize));
        machine::host::in_interrupt(|| {
            if let Some(handler) = handler {
                handler(Mode::Kernel);
            }
        });
        timers = TIMERS.lock().unwrap_or_else(PoisonError::into_inner);
    }
}
