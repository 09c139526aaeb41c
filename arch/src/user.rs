//! Access to user memory.
//!
//! A user pointer is a [`VirtAddr`]; nothing here trusts it. The range is checked against
//! [`USER_END`](crate::USER_END), the page-fault handler is asked for missing pages, and a page that
//! stays missing ends in [`Fault`], never in a kernel fault. The `_nofault` forms do not ask: they run
//! with preemption off and stop at the first missing page. So does any access made in atomic context.

pub use machine::user::*;

use crate::addr::{PAGE_SIZE, VirtAddr};
use alloc::vec::Vec;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Copies what is present, without faulting pages in; the bytes done.
pub fn copy_from_user_nofault(to: &mut [u8], from: VirtAddr) -> usize {
    let _atomic = crate::preempt::disable();
    copy_from_user_partial(to, from)
}

/// Copies to what is present and writable, without faulting pages in; the bytes done.
pub fn copy_to_user_nofault(to: VirtAddr, from: &[u8]) -> usize {
    let _atomic = crate::preempt::disable();
    copy_to_user_partial(to, from)
}

/// Writes zeros.
pub fn clear_user(to: VirtAddr, len: usize) -> Result<(), Fault> {
    if clear_user_partial(to, len) == len { Ok(()) } else { Err(Fault) }
}

/// Writes a value of plain data.
#[inline]
pub fn write_val<T: IntoBytes + Immutable + ?Sized>(to: VirtAddr, value: &T) -> Result<(), Fault> {
    copy_to_user(to, value.as_bytes())
}

/// Reads `count` values; the caller bounds `count`.
pub fn read_slice<T: FromBytes + IntoBytes + Clone>(
    from: VirtAddr,
    count: usize,
) -> Result<Vec<T>, Fault> {
    let mut values = alloc::vec![T::new_zeroed(); count];
    copy_from_user(values.as_mut_slice().as_mut_bytes(), from)?;
    Ok(values)
}

/// Why a string could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StrError {
    /// It runs into memory that cannot be accessed.
    Fault,
    /// There is no NUL within the limit.
    TooLong,
}

/// Reads a NUL-terminated string of fewer than `limit` bytes into `buffer`, which must have room
/// for them; the length without the NUL.
pub fn read_cstr_into(buffer: &mut [u8], from: VirtAddr) -> Result<usize, StrError> {
    let mut done = 0;
    while done < buffer.len() {
        let at = from.wrapping_add(done as u64);
        // Never past a page that may be the last one: the string may end right before a hole.
        let chunk = (PAGE_SIZE - at.page_offset()).min(buffer.len() - done).min(256);
        let part = &mut buffer[done..done + chunk];
        let got = copy_from_user_partial(part, at);
        if let Some(end) = find_nul(&part[..got]) {
            return Ok(done + end);
        }
        if got < chunk {
            return Err(StrError::Fault);
        }
        done += chunk;
    }
    Err(StrError::TooLong)
}

/// Reads a NUL-terminated string of fewer than `limit` bytes, without the NUL.
pub fn read_cstr(from: VirtAddr, limit: usize) -> Result<Vec<u8>, StrError> {
    let mut bytes = Vec::new();
    let mut room = [0u8; 256];
    loop {
        let want = room.len().min(limit - bytes.len());
        let at = from.wrapping_add(bytes.len() as u64);
        match read_cstr_into(&mut room[..want], at) {
            Ok(len) => {
                bytes.extend_from_slice(&room[..len]);
                return Ok(bytes);
            }
            Err(StrError::Fault) => return Err(StrError::Fault),
            Err(StrError::TooLong) => bytes.extend_from_slice(&room[..want]),
        }
        if bytes.len() >= limit {
            return Err(StrError::TooLong);
        }
    }
}

/// The position of the first NUL, eight bytes at a time.
pub fn find_nul(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let (words, _) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let zeros = word.wrapping_sub(ONES) & !word & HIGHS;
        if zeros != 0 {
            return Some(index * 8 + zeros.trailing_zeros() as usize / 8);
        }
    }
    let tail = words.len() * 8;
    bytes[tail..].iter().position(|byte| *byte == 0).map(|at| tail + at)
}

/// Loads an aligned word in one access if its page is present.
pub fn load_u32_nofault(from: VirtAddr) -> Result<u32, Fault> {
    let _atomic = crate::preempt::disable();
    load_u32(from)
}

/// Compares and exchanges atomically if the page is present and writable.
pub fn cmpxchg_u32_nofault(at: VirtAddr, old: u32, new: u32) -> Result<u32, Fault> {
    let _atomic = crate::preempt::disable();
    cmpxchg_u32(at, old, new)
}

