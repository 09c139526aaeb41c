//! The real driver against a model of its hardware.

mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::vec::Vec;

use abi::Errno;
use arch::lock::Once;
use block::{Asker, Bio, BioFlags, Disk, Op, Purpose};
use frames::{Flags, PageRef};
use hw::Mmio;

use crate::controller::Controller;
use crate::identify::tests::modern;
use crate::port::Port;
use crate::registers::event;
use model::{Device, Hba};

/// Registers of the controller and two ports.
const LEN: usize = 0x200;
const BLOCKS: u64 = 4096;

struct Machine {
    hba: Arc<Hba>,
    controller: Arc<Controller>,
    interrupts: Option<thread::JoinHandle<()>>,
}

impl Machine {
    /// With these devices on its ports.
    fn new(devices: [Option<Device>; 2]) -> Machine {
        frames::init_host(256 << 20);
        let hba = Arc::new(Hba::default());
        for (port, device) in hba.state().ports.iter_mut().zip(devices) {
            port.device = device;
        }
        let mmio = Mmio::simulated(hba.clone(), LEN);
        let controller = Controller::new("test".into(), mmio).unwrap();
        assert_eq!(controller.ports.len(), 2, "ports without registers are left out");
        let (served, model) = (controller.clone(), hba.clone());
        let interrupts = thread::spawn(move || {
            while model.wait_for_interrupt() {
                served.interrupt();
            }
        });
        controller.bring_up();
        Machine { hba, controller, interrupts: Some(interrupts) }
    }

    fn port(&self, index: usize) -> &Arc<Port> {
        &self.controller.ports[index]
    }

    fn disk(&self, index: usize) -> Arc<Disk> {
        self.find_disk(index).expect("a disk")
    }

    fn find_disk(&self, index: usize) -> Option<Arc<Disk>> {
        self.port(index).attached.lock().as_ref().and_then(|attached| attached.disk.clone())
    }

    fn with_device<R>(&self, index: usize, change: impl FnOnce(&mut Device) -> R) -> R {
        change(self.hba.state().ports[index].device.as_mut().expect("a device"))
    }

    fn codes(&self, index: usize) -> Vec<u8> {
        self.hba.state().ports[index].done.iter().map(|(code, _)| *code).collect()
    }

    fn hold(&self, index: usize, is_held: bool) {
        self.hba.state().ports[index].is_held = is_held;
        self.hba.work();
    }

    /// Whether something becomes true within a while.
    fn soon(&self, is_true: impl Fn(&Machine) -> bool) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if is_true(self) {
                return true;
            }
            thread::sleep(Duration::from_millis(2));
        }
        false
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for index in 0..2 {
            if let Some(disk) = self.find_disk(index) {
                disk.remove();
            }
        }
        self.hba.end();
        if let Some(thread) = self.interrupts.take() {
            let _ = thread.join();
        }
    }
}

fn disk() -> Option<Device> {
    Some(Device::new(modern(BLOCKS), false, BLOCKS as usize * 512))
}

/// A disk with 28-bit blocks and without a queue.
fn old_disk() -> Option<Device> {
    let mut identify = [0; 512];
    (identify[99], identify[121]) = (3, (BLOCKS >> 8) as u8);
    Some(Device::new(identify, false, BLOCKS as usize * 512))
}

fn drive() -> Option<Device> {
    let mut identify = [0; 512];
    (identify[0], identify[1]) = (0x80, 0x85);
    let mut device = Device::new(identify, true, 256 * 2048);
    device.data.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 2048) as u8);
    Some(device)
}

fn page() -> PageRef {
    frames::alloc_page(Flags::ZERO).unwrap()
}

type Outcome = Arc<Once<abi::Result<()>>>;

/// Starts a transfer of one page; its outcome comes.
fn start(disk: &Disk, op: Op, sector: u64, page: &PageRef) -> Outcome {
    let outcome: Outcome = Arc::new(Once::new());
    let told = outcome.clone();
    let mut bio = Bio::new(op, sector, move |result| {
        told.call_once(|| result);
    });
    bio.push(page.clone(), 0, 4096);
    disk.whole().submit(bio);
    outcome
}

fn transfer(disk: &Disk, op: Op, sector: u64, page: &PageRef) -> abi::Result<()> {
    let mut bio = Bio::new(op, sector, |_| {});
    bio.push(page.clone(), 0, 4096);
    disk.whole().submit_and_wait(bio)
}

