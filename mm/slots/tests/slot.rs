//! What a slot owns comes back exactly once.

use frames::{Flags, alloc_page};
use sched::rcu;
use slots::{Held, Slot, Taken};
use std::sync::Arc;

struct Node {
    inner: Slot<Node>,
    _alive: Arc<()>,
}

fn node(alive: &Arc<()>) -> Box<Node> {
    Box::new(Node { inner: Slot::new(), _alive: alive.clone() })
}

#[test]
fn a_page_moves_below_and_comes_back() {
    frames::init_host(64 << 20);
    let alive = Arc::new(());
    let page = alloc_page(Flags::empty()).expect("memory");
    let slot = Slot::new();
    assert!(slot.put_page(page.clone()).is_ok());
    assert_eq!(page.references(), 2);
    assert!(slot.put_page(page.clone()).is_err() && slot.put_node(node(&alive)).is_err());
    assert_eq!((page.references(), Arc::strong_count(&alive)), (2, 1));

    assert!(slot.wrap(node(&alive), |node| &mut node.inner).is_ok());
    {
        let guard = rcu::read_lock();
        let Held::Node(top) = slot.load(&guard) else { panic!("no node") };
        assert!(top.inner.is_page(page.page()));
        let Taken::Page(taken) = top.inner.take() else { panic!("no page") };
        assert_eq!(taken.references(), 2);
    }
    assert_eq!(page.references(), 1);
    assert!(matches!(slot.take(), Taken::Node(_)));
    assert!(slot.is_empty());
}

#[test]
fn a_slot_drops_what_it_owns() {
    frames::init_host(64 << 20);
    let alive = Arc::new(());
    let page = alloc_page(Flags::empty()).expect("memory");
    let slot = Slot::new();
    assert!(slot.put_page(page.clone()).is_ok());
    assert!(slot.wrap(node(&alive), |node| &mut node.inner).is_ok());
    drop(slot);
    assert_eq!((page.references(), Arc::strong_count(&alive)), (1, 1));
}
