use crate::{AddressSpace, FaultAccess, FaultError, Limits, MapRequest, MapSource};
use abi::Errno;
use arch::VirtAddr;
use arch::paging::PteFlags;
use frames::Counter;
use pagecache::Mapping;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const BASE: u64 = 0x7fff_f000_0000;
const HUGE: u64 = 2 << 20;
/// `MADV_NOHUGEPAGE`.
const NO_HUGE_PAGES: i32 = 15;

fn setup() -> (MutexGuard<'static, ()>, Arc<AddressSpace>) {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    frames::init_host(256 << 20);
    (guard, AddressSpace::new(BASE).expect("memory"))
}

fn anon(mm: &AddressSpace, addr: u64, len: u64, prot: u32, flags: u32) -> Result<u64, Errno> {
    mm.mmap(&MapRequest { addr, len, prot, flags: 0x20 | flags, source: None, offset: 0 })
}

fn read(mm: &AddressSpace, at: u64) -> Option<u8> {
    let mut byte = [0];
    mm.read_remote(VirtAddr(at), &mut byte).ok().map(|_| byte[0])
}

#[test]
fn pages_are_zero_then_what_was_written() {
    let (_guard, mm) = setup();
    let at = anon(&mm, 0, 1 << 20, 3, 2).expect("map");
    assert_eq!(read(&mm, at), Some(0));
    assert_eq!(mm.write_remote(VirtAddr(at + 4090), &[7; 100]), Ok(100));
    assert_eq!(read(&mm, at + 4095), Some(7));
    assert_eq!(read(&mm, at + 4096), Some(7));
    assert_eq!(mm.stats().anon, 2);
    mm.munmap(at, 1 << 20).expect("unmap");
    assert_eq!(read(&mm, at), None);
    assert_eq!(mm.stats().anon, 0);
}

#[test]
fn fork_copies_on_write_both_ways() {
    let (_guard, mm) = setup();
    let before = frames::stats().free;
    let at = anon(&mm, 0, 64 << 12, 3, 2).expect("map");
    let shared = anon(&mm, 0, 4096, 3, 1).expect("map");
    for page in 0..64 {
        mm.write_remote(VirtAddr(at + page * 4096), &[page as u8]).expect("write");
    }
    mm.write_remote(VirtAddr(shared), &[1]).expect("write");
    let child = mm.fork().expect("fork");
    let grandchild = child.fork().expect("fork");
    child.write_remote(VirtAddr(at), &[100]).expect("write");
    mm.write_remote(VirtAddr(at + 4096), &[101]).expect("write");
    child.write_remote(VirtAddr(shared), &[2]).expect("write");
    assert_eq!(
        (read(&mm, at), read(&child, at), read(&grandchild, at)),
        (Some(0), Some(100), Some(0))
    );
    let second = at + 4096;
    assert_eq!((read(&mm, second), read(&child, second)), (Some(101), Some(1)));
    assert_eq!((read(&mm, shared), read(&grandchild, shared)), (Some(2), Some(2)));
    child.munmap(at, 32 << 12).expect("unmap");
    assert_eq!(read(&grandchild, at + 5 * 4096), Some(5));
    drop(child);
    assert_eq!(read(&mm, at + 40 * 4096), Some(40));
    drop(grandchild);
    mm.write_remote(VirtAddr(at + 40 * 4096), &[9]).expect("write");
    drop(mm);
    assert!(frames::stats().free + 8 >= before, "{} of {before}", frames::stats().free);
}

#[test]
fn faults_answer_as_signals_want() {
    let (_guard, mm) = setup();
    let at = anon(&mm, 0, 8192, 1, 2).expect("map");
    let fault = |at, access| mm.handle_fault(VirtAddr(at), access, 8 << 20);
    assert_eq!(fault(at, FaultAccess::Write), Err(FaultError::Segv { code: 2 }));
    assert_eq!(fault(at, FaultAccess::Execute), Err(FaultError::Segv { code: 2 }));
    assert_eq!(fault(at + 8192, FaultAccess::Read), Err(FaultError::Segv { code: 1 }));
    assert!(fault(at, FaultAccess::Read).is_ok());
    let stack = anon(&mm, 0x7000_0000_0000, 8192, 3, 2 | 0x10 | 0x100).expect("map");
    assert!(fault(stack - 4096 * 10, FaultAccess::Write).is_ok());
    assert!(fault(stack - (9 << 20), FaultAccess::Write).is_err());
}

