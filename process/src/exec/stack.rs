//! The initial stack of a program (System V ABI, x86_64, "Process initialization"): argument count,
//! argument and environment pointers, auxiliary vector, and the strings they point to.

use super::args::Strings;
use abi::{Errno, Result};
use alloc::vec::Vec;

/// `AT_PLATFORM`.
const PLATFORM: &[u8] = b"x86_64\0";

/// What goes on the stack.
pub(crate) struct Contents<'a> {
    pub(crate) argv: &'a Strings,
    pub(crate) envp: &'a Strings,
    /// `AT_EXECFN`.
    pub(crate) filename: &'a [u8],
    /// `AT_RANDOM`.
    pub(crate) random: [u8; 16],
    /// Pairs that do not depend on the stack.
    pub(crate) auxv: &'a [(u64, u64)],
    /// Up to 8 KiB of random space below the strings (ASLR).
    pub(crate) gap: u64,
}

/// The finished image: `bytes` end at the top of the stack.
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    /// The initial stack pointer.
    pub(crate) sp: u64,
    pub(crate) arg_start: u64,
    pub(crate) arg_end: u64,
    pub(crate) env_start: u64,
    pub(crate) env_end: u64,
    pub(crate) auxv: Vec<u64>,
}

/// Lays out the stack below `top`.
pub(crate) fn build(top: u64, contents: &Contents<'_>) -> Result<Image> {
    use abi::process::auxv;
    let Contents { argv, envp, filename, random, auxv: fixed, gap } = contents;
    // From the top: a null word, the file name, the environment, the arguments.
    let execfn = top - 8 - filename.len() as u64 - 1;
    let env_start = execfn - envp.bytes.len() as u64;
    let arg_start = env_start - argv.bytes.len() as u64;
    let platform = ((arg_start & !15) - gap - PLATFORM.len() as u64) & !15;
    let random_at = platform - 16;
    let mut aux: Vec<u64> = Vec::new();
    for &(kind, value) in *fixed {
        aux.extend([kind, value]);
    }
    aux.extend([auxv::RANDOM, random_at, auxv::EXECFN, execfn, auxv::PLATFORM, platform]);
    aux.extend([auxv::NULL, 0]);
    let words = 1 + argv.len() + 1 + envp.len() + 1 + aux.len();
    let sp = (random_at - words as u64 * 8) & !15;

    let len = usize::try_from(top - sp).map_err(|_| Errno::E2BIG)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    let pointers = |strings: &Strings, base: u64, out: &mut Vec<u8>| {
        for &start in &strings.starts {
            out.extend_from_slice(&(base + u64::from(start)).to_le_bytes());
        }
        out.extend_from_slice(&0u64.to_le_bytes());
    };
    bytes.extend_from_slice(&(argv.len() as u64).to_le_bytes());
    pointers(argv, arg_start, &mut bytes);
    pointers(envp, env_start, &mut bytes);
    for word in &aux {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.resize((random_at - sp) as usize, 0);
    bytes.extend_from_slice(random);
    bytes.extend_from_slice(PLATFORM);
    bytes.resize((arg_start - sp) as usize, 0);
    bytes.extend_from_slice(&argv.bytes);
    bytes.extend_from_slice(&envp.bytes);
    bytes.extend_from_slice(filename);
    bytes.resize(len, 0);
    Ok(Image { bytes, sp, arg_start, arg_end: env_start, env_start, env_end: execfn, auxv: aux })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(image: &Image, at: u64) -> u64 {
        let offset = (at - image.sp) as usize;
        u64::from_le_bytes(image.bytes[offset..offset + 8].try_into().expect("8 bytes"))
    }

    fn string(image: &Image, at: u64) -> &[u8] {
        let rest = &image.bytes[(at - image.sp) as usize..];
        &rest[..rest.iter().position(|&b| b == 0).expect("NUL")]
    }

    #[test]
    fn a_program_finds_everything() {
        let mut argv = Strings::new();
        argv.push(b"prog").expect("fits");
        argv.push(b"x").expect("fits");
        let mut envp = Strings::new();
        envp.push(b"A=1").expect("fits");
        let top = 0x7fff_0000_1000;
        let image = build(
            top,
            &Contents {
                argv: &argv,
                envp: &envp,
                filename: b"/bin/prog",
                random: [7; 16],
                auxv: &[(6, 4096)],
                gap: 48,
            },
        )
        .expect("fits");
        assert_eq!(image.sp % 16, 0);
        assert_eq!(image.sp + image.bytes.len() as u64, top);
        assert_eq!(word(&image, image.sp), 2);
        assert_eq!(string(&image, word(&image, image.sp + 8)), b"prog");
        assert_eq!(string(&image, word(&image, image.sp + 16)), b"x");
        assert_eq!(word(&image, image.sp + 24), 0);
        assert_eq!(string(&image, word(&image, image.sp + 32)), b"A=1");
        assert_eq!(word(&image, image.sp + 40), 0);
        let aux: Vec<(u64, u64)> = (0..)
            .map(|i| (word(&image, image.sp + 48 + i * 16), word(&image, image.sp + 56 + i * 16)))
            .take_while(|&(kind, _)| kind != 0)
            .collect();
        let find = |kind| aux.iter().find(|a| a.0 == kind).expect("present").1;
        assert_eq!(find(6), 4096);
        assert_eq!(string(&image, find(31)), b"/bin/prog");
        assert_eq!(string(&image, find(15)), b"x86_64");
        assert_eq!(word(&image, find(25)), 0x0707_0707_0707_0707);
        assert_eq!(image.arg_end, image.env_start);
    }
}
