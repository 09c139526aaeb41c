//! What a generated tree is made of, and its inodes.

use crate::PseudoSuper;
use crate::file::{ListFile, TextFile};
use abi::stat::{S_IFDIR, S_IFLNK, S_IFREG};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use sched::WaitQueue;
use vfs::cred::Creds;
use vfs::{
    Attr, Context, FileKind, FileOps, Inode, InodeFlags, InodeInit, InodeOps, Link, NewInode, Path,
    RenameEnd, RenameFlags, SetAttr, SuperBlock,
};

/// A directory computed on demand.
pub trait Directory: Send + Sync {
    /// The entry of this name.
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>>;
    /// Who the entry of this name is: as [`lookup`](Self::lookup), for those that have it already.
    fn identify(&self, name: &[u8]) -> Result<Option<Identity>> {
        Ok(self.lookup(name)?.map(|node| Identity { ino: node.ino, owner: node.owner }))
    }
    /// Lists the entries from `cursor` on (0 is the first), each with the cursor behind it, until
    /// `out` answers false.
    fn list(&self, cursor: u64, out: &mut Lister<'_>) -> Result<()>;
    /// Whether names may come and go by themselves.
    fn is_volatile(&self) -> bool {
        false
    }
    /// Hard links the directory claims.
    fn nlink(&self) -> u32 {
        2
    }
    /// What an open descriptor of the directory stands for, where it names more than its entries:
    /// [`File::private`](vfs::File::private) finds it.
    fn subject(&self) -> Option<&dyn Any> {
        None
    }
    /// `mkdir(2)`, where it means something.
    fn make(&self, name: &[u8], access: Access) -> Result<Node> {
        let _ = (name, access);
        Err(Errno::EPERM)
    }
    /// `rmdir(2)`.
    fn remove(&self, name: &[u8]) -> Result<()> {
        let _ = name;
        Err(Errno::EPERM)
    }
    /// `rename(2)` of a directory to a name that is free; `is_here`: within this one.
    fn rename(&self, old: &[u8], new: &[u8], is_here: bool) -> Result<()> {
        let _ = (old, new, is_here);
        Err(Errno::EPERM)
    }
    /// Remembers what `chmod(2)` and `chown(2)` have set, where the node outlives its inode.
    fn keep(&self, access: Access) {
        let _ = access;
    }
}

/// Who a node belongs to and what he may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
}

/// Takes an entry: the cursor behind it, its name, its inode number and `DT_*`.
pub type Lister<'a> = dyn FnMut(u64, &[u8], u64, u8) -> bool + 'a;

/// A file whose contents are computed when it is read from its start.
pub trait Text: Send + Sync {
    /// Produces the contents.
    fn show(&self, out: &mut Vec<u8>) -> Result<()>;
    /// As [`show`](Self::show), for files that ask who opened them.
    fn show_as(&self, out: &mut Vec<u8>, opener: &Arc<Creds>) -> Result<()> {
        let _ = opener;
        self.show(out)
    }
    /// Takes what was written in one call.
    fn store(&self, bytes: &[u8]) -> Result<()> {
        let _ = bytes;
        Err(Errno::EINVAL)
    }
    /// As [`store`](Self::store), for files that ask who opened them: a descriptor may have been
    /// handed to a program with more rights than its opener has.
    fn store_as(&self, bytes: &[u8], opener: &Arc<Creds>) -> Result<()> {
        let _ = opener;
        self.store(bytes)
    }
    /// Opens the file with operations of its own instead.
    fn open(&self) -> Option<Result<Arc<dyn FileOps>>> {
        None
    }
    /// What poll(2) waits for, for files that it can wait for.
    fn changes(&self) -> Option<Changes> {
        None
    }
    /// As [`Directory::keep`].
    fn keep(&self, access: Access) {
        let _ = access;
    }
}

/// How a text tells that it would read otherwise: it is an error and urgent data until it is read again.
pub struct Changes {
    /// Woken then.
    pub queue: Arc<WaitQueue>,
    /// Another number then.
    pub count: u64,
}

/// Where a symbolic link leads.
pub trait Target: Send + Sync {
    /// The text of the link.
    fn text(&self) -> Result<Vec<u8>>;
    /// The object itself, where the text is only a description.
    fn jump(&self) -> Result<Option<Path>> {
        Ok(None)
    }
}

/// What a node is.
#[derive(Clone)]
pub enum Body {
    /// A directory.
    Dir(Arc<dyn Directory>),
    /// A regular file.
    File(Arc<dyn Text>),
    /// A symbolic link.
    Link(Arc<dyn Target>),
}

/// What of a node may have changed since it was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Inode number: another one is another node.
    pub ino: u64,
    /// Owner and group.
    pub owner: (u32, u32),
}

/// One node of the tree.
#[derive(Clone)]
pub struct Node {
    /// Inode number: the node's identity.
    pub ino: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// What it is.
    pub body: Body,
}

impl Node {
    /// `DT_*` of the node.
    pub fn dirent_kind(&self) -> u8 {
        match self.body {
            Body::Dir(_) => 4,
            Body::File(_) => 8,
            Body::Link(_) => 10,
        }
    }
}

