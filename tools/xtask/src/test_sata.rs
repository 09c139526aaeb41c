//! SATA disks and a CD-ROM drive behind AHCI, which q35 has built in: the root on one, another with a block that
//! cannot be read, an ISO 9660 image.
//!
//! QEMU cannot take a disk from a SATA port while it runs; that is tested on the host, in `drivers/ahci`.

use crate::build::{Profile, build};
use crate::options::Options;
use crate::tally::{Tally, check, is_wanted};
use crate::test_loaders::{log_of, machine};
use crate::{Result, guest, image, paths, shell};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "sata: the root, a disk with a bad block, a CD";

/// The block of 4 KiB on the second disk that cannot be read, and the same in sectors.
const BAD_BLOCK: u32 = 1000;
const BAD_SECTOR: u32 = BAD_BLOCK * 8;

const SCRIPT: &str = r#"
echo "root: $(findmnt -n -o SOURCE,FSTYPE /)"
lsblk -n -d -o NAME,TYPE,RO,RM,VENDOR,MODEL | sed 's/  */ /g; s/ $//'
# While all others are read, over and over.
for part in 1 2 3; do
  (for i in 1 2 3 4 5; do dd if=/dev/sdb of=/dev/null bs=16k count=200 iflag=direct 2> /dev/null || echo lost; done) &
done
dd if=/dev/sdb of=/dev/null bs=4k count=1 skip=BAD_BLOCK iflag=direct 2>&1 | grep -o 'Input/output error'
wait
dd if=/dev/zero of=/dev/sdb bs=1M count=2 oflag=direct conv=fsync 2>&1 | grep -o '2+0 records out'
dd if=/dev/sdb of=/dev/null bs=4k count=1 skip=BAD_BLOCK iflag=direct 2>&1 | grep -o 'Input/output error' | sed 's/^/again: /'
mount -t iso9660 /dev/sr0 /mnt 2>&1; findmnt -n -o SOURCE,FSTYPE /mnt; cat /mnt/hello.txt; md5sum < /mnt/numbers
umount /mnt
echo 1 > /proc/sys/vm/drop_caches; dd if=/dev/sr0 bs=2048 skip=16 count=1 2> /dev/null | head -c 6 | tail -c 5; echo
echo x 2>&1 > /dev/sr0 | grep -o 'Read-only file system'
"#;

/// Runs the case if one of `filters` is part of its name (or there are none).
pub(crate) fn cases(filters: &[&str]) -> Result<Tally> {
    let mut tally = Tally::default();
    if is_wanted(NAME, filters) {
        shell::ensure_programs(&[
            ("qemu-system-x86_64", "qemu-system-x86"),
            ("xorriso", "xorriso"),
        ])?;
        tally.count(NAME, run());
    }
    Ok(tally)
}

fn run() -> Result {
    let directory = paths::output().join("tests/sata");
    fs::create_dir_all(&directory)?;
    let outcome = boot(&directory);
    let _ = fs::remove_dir_all(&directory);
    outcome
}

fn boot(directory: &Path) -> Result {
    let kernel = build(Profile::Release)?;
    let mut options = Options::from_env(&[])?;
    options.rootfs = None;
    let root = directory.join("root.ext4");
    let kept = image::ensure(&options)?;
    shell::run(Command::new("cp").arg("--sparse=always").arg(&kept).arg(&root))?;
    let script = SCRIPT.replace("BAD_BLOCK", &BAD_BLOCK.to_string());
    image::put_file(&root, guest::COMMAND_PATH, script.as_bytes())?;
    let second = directory.join("second.img");
    File::create(&second)?.set_len(16 << 20)?;
    let numbers: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    let cd = cd(directory, &numbers)?;

    let mut command = machine();
    let drive = |name: &str, path: &Path| {
        format!("driver=raw,node-name={name},file.driver=file,file.filename={}", path.display())
    };
    let bad = format!(
        "driver=raw,node-name=second,file.driver=blkdebug,file.image.driver=file,\
         file.image.filename={},file.inject-error.0.event=none,file.inject-error.0.iotype=read,\
         file.inject-error.0.errno=5,file.inject-error.0.sector={BAD_SECTOR}",
        second.display()
    );
    let cd = format!("{},read-only=on,file.read-only=on", drive("cd", &cd));
    for node in [drive("root", &root), bad, cd] {
        command.args(["-blockdev", &node]);
    }
    for device in [
        "ide-hd,drive=root,bus=ide.0",
        "ide-hd,drive=second,bus=ide.1",
        "ide-cd,drive=cd,bus=ide.2",
    ] {
        command.args(["-device", device]);
    }
    let words = format!("console=ttyS0,115200 root=/dev/sda rw init={} panic=-1", guest::INIT_PATH);
    command.arg("-kernel").arg(&kernel.vmlinuz).args(["-append", &words]);
    let log = log_of(&mut command)?.replace('\r', "");
    let sum = shell::output(Command::new("md5sum").arg(directory.join("tree/numbers")))?;
    let sum = sum.split_whitespace().next().unwrap_or("no sum").to_string();
    let expected = [
        "root: /dev/sda ext4",
        "sda disk 0 0 ATA QEMU HARDDISK",
        "sr0 rom 0 1 QEMU QEMU DVD-ROM",
        "\nInput/output error\n",
        "2+0 records out",
        "again: Input/output error",
        "/dev/sr0 iso9660",
        "hello from a CD",
        &sum,
        "\nCD001\n",
        "Read-only file system",
    ];
    check(&log, &expected, None)?;
    if log.contains("\nlost\n") {
        return Err(format!("blocks beside the bad one could not be read\n{log}").into());
    }
    Ok(())
}

/// An ISO 9660 image.
fn cd(directory: &Path, numbers: &str) -> Result<PathBuf> {
    let (tree, target) = (directory.join("tree"), directory.join("cd.iso"));
    fs::create_dir_all(&tree)?;
    fs::write(tree.join("hello.txt"), "hello from a CD\n")?;
    fs::write(tree.join("numbers"), numbers)?;
    let mut command = shell::tool("xorriso");
    command.args(["-as", "mkisofs", "-quiet", "-R", "-J", "-o"]).arg(&target).arg(&tree);
    shell::output(&mut command)?;
    Ok(target)
}
