//! From a file to the program that runs it: scripts and formats with an interpreter (`execve(2)`,
//! "Interpreter scripts"; [`misc`]).

use super::args::Strings;
use super::misc::{self, Flags};
use super::{Opener, Program, read_at, script};
use crate::task::Task;
use abi::process::Resource;
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use vfs::fdtable::{CloseOnExec, FdTable};
use vfs::file::File;
use vfs::{DenyWrite, Shared};

/// A program with its arguments, and what an interpreter is given of the file it runs.
pub(super) struct Resolved {
    pub(super) file: Arc<File>,
    pub(super) nobody_writes: DenyWrite,
    pub(super) head: [u8; script::HEAD_LEN],
    /// How much of the head the file has.
    pub(super) len: usize,
    pub(super) argv: Strings,
    /// The file whose privileges count, where it is not the program itself.
    pub(super) privileged: Option<Arc<File>>,
    /// The file that the interpreter gets open.
    pub(super) handed: Option<Handed>,
    /// Whether `argv[0]` came through (`AT_FLAGS_PRESERVE_ARGV0` of linux/binfmts.h).
    pub(super) keeps_name: bool,
}

/// A descriptor that the new program is to have; closed again if it does not come to run.
pub(crate) struct Handed {
    /// `None` when the program runs.
    files: Option<Arc<FdTable>>,
    number: u32,
    /// The table is a copy that nobody knows yet.
    is_copy: bool,
}

impl Handed {
    fn new(task: &Task, file: Arc<File>) -> Result<Option<Handed>> {
        let Some(mut files) = task.files() else { return Ok(None) };
        // Others who share the table are not given the file, and keep sharing it if nothing comes of this.
        let is_copy = is_shared_outside(task, &files);
        if is_copy {
            files = Arc::new(files.duplicate()?);
        }
        let limit = task.limit(Resource::Nofile);
        let number = files.add(file, 0, limit, CloseOnExec::No)?;
        Ok(Some(Handed { files: Some(files), number, is_copy }))
    }

    /// Its number, for `AT_EXECFD`.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// The program runs: with this table, if it is not the task's own.
    pub(super) fn keep(mut self) -> Option<Arc<FdTable>> {
        self.files.take().filter(|_| self.is_copy)
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Some(files) = &self.files {
            // It is there, and closing what was opened to be run has nothing to report.
            let _ = i32::try_from(self.number).map(|number| files.close(number));
        }
    }
}

/// Whether others than the threads of the task's process, which end before the program runs, share the table. Said
/// needlessly, it costs the process its record locks.
fn is_shared_outside(task: &Task, files: &Arc<FdTable>) -> bool {
    let own = || task.group.tasks().iter().filter(|thread| thread.files.holds(files)).count();
    // Threads come and go meanwhile: who ends is not among those counted later, who begins is among those seen later.
    let seen = own();
    let count = files.sharers().count();
    count > seen && count > own()
}

/// Follows interpreters until there is a file that none is known for.
pub(super) fn resolve(task: &Task, program: &mut Program) -> Result<Resolved> {
    let mut file = program.file.clone();
    let mut argv = core::mem::take(&mut program.argv);
    let mut nobody_writes = DenyWrite::new(&file)?;
    let mut name = program.filename.clone();
    let mut head = [0u8; script::HEAD_LEN];
    let mut depth = 0;
    let mut open: Option<Arc<File>> = None;
    let mut privileged = None;
    let mut keeps_name = false;
    let len = loop {
        head.fill(0);
        let len = read_at(&file, 0, &mut head)?;
        let rule = misc::find(&name, &head);
        let next = if let Some(rule) = &rule {
            let flags = rule.flags();
            let mut words: Vec<&[u8]> = alloc::vec![rule.interpreter(), &name];
            keeps_name = flags.contains(Flags::KEEPS_NAME);
            if keeps_name {
                words.push(argv.get(0).unwrap_or_default());
            }
            let with_words = argv.with_head(&words)?;
            if flags.contains(Flags::HANDS_OVER) && open.is_none() {
                open = Some(file.clone());
            }
            if flags.contains(Flags::PROGRAM_RIGHTS) {
                privileged = Some(file.clone());
            }
            argv = with_words;
            rule.interpreter().to_vec()
        } else {
            let bytes = head.get(..len).unwrap_or_default();
            let Some(interpreter) = script::parse(bytes)? else { break len };
            // As seen on Linux: a script cannot take the open file of a program that it is to run.
            if open.is_some() {
                return Err(Errno::ENOEXEC);
            }
            let mut words: Vec<&[u8]> = alloc::vec![interpreter.path];
            words.extend(interpreter.argument);
            words.push(&name);
            argv = argv.with_head(&words)?;
            interpreter.path.to_vec()
        };
        depth += 1;
        if depth > script::MAX_DEPTH {
            return Err(Errno::ELOOP);
        }
        file = match rule.as_ref().and_then(|rule| rule.file()) {
            Some(file) => file.clone(),
            None => Opener::open(task, &next)?,
        };
        nobody_writes = DenyWrite::new(&file)?;
        name = next;
    };
    let handed = match open {
        Some(open) => Handed::new(task, open)?,
        None => None,
    };
    Ok(Resolved { file, nobody_writes, head, len, argv, privileged, handed, keeps_name })
}