#[test]
fn brk_grows_and_shrinks() {
    let (_guard, mm) = setup();
    mm.set_brk_start(0x1000_0000);
    assert_eq!(mm.brk(0, &Limits::NONE), 0x1000_0000);
    assert_eq!(mm.brk(0x1000_2001, &Limits::NONE), 0x1000_2001);
    mm.write_remote(VirtAddr(0x1000_2000), &[1]).expect("write");
    assert_eq!(mm.brk(0x1000_1000, &Limits::NONE), 0x1000_1000);
    assert_eq!(read(&mm, 0x1000_2000), None);
}

#[derive(Clone, Debug)]
enum Step {
    Map(u64, u64, u32),
    Unmap(u64, u64),
    Protect(u64, u64, u32),
    Move(u64, u64, u64, u64),
    Write(u64, u8),
    DontNeed(u64, u64),
    Fork,
}

fn steps() -> impl Strategy<Value = Step> {
    let page = 0u64..1200;
    let len = 1u64..600;
    prop_oneof![
        3 => (page.clone(), len.clone(), 0u32..4).prop_map(|(a, l, p)| Step::Map(a, l, p)),
        2 => (page.clone(), 600u64..1600).prop_map(|(a, l)| Step::Map(a, l, 3)),
        2 => (page.clone(), len.clone()).prop_map(|(a, l)| Step::Unmap(a, l)),
        2 => (page.clone(), len.clone(), 0u32..4).prop_map(|(a, l, p)| Step::Protect(a, l, p)),
        1 => (page.clone(), 1u64..600, 1u64..600, page.clone())
            .prop_map(|(a, o, n, t)| Step::Move(a, o, n, t)),
        6 => (page.clone(), any::<u8>()).prop_map(|(a, v)| Step::Write(a, v)),
        1 => (page, len).prop_map(|(a, l)| Step::DontNeed(a, l)),
        1 => Just(Step::Fork),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Against an array of pages: rights and first byte.
    #[test]
    fn behaves_like_an_array_of_pages(steps in prop::collection::vec(steps(), 1..60)) {
        const START: u64 = 0x1_0000_0000 - 0x10_0000;
        let at = |page: u64| START + page * 4096;
        let (_guard, mut mm) = setup();
        let before = frames::stats().free;
        let mut old = Vec::new();
        let mut model: BTreeMap<u64, (u32, u8)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Map(a, l, p) => {
                    prop_assert_eq!(anon(&mm, at(a), l * 4096, p, 0x12), Ok(at(a)));
                    model.extend((a..a + l).map(|page| (page, (p, 0))));
                }
                Step::Unmap(a, l) => {
                    prop_assert_eq!(mm.munmap(at(a), l * 4096), Ok(()));
                    model.retain(|page, _| *page < a || *page >= a + l);
                }
                Step::Protect(a, l, p) => {
                    let mut result = Ok(());
                    for page in a..a + l {
                        match model.get_mut(&page) {
                            Some(entry) => entry.0 = p,
                            None => { result = Err(Errno::ENOMEM); break; }
                        }
                    }
                    prop_assert_eq!(mm.mprotect(at(a), l * 4096, p, &Limits::NONE), result);
                }
                Step::Move(a, o, n, t) => {
                    if mm.mremap(at(a), o * 4096, n * 4096, 3, at(t), &Limits::NONE).is_ok() {
                        let moved: Vec<_> = (0..o.min(n)).map(|i| model.get(&(a + i)).copied()).collect();
                        let rights = model.get(&a).map_or(0, |e| e.0);
                        model.retain(|page, _| *page < a || *page >= a + o);
                        for i in 0..n {
                            let entry = moved.get(i as usize).copied().flatten().unwrap_or((rights, 0));
                            model.insert(t + i, entry);
                        }
                    } else {
                        // What was in the way may be gone: look at what is left.
                        model.retain(|page, _| {
                            mm.maps(at(*page), 1).first().is_some_and(|m| m.start <= at(*page))
                        });
                    }
                }
                Step::Write(a, v) => {
                    let wrote = mm.write_remote(VirtAddr(at(a)), &[v]).is_ok();
                    let entry = model.get_mut(&a);
                    prop_assert_eq!(wrote, entry.as_ref().is_some_and(|e| e.0 & 2 != 0));
                    if let (true, Some(entry)) = (wrote, entry) {
                        entry.1 = v;
                    }
                }
                Step::DontNeed(a, l) => {
                    let _ = mm.madvise(at(a), l * 4096, 4);
                    (a..a + l).for_each(|page| { if let Some(e) = model.get_mut(&page) { e.1 = 0 } });
                }
                Step::Fork => {
                    let child = mm.fork().expect("memory");
                    old.push(std::mem::replace(&mut mm, child));
                    if old.len() > 3 { old.remove(0); }
                }
            }
        }
        for (page, (rights, byte)) in &model {
            if *rights != 0 {
                prop_assert_eq!(read(&mm, at(*page)), Some(*byte), "page {}", page);
            }
        }
        let mapped: u64 = mm.maps(0, usize::MAX).iter().map(|m| (m.end - m.start) / 4096).sum();
        prop_assert_eq!(mapped, model.len() as u64);
        let range = (0, at(1 << 20));
        let (info, stats) = (mm.page_info(range.0, range.1), mm.stats());
        prop_assert_eq!((info.rss, info.anon), (stats.anon + stats.file + stats.shmem, stats.anon));
        drop((mm, old));
        prop_assert_eq!(Counter::AnonHuge.get(), 0);
        prop_assert!(frames::stats().free + 8 >= before, "{} of {before}", frames::stats().free);
    }
}

