//! The per-CPU stacks in front of the zones.

use crate::init;
use arch::addr::Pfn;
use arch::percpu::PerCpuCell;

/// A bounded stack of frame numbers.
pub(crate) struct Stack<const N: usize> {
    frames: [u32; N],
    len: usize,
}

impl<const N: usize> Stack<N> {
    const fn new() -> Self {
        Stack { frames: [0; N], len: 0 }
    }
    #[inline(always)]
    pub(crate) fn pop(&mut self) -> Option<Pfn> {
        let at = self.len.checked_sub(1)?;
        let pfn = *self.frames.get(at)?;
        self.len = at;
        Some(Pfn(u64::from(pfn)))
    }
    #[inline(always)]
    pub(crate) fn push(&mut self, pfn: Pfn) -> bool {
        let Some(slot) = self.frames.get_mut(self.len) else { return false };
        *slot = pfn.0 as u32;
        self.len += 1;
        true
    }
    pub(crate) fn len(&self) -> usize {
        self.len
    }
    pub(crate) fn is_full(&self) -> bool {
        self.len == N
    }
    /// Takes the frames that were pushed first, the coldest; how many.
    pub(crate) fn pop_oldest(&mut self, to: &mut [Pfn]) -> usize {
        let count = self.len.min(to.len());
        for (to, from) in to.iter_mut().zip(&self.frames[..count]) {
            *to = Pfn(u64::from(*from));
        }
        self.frames.copy_within(count..self.len, 0);
        self.len -= count;
        count
    }
}

/// What a processor keeps.
pub(crate) struct Lists {
    pub(crate) free: Stack<256>,
    pub(crate) zeroed: Stack<128>,
    pub(crate) allocated: u64,
    pub(crate) freed: u64,
}

impl Lists {
    /// How many frames go between stack and zones at once.
    pub(crate) const BATCH: usize = 64;
}

arch::percpu! {
    pub(crate) static LISTS: PerCpu<PerCpuCell<Lists>> = PerCpuCell::new(Lists {
        free: Stack::new(),
        zeroed: Stack::new(),
        allocated: 0,
        freed: 0,
    });
}

/// Gives the frames of this processor's stacks back to the zones: under pressure, and before a
/// processor goes away.
pub fn drain_local() {
    loop {
        let mut batch = [Pfn(0); Lists::BATCH];
        let count = LISTS.with(|lists| match lists.free.pop_oldest(&mut batch) {
            0 => lists.zeroed.pop_oldest(&mut batch),
            count => count,
        });
        if count == 0 {
            return;
        }
        init::give_batch(&batch[..count]);
    }
}

/// As [`drain_local`] on every processor. Interrupts on; not for hot paths.
pub fn drain_all() {
    arch::ipi::call_on_all(|_| drain_local(), 0);
}
