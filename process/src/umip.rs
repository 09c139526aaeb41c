//! `sgdt`, `sidt`, `smsw`, `sldt` and `str` of programs.
//!
//! They would tell where the kernel's tables lie, so the processor refuses them (UMIP, SDM vol. 3A
//! 2.5) and some old programs would end. As on Linux they go on with made-up answers: tables at the
//! two addresses below, of no length, and the selectors and CR0 that every machine has. Programs of
//! 32-bit segments are not helped.

use arch::trap::{TrapFrame, USER_CS};

/// What `sgdt` and `sidt` tell.
const GDT_BASE: u64 = 0xffff_ffff_fffe_0000;
const IDT_BASE: u64 = 0xffff_ffff_ffff_0000;
/// CR0: paging, alignment checks, write protection, numeric errors, extension type, coprocessor, and
/// protection.
const CR0: u64 = 0x8005_0033;
/// The selector of the processor's task state.
const TSS_SELECTOR: u64 = 0x40;
/// The longest instruction.
pub(crate) const MAX_LEN: usize = 15;

/// What is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A table's limit, which is 0, and its base.
    Table(u64),
    /// A word: two bytes in memory, as many as the operand has in a register.
    Word(u64),
}

/// Where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A register by its number, and how many bytes of it.
    Register(u8, u8),
    /// An address.
    Memory(u64),
}

/// One of the five instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) value: Value,
    pub(crate) place: Place,
    /// Bytes of the instruction.
    pub(crate) len: u8,
}

impl Value {
    /// As it lies in memory, and how many bytes of it.
    pub(crate) fn bytes(self) -> ([u8; 10], usize) {
        let mut bytes = [0; 10];
        match self {
            Value::Table(base) => {
                if let Some(at) = bytes.get_mut(2..) {
                    at.copy_from_slice(&base.to_le_bytes());
                }
                (bytes, 10)
            }
            Value::Word(word) => {
                let [low, high, ..] = word.to_le_bytes();
                [bytes[0], bytes[1]] = [low, high];
                (bytes, 2)
            }
        }
    }
}

/// Reads bytes one after the other.
struct Code<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Code<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }
    /// A displacement of one byte or four, its sign extended.
    fn displacement(&mut self, is_short: bool) -> Option<u64> {
        if is_short {
            return Some(self.next()? as i8 as u64);
        }
        let bytes = [self.next()?, self.next()?, self.next()?, self.next()?];
        Some(i32::from_le_bytes(bytes) as u64)
    }
}

/// The prefixes that matter.
#[derive(Default)]
struct Prefixes {
    short_operand: bool,
    short_address: bool,
    segment_base: u64,
    rex: u8,
}

impl Prefixes {
    fn read(code: &mut Code<'_>, fs_base: u64, gs_base: u64) -> Option<Prefixes> {
        let mut found = Prefixes::default();
        loop {
            match code.peek()? {
                0x66 => found.short_operand = true,
                0x67 => found.short_address = true,
                0x64 => found.segment_base = fs_base,
                0x65 => found.segment_base = gs_base,
                // Segments that start at 0, and prefixes without a meaning here.
                0x26 | 0x2e | 0x36 | 0x3e | 0xf2 | 0xf3 => {}
                rex @ 0x40..=0x4f => {
                    found.rex = rex;
                    code.next()?;
                    return Some(found);
                }
                _ => return Some(found),
            }
            code.next()?;
        }
    }
    /// A register's number from the three bits in an instruction and REX's bit `of`.
    fn register(&self, low: u8, of: u8) -> u8 {
        low & 7 | (self.rex >> of & 1) << 3
    }
}

