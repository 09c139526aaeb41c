//! Disks to give away: `make image ROOTFS=… FORMAT=raw|qcow2|iso`.
//!
//! A disk has a GPT with three partitions: GRUB's own for BIOS, one for UEFI, and the root, an ext4 file system with the
//! kernel laid out as its package does it. Both GRUBs find the root by its UUID and read the menu there, where
//! the distribution's own tools change it. A CD has the root as an initial RAM disk.
//! Nothing is mounted and no rights are needed but to keep owners.

use crate::build::{self, Kernel, Profile};
use crate::options::Options;
use crate::{Result, guest, image, package, shell};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Sectors of 512 bytes: where the partitions begin, and where the root ends before the end of the disk.
const BIOS_START: u64 = 2048;
const EFI_START: u64 = 4096;
const ROOT_START: u64 = 4096 + 64 * 2048;
const TAIL: u64 = 2048;
const SECTOR: u64 = 512;

/// In GRUB's `boot.img`: where the sector of the next stage is; how much of it goes before the table of partitions.
const KERNEL_SECTOR: usize = 0x5c;
const BOOT_CODE: usize = 440;
/// In the first sector of GRUB's core: the sector of the rest, and how many there are.
const BLOCK_LIST: usize = 0x1f4;

/// What GRUB needs before it can read modules from the root.
const MODULES: &str = "part_gpt part_msdos ext2 search search_fs_uuid normal";

/// What to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    Raw,
    Qcow2,
    Iso,
}

impl Format {
    /// By the name in `FORMAT`.
    pub(crate) fn from_name(name: &str) -> Result<Format> {
        match name {
            "raw" => Ok(Format::Raw),
            "qcow2" => Ok(Format::Qcow2),
            "iso" => Ok(Format::Iso),
            other => Err(format!("FORMAT={other}: raw, qcow2 or iso").into()),
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Iso => "iso",
        }
    }
}

/// Where a disk or CD of the root of these options is kept, without its extension.
pub(crate) fn place(options: &Options) -> Result<PathBuf> {
    Ok(image::place(&image::archive(options)?).with_extension(""))
}

/// Makes a disk or CD of the root of these options, with `extra` files in it (place in the root, file here);
/// where it is: `target` with the format's extension.
pub(crate) fn make(
    options: &Options,
    format: Format,
    target: &Path,
    extra: &[(&str, &Path)],
) -> Result<PathBuf> {
    shell::ensure_programs(&[
        ("sgdisk", "gdisk"),
        ("mke2fs", "e2fsprogs"),
        ("mformat", "mtools"),
        ("grub-mkimage", "grub-common"),
        ("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
        ("/usr/lib/grub/x86_64-efi/kernel.img", "grub-efi-amd64-bin"),
        ("xorriso", "xorriso"),
        ("cpio", "cpio"),
        ("qemu-img", "qemu-utils"),
    ])?;
    let kernel = build::build(Profile::Release)?;
    let release = build::release()?;
    // Appended: a name like centos-7.2 has no extension.
    let target = PathBuf::from(format!("{}.{}", target.display(), format.extension()));
    eprintln!("xtask: making {}", target.display());
    let tree = target.with_extension("tree");
    image::extract(&image::archive(options)?, &tree)?;
    for (path, file) in extra {
        fs::copy(file, tree.join(path))?;
    }
    let root = Root { options, kernel: &kernel, release: &release, tree: &tree };
    let made = match format {
        Format::Iso => root.cd(&target),
        Format::Raw => root.disk(&target),
        Format::Qcow2 => root.qcow2(&target),
    };
    fs::remove_dir_all(&tree)?;
    made.map(|()| target)
}

/// An unpacked root and what comes into it.
struct Root<'a> {
    options: &'a Options,
    kernel: &'a Kernel,
    release: &'a str,
    tree: &'a Path,
}

