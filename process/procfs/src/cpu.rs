//! Processors: `stat`, `cpuinfo`.

use crate::interrupts;
use abi::Result;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use arch::cpu::{CpuSet, identify};
use pseudo::Put;
use sched::ProcessorTimes;

const TICK_NS: u64 = 10_000_000;

/// A set as comma-separated groups of eight hexadecimal digits.
pub(crate) fn put_mask(out: &mut Vec<u8>, set: &CpuSet) {
    let groups = arch::cpu::possible_count().div_ceil(32).max(1);
    for group in (0..groups).rev() {
        let word = set.as_words().get(group / 2).copied().unwrap_or(0) >> (group % 2 * 32);
        let width = match (group + 1 == groups, arch::cpu::possible_count() % 32) {
            (true, rest) if rest > 0 => rest.div_ceil(4),
            _ => 8,
        };
        out.hex(word as u32, width).text(if group > 0 { "," } else { "" });
    }
}

/// `/proc/stat`.
pub(crate) fn stat(out: &mut Vec<u8>) -> Result<()> {
    let cpus = arch::cpu::online();
    let times: Vec<ProcessorTimes> = cpus.iter().map(sched::processor_times).collect();
    put_times(out, "cpu ", times.iter().fold(ProcessorTimes::default(), |sum, one| sum + *one));
    for (cpu, times) in cpus.iter().zip(times) {
        put_times(out, &format!("cpu{}", cpu.as_u32()), times);
    }
    interrupts::put_intr(out);
    let boot_ns = sched::clock::realtime_ns().saturating_sub(sched::clock::boottime_ns());
    put!(out, "ctxt {}\nbtime {}\n", sched::switches(), boot_ns / 1_000_000_000);
    put!(out, "processes {}\n", process::group::fork_count());
    let blocked: u32 = cpus.iter().map(sched::waiting_for_io).sum();
    put!(out, "procs_running {}\nprocs_blocked {blocked}\n", sched::nr_running().max(1));
    interrupts::put_softirq(out);
    Ok(())
}

/// One row: user, nice, system, idle, waiting for devices, interrupts. Nothing is known of time in
/// soft interrupts, time a hypervisor took, and time of guests.
fn put_times(out: &mut Vec<u8>, label: &str, times: ProcessorTimes) {
    out.text(label);
    for ns in [
        times.user_ns,
        times.nice_ns,
        times.system_ns,
        times.idle_ns,
        times.iowait_ns,
        times.irq_ns,
    ] {
        out.next_dec(ns / TICK_NS);
    }
    out.text(" 0 0 0 0\n");
}

/// Names of the feature bits: leaf, register (0 eax … 3 edx), bit, name, in Linux's order.
const FEATURES: &[(u32, u32, usize, u32, &str)] = &[
    (1, 0, 3, 0, "fpu"),
    (1, 0, 3, 1, "vme"),
    (1, 0, 3, 2, "de"),
    (1, 0, 3, 3, "pse"),
    (1, 0, 3, 4, "tsc"),
    (1, 0, 3, 5, "msr"),
    (1, 0, 3, 6, "pae"),
    (1, 0, 3, 7, "mce"),
    (1, 0, 3, 8, "cx8"),
    (1, 0, 3, 9, "apic"),
    (1, 0, 3, 11, "sep"),
    (1, 0, 3, 12, "mtrr"),
    (1, 0, 3, 13, "pge"),
    (1, 0, 3, 14, "mca"),
    (1, 0, 3, 15, "cmov"),
    (1, 0, 3, 16, "pat"),
    (1, 0, 3, 17, "pse36"),
    (1, 0, 3, 19, "clflush"),
    (1, 0, 3, 23, "mmx"),
    (1, 0, 3, 24, "fxsr"),
    (1, 0, 3, 25, "sse"),
    (1, 0, 3, 26, "sse2"),
    (1, 0, 3, 27, "ss"),
    (1, 0, 3, 28, "ht"),
    (0x8000_0001, 0, 3, 11, "syscall"),
    (0x8000_0001, 0, 3, 20, "nx"),
    (0x8000_0001, 0, 3, 26, "pdpe1gb"),
    (0x8000_0001, 0, 3, 27, "rdtscp"),
    (0x8000_0001, 0, 3, 29, "lm"),
    (1, 0, 2, 0, "pni"),
    (1, 0, 2, 1, "pclmulqdq"),
    (1, 0, 2, 9, "ssse3"),
    (1, 0, 2, 12, "fma"),
    (1, 0, 2, 13, "cx16"),
    (1, 0, 2, 17, "pcid"),
    (1, 0, 2, 19, "sse4_1"),
    (1, 0, 2, 20, "sse4_2"),
    (1, 0, 2, 21, "x2apic"),
    (1, 0, 2, 22, "movbe"),
    (1, 0, 2, 23, "popcnt"),
    (1, 0, 2, 24, "tsc_deadline_timer"),
    (1, 0, 2, 25, "aes"),
    (1, 0, 2, 26, "xsave"),
    (1, 0, 2, 28, "avx"),
    (1, 0, 2, 29, "f16c"),
    (1, 0, 2, 30, "rdrand"),
    (1, 0, 2, 31, "hypervisor"),
    (0x8000_0001, 0, 2, 0, "lahf_lm"),
    (0x8000_0001, 0, 2, 2, "svm"),
    (0x8000_0001, 0, 2, 5, "abm"),
    (0x8000_0001, 0, 2, 6, "sse4a"),
    (0x8000_0001, 0, 2, 8, "3dnowprefetch"),
    (7, 0, 1, 0, "fsgsbase"),
    (7, 0, 1, 3, "bmi1"),
    (7, 0, 1, 5, "avx2"),
    (7, 0, 1, 7, "smep"),
    (7, 0, 1, 8, "bmi2"),
    (7, 0, 1, 9, "erms"),
    (7, 0, 1, 10, "invpcid"),
    (7, 0, 1, 16, "avx512f"),
    (7, 0, 1, 18, "rdseed"),
    (7, 0, 1, 19, "adx"),
    (7, 0, 1, 20, "smap"),
    (7, 0, 1, 23, "clflushopt"),
    (7, 0, 1, 24, "clwb"),
    (7, 0, 1, 29, "sha_ni"),
    (7, 0, 2, 2, "umip"),
    (7, 0, 2, 3, "pku"),
    (7, 0, 2, 16, "la57"),
];

