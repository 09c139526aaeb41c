//! Where the image and the direct map go, and what decides it.

use crate::BootInfo;
use archtypes::addr::VirtAddr;

/// Where the image is linked.
pub const LINK_BASE: u64 = 0xffff_ffff_8000_0000;
/// The image may be anywhere in the first GiB from [`LINK_BASE`]; modules and vsyscall are above.
const IMAGE_WINDOW: u64 = 1 << 30;
const IMAGE_ALIGN: u64 = 2 << 20;
/// The direct map lies in 64 TiB from its default base.
const DIRECT_MAP_WINDOW: u64 = 64 << 40;
const GIB: u64 = 1 << 30;

/// Picks where the image and the direct map go, at random unless `nokaslr` is given. The direct map
/// lies at its base at the lowest.
pub fn choose(info: &mut BootInfo, image_len: u64, direct_map_base: u64) {
    let is_fixed = info.command_line().split_ascii_whitespace().any(|word| word == "nokaslr");
    let [image, direct, ..] = if is_fixed { [0; 4] } else { info.seed };
    let slots = (IMAGE_WINDOW - image_len.next_multiple_of(IMAGE_ALIGN)) / IMAGE_ALIGN;
    info.slide = (image % slots) * IMAGE_ALIGN;
    info.kernel_virt = VirtAddr(LINK_BASE + info.slide);
    let room = DIRECT_MAP_WINDOW.saturating_sub(info.memory.top().0 + (1 << 40)) / GIB;
    info.direct_map = VirtAddr(direct_map_base + (direct % room.max(1)) * GIB);
    // What the addresses were made from must not seed anything else.
    for word in &mut info.seed {
        *word = mix(*word ^ 0x5851_f42d_4c95_7f2d);
    }
}

/// A bijection that spreads every input bit over the word (splitmix64).
pub fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The value of the last `mem=` on the command line.
pub fn memory_limit(line: &str) -> Option<u64> {
    let value = line.split_ascii_whitespace().rev().find_map(|w| w.strip_prefix("mem="))?;
    crate::parse_size(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryKind;

    #[test]
    fn addresses_stay_in_their_windows() {
        const BASE: u64 = 0xffff_8880_0000_0000;
        for seed in 0..200 {
            let mut info = BootInfo::new();
            info.memory.add(0x10_0000, 64 << 30, MemoryKind::Usable);
            info.memory.normalise();
            info.seed = [mix(seed), mix(seed + 1000), 0, 0];
            choose(&mut info, 9 << 20, BASE);
            assert!(info.slide.is_multiple_of(IMAGE_ALIGN));
            assert!(info.slide + (9 << 20) <= IMAGE_WINDOW);
            assert!(info.direct_map.0.is_multiple_of(GIB));
            assert!((BASE..BASE + DIRECT_MAP_WINDOW).contains(&info.direct_map.0));
        }
        let mut fixed = BootInfo::new();
        fixed.set_command_line(b"quiet nokaslr mem=1G mem=512M");
        fixed.seed = [7; 4];
        choose(&mut fixed, 9 << 20, BASE);
        assert_eq!((fixed.slide, fixed.direct_map.0), (0, BASE));
        assert_eq!(memory_limit(fixed.command_line()), Some(512 << 20));
    }
}
