//! Instructions that may fault, and where to go on when they do.
//!
//! The assembly of the copy routines puts pairs of addresses into the section `.extable`.

unsafe extern "C" {
    static __extable_start: [u64; 2];
    static __extable_end: [u64; 2];
}

/// Where to go on after a fault of the instruction at `rip`.
pub(crate) fn find(rip: u64) -> Option<u64> {
    let start = &raw const __extable_start;
    let end = &raw const __extable_end;
    let count = (end as usize - start as usize) / 16;
    // SAFETY: the linker put the pairs between the two symbols.
    let pairs = unsafe { core::slice::from_raw_parts(start, count) };
    pairs.iter().find(|[at, _]| *at == rip).map(|[_, fixup]| *fixup)
}
