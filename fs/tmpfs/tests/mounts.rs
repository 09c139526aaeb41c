//! Bind mounts, moves, propagation and namespaces, on tmpfs.

#![cfg(not(target_os = "none"))]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;

use abi::Errno;
use abi::mount::*;
use vfs::mount::{self, MountArgs};
use vfs::{Context, Creds, FsPaths, KernelCaller, MountNamespace, Path, UserNamespace, Walk, ops};

struct World {
    creds: Arc<Creds>,
    ns: Arc<MountNamespace>,
    paths: FsPaths,
}

impl World {
    fn new() -> World {
        frames::init_host(64 << 20);
        tmpfs::init();
        let user_ns = UserNamespace::initial();
        let sb = tmpfs::create("tmpfs", tmpfs::Options::default(), (0, 0)).unwrap();
        let ns = MountNamespace::with_root(1, user_ns.clone(), &sb, b"root", 0).unwrap();
        let root = ns.root_path().unwrap();
        let world = World {
            creds: Arc::new(Creds::root(user_ns)),
            ns,
            paths: FsPaths { root: root.clone(), cwd: root },
        };
        for dir in ["a", "b", "c", "a/sub"] {
            world.mkdir(dir);
        }
        world
    }

    fn ctx(&self) -> Context<'_> {
        Context {
            creds: &self.creds,
            root: &self.paths.root,
            cwd: &self.paths.cwd,
            umask: 0,
            mounts: &self.ns,
            caller: &KernelCaller,
        }
    }

    fn mkdir(&self, name: &str) {
        ops::mkdir(&self.ctx(), &self.paths.root, name.as_bytes(), 0o755).unwrap();
    }

    fn at(&self, name: &str) -> Path {
        vfs::walk(&self.ctx(), &self.paths.root, name.as_bytes(), Walk::FOLLOW).unwrap()
    }

    fn exists(&self, name: &str) -> bool {
        vfs::walk(&self.ctx(), &self.paths.root, name.as_bytes(), Walk::FOLLOW).is_ok()
    }

    fn mount(&self, source: &str, target: &str, fs: &str, flags: u64) -> abi::Result<()> {
        let args = MountArgs {
            source: Some(source.as_bytes()),
            target: self.at(target),
            fs_type: Some(fs.as_bytes()),
            flags,
            data: b"",
        };
        let ctx = self.ctx();
        mount::mount(&ctx, args, |name| vfs::walk(&ctx, ctx.cwd, name, Walk::FOLLOW))
    }

    fn umount(&self, target: &str, flags: u32) -> abi::Result<()> {
        mount::umount(&self.ctx(), self.at(target), flags)
    }
}

#[test]
fn a_mount_covers_and_uncovers() {
    let w = World::new();
    w.mount("none", "a", "tmpfs", 0).unwrap();
    assert!(!w.exists("a/sub"));
    w.mkdir("a/inner");
    assert!(w.exists("a/inner/../../b"));
    assert_eq!(w.mount("none", "a", "nonsense", 0), Err(Errno::ENODEV));
    let held = w.at("a/inner");
    assert_eq!(w.umount("a", 0), Err(Errno::EBUSY));
    drop(held);
    assert_eq!(w.umount("a", 0), Ok(()));
    assert!(w.exists("a/sub"));
    assert_eq!(w.umount("a", 0), Err(Errno::EINVAL));
}

#[test]
fn binds_and_read_only_views() {
    let w = World::new();
    w.mount("a", "b", "", MS_BIND).unwrap();
    assert!(w.exists("b/sub"));
    w.mount("", "b", "", MS_BIND | MS_REMOUNT | MS_RDONLY).unwrap();
    let denied = ops::mkdir(&w.ctx(), &w.paths.root, b"b/new", 0o755);
    assert_eq!(denied, Err(Errno::EROFS));
    w.mkdir("a/new");
    assert!(w.exists("b/new"));
    assert_eq!(w.umount("b", 0), Ok(()));
}

#[test]
fn shared_mounts_propagate() {
    let w = World::new();
    w.mount("none", "a", "tmpfs", 0).unwrap();
    w.mkdir("a/p");
    w.mount("", "a", "", MS_SHARED).unwrap();
    w.mount("a", "b", "", MS_BIND).unwrap();
    w.mount("a", "c", "", MS_BIND).unwrap();
    w.mount("", "c", "", MS_SLAVE).unwrap();
    w.mount("none", "a/p", "tmpfs", 0).unwrap();
    w.mkdir("a/p/x");
    assert!(w.exists("b/p/x") && w.exists("c/p/x"));
    w.umount("b/p", 0).unwrap();
    assert!(!w.exists("a/p/x") && !w.exists("c/p/x"));
    w.mount("none", "c/p", "tmpfs", 0).unwrap();
    w.mkdir("c/p/only");
    assert!(!w.exists("a/p/only"));
}

#[test]
fn namespaces_are_copies() {
    let w = World::new();
    let mut paths = w.paths.clone();
    let user_ns = w.ns.user_ns.clone();
    let copy = mount::clone_namespace(&w.ns, 2, user_ns, &mut paths).unwrap();
    w.mount("none", "a", "tmpfs", 0).unwrap();
    w.mkdir("a/new");
    let ctx = Context { root: &paths.root, cwd: &paths.cwd, mounts: &copy, ..w.ctx() };
    assert!(vfs::walk(&ctx, &paths.root, b"a/sub", Walk::empty()).is_ok());
    assert!(vfs::walk(&ctx, &paths.root, b"a/new", Walk::empty()).is_err());
    let mut text = String::new();
    mount::write_mounts(&w.ns, &w.paths.root, &mut text).unwrap();
    assert_eq!(text.lines().nth(1), Some("none /a tmpfs rw,relatime 0 0"));
}

#[test]
fn handles_find_their_file_until_it_is_deleted() {
    let world = World::new();
    let file = world.at("a").inode().unwrap();
    let sb = file.sb().clone();
    let (kind, bytes) = file.ops().file_handle(&file).unwrap();
    let found = sb.ops().inode_of_handle(&sb, kind, &bytes).unwrap();
    assert!(Arc::ptr_eq(&found, &file));
    drop((found, file));
    let short = bytes.get(..8).unwrap();
    for (kind, bytes) in [(kind + 1, &bytes[..]), (kind, short)] {
        assert_eq!(sb.ops().inode_of_handle(&sb, kind, bytes).err(), Some(Errno::ESTALE));
    }
    ops::rmdir(&world.ctx(), &world.paths.root, b"a/sub").unwrap();
    ops::rmdir(&world.ctx(), &world.paths.root, b"a").unwrap();
    assert_eq!(sb.ops().inode_of_handle(&sb, kind, &bytes).err(), Some(Errno::ESTALE));
}
