#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acl;
pub mod acting;
pub mod atime;
mod clock;
pub mod context;
pub mod cred;
pub mod dcache;
mod dentry;
pub mod dev;
pub mod dnotify;
pub mod dpath;
mod extra;
pub mod fdtable;
pub mod file;
pub mod filecount;
pub mod inode;
pub mod inode_cache;
mod inode_ops;
pub mod lease;
mod lockedinodes;
pub mod locks;
pub mod mount;
pub mod notify;
pub mod ops;
pub mod pagefile;
pub mod path;
pub mod perm;
pub mod poll;
pub mod position;
pub mod rw;
pub mod seek;
pub mod sigio;
pub mod superblock;
mod texts;
pub mod types;
pub mod walk;

pub use context::{Caller, Context, FsPaths, FsState, KernelCaller, Limit, Shared, Sharers};
pub use cred::{Cap, CapSet, Creds, UserNamespace};
pub use dentry::Dentry;
pub use extra::InodeExtra;
pub use fdtable::{CloseOnExec, FdTable, Lookups};
pub use file::{
    DirEntry, DirSink, DirectIo, Direction, File, FileInit, FileMode, FileOps, FileWatcher,
    MapArgs, PagePiece, PageSink, SignalOwner,
};
pub use inode::{DenyWrite, Inode, InodeInit, InodeRef};
pub use inode_cache::InodeCache;
pub use inode_ops::{InodeOps, Link, NewInode, RenameEnd};
pub use mount::{Mount, MountNamespace};
pub use ops::{OpenHow, open};
pub use path::Path;
pub use poll::{PollTable, poll_wait};
pub use superblock::{
    FileSystemType, MountRequest, SuperBlock, SuperInit, SuperOps, anonymous_dev, file_systems,
    find_super, register_file_system, super_blocks, sync_all,
};
pub use types::*;
pub use walk::{Walk, walk, walk_to_parent};
