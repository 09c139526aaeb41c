//! The file system `binfmt_misc`: formats with an interpreter, a file each
//! (Linux's admin guide, "Kernel Support for miscellaneous Binary Formats"). [`process::exec::misc`] has the rules.

use abi::{Errno, Result};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::lock::LockClass;
use core::fmt::{self, Write};
use process::exec::misc::{self, Form, Rule};
use pseudo::{Body, Directory, Lister, Node, Settings, Text};
use sched::Mutex;
use vfs::cred::Creds;
use vfs::{FileSystemType, MountRequest, SuperBlock};

const NAME: &str = "binfmt_misc";
const MAGIC: u64 = 0x4249_4e4d;
const ROOT: u64 = 1;
const STATUS: u64 = 2;
const REGISTER: u64 = 3;
/// Rules have their number and this as inode number and, in lists, as cursor.
const FIRST: u64 = 3;

static SHOWN_CLASS: LockClass = LockClass::new("procfs.binfmt", 203);
static SHOWN: Mutex<Weak<SuperBlock>> = Mutex::new(&SHOWN_CLASS, Weak::new());

struct Binfmt;

impl FileSystemType for Binfmt {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Every mount shows the same rules; they go with the last one.
    fn mount(&self, _: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        let mut shown = SHOWN.lock();
        // One without a root is being put away.
        if let Some(sb) = shown.upgrade().filter(|sb| sb.root().is_ok()) {
            return Ok(sb);
        }
        let root = Node { ino: ROOT, mode: 0o755, owner: (0, 0), body: Body::Dir(Arc::new(Root)) };
        let sb = pseudo::super_block(NAME, MAGIC, root, Some(Arc::new(Rules)));
        *shown = Arc::downgrade(&sb);
        Ok(sb)
    }
}

/// The mount's part in the rules.
struct Rules;

impl Settings for Rules {
    fn change(&self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn show(&self, _: &mut dyn Write) -> fmt::Result {
        Ok(())
    }

    fn unmounted(&self) {
        misc::forget_all();
    }
}

/// Makes the type known to `mount(2)`.
pub(crate) fn init() {
    vfs::register_file_system(&Binfmt);
}

fn file(ino: u64, mode: u32, text: impl Text + 'static) -> Node {
    Node { ino, mode, owner: (0, 0), body: Body::File(Arc::new(text)) }
}

struct Root;

impl Directory for Root {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        Ok(match name {
            b"status" => Some(file(STATUS, 0o644, Status)),
            b"register" => Some(file(REGISTER, 0o200, Register)),
            _ => misc::named(name).map(|rule| file(FIRST + rule.number(), 0o644, Entry(rule))),
        })
    }

    fn list(&self, cursor: u64, out: &mut Lister<'_>) -> Result<()> {
        const REGULAR: u8 = 8;
        let fixed: [(u64, &[u8], u64); 2] = [(1, b"register", REGISTER), (2, b"status", STATUS)];
        for (next, name, ino) in fixed.into_iter().filter(|(next, ..)| *next > cursor) {
            if !out(next, name, ino, REGULAR) {
                return Ok(());
            }
        }
        let mut from = cursor.saturating_sub(FIRST) + 1;
        while let Some(rule) = misc::next(from) {
            let ino = FIRST + rule.number();
            if !out(ino, rule.name(), ino, REGULAR) {
                break;
            }
            from = rule.number() + 1;
        }
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }
}

/// What the files take: 0 and 1, and -1 to remove.
enum Order {
    Off,
    On,
    Remove,
}

impl Order {
    fn read(bytes: &[u8]) -> Result<Option<Order>> {
        Ok(match bytes.strip_suffix(b"\n").unwrap_or(bytes) {
            b"" => None,
            b"0" => Some(Order::Off),
            b"1" => Some(Order::On),
            b"-1" => Some(Order::Remove),
            _ => return Err(Errno::EINVAL),
        })
    }
}

/// `status`: whether rules count; all of them are forgotten at -1.
struct Status;

impl Text for Status {
    fn show(&self, out: &mut Vec<u8>) -> Result<()> {
        let state: &[u8] = if misc::is_on() { b"enabled\n" } else { b"disabled\n" };
        out.extend_from_slice(state);
        Ok(())
    }

    fn store(&self, bytes: &[u8]) -> Result<()> {
        match Order::read(bytes)? {
            Some(Order::Off) => misc::switch(false),
            Some(Order::On) => misc::switch(true),
            Some(Order::Remove) => misc::forget_all(),
            None => {}
        }
        Ok(())
    }
}

/// `register`: takes rules.
struct Register;

impl Text for Register {
    fn show(&self, _: &mut Vec<u8>) -> Result<()> {
        Err(Errno::EINVAL)
    }

    fn store_as(&self, bytes: &[u8], _: &Arc<Creds>) -> Result<()> {
        let form = Form::parse(bytes)?;
        // The files of the directory itself.
        if [&b"status"[..], b"register"].contains(&form.name()) {
            return Err(Errno::EEXIST);
        }
        let file = match form.opens_now() {
            Some(path) => {
                let task = process::try_current().ok_or(Errno::EINVAL)?;
                Some(process::exec::Opener::open(task, path)?)
            }
            None => None,
        };
        misc::register(form, file)
    }
}

/// A rule's file.
struct Entry(Arc<Rule>);

impl Text for Entry {
    fn show(&self, out: &mut Vec<u8>) -> Result<()> {
        self.0.show(out);
        Ok(())
    }

    fn store(&self, bytes: &[u8]) -> Result<()> {
        match Order::read(bytes)? {
            Some(Order::Off) => self.0.enable(false),
            Some(Order::On) => self.0.enable(true),
            Some(Order::Remove) => misc::forget(&self.0),
            None => {}
        }
        Ok(())
    }
}
