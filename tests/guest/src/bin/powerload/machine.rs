//! What process 1 has to do itself.

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;

/// `mount(2)`, in a directory that is made.
pub(crate) fn mount(source: &str, place: &str, kind: &str, options: &str) -> Result<()> {
    let _ = std::fs::create_dir(place);
    let text = |text: &str| CString::new(text).map_err(Error::other);
    let (from, to, kind, data) = (text(source)?, text(place)?, text(kind)?, text(options)?);
    // SAFETY: all strings end in NUL.
    let result =
        unsafe { libc::mount(from.as_ptr(), to.as_ptr(), kind.as_ptr(), 0, data.as_ptr().cast()) };
    match (result, Error::last_os_error()) {
        (0, _) => Ok(()),
        // The kernel may have mounted it before.
        (_, error) if place == "/dev" && error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        (_, error) => Err(Error::other(format!("mount {source} on {place}: {error}"))),
    }
}

/// `umount(2)`.
pub(crate) fn unmount(place: &str) -> Result<()> {
    let name = CString::new(place).map_err(Error::other)?;
    // SAFETY: the string ends in NUL.
    if unsafe { libc::umount(name.as_ptr()) } == 0 {
        return Ok(());
    }
    Err(Error::other(format!("umount {place}: {}", Error::last_os_error())))
}

/// `syncfs(2)`.
pub(crate) fn sync_file_system(any: &File) -> Result<()> {
    // SAFETY: the descriptor is open.
    if unsafe { libc::syncfs(any.as_raw_fd()) } == 0 {
        return Ok(());
    }
    Err(Error::last_os_error())
}

/// Ends the machine.
pub(crate) fn switch_off() -> ! {
    // SAFETY: takes no pointers.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    loop {
        std::thread::park();
    }
}
