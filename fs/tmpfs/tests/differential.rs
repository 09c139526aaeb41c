//! The same random operations on our tmpfs and on the host's: results, errors and trees are equal.

#![cfg(not(target_os = "none"))]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::ffi::CString;
use std::sync::Arc;

use abi::Errno;
use arch::uio::{Sink, Source};
use proptest::prelude::*;
use vfs::rw::{self, At};
use vfs::{
    Context, Creds, DeviceNumber, FileKind, KernelCaller, MountNamespace, OpenHow, Path,
    RenameFlags, UserNamespace, Walk,
};

#[derive(Clone, Debug)]
enum Op {
    Mkdir(String, u32),
    Open(String, i32, u32),
    Write(String, u64, usize),
    Truncate(String, u64),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, u32),
    Link(String, String, bool),
    Symlink(String, String),
    Stat(String, bool),
    Readlink(String),
    Chmod(String, u32),
    Mkfifo(String),
    Read(String, u64, usize),
    Seek(String, i64, i32),
    Punch(String, i32, i64, i64),
    Tmpfile(String, String),
    Access(String, u32),
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    let long = "n".repeat(256);
    let longest = "m".repeat(255);
    prop_oneof![
        12 => name(),
        8 => (name(), name()).prop_map(|(a, b)| format!("{a}/{b}")),
        4 => (name(), name(), name()).prop_map(|(a, b, c)| format!("{a}/{b}/{c}")),
        2 => name().prop_map(|a| format!("{a}/")),
        1 => (name(), name()).prop_map(|(a, b)| format!("{a}//{b}//")),
        1 => name().prop_map(|a| format!("{a}/.")),
        1 => name().prop_map(|a| format!("{a}/..")),
        1 => (name(), name()).prop_map(|(a, b)| format!("{a}/../{b}")),
        1 => (name(), name()).prop_map(|(a, b)| format!("./{a}/./{b}")),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
        1 => Just(long),
        1 => Just(longest),
    ]
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => name(),
        3 => (name(), name()).prop_map(|(a, b)| format!("{a}/{b}")),
        1 => name().prop_map(|a| format!("{a}/")),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let offset = prop_oneof![0u64..100, 4000u64..4200, 8000u64..20000];
    let flags = prop::sample::select(vec![
        libc::O_RDONLY,
        libc::O_WRONLY,
        libc::O_RDWR,
        libc::O_CREAT | libc::O_WRONLY,
        libc::O_CREAT | libc::O_EXCL | libc::O_RDWR,
        libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY,
        libc::O_TRUNC,
        libc::O_DIRECTORY,
        libc::O_DIRECTORY | libc::O_NOFOLLOW,
        libc::O_NOFOLLOW,
        libc::O_PATH,
        libc::O_PATH | libc::O_NOFOLLOW,
        libc::O_CREAT | libc::O_NOFOLLOW | libc::O_WRONLY,
    ]);
    let rename_flags = prop::sample::select(vec![0u32, 0, 0, 1, 2, 4, 3, 5]);
    prop_oneof![
        4 => (path(), 0u32..0o2000).prop_map(|(p, m)| Op::Mkdir(p, m)),
        6 => (path(), flags, 0u32..0o1000).prop_map(|(p, f, m)| Op::Open(p, f, m)),
        3 => (path(), offset.clone(), 0usize..9000).prop_map(|(p, o, n)| Op::Write(p, o, n)),
        2 => (path(), offset.clone()).prop_map(|(p, s)| Op::Truncate(p, s)),
        3 => path().prop_map(Op::Unlink),
        3 => path().prop_map(Op::Rmdir),
        6 => (path(), path(), rename_flags).prop_map(|(a, b, f)| Op::Rename(a, b, f)),
        3 => (path(), path(), any::<bool>()).prop_map(|(a, b, f)| Op::Link(a, b, f)),
        4 => (target(), path()).prop_map(|(t, p)| Op::Symlink(t, p)),
        3 => (path(), any::<bool>()).prop_map(|(p, f)| Op::Stat(p, f)),
        1 => path().prop_map(Op::Readlink),
        1 => (path(), 0u32..0o10000).prop_map(|(p, m)| Op::Chmod(p, m)),
        1 => path().prop_map(Op::Mkfifo),
        2 => (path(), offset, 0usize..9000).prop_map(|(p, o, n)| Op::Read(p, o, n)),
        2 => (path(), -10i64..20000, 0i32..6).prop_map(|(p, o, w)| Op::Seek(p, o, w)),
        2 => (path(), 0i32..4, 0i64..20000, 0i64..9000).prop_map(|(p, m, o, l)| Op::Punch(p, m, o, l)),
        1 => (path(), path()).prop_map(|(d, p)| Op::Tmpfile(d, p)),
        1 => (path(), 0u32..8).prop_map(|(p, m)| Op::Access(p, m)),
    ]
}