/// Decodes the instruction that starts `bytes`. SDM vol. 2A 2.1.
pub(crate) fn decode(
    bytes: &[u8],
    frame: &TrapFrame,
    (fs_base, gs_base): (u64, u64),
) -> Option<Store> {
    if frame.cs != USER_CS {
        return None;
    }
    let mut code = Code { bytes, at: 0 };
    let prefixes = Prefixes::read(&mut code, fs_base, gs_base)?;
    if code.next()? != 0x0f {
        return None;
    }
    let group = code.next()?;
    let modrm = code.next()?;
    let value = match (group, modrm >> 3 & 7) {
        (0, 0) => Value::Word(0),
        (0, 1) => Value::Word(TSS_SELECTOR),
        (1, 0) => Value::Table(GDT_BASE),
        (1, 1) => Value::Table(IDT_BASE),
        (1, 4) => Value::Word(CR0),
        _ => return None,
    };
    let place = if modrm >> 6 == 3 {
        if matches!(value, Value::Table(_)) {
            return None;
        }
        let wide = prefixes.rex & 8 != 0;
        let len = if wide {
            8
        } else if prefixes.short_operand {
            2
        } else {
            4
        };
        Place::Register(prefixes.register(modrm, 0), len)
    } else {
        let offset = address(&mut code, modrm, &prefixes, frame)?;
        Place::Memory(offset.wrapping_add(prefixes.segment_base))
    };
    Some(Store { value, place, len: u8::try_from(code.at).ok()? })
}

/// The offset that a ModR/M byte with what follows it means.
fn address(code: &mut Code<'_>, modrm: u8, prefixes: &Prefixes, frame: &TrapFrame) -> Option<u64> {
    let mode = modrm >> 6;
    let mut frame = *frame;
    let mut register = |number| register(&mut frame, number).map(|word| *word);
    let mut by_instruction = false;
    let sum = if modrm & 7 == 4 {
        let sib = code.next()?;
        let index = prefixes.register(sib >> 3, 1);
        let scaled = if index == 4 { 0 } else { register(index)? << (sib >> 6) };
        // Without a displacement this base means four bytes of it alone.
        if sib & 7 == 5 && mode == 0 {
            scaled.wrapping_add(code.displacement(false)?)
        } else {
            scaled.wrapping_add(register(prefixes.register(sib, 0))?)
        }
    } else if modrm & 7 == 5 && mode == 0 {
        by_instruction = true;
        code.displacement(false)?
    } else {
        register(prefixes.register(modrm, 0))?
    };
    let mut sum = match mode {
        0 => sum,
        _ => sum.wrapping_add(code.displacement(mode == 1)?),
    };
    if by_instruction {
        sum = sum.wrapping_add(frame.rip).wrapping_add(code.at as u64);
    }
    Some(if prefixes.short_address { sum & 0xffff_ffff } else { sum })
}

/// The register with this number in instructions.
fn register(frame: &mut TrapFrame, number: u8) -> Option<&mut u64> {
    Some(match number {
        0 => &mut frame.rax,
        1 => &mut frame.rcx,
        2 => &mut frame.rdx,
        3 => &mut frame.rbx,
        4 => &mut frame.rsp,
        5 => &mut frame.rbp,
        6 => &mut frame.rsi,
        7 => &mut frame.rdi,
        8 => &mut frame.r8,
        9 => &mut frame.r9,
        10 => &mut frame.r10,
        11 => &mut frame.r11,
        12 => &mut frame.r12,
        13 => &mut frame.r13,
        14 => &mut frame.r14,
        15 => &mut frame.r15,
        _ => return None,
    })
}

