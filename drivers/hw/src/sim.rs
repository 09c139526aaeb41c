//! Simulated hardware for host tests: a test registers a model of a device, and the driver's
//! register accesses go there.

use std::sync::{Arc, OnceLock, RwLock};
use std::vec::Vec;

/// A device's registers. `width` is 1, 2, 4 or 8 bytes; offsets count from the range's start.
pub trait Model: Send + Sync {
    /// A read.
    fn read(&self, offset: usize, width: usize) -> u64;
    /// A write.
    fn write(&self, offset: usize, width: usize, value: u64);
}

type Ports = RwLock<Vec<(u16, u16, Arc<dyn Model>)>>;

fn ports() -> &'static Ports {
    static PORTS: OnceLock<Ports> = OnceLock::new();
    PORTS.get_or_init(|| RwLock::new(Vec::new()))
}

/// Puts a device at `len` ports from `first` on, in front of what was there.
pub fn add_ports(first: u16, len: u16, model: Arc<dyn Model>) {
    if let Ok(mut ports) = ports().write() {
        ports.insert(0, (first, len, model));
    }
}

fn find(port: u16) -> Option<(usize, Arc<dyn Model>)> {
    let ports = ports().read().ok()?;
    ports.iter().find_map(|(first, len, model)| {
        let offset = port.checked_sub(*first)?;
        (offset < *len).then(|| (usize::from(offset), model.clone()))
    })
}

macro_rules! port {
    ($read:ident, $write:ident, $ty:ty, $width:literal) => {
        pub(crate) fn $read(port: u16) -> $ty {
            find(port).map_or(!0, |(offset, model)| model.read(offset, $width) as $ty)
        }
        pub(crate) fn $write(port: u16, value: $ty) {
            if let Some((offset, model)) = find(port) {
                model.write(offset, $width, u64::from(value));
            }
        }
    };
}
port!(port_read8, port_write8, u8, 1);
port!(port_read16, port_write16, u16, 2);
port!(port_read32, port_write32, u32, 4);

/// The machine's memory as a device reaches it. Read and written through the process's own `mem` file, so that no
/// pointer is followed here.
pub mod memory {
    use std::fs::{File, OpenOptions};
    use std::os::unix::fs::FileExt;
    use std::sync::OnceLock;

    use arch::PhysAddr;

    fn memory() -> Option<&'static File> {
        static MEMORY: OnceLock<Option<File>> = OnceLock::new();
        let open = || OpenOptions::new().read(true).write(true).open("/proc/self/mem").ok();
        MEMORY.get_or_init(open).as_ref()
    }

    fn place(address: u64) -> u64 {
        arch::phys::to_virt(PhysAddr(address)) as u64
    }

    /// Reads; whether there is memory.
    pub fn read(address: u64, bytes: &mut [u8]) -> bool {
        memory().is_some_and(|memory| memory.read_exact_at(bytes, place(address)).is_ok())
    }

    /// Writes; whether there is memory.
    pub fn write(address: u64, bytes: &[u8]) -> bool {
        memory().is_some_and(|memory| memory.write_all_at(bytes, place(address)).is_ok())
    }
}