impl Root<'_> {
    fn qcow2(&self, target: &Path) -> Result {
        let raw = target.with_extension("raw.part");
        self.disk(&raw)?;
        let mut convert = shell::tool("qemu-img");
        convert.args(["convert", "-c", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(target);
        let converted = shell::output(&mut convert);
        fs::remove_file(&raw)?;
        converted.map(|_| ())
    }

    fn disk(&self, target: &Path) -> Result {
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_string();
        let folder = self.grub_folder();
        let init = match self.init()?.as_str() {
            "/sbin/init" => String::new(),
            other => format!(" init={other}"),
        };
        let words = self.words(&format!("root=UUID={uuid} ro{init}"));
        package::install(self.kernel, self.release, self.tree)?;
        self.add_menu(&folder, &format!("search --no-floppy --fs-uuid --set=root {uuid}"), &words)?;
        self.add_to_fstab(&uuid)?;

        // A new file each time: what was there may be in use.
        let partial = target.with_extension("new");
        let bytes = parse_size(&self.options.disk_size)?;
        let sectors = bytes / SECTOR;
        let root_end = sectors.checked_sub(TAIL).filter(|end| *end > ROOT_START + TAIL);
        let root_end = root_end.ok_or_else(|| format!("{}: too small", self.options.disk_size))?;
        let _ = fs::remove_file(&partial);
        fs::File::create(&partial)?.set_len(bytes)?;
        self.make_root(&partial, &uuid, (root_end - ROOT_START) * SECTOR / 1024)?;
        partition(&partial, root_end)?;

        let work = target.with_extension("grub");
        fs::create_dir_all(&work)?;
        let early = work.join("early.cfg");
        let text = format!("search.fs_uuid {uuid} root\nset prefix=($root)/{folder}\n");
        fs::write(&early, text)?;
        let made = put_bios_grub(&partial, &work, &early, &folder)
            .and_then(|()| put_efi_grub(&partial, &work, &early, &folder));
        fs::remove_dir_all(&work)?;
        made?;
        fs::rename(&partial, target)?;
        Ok(())
    }

    /// A CD that GRUB starts from under BIOS and UEFI.
    fn cd(&self, target: &Path) -> Result {
        let words = self.words(&format!("rdinit={}", self.init()?));
        let folder = target.with_extension("cd");
        let boot = folder.join("boot/grub");
        fs::create_dir_all(&boot)?;
        fs::copy(&self.kernel.vmlinuz, folder.join("boot/vmlinuz"))?;
        let pack = "find . -print0 | cpio --quiet --null -o -H newc | gzip -1 > \"$1\"";
        let mut command = shell::tool("sh");
        command.args(["-c", pack, "sh"]).arg(folder.join("boot/initrd")).current_dir(self.tree);
        shell::run(&mut command)?;
        let load = format!("linux /boot/vmlinuz {words}\n  initrd /boot/initrd");
        fs::write(
            boot.join("grub.cfg"),
            menu("a CD", &load, "search --set=root --file /boot/vmlinuz"),
        )?;
        let mut command = shell::tool("grub-mkrescue");
        command.arg("-o").arg(target).arg(&folder);
        shell::output(&mut command)?;
        fs::remove_dir_all(&folder)?;
        Ok(())
    }

    /// The root's init: its own, or the helper where it has none.
    fn init(&self) -> Result<String> {
        let own = ["sbin/init", "usr/sbin/init", "usr/lib/systemd/systemd", "lib/systemd/systemd"];
        let exists = |path: &&&str| fs::symlink_metadata(self.tree.join(path)).is_ok();
        if let Some(path) = own.iter().find(exists) {
            return Ok(format!("/{path}"));
        }
        guest::install(self.tree, &guest::init_program()?)?;
        if let Some(command) = &self.options.command {
            let path = self.tree.join(guest::COMMAND_PATH.trim_start_matches('/'));
            fs::write(path, format!("{command}\n"))?;
        }
        Ok(guest::INIT_PATH.into())
    }

    /// The command line, which begins with where the root is and what is process 1.
    fn words(&self, start: &str) -> String {
        let words = format!("{start} console=ttyS0,115200 {}", self.options.append);
        words.trim_end().into()
    }

    /// Where the distribution's tools expect GRUB's files.
    fn grub_folder(&self) -> String {
        let is_red_hat = self.tree.join("etc/redhat-release").exists();
        if is_red_hat { "boot/grub2".into() } else { "boot/grub".into() }
    }

    fn add_menu(&self, folder: &str, search: &str, words: &str) -> Result {
        let path = self.tree.join(folder);
        fs::create_dir_all(&path)?;
        for platform in ["i386-pc", "x86_64-efi"] {
            let modules = Path::new("/usr/lib/grub").join(platform);
            let to = path.join(platform);
            fs::create_dir_all(&to)?;
            for entry in fs::read_dir(modules)? {
                let entry = entry?;
                let name = entry.file_name();
                if [".mod", ".lst"].iter().any(|end| name.to_string_lossy().ends_with(end)) {
                    fs::copy(entry.path(), to.join(name))?;
                }
            }
        }
        let load = format!("linux /boot/vmlinuz-{} {words}", self.release);
        fs::write(path.join("grub.cfg"), menu(self.release, &load, search))?;
        if folder.ends_with("grub2") {
            // Where new-kernel-pkg looks.
            let link = self.tree.join("etc/grub2.cfg");
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(format!("../{folder}/grub.cfg"), link)?;
        }
        Ok(())
    }

    /// Has the root checked and remounted as the distribution does it, if it says nothing of it yet.
    fn add_to_fstab(&self, uuid: &str) -> Result {
        let path = self.tree.join("etc/fstab");
        let mut text = fs::read_to_string(&path).unwrap_or_default();
        let is_root = |line: &str| {
            !line.starts_with('#') && line.split_whitespace().nth(1).is_some_and(|at| at == "/")
        };
        if text.lines().any(is_root) {
            return Ok(());
        }
        text.push_str(&format!("UUID={uuid} / ext4 defaults 1 1\n"));
        fs::create_dir_all(self.tree.join("etc"))?;
        Ok(fs::write(path, text)?)
    }

    fn make_root(&self, disk: &Path, uuid: &str, kib: u64) -> Result {
        let offset = format!("offset={},lazy_itable_init=0", ROOT_START * SECTOR);
        let mut command = shell::tool("mke2fs");
        command.args(["-q", "-F", "-t", "ext4", "-L", "root", "-U", uuid, "-E", &offset, "-d"]);
        command.arg(self.tree).arg(disk).arg(format!("{kib}k"));
        // It tells that the file is longer than the file system.
        shell::output(&mut command).map(|_| ())
    }
}

/// GRUB's menu with one entry.
fn menu(name: &str, load: &str, search: &str) -> String {
    format!(
        "if [ -s $prefix/grubenv ]; then\n  load_env\nfi\n\
         serial --unit=0 --speed=115200\nterminal_input serial console\nterminal_output serial console\n\
         set timeout=2\nset default=0\n\
         if [ \"$saved_entry\" ]; then\n  set default=\"$saved_entry\"\nfi\n\n\
         menuentry 'tkernel ({name})' --class gnu-linux --class os {{\n  \
         {search}\n  {load}\n}}\n"
    )
}

fn partition(disk: &Path, root_end: u64) -> Result {
    let mut command = shell::tool("sgdisk");
    command.args(["-a", "1"]);
    let parts = [
        (1, BIOS_START, EFI_START - 1, "ef02", "BIOS boot"),
        (2, EFI_START, ROOT_START - 1, "ef00", "EFI system"),
        (3, ROOT_START, root_end - 1, "8304", "root"),
    ];
    for (number, start, end, kind, name) in parts {
        command.arg(format!("-n{number}:{start}:{end}"));
        command.arg(format!("-t{number}:{kind}")).arg(format!("-c{number}:{name}"));
    }
    shell::output(command.arg(disk)).map(|_| ())
}

fn core(work: &Path, early: &Path, folder: &str, platform: &str, more: &str) -> Result<PathBuf> {
    let path = work.join(platform);
    let mut command = shell::tool("grub-mkimage");
    command.args(["-O", platform, "-p", &format!("/{folder}"), "-c"]).arg(early);
    command.arg("-o").arg(&path).args(MODULES.split(' ')).args(more.split(' '));
    shell::output(&mut command)?;
    Ok(path)
}

/// The first sector's code and, in its own partition, what that loads.
fn put_bios_grub(disk: &Path, work: &Path, early: &Path, folder: &str) -> Result {
    let mut core = fs::read(core(work, early, folder, "i386-pc", "biosdisk")?)?;
    core.resize(core.len().next_multiple_of(SECTOR as usize), 0);
    let sectors = core.len() as u64 / SECTOR;
    if sectors > EFI_START - BIOS_START {
        return Err("GRUB's core does not fit into its partition".into());
    }
    let mut boot = fs::read("/usr/lib/grub/i386-pc/boot.img")?;
    put(&mut boot, KERNEL_SECTOR, &BIOS_START.to_le_bytes())?;
    put(&mut core, BLOCK_LIST, &(BIOS_START + 1).to_le_bytes())?;
    put(&mut core, BLOCK_LIST + 8, &u16::try_from(sectors - 1)?.to_le_bytes())?;
    let mut file = fs::OpenOptions::new().read(true).write(true).open(disk)?;
    let mut first = [0; SECTOR as usize];
    file.read_exact(&mut first)?;
    first[..BOOT_CODE].copy_from_slice(boot.get(..BOOT_CODE).ok_or("boot.img is short")?);
    file.rewind()?;
    file.write_all(&first)?;
    file.seek(SeekFrom::Start(BIOS_START * SECTOR))?;
    Ok(file.write_all(&core)?)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result {
    let room = bytes.get_mut(at..at + value.len()).ok_or("GRUB's file is too short")?;
    room.copy_from_slice(value);
    Ok(())
}

/// The file that firmware starts from a disk it does not know.
fn put_efi_grub(disk: &Path, work: &Path, early: &Path, folder: &str) -> Result {
    let grub = core(work, early, folder, "x86_64-efi", "fat")?;
    let volume = format!("{}@@{}", disk.display(), EFI_START * SECTOR);
    let sectors = (ROOT_START - EFI_START).to_string();
    let mut format = shell::tool("mformat");
    shell::output(
        format.args(["-i", &volume, "-F", "-T", &sectors, "-h", "64", "-s", "32", "::"]),
    )?;
    shell::output(shell::tool("mmd").args(["-i", &volume, "::/EFI", "::/EFI/BOOT"]))?;
    let mut copy = shell::tool("mcopy");
    shell::output(copy.args(["-i", &volume]).arg(grub).arg("::/EFI/BOOT/BOOTX64.EFI"))?;
    Ok(())
}

/// Bytes of a size like `4G`.
fn parse_size(text: &str) -> Result<u64> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let unit = units.iter().find(|(unit, _)| text.to_ascii_uppercase().ends_with(*unit));
    let (digits, shift) = unit.map_or((text, 0), |(_, shift)| (&text[..text.len() - 1], *shift));
    let number: u64 = digits.parse().map_err(|error| format!("DISK_SIZE={text}: {error}"))?;
    let bytes = number.checked_mul(1 << shift);
    Ok(bytes.ok_or_else(|| format!("DISK_SIZE={text}: too large"))? / SECTOR * SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() -> Result {
        assert_eq!(parse_size("4G")?, 4 << 30);
        assert_eq!(parse_size("512m")?, 512 << 20);
        assert_eq!(parse_size("1025")?, 1024);
        assert!(parse_size("").is_err() && parse_size("4X").is_err());
        assert!(parse_size("99999999999T").is_err());
        Ok(())
    }

    #[test]
    fn menus_search_before_they_load() {
        let text = menu("5.4.0-x", "linux /boot/vmlinuz-5.4.0-x root=UUID=1 ro", "search 1");
        let (search, load) = (text.find("search 1"), text.find("linux /boot"));
        assert!(search.is_some() && search < load);
    }
}
