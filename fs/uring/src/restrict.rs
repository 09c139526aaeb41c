//! `IORING_REGISTER_RESTRICTIONS`: what an instance may be asked for, once and for all.

use abi::uring::{Sqe, op, register};
use abi::{Errno, Result};
use arch::lock::Once;
use core::sync::atomic::Ordering;

use crate::rings::Uring;

/// `IORING_RESTRICTION_*`.
mod kind {
    pub(super) const REGISTER: u16 = 0;
    pub(super) const OPCODE: u16 = 1;
    pub(super) const FLAGS_ALLOWED: u16 = 2;
    pub(super) const FLAGS_REQUIRED: u16 = 3;
}

/// Most of them: one for each thing that can be said.
pub const MOST: usize = register::LAST as usize + op::LAST as usize + 2;

/// What is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// Bits of `IORING_REGISTER_*`.
    registers: u64,
    /// Bits of `IORING_OP_*`.
    opcodes: u64,
    flags_allowed: u8,
    flags_required: u8,
}

impl Restrictions {
    /// Takes in a `struct io_uring_restriction`, as words.
    pub fn add(&mut self, given: [u32; 4]) -> Result<()> {
        let [head, ..] = given;
        let value = (head >> 16) as u8;
        match head as u16 {
            kind::REGISTER if u32::from(value) < register::LAST => self.registers |= 1 << value,
            kind::OPCODE if value < op::LAST => self.opcodes |= 1 << value,
            kind::FLAGS_ALLOWED => self.flags_allowed = value,
            kind::FLAGS_REQUIRED => self.flags_required = value,
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn allows(&self, entry: &Sqe) -> bool {
        let flags = self.flags_allowed | self.flags_required;
        self.opcodes & 1 << entry.opcode != 0
            && entry.flags & self.flags_required == self.flags_required
            && entry.flags & !flags == 0
    }
}

/// Those of an instance.
pub(crate) type Rules = Once<Restrictions>;

impl Uring {
    /// Restricts an instance that is not enabled yet.
    pub fn restrict(&self, rules: Restrictions) -> Result<()> {
        if !self.is_disabled.load(Ordering::Acquire) {
            return Err(Errno::EBADFD);
        }
        let mut is_first = false;
        self.rules.call_once(|| {
            is_first = true;
            rules
        });
        if is_first { Ok(()) } else { Err(Errno::EBUSY) }
    }

    /// `EACCES` for an entry that is not allowed.
    pub(crate) fn check_entry(&self, entry: &Sqe) -> Result<()> {
        match self.rules.get() {
            Some(_) if entry.opcode >= op::LAST => Err(Errno::EINVAL),
            Some(rules) if !rules.allows(entry) => Err(Errno::EACCES),
            _ => Ok(()),
        }
    }

    /// `EACCES` for what may not be registered once the instance is enabled.
    pub fn check_register(&self, what: u32) -> Result<()> {
        match self.rules.get() {
            Some(rules) if !self.is_disabled() => {
                if what >= register::LAST {
                    return Err(Errno::EINVAL);
                }
                let is_allowed = rules.registers & 1 << what != 0;
                if is_allowed { Ok(()) } else { Err(Errno::EACCES) }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_is_not_allowed() {
        let mut rules = Restrictions::default();
        for (kind, value) in [(1, 0), (2, 4), (3, 1)] {
            rules.add([kind | value << 16, 0, 0, 0]).unwrap();
        }
        let entry = |opcode, flags| Sqe { opcode, flags, ..Sqe::default() };
        assert!(rules.allows(&entry(0, 1)));
        assert!(rules.allows(&entry(0, 5)));
        // Without what is required, with what is not allowed, and another operation.
        for (opcode, flags) in [(0, 4), (0, 3), (1, 1)] {
            assert!(!rules.allows(&entry(opcode, flags)));
        }
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        let mut rules = Restrictions::default();
        for given in [4, 1 | 60 << 16, 99 << 16] {
            assert_eq!(rules.add([given, 0, 0, 0]), Err(Errno::EINVAL));
        }
    }
}