#[test]
fn odd_ranges_answer_as_linux_does() {
    let (_guard, mm) = setup();
    let at = anon(&mm, 0, 4 << 12, 3, 2).expect("map");
    mm.munmap(at + 4096, 4096).expect("unmap");
    mm.write_remote(VirtAddr(at), &[1]).expect("write");
    // What lies before the hole, or before the end of user memory, changes.
    for len in [3 << 12, u64::MAX >> 1] {
        assert_eq!(mm.mprotect(at, len, 1, &Limits::NONE), Err(Errno::ENOMEM));
        let denied = mm.handle_fault(VirtAddr(at), FaultAccess::Write, 8 << 20);
        assert_eq!(denied, Err(FaultError::Segv { code: 2 }));
        mm.mprotect(at, 4096, 3, &Limits::NONE).expect("back");
    }
    assert_eq!(mm.mincore(at, at + (3 << 12)).map(|pages| pages.len()), Ok(1));
    assert_eq!(mm.mincore(at + 4096, at + 8192), Err(Errno::ENOMEM));
    // A length that wraps when it is rounded up is none.
    assert_eq!(mm.mlock(at, u64::MAX, false, &Limits::NONE), Ok(()));
    assert_eq!(mm.munlock(at + 5, u64::MAX - 100), Ok(()));
    assert_eq!(mm.msync(1 << 63, 0, 0), Ok(()));
    assert_eq!(mm.msync(at + 1, 0, 0), Err(Errno::EINVAL));
    assert_eq!(mm.mremap(1 << 50, 4096, 1 << 60, 0, 0, &Limits::NONE), Err(Errno::EFAULT));
}

#[test]
fn a_debugger_opens_no_closed_page() {
    let (_guard, mm) = setup();
    let at = anon(&mm, 0, 4096, 0, 2).expect("map");
    assert_eq!(mm.write_forced(VirtAddr(at), &[7]), Ok(1));
    let (_, flags) = mm.page_at(at).expect("mapped");
    assert!(!flags.contains(PteFlags::PRESENT) && flags.contains(PteFlags::HIDDEN), "{flags:?}");
    let denied = mm.handle_fault(VirtAddr(at), FaultAccess::Read, 0);
    assert_eq!(denied, Err(FaultError::Segv { code: 2 }));
    mm.mprotect(at, 4096, 1, &Limits::NONE).expect("opened");
    assert!(mm.page_at(at).is_some_and(|(_, flags)| flags.contains(PteFlags::PRESENT)));
    assert_eq!(read(&mm, at), Some(7));
}

