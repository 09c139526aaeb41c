//! Classic BPF as seccomp uses it: the checker and the interpreter (`seccomp(2)`,
//! `linux/filter.h`).

use abi::{Errno, Result};
use alloc::vec::Vec;

/// One instruction (`struct sock_filter`).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
#[expect(missing_docs, reason = "the names of linux/filter.h")]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// The longest program.
pub const MAX_LEN: usize = 4096;
/// `sizeof(struct seccomp_data)`.
pub const DATA_LEN: u32 = 64;

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

/// A checked program.
pub struct Program(Vec<Instruction>);

const LD: u16 = 0;
const LDX: u16 = 1;
const ST: u16 = 2;
const STX: u16 = 3;
const ALU: u16 = 4;
const JMP: u16 = 5;
const RET: u16 = 6;
const MISC: u16 = 7;
const IMM: u16 = 0;
const ABS: u16 = 0x20;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const X: u16 = 8;
const A: u16 = 0x10;
const MEMWORDS: u32 = 16;

impl Program {
    /// Checks a program: known instructions, jumps forward and inside, memory slots written before
    /// they are read, a return at the end.
    pub fn new(code: Vec<Instruction>) -> Result<Program> {
        if code.is_empty() || code.len() > MAX_LEN {
            return Err(Errno::EINVAL);
        }
        for (at, i) in code.iter().enumerate() {
            let rest = code.len() - at - 1;
            let ok = match i.code & 7 {
                LD => match i.code {
                    0x20 => i.k < DATA_LEN && i.k % 4 == 0,
                    0x00 | 0x80 => true,
                    0x60 => i.k < MEMWORDS,
                    _ => false,
                },
                LDX => match i.code {
                    0x01 | 0x81 => true,
                    0x61 => i.k < MEMWORDS,
                    _ => false,
                },
                ST | STX => i.code <= STX && i.k < MEMWORDS,
                _ if i.code & 0xff00 != 0 => false,
                ALU => match (i.code & 0xf0, i.code & X) {
                    (0x30, 0) => i.k != 0,
                    (0x60 | 0x70, 0) => i.k < 32,
                    (0x00 | 0x10 | 0x20 | 0x30 | 0x40 | 0x50 | 0x60 | 0x70 | 0xa0, _) => true,
                    (0x80, 0) => true,
                    _ => false,
                },
                JMP => match i.code & 0xf0 {
                    0x00 => i.code == JMP && (i.k as usize) < rest,
                    0x10 | 0x20 | 0x30 | 0x40 => {
                        usize::from(i.jt) < rest && usize::from(i.jf) < rest
                    }
                    _ => false,
                },
                RET => matches!(i.code, 0x06 | 0x16),
                _ => matches!(i.code, 0x07 | 0x87),
            };
            if !ok {
                return Err(Errno::EINVAL);
            }
        }
        if code.last().is_none_or(|i| i.code & 7 != RET) {
            return Err(Errno::EINVAL);
        }
        check_memory(&code)?;
        Ok(Program(code))
    }

    /// How many instructions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never true: a program has an instruction.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the program returns for `data`.
    pub fn run(&self, data: &Data) -> u32 {
        let (mut a, mut x) = (0u32, 0u32);
        let mut memory = [0u32; MEMWORDS as usize];
        let slot = |k: u32| (k % MEMWORDS) as usize;
        let mut pc = 0usize;
        while let Some(i) = self.0.get(pc) {
            pc += 1;
            let operand = if i.code & X != 0 { x } else { i.k };
            match i.code & 7 {
                LD => {
                    a = match i.code & 0xe0 {
                        ABS => data.word(i.k),
                        MEM => memory.get(slot(i.k)).copied().unwrap_or(0),
                        LEN => DATA_LEN,
                        _ => i.k,
                    }
                }
                LDX => {
                    x = match i.code & 0xe0 {
                        MEM => memory.get(slot(i.k)).copied().unwrap_or(0),
                        LEN => DATA_LEN,
                        IMM => i.k,
                        _ => i.k,
                    }
                }
                ST | STX => {
                    if let Some(cell) = memory.get_mut(slot(i.k)) {
                        *cell = if i.code & 7 == ST { a } else { x };
                    }
                }
                ALU => match alu(i.code & 0xf0, a, operand) {
                    Some(value) => a = value,
                    None => return 0,
                },
                JMP => {
                    let taken = match i.code & 0xf0 {
                        0x00 => {
                            pc += i.k as usize;
                            continue;
                        }
                        0x10 => a == operand,
                        0x20 => a > operand,
                        0x30 => a >= operand,
                        _ => a & operand != 0,
                    };
                    pc += usize::from(if taken { i.jt } else { i.jf });
                }
                RET => return if i.code & A != 0 { a } else { i.k },
                MISC => {
                    if i.code & 0x80 != 0 {
                        a = x;
                    } else {
                        x = a;
                    }
                }
                _ => return 0,
            }
        }
        0
    }
}

