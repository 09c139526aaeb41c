use crate::{Heap, KernelStack, stack};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeMap;
use std::sync::Mutex;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn objects_never_overlap(
        steps in prop::collection::vec((1usize..70000, 0u32..8, any::<bool>()), 1..400),
    ) {
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
        frames::init_host(128 << 20);
        let mut live: BTreeMap<usize, Layout> = BTreeMap::new();
        for (size, align, free) in steps {
            if free && let Some((at, layout)) = live.pop_first() {
                // SAFETY: it was allocated below with this layout.
                unsafe { Heap.dealloc(at as *mut u8, layout) };
                continue;
            }
            let layout = Layout::from_size_align(size, 1 << (align * 2 % 13)).expect("layout");
            // SAFETY: the size is not zero.
            let at = unsafe { Heap.alloc(layout) } as usize;
            prop_assert_ne!(at, 0);
            prop_assert_eq!(at % layout.align(), 0);
            let below = live.range(..at + size).next_back();
            prop_assert!(below.is_none_or(|(start, l)| start + l.size() <= at));
            // SAFETY: ours.
            unsafe { std::ptr::write_bytes(at as *mut u8, 0xee, size) };
            live.insert(at, layout);
        }
        for (at, layout) in live {
            // SAFETY: allocated above with this layout.
            unsafe { Heap.dealloc(at as *mut u8, layout) };
        }
    }
}

#[test]
fn stacks_are_reused() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    frames::init_host(128 << 20);
    let stack = KernelStack::new().expect("memory");
    let bottom = stack.bottom();
    drop(stack);
    assert_eq!(KernelStack::new().expect("memory").bottom(), bottom);
}

#[test]
fn what_is_kept_is_given_back_once() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    frames::init_host(128 << 20);
    let layout = Layout::from_size_align(2048, 16).expect("layout");
    // SAFETY: the size is not zero, and each is freed once with its layout.
    unsafe {
        let objects: Vec<_> = (0..200).map(|_| Heap.alloc(layout)).collect();
        objects.into_iter().for_each(|object| Heap.dealloc(object, layout));
    }
    let before = frames::stats().free;
    let freed = crate::pressure::reclaim();
    assert!(freed >= 8, "{freed}");
    assert_eq!(frames::stats().free, before + freed as u64);
    assert_eq!(crate::pressure::reclaim(), 0);
}

#[test]
fn stacks_that_were_left_come_back() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    frames::init_host(128 << 20);
    let mut bottoms = [(); 3].map(|()| {
        let stack = core::mem::ManuallyDrop::new(KernelStack::new().expect("memory"));
        stack.bottom()
    });
    bottoms.into_iter().for_each(stack::leave);
    stack::collect_left();
    let again = [(); 3].map(|()| KernelStack::new().expect("memory"));
    let mut seen = again.each_ref().map(KernelStack::bottom);
    bottoms.sort_unstable();
    seen.sort_unstable();
    assert_eq!(bottoms, seen);
}
