//! `IORING_SETUP_SQPOLL`: a thread that submits what it finds, so that programs need not call.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering;

use abi::uring::SQ_NEED_WAKEUP;
use aio::Submitter;
use arch::time::now_ns;
use vfs::FdTable;

use crate::issue::{Env, Extra};
use crate::prepare::Reader;
use crate::rings::{Uring, word};

/// How long it looks without finding anything, unless the program says otherwise.
const IDLE_MS: u32 = 1000;

impl Uring {
    /// Starts the thread. It ends when the instance is closed, or the program's descriptors are gone.
    pub fn start_poller(
        self: &Arc<Self>,
        who: Arc<Submitter>,
        files: &Arc<FdTable>,
        extra: Arc<dyn Extra>,
        idle_ms: u32,
    ) {
        let idle_ns = u64::from(if idle_ms == 0 { IDLE_MS } else { idle_ms }) * 1_000_000;
        let (ring, files) = (self.clone(), Arc::downgrade(files));
        sched::spawn_kernel("iou-sqp", move || poll(&ring, &who, &files, &extra, idle_ns));
    }
}

fn poll(
    ring: &Arc<Uring>,
    who: &Arc<Submitter>,
    files: &Weak<FdTable>,
    extra: &Arc<dyn Extra>,
    idle_ns: u64,
) {
    let mut busy_until = now_ns() + idle_ns;
    while !ring.is_closed.load(Ordering::Acquire) {
        if ring.to_submit() > 0 && !ring.is_disabled.load(Ordering::Acquire) {
            let Ok(space) = who.space() else { return };
            let env = Env {
                ring: ring.clone(),
                who: who.clone(),
                files: files.clone(),
                extra: extra.clone(),
            };
            let submit = || ring.submit(&Arc::new(env), &Reader::Other(&space), u32::MAX);
            if who.act(submit) == 0 {
                sched::yield_now();
            }
            drop(space);
            ring.changed.notify(abi::poll::POLLOUT | abi::poll::POLLWRNORM);
            busy_until = now_ns() + idle_ns;
            continue;
        }
        ring.flush();
        if now_ns() < busy_until {
            sched::yield_now();
            continue;
        }
        ring.shared.change(word::SQ_FLAGS, SQ_NEED_WAKEUP, 0);
        let kicked = || ring.poller_kicked.swap(false, Ordering::AcqRel);
        // One that came before the flag was set.
        let due = || (kicked() || ring.to_submit() > 0).then_some(());
        ring.poller.wait(due);
        ring.shared.change(word::SQ_FLAGS, 0, SQ_NEED_WAKEUP);
        busy_until = now_ns() + idle_ns;
    }
}
