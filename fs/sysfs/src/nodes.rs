//! Character devices by class: `/sys/class/tty`, `/sys/class/mem`, `/sys/class/misc`, …

use crate::tree::Builder;
use alloc::format;
use alloc::string::String;
use vfs::FileKind;
use vfs::dev::DeviceNode;

pub(crate) fn add(tree: &mut Builder) {
    for class in ["mem", "misc", "tty"] {
        tree.dir(&format!("class/{class}"));
    }
    for node in vfs::dev::nodes() {
        if node.kind == FileKind::CharDevice && !node.class.is_empty() {
            add_node(tree, &node);
        }
    }
}

fn add_node(tree: &mut Builder, node: &DeviceNode) {
    // A device in a folder of /dev has no folder here. Those of the class `misc` are called by their last name.
    let last = node.name.rsplit('/').next().filter(|_| node.class == "misc");
    let name = last.map_or_else(|| node.name.replace('/', "!"), String::from);
    let (major, minor) = (node.dev.major(), node.dev.minor());
    let serial = node.class == "tty" && name.starts_with("ttyS");
    let path = if serial {
        format!("devices/platform/serial8250/tty/{name}")
    } else {
        format!("devices/virtual/{}/{name}", node.class)
    };
    let number = format!("{major}:{minor}");
    tree.fixed(&format!("{path}/dev"), number.as_str());
    for (attribute, text) in &node.attributes {
        tree.fixed(&format!("{path}/{attribute}"), text.as_str());
    }
    let mut lines =
        [format!("MAJOR={major}"), format!("MINOR={minor}"), format!("DEVNAME={}", node.name)]
            .to_vec();
    // The default of devtmpfs is not worth a line.
    if node.mode & 0o777 != 0o600 {
        lines.push(format!("DEVMODE={:04o}", node.mode & 0o777));
    }
    tree.uevent(&path, &lines);
    tree.device(&path, &format!("class/{}", node.class), &name);
    tree.link(&format!("dev/char/{number}"), &path);
    if serial {
        tree.link(&format!("{path}/device"), "devices/platform/serial8250");
    }
}
