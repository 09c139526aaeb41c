//! Running the kernel in QEMU with the terminal as its console.

use crate::build::{Kernel, Profile, build};
use crate::options::{Disk, Entry, Options};
use crate::{Result, accel, guest, image, paths, shell};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::time::Duration;

/// The key before a command to QEMU (`x` ends it, `c` is its monitor): C-], as in telnet.
const MONITOR_ESCAPE: &str = "0x1d";
/// The status when the machine stopped without telling one.
const NO_STATUS: u8 = 125;

/// Builds, boots, and answers the status of the command or shell.
pub(crate) fn run(options: &Options) -> Result<u8> {
    shell::ensure_programs(&[("qemu-system-x86_64", "qemu-system-x86")])?;
    let kernel = kernel_file(options)?;
    let mut options = options.clone();
    let image = match options.disk {
        Disk::Ram => image::ramdisk(&options)?,
        _ => prepared_image(&options)?,
    };
    if options.disk == Disk::Ram {
        options.initrd = Some(image.clone());
    }
    let options = &options;
    let control = paths::output().join(format!("control.{}", std::process::id()));
    let mut command = machine(options, &kernel, &image, &control);
    let child = command.spawn().map_err(|error| format!("qemu-system-x86_64: {error}"))?;
    let status = attend(child, &control);
    let _ = std::fs::remove_file(&control);
    status
}

/// The kernel to boot: the one given, or the one built now.
pub(crate) fn kernel_file(options: &Options) -> Result<PathBuf> {
    if let Some(kernel) = &options.kernel {
        return Ok(kernel.clone());
    }
    let profile = if options.is_debug_build { Profile::Debug } else { Profile::Release };
    let Kernel { vmlinux, vmlinuz } = build(profile)?;
    Ok(match options.entry {
        Entry::Bios => vmlinuz,
        Entry::Pvh => vmlinux,
    })
}

/// The root image with the command in it, if there is one.
pub(crate) fn prepared_image(options: &Options) -> Result<PathBuf> {
    let path = image::ensure(options)?;
    match &options.command {
        Some(command) => {
            image::put_file(&path, guest::COMMAND_PATH, format!("{command}\n").as_bytes())?;
        }
        None if options.image.is_none() => image::remove_file(&path, guest::COMMAND_PATH)?,
        None => {}
    }
    Ok(path)
}

/// QEMU's command line.
pub(crate) fn machine(options: &Options, kernel: &Path, image: &Path, control: &Path) -> Command {
    let (device, root) = match options.disk {
        Disk::Virtio => {
            (Some("virtio-blk-pci,drive=root"), "root=/dev/vda rootfstype=ext4 rw init")
        }
        Disk::Nvme => {
            (Some("nvme,drive=root,serial=1"), "root=/dev/nvme0n1 rootfstype=ext4 rw init")
        }
        // On q35 the controller is built in.
        Disk::Ahci => (Some("ide-hd,drive=root"), "root=/dev/sda rootfstype=ext4 rw init"),
        Disk::Ram => (None, "rdinit"),
    };
    let init = options.init.as_deref().unwrap_or(guest::INIT_PATH);
    let mut words = format!("console=ttyS0,115200 {root}={init}");
    if options.command.is_some() {
        words.push_str(" quiet");
    } else if let Some((rows, columns)) = window_size() {
        words.push_str(&format!(" LINES={rows} COLUMNS={columns}"));
    }
    if let Ok(terminal) = std::env::var("TERM") {
        words.push_str(&format!(" TERM={terminal}"));
    }
    words.push(' ');
    words.push_str(&options.append);

    let accel = options.accel.as_deref().unwrap_or_else(|| accel::choose(kernel));
    let cpu = options.cpu.as_deref().unwrap_or(accel::cpu(accel));
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-M", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-accel", accel, "-cpu", cpu])
        .args(["-smp", &options.cpus.to_string(), "-m", &options.memory])
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", words.trim_end()])
        .args(["-device", "virtio-rng-pci"])
        .arg("-chardev")
        .arg(format!("socket,id=control,path={},server=on,wait=off", control.display()));
    if let Some(device) = device {
        let drive = format!("if=none,id=root,format=raw,file={}", image.display());
        command.args(["-drive", &drive, "-device", device]);
    }
    if options.command.is_some() {
        command.args(["-serial", "stdio"]);
    } else {
        // QEMU's own escape, C-a, is the start of the line in every shell.
        command.args(["-serial", "mon:stdio", "-echr", MONITOR_ESCAPE]);
    }
    command.args(["-serial", "chardev:control"]);
    if let Some(initrd) = &options.initrd {
        command.arg("-initrd").arg(initrd);
    }
    if options.has_network {
        let mut net = String::from("user,id=net");
        for (host, guest) in &options.forwards {
            net.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
        }
        command.args(["-netdev", &net, "-device", "virtio-net-pci,netdev=net"]);
    }
    command.args(&options.qemu_args);
    command
}

/// Stays with the machine until it stops: takes its status, tells it the window's size.
pub(crate) fn attend(mut child: Child, control: &Path) -> Result<u8> {
    let (sender, receiver) = mpsc::channel();
    if let Some(stream) = connect(control, &mut child)? {
        let writer = stream.try_clone()?;
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(std::io::Result::ok) {
                if let Some(status) = line.trim().strip_prefix("status ") {
                    // The receiver is gone only when QEMU is, and then nobody asks.
                    let _ = sender.send(status.trim().parse::<u8>().unwrap_or(NO_STATUS));
                }
            }
        });
        std::thread::spawn(move || tell_window_size(writer));
    }
    let outcome = child.wait()?;
    match receiver.recv_timeout(Duration::from_millis(200)) {
        Ok(status) => Ok(status),
        Err(_) if outcome.success() => {
            eprintln!("xtask: the machine stopped without a status");
            Ok(NO_STATUS)
        }
        Err(_) => Err(format!("qemu-system-x86_64 failed ({outcome})").into()),
    }
}

/// Connects to QEMU's end of the control line as soon as it is there.
fn connect(control: &Path, child: &mut Child) -> Result<Option<UnixStream>> {
    for _ in 0..500 {
        if let Ok(stream) = UnixStream::connect(control) {
            return Ok(Some(stream));
        }
        if child.try_wait()?.is_some() {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(None)
}

/// Watches the terminal and tells the guest of each change. A look twice a second costs nothing
/// here and needs no signal handler.
fn tell_window_size(mut stream: UnixStream) {
    let mut last = window_size();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = window_size();
        if let Some((rows, columns)) = now.filter(|_| now != last)
            && writeln!(stream, "size {rows} {columns}").is_err()
        {
            return;
        }
        last = now;
    }
}

/// Rows and columns of the terminal, if there is one.
fn window_size() -> Option<(u16, u16)> {
    let terminal = std::fs::File::open("/dev/tty").ok()?;
    let size = rustix::termios::tcgetwinsize(&terminal).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
