//! Preemption, interrupt state and per-CPU data of the simulated machine.

#![cfg(not(target_os = "none"))]

use machine::cpu::CpuId;
use machine::percpu::PerCpuCell;
use machine::{irq, preempt};
use std::sync::atomic::{AtomicU32, Ordering};

machine::percpu! {
    static COUNTER: PerCpu<AtomicU32> = AtomicU32::new(7);
    static CELL: PerCpu<PerCpuCell<Vec<u32>>> = PerCpuCell::new(Vec::new());
}

#[test]
fn values_are_separate() {
    let other = CpuId::from_index(9);
    COUNTER.on(other).store(1, Ordering::Relaxed);
    assert_eq!(COUNTER.this().load(Ordering::Relaxed), 7);
    CELL.with(|v| v.push(1));
    CELL.with(|v| assert_eq!(v.len(), 1));
}

#[test]
fn guards_nest() {
    assert_eq!(preempt::count(), 0);
    let a = preempt::disable();
    let b = preempt::disable();
    assert_eq!(preempt::count(), 2);
    drop(a);
    drop(b);
    assert_eq!(preempt::count(), 0);
    preempt::irq_enter();
    assert!(preempt::in_hardirq());
    preempt::irq_exit();
    assert!(!preempt::in_hardirq());
}

#[test]
fn guards_restore() {
    assert!(irq::are_enabled());
    let outer = irq::disable();
    let inner = irq::disable();
    drop(inner);
    assert!(!irq::are_enabled());
    drop(outer);
    assert!(irq::are_enabled());
}
