//! Names through the VFS: all spellings are one file with one dentry.

use super::*;

use abi::fcntl::{O_CREAT, O_EXCL, O_RDWR};
use vfs::{
    Context, Creds, FsPaths, KernelCaller, MountNamespace, OpenHow, RenameFlags, UserNamespace,
    Walk, ops,
};

struct World {
    creds: Arc<Creds>,
    ns: Arc<MountNamespace>,
    paths: FsPaths,
}

impl World {
    fn new(fixture: &Fixture) -> World {
        let user_ns = UserNamespace::initial();
        let ns = MountNamespace::with_root(1, user_ns.clone(), &fixture.sb, b"root", 0).unwrap();
        let root = ns.root_path().unwrap();
        let creds = Arc::new(Creds::root(user_ns));
        World { creds, ns, paths: FsPaths { root: root.clone(), cwd: root } }
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

    fn at(&self, name: &str) -> Result<vfs::Path> {
        vfs::walk(&self.ctx(), &self.paths.root, name.as_bytes(), Walk::empty())
    }

    /// The path that the kernel says a name means.
    fn shown(&self, name: &str) -> String {
        let path = self.at(name).unwrap();
        String::from_utf8(vfs::dpath::describe(&path, &self.paths.root)).unwrap()
    }

    fn create(&self, name: &str) -> Result<()> {
        let how = OpenHow::new(O_CREAT | O_EXCL | O_RDWR, 0o644);
        ops::open(&self.ctx(), &self.paths.root, name.as_bytes(), &how).map(|_| ())
    }

    fn rename(&self, old: &str, new: &str, flags: RenameFlags) -> Result<()> {
        let root = &self.paths.root;
        ops::rename(&self.ctx(), root, old.as_bytes(), root, new.as_bytes(), flags)
    }

    fn unlink(&self, name: &str) -> Result<()> {
        ops::unlink(&self.ctx(), &self.paths.root, name.as_bytes())
    }
}

#[test]
fn spellings_are_one_file() {
    let fixture = Fixture::new("-F 32 -s 1", 40 << 10, "");
    let world = World::new(&fixture);
    world.create("A long Name.txt").unwrap();
    for name in ["a LONG name.TXT", "ALONGN~1.TXT", "a long name.txt...", "A long Name.txt"] {
        assert_eq!(world.shown(name), "/A long Name.txt");
        assert_eq!(world.create(name).err(), Some(Errno::EEXIST));
    }
    world.create("dots...").unwrap();
    assert_eq!(world.shown("DOTS"), "/dots");
    assert_eq!(world.at("other").err(), Some(Errno::ENOENT));
    world.create("Other").unwrap();
    assert_eq!(world.shown("other"), "/Other");
    world.unlink("OTHER").unwrap();
    assert_eq!(world.at("Other").err(), Some(Errno::ENOENT));
    assert_eq!(world.at("other").err(), Some(Errno::ENOENT));
    world.rename("a long NAME.txt", "New name.", RenameFlags::empty()).unwrap();
    assert_eq!(world.shown("NEWNAM~1"), "/New name");
    assert_eq!(world.at("ALONGN~1.TXT").err(), Some(Errno::ENOENT));
    let refused = world.rename("new name", "DOTS", RenameFlags::NOREPLACE);
    assert_eq!(refused.err(), Some(Errno::EEXIST));
    world.rename("new name", "DOTS", RenameFlags::empty()).unwrap();
    assert_eq!(list(&fixture.root()), ["dots"]);
    let exchanged = world.rename("dots", "dots", RenameFlags::EXCHANGE);
    assert!(exchanged.is_ok());
    let long = "x".repeat(254);
    world.create(&long).unwrap();
    let wide = "長".repeat(255);
    world.create(&wide).unwrap();
    assert_eq!(world.shown(&wide), format!("/{wide}"));
    assert_eq!(world.create(&"長".repeat(256)).err(), Some(Errno::ENAMETOOLONG));
    drop(world);
    fixture.check();
}

#[test]
fn links_and_nodes_are_refused() {
    let fixture = Fixture::new("-F 16 -s 1", 8 << 10, "");
    let world = World::new(&fixture);
    let (ctx, root) = (world.ctx(), &world.paths.root);
    world.create("file").unwrap();
    assert_eq!(ops::symlink(&ctx, b"x", root, b"link").err(), Some(Errno::EPERM));
    let linked = ops::link(&ctx, root, b"file", Walk::empty(), root, b"other");
    assert_eq!(linked.err(), Some(Errno::EPERM));
    let fifo = ops::mknod(&ctx, root, b"fifo", FileKind::Fifo, 0o600, DeviceNumber::NONE);
    assert_eq!(fifo.err(), Some(Errno::EPERM));
    for wrong in ["a:b", "a*", "a?b", "tail "] {
        assert_eq!(world.create(wrong).err(), Some(Errno::EINVAL), "{wrong}");
    }
    drop(world);
    fixture.check();
}

#[test]
fn directories_move_with_what_is_in_them() {
    let fixture = Fixture::new("-F 16 -s 1", 8 << 10, "");
    let world = World::new(&fixture);
    for dir in ["one", "two", "one/inner", "one/inner/deep", "two/empty"] {
        ops::mkdir(&world.ctx(), &world.paths.root, dir.as_bytes(), 0o755).unwrap();
    }
    world.create("one/inner/file").unwrap();
    world.rename("one/inner", "TWO/Empty", RenameFlags::empty()).unwrap();
    assert!(world.at("two/empty/file").is_ok());
    let links = |name: &str| world.at(name).unwrap().inode().unwrap().nlink();
    assert_eq!((links("one"), links("two"), links("two/empty"), links("/")), (2, 3, 3, 4));
    assert_eq!(world.rename("two", "two/empty/x", RenameFlags::empty()).err(), Some(Errno::EINVAL));
    let full = ops::rmdir(&world.ctx(), &world.paths.root, b"two");
    assert_eq!(full.err(), Some(Errno::ENOTEMPTY));
    world.rename("two/empty", "top", RenameFlags::empty()).unwrap();
    assert_eq!((links("two"), links("/")), (2, 5));
    drop(world);
    fixture.check();
}

#[test]
fn msdos_has_short_names_alone() {
    let fixture = Fixture::new("-F 12 -s 1", 1440, "msdos");
    let world = World::new(&fixture);
    world.create("Readme.Text").unwrap();
    assert_eq!(world.shown("README.TEX"), "/readme.tex");
    assert_eq!(world.create("readme.texture").err(), Some(Errno::EEXIST));
    for wrong in [".hidden", "a:b", "a*b"] {
        assert_eq!(world.create(wrong).err(), Some(Errno::EINVAL), "{wrong}");
    }
    drop(world);
    let image = fixture.check();
    let fixture = Fixture::on(image, "shortname=win95");
    assert_eq!(list(&fixture.root()), ["README.TEX"]);
    fixture.check();
}
