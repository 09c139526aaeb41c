#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod file;
mod node;
mod tree;

pub use file::TextFile;
pub use node::{Body, Directory, Lister, Node, NodeInode, Target, Text};
pub use tree::{Tree, file, knob, link, show};

use abi::Result;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use vfs::{FsStat, SuperBlock, SuperInit, SuperOps};

/// The super block's part: the inodes in use, so that a file has one inode at a time.
pub struct PseudoSuper {
    pub(crate) inodes: vfs::InodeCache,
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

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A super block of type `fs_type` whose root is `root`.
pub fn super_block(fs_type: &'static str, magic: u64, root: Node) -> Arc<SuperBlock> {
    let ops = Box::new(PseudoSuper { inodes: vfs::InodeCache::new() });
    let sb = SuperBlock::new(SuperInit::pseudo(fs_type, magic), ops);
    let inode = node::inode_of(&sb, root);
    sb.set_root(inode);
    sb
}
