//! What interrupted the processors: `interrupts`, `softirqs`, and their lines in `stat`.

use abi::Result;
use alloc::vec::Vec;
use arch::cpu::{CpuId, CpuSet};
use arch::irq::{Chip, Counted, InUse, count_on};
use pseudo::Put;
use sched::Deferred;

/// A line of `/proc/interrupts` that is not a device's.
struct Row {
    label: &'static str,
    what: &'static [Counted],
    /// `None`: one number for all processors.
    text: Option<&'static str>,
}

const fn row(label: &'static str, what: &'static [Counted], text: &'static str) -> Row {
    Row { label, what, text: Some(text) }
}

/// Those that Linux has on such a machine; without counters is what never happens here.
static ROWS: [Row; 15] = [
    row("NMI", &[Counted::Nmi], "Non-maskable interrupts"),
    row("LOC", &[Counted::Timer], "Local timer interrupts"),
    row("SPU", &[Counted::Spurious], "Spurious interrupts"),
    row("PMI", &[], "Performance monitoring interrupts"),
    row("IWI", &[], "IRQ work interrupts"),
    row("RTR", &[], "APIC ICR read retries"),
    row("RES", &[Counted::Reschedule], "Rescheduling interrupts"),
    row("CAL", &[Counted::Call], "Function call interrupts"),
    row("TLB", &[Counted::TlbFlush], "TLB shootdowns"),
    row("TRM", &[], "Thermal event interrupts"),
    Row { label: "ERR", what: &[Counted::ControllerError, Counted::Stray], text: None },
    Row { label: "MIS", what: &[], text: None },
    row("PIN", &[], "Posted-interrupt notification event"),
    row("NPI", &[], "Nested posted-interrupt event"),
    row("PIW", &[], "Posted-interrupt wakeup event"),
];

/// The kinds of soft interrupts, and what of it there is here.
static SOFT: [(&str, Option<Deferred>); 10] = [
    ("HI", None),
    ("TIMER", Some(Deferred::Timer)),
    ("NET_TX", None),
    ("NET_RX", None),
    ("BLOCK", None),
    ("IRQ_POLL", None),
    ("TASKLET", None),
    ("SCHED", Some(Deferred::Balance)),
    ("HRTIMER", None),
    ("RCU", Some(Deferred::Rcu)),
];

fn put_heading(out: &mut Vec<u8>, indent: usize, cpus: &CpuSet) {
    put!(out, "{:indent$}", "");
    for cpu in cpus.iter() {
        put!(out, "CPU{:<8}", cpu.as_u32());
    }
    out.push(b'\n');
}

fn put_counts(out: &mut Vec<u8>, cpus: &CpuSet, count: impl Fn(CpuId) -> u64) {
    for cpu in cpus.iter() {
        put!(out, " {:>10}", count(cpu));
    }
}

fn put_device(out: &mut Vec<u8>, width: usize, cpus: &CpuSet, device: &InUse) {
    put!(out, "{:>width$}:", device.irq);
    put_counts(out, cpus, |cpu| if cpu == device.cpu { device.count } else { 0 });
    let chip = match device.chip {
        Chip::IoApic => "IO-APIC",
        Chip::PciMsi => "PCI-MSI",
    };
    let flow = if device.is_level { "fasteoi" } else { "edge" };
    put!(out, "  {chip:>8} {:>width$}-{flow:<8}  {}\n", device.number, device.names);
}

/// How often a row's interrupts came on a processor.
fn counted(row: &Row, cpu: CpuId) -> u64 {
    row.what.iter().map(|what| count_on(cpu, *what)).sum()
}

fn put_table(out: &mut Vec<u8>, cpus: &CpuSet, devices: &[InUse]) {
    let last = devices.iter().map(|device| device.irq).max().unwrap_or(0);
    // As wide as the largest number, and never narrower than the labels.
    let width = (last.max(1).ilog10() as usize + 1).max(3);
    put_heading(out, width + 8, cpus);
    for device in devices {
        put_device(out, width, cpus, device);
    }
    for row in &ROWS {
        put!(out, "{:>width$}:", row.label);
        match row.text {
            Some(text) => {
                put_counts(out, cpus, |cpu| counted(row, cpu));
                put!(out, "   {text}\n");
            }
            None => {
                let sum: u64 = cpus.iter().map(|cpu| counted(row, cpu)).sum();
                put!(out, " {sum:>10}\n");
            }
        }
    }
}

