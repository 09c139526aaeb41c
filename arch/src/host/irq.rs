//! Device interrupts of the simulator: handlers are kept, and tests raise them.

use crate::cpu::CpuId;
use crate::irq::{Handler, IrqError, MsiVector, Trigger};
use machine::host::in_interrupt;
use std::collections::BTreeMap;
use std::sync::Mutex;

static GSIS: Mutex<BTreeMap<u32, Vec<Handler>>> = Mutex::new(BTreeMap::new());
static MSIS: Mutex<BTreeMap<u32, Handler>> = Mutex::new(BTreeMap::new());

/// Registers a handler of an interrupt line; lines are shared.
pub fn request_gsi(gsi: u32, _trigger: Trigger, handler: Handler) -> Result<u32, IrqError> {
    lock(&GSIS).entry(gsi).or_default().push(handler);
    Ok(gsi)
}

/// Allocates a message-signalled interrupt.
pub fn allocate_msi(cpu_hint: Option<CpuId>, handler: Handler) -> Result<MsiVector, IrqError> {
    let mut msis = lock(&MSIS);
    let data = msis.keys().next_back().map_or(32, |last| last + 1);
    msis.insert(data, handler);
    let cpu = cpu_hint.unwrap_or(CpuId::BOOT);
    Ok(MsiVector { address: 0xfee0_0000, data, cpu, irq: data })
}

/// Frees a message-signalled interrupt.
pub fn free_msi(msi: MsiVector) {
    lock(&MSIS).remove(&msi.data);
}

/// Moves a message-signalled interrupt: the new message to program.
pub fn set_affinity(msi: MsiVector, cpu: CpuId) -> Result<MsiVector, IrqError> {
    Ok(MsiVector { cpu, ..msi })
}

/// Raises a line: calls its handlers as an interrupt would.
pub fn raise_gsi(gsi: u32) {
    let handlers = lock(&GSIS).get(&gsi).cloned().unwrap_or_default();
    in_interrupt(|| handlers.iter().for_each(|handler| handler()));
}

/// Raises a message-signalled interrupt.
pub fn raise_msi(data: u32) {
    let handler = lock(&MSIS).get(&data).cloned();
    in_interrupt(|| handler.iter().for_each(|handler| handler()));
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
