//! Directories of a row's own.

use std::ffi::CString;
use std::fs;
use std::path::Path;

use crate::meter::Failure;
use crate::sys::{Fd, c};

/// A file system under test.
#[derive(Clone, Copy)]
pub struct Place {
    /// What rows call it.
    pub name: &'static str,
    /// A directory of three components that does not exist yet.
    path: &'static str,
    /// By how much changes of directories cost more than on tmpfs, roughly.
    pub slowness: u64,
}

/// Memory.
pub const TMPFS: Place = Place { name: "tmpfs", path: "/dev/shm/microbench", slowness: 1 };
/// The disk.
pub const EXT4: Place = Place { name: "ext4", path: "/var/tmp/microbench", slowness: 5 };

impl Place {
    /// An empty directory.
    pub fn scratch(self) -> Result<Scratch, Failure> {
        // What a row has left that was killed.
        let _ = fs::remove_dir_all(self.path);
        fs::create_dir_all(self.path)?;
        Ok(Scratch { path: self.path })
    }

    /// The name of a row.
    pub fn row(self, what: &str) -> String {
        format!("{} {what}", self.name)
    }
}

/// A directory, removed with what is in it when its owner goes.
pub struct Scratch {
    path: &'static str,
}

impl Scratch {
    /// The path of a thing in it.
    pub fn path(&self, name: &str) -> CString {
        c(format!("{}/{name}", self.path))
    }

    /// The directory itself.
    pub fn root(&self) -> CString {
        c(self.path)
    }

    /// A new file of so many bytes, open for reading and writing.
    pub fn file(&self, name: &str, len: usize) -> Result<Fd, Failure> {
        fs::write(Path::new(self.path).join(name), vec![7u8; len])?;
        Fd::open(&self.path(name), libc::O_RDWR)
    }

    /// A new directory, with those above it.
    pub fn directory(&self, name: &str) -> Result<CString, Failure> {
        fs::create_dir_all(Path::new(self.path).join(name))?;
        Ok(self.path(name))
    }

    /// A new symbolic link.
    pub fn link(&self, name: &str, target: &str) -> Result<CString, Failure> {
        std::os::unix::fs::symlink(target, Path::new(self.path).join(name))?;
        Ok(self.path(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.path);
    }
}
