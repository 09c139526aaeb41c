//! The allocator on the simulated memory.

#![cfg(not(target_os = "none"))]

use arch::addr::PAGE_SIZE;
use frames::{Flags, MAX_ORDER, PageRef, alloc, alloc_page, init_host, kind, stats};
use proptest::prelude::*;
use std::sync::{Mutex, MutexGuard};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn setup() -> MutexGuard<'static, ()> {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    init_host(96 << 20);
    guard
}

#[test]
fn zeroed_pages_are_zero_and_come_back() {
    let _guard = setup();
    let before = stats().free;
    let pages: Vec<PageRef> = (0..1000).map(|_| alloc_page(Flags::ZERO).expect("memory")).collect();
    for page in &pages {
        page.with_bytes(|bytes| assert!(bytes.iter().all(|b| *b == 0)));
        page.copy_in(0, &[0xff; PAGE_SIZE]);
    }
    assert_eq!(stats().free, before - 1000);
    drop(pages);
    assert_eq!(stats().free, before);
}

#[test]
fn references_keep_a_page() {
    let _guard = setup();
    let page = alloc_page(Flags::empty()).expect("memory");
    let other = page.clone();
    assert_eq!(page.references(), 2);
    assert!(!page.freeze(1));
    drop(page);
    assert_eq!(other.references(), 1);
    assert!(other.freeze(1));
    assert!(!other.try_get());
    other.unfreeze(1);
}

#[test]
fn folios_split_into_pages() {
    let _guard = setup();
    let before = stats().free;
    let folio = alloc(9, Flags::ZERO).expect("memory").into_folio();
    folio.set_kind(kind::ANON);
    let first = folio.pfn();
    assert!(core::ptr::eq(frames::page(first + 77).head(), folio.page()));
    assert!(folio.split_folio());
    let pages: Vec<PageRef> = (1..512)
        // SAFETY: the split left one reference on each page.
        .map(|step| unsafe { PageRef::from_raw(frames::page(first + step)) })
        .collect();
    assert!(pages.iter().all(|page| page.references() == 1 && page.order() == 0));
    drop(folio);
    drop(pages);
    assert_eq!(stats().free, before);
}

#[test]
fn blocks_merge_again() {
    let _guard = setup();
    frames::drain_local();
    let blocks: Vec<_> =
        (0..8).map(|_| alloc(MAX_ORDER, Flags::empty()).expect("memory")).collect();
    let first: Vec<_> = blocks.iter().map(|block| block.pfn()).collect();
    assert!(first.iter().all(|pfn| pfn.0 % 1024 == 0));
    drop(blocks);
    let small: Vec<_> = (0..3000).map(|_| alloc(1, Flags::empty()).expect("memory")).collect();
    drop(small);
    let again: Vec<_> = (0..8).map(|_| alloc(MAX_ORDER, Flags::empty()).expect("memory")).collect();
    assert_eq!(again.len(), 8);
}

#[test]
fn exhaustion_is_an_error() {
    let _guard = setup();
    let before = stats().free;
    let mut blocks = Vec::new();
    while let Ok(block) = alloc(4, Flags::NO_RECLAIM) {
        blocks.push(block);
    }
    assert!(blocks.len() > 1000);
    drop(blocks);
    assert_eq!(stats().free, before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn blocks_never_overlap(orders in prop::collection::vec((0u8..=6, any::<bool>()), 1..200)) {
        let _guard = setup();
        let before = stats().free;
        let mut live: Vec<frames::FrameBlock> = Vec::new();
        let mut used = std::collections::BTreeMap::new();
        for (order, free) in orders {
            if free && !live.is_empty() {
                let index = live.len() * 7 % live.len().max(1);
                let block = live.swap_remove(index);
                used.remove(&block.pfn().0);
                continue;
            }
            let block = alloc(order, Flags::empty()).expect("memory");
            let (start, end) = (block.pfn().0, block.pfn().0 + (1 << order));
            prop_assert_eq!(start % (1 << order), 0);
            let below = used.range(..end).next_back().map_or(0, |(_, e)| *e);
            prop_assert!(below <= start);
            used.insert(start, end);
            live.push(block);
        }
        drop(live);
        prop_assert_eq!(stats().free, before);
    }
}
