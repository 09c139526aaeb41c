//! What hangs on a port: taking it into service, and out of it.

use abi::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use block::{Disk, Parent, ScsiPlace, names};
use core::sync::atomic::{AtomicU32, Ordering};

use arch::VirtAddr;
use arch::user;

use crate::cdrom::Drive;
use crate::disk::AtaDisk;
use crate::engine::Kind;
use crate::identify::{self, BYTES, Name};
use crate::port::{Port, State};

/// man 4 hd: the 512 bytes that the device says of itself.
const HDIO_GET_IDENTITY: u32 = 0x30d;

/// A device in service.
#[derive(Clone)]
pub(crate) struct Attached {
    /// Which one; see [`crate::port::Lane::device`].
    pub(crate) number: u32,
    /// By this it is known again after a reset.
    pub(crate) data: [u8; BYTES],
    pub(crate) kind: Kind,
    pub(crate) driver: Served,
    /// Somebody makes it a disk, or has.
    pub(crate) is_published: bool,
    /// Once the block layer knows it.
    pub(crate) disk: Option<Arc<Disk>>,
}

/// The driver of a device.
#[derive(Clone)]
pub(crate) enum Served {
    Disk(Arc<AtaDisk>),
    Cdrom(Arc<Drive>),
}

impl Attached {
    /// Whether the device that says `data` is this one: its names and its size.
    pub(crate) fn is(&self, kind: Kind, data: &[u8; BYTES]) -> bool {
        let same = |first: usize, words: usize| {
            let range = first * 2..(first + words) * 2;
            self.data.get(range.clone()) == data.get(range)
        };
        self.kind == kind && same(10, 10) && same(27, 20) && same(60, 2) && same(100, 4)
    }
}

static NEXT: AtomicU32 = AtomicU32::new(1);

impl Port {
    /// Takes the device that answers into service; [`Port::publish`] makes it a disk. The caller is the commander.
    ///
    /// # Errors
    /// Why it cannot be: `ENODEV`, `EINVAL`, `EIO`, `ETIMEDOUT`, `ENOMEM`.
    pub(crate) fn attach(self: &Arc<Self>, kind: Kind) -> Result<()> {
        self.furnish()?;
        let data = self.identify(kind)?;
        // Relaxed: only uniqueness matters.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let speed = self.registers.speed();
        log::info!("ata{}: SATA link up {speed}", self.host + 1);
        let driver = match kind {
            Kind::Disk => {
                let identity = identify::disk(&data)?;
                let Name { model, firmware, .. } = &identity.name;
                log::info!(
                    "ata{}: {model}, {firmware}: {} blocks of {}, queue of {}",
                    self.host + 1,
                    identity.blocks,
                    identity.logical,
                    identity.queue_depth
                );
                Served::Disk(Arc::new(AtaDisk::new(self, number, identity, data)))
            }
            Kind::Packets => {
                let name = identify::packet_device(&data)?;
                if identify::packet_len(&data) > 16 {
                    return Err(Errno::ENODEV);
                }
                log::info!("ata{}: {}, {}, packets", self.host + 1, name.model, name.firmware);
                Served::Cdrom(Arc::new(Drive::new(self, number, data)))
            }
        };
        let attached = Attached { number, data, kind, driver, is_published: false, disk: None };
        *self.attached.lock() = Some(attached);
        let mut lane = self.lane.lock();
        lane.device = number;
        self.registers.clear_errors();
        self.set_live(&mut lane);
        Ok(())
    }

    /// Makes the attached device a disk. Sleeps, and reads it; nothing is held.
    pub(crate) fn publish(&self) {
        let attached = {
            let mut attached = self.attached.lock();
            match attached.as_mut().filter(|attached| !attached.is_published) {
                None => return,
                Some(attached) => {
                    attached.is_published = true;
                    attached.clone()
                }
            }
        };
        let added = match &attached.driver {
            Served::Disk(driver) => Disk::add_named(names::SCSI, driver.clone(), driver.sectors()),
            Served::Cdrom(driver) => {
                driver.ask();
                Disk::add_named(names::CDROM, driver.clone(), driver.sectors())
            }
        };
        let disk = match added {
            Ok(disk) => disk,
            Err(error) => return log::error!("ata{}: no disk: {error}", self.host + 1),
        };
        {
            let mut now = self.attached.lock();
            if let Some(now) = now.as_mut().filter(|now| now.number == attached.number) {
                now.disk = Some(disk);
                return;
            }
        }
        // It went meanwhile.
        disk.remove();
    }

    /// Takes the device out of service: its requests have ended. What is to be removed once nothing is held.
    pub(crate) fn detach(&self) -> Option<Arc<Disk>> {
        {
            let mut lane = self.lane.lock();
            if lane.state != State::Off {
                lane.state = State::Empty;
            }
            lane.device = 0;
            lane.late = 0;
        }
        self.idle.wake_all();
        self.attached.lock().take().and_then(|attached| attached.disk)
    }

    /// Answers an `ioctl` about the device and its place, which disks and drives have alike.
    pub(crate) fn answer(
        &self,
        data: &[u8; BYTES],
        command: u32,
        argument: usize,
    ) -> Option<Result<usize>> {
        if command == HDIO_GET_IDENTITY {
            let told = user::write_val(VirtAddr::new(argument as u64), data);
            return Some(told.map(|()| 0).map_err(Errno::from));
        }
        scsi::answer_address([self.host, 0, 0, 0], command, argument)
    }

    /// The PCI function that disks of this port hang on.
    pub(crate) fn parent(&self) -> Parent {
        Parent { function: self.function.clone(), controller: None }
    }

    /// The place of this port's device among SCSI devices.
    pub(crate) fn scsi_place(&self, kind: u8, vendor: &str, model: &str, rev: &str) -> ScsiPlace {
        let attributes = vec![
            ("device_blocked", String::from("0")),
            ("device_busy", String::from("0")),
            ("model", alloc::format!("{model:<16.16}")),
            ("rev", alloc::format!("{rev:<4.4}")),
            ("scsi_level", String::from("6")),
            ("state", String::from("running")),
            ("timeout", String::from("30")),
            ("type", alloc::format!("{kind}")),
            ("vendor", alloc::format!("{vendor:<8.8}")),
        ];
        ScsiPlace {
            port: Some(alloc::format!("ata{}", self.host + 1)),
            address: [self.host, 0, 0, 0],
            host_driver: "ahci",
            kind,
            attributes,
        }
    }
}
