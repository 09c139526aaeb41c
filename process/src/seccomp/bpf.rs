//! Classic BPF as seccomp uses it (`seccomp(2)`): what its programs read.

use abi::Result;
use alloc::vec::Vec;
use bpf::{Dialect, Input};

pub use bpf::{Instruction, MAX_LEN, Program};

/// `sizeof(struct seccomp_data)`.
pub const DATA_LEN: u32 = 64;

/// Checks a program of seccomp's.
pub fn check(code: Vec<Instruction>) -> Result<Program> {
    Program::new(code, Dialect::Words(DATA_LEN))
}

/// `struct seccomp_data`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Data {
    /// The system call.
    pub nr: u32,
    /// `AUDIT_ARCH_X86_64`.
    pub arch: u32,
    /// Where it was called.
    pub ip: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        let half = |value: u64, high: bool| if high { (value >> 32) as u32 } else { value as u32 };
        match offset {
            0 => self.nr,
            4 => self.arch,
            8 | 12 => half(self.ip, offset == 12),
            _ => {
                let at = offset.saturating_sub(16);
                let value = self.args.get((at / 8) as usize).copied().unwrap_or(0);
                half(value, at % 8 == 4)
            }
        }
    }
}

impl Input for Data {
    const HAS_FACTS: bool = false;

    fn len(&self) -> u32 {
        DATA_LEN
    }

    #[inline]
    fn load(&self, at: u32, _size: u8) -> Option<u32> {
        // The checker lets aligned words inside pass only.
        Some(self.word(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn i(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    #[test]
    fn filters_by_number() {
        let program = check(vec![
            i(0x20, 0, 0, 0),
            i(0x15, 0, 1, 39),
            i(0x06, 0, 0, 0x0005_0001),
            i(0x06, 0, 0, 0x7fff_0000),
        ])
        .expect("valid");
        assert_eq!(program.run(&Data { nr: 39, ..Data::default() }), 0x0005_0001);
        assert_eq!(program.run(&Data { nr: 40, ..Data::default() }), 0x7fff_0000);
    }

    #[test]
    fn reads_halves_of_arguments() {
        let data = Data { args: [0x1_0000_0002, 0, 0, 0, 0, 9 << 32], ip: 7, ..Data::default() };
        assert_eq!((data.word(16), data.word(20), data.word(60), data.word(8)), (2, 1, 9, 7));
    }
}