#[test]
fn a_debugger_writes_what_others_look_at() {
    let (_guard, mm) = setup();
    let at = anon(&mm, 0, 8192, 3, 2).expect("map");
    mm.write_remote(VirtAddr(at), &[1]).expect("write");
    let looked_at = mm.remote_page(at, FaultAccess::Read).expect("page");
    assert_eq!(mm.write_forced(VirtAddr(at), &[2]), Ok(1));
    let mut seen = [0];
    looked_at.copy_out(0, &mut seen);
    assert_eq!((seen, read(&mm, at)), ([2], Some(2)));
    // Without the right to write it takes a page of its own.
    mm.mprotect(at, 4096, 1, &Limits::NONE).expect("closed");
    assert_eq!(mm.write_forced(VirtAddr(at), &[3]), Ok(1));
    looked_at.copy_out(0, &mut seen);
    assert_eq!((seen, read(&mm, at)), ([2], Some(3)));
}

#[test]
fn sparse_areas_are_counted_by_what_they_map() {
    let (_guard, mm) = setup();
    let len = 1 << 46;
    let at = anon(&mm, 0, len, 3, 2 | 0x4000).expect("map");
    mm.madvise(at, len, NO_HUGE_PAGES).expect("small pages");
    for page in [0, 1, 511, 512, 1 << 20, (len >> 12) - 1] {
        mm.write_remote(VirtAddr(at + page * 4096), &[1]).expect("write");
    }
    let child = mm.fork().expect("fork");
    for mm in [&mm, &child] {
        let info = mm.page_info(at, at + len);
        assert_eq!((info.rss, info.anon, info.private), (6, 6, 0));
        assert_eq!((info.shared_dirty, info.private_dirty, info.pss), (6, 0, 6 * 2048));
        assert_eq!(mm.page_info(at + 4096, at + 513 * 4096).rss, 3);
        assert_eq!(mm.page_info(at + 4096, at + 511 * 4096).rss, 1);
        assert_eq!(mm.page_info(at + 2 * 4096, at + 511 * 4096).rss, 0);
    }
}

/// A file whose end wants to know where the heap is.
struct Last(Weak<AddressSpace>, Arc<AtomicBool>);

impl MapSource for Last {
    fn mapping(&self) -> Option<Arc<Mapping>> {
        None
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        let is_free = self.0.upgrade().is_some_and(|mm| mm.brk.try_lock().is_some());
        self.1.store(is_free, Ordering::Relaxed);
    }
}

#[test]
fn a_file_in_the_heap_ends_without_its_locks() {
    let (_guard, mm) = setup();
    mm.set_brk_start(0x1000_0000);
    assert_eq!(mm.brk(0x1000_4000, &Limits::NONE), 0x1000_4000);
    let was_free = Arc::new(AtomicBool::new(false));
    let source: Arc<dyn MapSource> = Arc::new(Last(Arc::downgrade(&mm), was_free.clone()));
    let (addr, source) = (0x1000_2000, Some(source));
    mm.mmap(&MapRequest { addr, len: 4096, prot: 1, flags: 0x12, source, offset: 0 }).expect("map");
    assert_eq!(mm.brk(0x1000_0000, &Limits::NONE), 0x1000_0000);
    assert!(was_free.load(Ordering::Relaxed));
}