/// An atomic change of a word, as `FUTEX_WAKE_OP` has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WordOp {
    /// Sets it.
    Set,
    /// Adds.
    Add,
    /// Sets bits.
    Or,
    /// Clears bits.
    AndNot,
    /// Flips bits.
    Xor,
}

/// Changes an aligned word atomically; the word that was there.
pub fn fetch_op_u32(at: VirtAddr, op: WordOp, operand: u32) -> Result<u32, Fault> {
    let mut seen = load_u32(at)?;
    loop {
        let new = match op {
            WordOp::Set => operand,
            WordOp::Add => seen.wrapping_add(operand),
            WordOp::Or => seen | operand,
            WordOp::AndNot => seen & !operand,
            WordOp::Xor => seen ^ operand,
        };
        let found = cmpxchg_u32(at, seen, new)?;
        if found == seen {
            return Ok(seen);
        }
        seen = found;
    }
}

/// Brings pages in by reading a byte of each; the bytes from `from` that are accessible then.
pub fn fault_in_readable(from: VirtAddr, len: usize) -> usize {
    touch(from, len, |at| {
        let mut byte = [0u8];
        copy_from_user(&mut byte, at)
    })
}

/// Brings pages in for writing without changing them; the bytes accessible then.
pub fn fault_in_writable(to: VirtAddr, len: usize) -> usize {
    touch(to, len, |at| {
        let word = at.align_down(4);
        // Exchanging a zero for a zero writes only where nothing changes.
        cmpxchg_u32(word, 0, 0).map(drop)
    })
}

fn touch(start: VirtAddr, len: usize, access: impl Fn(VirtAddr) -> Result<(), Fault>) -> usize {
    let mut done = 0;
    while done < len {
        let at = start.wrapping_add(done as u64);
        if access(at).is_err() {
            return done;
        }
        done += (PAGE_SIZE - at.page_offset()).min(len - done);
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::UserBuffer;

    #[test]
    fn copies_and_faults() {
        let user = UserBuffer::new(8192);
        copy_to_user(user.addr(), b"hello\0").unwrap();
        assert_eq!(read_cstr(user.addr(), 10).unwrap(), b"hello");
        assert_eq!(read_cstr(user.addr(), 5), Err(StrError::TooLong));
        assert_eq!(copy_to_user(VirtAddr(16), b"x"), Err(Fault));
        assert_eq!(copy_to_user(VirtAddr(u64::MAX - 1), b"xyz"), Err(Fault));
        let mut bytes = [0; 32];
        assert_eq!(copy_from_user_partial(&mut bytes, user.addr() + 8180u64), 12);
        let tail = user.addr() + 8190u64;
        copy_to_user(tail, b"ab").unwrap();
        assert_eq!(read_cstr(tail, 100), Err(StrError::Fault));
        assert_eq!(fault_in_writable(user.addr() + 4000u64, 8192), 4192);
    }

    #[test]
    fn words_change_atomically() {
        let user = UserBuffer::new(4096);
        write_val(user.addr(), &5u32).unwrap();
        assert_eq!(cmpxchg_u32(user.addr(), 5, 9), Ok(5));
        assert_eq!(fetch_op_u32(user.addr(), WordOp::Or, 6), Ok(9));
        assert_eq!(load_u32(user.addr()), Ok(15));
        assert_eq!(load_u32(user.addr() + 1u64), Err(Fault));
        assert_eq!(read_val::<u64>(user.addr()), Ok(15));
        assert_eq!(scatter_u16(user.addr() + 3u64, &[0x1234, 0x5678]), Ok(()));
        assert_eq!(read_val::<u64>(user.addr()), Ok(15 | 0x1234 << 24));
        assert_eq!(read_val::<u64>(user.addr() + 8u64), Ok(0x5678 << 24));
        assert_eq!(scatter_u16(user.addr() + 4095u64, &[1]), Err(Fault));
        assert_eq!(scatter_u16(user.addr() + 4086u64, &[7, 8]), Ok(()));
        assert_eq!(scatter_u16(user.addr() + 4087u64, &[9, 1]), Err(Fault));
        assert_eq!(read_val::<u16>(user.addr() + 4087u64), Ok(9));
    }

    #[test]
    fn nul_is_found() {
        for at in 0..20 {
            let mut bytes = [0x80u8; 20];
            bytes[at] = 0;
            assert_eq!(find_nul(&bytes), Some(at));
        }
        assert_eq!(find_nul(&[1; 20]), None);
    }
}
