//! The tree of nodes, and the file-system type.

use alloc::sync::Arc;

use abi::{Errno, Result};
use arch::lock::Once;
use vfs::dev::{DeviceNode, NodeListener, listen};
use vfs::{
    Context, Creds, FileSystemType, KernelCaller, MountNamespace, MountRequest, Path, SuperBlock,
    UserNamespace, Walk, ops, register_file_system,
};

struct Devices {
    sb: Arc<SuperBlock>,
    creds: Arc<Creds>,
    mounts: Arc<MountNamespace>,
    root: Path,
}

static DEVICES: Once<Devices> = Once::new();

impl Devices {
    fn new() -> Result<Devices> {
        let options = tmpfs::Options { mode: Some(0o755), ..tmpfs::Options::default() };
        let sb = tmpfs::create("devtmpfs", options, (0, 0))?;
        let user_ns = UserNamespace::initial();
        let creds = Arc::new(Creds::root(user_ns.clone()));
        let mounts = MountNamespace::with_root(u64::MAX, user_ns, &sb, b"devtmpfs", 0)?;
        let root = mounts.root_path()?;
        Ok(Devices { sb, creds, mounts, root })
    }

    fn with<R>(&self, work: impl FnOnce(&Context<'_>) -> R) -> R {
        work(&Context {
            creds: &self.creds,
            root: &self.root,
            cwd: &self.root,
            umask: 0,
            mounts: &self.mounts,
            caller: &KernelCaller,
        })
    }

    fn make(&self, node: &DeviceNode) -> Result<()> {
        let name = node.name.as_bytes();
        self.with(|ctx| {
            for (at, _) in name.iter().enumerate().filter(|(_, b)| **b == b'/') {
                match ops::mkdir(ctx, ctx.root, name.get(..at).unwrap_or(b""), 0o755) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error),
                }
            }
            ops::mknod(ctx, ctx.root, name, node.kind, node.mode, node.dev)?;
            let path = vfs::walk(ctx, ctx.root, name, Walk::empty())?;
            ops::chmod(ctx, &path, node.mode)
        })
    }
}

struct Listener;

impl NodeListener for Listener {
    fn added(&self, node: &DeviceNode) {
        let Some(devices) = DEVICES.get() else { return };
        match devices.make(node) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => log::warn!("devtmpfs: {}: {error}", node.name),
        }
    }

    fn removed(&self, node: &DeviceNode) {
        let Some(devices) = DEVICES.get() else { return };
        let name = node.name.as_bytes();
        // Programs may have removed or replaced the node.
        let _ = devices.with(|ctx| ops::unlink(ctx, ctx.root, name));
    }
}

/// The type `devtmpfs`: every mount shows the same tree.
struct Devtmpfs;

impl FileSystemType for Devtmpfs {
    fn name(&self) -> &'static str {
        "devtmpfs"
    }

    fn mount(&self, _request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        super_block()
    }
}

/// The one super block of device nodes.
pub fn super_block() -> Result<Arc<SuperBlock>> {
    Ok(DEVICES.get().ok_or(Errno::ENODEV)?.sb.clone())
}

/// Makes the tree, registers the type and the memory devices, and follows the device registry.
pub fn init() -> Result<()> {
    if DEVICES.get().is_some() {
        return Ok(());
    }
    let devices = Devices::new()?;
    DEVICES.call_once(|| devices);
    register_file_system(&Devtmpfs);
    crate::mem::register()?;
    listen(Arc::new(Listener));
    Ok(())
}