#[test]
fn data_goes_both_ways_on_all_kinds_of_disks() {
    for (device, codes) in [(disk(), [0x61, 0x60]), (old_disk(), [0xca, 0xc8])] {
        let machine = Machine::new([device, None]);
        let disk = machine.disk(0);
        assert_eq!(disk.whole().sectors(), BLOCKS);
        let (written, read) = (page(), page());
        written.copy_in(100, b"here it is");
        assert_eq!(transfer(&disk, Op::Write, 64, &written), Ok(()));
        assert_eq!(transfer(&disk, Op::Read, 64, &read), Ok(()));
        let mut found = [0; 10];
        read.copy_out(100, &mut found);
        assert_eq!(&found, b"here it is");
        let seen = machine.codes(0);
        assert!(seen.ends_with(&codes), "{seen:x?}");
    }
}

#[test]
fn disks_have_caches_and_discard() {
    let machine = Machine::new([disk(), None]);
    let disk = machine.disk(0);
    assert!(disk.whole().limits().write_cache && !disk.whole().limits().fua);
    machine.with_device(0, |device| device.data[512 * 100..512 * 300].fill(7));
    let mut bio = Bio::new(Op::Write, 0, |_| {});
    bio.push(page(), 0, 4096);
    bio.flags |= BioFlags::FUA;
    assert_eq!(disk.whole().submit_and_wait(bio), Ok(()));
    assert!(machine.codes(0).ends_with(&[0x61, 0xea]), "a flush makes it durable");
    assert_eq!(disk.whole().discard(100, 150), Ok(()));
    machine.with_device(0, |device| {
        assert!(device.data[512 * 100..512 * 250].iter().all(|byte| *byte == 0));
        assert!(device.data[512 * 250..512 * 300].iter().all(|byte| *byte == 7));
    });
}

#[test]
fn a_flush_and_queued_commands_take_turns() {
    let machine = Machine::new([disk(), None]);
    let disk = machine.disk(0);
    machine.hold(0, true);
    let before = machine.codes(0).len();
    let pages: Vec<PageRef> = (0..4).map(|_| page()).collect();
    let early: Vec<Outcome> =
        (0..2).map(|n| start(&disk, Op::Read, 8 * n, &pages[n as usize])).collect();
    let flush: Outcome = Arc::new(Once::new());
    let told = flush.clone();
    disk.whole().submit(Bio::without_data(Op::Flush, 0, 0, move |result| {
        told.call_once(|| result);
    }));
    let late: Vec<Outcome> =
        (2..4).map(|n| start(&disk, Op::Read, 8 * n, &pages[n as usize])).collect();
    machine.hold(0, false);
    let all = || early.iter().chain([&flush]).chain(&late);
    assert!(machine.soon(|_| all().all(|outcome| outcome.get() == Some(&Ok(())))));
    assert_eq!(machine.codes(0)[before..], [0x60, 0x60, 0xea, 0x60, 0x60]);
}

#[test]
fn a_failed_queued_command_fails_alone() {
    let machine = Machine::new([disk(), None]);
    let disk = machine.disk(0);
    // Uncorrectable: not tried again.
    machine.with_device(0, |device| device.bad.insert(800, (0x40, 100)));
    machine.hold(0, true);
    let pages: Vec<PageRef> = (0..5).map(|_| page()).collect();
    let outcomes: Vec<Outcome> = (0..5u64)
        .map(|n| start(&disk, Op::Read, 800 + (n + 3) % 5 * 80, &pages[n as usize]))
        .collect();
    machine.hold(0, false);
    assert!(machine.soon(|_| outcomes.iter().all(|outcome| outcome.get().is_some())));
    let failed = outcomes.iter().filter(|outcome| outcome.get() == Some(&Err(Errno::EIO)));
    assert_eq!(failed.count(), 1);
    assert!(machine.codes(0).contains(&0x2f), "the log was read");
    assert_eq!(transfer(&disk, Op::Read, 0, &page()), Ok(()));
}

