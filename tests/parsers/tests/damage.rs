//! Random bytes and damaged inputs end in an error, never in a panic or a loop.
//!
//! The damage is drawn from a generator with a fixed seed, so a failure repeats; the fuzz targets
//! go on from here with coverage. Each seed is accepted before it is damaged: damage to what is refused
//! at the door tests the door only.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }

    /// Changes a few bytes, half of them near the start, to values that often matter.
    fn damage(&mut self, bytes: &mut Vec<u8>, near: usize) {
        for _ in 0..=self.below(8) {
            let reach = if self.below(2) == 0 { near.min(bytes.len()) } else { bytes.len() };
            let at = self.below(reach);
            let value = [0, 1, 0x7f, 0x80, 0xff, self.below(256) as u8][self.below(6)];
            let run = [1, 1, 2, 4, 8][self.below(5)];
            bytes.iter_mut().skip(at).take(run).for_each(|byte| *byte = value);
        }
        if self.below(8) == 0 {
            bytes.truncate(self.below(bytes.len()));
        }
    }
}

/// Runs `parse`, which says whether it accepts, on the seeds, on random bytes and on damaged copies.
fn survive(rounds: usize, near: usize, seeds: &[Vec<u8>], parse: impl Fn(&[u8]) -> bool) {
    for (index, seed) in seeds.iter().enumerate() {
        assert!(parse(seed), "seed {index} is refused");
    }
    let mut random = Random(0x0135_79bd_f246_8ace);
    for _ in 0..rounds {
        let len = random.below(4096);
        parse(&random.bytes(len));
        for seed in seeds {
            let mut copy = seed.clone();
            random.damage(&mut copy, near);
            parse(&copy);
        }
    }
}

#[test]
fn elf_files() {
    survive(20_000, 1024, &[std::fs::read("/bin/true").unwrap()], parsers::elf);
}

#[test]
fn seccomp_programs() {
    let program: Vec<u8> = [
        [0x20u8, 0, 0, 0, 4, 0, 0, 0],
        [0x15, 0, 0, 3, 0x3e, 0, 0, 0xc0],
        [0x20, 0, 0, 0, 0, 0, 0, 0],
        [0x02, 0, 0, 0, 3, 0, 0, 0],
        [0x61, 0, 0, 0, 3, 0, 0, 0],
        [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f],
    ]
    .concat();
    survive(50_000, 48, &[program], parsers::seccomp);
}

#[test]
fn command_lines() {
    let line =
        b"root=/dev/vda1 console=ttyS0,115200 \"a b\"=c quiet panic=-1 -- single x=y".to_vec();
    survive(20_000, 80, &[line], |bytes| {
        parsers::command_line(bytes);
        true
    });
}

/// Four partitions of which one is extended, with a chain of two logical ones.
fn mbr_disk() -> Vec<u8> {
    let mut disk = vec![0; 64 * 512];
    let mut entry = |sector: usize, slot: usize, kind: u8, start: u32, sectors: u32| {
        let at = sector * 512 + 446 + slot * 16;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        disk[sector * 512 + 510] = 0x55;
        disk[sector * 512 + 511] = 0xaa;
    };
    entry(0, 0, 0x83, 2, 6);
    entry(0, 1, 0x05, 8, 40);
    entry(8, 0, 0x83, 1, 7);
    entry(8, 1, 0x05, 16, 16);
    entry(24, 0, 0x83, 1, 7);
    disk
}

fn gpt_disk() -> Vec<u8> {
    let path = std::env::temp_dir().join(format!("gpt-{}.img", std::process::id()));
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let made = Command::new("sgdisk").args(["-n", "1:64:200", "-n", "2:0:0"]).arg(&path).output();
    let disk = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(made.expect("sgdisk of package gdisk").status.success());
    disk
}

#[test]
fn partition_tables() {
    let seeds = [mbr_disk(), gpt_disk()];
    assert_eq!(seeds.each_ref().map(|seed| parsers::partitions(seed)), [4, 2]);
    survive(3_000, 2048, &seeds, |bytes| parsers::partitions(bytes) > 0);
}

/// An archive of a directory, a file, a link and the trailer.
fn archive() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut entry = |name: &str, mode: u32, data: &[u8]| {
        let (size, name_len) = (data.len(), name.len() + 1);
        let head = format!(
            "0707010000000{}{mode:08X}{:016X}{:08X}{:08X}{size:08X}{:032X}{name_len:08X}{:08X}",
            bytes.len() % 10,
            0,
            1,
            1,
            0,
            0
        );
        bytes.extend(head.bytes());
        bytes.extend(name.bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    };
    entry("dir", 0o040755, b"");
    entry("dir/file", 0o100644, b"contents");
    entry("link", 0o120777, b"dir/file");
    entry("TRAILER!!!", 0, b"");
    bytes
}