fn alu(op: u16, a: u32, b: u32) -> Option<u32> {
    Some(match op {
        0x00 => a.wrapping_add(b),
        0x10 => a.wrapping_sub(b),
        0x20 => a.wrapping_mul(b),
        // Division by a zero X ends the program with 0.
        0x30 => a.checked_div(b)?,
        0x40 => a | b,
        0x50 => a & b,
        0x60 => a.wrapping_shl(b),
        0x70 => a.wrapping_shr(b),
        0x80 => a.wrapping_neg(),
        0xa0 => a ^ b,
        _ => return None,
    })
}

/// Every read of a memory slot must be preceded by a write on every path. Jumps go forward only,
/// so one pass carries the sets of valid slots along.
fn check_memory(code: &[Instruction]) -> Result<()> {
    let mut valid_at: Vec<u16> = Vec::new();
    valid_at.try_reserve_exact(code.len()).map_err(|_| Errno::ENOMEM)?;
    valid_at.resize(code.len(), !0);
    let mut valid: u16 = 0;
    for (at, i) in code.iter().enumerate() {
        valid &= valid_at.get(at).copied().unwrap_or(0);
        let bit = 1u16 << (i.k % MEMWORDS);
        let mut meet = |target: usize, valid: u16| {
            if let Some(slot) = valid_at.get_mut(target) {
                *slot &= valid;
            }
        };
        match i.code & 7 {
            ST | STX => valid |= bit,
            LD | LDX if i.code & 0xe0 == MEM && valid & bit == 0 => {
                return Err(Errno::EINVAL);
            }
            JMP if i.code & 0xf0 == 0 => {
                meet(at + 1 + i.k as usize, valid);
                valid = !0;
            }
            JMP => {
                meet(at + 1 + usize::from(i.jt), valid);
                meet(at + 1 + usize::from(i.jf), valid);
                valid = !0;
            }
            RET => valid = !0,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn i(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    #[test]
    fn filters_by_number() {
        let program = Program::new(vec![
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
    fn refuses_bad_programs() {
        assert!(Program::new(vec![]).is_err());
        assert!(Program::new(vec![i(0x20, 0, 0, 2), i(6, 0, 0, 0)]).is_err());
        assert!(Program::new(vec![i(0x05, 0, 0, 1), i(6, 0, 0, 0)]).is_err());
        assert!(Program::new(vec![i(0x60, 0, 0, 1), i(6, 0, 0, 0)]).is_err());
        assert!(Program::new(vec![i(0x00, 0, 0, 1)]).is_err());
        assert!(Program::new(vec![i(0x34, 0, 0, 0), i(6, 0, 0, 0)]).is_err());
        assert!(Program::new(vec![i(0x02, 0, 0, 3), i(0x60, 0, 0, 3), i(0x16, 0, 0, 0)]).is_ok());
    }

    #[test]
    fn reads_halves_of_arguments() {
        let data = Data { args: [0x1_0000_0002, 0, 0, 0, 0, 9 << 32], ip: 7, ..Data::default() };
        assert_eq!((data.word(16), data.word(20), data.word(60), data.word(8)), (2, 1, 9, 7));
    }

    proptest! {
        #[test]
        fn accepted_programs_end(code in prop::collection::vec((any::<u16>(), any::<u8>(), any::<u8>(), any::<u32>()), 1..40)) {
            let mut code: Vec<Instruction> = code.into_iter()
                .map(|(c, t, f, k)| i(c & 0xff, t % 4, f % 4, k % 64)).collect();
            code.push(i(6, 0, 0, 1));
            if let Ok(program) = Program::new(code) { program.run(&Data::default()); }
        }
    }
}