#[test]
fn what_may_go_away_is_tried_again() {
    for device in [disk(), old_disk()] {
        let machine = Machine::new([device, None]);
        let disk = machine.disk(0);
        machine.with_device(0, |device| {
            device.bad.insert(80, (0x84, 3));
            device.bad.insert(160, (0x04, u32::MAX));
        });
        assert_eq!(transfer(&disk, Op::Read, 80, &page()), Ok(()));
        assert_eq!(transfer(&disk, Op::Read, 160, &page()), Err(Errno::EIO));
        assert_eq!(transfer(&disk, Op::Write, 160 + 8, &page()), Ok(()));
    }
}

#[test]
fn a_silent_disk_is_reset_and_nothing_is_lost() {
    let machine = Machine::new([disk(), None]);
    let disk = machine.disk(0);
    machine.with_device(0, |device| device.is_silent = true);
    let pages = [page(), page()];
    let outcomes = [start(&disk, Op::Read, 0, &pages[0]), start(&disk, Op::Read, 80, &pages[1])];
    thread::sleep(Duration::from_millis(20));
    assert!(outcomes.iter().all(|outcome| outcome.get().is_none()));
    let number = machine.port(0).lane.lock().device;
    machine.port(0).timed_out(number, 0);
    assert!(machine.soon(|_| outcomes.iter().all(|outcome| outcome.get() == Some(&Ok(())))));
}

#[test]
fn a_disk_that_goes_fails_its_requests_and_another_may_come() {
    let machine = Machine::new([disk(), disk()]);
    let (old, other) = (machine.disk(0), machine.disk(1));
    let name = old.name().to_string();
    machine.hold(0, true);
    let pages: Vec<PageRef> = (0..3).map(|_| page()).collect();
    let outcomes: Vec<Outcome> =
        (0..3).map(|n| start(&old, Op::Write, 8 * n, &pages[n as usize])).collect();
    // Somebody has it open, so the next one has another name.
    let user = old.whole().open();
    machine.hba.unplug(0);
    assert!(machine.soon(|_| outcomes.iter().all(|o| o.get() == Some(&Err(Errno::EIO)))));
    assert!(machine.soon(|_| block::disks().iter().all(|disk| !Arc::ptr_eq(disk, &old))));
    assert_eq!(transfer(&old, Op::Read, 0, &page()), Err(Errno::EIO));
    assert_eq!(transfer(&other, Op::Read, 0, &page()), Ok(()), "the other port goes on");
    machine.hold(0, false);

    machine.hba.plug(0, disk().unwrap());
    assert!(machine.soon(|machine| machine.find_disk(0).is_some()));
    let new = machine.disk(0);
    assert_ne!(new.name(), name);
    assert_eq!(transfer(&new, Op::Write, 0, &page()), Ok(()));
    assert_eq!(transfer(&old, Op::Read, 0, &page()), Err(Errno::EIO), "the old one stays gone");
    drop(user);
}

#[test]
fn trouble_on_the_link_loses_nothing() {
    let machine = Machine::new([disk(), None]);
    let disk = machine.disk(0);
    machine.hold(0, true);
    let pages = [page(), page()];
    let outcomes = [start(&disk, Op::Read, 0, &pages[0]), start(&disk, Op::Read, 80, &pages[1])];
    machine.port(0).stumble(event::INTERFACE_FATAL);
    machine.hold(0, false);
    assert!(machine.soon(|_| outcomes.iter().all(|outcome| outcome.get() == Some(&Ok(())))));
    assert!(machine.codes(0).iter().filter(|code| **code == 0xec).count() >= 2, "asked again");
}

#[test]
fn a_drive_reads_and_says_what_is_wrong() {
    let machine = Machine::new([None, drive()]);
    let disk = machine.disk(1);
    assert_eq!((disk.whole().sectors(), disk.whole().block_size()), (1024, 2048));
    assert!(disk.whole().limits().removable && disk.partitions().is_empty());
    assert_eq!(transfer(&disk, Op::Write, 40, &page()), Err(Errno::EREMOTEIO));
    let read = page();
    assert_eq!(transfer(&disk, Op::Read, 40, &read), Ok(()));
    let mut found = [0; 2];
    read.copy_out(2047, &mut found);
    assert_eq!(found, [10, 11]);
    // A new medium is told of once; the read is done all the same.
    machine.with_device(1, |device| device.attention = Some([6, 0x28, 0]));
    assert_eq!(transfer(&disk, Op::Read, 40, &read), Ok(()));
    machine.with_device(1, |device| device.attention = Some([2, 0x3a, 1]));
    assert_eq!(transfer(&disk, Op::Read, 40, &read), Err(Errno::EIO));
    machine.with_device(1, |device| device.attention = Some([2, 0x3a, 1]));
    assert_eq!(disk.whole().prepare(Purpose::Read), Err(Errno::ENOMEDIUM));
    assert_eq!(disk.whole().prepare(Purpose::Read), Ok(()));
    let asker = Asker { users: 1, may_administer: true, may_do_raw_io: true };
    assert_eq!(disk.whole().driver().ioctl(asker, 0x5326, 0), Ok(4));
}

