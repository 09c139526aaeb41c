//! File systems that are mounted in `/sys` and show what drivers and security modules want to tell. Nobody
//! here has anything to tell in `debugfs` or to be set up in `configfs`; `securityfs` names what decides about
//! access. All mounts of a type show the same.

use abi::Result;
use alloc::sync::Arc;
use arch::lock::Once;
use pseudo::{Node, Tree, show};
use vfs::{FileSystemType, MountRequest, SuperBlock};

/// A type whose mounts show one tree.
struct Beside {
    name: &'static str,
    magic: u64,
    root: fn() -> Node,
    shown: Once<Arc<SuperBlock>>,
}

static TYPES: [Beside; 3] = [
    Beside {
        name: "debugfs",
        magic: 0x6462_6720,
        root: || Node { mode: 0o700, ..Tree::new().into_node() },
        shown: Once::new(),
    },
    Beside {
        name: "securityfs",
        magic: 0x7363_6673,
        root: || {
            let lsm = show(|out| {
                out.extend_from_slice(b"capability");
                Ok(())
            });
            Node { mode: 0o755, ..Tree::new().with("lsm", lsm).into_node() }
        },
        shown: Once::new(),
    },
    Beside {
        name: "configfs",
        magic: 0x6265_6570,
        root: || Node { mode: 0o755, ..Tree::new().into_node() },
        shown: Once::new(),
    },
];

impl FileSystemType for Beside {
    fn name(&self) -> &'static str {
        self.name
    }
    fn mount(&self, _: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        let make = || pseudo::super_block(self.name, self.magic, (self.root)(), None);
        Ok(self.shown.call_once(|| crate::kept(make())).clone())
    }
}

/// Makes the types known to `mount(2)`.
pub(crate) fn init() {
    TYPES.iter().for_each(|fs_type| vfs::register_file_system(fs_type));
}
