//! Argument and environment strings on their way to a new program.

use abi::process::Resource;
use abi::{Errno, Result};
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::user;

/// `MAX_ARG_STRLEN`: the longest single string, with its NUL.
pub const MAX_STRING: usize = 131_072;
/// `ARG_MAX`: strings and pointers may always take this much.
const ARG_MAX: u64 = 131_072;
/// However large the stack may grow, strings take at most three quarters of 8 MiB.
const ABSOLUTE_MAX: u64 = 6 << 20;
/// `MAX_ARG_STRINGS`.
const MAX_STRINGS: usize = 0x7fff_ffff;

/// A list of strings, stored end to end with their NULs.
#[derive(Clone, Debug, Default)]
pub struct Strings {
    /// All strings, each with its NUL.
    pub bytes: Vec<u8>,
    /// Where each starts.
    pub starts: Vec<u32>,
}

impl Strings {
    /// An empty list.
    pub const fn new() -> Strings {
        Strings { bytes: Vec::new(), starts: Vec::new() }
    }

    /// How many strings.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Appends a string (without NUL).
    pub fn push(&mut self, string: &[u8]) -> Result<()> {
        if string.len() >= MAX_STRING {
            return Err(Errno::E2BIG);
        }
        self.bytes.try_reserve(string.len() + 1).map_err(|_| Errno::ENOMEM)?;
        self.starts.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.starts.push(u32::try_from(self.bytes.len()).map_err(|_| Errno::E2BIG)?);
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        Ok(())
    }

    /// String `index`, without NUL.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let start = *self.starts.get(index)? as usize;
        let end = self.starts.get(index + 1).map_or(self.bytes.len(), |&e| e as usize);
        self.bytes.get(start..end.checked_sub(1)?)
    }

    /// The list with its first string replaced by `head`.
    pub fn with_head(&self, head: &[&[u8]]) -> Result<Strings> {
        let mut new = Strings::new();
        for string in head {
            new.push(string)?;
        }
        for index in 1..self.len() {
            new.push(self.get(index).unwrap_or_default())?;
        }
        Ok(new)
    }

    /// Reads a NULL-terminated array of strings from user memory; a null array is empty. `room`
    /// falls by what the strings and their pointers take.
    pub fn from_user(array: VirtAddr, room: &mut u64) -> Result<Strings> {
        let mut strings = Strings::new();
        if array.is_null() {
            return Ok(strings);
        }
        let mut at = array;
        loop {
            let pointer: u64 = user::read_val(at)?;
            if pointer == 0 {
                return Ok(strings);
            }
            if strings.len() >= MAX_STRINGS {
                return Err(Errno::E2BIG);
            }
            strings.push_user(VirtAddr(pointer), room)?;
            at = at.wrapping_add(8);
        }
    }

    fn push_user(&mut self, from: VirtAddr, room: &mut u64) -> Result<()> {
        let limit = (*room).min(MAX_STRING as u64) as usize;
        let start = self.bytes.len();
        let mut at = from;
        // Up to the end of a page at a time: the string may end right before unmapped memory.
        loop {
            let chunk = 4096 - at.page_offset();
            self.bytes.try_reserve(chunk).map_err(|_| Errno::ENOMEM)?;
            let old = self.bytes.len();
            self.bytes.resize(old + chunk, 0);
            let fresh = self.bytes.get_mut(old..).ok_or(Errno::ENOMEM)?;
            let got = user::copy_from_user_partial(fresh, at);
            let nul = fresh.get(..got).and_then(user::find_nul);
            let end = nul.map_or(old + got, |n| old + n + 1);
            self.bytes.truncate(end);
            if self.bytes.len() - start > limit {
                return Err(Errno::E2BIG);
            }
            if nul.is_some() {
                break;
            }
            if got < chunk {
                return Err(Errno::EFAULT);
            }
            at = at.wrapping_add(chunk as u64);
        }
        let taken = (self.bytes.len() - start + size_of::<u64>()) as u64;
        *room = room.checked_sub(taken).ok_or(Errno::E2BIG)?;
        self.starts.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.starts.push(u32::try_from(start).map_err(|_| Errno::E2BIG)?);
        Ok(())
    }
}

/// How much strings and pointers may take under a stack limit (`execve(2)`, "Limits on size").
pub fn room(stack_limit: u64) -> u64 {
    (stack_limit / 4).clamp(ARG_MAX, ABSOLUTE_MAX)
}

/// [`room`] for a task.
pub fn room_of(task: &crate::Task) -> u64 {
    room(task.limit(Resource::Stack))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_the_stack() {
        assert_eq!(room(8 << 20), 2 << 20);
        assert_eq!(room(u64::MAX), 6 << 20);
        assert_eq!(room(4096), 131_072);
    }

    #[test]
    fn heads_are_replaced() {
        let mut strings = Strings::new();
        strings.push(b"a").expect("fits");
        strings.push(b"").expect("fits");
        strings.push(b"ccc").expect("fits");
        assert_eq!(strings.get(1), Some(&b""[..]));
        let new = strings.with_head(&[b"/bin/sh", b"-x", b"script"]).expect("fits");
        assert_eq!(new.len(), 5);
        assert_eq!(new.get(4), Some(&b"ccc"[..]));
        assert!(new.get(5).is_none());
        assert_eq!(strings.push(&[b'x'; MAX_STRING]), Err(Errno::E2BIG));
    }
}