/// `/proc/interrupts`.
pub(crate) fn interrupts(out: &mut Vec<u8>) -> Result<()> {
    put_table(out, &arch::cpu::online(), &arch::irq::in_use());
    Ok(())
}

/// How often one of the kinds of soft interrupts was served on a processor.
fn deferred(what: Option<Deferred>, cpu: CpuId) -> u64 {
    what.map_or(0, |what| what.count_on(cpu))
}

/// `/proc/softirqs`.
pub(crate) fn softirqs(out: &mut Vec<u8>) -> Result<()> {
    let cpus = arch::cpu::possible();
    put_heading(out, 20, &cpus);
    for (name, what) in SOFT {
        put!(out, "{name:>12}:");
        put_counts(out, &cpus, |cpu| deferred(what, cpu));
        out.push(b'\n');
    }
    Ok(())
}

/// Line `intr` of `/proc/stat`: all interrupts, then those of each device by number.
pub(crate) fn put_intr(out: &mut Vec<u8>) {
    let total: u64 = arch::cpu::online().iter().map(arch::irq::served_on).sum();
    put_by_number(out, total, &arch::irq::in_use());
}

fn put_by_number(out: &mut Vec<u8>, total: u64, devices: &[InUse]) {
    out.text("intr ").dec(total);
    let mut next = 0;
    for device in devices {
        (next..device.irq).for_each(|_| out.extend_from_slice(b" 0"));
        out.next_dec(device.count);
        next = device.irq + 1;
    }
    out.push(b'\n');
}

/// Line `softirq` of `/proc/stat`: all, then by kind.
pub(crate) fn put_softirq(out: &mut Vec<u8>) {
    let cpus = arch::cpu::online();
    let sums = SOFT.map(|(_, what)| cpus.iter().map(|cpu| deferred(what, cpu)).sum::<u64>());
    out.text("softirq ").dec(sums.iter().sum::<u64>());
    for sum in sums {
        out.next_dec(sum);
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn devices() -> [InUse; 2] {
        let serial = InUse {
            irq: 4,
            cpu: CpuId::BOOT,
            count: 2,
            chip: Chip::IoApic,
            number: 4,
            is_level: false,
            names: "ttyS0".into(),
        };
        let disk = InUse {
            irq: 26,
            cpu: CpuId::from_index(1),
            count: 37,
            chip: Chip::PciMsi,
            number: 16386,
            is_level: false,
            names: "nvme0q2".into(),
        };
        [serial, disk]
    }

    fn text(put: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        put(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_stand_as_on_linux() {
        let cpus: CpuSet = [CpuId::BOOT, CpuId::from_index(1)].into_iter().collect();
        let table = text(|out| put_table(out, &cpus, &devices()));
        let mut lines = table.lines();
        assert_eq!(lines.next().unwrap(), "           CPU0       CPU1       ");
        assert_eq!(
            lines.next().unwrap(),
            "  4:          2          0   IO-APIC   4-edge      ttyS0"
        );
        assert_eq!(
            lines.next().unwrap(),
            " 26:          0         37   PCI-MSI 16386-edge      nvme0q2"
        );
        assert_eq!(lines.next().unwrap(), "NMI:          0          0   Non-maskable interrupts");
        assert!(lines.any(|line| line == "ERR:          0"));
    }

    #[test]
    fn numbers_without_a_device_are_zero_in_stat() {
        let line = text(|out| put_by_number(out, 100, &devices()));
        let numbers: Vec<&str> = line.trim_end().split(' ').collect();
        assert_eq!(numbers.len(), 2 + 27);
        assert_eq!((numbers[1], numbers[2], numbers[6], numbers[28]), ("100", "0", "2", "37"));
    }
}
