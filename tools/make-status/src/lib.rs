//! A loadable object for GNU make (its manual, "Loading Dynamic Objects") with one function,
//! `$(exit-with PREFIX)`: ends make with the number in the file `PREFIX.PID`, where PID is make's.
//!
//! Whatever a recipe's status is, make's own is 2. `make run CMD=…` promises the command's.

use std::ffi::{CStr, c_char, c_int, c_uint};

type Function = unsafe extern "C" fn(*const c_char, c_uint, *mut *mut c_char) -> *mut c_char;

unsafe extern "C" {
    fn gmk_add_function(
        name: *const c_char,
        function: Function,
        min_args: c_uint,
        max_args: c_uint,
        flags: c_uint,
    );
}

/// Make loads nothing whose licence it cannot be combined with.
#[unsafe(no_mangle)]
pub static plugin_is_GPL_compatible: c_int = 1;

/// Called by make when it loads this.
#[unsafe(no_mangle)]
pub extern "C" fn make_status_setup() -> c_int {
    // SAFETY: <gnumake.h>: the name is a C string that lives for ever, the function has the type
    // that make calls, and one argument is asked for.
    unsafe { gmk_add_function(c"exit-with".as_ptr(), exit_with, 1, 1, 0) };
    1
}

unsafe extern "C" fn exit_with(
    _name: *const c_char,
    _count: c_uint,
    arguments: *mut *mut c_char,
) -> *mut c_char {
    // SAFETY: make passes as many C strings as were asked for: one.
    let prefix = unsafe { CStr::from_ptr(*arguments) }.to_string_lossy();
    let path = format!("{prefix}.{}", std::process::id());
    let status = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    if let Some(status) = status.filter(|status| *status != 0) {
        let _ = std::fs::remove_file(path);
        std::process::exit(status);
    }
    std::ptr::null_mut()
}
