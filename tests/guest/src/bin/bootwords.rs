//! Process 1 that prints what the kernel gave it (arguments, environment, root file system) and has
//! the machine switched off.

use std::ffi::CString;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    println!("arguments: {}", words.join(" "));
    for (name, value) in std::env::vars() {
        println!("environment: {name}={value}");
    }
    let _ = std::fs::create_dir("/proc");
    if let (Ok(kind), Ok(place)) = (CString::new("proc"), CString::new("/proc")) {
        // SAFETY: all strings end in NUL, and proc takes no options.
        unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines().filter(|line| line.split(' ').nth(1) == Some("/")) {
        let options = line.split(' ').nth(3).unwrap_or_default();
        println!("root: {} {}", options.split(',').next().unwrap_or_default(), line);
    }
    // SAFETY: takes no pointers.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    loop {
        std::thread::park();
    }
}
