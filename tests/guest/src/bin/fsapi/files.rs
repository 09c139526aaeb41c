//! Contents of files: seeking, holes, allocation, copies, direct I/O, limits.

use crate::{c, call, close, fill, ok, open, show};

fn pwrite(fd: i32, bytes: &[u8], at: i64) -> i64 {
    call(libc::SYS_pwrite64, &[fd as usize, bytes.as_ptr() as usize, bytes.len(), at as usize])
}

fn seek(fd: i32, offset: i64, whence: i32) -> i64 {
    call(libc::SYS_lseek, &[fd as usize, offset as usize, whence as usize])
}

fn stat(fd: i32) -> libc::stat {
    let mut info = std::mem::MaybeUninit::<libc::stat>::zeroed();
    call(libc::SYS_fstat, &[fd as usize, info.as_mut_ptr() as usize]);
    // SAFETY: zeroed, and filled by the call.
    unsafe { info.assume_init() }
}

fn sums(path: &str) -> (usize, u64) {
    let bytes = std::fs::read(path).unwrap();
    let sum = bytes.iter().fold(7u64, |sum, &b| sum.wrapping_mul(31).wrapping_add(b.into()));
    (bytes.len(), sum)
}

fn allocate(fd: i32, mode: i32, offset: i64, len: i64) -> i64 {
    call(libc::SYS_fallocate, &[fd as usize, mode as usize, offset as usize, len as usize])
}

/// Seeks, appends, copies, direct I/O.
pub fn run() {
    let rw = libc::O_RDWR | libc::O_CREAT;
    let fd = open("f", rw, 0o644);
    show("write past 1 MiB", pwrite(fd, &[1; 10], 1 << 20));
    show("write at 0", pwrite(fd, &[2; 5000], 0));
    call(libc::SYS_fsync, &[fd as usize]);
    let size = stat(fd).st_size;
    for (what, offset, whence) in [
        ("data", 0, libc::SEEK_DATA),
        ("data", 8192, libc::SEEK_DATA),
        ("hole", 0, libc::SEEK_HOLE),
        ("hole", 1 << 19, libc::SEEK_HOLE),
        ("hole", 1 << 20, libc::SEEK_HOLE),
        ("data", size, libc::SEEK_DATA),
        ("hole", size, libc::SEEK_HOLE),
        ("data", -1, libc::SEEK_DATA),
        ("end", -10, libc::SEEK_END),
        ("end", -(2 << 20), libc::SEEK_END),
        ("set", -1, libc::SEEK_SET),
        ("whence", 0, 9),
        ("far", i64::MAX, libc::SEEK_SET),
        ("over", i64::MAX, libc::SEEK_END),
        ("cur", 0, libc::SEEK_CUR),
    ] {
        show(&format!("seek {what} {offset}"), seek(fd, offset, whence));
    }
    show("pwrite negative", pwrite(fd, &[1], -1));
    show("pwrite far", pwrite(fd, &[1], i64::MAX));
    let far = call(libc::SYS_pread64, &[fd as usize, 0, 0, usize::MAX]);
    show("pread of nothing at -1", far);
    let append = open("f", libc::O_RDWR | libc::O_APPEND, 0);
    show("pwrite O_APPEND", pwrite(append, b"xyz", 0));
    println!("size {}", stat(fd).st_size - size);
    show("ftruncate -1", call(libc::SYS_ftruncate, &[fd as usize, usize::MAX]));
    let read = open("f", libc::O_RDONLY, 0);
    show("ftruncate read-only", call(libc::SYS_ftruncate, &[read as usize, 0]));
    show("fallocate read-only", allocate(read, 0, 0, 100));
    show("truncate dir", call(libc::SYS_truncate, &[c(".").as_ptr() as usize, 0]));
    copies(fd);
    direct();
    let (null, bad) = (0usize, 0xdead_0000_usize);
    show("read to null", call(libc::SYS_pread64, &[fd as usize, null, 10, 0]));
    show("write from bad", call(libc::SYS_pwrite64, &[fd as usize, bad, 10, 0]));
    show("sync_file_range", call(libc::SYS_sync_file_range, &[fd as usize, 0, 0, 7]));
    show("sync_file_range flags", call(libc::SYS_sync_file_range, &[fd as usize, 0, 0, 8]));
    show("syncfs", call(libc::SYS_syncfs, &[fd as usize]));
    show("fadvise", call(libc::SYS_fadvise64, &[fd as usize, 0, 0, 3]));
    show("fadvise bad", call(libc::SYS_fadvise64, &[fd as usize, 0, 0, 99]));
    show("readahead", call(libc::SYS_readahead, &[fd as usize, 0, 4096]));
    show("readahead dir", i64::from(open(".", libc::O_RDONLY, 0) < 0));
    let dir = open(".", libc::O_RDONLY | libc::O_DIRECTORY, 0);
    show("read dir", call(libc::SYS_read, &[dir as usize, null, 0]));
    show("fsync dir", call(libc::SYS_fsync, &[dir as usize]));
    show(
        "getdents small",
        call(libc::SYS_getdents64, &[dir as usize, [0u8; 8].as_ptr() as usize, 8]),
    );
    show(
        "getdents file",
        call(libc::SYS_getdents64, &[fd as usize, [0u8; 99].as_ptr() as usize, 99]),
    );
}

