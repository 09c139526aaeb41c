//! The memory devices, major 1 (`null(4)`, `full(4)`, `random(4)`).

use alloc::string::ToString;
use alloc::sync::Arc;
use core::any::Any;
use core::ops::Range;

use abi::{Errno, Result};
use arch::addr::VirtAddr;
use arch::lock::Once;
use arch::uio::{Sink, Source};
use pagecache::Mapping;
use vfs::dev::{DeviceNode, DeviceOpen, Opened, add_node, register_char};
use vfs::{
    Cap, Context, DeviceNumber, File, FileKind, FileMode, FileOps, Inode, MapArgs, PollTable,
};
use vm::MapSource;

const MEM_MAJOR: u32 = 1;
const RNDGETENTCNT: u32 = 0x8004_5200;
const RNDADDTOENTCNT: u32 = 0x4004_5201;
const RNDADDENTROPY: u32 = 0x4008_5203;
const RNDCLEARPOOL: u32 = 0x5206;

type Fill = fn(&mut [u8]);

static RANDOM: Once<Fill> = Once::new();

/// Names the generator behind `/dev/random` and `/dev/urandom`.
pub fn set_random(fill: Fill) {
    RANDOM.call_once(|| fill);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Zero,
    Full,
    Random,
}

struct MemDevice(Kind);

impl MemDevice {
    fn random(sink: &mut Sink<'_>) -> Result<usize> {
        let fill = RANDOM.get().ok_or(Errno::EAGAIN)?;
        let mut buffer = [0u8; 256];
        let mut done = 0;
        while !sink.is_full() {
            let step = sink.remaining().min(buffer.len());
            let part = buffer.get_mut(..step).unwrap_or(&mut []);
            fill(part);
            match sink.put(part) {
                Ok(count) => done += count,
                Err(_) if done > 0 => break,
                Err(fault) => return Err(fault.into()),
            }
        }
        buffer.fill(0);
        Ok(done)
    }
}

/// Private zeros for `mmap` of `/dev/zero`.
struct Zeros(Arc<Mapping>);

impl MapSource for Zeros {
    fn mapping(&self) -> Option<Arc<Mapping>> {
        Some(self.0.clone())
    }
}

impl FileOps for MemDevice {
    fn read_at(&self, _file: &File, _pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        match self.0 {
            Kind::Null => Ok(0),
            Kind::Zero | Kind::Full => Ok(sink.put_zeros(sink.remaining())?),
            Kind::Random => Self::random(sink),
        }
    }

    fn write_at(&self, _file: &File, _pos: u64, source: &mut Source<'_>) -> Result<usize> {
        if self.0 == Kind::Full {
            return Err(Errno::ENOSPC);
        }
        let count = source.remaining();
        source.advance(count);
        Ok(count)
    }

    fn seek(&self, _file: &File, _current: u64, _offset: i64, _whence: u32) -> Result<u64> {
        Ok(0)
    }

    fn poll(&self, _file: &File, _table: Option<&mut PollTable<'_>>) -> u32 {
        vfs::poll::ALWAYS_READY
    }

    fn ioctl(&self, _file: &Arc<File>, ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        if self.0 != Kind::Random {
            return Err(Errno::ENOIOCTLCMD);
        }
        match cmd {
            RNDGETENTCNT => {
                arch::user::write_val(VirtAddr(arg as u64), &256u32)?;
                Ok(0)
            }
            RNDADDTOENTCNT | RNDADDENTROPY | RNDCLEARPOOL => {
                ctx.creds.require(Cap::SYS_ADMIN)?;
                Ok(0)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn mmap(&self, _file: &Arc<File>, args: &MapArgs) -> Result<Arc<dyn MapSource>> {
        if self.0 != Kind::Zero {
            return Err(Errno::ENODEV);
        }
        let size = args.offset.saturating_add(args.len);
        Ok(Arc::new(Zeros(Mapping::without_backing(size))))
    }

    fn fsync(&self, _file: &File, _range: Range<u64>, _data_only: bool) -> Result<()> {
        Err(Errno::EINVAL)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Opens the devices of major 1.
struct MemOpener;

impl DeviceOpen for MemOpener {
    fn open(
        &self,
        dev: DeviceNumber,
        _inode: &Arc<Inode>,
        flags: u32,
        ctx: &Context<'_>,
    ) -> Result<Opened> {
        static DEVICES: Once<[Arc<MemDevice>; 4]> = Once::new();
        let [null, zero, full, random] = DEVICES.call_once(|| {
            [Kind::Null, Kind::Zero, Kind::Full, Kind::Random].map(|k| Arc::new(MemDevice(k)))
        });
        let ops: Arc<dyn FileOps> = match dev.minor() {
            3 => null.clone(),
            5 => zero.clone(),
            7 => full.clone(),
            8 | 9 => random.clone(),
            11 => return crate::kmsg::open(flags, ctx),
            _ => return Err(Errno::ENXIO),
        };
        Ok(Opened { ops, mode: FileMode::SEEK | FileMode::POSITIONAL })
    }
}

/// Registers the devices and their nodes.
pub(crate) fn register() -> Result<()> {
    register_char(DeviceNumber::new(MEM_MAJOR, 0), 256, "mem", Arc::new(MemOpener))?;
    for (name, minor, mode) in [
        ("null", 3, 0o666),
        ("zero", 5, 0o666),
        ("full", 7, 0o666),
        ("random", 8, 0o666),
        ("urandom", 9, 0o666),
        ("kmsg", 11, 0o644),
    ] {
        add_node(DeviceNode {
            name: name.to_string(),
            kind: FileKind::CharDevice,
            dev: DeviceNumber::new(MEM_MAJOR, minor),
            mode,
            class: "mem",
            attributes: alloc::vec::Vec::new(),
        });
    }
    Ok(())
}
