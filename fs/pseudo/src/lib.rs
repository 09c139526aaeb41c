#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod file;
mod node;
mod text;
mod tree;

pub use file::TextFile;
pub use node::{Access, Body, Changes, Directory, Identity, Lister, Node, NodeInode, Target, Text};
pub use text::{Number, Put};
pub use tree::{Tree, file, knob, link, show};

use abi::Result;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt::{self, Write};
use vfs::{FsStat, SuperBlock, SuperInit, SuperOps};

/// The options of a mount.
pub trait Settings: Send + Sync {
    /// Changes those that the text names, at a remount.
    ///
    /// # Errors
    /// `EINVAL` for what is no option.
    fn change(&self, text: &[u8]) -> Result<()>;

    /// Writes those that are not as usual, each after a comma.
    fn show(&self, out: &mut dyn Write) -> fmt::Result;

    /// The last mount is gone.
    fn unmounted(&self) {}
}

/// The super block's part: the inodes in use, so that a file has one inode at a time.
pub struct PseudoSuper {
    pub(crate) inodes: vfs::InodeCache,
    settings: Option<Arc<dyn Settings>>,
}

impl SuperOps for PseudoSuper {
    fn statfs(&self, sb: &SuperBlock) -> Result<FsStat> {
        Ok(FsStat {
            magic: sb.magic,
            block_size: 4096,
            fragment_size: 4096,
            name_max: 255,
            ..FsStat::default()
        })
    }

    fn remount(&self, _: &Arc<SuperBlock>, _: u64, data: &[u8]) -> Result<()> {
        match &self.settings {
            Some(settings) => settings.change(data),
            None => Ok(()),
        }
    }

    fn put_super(&self, _: &SuperBlock) {
        if let Some(settings) = &self.settings {
            settings.unmounted();
        }
    }

    fn show_options(&self, _: &SuperBlock, out: &mut dyn Write) -> fmt::Result {
        match &self.settings {
            Some(settings) => settings.show(out),
            None => Ok(()),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The inode with this number of a super block made by [`super_block`], if it is in use.
pub fn inode_in_use(sb: &SuperBlock, ino: u64) -> Option<Arc<vfs::Inode>> {
    sb.private::<PseudoSuper>()?.inodes.get(ino)
}

/// A super block of type `fs_type` whose root is `root`.
pub fn super_block(
    fs_type: &'static str,
    magic: u64,
    root: Node,
    settings: Option<Arc<dyn Settings>>,
) -> Arc<SuperBlock> {
    let ops = Box::new(PseudoSuper { inodes: vfs::InodeCache::new(), settings });
    let sb = SuperBlock::new(SuperInit::pseudo(fs_type, magic), ops);
    let inode = node::inode_of(&sb, root);
    sb.set_root(inode);
    sb
}
