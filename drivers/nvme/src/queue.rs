//! A submission queue and its completion queue: the rings alone.

use abi::Result;
use hw::{DmaArray, Register32};

use crate::command::{Command, Completion};
use crate::registers::Registers;

/// A pair of rings; its user locks it. Entry counts are powers of two.
pub(crate) struct Rings {
    submission: DmaArray<Command>,
    completion: DmaArray<Completion>,
    submission_bell: Register32,
    completion_bell: Register32,
    entries: u16,
    tail: u16,
    /// What the submission doorbell last said.
    rung: u16,
    head: u16,
    phase: u16,
}

impl Rings {
    pub(crate) fn new(registers: &Registers, number: u16, entries: u16) -> Result<Self> {
        Ok(Self {
            submission: DmaArray::new(usize::from(entries))?,
            completion: DmaArray::new(usize::from(entries))?,
            submission_bell: registers.doorbell(number, false)?,
            completion_bell: registers.doorbell(number, true)?,
            entries,
            tail: 0,
            rung: 0,
            head: 0,
            phase: 1,
        })
    }

    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// Where the controller finds the submission and the completion ring.
    pub(crate) fn addresses(&self) -> (u64, u64) {
        (self.submission.phys().0, self.completion.phys().0)
    }

    /// As new, for a controller that has been reset.
    pub(crate) fn clear(&mut self) {
        for index in 0..usize::from(self.entries) {
            self.completion.set(index, Completion::default());
        }
        self.tail = 0;
        self.rung = 0;
        self.head = 0;
        self.phase = 1;
    }

    /// Places a command; [`Rings::ring`] tells the controller.
    #[inline]
    pub(crate) fn push(&mut self, command: Command) {
        self.submission.set(usize::from(self.tail), command);
        self.tail = (self.tail + 1) & (self.entries - 1);
    }

    /// Rings the submission doorbell if there are new commands.
    #[inline]
    pub(crate) fn ring(&mut self) {
        if self.rung != self.tail {
            self.rung = self.tail;
            // The commands before the doorbell: stores are not reordered on x86, and the
            // register's write is volatile; the fence keeps the compiler from it as well.
            core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
            self.submission_bell.write(u32::from(self.tail));
        }
    }

    /// Takes a completion. [`Rings::acknowledge`] gives its place back.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Completion> {
        // The status word is written last; it is looked at first, with acquire.
        let at = usize::from(self.head) * size_of::<Completion>();
        let last = self.completion.buffer().load_acquire32(at + 12);
        if (last >> 16) as u16 & 1 != self.phase {
            return None;
        }
        let completion = self.completion.get(usize::from(self.head));
        self.head = (self.head + 1) & (self.entries - 1);
        if self.head == 0 {
            self.phase ^= 1;
        }
        Some(completion)
    }

    /// Tells the controller how far completions have been taken.
    #[inline]
    pub(crate) fn acknowledge(&self) {
        self.completion_bell.write(u32::from(self.head));
    }
}