#[test]
fn reads_and_questions_do_not_meet() {
    let machine = Machine::new([None, drive()]);
    let disk = machine.disk(1);
    let asking = {
        let disk = disk.clone();
        thread::spawn(move || {
            let asker = Asker { users: 1, may_administer: true, may_do_raw_io: true };
            (0..100).all(|_| disk.whole().driver().ioctl(asker, 0x5326, 0) == Ok(4))
        })
    };
    for n in 0..100 {
        assert_eq!(transfer(&disk, Op::Read, 8 * n % 1000, &page()), Ok(()));
    }
    assert!(asking.join().unwrap());
}

#[test]
fn a_read_that_comes_during_a_question_keeps_its_place() {
    let machine = Machine::new([None, drive()]);
    let disk = machine.disk(1);
    machine.hold(1, true);
    let asking = {
        let disk = disk.clone();
        thread::spawn(move || {
            let asker = Asker { users: 1, may_administer: true, may_do_raw_io: true };
            disk.whole().driver().ioctl(asker, 0x5326, 0)
        })
    };
    assert!(machine.soon(|machine| machine.port(1).lane.lock().kept.is_some()));
    let read = page();
    let outcome = start(&disk, Op::Read, 40, &read);
    machine.hold(1, false);
    assert_eq!(asking.join().unwrap(), Ok(4));
    assert!(machine.soon(|_| outcome.get() == Some(&Ok(()))));
    let mut found = [0; 2];
    read.copy_out(2047, &mut found);
    assert_eq!(found, [10, 11]);
}

#[test]
fn the_end_writes_caches() {
    let machine = Machine::new([disk(), drive()]);
    machine.controller.shut_down();
    assert!(machine.codes(0).ends_with(&[0xea, 0xe0]));
}

#[test]
fn registers_of_ones_are_no_controller() {
    struct Ones;
    impl hw::sim::Model for Ones {
        fn read(&self, _: usize, _: usize) -> u64 {
            u64::MAX
        }
        fn write(&self, _: usize, _: usize, _: u64) {}
    }
    frames::init_host(256 << 20);
    let mmio = Mmio::simulated(Arc::new(Ones), LEN);
    assert_eq!(Controller::new("test".into(), mmio).map(|_| ()), Err(Errno::ENODEV));
}

/// Whatever the registers say, the driver comes to an end and to no panic.
#[test]
fn registers_of_noise_do_no_harm() {
    struct Noise(AtomicU64);
    impl hw::sim::Model for Noise {
        fn read(&self, _: usize, _: usize) -> u64 {
            // The upper bits of a linear congruential sequence.
            let next = |old: u64| {
                Some(
                    old.wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407),
                )
            };
            let old = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
            old.unwrap_or(0) >> 32
        }
        fn write(&self, _: usize, _: usize, _: u64) {}
    }
    frames::init_host(256 << 20);
    for seed in 0..4 {
        let mmio = Mmio::simulated(Arc::new(Noise(AtomicU64::new(seed))), LEN);
        let Ok(controller) = Controller::new("noise".into(), mmio) else { continue };
        controller.bring_up();
        (0..50).for_each(|_| controller.interrupt());
        for port in &controller.ports {
            port.look_after(event::LINK);
            port.timed_out(0, 40);
        }
        controller.shut_down();
    }
}

#[test]
fn devices_that_make_no_sense_are_left_out() {
    let nonsense = |identify| Some(Device::new(identify, false, 512));
    let machine = Machine::new([nonsense([0xff; 512]), nonsense([0; 512])]);
    assert!(machine.find_disk(0).is_none() && machine.find_disk(1).is_none());
}