fn copies(fd: i32) {
    let out = open("copy", libc::O_RDWR | libc::O_CREAT, 0o644);
    let copy = |from: i32, at: &mut i64, to: i32, place: &mut i64, len: usize, flags: usize| {
        let (at, place) = (std::ptr::from_mut(at) as usize, std::ptr::from_mut(place) as usize);
        call(libc::SYS_copy_file_range, &[from as usize, at, to as usize, place, len, flags])
    };
    let (mut at, mut place) = (0, 100);
    show("copy_file_range", copy(fd, &mut at, out, &mut place, 6000, 0));
    println!("offsets {at} {place}");
    show("copy flags", copy(fd, &mut at, out, &mut place, 10, 1));
    let (mut at, mut place) = (0, 10);
    show("copy overlapping", copy(fd, &mut at, fd, &mut place, 100, 0));
    let (mut at, mut place) = (1 << 30, 0);
    show("copy past end", copy(fd, &mut at, out, &mut place, 100, 0));
    let append = open("copy", libc::O_WRONLY | libc::O_APPEND, 0);
    let (mut at, mut place) = (0, 0);
    show("copy to append", copy(fd, &mut at, append, &mut place, 100, 0));
    let read = open("copy", libc::O_RDONLY, 0);
    show("copy to read-only", copy(fd, &mut at, read, &mut place, 100, 0));
    let dir = open(".", libc::O_RDONLY, 0);
    show("copy from dir", copy(dir, &mut at, out, &mut place, 100, 0));
    println!("copy {:?}", sums("copy"));
    show("FICLONE", call(libc::SYS_ioctl, &[out as usize, 0x4004_9409, fd as usize]));
    let range = [fd as u64, 0, 4096, 0];
    let args = [out as usize, 0x4020_940d, range.as_ptr() as usize];
    show("FICLONERANGE", call(libc::SYS_ioctl, &args));
    for fd in [out, append, read, dir] {
        close(fd);
    }
}

fn direct() {
    fill("direct", &[9; 20000]);
    let fd = open("direct", libc::O_RDWR | libc::O_DIRECT, 0);
    ok("open O_DIRECT", fd.into());
    if fd < 0 {
        return;
    }
    let mut space = vec![0u8; 5 * 4096];
    let start = space.as_mut_ptr() as usize;
    let buffer = start.next_multiple_of(4096);
    for (what, at, len, offset) in [
        ("aligned", buffer, 4096, 0),
        ("sector", buffer + 512, 512, 512),
        ("memory", buffer + 1, 512, 0),
        ("length", buffer, 100, 0),
        ("offset", buffer, 512, 100),
        ("tail", buffer, 4096, 16384),
        ("end", buffer, 4096, 20480),
    ] {
        show(what, call(libc::SYS_pread64, &[fd as usize, at, len, offset]));
    }
    // What a short read leaves behind its end is nobody's promise.
    space.fill(5);
    show("write aligned", call(libc::SYS_pwrite64, &[fd as usize, buffer, 4096, 4096]));
    show("write length", call(libc::SYS_pwrite64, &[fd as usize, buffer, 100, 0]));
    println!("direct {:?}", sums("direct"));
    close(fd);
}

/// `fallocate(2)` and what it does to size, blocks and contents.
pub fn space() {
    let fd = open("f", libc::O_RDWR | libc::O_CREAT, 0o644);
    let unit = stat(fd).st_blksize;
    let state = |what: &str| {
        call(libc::SYS_fsync, &[fd as usize]);
        let info = stat(fd);
        let (size, blocks) = (info.st_size / 512, info.st_blocks * 512 / unit);
        println!("{what}: {size} sectors, {blocks} blocks, {:?}", sums("f"));
    };
    let pattern: Vec<u8> = (0..10 * unit).map(|i| (i / 100) as u8).collect();
    show("write", pwrite(fd, &pattern, 0));
    state("written");
    let cases = [
        ("keep size", 1, 0, 20),
        ("grow", 0, 0, 12),
        ("punch", 3, 2, 3),
        ("punch part", 3, 0, 1),
        ("punch without keep", 2, 0, 1),
        ("zero", 0x10, 5, 2),
        ("zero keep past", 0x11, 12, 4),
        ("collapse", 8, 1, 1),
        ("collapse to end", 8, 1, 100),
        ("insert", 0x20, 1, 2),
        ("insert past end", 0x20, 100, 1),
        ("unshare", 0x40, 0, 1),
        ("unknown", 0x100, 0, 1),
        ("collapse and keep", 9, 0, 1),
    ];
    for (what, mode, first, len) in cases {
        show(what, allocate(fd, mode, first * unit, len * unit));
        state(what);
    }
    show("unaligned collapse", allocate(fd, 8, 10, 10));
    show("unaligned insert", allocate(fd, 0x20, 10, 10));
    show("no length", allocate(fd, 0, 0, 0));
    show("negative length", allocate(fd, 0, 0, -1));
    show("negative offset", allocate(fd, 0, -1, 10));
    show("too far", allocate(fd, 0, i64::MAX - 1, 10));
    show("unaligned punch", allocate(fd, 3, 100, unit * 2));
    state("unaligned punch");
    show("dir", allocate(open(".", libc::O_RDONLY, 0), 0, 0, 10));
    let mut ends = [0i32; 2];
    call(libc::SYS_pipe2, &[ends.as_mut_ptr() as usize, 0]);
    show("pipe", allocate(ends[1], 0, 0, 10));
    show("pipe seek", seek(ends[0], 0, 0));
    show("pipe pread", call(libc::SYS_pread64, &[ends[0] as usize, 0, 0, 0]));
    show("pipe fsync", call(libc::SYS_fsync, &[ends[0] as usize]));
    show("pipe truncate", call(libc::SYS_ftruncate, &[ends[1] as usize, 0]));
}