#[test]
fn huge_pages_come_whole_and_go_in_parts() {
    let (_guard, mm) = setup();
    let before = frames::stats().free;
    let at = anon(&mm, 0, 4 * HUGE, 3, 2).expect("map");
    assert_eq!(at % HUGE, 0);
    let huge = |mm: &AddressSpace| mm.page_info(at, at + 4 * HUGE).huge;
    // A load takes none, a store 2 MiB.
    assert!(mm.handle_fault(VirtAddr(at + 3 * HUGE), FaultAccess::Read, 0).is_ok());
    mm.write_remote(VirtAddr(at + HUGE + 5000), &[1; 10000]).expect("write");
    mm.write_remote(VirtAddr(at + 3 * HUGE), &[3]).expect("write");
    assert_eq!((huge(&mm), mm.stats().anon, Counter::AnonHuge.get()), (512, 513, 512));
    assert_eq!((read(&mm, at + HUGE + 14999), read(&mm, at + HUGE + 15000)), (Some(1), Some(0)));
    // Rights of all keep it, of a part do not.
    mm.mprotect(at + HUGE, HUGE, 1, &Limits::NONE).expect("protect");
    let denied = mm.handle_fault(VirtAddr(at + HUGE), FaultAccess::Write, 0);
    assert_eq!((denied, huge(&mm)), (Err(FaultError::Segv { code: 2 }), 512));
    mm.mprotect(at + HUGE, HUGE, 3, &Limits::NONE).expect("protect");
    mm.write_remote(VirtAddr(at + HUGE), &[2]).expect("write");
    assert_eq!((huge(&mm), mm.stats().anon), (512, 513));
    mm.madvise(at + HUGE + 4096, 4096, 4).expect("dropped");
    assert_eq!((huge(&mm), mm.stats().anon, read(&mm, at + HUGE + 5000)), (0, 512, Some(0)));
    assert_eq!((read(&mm, at + HUGE), read(&mm, at + HUGE + 9000)), (Some(2), Some(1)));
    // All of it gone, the next store has 2 MiB again once the table is.
    mm.munmap(at, 4 * HUGE).expect("unmap");
    assert_eq!((mm.stats().anon, Counter::AnonHuge.get()), (0, 0));
    assert!(frames::stats().free + 16 >= before, "{} of {before}", frames::stats().free);
}

#[test]
fn huge_pages_are_shared_in_parts() {
    let (_guard, mm) = setup();
    let before = frames::stats().free;
    let at = anon(&mm, 0, 2 * HUGE, 3, 2).expect("map");
    mm.write_remote(VirtAddr(at), &[1]).expect("write");
    mm.write_remote(VirtAddr(at + HUGE), &[2]).expect("write");
    // Somebody who looks at a page does not keep the others.
    let looked_at = mm.remote_page(at + 4096, FaultAccess::Read).expect("page");
    let child = mm.fork().expect("fork");
    child.write_remote(VirtAddr(at + 4096), &[3]).expect("write");
    mm.write_remote(VirtAddr(at + HUGE), &[4]).expect("write");
    let both = |at| (read(&mm, at), read(&child, at));
    assert_eq!(both(at), (Some(1), Some(1)));
    assert_eq!(both(at + 4096), (Some(0), Some(3)));
    assert_eq!(both(at + HUGE), (Some(4), Some(2)));
    drop(child);
    // The ends of areas are ends of huge pages.
    mm.munmap(at, HUGE + 4096).expect("unmap");
    assert_eq!((read(&mm, at), read(&mm, at + HUGE)), (None, None));
    drop(mm);
    let mut byte = [9];
    looked_at.copy_out(0, &mut byte);
    assert_eq!(byte, [0]);
    drop(looked_at);
    assert!(frames::stats().free + 16 >= before, "{} of {before}", frames::stats().free);
}

#[test]
fn moves_between_tables_lose_nothing() {
    let (_guard, mm) = setup();
    let at = anon(&mm, 0x10_0000_0000, 1024 << 12, 3, 0x12).expect("map");
    mm.madvise(at, 1024 << 12, NO_HUGE_PAGES).expect("small pages");
    let pages = [0, 5, 511, 512, 1000, 1023];
    for page in pages {
        mm.write_remote(VirtAddr(at + page * 4096), &[page as u8]).expect("write");
    }
    let _child = mm.fork().expect("fork");
    let to = 0x20_0000_3000;
    assert_eq!(mm.mremap(at, 1024 << 12, 1024 << 12, 3, to, &Limits::NONE), Ok(to));
    for page in pages {
        assert_eq!(read(&mm, to + page * 4096), Some(page as u8));
    }
    assert_eq!((mm.stats().anon, read(&mm, at)), (6, None));
    // A second mapping of private memory there is not, but what was in its way is gone.
    let there = anon(&mm, 0x30_0000_0000, 4096, 3, 0x12).expect("map");
    assert_eq!(mm.mremap(to, 0, 4096, 3, there, &Limits::NONE), Err(Errno::EINVAL));
    assert_eq!(read(&mm, there), None);
}
