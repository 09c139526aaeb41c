//! Which vector of which processor means what, and calling its handlers.
//!
//! Every processor has its own table of 256 slots; a device interrupt takes a slot of one
//! processor. Looking a handler up is one load; taking one out waits until no processor can be in
//! it any more.

use crate::cpu::{CpuId, MAX_CPUS};
use crate::irq::{Chip, Handler, InUse, IrqError, MsiSource, MsiVector, Trigger};
use crate::lock::{IrqLock, LockClass};
use crate::timer::Mode;
use crate::x86::apic::{self, vector};
use crate::x86::{ioapic, timer};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use machine::irq_count::{Counted, count, count_on};
use machine::x86::handlers::HandlerSlot;
use machine::x86::ipi;

/// The first vector for devices; below are exceptions.
const FIRST: u8 = 0x30;
/// One past the last vector for devices.
const END: u8 = 0xe0;

struct Table {
    slots: [HandlerSlot; 256],
}

crate::percpu! {
    static TABLE: PerCpu<Table> =
        Table { slots: [const { HandlerSlot::new() }; 256] };
}

/// Where a line or message goes.
#[derive(Clone, Copy)]
struct Place {
    cpu: CpuId,
    vector: u8,
}

struct Interrupt {
    place: Place,
    /// How often handlers had been called there before it came.
    count_before: u64,
    chip: Chip,
    /// Its number at the chip.
    number: u32,
    is_level: bool,
    names: String,
}

struct Registry {
    /// By number: lines have that of the firmware, messages come behind the last line.
    interrupts: BTreeMap<u32, Interrupt>,
    /// Device vectors in use on each processor.
    used: [u16; MAX_CPUS],
}

static CLASS: LockClass = LockClass::new("arch.vectors", 790);
static REGISTRY: IrqLock<Registry> =
    IrqLock::new(&CLASS, Registry { interrupts: BTreeMap::new(), used: [0; MAX_CPUS] });

/// Serves an interrupt that came in between what `mode` says. Interrupts are off.
#[inline]
pub(crate) fn dispatch(number: u8, mode: Mode) {
    match number {
        vector::TIMER => {
            count(Counted::Timer);
            apic::end_of_interrupt();
            timer::expired(mode);
        }
        vector::RESCHEDULE => {
            count(Counted::Reschedule);
            apic::end_of_interrupt();
            crate::preempt::fold_need_resched();
        }
        vector::CALL => {
            apic::end_of_interrupt();
            ipi::serve();
        }
        vector::SPURIOUS => count(Counted::Spurious),
        vector::ERROR => {
            count(Counted::ControllerError);
            let errors = apic::take_errors();
            apic::end_of_interrupt();
            log::warn!("apic: error {errors:#x}");
        }
        device => {
            if !TABLE.this().slots[device as usize].call() {
                count(Counted::Stray);
            }
            apic::end_of_interrupt();
        }
    }
}

/// A free slot on the processor, or on the least used one.
fn find_place(registry: &mut Registry, hint: Option<CpuId>) -> Result<Place, IrqError> {
    let online = crate::cpu::online();
    let cpu = hint
        .filter(|cpu| online.contains(*cpu) && registry.used[cpu.index()] < u16::from(END - FIRST))
        .or_else(|| online.iter().min_by_key(|cpu| registry.used[cpu.index()]))
        .ok_or(IrqError::NoVectors)?;
    let slots = &TABLE.on(cpu).slots;
    let vector = (FIRST..END).find(|v| slots[*v as usize].is_empty()).ok_or(IrqError::NoVectors)?;
    registry.used[cpu.index()] += 1;
    Ok(Place { cpu, vector })
}

fn slot(place: Place) -> &'static HandlerSlot {
    &TABLE.on(place.cpu).slots[place.vector as usize]
}

