//! Hashes of names in hashed directories.
//!
//! The version a directory was made with is in its root block, the seed in the super block. Names
//! made on machines with signed characters hash otherwise than on those with unsigned ones; the
//! super block says which holds for this file system.

/// How a directory hashes names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Legacy,
    HalfMd4,
    Tea,
}

/// A version together with the seed and the kind of characters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hasher {
    pub(crate) version: Version,
    pub(crate) signed: bool,
    pub(crate) seed: [u32; 4],
}

/// The hash that ends the order of a directory; no name has it.
const END: u32 = 0xffff_fffe;
/// MD4's initial state, used where the super block has no seed.
const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// A name's place: `major` orders leaf blocks (its lowest bit is clear), `minor` breaks ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NameHash {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Hasher {
    /// The hasher for a version number as the disk has it (0–2, or 3–5 for unsigned characters).
    pub(crate) fn new(number: u8, unsigned_default: bool, seed: [u32; 4]) -> Option<Hasher> {
        let version = match number % 3 {
            0 => Version::Legacy,
            1 => Version::HalfMd4,
            _ => Version::Tea,
        };
        let seed = if seed == [0; 4] { START } else { seed };
        (number < 6).then_some(Hasher { version, signed: number < 3 && !unsigned_default, seed })
    }

    /// Hashes a name.
    pub(crate) fn hash(&self, name: &[u8]) -> NameHash {
        let (raw, minor) = match self.version {
            Version::Legacy => (self.legacy(name), 0),
            Version::HalfMd4 => {
                let mut state = self.seed;
                self.each_chunk::<8>(name, |words| half_md4(&mut state, words));
                (state[1], state[2])
            }
            Version::Tea => {
                let mut state = self.seed;
                self.each_chunk::<4>(name, |words| tea(&mut state, words));
                (state[0], state[1])
            }
        };
        let major = raw & !1;
        NameHash { major: if major == END { END - 2 } else { major }, minor }
    }

    fn widen(&self, byte: u8) -> u32 {
        if self.signed { i32::from(byte as i8) as u32 } else { byte.into() }
    }

    fn legacy(&self, name: &[u8]) -> u32 {
        let (mut last, mut before) = (0x12a3_fe2d_u32, 0x37ab_e8f9_u32);
        for &byte in name {
            let mixed = last ^ self.widen(byte).wrapping_mul(7_152_373);
            let mut next = before.wrapping_add(mixed);
            if next & 0x8000_0000 != 0 {
                next = next.wrapping_sub(0x7fff_ffff);
            }
            (before, last) = (last, next);
        }
        last << 1
    }

    /// Cuts the name into chunks of `N` big-endian words, padded with its length.
    fn each_chunk<const N: usize>(&self, name: &[u8], mut each: impl FnMut(&[u32; N])) {
        let mut rest = name;
        loop {
            let pad = (rest.len() as u32 & 0xff) * 0x0101_0101;
            let mut words = [pad; N];
            let taken = rest.len().min(N * 4);
            for (word, bytes) in words.iter_mut().zip(rest[..taken].chunks(4)) {
                for &byte in bytes {
                    *word = (*word << 8).wrapping_add(self.widen(byte));
                }
            }
            each(&words);
            rest = &rest[taken..];
            if rest.is_empty() {
                return;
            }
        }
    }
}

/// The first half of MD4: three rounds of eight steps.
fn half_md4(state: &mut [u32; 4], words: &[u32; 8]) {
    const ROUNDS: [([usize; 8], [u32; 4], u32); 3] = [
        ([0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19], 0),
        ([1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13], 0x5a82_7999),
        ([3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15], 0x6ed9_eba1),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (round, (order, shifts, constant)) in ROUNDS.iter().enumerate() {
        for (step, &at) in order.iter().enumerate() {
            let mixed = match round {
                0 => d ^ (b & (c ^ d)),
                1 => (b & c).wrapping_add((b ^ c) & d),
                _ => b ^ c ^ d,
            };
            let sum = a.wrapping_add(mixed).wrapping_add(words[at]).wrapping_add(*constant);
            (a, b, c, d) = (d, sum.rotate_left(shifts[step % 4]), b, c);
        }
    }
    for (old, new) in state.iter_mut().zip([a, b, c, d]) {
        *old = old.wrapping_add(new);
    }
}

/// Sixteen rounds of the Tiny Encryption Algorithm keyed by the words.
fn tea(state: &mut [u32; 4], key: &[u32; 4]) {
    let (mut x, mut y, mut sum) = (state[0], state[1], 0u32);
    let mix = |v: u32, sum: u32, a: u32, b: u32| {
        (v << 4).wrapping_add(a) ^ v.wrapping_add(sum) ^ (v >> 5).wrapping_add(b)
    };
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9e37_79b9);
        x = x.wrapping_add(mix(y, sum, key[0], key[1]));
        y = y.wrapping_add(mix(x, sum, key[2], key[3]));
    }
    state[0] = state[0].wrapping_add(x);
    state[1] = state[1].wrapping_add(y);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `debugfs -R 'dx_hash …'` is the reference.
    fn reference(algorithm: &str, seed: &str, name: &str) -> (u32, u32) {
        let request = format!("dx_hash -h {algorithm} -s {seed} {name}");
        let output =
            std::process::Command::new("debugfs").args(["-R", &request]).output().unwrap().stdout;
        let text = String::from_utf8(output).unwrap();
        let number = |word: &str| {
            let digits = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
            u32::from_str_radix(digits.trim_start_matches("0x"), 16).unwrap()
        };
        let words: Vec<&str> = text.split_whitespace().filter(|w| w.starts_with("0x")).collect();
        (number(words[0]), number(words[1]))
    }

    #[test]
    fn names_hash_as_debugfs_says() {
        let seed_text = "01234567-89ab-cdef-0011-223344556677";
        let bytes: Vec<u8> = seed_text
            .replace('-', "")
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let mut seed = [0; 4];
        for (word, bytes) in seed.iter_mut().zip(bytes.chunks(4)) {
            *word = u32::from_le_bytes(bytes.try_into().unwrap());
        }
        for (number, algorithm) in [(0, "legacy"), (1, "half_md4"), (2, "tea")] {
            for name in ["a", "abcd", "file-17", "naïve-ünïcode", &"long-name".repeat(20)] {
                let hasher = Hasher::new(number, false, seed).unwrap();
                let hash = hasher.hash(name.as_bytes());
                let wanted = reference(algorithm, seed_text, name);
                assert_eq!((hash.major, hash.minor), wanted, "{algorithm} {name}");
            }
        }
    }
}
