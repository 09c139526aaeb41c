//! Root images: an ext4 file system made from an archive, without mounting anything.
//!
//! Owners, modes, times and extended attributes (file capabilities) come along. Images are kept
//! under `target/images` and made again when their archive or this helper's files change.

use crate::options::Options;
use crate::{Result, guest, paths, rootfs, shell};
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

/// The root image for these options; made when it is missing or stale.
pub(crate) fn ensure(options: &Options) -> Result<PathBuf> {
    if let Some(image) = &options.image {
        return Ok(image.clone());
    }
    let archive = archive(options)?;
    let image = place(&archive);
    let stamp_file = image.with_extension("stamp");
    fs::create_dir_all(image.parent().unwrap_or(Path::new(".")))?;
    let init = guest::init_program()?;
    let stamp = stamp(&archive, &init, options)?;
    if image.is_file() && fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) {
        return Ok(image);
    }
    eprintln!("xtask: making {}", image.display());
    let tree = image.with_extension("tree");
    extract(&archive, &tree)?;
    check_processor(&archive, &tree)?;
    guest::install(&tree, &init)?;
    make(&tree, &image, &options.disk_size)?;
    fs::remove_dir_all(&tree)?;
    fs::write(&stamp_file, stamp)?;
    Ok(image)
}

/// Has the image for these options made anew when it is next asked for.
pub(crate) fn discard(options: &Options) -> Result {
    let Some(archive) = &options.rootfs else { return Ok(()) };
    let stamp_file = place(archive).with_extension("stamp");
    match fs::remove_file(&stamp_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", stamp_file.display()).into())
        }
        _ => Ok(()),
    }
}

/// The archive of the root of these options; Debian's is made when it is missing.
pub(crate) fn archive(options: &Options) -> Result<PathBuf> {
    let Some(archive) = &options.rootfs else { return rootfs::archive(&rootfs::DEFAULT) };
    Ok(fs::canonicalize(archive)
        .map_err(|error| format!("ROOTFS={}: {error}", archive.display()))?)
}

/// Where the image of an archive is kept.
pub(crate) fn place(archive: &Path) -> PathBuf {
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let name = name.split(".tar").next().unwrap_or("root");
    paths::output().join("images").join(format!("{name}.ext4"))
}

/// The root as an initial ramdisk, with the command in it. Made anew each time: it is the run's
/// only way to get files in.
pub(crate) fn ramdisk(options: &Options) -> Result<PathBuf> {
    shell::ensure_programs(&[("cpio", "cpio")])?;
    let archive = archive(options)?;
    let directory = paths::output().join("images");
    fs::create_dir_all(&directory)?;
    let tree = directory.join(format!("ram.{}", std::process::id()));
    extract(&archive, &tree)?;
    guest::install(&tree, &guest::init_program()?)?;
    if let Some(command) = &options.command {
        let path = tree.join(guest::COMMAND_PATH.trim_start_matches('/'));
        fs::write(path, format!("{command}\n"))?;
    }
    let output = directory.join("ram.cpio");
    let pack = "find . -print0 | cpio --quiet --null -o -H newc > \"$1\"";
    let packed =
        shell::run(shell::tool("sh").args(["-c", pack, "sh"]).arg(&output).current_dir(&tree));
    fs::remove_dir_all(&tree)?;
    packed.map(|()| output)
}

/// Changes when the image must be made again.
fn stamp(archive: &Path, init: &Path, options: &Options) -> Result<String> {
    let metadata = fs::metadata(archive)?;
    let mut hasher = DefaultHasher::new();
    fs::read(init)?.hash(&mut hasher);
    options.disk_size.hash(&mut hasher);
    let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    Ok(format!("{} {} {modified} {:x}\n", archive.display(), metadata.len(), hasher.finish()))
}

pub(crate) fn extract(archive: &Path, tree: &Path) -> Result {
    shell::ensure_programs(&[("tar", "tar"), ("xz", "xz-utils")])?;
    if tree.exists() {
        fs::remove_dir_all(tree)?;
    }
    fs::create_dir_all(tree)?;
    // Device nodes are devtmpfs's, and making them needs rights that a container may lack.
    shell::run(
        shell::tool("tar")
            .args(["-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*"])
            .args(["--exclude=./dev/*", "--exclude=dev/*", "--warning=no-unknown-keyword"])
            .arg("-f")
            .arg(archive)
            .arg("-C")
            .arg(tree),
    )
}

/// Refuses a root for another processor, of which the kernel could only say that its programs have
/// a wrong format.
fn check_processor(archive: &Path, tree: &Path) -> Result {
    const EM_X86_64: u16 = 62;
    let shells = ["usr/bin/bash", "bin/bash", "usr/bin/sh", "bin/sh", "bin/busybox"];
    let Some(program) = shells.iter().find_map(|path| fs::read(tree.join(path)).ok()) else {
        return Ok(());
    };
    match program.get(..20) {
        Some([0x7f, b'E', b'L', b'F', _, data, .., low, high]) => {
            let bytes = [*low, *high];
            let is_big_endian = *data == 2;
            let machine =
                if is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
            if machine == EM_X86_64 {
                return Ok(());
            }
            let name = archive.display();
            Err(format!("{name} holds programs for ELF machine {machine}, not x86-64").into())
        }
        _ => Ok(()),
    }
}

fn make(tree: &Path, image: &Path, size: &str) -> Result {
    shell::ensure_programs(&[("mke2fs", "e2fsprogs")])?;
    let partial = image.with_extension("new");
    // Made here, sparse: of a file that it makes itself mke2fs tells although told to be quiet.
    fs::File::create(&partial)?;
    shell::run(
        shell::tool("mke2fs")
            .args(["-q", "-t", "ext4", "-L", "root", "-E", "lazy_itable_init=0", "-d"])
            .arg(tree)
            .arg(&partial)
            .arg(size),
    )?;
    fs::rename(&partial, image)?;
    Ok(())
}

/// Writes a file into the image, replacing what is there.
pub(crate) fn put_file(image: &Path, path: &str, contents: &[u8]) -> Result {
    shell::ensure_programs(&[("debugfs", "e2fsprogs")])?;
    let file = paths::output().join(format!("put.{}", std::process::id()));
    fs::write(&file, contents)?;
    let script = format!("rm {path}\nwrite {} {path}\n", file.display());
    let result = debugfs(image, &script);
    fs::remove_file(&file)?;
    result
}

/// Makes a directory in the image.
pub(crate) fn make_directory(image: &Path, path: &str) -> Result {
    debugfs(image, &format!("mkdir {path}\n"))
}

/// Makes a symbolic link in the image.
pub(crate) fn put_link(image: &Path, path: &str, target: &str) -> Result {
    debugfs(image, &format!("symlink {path} {target}\n"))
}

/// Removes a file from the image if it is there.
pub(crate) fn remove_file(image: &Path, path: &str) -> Result {
    debugfs(image, &format!("rm {path}\n"))
}

fn debugfs(image: &Path, script: &str) -> Result {
    let commands = paths::output().join(format!("debugfs.{}", std::process::id()));
    fs::write(&commands, script)?;
    // debugfs reports a missing file on standard error and goes on; that is wanted here.
    let result = shell::output(shell::tool("debugfs").args(["-w", "-f"]).arg(&commands).arg(image));
    fs::remove_file(&commands)?;
    result.map(|_| ())
}