fn compressed(program: &str) -> Vec<u8> {
    let path = std::env::temp_dir().join(format!("{program}-{}.cpio", std::process::id()));
    std::fs::write(&path, archive()).unwrap();
    let output = Command::new(program).arg("-c").arg(&path).output();
    std::fs::remove_file(&path).unwrap();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}");
    output.stdout
}

#[test]
fn initial_ram_disks() {
    let mut seeds = vec![archive()];
    seeds.extend(["gzip", "xz", "zstd"].into_iter().map(compressed));
    survive(300, 600, &seeds, |bytes| parsers::initramfs(bytes).is_ok());
}

/// Compressed archives may not nest: each level would take kernel stack.
#[test]
fn nested_compression_ends() {
    let mut bytes = archive();
    for _ in 0..2_000 {
        // A stored block of the deflate format: the bytes as they are.
        let Ok(len) = u16::try_from(bytes.len()) else { break };
        let mut outer = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
        outer.extend(len.to_le_bytes());
        outer.extend((!len).to_le_bytes());
        outer.extend(&bytes);
        outer.extend([0; 8]);
        bytes = outer;
    }
    assert_eq!(parsers::initramfs(&bytes), Err(initramfs::Error::Nested));
}

/// An image of a folder with the names that [`parsers::ext4`] and the like look for, which `make` makes.
fn image(kind: &str, make: impl FnOnce(&Path, &Path)) -> Vec<u8> {
    let base = std::env::temp_dir().join(format!("damage-{}-{kind}", std::process::id()));
    let (source, image) = (base.with_extension("dir"), base.with_extension("img"));
    std::fs::create_dir_all(source.join("dir/sub")).unwrap();
    std::fs::write(source.join("dir/big"), vec![5; 300_000]).unwrap();
    for n in 0..200 {
        std::fs::write(source.join(format!("dir/sub/name-{n}")), b"x").unwrap();
    }
    let _ = std::os::unix::fs::symlink("dir/big", source.join("link"));
    make(&source, &image);
    let bytes = std::fs::read(&image).unwrap();
    std::fs::remove_dir_all(&source).unwrap();
    std::fs::remove_file(&image).unwrap();
    bytes
}

fn run(program: &str, arguments: &[&OsStr]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ext4_image(options: &str) -> Vec<u8> {
    image(&format!("ext4-{}", options.len()), |source, image| {
        let mut arguments: Vec<&OsStr> = vec!["-qF".as_ref()];
        arguments.extend(options.split_whitespace().map(OsStr::new));
        arguments.extend(["-d".as_ref(), source.as_os_str(), image.as_os_str(), "2M".as_ref()]);
        run("mke2fs", &arguments);
    })
}

fn fat_image(width: &str, kib: u64) -> Vec<u8> {
    image(&format!("fat-{width}"), |source, image| {
        std::fs::File::create(image).unwrap().set_len(kib << 10).unwrap();
        run("mkfs.vfat", &["-s1".as_ref(), "-F".as_ref(), width.as_ref(), image.as_os_str()]);
        let dir = source.join("dir");
        run(
            "mcopy",
            &["-i".as_ref(), image.as_os_str(), "-s".as_ref(), dir.as_ref(), "::".as_ref()],
        );
    })
}

fn squashfs_image(options: &str) -> Vec<u8> {
    image(&format!("squashfs-{}", options.len()), |source, image| {
        let mut arguments = vec![source.as_os_str(), image.as_os_str()];
        arguments.extend(options.split_whitespace().map(OsStr::new));
        arguments.extend(["-quiet", "-no-progress"].map(OsStr::new));
        run("mksquashfs", &arguments);
    })
}

/// Without checksums damage reaches the parsers; with them it is found first.
#[test]
fn ext4_images() {
    let seeds = [
        ext4_image("-t ext4 -b 1024 -O ^metadata_csum,^has_journal"),
        ext4_image("-t ext4 -b 1024"),
    ];
    survive(60, 64 << 10, &seeds, |bytes| parsers::ext4(bytes.to_vec()));
}

#[test]
fn fat_images() {
    let seeds = [fat_image("12", 1440), fat_image("16", 4 << 10)];
    survive(60, 64 << 10, &seeds, |bytes| parsers::fat(bytes.to_vec()));
}

#[test]
fn squashfs_images() {
    let seeds = ["-noI -noF -noX -b 4096", "-b 4096", "-comp xz", "-comp zstd", "-comp lz4"];
    let seeds = seeds.map(squashfs_image);
    survive(100, 96, &seeds, |bytes| parsers::squashfs(bytes.to_vec()));
}
