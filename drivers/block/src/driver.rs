//! What a device driver implements and states about its device.

use abi::Result;

use crate::request::Request;

/// What the hardware can take; fixed when the disk is added (capacity may change later).
#[derive(Clone, Debug)]
pub struct Limits {
    /// Hardware submission queues; at least 1. CPUs are spread over them.
    pub queues: usize,
    /// Requests one hardware queue holds at once: the number of tags.
    pub queue_depth: usize,
    /// Bytes per addressable block (512 or 4096 usually).
    pub logical_block_size: u32,
    /// Bytes per block the medium writes without read-modify-write.
    pub physical_block_size: u32,
    /// Preferred I/O sizes in bytes (0: none stated).
    pub io_min: u32,
    /// Optimal I/O size in bytes (0: none stated).
    pub io_opt: u32,
    /// Most 512-byte sectors in one request.
    pub max_sectors: u32,
    /// Most memory pieces in one request.
    pub max_segments: usize,
    /// Most bytes in one physically contiguous piece.
    pub max_segment_size: u32,
    /// The device has a volatile write cache: flushes matter.
    pub write_cache: bool,
    /// The device honours FUA writes.
    pub fua: bool,
    /// Most sectors of one discard; 0: no discard.
    pub max_discard_sectors: u64,
    /// Most sectors of one write-zeroes; 0: not offered.
    pub max_write_zeroes_sectors: u64,
    /// The device seeks mechanically.
    pub rotational: bool,
    /// Writes are refused.
    pub read_only: bool,
    /// The medium can be taken out.
    pub removable: bool,
    /// Time after which a request counts as lost.
    pub timeout_ns: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            queues: 1,
            queue_depth: 128,
            logical_block_size: 512,
            physical_block_size: 512,
            io_min: 0,
            io_opt: 0,
            max_sectors: 2560,
            max_segments: 128,
            max_segment_size: 65536,
            write_cache: false,
            fua: false,
            max_discard_sectors: 0,
            max_write_zeroes_sectors: 0,
            rotational: false,
            read_only: false,
            removable: false,
            timeout_ns: 30_000_000_000,
        }
    }
}

/// What a disk hangs on, for the device tree.
#[derive(Clone, Debug)]
pub struct Parent {
    /// The PCI function: `0000:00:01.0`.
    pub function: alloc::string::String,
    /// The device between the function and the disk, where it has a name of its own: `nvme0`.
    pub controller: Option<Controller>,
}

/// A controller with a name.
#[derive(Clone, Debug)]
pub struct Controller {
    /// Its class in `/sys/class`.
    pub class: &'static str,
    /// Its name.
    pub name: alloc::string::String,
    /// Files it has there.
    pub attributes: alloc::vec::Vec<(&'static str, alloc::string::String)>,
}

/// A disk's place among SCSI devices, where Linux shows one.
#[derive(Clone, Debug)]
pub struct ScsiPlace {
    /// The device between the function and the host, where there is one: `ata1`.
    pub port: Option<alloc::string::String>,
    /// Host, channel, target and logical unit.
    pub address: [u32; 4],
    /// What drives the host: `ahci`.
    pub host_driver: &'static str,
    /// Peripheral device type (SPC-4 §6.6.2): 0 a disk, 5 a CD-ROM drive.
    pub kind: u8,
    /// Files of the device: `vendor`, `model`, `rev` and the like.
    pub attributes: alloc::vec::Vec<(&'static str, alloc::string::String)>,
}

/// Who asks with an `ioctl`.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// How many have the disk or a partition of it open, the one that asks among them.
    pub users: u32,
    /// It has `CAP_SYS_ADMIN`.
    pub may_administer: bool,
    /// It has `CAP_SYS_RAWIO`.
    pub may_do_raw_io: bool,
}

/// A medium that can be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Medium {
    /// Its length in 512-byte sectors.
    pub sectors: u64,
    /// It may be another one than the last time.
    pub is_new: bool,
}

/// What for a disk is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To ask the drive, whether there is a medium or not (man 2 open, `O_NONBLOCK`).
    Look,
    /// To read the medium.
    Read,
    /// To write it too.
    Write,
}

/// What to do with a request that did not end in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeoutAction {
    /// The driver has completed it (after a reset, say) or will do so.
    Handled,
    /// Wait for another full time-out.
    Extend,
}

/// A block device driver.
///
/// `submit` and `kick` are called on any CPU, in thread or interrupt context, concurrently for the
/// same queue: the driver guards its ring with an interrupt-safe lock of rank 550 or above.
pub trait Driver: Send + Sync {
    /// The device's abilities; read once by [`crate::Disk::add`].
    fn limits(&self) -> Limits;

    /// Puts a request on hardware queue `queue`. There is a free tag by construction; a driver that
    /// still has no room gives the request back and the block layer retries after a completion.
    #[expect(clippy::result_large_err, reason = "giving the request back must not allocate")]
    fn submit(&self, queue: usize, request: Request) -> core::result::Result<(), Request>;

    /// Rings the doorbell: called after the last of a batch of `submit`s on `queue`. A driver that
    /// rings in `submit` leaves it empty.
    fn kick(&self, queue: usize) {
        let _ = queue;
    }

    /// The request with `tag` on `queue` is past its time-out.
    fn timed_out(&self, queue: usize, tag: usize) -> TimeoutAction {
        let _ = (queue, tag);
        TimeoutAction::Extend
    }

    /// Looks for completions without an interrupt; returns how many requests ended.
    fn poll(&self, queue: usize) -> usize {
        let _ = queue;
        0
    }

    /// What the disk hangs on; `None` for what no device is behind.
    fn parent(&self) -> Option<Parent> {
        None
    }

    /// The text of `/sys/block/NAME/serial`.
    fn serial(&self) -> Option<alloc::string::String> {
        None
    }

    /// Files of its own below `/sys/block/NAME`, by path. Whoever makes some come or go tells
    /// [`crate::attributes_changed`].
    fn attributes(&self) -> &'static [&'static str] {
        &[]
    }

    /// The line in one of them.
    fn attribute(&self, path: &str) -> Option<alloc::string::String> {
        let _ = path;
        None
    }

    /// Its place among SCSI devices, if it is one.
    fn scsi(&self) -> Option<ScsiPlace> {
        None
    }

    /// Somebody is about to open the disk. Its medium, where that can be taken out. May sleep.
    ///
    /// # Errors
    /// Why it cannot be opened for that: `ENOMEDIUM`, `EROFS`.
    fn opened(&self, purpose: Purpose) -> Result<Option<Medium>> {
        let _ = purpose;
        Ok(None)
    }

    /// Nobody has the disk or a partition of it open any more. May sleep.
    fn closed(&self) {}

    /// An `ioctl` the block layer does not know: for the driver's own.
    fn ioctl(&self, asker: Asker, command: u32, argument: usize) -> Result<usize> {
        let _ = (asker, command, argument);
        Err(abi::Errno::ENOTTY)
    }
}
