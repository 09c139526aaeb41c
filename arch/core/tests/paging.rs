//! Page tables on the simulated memory, against a model.

#![cfg(not(target_os = "none"))]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use machine::addr::{HUGE_SIZE, PhysAddr, USER_END, VirtAddr};
use machine::host;
use machine::paging::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, OnceLock};

struct Frames {
    state: Mutex<(u64, Vec<u64>, HashMap<u64, u32>)>,
}

static SOURCE: OnceLock<Frames> = OnceLock::new();
static DYN: OnceLock<&'static dyn TableFrames> = OnceLock::new();

impl TableFrames for Frames {
    fn allocate(&self) -> Result<PhysAddr, NoMemory> {
        let mut state = self.state.lock().unwrap();
        let frame = state.1.pop().unwrap_or_else(|| {
            state.0 += 4096;
            state.0
        });
        state.2.insert(frame, 1);
        // SAFETY: a frame of the arena that is handed out once.
        unsafe { machine::phys::to_virt(PhysAddr(frame)).write_bytes(0, 4096) };
        Ok(PhysAddr(frame))
    }
    fn share(&self, table: PhysAddr) {
        *self.state.lock().unwrap().2.get_mut(&table.0).unwrap() += 1;
    }
    fn release_shared(&self, table: PhysAddr) -> bool {
        if self.references(table) == 1 {
            return false;
        }
        !self.release(table)
    }
    fn release(&self, table: PhysAddr) -> bool {
        let mut state = self.state.lock().unwrap();
        let count = state.2.get_mut(&table.0).unwrap();
        *count -= 1;
        let last = *count == 0;
        if last {
            state.2.remove(&table.0);
            state.1.push(table.0);
        }
        last
    }
    fn references(&self, table: PhysAddr) -> u32 {
        self.state.lock().unwrap().2[&table.0]
    }
}

/// One test at a time, so that live tables can be counted.
fn setup() -> MutexGuard<'static, ()> {
    static SERIAL: Mutex<()> = Mutex::new(());
    let guard = SERIAL.lock().unwrap_or_else(|e| e.into_inner());
    host::init_memory(64 << 20);
    let frames: &'static Frames =
        SOURCE.get_or_init(|| Frames { state: Mutex::new((1 << 20, Vec::new(), HashMap::new())) });
    set_table_frames(DYN.get_or_init(|| frames));
    guard
}

fn table_frames() -> Result<&'static dyn TableFrames, NoMemory> {
    DYN.get().copied().ok_or(NoMemory)
}

fn live_tables() -> usize {
    SOURCE.get().unwrap().state.lock().unwrap().2.len()
}

const USER_PAGE: PteFlags =
    PteFlags::PRESENT.union(PteFlags::WRITE).union(PteFlags::USER).union(PteFlags::NO_EXECUTE);

#[test]
fn map_query_unmap_and_free() {
    let _serial = setup();
    let before = live_tables();
    let table = PageTable::new().unwrap();
    let at = VirtAddr(0x7f00_1234_5000);
    table.map(at, PhysAddr(0x9000), Level::Page, USER_PAGE).unwrap();
    assert_eq!(table.map(at, PhysAddr(0x9000), Level::Page, USER_PAGE), Err(MapError::Occupied));
    let (phys, flags, level) = table.query(at + 0x123u64).unwrap();
    assert_eq!((phys, level), (PhysAddr(0x9123), Level::Page));
    assert_eq!(flags, USER_PAGE);
    assert!(table.protect(at, at + 0x1000u64, PteFlags::empty(), PteFlags::WRITE));
    assert!(!table.query(at).unwrap().1.contains(PteFlags::WRITE));
    assert_eq!(table.unmap(at).unwrap().0.address(), PhysAddr(0x9000));
    assert!(table.query(at).is_none());
    assert!(table.unmap(at).is_none());
    let mut gone = 0;
    table.detach_tables(VirtAddr(0), VirtAddr(USER_END), |_, frame| {
        gone += 1;
        table_frames().unwrap().release(frame);
    });
    assert_eq!(gone, 1);
    drop(table);
    assert_eq!(live_tables(), before);
}

