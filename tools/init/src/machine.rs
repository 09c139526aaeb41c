//! The machine around the session: mounts, names, orphans, and the end.

use crate::shell_status;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};
use rustix::system::{RebootCommand, reboot};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long processes get to end when the machine does.
const PATIENCE: Duration = Duration::from_secs(2);

/// Mounts what every program expects. What is mounted already, or cannot be, is left alone: the
/// distribution may know better, and a shell with less is better than none.
pub(crate) fn mount_everything() {
    attach("proc", "/proc", "");
    attach("sysfs", "/sys", "");
    if !Path::new("/dev/null").exists() {
        attach("devtmpfs", "/dev", "mode=0755");
    }
    attach("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666");
    attach("tmpfs", "/dev/shm", "mode=1777");
    attach("tmpfs", "/run", "mode=755");
    attach("tmpfs", "/tmp", "mode=1777");
    let links = [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")];
    for (name, target) in links {
        let _ = symlink(format!("/proc/self/{target}"), format!("/dev/{name}"));
    }
}

fn attach(kind: &str, place: &str, options: &str) {
    let _ = fs::create_dir_all(place);
    let Ok(options) = CString::new(options) else { return };
    let _ = mount(kind, place, kind, MountFlags::empty(), options.as_c_str());
}

/// Takes the host name from `/etc/hostname`.
pub(crate) fn name_host() {
    let text = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let _ = rustix::system::sethostname(name.unwrap_or("localhost").as_bytes());
}

/// `struct ifreq` of netdevice(7) with its flags.
#[repr(C)]
struct InterfaceFlags {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// Brings `lo` up, where the kernel has a network.
pub(crate) fn raise_loopback() {
    use rustix::ioctl::{Setter, ioctl};
    use rustix::net::{AddressFamily, SocketType, socket};
    const SIOCSIFFLAGS: rustix::ioctl::Opcode = 0x8914;
    const IFF_UP: i16 = 1;
    let Ok(socket) = socket(AddressFamily::INET, SocketType::DGRAM, None) else { return };
    let mut request = InterfaceFlags { name: [0; 16], flags: IFF_UP, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: netdevice(7): SIOCSIFFLAGS reads one `struct ifreq`, which has this layout, and
    // writes nothing.
    let _ = unsafe { ioctl(&socket, Setter::<SIOCSIFFLAGS, _>::new(request)) };
}

/// Waits for all children that end, until the one named does; answers its status.
pub(crate) fn reap_until(child: u32) -> i32 {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().cast_unsigned() == child => {
                return shell_status(status.as_raw());
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return crate::STATUS_NOT_FOUND,
        }
    }
}

/// Ends every process, writes everything back and turns the machine off.
pub(crate) fn power_off() -> ! {
    // A file that is open for writing would keep the root from becoming read-only.
    end_processes();
    rustix::fs::sync();
    let _ = mount_remount("/", MountFlags::RDONLY, "");
    let _ = reboot(RebootCommand::PowerOff);
    let _ = reboot(RebootCommand::Restart);
    loop {
        std::thread::park();
    }
}

fn end_processes() {
    // The group of process 1 is spelt -1, and kill(2) takes that as all processes but 1.
    let _ = kill_process_group(Pid::INIT, Signal::KILL);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(_) => return,
        }
    }
}