/// Stores `value` in the lowest `len` bytes of a register; as on Linux the rest stays as it is, even
/// with four bytes.
pub(crate) fn set_register(frame: &mut TrapFrame, number: u8, len: u8, value: u64) {
    let Some(word) = register(frame, number) else { return };
    *word = match len {
        2 => *word & !0xffff | value & 0xffff,
        4 => *word & !0xffff_ffff | value & 0xffff_ffff,
        _ => value,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> TrapFrame {
        TrapFrame {
            cs: USER_CS,
            rip: 0x40_0000,
            rax: 0x1000,
            rbx: 0x20,
            rsp: 0x7000,
            rbp: 0x5000,
            r12: 0x9000,
            r13: 0xa000,
            ..TrapFrame::default()
        }
    }

    fn decoded(bytes: &[u8]) -> Option<Store> {
        decode(bytes, &frame(), (0xf000_0000, 0xe000_0000))
    }

    fn at(bytes: &[u8]) -> u64 {
        let store = decoded(bytes).expect("one of the five");
        assert_eq!(usize::from(store.len), bytes.len());
        match store.place {
            Place::Memory(at) => at,
            place => panic!("{place:?}"),
        }
    }

    #[test]
    fn addresses_in_memory() {
        assert_eq!(at(&[0x0f, 0x01, 0x00]), 0x1000); // sgdt [rax]
        assert_eq!(at(&[0x0f, 0x01, 0x04, 0x24]), 0x7000); // sgdt [rsp]
        assert_eq!(at(&[0x0f, 0x01, 0x44, 0x98, 0xfc]), 0x107c); // sgdt [rax + 4*rbx - 4]
        assert_eq!(at(&[0x41, 0x0f, 0x01, 0x04, 0x24]), 0x9000); // sgdt [r12]
        assert_eq!(at(&[0x41, 0x0f, 0x01, 0x45, 0x08]), 0xa008); // sgdt [r13 + 8]
        assert_eq!(at(&[0x0f, 0x01, 0x05, 0, 1, 0, 0]), 0x40_0107); // sgdt [rip + 0x100]
        assert_eq!(at(&[0x0f, 0x01, 0x04, 0x25, 0x78, 0x56, 0x34, 0x12]), 0x1234_5678); // sgdt [0x12345678]
        assert_eq!(at(&[0x64, 0x0f, 0x01, 0x48, 0x10]), 0xf000_1010); // sidt fs:[rax + 16]
        assert_eq!(at(&[0x65, 0x0f, 0x01, 0xa0, 0, 0, 0, 0x80]), 0xe000_1000 - 0x8000_0000); // smsw gs:[rax - 0x80000000]
        assert_eq!(at(&[0x67, 0x0f, 0x01, 0x80, 0xff, 0xff, 0xff, 0xff]), 0xfff); // sgdt [eax - 1]
    }

    #[test]
    fn registers_of_every_size() {
        let of = |bytes: &[u8]| decoded(bytes).expect("one of the five").place;
        assert_eq!(of(&[0x0f, 0x01, 0xe0]), Place::Register(0, 4)); // smsw eax
        assert_eq!(of(&[0x66, 0x0f, 0x01, 0xe3]), Place::Register(3, 2)); // smsw bx
        assert_eq!(of(&[0x49, 0x0f, 0x00, 0xc9]), Place::Register(9, 8)); // str r9
        let mut frame = frame();
        frame.rax = u64::MAX;
        set_register(&mut frame, 0, 2, 0x40);
        assert_eq!(frame.rax, 0xffff_ffff_ffff_0040);
        set_register(&mut frame, 0, 4, CR0);
        assert_eq!(frame.rax, 0xffff_ffff_8005_0033);
        set_register(&mut frame, 0, 8, CR0);
        assert_eq!(frame.rax, CR0);
    }

    #[test]
    fn values() {
        let (bytes, len) = Value::Table(GDT_BASE).bytes();
        assert_eq!((bytes, len), ([0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff], 10));
        let (bytes, len) = Value::Word(CR0).bytes();
        assert_eq!((&bytes[..len], len), (&[0x33, 0x00][..], 2));
    }

    #[test]
    fn everything_else_is_refused() {
        assert_eq!(decoded(&[0xf4]), None); // hlt
        assert_eq!(decoded(&[0x0f, 0x01, 0xd0]), None); // xgetbv
        assert_eq!(decoded(&[0x0f, 0x01, 0x10]), None); // lgdt [rax]
        assert_eq!(decoded(&[0x0f, 0x00, 0xd8]), None); // ltr ax
        assert_eq!(decoded(&[0x0f, 0x01]), None);
        assert_eq!(decoded(&[0x66; 15]), None);
        let elsewhere = TrapFrame { cs: 0x23, ..frame() };
        assert_eq!(decode(&[0x0f, 0x01, 0xe0], &elsewhere, (0, 0)), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(0u8.., 0..16)) {
            let _ = decoded(&bytes);
        }
    }
}