/// Registers a handler of an interrupt line for the device `name`; lines are shared. Its number in
/// `/proc/interrupts`. Interrupts on.
pub fn request_gsi(
    gsi: u32,
    trigger: Trigger,
    name: &str,
    handler: Handler,
) -> Result<u32, IrqError> {
    let mut registry = REGISTRY.lock();
    if let Some(known) = registry.interrupts.get_mut(&gsi) {
        if known.chip != Chip::IoApic {
            return Err(IrqError::NoSuchLine);
        }
        known.names.push_str(", ");
        known.names.push_str(name);
        let slot = slot(known.place);
        let mut handlers = slot.handlers();
        handlers.push(handler);
        let old = slot.replace(handlers);
        drop(registry);
        drop(old);
        return Ok(gsi);
    }
    let place = find_place(&mut registry, None)?;
    let count_before = slot(place).count();
    let old = slot(place).replace(Vec::from([handler]));
    let Some(route) = ioapic::route(gsi, trigger, place.cpu, place.vector) else {
        registry.used[place.cpu.index()] -= 1;
        let unused = slot(place).replace(Vec::new());
        drop(registry);
        drop((old, unused));
        return Err(IrqError::NoSuchLine);
    };
    let interrupt = Interrupt {
        place,
        count_before,
        chip: Chip::IoApic,
        number: route.line,
        is_level: route.is_level,
        names: name.into(),
    };
    registry.interrupts.insert(gsi, interrupt);
    drop(registry);
    drop(old);
    Ok(gsi)
}

/// Allocates a message-signalled interrupt, on the processor of the hint if it has room.
pub fn allocate_msi(
    cpu_hint: Option<CpuId>,
    source: MsiSource,
    handler: Handler,
) -> Result<MsiVector, IrqError> {
    let first = ioapic::line_count();
    let mut registry = REGISTRY.lock();
    let place = find_place(&mut registry, cpu_hint)?;
    let interrupt = Interrupt {
        place,
        count_before: slot(place).count(),
        chip: Chip::PciMsi,
        number: source.number,
        is_level: false,
        names: source.name,
    };
    let old = slot(place).replace(Vec::from([handler]));
    // As many numbers as are taken, and one more, has one that is free.
    let is_free = |irq: &u32| !registry.interrupts.contains_key(irq);
    let irq = (first..=u32::MAX).find(is_free).ok_or(IrqError::NoVectors)?;
    registry.interrupts.insert(irq, interrupt);
    drop(registry);
    drop(old);
    let (address, data) = apic::message(place.cpu, place.vector);
    Ok(MsiVector { address, data, cpu: place.cpu, irq })
}

/// Frees a message-signalled interrupt; its device no longer sends it. Interrupts on.
pub fn free_msi(msi: MsiVector) {
    let mut registry = REGISTRY.lock();
    let Some(Interrupt { place, .. }) = registry.interrupts.remove(&msi.irq) else { return };
    registry.used[place.cpu.index()] -= 1;
    let old = slot(place).replace(Vec::new());
    drop(registry);
    drop(old);
}

/// Moves a message-signalled interrupt to another processor: the new message to program. The old
/// one is served until [`free_msi`].
pub fn set_affinity(msi: MsiVector, cpu: CpuId) -> Result<MsiVector, IrqError> {
    let registry = REGISTRY.lock();
    let known = registry.interrupts.get(&msi.irq).ok_or(IrqError::NoSuchLine)?;
    let source = MsiSource { name: known.names.clone(), number: known.number };
    let handlers = slot(known.place).handlers();
    drop(registry);
    let handler = handlers.into_iter().next().ok_or(IrqError::NoSuchLine)?;
    let moved = allocate_msi(Some(cpu), source, handler)?;
    free_msi(msi);
    Ok(moved)
}

/// The device interrupts in use, by number.
pub fn in_use() -> Vec<InUse> {
    let registry = REGISTRY.lock();
    let describe = |(irq, known): (&u32, &Interrupt)| InUse {
        irq: *irq,
        cpu: known.place.cpu,
        count: slot(known.place).count() - known.count_before,
        chip: known.chip,
        number: known.number,
        is_level: known.is_level,
        names: known.names.clone(),
    };
    registry.interrupts.iter().map(describe).collect()
}

/// How many interrupts of all kinds a processor has served since boot.
pub fn served_on(cpu: CpuId) -> u64 {
    let devices: u64 = TABLE.on(cpu).slots.iter().map(HandlerSlot::count).sum();
    devices + Counted::ALL.iter().map(|what| count_on(cpu, *what)).sum::<u64>()
}
