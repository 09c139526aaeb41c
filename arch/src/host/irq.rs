//! Device interrupts of the simulator: handlers are kept, and tests raise them.

use crate::cpu::CpuId;
use crate::irq::{Chip, Handler, InUse, IrqError, MsiSource, MsiVector, Trigger};
use machine::host::in_interrupt;
use std::collections::BTreeMap;
use std::sync::Mutex;

struct Known {
    handlers: Vec<Handler>,
    chip: Chip,
    number: u32,
    names: String,
    count: u64,
}

/// Lines below [`FIRST_MSI`], then messages.
static KNOWN: Mutex<BTreeMap<u32, Known>> = Mutex::new(BTreeMap::new());
const FIRST_MSI: u32 = 32;

/// Registers a handler of an interrupt line for the device `name`; lines are shared.
pub fn request_gsi(
    gsi: u32,
    _trigger: Trigger,
    name: &str,
    handler: Handler,
) -> Result<u32, IrqError> {
    if gsi >= FIRST_MSI {
        return Err(IrqError::NoSuchLine);
    }
    let mut known = lock(&KNOWN);
    let line = known.entry(gsi).or_insert_with(|| Known {
        handlers: Vec::new(),
        chip: Chip::IoApic,
        number: gsi,
        names: String::new(),
        count: 0,
    });
    if !line.names.is_empty() {
        line.names.push_str(", ");
    }
    line.names.push_str(name);
    line.handlers.push(handler);
    Ok(gsi)
}

/// Allocates a message-signalled interrupt.
pub fn allocate_msi(
    cpu_hint: Option<CpuId>,
    source: MsiSource,
    handler: Handler,
) -> Result<MsiVector, IrqError> {
    let mut known = lock(&KNOWN);
    let irq = (FIRST_MSI..).find(|irq| !known.contains_key(irq)).ok_or(IrqError::NoVectors)?;
    let handlers = vec![handler];
    let MsiSource { name: names, number } = source;
    known.insert(irq, Known { handlers, chip: Chip::PciMsi, number, names, count: 0 });
    let cpu = cpu_hint.unwrap_or(CpuId::BOOT);
    Ok(MsiVector { address: 0xfee0_0000, data: irq, cpu, irq })
}

/// Frees a message-signalled interrupt.
pub fn free_msi(msi: MsiVector) {
    lock(&KNOWN).remove(&msi.irq);
}

/// Moves a message-signalled interrupt: the new message to program.
pub fn set_affinity(msi: MsiVector, cpu: CpuId) -> Result<MsiVector, IrqError> {
    Ok(MsiVector { cpu, ..msi })
}

/// The device interrupts in use, by number; all on the boot processor.
pub fn in_use() -> Vec<InUse> {
    let describe = |(irq, known): (&u32, &Known)| InUse {
        irq: *irq,
        cpu: CpuId::BOOT,
        count: known.count,
        chip: known.chip,
        number: known.number,
        is_level: false,
        names: known.names.clone(),
    };
    lock(&KNOWN).iter().map(describe).collect()
}

/// How many interrupts a processor has served.
pub fn served_on(cpu: CpuId) -> u64 {
    in_use().iter().filter(|one| one.cpu == cpu).map(|one| one.count).sum()
}

/// Raises a line: calls its handlers as an interrupt would.
pub fn raise_gsi(gsi: u32) {
    raise(gsi);
}

/// Raises a message-signalled interrupt.
pub fn raise_msi(data: u32) {
    raise(data);
}

fn raise(irq: u32) {
    let handlers = lock(&KNOWN).get_mut(&irq).map_or(Vec::new(), |known| {
        known.count += 1;
        known.handlers.clone()
    });
    in_interrupt(|| handlers.iter().for_each(|handler| handler()));
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
