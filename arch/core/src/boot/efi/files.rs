//! Files on the device that the image was loaded from (UEFI 2.10 §13.4, §13.5).

use super::firmware::{Firmware, untyped};
use core::ptr;
use uefi_raw::Status;
use uefi_raw::protocol::file_system::{
    FileAttribute, FileInfo, FileMode, FileProtocolV1, SimpleFileSystemProtocol,
};

/// Room for a file's information, name included.
const INFO_LEN: usize = 1024;

/// The root folder of a file system.
pub(super) struct Volume(*mut FileProtocolV1);

/// An open file, closed when dropped.
pub(super) struct File(*mut FileProtocolV1);

impl Volume {
    /// The file system that this image lies on.
    pub(super) fn of_boot_device(firmware: &Firmware) -> Option<Volume> {
        let device = firmware.boot_device()?;
        let id = &SimpleFileSystemProtocol::GUID;
        let system = firmware.protocol::<SimpleFileSystemProtocol>(device, id)?;
        let mut root = ptr::null_mut();
        // SAFETY: the firmware's protocol, with a place for its answer.
        let status = unsafe { ((*system).open_volume)(system, &mut root) };
        (status == Status::SUCCESS).then_some(Volume(root))
    }

    pub(super) fn open(&self, path: &[u16]) -> Result<File, Status> {
        let mut file = ptr::null_mut();
        let nothing = FileAttribute::empty();
        // SAFETY: the open root folder, and a path that ends in NUL.
        let status =
            unsafe { ((*self.0).open)(self.0, &mut file, path.as_ptr(), FileMode::READ, nothing) };
        if status == Status::SUCCESS { Ok(File(file)) } else { Err(status) }
    }
}

impl File {
    /// Its length in bytes.
    pub(super) fn len(&self) -> Result<usize, Status> {
        #[repr(C, align(8))]
        struct Room([u8; INFO_LEN]);
        let mut room = Room([0; INFO_LEN]);
        let mut len = INFO_LEN;
        let info = untyped(room.0.as_mut_ptr());
        // SAFETY: an open file, and `len` bytes of room.
        let status = unsafe { ((*self.0).get_info)(self.0, &FileInfo::ID, &mut len, info) };
        if status != Status::SUCCESS {
            return Err(status);
        }
        // SAFETY: the firmware wrote the structure there, aligned.
        Ok(unsafe { (*info.cast::<FileInfo>()).file_size } as usize)
    }

    /// Reads `len` bytes to `at`, which has room for them.
    pub(super) fn read(&self, at: *mut u8, len: usize) -> Result<(), Status> {
        let mut done = 0;
        while done < len {
            let mut count = len - done;
            // SAFETY: an open file; the rest of the room has `count` bytes.
            let status = unsafe { ((*self.0).read)(self.0, &mut count, untyped(at.add(done))) };
            match (status, count) {
                (Status::SUCCESS, 1..) => done += count,
                (Status::SUCCESS, _) => return Err(Status::END_OF_FILE),
                _ => return Err(status),
            }
        }
        Ok(())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: an open file; closing it cannot fail.
        let _ = unsafe { ((*self.0).close)(self.0) };
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // SAFETY: as above.
        let _ = unsafe { ((*self.0).close)(self.0) };
    }
}