/// Where the operations happen: deep enough for `..` to stay inside.
const DEEP: &str = "t/t/t/t/t/t";

/// What an operation gives: a number or bytes, or an error number.
type Outcome = Result<Vec<u8>, i32>;

fn number(n: impl Into<i128>) -> Vec<u8> {
    n.into().to_string().into_bytes()
}

fn pattern(offset: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((offset as usize + i) % 251 + 1) as u8).collect()
}

/// Facts of `stat` that both sides must agree on. Directory sizes count entries.
fn facts(mode: u32, nlink: u64, size: u64, blocks: u64) -> Vec<u8> {
    format!("{mode:o} {nlink} {size} {blocks}").into_bytes()
}

struct Host {
    dir: std::path::PathBuf,
    fd: i32,
}

impl Host {
    fn new(case: u64) -> Host {
        let dir =
            std::path::PathBuf::from(format!("/dev/shm/tmpfs-diff-{}-{case}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join(DEEP)).unwrap();
        let path = CString::new(dir.join(DEEP).to_str().unwrap()).unwrap();
        // SAFETY: a valid C string.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY) };
        assert!(fd >= 0);
        Host { dir, fd }
    }

    fn run(&self, op: &Op) -> Outcome {
        let c = |s: &str| CString::new(s).unwrap();
        let check = |result: i64| -> Result<i64, i32> {
            if result < 0 {
                Err(std::io::Error::last_os_error().raw_os_error().unwrap())
            } else {
                Ok(result)
            }
        };
        let open = |p: &str, flags: i32, mode: u32| {
            // SAFETY: a valid C string.
            check(i64::from(unsafe {
                libc::openat(self.fd, c(p).as_ptr(), flags | libc::O_NONBLOCK, mode)
            }))
        };
        let close = |fd: i64| {
            // SAFETY: a descriptor of this function, which uses it no more.
            unsafe { libc::close(fd as i32) }
        };
        let stat = |st: &libc::stat| {
            let dir = st.st_mode & libc::S_IFMT == libc::S_IFDIR;
            let blocks = if st.st_mode & libc::S_IFMT == libc::S_IFREG { st.st_blocks } else { 0 };
            let _ = dir;
            facts(st.st_mode, st.st_nlink, st.st_size as u64, blocks as u64)
        };
        // SAFETY: every pointer below is to a live C string or buffer of the given length.
        unsafe {
            match op {
                Op::Mkdir(p, m) => {
                    check(libc::mkdirat(self.fd, c(p).as_ptr(), *m).into()).map(number)
                }
                Op::Open(p, f, m) => {
                    let fd = open(p, *f, *m)?;
                    close(fd);
                    Ok(Vec::new())
                }
                Op::Write(p, o, n) => {
                    let fd = open(p, libc::O_WRONLY, 0)?;
                    let data = pattern(*o, *n);
                    let r =
                        check(libc::pwrite(fd as i32, data.as_ptr().cast(), *n, *o as i64) as i64);
                    close(fd);
                    r.map(number)
                }
                Op::Truncate(p, s) => {
                    let fd = open(p, libc::O_WRONLY, 0)?;
                    let r = check(libc::ftruncate(fd as i32, *s as i64).into());
                    close(fd);
                    r.map(number)
                }
                Op::Unlink(p) => {
                    check(libc::unlinkat(self.fd, c(p).as_ptr(), 0).into()).map(number)
                }
                Op::Rmdir(p) => {
                    check(libc::unlinkat(self.fd, c(p).as_ptr(), libc::AT_REMOVEDIR).into())
                        .map(number)
                }
                Op::Rename(a, b, f) => {
                    let r = libc::syscall(
                        libc::SYS_renameat2,
                        self.fd,
                        c(a).as_ptr(),
                        self.fd,
                        c(b).as_ptr(),
                        *f,
                    );
                    check(r).map(number)
                }
                Op::Link(a, b, follow) => {
                    let flag = if *follow { libc::AT_SYMLINK_FOLLOW } else { 0 };
                    check(libc::linkat(self.fd, c(a).as_ptr(), self.fd, c(b).as_ptr(), flag).into())
                        .map(number)
                }
                Op::Symlink(t, p) => {
                    check(libc::symlinkat(c(t).as_ptr(), self.fd, c(p).as_ptr()).into()).map(number)
                }
                Op::Stat(p, follow) => {
                    let mut st: libc::stat = std::mem::zeroed();
                    let flag = if *follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
                    check(libc::fstatat(self.fd, c(p).as_ptr(), &mut st, flag).into())?;
                    Ok(stat(&st))
                }
                Op::Readlink(p) => {
                    let mut buf = [0u8; 4096];
                    let n = check(libc::readlinkat(
                        self.fd,
                        c(p).as_ptr(),
                        buf.as_mut_ptr().cast(),
                        4096,
                    ) as i64);
                    // An empty path means the descriptor, which is no link there: ENOENT.
                    n.map(|n| buf[..n as usize].to_vec())
                }
                Op::Chmod(p, m) => {
                    check(libc::fchmodat(self.fd, c(p).as_ptr(), *m, 0).into()).map(number)
                }
                Op::Mkfifo(p) => {
                    check(libc::mkfifoat(self.fd, c(p).as_ptr(), 0o644).into()).map(number)
                }
                Op::Read(p, o, n) => {
                    let fd = open(p, libc::O_RDONLY, 0)?;
                    let mut buf = vec![0u8; *n];
                    let r = check(
                        libc::pread(fd as i32, buf.as_mut_ptr().cast(), *n, *o as i64) as i64
                    );
                    close(fd);
                    r.map(|n| buf[..n as usize].to_vec())
                }
                Op::Seek(p, o, w) => {
                    let fd = open(p, libc::O_RDONLY, 0)?;
                    let dir = is_dir(fd as i32);
                    let r = check(libc::lseek(fd as i32, *o, *w));
                    close(fd);
                    if dir { Ok(Vec::new()) } else { r.map(number) }
                }
                Op::Punch(p, m, o, l) => {
                    let fd = open(p, libc::O_RDWR, 0)?;
                    let r = check(libc::fallocate(fd as i32, *m, *o, *l).into());
                    close(fd);
                    r.map(number)
                }
                Op::Tmpfile(d, p) => {
                    let fd = open(d, libc::O_TMPFILE | libc::O_RDWR, 0o640)?;
                    let from = c(&format!("/proc/self/fd/{fd}"));
                    let r = libc::linkat(
                        libc::AT_FDCWD,
                        from.as_ptr(),
                        self.fd,
                        c(p).as_ptr(),
                        libc::AT_SYMLINK_FOLLOW,
                    );
                    let r = check(r.into());
                    close(fd);
                    r.map(number)
                }
                Op::Access(p, m) => {
                    check(libc::faccessat(self.fd, c(p).as_ptr(), *m as i32, 0).into()).map(number)
                }
            }
        }
    }

    /// Every name with what it is, sorted.
    fn tree(&self) -> Vec<String> {
        fn walk(base: &std::path::Path, at: &std::path::Path, out: &mut Vec<String>) {
            for entry in std::fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                out.push(path.strip_prefix(base).unwrap().to_str().unwrap().to_owned());
                if path.symlink_metadata().unwrap().is_dir() {
                    walk(base, &path, out);
                }
            }
        }
        let mut out = Vec::new();
        let base = self.dir.join(DEEP);
        walk(&base, &base, &mut out);
        out.sort();
        out
    }
}

/// Whether a descriptor is a directory.
///
/// # Safety
/// `fd` is open.
unsafe fn is_dir(fd: i32) -> bool {
    // SAFETY: `st` is a valid buffer.
    unsafe {
        let mut st: libc::stat = std::mem::zeroed();
        libc::fstat(fd, &mut st);
        st.st_mode & libc::S_IFMT == libc::S_IFDIR
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: opened in `new`.
        unsafe { libc::close(self.fd) };
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

struct Ours {
    creds: Arc<Creds>,
    ns: Arc<MountNamespace>,
    root: Path,
    base: Path,
    umask: u32,
}

impl Ours {
    fn new(umask: u32) -> Ours {
        static MEMORY: std::sync::Once = std::sync::Once::new();
        MEMORY.call_once(|| frames::init_host(256 << 20));
        let user_ns = UserNamespace::initial();
        let creds = Arc::new(Creds::root(user_ns.clone()));
        let sb = tmpfs::create("tmpfs", tmpfs::Options::default(), (0, 0)).unwrap();
        let ns = MountNamespace::with_root(7, user_ns, &sb, b"none", 0).unwrap();
        let root = ns.root_path().unwrap();
        let mut ours = Ours { creds, ns, base: root.clone(), root, umask };
        for name in DEEP.split('/') {
            let name = name.as_bytes();
            ours.with(|ctx, base| vfs::ops::mkdir(ctx, base, name, 0o755)).unwrap();
            ours.base = ours.with(|ctx, base| vfs::walk(ctx, base, name, Walk::empty())).unwrap();
        }
        ours
    }

    fn with<R>(&self, f: impl FnOnce(&Context<'_>, &Path) -> R) -> R {
        let ctx = Context {
            creds: &self.creds,
            root: &self.root,
            cwd: &self.base,
            umask: self.umask,
            mounts: &self.ns,
            caller: &KernelCaller,
        };
        f(&ctx, &self.base)
    }

    fn run(&self, op: &Op) -> Outcome {
        self.with(|ctx, base| self.run_in(ctx, base, op)).map_err(|e: Errno| e.raw())
    }

    fn run_in(&self, ctx: &Context<'_>, base: &Path, op: &Op) -> abi::Result<Vec<u8>> {
        let open = |p: &str, flags: i32, mode: u32| {
            vfs::open(ctx, base, p.as_bytes(), &OpenHow::new(flags as u32 | 0o4000, mode))
        };
        let follow = |yes: bool| if yes { Walk::FOLLOW } else { Walk::empty() };
        match op {
            Op::Mkdir(p, m) => vfs::ops::mkdir(ctx, base, p.as_bytes(), *m).map(|()| number(0)),
            Op::Open(p, f, m) => open(p, *f, *m).map(|_| Vec::new()),
            Op::Write(p, o, n) => {
                let file = open(p, libc::O_WRONLY, 0)?;
                let data = pattern(*o, *n);
                rw::write(ctx, &file, At::Offset(*o), &mut Source::kernel(&data), 0)
                    .map(|n| number(n as i64))
            }
            Op::Truncate(p, s) => {
                let file = open(p, libc::O_WRONLY, 0)?;
                vfs::ops::truncate_file(ctx, &file, *s).map(|()| number(0))
            }
            Op::Unlink(p) => vfs::ops::unlink(ctx, base, p.as_bytes()).map(|()| number(0)),
            Op::Rmdir(p) => vfs::ops::rmdir(ctx, base, p.as_bytes()).map(|()| number(0)),
            Op::Rename(a, b, f) => {
                let flags = RenameFlags::from_bits_retain(*f);
                vfs::ops::rename(ctx, base, a.as_bytes(), base, b.as_bytes(), flags)
                    .map(|()| number(0))
            }
            Op::Link(a, b, f) => {
                vfs::ops::link(ctx, base, a.as_bytes(), follow(*f), base, b.as_bytes())
                    .map(|()| number(0))
            }
            Op::Symlink(t, p) => {
                vfs::ops::symlink(ctx, t.as_bytes(), base, p.as_bytes()).map(|()| number(0))
            }
            Op::Stat(p, f) => {
                let path = vfs::walk(ctx, base, p.as_bytes(), follow(*f))?;
                let attr = path.inode()?.attr()?;
                let regular = attr.mode & 0o170000 == 0o100000;
                Ok(facts(
                    attr.mode,
                    attr.nlink.into(),
                    attr.size,
                    if regular { attr.blocks } else { 0 },
                ))
            }
            Op::Readlink(p) => vfs::ops::readlink(ctx, base, p.as_bytes()).map(|t| t.to_vec()),
            Op::Chmod(p, m) => {
                let path = vfs::walk(ctx, base, p.as_bytes(), Walk::FOLLOW)?;
                vfs::ops::chmod(ctx, &path, *m).map(|()| number(0))
            }
            Op::Mkfifo(p) => {
                let none = DeviceNumber::NONE;
                vfs::ops::mknod(ctx, base, p.as_bytes(), FileKind::Fifo, 0o644, none)
                    .map(|_| number(0))
            }
            Op::Read(p, o, n) => {
                let file = open(p, libc::O_RDONLY, 0)?;
                let mut buf = vec![0u8; *n];
                let n = rw::read(&file, At::Offset(*o), &mut Sink::kernel(&mut buf))?;
                buf.truncate(n);
                Ok(buf)
            }
            Op::Seek(p, o, w) => {
                let file = open(p, libc::O_RDONLY, 0)?;
                let r = vfs::seek::lseek(&file, *o, *w as u32);
                if file.inode().is_dir() { Ok(Vec::new()) } else { r.map(|n| number(n as i64)) }
            }
            Op::Punch(p, m, o, l) => {
                let file = open(p, libc::O_RDWR, 0)?;
                rw::fallocate(ctx, &file, *m as u32, *o, *l).map(|()| number(0))
            }
            Op::Tmpfile(d, p) => {
                let file = open(d, libc::O_TMPFILE | libc::O_RDWR, 0o640)?;
                vfs::ops::link_open_file(ctx, &file, base, p.as_bytes()).map(|()| number(0))
            }
            Op::Access(p, m) => {
                let path = vfs::walk(ctx, base, p.as_bytes(), Walk::FOLLOW)?;
                vfs::ops::access(ctx, &path, *m).map(|()| number(0))
            }
        }
    }

    fn tree(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.with(|ctx, base| list(ctx, base, "", &mut out));
        out.sort();
        out
    }
}

fn list(ctx: &Context<'_>, dir: &Path, prefix: &str, out: &mut Vec<String>) {
    let how = OpenHow::new(libc::O_DIRECTORY as u32, 0);
    let file = vfs::open(ctx, dir, b".", &how).unwrap();
    let mut names = Vec::new();
    let mut sink = |entry: &vfs::DirEntry<'_>| {
        names.push((String::from_utf8(entry.name.to_vec()).unwrap(), entry.kind));
        true
    };
    rw::read_dir(&file, &mut sink).unwrap();
    for (name, kind) in names {
        if name == "." || name == ".." {
            continue;
        }
        out.push(format!("{prefix}{name}"));
        if kind == 4 {
            let child = vfs::walk(ctx, dir, name.as_bytes(), Walk::empty()).unwrap();
            list(ctx, &child, &format!("{prefix}{name}/"), out);
        }
    }
}

/// What the two sides may do differently: opening a fifo needs the pipes of another crate.
fn comparable(host: &Outcome, ours: &Outcome) -> bool {
    let fifo = |o: &Outcome| matches!(o, Err(libc::ENXIO));
    host == ours || fifo(host) || fifo(ours)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("TMPFS_DIFF_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(500), max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn same_as_the_hosts_tmpfs(ops in prop::collection::vec(op(), 1..60), case in any::<u64>()) {
        // SAFETY: changes the umask of this process only.
        let umask = unsafe { libc::umask(0o022) };
        let _ = umask;
        let (host, ours) = (Host::new(case), Ours::new(0o022));
        for (index, op) in ops.iter().enumerate() {
            let (theirs, mine) = (host.run(op), ours.run(op));
            prop_assert!(comparable(&theirs, &mine), "op {}: {:?}: host {:?}, ours {:?}", index, op,
                theirs.as_ref().map(|b| String::from_utf8_lossy(&b[..b.len().min(60)]).into_owned()),
                mine.as_ref().map(|b| String::from_utf8_lossy(&b[..b.len().min(60)]).into_owned()));
        }
        prop_assert_eq!(host.tree(), ours.tree());
    }
}
