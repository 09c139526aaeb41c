//! What `/proc/cpuinfo` and `lscpu` tell about a processor, from CPUID.

use crate::cpu::CpuId;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::x86_64::__cpuid_count;

/// A processor as CPUID describes it. All processors are taken to be of one kind.
#[derive(Clone, Debug)]
pub struct CpuInfo {
    /// `GenuineIntel`, `AuthenticAMD`, …
    pub vendor: String,
    /// Family, extended family added.
    pub family: u32,
    /// Model, extended model included.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
    /// The brand string.
    pub name: String,
    /// The size of the last-level cache in KiB; 0 when unknown.
    pub cache_kib: u32,
    /// Bytes of a cache line that `clflush` writes back.
    pub clflush_bytes: u32,
    /// Width of physical addresses in bits.
    pub physical_bits: u32,
    /// Width of virtual addresses in bits.
    pub virtual_bits: u32,
    /// The highest basic leaf.
    pub cpuid_level: u32,
    /// Logical processors in the package.
    pub siblings: u32,
    /// Cores in the package.
    pub cores: u32,
    /// Names of features, in the order of Linux's `flags` line.
    pub flags: Vec<&'static str>,
}

fn leaf(number: u32, sub: u32) -> [u32; 4] {
    let result = __cpuid_count(number, sub);
    [result.eax, result.ebx, result.ecx, result.edx]
}

fn bytes(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let text = String::from_utf8_lossy(&bytes);
    String::from(text.trim_matches(|c: char| c == '\0' || c == ' '))
}

/// Describes this processor.
pub fn describe() -> CpuInfo {
    let [level, b, c, d] = leaf(0, 0);
    let [signature, misc, _, features] = leaf(1, 0);
    let [max_extended, ..] = leaf(0x8000_0000, 0);
    let base_family = signature >> 8 & 15;
    let family = if base_family == 15 { 15 + (signature >> 20 & 0xff) } else { base_family };
    let low_model = signature >> 4 & 15;
    let model = if base_family == 6 || base_family == 15 {
        low_model | (signature >> 16 & 15) << 4
    } else {
        low_model
    };
    let name = if max_extended >= 0x8000_0004 {
        let words: Vec<u32> = (2..=4).flat_map(|n| leaf(0x8000_0000 + n, 0)).collect();
        bytes(&words)
    } else {
        String::new()
    };
    let widths = if max_extended >= 0x8000_0008 { leaf(0x8000_0008, 0)[0] } else { 0x3024 };
    let has_threads = features & 1 << 28 != 0;
    let siblings = if has_threads { (misc >> 16 & 0xff).max(1) } else { 1 };
    let cores = if level >= 4 && leaf(4, 0)[0] & 31 != 0 {
        (leaf(4, 0)[0] >> 26) + 1
    } else if max_extended >= 0x8000_0008 {
        (leaf(0x8000_0008, 0)[2] & 0xff) + 1
    } else {
        1
    };
    CpuInfo {
        vendor: bytes(&[b, d, c]),
        family,
        model,
        stepping: signature & 15,
        name,
        cache_kib: cache_kib(level, max_extended),
        clflush_bytes: (misc >> 8 & 0xff) * 8,
        physical_bits: widths & 0xff,
        virtual_bits: widths >> 8 & 0xff,
        cpuid_level: level,
        siblings,
        cores,
        flags: flags(level, max_extended),
    }
}

/// The last-level cache: leaf 4 of Intel, leaf 0x8000_0006 of AMD.
fn cache_kib(level: u32, max_extended: u32) -> u32 {
    let mut size = 0;
    if level >= 4 {
        for sub in 0..8 {
            let [kind, shape, sets, _] = leaf(4, sub);
            if kind & 31 == 0 {
                break;
            }
            let ways = (shape >> 22) + 1;
            let partitions = (shape >> 12 & 0x3ff) + 1;
            let line = (shape & 0xfff) + 1;
            size = ways * partitions * line * (sets + 1) / 1024;
        }
    }
    if size == 0 && max_extended >= 0x8000_0006 {
        let [_, _, l2, l3] = leaf(0x8000_0006, 0);
        size = if l3 >> 18 != 0 { (l3 >> 18) * 512 } else { l2 >> 16 };
    }
    size
}

