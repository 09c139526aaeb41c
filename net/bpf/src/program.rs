//! Instructions, the checker and the machine (`linux/filter.h`).

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

/// What a program reads.
pub trait Input {
    /// Whether places from `SKF_AD_OFF` on name facts ([`fact`](Self::fact)).
    const HAS_FACTS: bool;
    /// How long it is.
    fn len(&self) -> u32;
    /// Whether it is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// `size` bytes (1, 2 or 4) from a place; `None` beyond the end.
    fn load(&self, at: u32, size: u8) -> Option<u32>;
    /// The fact of a number (`SKF_AD_*` from `SKF_AD_OFF` on); `None` ends the program.
    fn fact(&self, _what: u32, _a: u32, _x: u32) -> Option<u32> {
        None
    }
}

/// Which loads a program may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Of seccomp(2): aligned words of this many bytes.
    Words(u32),
    /// Of sockets: bytes, half words and words of packets, and facts about them.
    Packets,
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
const MODE: u16 = 0xe0;
const ABS: u16 = 0x20;
const IND: u16 = 0x40;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const MSH: u16 = 0xa0;
const X: u16 = 8;
const A: u16 = 0x10;
const MEMWORDS: u32 = 16;

/// `SKF_AD_OFF`: facts begin here.
const FACTS: u32 = -0x1000i32 as u32;
/// `SKF_AD_ALU_XOR_X`, which is an operation and no fact.
const FACT_XOR_X: u32 = 40;
/// The facts there are: every fourth number, and the last one (`SKF_AD_VLAN_TPID`).
const FACT_LAST: u32 = 60;

impl Dialect {
    fn takes_load(self, i: &Instruction) -> bool {
        match (self, i.code) {
            (_, 0x00 | 0x80) => true,
            (_, 0x60) => i.k < MEMWORDS,
            (Dialect::Words(len), 0x20) => i.k < len && i.k.is_multiple_of(4),
            (Dialect::Packets, 0x20 | 0x28 | 0x30) => {
                i.k < FACTS || (i.k - FACTS <= FACT_LAST && (i.k - FACTS).is_multiple_of(4))
            }
            (Dialect::Packets, 0x40 | 0x48 | 0x50) => true,
            _ => false,
        }
    }

    fn takes_load_x(self, i: &Instruction) -> bool {
        match (self, i.code) {
            (_, 0x01 | 0x81) => true,
            (_, 0x61) => i.k < MEMWORDS,
            (Dialect::Packets, 0xb1) => true,
            _ => false,
        }
    }

    fn takes_operation(self, i: &Instruction) -> bool {
        match (i.code & 0xf0, i.code & X) {
            (0x30, 0) => i.k != 0,
            (0x90, 0) => self == Dialect::Packets && i.k != 0,
            (0x90, _) => self == Dialect::Packets,
            (0x60 | 0x70, 0) => i.k < 32,
            (0x00 | 0x10 | 0x20 | 0x30 | 0x40 | 0x50 | 0x60 | 0x70 | 0xa0, _) => true,
            (0x80, 0) => true,
            _ => false,
        }
    }
}