/// The inode's part of a node.
pub struct NodeInode {
    pub(crate) body: Body,
}

/// The inode of a node: the one in use if there is one.
pub(crate) fn inode_of(sb: &Arc<SuperBlock>, node: Node) -> Arc<Inode> {
    let cache = sb.private::<PseudoSuper>().map(|s| &s.inodes);
    if let Some(found) = cache.and_then(|c| c.get(node.ino)) {
        found.set_uid(node.owner.0);
        found.set_gid(node.owner.1);
        return found;
    }
    let kind = match node.body {
        Body::Dir(_) => S_IFDIR,
        Body::File(_) => S_IFREG,
        Body::Link(_) => S_IFLNK,
    };
    let mut init = InodeInit::pseudo(node.ino, kind | node.mode);
    (init.uid, init.gid) = node.owner;
    if let Body::Dir(dir) = &node.body {
        init.nlink = dir.nlink();
        if dir.is_volatile() {
            init.flags |= InodeFlags::REVALIDATE;
        }
    }
    let inode = Inode::new(sb, &init, Arc::new(NodeInode { body: node.body }), None);
    match cache {
        Some(cache) => cache.insert(inode),
        None => inode,
    }
}

impl InodeOps for NodeInode {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let Body::Dir(own) = &self.body else { return Err(Errno::ENOTDIR) };
        Ok(own.lookup(name)?.map(|node| inode_of(dir.sb(), node)))
    }

    fn revalidate(&self, _dir: &Inode, name: &[u8], child: Option<&Inode>) -> bool {
        let Body::Dir(own) = &self.body else { return false };
        if !own.is_volatile() {
            return true;
        }
        match (own.identify(name), child) {
            (Ok(Some(node)), Some(child)) => {
                child.set_uid(node.owner.0);
                child.set_gid(node.owner.1);
                node.ino == child.ino
            }
            (Ok(None), None) => true,
            _ => false,
        }
    }

    fn getattr(&self, inode: &Inode, attr: &mut Attr) -> Result<()> {
        let _ = inode;
        attr.blksize = 1024;
        Ok(())
    }

    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let Body::Dir(own) = &self.body else { return Err(Errno::ENOTDIR) };
        match new.kind {
            FileKind::Directory => {}
            FileKind::Regular => return Err(Errno::EACCES),
            _ => return Err(Errno::EPERM),
        }
        let access = Access { mode: new.mode & 0o7777, owner: (new.uid, new.gid) };
        let inode = inode_of(dir.sb(), own.make(name, access)?);
        dir.set_nlink(own.nlink());
        Ok(inode)
    }

    fn rmdir(&self, dir: &Arc<Inode>, name: &[u8], victim: &Arc<Inode>) -> Result<()> {
        let Body::Dir(own) = &self.body else { return Err(Errno::ENOTDIR) };
        own.remove(name)?;
        dir.set_nlink(own.nlink());
        victim.set_nlink(0);
        Ok(())
    }

    fn rename(
        &self,
        old: RenameEnd<'_>,
        moved: &Arc<Inode>,
        new: RenameEnd<'_>,
        replaced: Option<&Arc<Inode>>,
        flags: RenameFlags,
    ) -> Result<()> {
        let Body::Dir(own) = &self.body else { return Err(Errno::ENOTDIR) };
        if !moved.is_dir() {
            return Err(Errno::EPERM);
        }
        if replaced.is_some() || !flags.is_empty() {
            return Err(Errno::EINVAL);
        }
        own.rename(old.name, new.name, Arc::ptr_eq(old.dir, new.dir))
    }

    fn setattr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        inode.apply(change);
        inode.set_size(0);
        let access = Access { mode: inode.mode() & 0o7777, owner: (inode.uid(), inode.gid()) };
        match &self.body {
            Body::Dir(dir) => dir.keep(access),
            Body::File(text) => text.keep(access),
            Body::Link(_) => {}
        }
        Ok(())
    }

    fn follow(&self, _inode: &Arc<Inode>, _ctx: &Context<'_>) -> Result<Link> {
        let Body::Link(target) = &self.body else { return Err(Errno::EINVAL) };
        Ok(match target.jump()? {
            Some(path) => Link::Jump(path),
            None => Link::Text(target.text()?.into()),
        })
    }

    fn readlink(&self, _inode: &Arc<Inode>, _ctx: &Context<'_>) -> Result<Arc<[u8]>> {
        let Body::Link(target) = &self.body else { return Err(Errno::EINVAL) };
        Ok(target.text()?.into())
    }

    fn open(&self, _: &Arc<Inode>, _: u32, _: &Context<'_>) -> Result<Arc<dyn FileOps>> {
        match &self.body {
            Body::Dir(dir) => Ok(Arc::new(ListFile { dir: dir.clone() })),
            Body::File(text) => match text.open() {
                Some(ops) => ops,
                None => Ok(Arc::new(TextFile::new(text.clone()))),
            },
            Body::Link(_) => Err(Errno::ELOOP),
        }
    }

    fn evict(&self, inode: &Arc<Inode>) {
        if let Some(own) = inode.sb().private::<PseudoSuper>() {
            own.inodes.remove(inode.ino);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
