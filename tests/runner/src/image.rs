//! Disk images: a distribution's tarball with the cases added, as an ext4 file system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cases::Case;

/// An ext4 image that runs are copied from.
pub(crate) struct Image {
    path: PathBuf,
}

impl Image {
    /// A fresh copy for one run.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<(), String> {
        command("cp", &["--sparse=always".as_ref(), self.path.as_os_str(), path.as_os_str()])
    }
}

/// What a run does, put into `/oracle` of the image.
pub(crate) enum Content<'a> {
    /// The comparison of command lines, and the folder of guest programs.
    Cases(&'a [Case], &'a Path),
    /// A measurement.
    Bench(Measurement<'a>),
    /// One command, and the folder of a strace that runs anywhere.
    Trace(&'a str, &'a Path),
}

/// What a measurement runs.
pub(crate) struct Measurement<'a> {
    /// The script that is init.
    pub(crate) script: &'a str,
    /// What it reads from `/oracle/words`, one a line.
    pub(crate) words: &'a [String],
    /// The folder of guest programs, if it needs them.
    pub(crate) programs: Option<&'a Path>,
}

/// Unpacks `tarball`, adds the content and makes an image below `work_dir`.
pub(crate) fn build(
    tarball: &Path,
    content: Content<'_>,
    work_dir: &Path,
) -> Result<Image, String> {
    let stem = tarball.file_name().unwrap_or_default().to_string_lossy();
    let stem = stem.split(".tar").next().unwrap_or_default().to_string();
    let root = work_dir.join(format!("root-{stem}"));
    // The archive may have been made anew.
    let unpacked = root.join(".unpacked");
    let stamp = stamp(tarball)?;
    if !fs::read_to_string(&unpacked).is_ok_and(|old| old == stamp) {
        let _ = fs::remove_dir_all(&root);
        make_dir(&root)?;
        let options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xf"];
        let mut words: Vec<&std::ffi::OsStr> = options.iter().map(|o| o.as_ref()).collect();
        words.extend([tarball.as_os_str(), "-C".as_ref(), root.as_os_str()]);
        command("tar", &words)?;
        write(&unpacked, &stamp)?;
    }

    let oracle = root.join("oracle");
    let _ = fs::remove_dir_all(&oracle);
    make_dir(&oracle)?;
    let script = match content {
        Content::Cases(cases, programs) => {
            add_programs(&oracle, programs)?;
            add_modules(&oracle.join("modules"))?;
            make_dir(&oracle.join("cases"))?;
            for (index, case) in cases.iter().enumerate() {
                let name = format!("{index:03}-{}", case.name);
                write(&oracle.join("cases").join(name), &case.script)?;
            }
            include_str!("../../oracle/init.sh")
        }
        Content::Bench(measurement) => {
            let lines: String = measurement.words.iter().map(|word| format!("{word}\n")).collect();
            write(&oracle.join("words"), &lines)?;
            write(&oracle.join("rows.sh"), include_str!("../../bench/rows.sh"))?;
            add_modules(&oracle.join("modules"))?;
            if let Some(programs) = measurement.programs {
                add_programs(&oracle, programs)?;
            }
            measurement.script
        }
        Content::Trace(line, strace) => {
            write(&oracle.join("command"), line)?;
            let folder = oracle.join("strace");
            command("cp", &["-r".as_ref(), strace.as_os_str(), folder.as_os_str()])?;
            let tracee = oracle.join(crate::trace::TRACEE);
            command("ln", &["-s".as_ref(), "/bin/bash".as_ref(), tracee.as_os_str()])?;
            include_str!("../../oracle/trace.sh")
        }
    };
    write(&oracle.join("machine.sh"), include_str!("../../oracle/machine.sh"))?;
    let init = oracle.join("init.sh");
    write(&init, script)?;
    command("chmod", &["755".as_ref(), init.as_os_str()])?;

    // Another image may be in use: a second try is made while the first image waits for its next run.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = work_dir.join(format!("{stem}-{}-{number}.img", std::process::id()));
    let _ = fs::remove_file(&path);
    command(
        "mke2fs",
        &[
            "-q".as_ref(),
            "-t".as_ref(),
            "ext4".as_ref(),
            "-U".as_ref(),
            UUID.as_ref(),
            "-E".as_ref(),
            format!("hash_seed={UUID}").as_ref(),
            "-d".as_ref(),
            root.as_os_str(),
            path.as_os_str(),
            "2G".as_ref(),
        ],
    )?;
    Ok(Image { path })
}

/// Identity of every image, and the seed of its directories' hashes: what a directory costs depends on the
/// order of its names.
const UUID: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

/// Tells one archive from another of the same name.
fn stamp(tarball: &Path) -> Result<String, String> {
    let why = |e| format!("{}: {e}", tarball.display());
    let metadata = fs::metadata(tarball).map_err(why)?;
    let modified = metadata.modified().map_err(why)?;
    Ok(format!("{} {modified:?}\n", metadata.len()))
}

fn add_programs(oracle: &Path, programs: &Path) -> Result<(), String> {
    let bin = oracle.join("bin");
    command("cp", &["-r".as_ref(), programs.as_os_str(), bin.as_os_str()])
}

/// What ours has built in and Debian's kernel loads: a case loads it with `insmod`, which ours refuses.
const MODULES: [&str; 20] = [
    "fs/binfmt_misc.ko",
    "drivers/net/veth.ko",
    "drivers/net/dummy.ko",
    "drivers/net/tun.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "net/llc/llc.ko",
    "net/802/stp.ko",
    "net/bridge/bridge.ko",
    "drivers/block/loop.ko",
    "drivers/cdrom/cdrom.ko",
    "fs/isofs/isofs.ko",
    "fs/fat/fat.ko",
    "fs/fat/vfat.ko",
    "fs/fat/msdos.ko",
    "fs/nls/nls_cp437.ko",
    "fs/nls/nls_ascii.ko",
    "fs/nls/nls_iso8859-1.ko",
    "fs/squashfs/squashfs.ko",
];

/// Copies modules of the kernel that ours is compared with.
fn add_modules(folder: &Path) -> Result<(), String> {
    make_dir(folder)?;
    let kernel = crate::machine::linux_kernel()?;
    let name = kernel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let version = name.trim_start_matches("vmlinuz-");
    for module in MODULES {
        let from = Path::new("/lib/modules").join(version).join("kernel").join(module);
        command("cp", &[from.as_os_str(), folder.as_os_str()])?;
    }
    Ok(())
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Checks an image that a guest has left: `e2fsck -fn` must find nothing.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    let output = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(path)
        .output()
        .map_err(|e| format!("e2fsck: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let first: Vec<&str> = text.lines().take(12).collect();
    Err(format!("e2fsck -fn found errors:\n    {}", first.join("\n    ")))
}

fn make_dir(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn command(program: &str, words: &[&std::ffi::OsStr]) -> Result<(), String> {
    let status =
        Command::new(program).args(words).status().map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} {words:?} failed: {status}")) }
}