/// The id of a processor in the interrupt controllers, if known.
pub fn apic_id(cpu: CpuId) -> u32 {
    #[cfg(target_os = "none")]
    return crate::x86::apic::apic_id(cpu).unwrap_or(cpu.as_u32());
    #[cfg(not(target_os = "none"))]
    cpu.as_u32()
}

/// Leaf, subleaf, register (0 eax … 3 edx) and the names of its bits from 0 up; empty: no name.
type Word = (u32, u32, usize, &'static [(u8, &'static str)]);

/// In the order of Linux's words.
static WORDS: [Word; 13] = [
    (
        1,
        0,
        3,
        &[
            (0, "fpu"),
            (1, "vme"),
            (2, "de"),
            (3, "pse"),
            (4, "tsc"),
            (5, "msr"),
            (6, "pae"),
            (7, "mce"),
            (8, "cx8"),
            (9, "apic"),
            (11, "sep"),
            (12, "mtrr"),
            (13, "pge"),
            (14, "mca"),
            (15, "cmov"),
            (16, "pat"),
            (17, "pse36"),
            (18, "pn"),
            (19, "clflush"),
            (21, "dts"),
            (22, "acpi"),
            (23, "mmx"),
            (24, "fxsr"),
            (25, "sse"),
            (26, "sse2"),
            (27, "ss"),
            (28, "ht"),
            (29, "tm"),
            (30, "ia64"),
            (31, "pbe"),
        ],
    ),
    (
        0x8000_0001,
        0,
        3,
        &[
            (11, "syscall"),
            (19, "mp"),
            (20, "nx"),
            (22, "mmxext"),
            (25, "fxsr_opt"),
            (26, "pdpe1gb"),
            (27, "rdtscp"),
            (29, "lm"),
            (30, "3dnowext"),
            (31, "3dnow"),
        ],
    ),
    (0x8000_0007, 0, 3, &[(8, "constant_tsc")]),
    (
        1,
        0,
        2,
        &[
            (0, "pni"),
            (1, "pclmulqdq"),
            (2, "dtes64"),
            (3, "monitor"),
            (4, "ds_cpl"),
            (5, "vmx"),
            (6, "smx"),
            (7, "est"),
            (8, "tm2"),
            (9, "ssse3"),
            (10, "cid"),
            (11, "sdbg"),
            (12, "fma"),
            (13, "cx16"),
            (14, "xtpr"),
            (15, "pdcm"),
            (17, "pcid"),
            (18, "dca"),
            (19, "sse4_1"),
            (20, "sse4_2"),
            (21, "x2apic"),
            (22, "movbe"),
            (23, "popcnt"),
            (24, "tsc_deadline_timer"),
            (25, "aes"),
            (26, "xsave"),
            (28, "avx"),
            (29, "f16c"),
            (30, "rdrand"),
            (31, "hypervisor"),
        ],
    ),
    (
        0x8000_0001,
        0,
        2,
        &[
            (0, "lahf_lm"),
            (1, "cmp_legacy"),
            (2, "svm"),
            (3, "extapic"),
            (4, "cr8_legacy"),
            (5, "abm"),
            (6, "sse4a"),
            (7, "misalignsse"),
            (8, "3dnowprefetch"),
            (9, "osvw"),
            (10, "ibs"),
            (11, "xop"),
            (12, "skinit"),
            (13, "wdt"),
            (15, "lwp"),
            (16, "fma4"),
            (17, "tce"),
            (19, "nodeid_msr"),
            (21, "tbm"),
            (22, "topoext"),
            (23, "perfctr_core"),
            (24, "perfctr_nb"),
            (26, "bpext"),
            (27, "ptsc"),
            (28, "perfctr_llc"),
            (29, "mwaitx"),
        ],
    ),
    (
        7,
        0,
        1,
        &[
            (0, "fsgsbase"),
            (1, "tsc_adjust"),
            (3, "bmi1"),
            (4, "hle"),
            (5, "avx2"),
            (7, "smep"),
            (8, "bmi2"),
            (9, "erms"),
            (10, "invpcid"),
            (11, "rtm"),
            (12, "cqm"),
            (14, "mpx"),
            (15, "rdt_a"),
            (16, "avx512f"),
            (17, "avx512dq"),
            (18, "rdseed"),
            (19, "adx"),
            (20, "smap"),
            (21, "avx512ifma"),
            (23, "clflushopt"),
            (24, "clwb"),
            (25, "intel_pt"),
            (26, "avx512pf"),
            (27, "avx512er"),
            (28, "avx512cd"),
            (29, "sha_ni"),
            (30, "avx512bw"),
            (31, "avx512vl"),
        ],
    ),
    (0xd, 1, 0, &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves")]),
    (
        0x8000_0008,
        0,
        1,
        &[
            (0, "clzero"),
            (1, "irperf"),
            (2, "xsaveerptr"),
            (9, "wbnoinvd"),
            (12, "amd_ibpb"),
            (14, "amd_ibrs"),
            (15, "amd_stibp"),
            (24, "amd_ssbd"),
            (25, "virt_ssbd"),
            (26, "amd_ssb_no"),
        ],
    ),
    (
        6,
        0,
        0,
        &[
            (0, "dtherm"),
            (1, "ida"),
            (2, "arat"),
            (4, "pln"),
            (6, "pts"),
            (7, "hwp"),
            (8, "hwp_notify"),
            (9, "hwp_act_window"),
            (10, "hwp_epp"),
            (11, "hwp_pkg_req"),
        ],
    ),
    (
        0x8000_000a,
        0,
        3,
        &[
            (0, "npt"),
            (1, "lbrv"),
            (2, "svm_lock"),
            (3, "nrip_save"),
            (4, "tsc_scale"),
            (5, "vmcb_clean"),
            (6, "flushbyasid"),
            (7, "decodeassists"),
            (10, "pausefilter"),
            (12, "pfthreshold"),
            (13, "avic"),
            (15, "v_vmsave_vmload"),
            (16, "vgif"),
        ],
    ),
    (
        7,
        0,
        2,
        &[
            (1, "avx512vbmi"),
            (2, "umip"),
            (3, "pku"),
            (4, "ospke"),
            (5, "waitpkg"),
            (6, "avx512_vbmi2"),
            (8, "gfni"),
            (9, "vaes"),
            (10, "vpclmulqdq"),
            (11, "avx512_vnni"),
            (12, "avx512_bitalg"),
            (13, "tme"),
            (14, "avx512_vpopcntdq"),
            (16, "la57"),
            (22, "rdpid"),
            (25, "cldemote"),
            (27, "movdiri"),
            (28, "movdir64b"),
        ],
    ),
    (0x8000_0007, 0, 1, &[(0, "overflow_recov"), (1, "succor"), (3, "smca")]),
    (
        7,
        0,
        3,
        &[
            (2, "avx512_4vnniw"),
            (3, "avx512_4fmaps"),
            (4, "fsrm"),
            (8, "avx512_vp2intersect"),
            (10, "md_clear"),
            (18, "pconfig"),
            (28, "flush_l1d"),
            (29, "arch_capabilities"),
        ],
    ),
];

fn flags(level: u32, max_extended: u32) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (number, sub, register, bits) in &WORDS {
        let max = if *number >= 0x8000_0000 { max_extended } else { level };
        if *number > max {
            continue;
        }
        let word = leaf(*number, *sub).get(*register).copied().unwrap_or(0);
        let set = bits.iter().filter(|(bit, _)| word & 1 << bit != 0);
        names.extend(set.map(|(_, name)| *name));
        if *number == 0x8000_0007 && *register == 3 {
            // What this kernel knows beside the bits.
            names.extend(["rep_good", "nopl"]);
            if word & 1 << 8 != 0 {
                names.push("nonstop_tsc");
            }
            names.push("cpuid");
        }
    }
    names
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_host_is_described() {
        let info = super::describe();
        assert!(!info.vendor.is_empty());
        assert!(info.flags.contains(&"fpu") && info.flags.contains(&"lm"));
        assert!((32..=57).contains(&info.physical_bits));
    }
}
