//! Instructions that may fault, and where to go on when they do.
//!
//! The assembly of the copy routines puts pairs of offsets (from the word itself to the
//! instruction, and to where to go on) into the section `.extable`. All of it lies between two
//! symbols, so that a fault that will be resolved costs two comparisons; the pairs are searched
//! only for one that cannot.

unsafe extern "C" {
    static __extable_start: [i32; 2];
    static __extable_end: [i32; 2];
    static user_access_start: u8;
    static user_access_end: u8;
}

/// Whether the instruction at `rip` is one that may touch user memory.
#[inline(always)]
pub fn may_fault(rip: u64) -> bool {
    (&raw const user_access_start as u64..&raw const user_access_end as u64).contains(&rip)
}

/// Where to go on after a fault of the instruction at `rip`.
#[cold]
pub fn find(rip: u64) -> Option<u64> {
    let start = &raw const __extable_start;
    let end = &raw const __extable_end;
    let count = (end as usize - start as usize) / size_of::<[i32; 2]>();
    // SAFETY: the linker put the pairs between the two symbols.
    let pairs = unsafe { core::slice::from_raw_parts(start, count) };
    let target =
        |word: &i32| (core::ptr::from_ref(word) as u64).wrapping_add_signed((*word).into());
    pairs.iter().find(|[at, _]| target(at) == rip).map(|[_, fixup]| target(fixup))
}
