//! The words of the command line that name the root, and those for process 1: boots from partitioned
//! disks, GPT and MBR, behind virtio and NVMe.
//!
//! Process 1 is `tests/guest`'s `bootwords`, which prints what it was given.

use crate::build::{Profile, build};
use crate::tally::{Tally, check, is_wanted};
use crate::test_loaders::{log_of, machine};
use crate::{Result, guest, paths, shell};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;
/// Of the file system, which begins at the second MiB of every disk.
const ROOT_MIB: u64 = 24;
const UUID: &str = "6d1c9a2e-0f5b-4c1d-9e3a-1b2c3d4e5f60";
const PARTUUID: &str = "0f9e8d7c-6b5a-4938-8271-605f4e3d2c1b";

/// How the disk is divided.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    Gpt,
    Mbr,
}

struct Case {
    name: &'static str,
    table: Table,
    device: &'static str,
    words: &'static str,
    expected: &'static [&'static str],
}

const VIRTIO: &str = "virtio-blk-pci,drive=root";
const NVME: &str = "nvme,drive=root,serial=1";

const CASES: &[Case] = &[
    Case {
        name: "/dev/vda2 on GPT, ro",
        table: Table::Gpt,
        device: VIRTIO,
        words: "root=/dev/vda2 ro",
        expected: &["root: ro", "readonly on device 254:2"],
    },
    Case {
        name: "PARTUUID on GPT, NVMe, rw",
        table: Table::Gpt,
        device: NVME,
        words: "root=PARTUUID=0f9e8d7c-6b5a-4938-8271-605f4e3d2c1b rw",
        expected: &["root: rw"],
    },
    Case {
        name: "PARTUUID with PARTNROFF on GPT",
        table: Table::Gpt,
        device: VIRTIO,
        words: "root=PARTUUID=11111111-2222-4333-8444-555555555555/PARTNROFF=1 rw",
        expected: &["root: rw", "on device 254:2"],
    },
    Case {
        name: "PARTLABEL on GPT, NVMe, rootwait",
        table: Table::Gpt,
        device: NVME,
        words: "root=PARTLABEL=system rootwait rootfstype=ext4",
        expected: &["root: ro"],
    },
    Case {
        name: "UUID on GPT",
        table: Table::Gpt,
        device: VIRTIO,
        words: "root=UUID=6d1c9a2e-0f5b-4c1d-9e3a-1b2c3d4e5f60 rw",
        expected: &["root: rw"],
    },
    Case {
        name: "PARTUUID on MBR",
        table: Table::Mbr,
        device: VIRTIO,
        words: "root=PARTUUID=1234abcd-01 rw",
        expected: &["root: rw", "on device 254:1"],
    },
    Case {
        name: "LABEL on MBR, NVMe, rootdelay",
        table: Table::Mbr,
        device: NVME,
        words: "rootdelay=1 root=LABEL=system rw",
        expected: &["Waiting 1 sec before mounting root device", "root: rw"],
    },
    Case {
        name: "words for process 1",
        table: Table::Mbr,
        device: VIRTIO,
        words: "root=/dev/vda1 single quiet foo=bar nosuch.option=1 init=/other -- -x y=z",
        expected: &[
            "arguments: single -x y=z\n",
            "environment: foo=bar\n",
            "environment: HOME=/\n",
            "environment: TERM=linux\n",
        ],
    },
];

/// Runs all cases whose name contains one of `filters` (or all).
pub(crate) fn cases(filters: &[&str]) -> Result<Tally> {
    shell::ensure_programs(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("mke2fs", "e2fsprogs"),
        ("sgdisk", "gdisk"),
    ])?;
    let mut tally = Tally::default();
    let name_of = |case: &Case| format!("root: {}", case.name);
    let is_asked = |case: &&Case| is_wanted(&name_of(case), filters);
    let wanted: Vec<&Case> = CASES.iter().filter(is_asked).collect();
    if wanted.is_empty() {
        return Ok(tally);
    }
    let kernel = build(Profile::Release)?;
    let directory = paths::output().join("root-words");
    let disks =
        [(Table::Gpt, disk(&directory, Table::Gpt)?), (Table::Mbr, disk(&directory, Table::Mbr)?)];
    for case in wanted {
        let disk = disks.iter().find(|(table, _)| *table == case.table).map(|(_, path)| path);
        let disk = disk.ok_or("no disk with this table")?;
        tally.count(&name_of(case), run(case, &kernel.vmlinuz, disk));
    }
    Ok(tally)
}

fn run(case: &Case, kernel: &Path, disk: &Path) -> Result {
    let mut command = machine();
    let drive = format!("if=none,id=root,format=raw,snapshot=on,file={}", disk.display());
    command.args(["-drive", &drive, "-device", case.device]).arg("-kernel").arg(kernel);
    command.args(["-append", &format!("console=ttyS0,115200 panic=-1 {}", case.words)]);
    check(&log_of(&mut command)?.replace('\r', ""), case.expected, None)
}

/// A disk with the file system: the second partition of a GPT, the first of an MBR.
fn disk(directory: &Path, table: Table) -> Result<PathBuf> {
    let tree = directory.join("tree");
    for folder in ["dev", "proc", "sbin"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    let program = guest::program("bootwords")?;
    fs::copy(&program, tree.join("sbin/init"))?;
    fs::copy(&program, tree.join("other"))?;
    let system = directory.join("system.ext4");
    File::create(&system)?;
    let mut make = shell::tool("mke2fs");
    make.args(["-q", "-t", "ext4", "-L", "system", "-U", UUID, "-d"]).arg(&tree).arg(&system);
    shell::run(make.arg(format!("{ROOT_MIB}M")))?;

    let path = directory.join(if table == Table::Gpt { "gpt.img" } else { "mbr.img" });
    let disk = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
    disk.set_len((ROOT_MIB + 4) * MIB)?;
    let start = 2 * MIB;
    disk.write_all_at(&fs::read(&system)?, start)?;
    let sector = start / 512;
    let sectors = ROOT_MIB * MIB / 512;
    if table == Table::Gpt {
        let mut divide = shell::tool("sgdisk");
        divide.args(["-a", "1", "-n", "1:64:127"]);
        divide.args(["-u", "1:11111111-2222-4333-8444-555555555555"]);
        divide.args(["-n", &format!("2:{sector}:{}", sector + sectors - 1)]);
        divide.args(["-u", &format!("2:{PARTUUID}"), "-c", "2:system"]).arg(&path);
        shell::output(&mut divide)?;
    } else {
        // The disk's identifier, one entry (type 0x83, first sector, length), the signature.
        let mut entry = [0u8; 16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&(sector as u32).to_le_bytes());
        entry[12..16].copy_from_slice(&(sectors as u32).to_le_bytes());
        disk.write_all_at(&0x1234_abcd_u32.to_le_bytes(), 440)?;
        disk.write_all_at(&entry, 446)?;
        disk.write_all_at(&[0x55, 0xaa], 510)?;
    }
    Ok(path)
}
