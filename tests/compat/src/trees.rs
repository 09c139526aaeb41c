//! `/proc` and `/sys` as a mount of them shows, and what Linux has besides.

use crate::words::{LINUX_PROC, LINUX_PROCESS, LINUX_SYS};
use process::pid::PidNamespace;
use pseudo::{Body, Node};
use socket::NetNamespace;
use vfs::UserNamespace;

/// One file.
pub(crate) struct Row {
    pub(crate) path: String,
    /// Permission bits, where it exists.
    pub(crate) mode: Option<u32>,
}

/// `/proc`, the directory of a process included.
pub(crate) fn proc() -> Vec<Row> {
    let mut rows = Vec::new();
    walk(&procfs::root_node(PidNamespace::initial().clone()), "/proc", &mut rows);
    socket::trees::init();
    unix::init();
    let namespace = NetNamespace::new(1, UserNamespace::initial());
    walk(&socket::trees::sys_net(&namespace), "/proc/sys/net", &mut rows);
    walk(&socket::trees::proc_net(&namespace), "/proc/[pid]/net", &mut rows);
    for (name, mode) in procfs::process_files().filter(|(name, _)| *name != "net") {
        rows.push(Row { path: format!("/proc/[pid]/{name}"), mode: Some(mode) });
    }
    add_absent(&mut rows, "/proc/", LINUX_PROC);
    add_absent(&mut rows, "/proc/[pid]/", LINUX_PROCESS);
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    rows
}

/// `/sys`; what it has for each processor is shown for the first one.
pub(crate) fn sys() -> Vec<Row> {
    let mut rows = Vec::new();
    walk(&sysfs::root_node(), "/sys", &mut rows);
    add_absent(&mut rows, "/sys/", LINUX_SYS);
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    rows
}

fn walk(node: &Node, path: &str, rows: &mut Vec<Row>) {
    let Body::Dir(directory) = &node.body else {
        rows.push(Row { path: path.to_owned(), mode: Some(node.mode) });
        return;
    };
    let mut names = Vec::new();
    let _ = directory.list(0, &mut |_, name, _, _| {
        names.push(String::from_utf8_lossy(name).into_owned());
        true
    });
    for name in names {
        let number = name.strip_prefix("cpu").and_then(|number| number.parse::<u32>().ok());
        if number.is_some_and(|number| number > 0) {
            continue;
        }
        if let Ok(Some(child)) = directory.lookup(name.as_bytes()) {
            walk(&child, &format!("{path}/{name}"), rows);
        }
    }
}

fn add_absent(rows: &mut Vec<Row>, folder: &str, names: &[&str]) {
    for name in names {
        let path = format!("{folder}{name}");
        let inside = format!("{path}/");
        if !rows.iter().any(|row| row.path == path || row.path.starts_with(&inside)) {
            rows.push(Row { path, mode: None });
        }
    }
}