fn has(leaf: u32, subleaf: u32, register: usize, bit: u32) -> bool {
    let max = identify(leaf & 0x8000_0000, 0)[0];
    leaf <= max && identify(leaf, subleaf).get(register).is_some_and(|r| r >> bit & 1 != 0)
}

fn words_text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).trim().into()
}

pub(crate) fn cpuinfo(out: &mut Vec<u8>) -> Result<()> {
    let [max, b, c, d] = identify(0, 0);
    let vendor = words_text(&[b, d, c]);
    let [signature, misc, _, _] = identify(1, 0);
    let base_family = signature >> 8 & 0xf;
    let family = if base_family == 15 { 15 + (signature >> 20 & 0xff) } else { base_family };
    let mut model = signature >> 4 & 0xf;
    if base_family == 6 || base_family == 15 {
        model |= (signature >> 16 & 0xf) << 4;
    }
    let mut brand = Vec::new();
    if identify(0x8000_0000, 0)[0] >= 0x8000_0004 {
        (0x8000_0002..=0x8000_0004).for_each(|leaf| brand.extend(identify(leaf, 0)));
    }
    let model_name = words_text(&brand);
    let sizes = if identify(0x8000_0000, 0)[0] >= 0x8000_0008 {
        identify(0x8000_0008, 0)[0]
    } else {
        0x3024
    };
    let khz = arch::time::cycles_per_sec() / 1000;
    let count = arch::cpu::count();
    let flags: Vec<&str> = FEATURES
        .iter()
        .filter(|(leaf, sub, register, bit, _)| has(*leaf, *sub, *register, *bit))
        .map(|feature| feature.4)
        .collect();
    let flags = flags.join(" ");
    let line_size = (misc >> 8 & 0xff) * 8;
    for cpu in arch::cpu::online().iter() {
        let number = cpu.as_u32();
        put!(out, "processor\t: {number}\nvendor_id\t: {vendor}\ncpu family\t: {family}\n");
        put!(out, "model\t\t: {model}\nmodel name\t: {model_name}\n");
        put!(out, "stepping\t: {}\nmicrocode\t: 0x1\n", signature & 0xf);
        put!(out, "cpu MHz\t\t: {}.{:03}\ncache size\t: 512 KB\n", khz / 1000, khz % 1000);
        put!(out, "physical id\t: 0\nsiblings\t: {count}\ncore id\t\t: {number}\n");
        put!(out, "cpu cores\t: {count}\napicid\t\t: {number}\ninitial apicid\t: {number}\n");
        put!(out, "fpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: {max}\nwp\t\t: yes\n");
        put!(out, "flags\t\t: {flags}\nbugs\t\t:\n");
        put!(out, "bogomips\t: {}.{:02}\n", khz / 500, khz / 5 % 100);
        put!(out, "clflush size\t: {line_size}\ncache_alignment\t: {line_size}\n");
        put!(
            out,
            "address sizes\t: {} bits physical, {} bits virtual\n",
            sizes & 0xff,
            sizes >> 8 & 0xff
        );
        put!(out, "power management:\n\n");
    }
    Ok(())
}
