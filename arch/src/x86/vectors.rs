//! Which vector of which processor means what, and calling its handlers.
//!
//! Every processor has its own table of 256 slots; a device interrupt takes a slot of one
//! processor. Looking a handler up is one load; taking one out waits until no processor can be in
//! it any more.

use crate::cpu::{CpuId, MAX_CPUS};
use crate::irq::{Handler, IrqError, MsiVector, Trigger};
use crate::lock::{IrqLock, LockClass};
use crate::timer::Mode;
use crate::x86::apic::{self, vector};
use crate::x86::{ioapic, timer};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
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
    static STRAY: PerCpu<AtomicU64> = AtomicU64::new(0);
}

/// Where a line or message goes.
#[derive(Clone, Copy)]
struct Place {
    cpu: CpuId,
    vector: u8,
}

struct Registry {
    /// Line → its place.
    lines: BTreeMap<u32, (Place, Trigger)>,
    /// Interrupt number of a message → its place.
    messages: BTreeMap<u32, Place>,
    /// Device vectors in use on each processor.
    used: [u16; MAX_CPUS],
    next_irq: u32,
}

static CLASS: LockClass = LockClass::new("arch.vectors", 790);
static REGISTRY: IrqLock<Registry> = IrqLock::new(
    &CLASS,
    Registry {
        lines: BTreeMap::new(),
        messages: BTreeMap::new(),
        used: [0; MAX_CPUS],
        next_irq: 256,
    },
);

/// Serves an interrupt that came in between what `mode` says. Interrupts are off.
#[inline]
pub(crate) fn dispatch(number: u8, mode: Mode) {
    match number {
        vector::TIMER => {
            apic::end_of_interrupt();
            timer::expired(mode);
        }
        vector::RESCHEDULE => {
            apic::end_of_interrupt();
            crate::preempt::fold_need_resched();
        }
        vector::CALL => {
            apic::end_of_interrupt();
            ipi::serve();
        }
        vector::SPURIOUS => {}
        vector::ERROR => {
            let errors = apic::take_errors();
            apic::end_of_interrupt();
            log::warn!("apic: error {errors:#x}");
        }
        device => {
            if !TABLE.this().slots[device as usize].call() {
                STRAY.this().fetch_add(1, Ordering::Relaxed);
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

/// Registers a handler of an interrupt line; lines are shared. Its number in `/proc/interrupts`.
/// Interrupts on.
pub fn request_gsi(gsi: u32, trigger: Trigger, handler: Handler) -> Result<u32, IrqError> {
    let mut registry = REGISTRY.lock();
    if let Some((place, _)) = registry.lines.get(&gsi).copied() {
        let (mut handlers, _) = slot(place).look();
        handlers.push(handler);
        let old = slot(place).replace(handlers);
        drop(registry);
        drop(old);
        return Ok(gsi);
    }
    let place = find_place(&mut registry, None)?;
    let old = slot(place).replace(Vec::from([handler]));
    registry.lines.insert(gsi, (place, trigger));
    drop(registry);
    drop(old);
    if ioapic::route(gsi, trigger, place.cpu, place.vector) {
        return Ok(gsi);
    }
    let mut registry = REGISTRY.lock();
    registry.lines.remove(&gsi);
    registry.used[place.cpu.index()] -= 1;
    let old = slot(place).replace(Vec::new());
    drop(registry);
    drop(old);
    Err(IrqError::NoSuchLine)
}

/// Allocates a message-signalled interrupt, on the processor of the hint if it has room.
pub fn allocate_msi(cpu_hint: Option<CpuId>, handler: Handler) -> Result<MsiVector, IrqError> {
    let mut registry = REGISTRY.lock();
    let place = find_place(&mut registry, cpu_hint)?;
    let old = slot(place).replace(Vec::from([handler]));
    let irq = registry.next_irq;
    registry.next_irq += 1;
    registry.messages.insert(irq, place);
    drop(registry);
    drop(old);
    let (address, data) = apic::message(place.cpu, place.vector);
    Ok(MsiVector { address, data, cpu: place.cpu, irq })
}

/// Frees a message-signalled interrupt; its device no longer sends it. Interrupts on.
pub fn free_msi(msi: MsiVector) {
    let mut registry = REGISTRY.lock();
    let Some(place) = registry.messages.remove(&msi.irq) else { return };
    registry.used[place.cpu.index()] -= 1;
    let old = slot(place).replace(Vec::new());
    drop(registry);
    drop(old);
}

/// Moves a message-signalled interrupt to another processor: the new message to program. The old
/// one is served until [`free_msi`].
pub fn set_affinity(msi: MsiVector, cpu: CpuId) -> Result<MsiVector, IrqError> {
    let registry = REGISTRY.lock();
    let place = registry.messages.get(&msi.irq).copied().ok_or(IrqError::NoSuchLine)?;
    let (handlers, _) = slot(place).look();
    drop(registry);
    let handler = handlers.into_iter().next().ok_or(IrqError::NoSuchLine)?;
    let moved = allocate_msi(Some(cpu), handler)?;
    free_msi(msi);
    Ok(moved)
}

/// One line of `/proc/interrupts`: number, processor, how often, whether a line or a message.
pub fn for_each_count(mut f: impl FnMut(u32, CpuId, u64, bool)) {
    let registry = REGISTRY.lock();
    let lines = registry.lines.iter().map(|(gsi, (place, _))| (*gsi, *place, true));
    let messages = registry.messages.iter().map(|(irq, place)| (*irq, *place, false));
    for (irq, place, is_line) in lines.chain(messages) {
        let (_, count) = slot(place).look();
        f(irq, place.cpu, count, is_line);
    }
}
