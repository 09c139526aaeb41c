//! Which vector of which processor means what, and calling its handlers.
//!
//! Every processor has its own table of 256 slots; a device interrupt takes a slot of one
//! processor. Looking a handler up is one load; taking one out waits until no processor can be in
//! it any more.

use crate::cpu::{CpuId, MAX_CPUS};
use crate::irq::{Handler, IrqError, MsiVector, Trigger};
use crate::lock::{IrqLock, LockClass};
use crate::x86::apic::{self, vector};
use crate::x86::{ioapic, ipi, timer};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The first vector for devices; below are exceptions.
const FIRST: u8 = 0x30;
/// One past the last vector for devices.
const END: u8 = 0xe0;

/// What a slot points to: the handlers of the devices that share it.
struct Action {
    handlers: Vec<Handler>,
    count: AtomicU64,
}

struct Table {
    slots: [AtomicPtr<Action>; 256],
}

crate::percpu! {
    static TABLE: PerCpu<Table> =
        Table { slots: [const { AtomicPtr::new(core::ptr::null_mut()) }; 256] };
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

/// Serves an interrupt. Interrupts are off.
#[inline]
pub(crate) fn dispatch(number: u8) {
    match number {
        vector::TIMER => {
            apic::end_of_interrupt();
            timer::expired();
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
            // Acquire: pairs with the release when the action was installed.
            let action = TABLE.this().slots[device as usize].load(Ordering::Acquire);
            // SAFETY: an action is freed only after every processor has left its handlers.
            match unsafe { action.as_ref() } {
                Some(action) => {
                    action.count.fetch_add(1, Ordering::Relaxed);
                    action.handlers.iter().for_each(|handler| handler());
                }
                None => drop(STRAY.this().fetch_add(1, Ordering::Relaxed)),
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
    let vector = (FIRST..END)
        .find(|v| slots[*v as usize].load(Ordering::Relaxed).is_null())
        .ok_or(IrqError::NoVectors)?;
    registry.used[cpu.index()] += 1;
    Ok(Place { cpu, vector })
}

fn install(place: Place, handlers: Vec<Handler>) -> *mut Action {
    let action = Box::into_raw(Box::new(Action { handlers, count: AtomicU64::new(0) }));
    // Release: pairs with the acquire in `dispatch`.
    TABLE.on(place.cpu).slots[place.vector as usize].swap(action, Ordering::AcqRel)
}

/// Frees an action that no slot points to any more.
fn retire(action: *mut Action) {
    if action.is_null() {
        return;
    }
    // Every processor that answers has left the handlers it was in.
    ipi::call_on(&crate::cpu::online(), |_| (), 0);
    // SAFETY: made by `install`, out of its slot, and nobody is in it.
    drop(unsafe { Box::from_raw(action) });
}

/// Registers a handler of an interrupt line; lines are shared. Its number in `/proc/interrupts`.
/// Interrupts on.
pub fn request_gsi(gsi: u32, trigger: Trigger, handler: Handler) -> Result<u32, IrqError> {
    let mut registry = REGISTRY.lock();
    if let Some((place, _)) = registry.lines.get(&gsi).copied() {
        let slot = &TABLE.on(place.cpu).slots[place.vector as usize];
        // SAFETY: only changed under the registry's lock.
        let mut handlers = unsafe { slot.load(Ordering::Acquire).as_ref() }
            .map_or(Vec::new(), |action| action.handlers.clone());
        handlers.push(handler);
        let old = install(place, handlers);
        drop(registry);
        retire(old);
        return Ok(gsi);
    }
    let place = find_place(&mut registry, None)?;
    install(place, Vec::from([handler]));
    registry.lines.insert(gsi, (place, trigger));
    drop(registry);
    if ioapic::route(gsi, trigger, place.cpu, place.vector) {
        return Ok(gsi);
    }
    let mut registry = REGISTRY.lock();
    registry.lines.remove(&gsi);
    registry.used[place.cpu.index()] -= 1;
    let slot = &TABLE.on(place.cpu).slots[place.vector as usize];
    let old = slot.swap(core::ptr::null_mut(), Ordering::AcqRel);
    drop(registry);
    retire(old);
    Err(IrqError::NoSuchLine)
}

/// Allocates a message-signalled interrupt, on the processor of the hint if it has room.
pub fn allocate_msi(cpu_hint: Option<CpuId>, handler: Handler) -> Result<MsiVector, IrqError> {
    let mut registry = REGISTRY.lock();
    let place = find_place(&mut registry, cpu_hint)?;
    install(place, Vec::from([handler]));
    let irq = registry.next_irq;
    registry.next_irq += 1;
    registry.messages.insert(irq, place);
    let (address, data) = apic::message(place.cpu, place.vector);
    Ok(MsiVector { address, data, cpu: place.cpu, irq })
}

/// Frees a message-signalled interrupt; its device no longer sends it. Interrupts on.
pub fn free_msi(msi: MsiVector) {
    let mut registry = REGISTRY.lock();
    let Some(place) = registry.messages.remove(&msi.irq) else { return };
    registry.used[place.cpu.index()] -= 1;
    let slot = &TABLE.on(place.cpu).slots[place.vector as usize];
    let old = slot.swap(core::ptr::null_mut(), Ordering::AcqRel);
    drop(registry);
    retire(old);
}

/// Moves a message-signalled interrupt to another processor: the new message to program. The old
/// one is served until [`free_msi`].
pub fn set_affinity(msi: MsiVector, cpu: CpuId) -> Result<MsiVector, IrqError> {
    let registry = REGISTRY.lock();
    let place = registry.messages.get(&msi.irq).copied().ok_or(IrqError::NoSuchLine)?;
    let slot = &TABLE.on(place.cpu).slots[place.vector as usize];
    // SAFETY: only changed under the registry's lock.
    let handlers = unsafe { slot.load(Ordering::Acquire).as_ref() }
        .map_or(Vec::new(), |action| action.handlers.clone());
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
        let slot = &TABLE.on(place.cpu).slots[place.vector as usize];
        // SAFETY: only changed under the registry's lock.
        let action = unsafe { slot.load(Ordering::Acquire).as_ref() };
        let count = action.map_or(0, |action| action.count.load(Ordering::Relaxed));
        f(irq, place.cpu, count, is_line);
    }
}