impl Program {
    /// Checks a program: known instructions, jumps forward and inside, memory words written before
    /// they are read, a return at the end.
    pub fn new(code: Vec<Instruction>, dialect: Dialect) -> Result<Program> {
        if code.is_empty() || code.len() > MAX_LEN {
            return Err(Errno::EINVAL);
        }
        for (at, i) in code.iter().enumerate() {
            let rest = code.len() - at - 1;
            let ok = match i.code & 7 {
                _ if i.code & 0xff00 != 0 => false,
                LD => dialect.takes_load(i),
                LDX => dialect.takes_load_x(i),
                ST | STX => i.code <= STX && i.k < MEMWORDS,
                ALU => dialect.takes_operation(i),
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

    /// The instructions, as they were given.
    pub fn code(&self) -> &[Instruction] {
        &self.0
    }

    /// What the program returns for `input`.
    pub fn run<I: Input>(&self, input: &I) -> u32 {
        // A load beyond the end and a division by zero end it with 0.
        self.try_run(input).unwrap_or(0)
    }

    fn try_run<I: Input>(&self, input: &I) -> Option<u32> {
        let (mut a, mut x) = (0u32, 0u32);
        let mut memory = [0u32; MEMWORDS as usize];
        let slot = |k: u32| (k % MEMWORDS) as usize;
        let mut pc = 0usize;
        while let Some(i) = self.0.get(pc) {
            pc += 1;
            let operand = if i.code & X != 0 { x } else { i.k };
            match i.code & 7 {
                LD => {
                    a = match i.code & MODE {
                        ABS if I::HAS_FACTS && i.k >= FACTS => match i.k - FACTS {
                            FACT_XOR_X => a ^ x,
                            what => input.fact(what, a, x)?,
                        },
                        ABS => input.load(i.k, size_of(i.code))?,
                        IND => input.load(x.wrapping_add(i.k), size_of(i.code))?,
                        MEM => memory.get(slot(i.k)).copied().unwrap_or(0),
                        LEN => input.len(),
                        _ => i.k,
                    }
                }
                LDX => {
                    x = match i.code & MODE {
                        MEM => memory.get(slot(i.k)).copied().unwrap_or(0),
                        LEN => input.len(),
                        MSH => (input.load(i.k, 1)? & 0xf) * 4,
                        _ => i.k,
                    }
                }
                ST | STX => {
                    if let Some(cell) = memory.get_mut(slot(i.k)) {
                        *cell = if i.code & 7 == ST { a } else { x };
                    }
                }
                ALU => a = alu(i.code & 0xf0, a, operand)?,
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
                RET => return Some(if i.code & A != 0 { a } else { i.k }),
                MISC => {
                    if i.code & 0x80 != 0 {
                        a = x;
                    } else {
                        x = a;
                    }
                }
                _ => return None,
            }
        }
        None
    }
}

/// Bytes that a load is of.
fn size_of(code: u16) -> u8 {
    match code & 0x18 {
        0x08 => 2,
        0x10 => 1,
        _ => 4,
    }
}

fn alu(op: u16, a: u32, b: u32) -> Option<u32> {
    Some(match op {
        0x00 => a.wrapping_add(b),
        0x10 => a.wrapping_sub(b),
        0x20 => a.wrapping_mul(b),
        0x30 => a.checked_div(b)?,
        0x40 => a | b,
        0x50 => a & b,
        0x60 => a.wrapping_shl(b),
        0x70 => a.wrapping_shr(b),
        0x80 => a.wrapping_neg(),
        0x90 => a.checked_rem(b)?,
        0xa0 => a ^ b,
        _ => return None,
    })
}

/// Every read of a memory word must be preceded by a write on every path. Jumps go forward only,
/// so one pass carries the sets of valid words along.
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
            LD | LDX if i.code & MODE == MEM && valid & bit == 0 => {
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

    struct Plain(&'static [u8]);

    impl Input for Plain {
        const HAS_FACTS: bool = true;
        fn len(&self) -> u32 {
            self.0.len() as u32
        }
        fn load(&self, at: u32, size: u8) -> Option<u32> {
            let at = at as usize;
            let bytes = self.0.get(at..at.checked_add(usize::from(size))?)?;
            Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
        }
        fn fact(&self, what: u32, a: u32, x: u32) -> Option<u32> {
            (what != 0).then_some(what + a + x)
        }
    }

    fn i(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    fn run(code: &[Instruction]) -> u32 {
        let data = &[0x45, 1, 2, 3, 4, 5, 6, 7];
        Program::new(code.to_vec(), Dialect::Packets).expect("valid").run(&Plain(data))
    }

    #[test]
    fn arithmetic_wraps_and_division_by_zero_drops() {
        let of =
            |op: u16, a: u32, b: u32| run(&[i(0, 0, 0, a), i(op | 4, 0, 0, b), i(0x16, 0, 0, 0)]);
        assert_eq!(of(0x00, u32::MAX, 2), 1);
        assert_eq!(of(0x10, 1, 2), u32::MAX);
        assert_eq!(of(0x20, 1 << 31, 2), 0);
        assert_eq!((of(0x30, 17, 5), of(0x90, 17, 5)), (3, 2));
        assert_eq!((of(0x60, 1, 31), of(0x70, 1 << 31, 31)), (1 << 31, 1));
        assert_eq!((of(0x40, 5, 2), of(0x50, 5, 4), of(0xa0, 5, 1)), (7, 4, 4));
        for op in [0x3c, 0x9c] {
            assert_eq!(run(&[i(0, 0, 0, 9), i(op, 0, 0, 0), i(0x06, 0, 0, 7)]), 0);
        }
    }

    #[test]
    fn loads_are_of_network_order_and_end_at_the_end() {
        let load = |code: u16, k: u32| run(&[i(1, 0, 0, 2), i(code, 0, 0, k), i(0x16, 0, 0, 0)]);
        assert_eq!((load(0x20, 1), load(0x28, 1), load(0x30, 1)), (0x0102_0304, 0x0102, 1));
        assert_eq!((load(0x40, 1), load(0x48, u32::MAX), load(0x50, 5)), (0x0304_0506, 0x0102, 7));
        assert_eq!(
            (load(0x20, 4), load(0x20, 5), load(0x30, 8), load(0x50, 6)),
            (0x0405_0607, 0, 0, 0)
        );
        assert_eq!(load(0x80, 0), 8);
        assert_eq!(run(&[i(0xb1, 0, 0, 0), i(0x87, 0, 0, 0), i(0x16, 0, 0, 0)]), 20);
        assert_eq!(run(&[i(0x20, 0, 0, 99), i(0x06, 0, 0, 5)]), 0);
    }

    #[test]
    fn facts_are_asked_for_and_xor_is_computed() {
        let fact = |n: u32| i(0x20, 0, 0, FACTS + n);
        assert_eq!(run(&[i(0, 0, 0, 3), i(1, 0, 0, 5), fact(8), i(0x16, 0, 0, 0)]), 16);
        assert_eq!(run(&[i(0, 0, 0, 3), i(1, 0, 0, 5), fact(40), i(0x16, 0, 0, 0)]), 6);
        assert_eq!(run(&[fact(0), i(0x06, 0, 0, 5)]), 0);
        for bad in [2, 61, 64, 0xfff] {
            assert!(Program::new(vec![fact(bad), i(6, 0, 0, 0)], Dialect::Packets).is_err());
        }
    }

    #[test]
    fn jumps_choose() {
        let of = |op: u16, a: u32| {
            run(&[i(0, 0, 0, a), i(op | 5, 0, 1, 6), i(6, 0, 0, 1), i(6, 0, 0, 2)])
        };
        assert_eq!((of(0x10, 6), of(0x10, 5)), (1, 2));
        assert_eq!((of(0x20, 7), of(0x20, 6)), (1, 2));
        assert_eq!((of(0x30, 6), of(0x30, 5)), (1, 2));
        assert_eq!((of(0x40, 2), of(0x40, 9)), (1, 2));
        assert_eq!(run(&[i(5, 0, 0, 1), i(6, 0, 0, 1), i(6, 0, 0, 2)]), 2);
    }

    #[test]
    fn refuses_bad_programs() {
        for dialect in [Dialect::Packets, Dialect::Words(64)] {
            let is_bad = |code: Vec<Instruction>| Program::new(code, dialect).is_err();
            assert!(is_bad(vec![]));
            assert!(is_bad(vec![i(0x05, 0, 0, 1), i(6, 0, 0, 0)]));
            assert!(is_bad(vec![i(0x15, 0, 1, 1), i(6, 0, 0, 0)]));
            assert!(is_bad(vec![i(0x60, 0, 0, 1), i(6, 0, 0, 0)]));
            assert!(is_bad(vec![i(0x02, 0, 0, 16), i(6, 0, 0, 0)]));
            assert!(is_bad(vec![i(0x00, 0, 0, 1)]));
            assert!(is_bad(vec![i(0x34, 0, 0, 0), i(6, 0, 0, 0)]));
            assert!(is_bad(vec![i(0x64, 0, 0, 32), i(6, 0, 0, 0)]));
            assert!(is_bad(vec![i(0x0e, 0, 0, 0)]));
            assert!(is_bad(vec![i(6, 0, 0, 0); MAX_LEN + 1]));
            assert!(!is_bad(vec![i(6, 0, 0, 0); MAX_LEN]));
            assert!(!is_bad(vec![i(0x02, 0, 0, 3), i(0x60, 0, 0, 3), i(0x16, 0, 0, 0)]));
        }
        for (code, k) in
            [(0x20, 2), (0x20, 64), (0x28, 0), (0x30, 0), (0x40, 0), (0xb1, 0), (0x94, 3)]
        {
            assert!(
                Program::new(vec![i(code, 0, 0, k), i(6, 0, 0, 0)], Dialect::Words(64)).is_err()
            );
            assert!(Program::new(vec![i(code, 0, 0, k), i(6, 0, 0, 0)], Dialect::Packets).is_ok());
        }
    }

    proptest! {
        #[test]
        fn accepted_programs_end(code in prop::collection::vec((any::<u16>(), any::<u8>(), any::<u8>(), any::<u32>()), 1..40)) {
            let mut code: Vec<Instruction> = code.into_iter()
                .map(|(c, t, f, k)| i(c & 0xff, t % 4, f % 4, k % 64)).collect();
            code.push(i(6, 0, 0, 1));
            if let Ok(program) = Program::new(code, Dialect::Packets) { program.run(&Plain(b"abc")); }
        }
    }
}