#[test]
fn large_pages_split() {
    let _serial = setup();
    let table = PageTable::new().unwrap();
    let at = VirtAddr(0x4000_0000);
    table.map(at, PhysAddr(0x60_0000), Level::Huge, USER_PAGE).unwrap();
    assert_eq!(table.query(at + 0x1_2345u64).unwrap().0, PhysAddr(0x61_2345));
    assert!(matches!(table.entry(at, Level::Page), Err(MapError::Occupied)));
    table.split(at).unwrap();
    let (phys, flags, level) = table.query(at + 0x1_2345u64).unwrap();
    assert_eq!((phys, flags, level), (PhysAddr(0x61_2345), USER_PAGE, Level::Page));
}

#[test]
fn sharing_copies_on_demand() {
    let _serial = setup();
    let before = live_tables();
    let parent = PageTable::new().unwrap();
    let at = VirtAddr(0x5000_0000);
    for page in 0..4u64 {
        let to = PhysAddr(0x10_0000 + page * 4096);
        parent.map(at + page * 4096, to, Level::Page, USER_PAGE).unwrap();
    }
    let child = PageTable::new().unwrap();
    assert_eq!(parent.share(&child, at), Ok(true));
    assert_eq!(parent.share(&child, at + HUGE_SIZE), Ok(false));
    assert!(parent.is_shared(at) && child.is_shared(at));
    assert!(matches!(child.entry(at, Level::Page), Err(MapError::Shared)));
    let mut seen = 0;
    child.walk(VirtAddr(0), VirtAddr(USER_END), |_, v| {
        seen += usize::from(matches!(v, Visit::SharedTable(_)));
    });
    assert_eq!(seen, 1);
    let mut copied = Vec::new();
    let given_up = child
        .unshare(at + 4096u64, |page, pte| {
            copied.push(page.0);
            pte.with_flags(pte.flags() - PteFlags::WRITE)
        })
        .unwrap();
    give_up(given_up.unwrap(), |_| panic!("the parent still has it"));
    assert_eq!(copied.len(), 4);
    assert!(!child.is_shared(at) && parent.is_shared(at));
    assert!(!child.query(at).unwrap().1.contains(PteFlags::WRITE));
    parent.unshare(at, |_, _| panic!("the last user copies nothing")).unwrap();
    assert!(!parent.query(at).unwrap().1.contains(PteFlags::WRITE));
    drop((parent, child));
    assert_eq!(live_tables(), before);
}

proptest::proptest! {
    #[test]
    fn agrees_with_a_map(ops in proptest::collection::vec((0u64..2048, 0u64..512, 0u8..3), 1..200)) {
        let _serial = setup();
        let table = PageTable::new().unwrap();
        let base = VirtAddr(0x7fff_0000_0000);
        let mut model = BTreeMap::new();
        for (page, frame, op) in ops {
            let at = base + page * 4096;
            match op {
                0 | 1 => {
                    let ok = table.map(at, PhysAddr(frame * 4096), Level::Page, USER_PAGE).is_ok();
                    proptest::prop_assert_eq!(ok, !model.contains_key(&at.0));
                    model.entry(at.0).or_insert(frame * 4096);
                }
                _ => {
                    let old = table.unmap(at).map(|(pte, _)| pte.address().0);
                    proptest::prop_assert_eq!(old, model.remove(&at.0));
                }
            }
        }
        let mut walked = BTreeMap::new();
        table.walk(VirtAddr(0), VirtAddr(USER_END), |at, visit| {
            if let Visit::Entry(entry) = visit {
                walked.insert(at.0, entry.load().address().0);
            }
        });
        proptest::prop_assert_eq!(walked, model);
    }
}
