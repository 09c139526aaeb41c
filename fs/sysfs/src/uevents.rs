//! Device events: what udev and its like hear through netlink. Network interfaces tell of themselves
//! ([`crate::networks::follow`]).
//!
//! A program asks for an event by writing an action to a device's `uevent` (`udevadm trigger`); how it is
//! written and what is sent is told by the ABI documents of sysfs (`sysfs-uevent`) and by udev's own
//! messages (`udevadm monitor --kernel --property`).

use crate::tree;
use abi::{Errno, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Weak;
use core::sync::atomic::{AtomicU64, Ordering};
use socket::NetNamespace;

/// What can happen to a device.
const ACTIONS: [&str; 8] =
    ["add", "remove", "change", "move", "online", "offline", "bind", "unbind"];

static SEQUENCE: AtomicU64 = AtomicU64::new(0);
/// `NETLINK_KOBJECT_UEVENT`, and the group that the kernel sends to.
const PROTOCOL: i32 = 15;
const GROUP: u32 = 1;

/// The number of the last event: `/sys/kernel/uevent_seqnum`.
pub(crate) fn sequence() -> u64 {
    SEQUENCE.load(Ordering::Relaxed)
}

/// Sends the event that was written to the `uevent` of the device at `path`, whose lines are `lines`.
/// Errors: `EINVAL` for what is no action.
pub(crate) fn ask(
    path: &str,
    namespace: Option<&Weak<NetNamespace>>,
    lines: &str,
    bytes: &[u8],
) -> Result<()> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let mut words = text.split_ascii_whitespace();
    let action = words.next().filter(|word| ACTIONS.contains(word)).ok_or(Errno::EINVAL)?;
    let mut asked = String::from("SYNTH_UUID=");
    asked.push_str(match words.next() {
        None => "0",
        Some(uuid) if is_uuid(uuid) => uuid,
        Some(_) => return Err(Errno::EINVAL),
    });
    asked.push('\n');
    for word in words {
        let (key, value) = word.split_once('=').ok_or(Errno::EINVAL)?;
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if key.is_empty() || !is_plain(key) || !is_plain(value) {
            return Err(Errno::EINVAL);
        }
        asked.push_str(&format!("SYNTH_ARG_{key}={value}\n"));
    }
    // What belongs to no class and no bus is no device, and nobody hears of it.
    if let Some(subsystem) = tree::subsystem(path, namespace) {
        // Interfaces are their namespace's own business, all other devices the machine's.
        let own = namespace.filter(|_| subsystem == "net").and_then(Weak::upgrade);
        if let Some(namespace) = own.as_ref().or(NetNamespace::initial()) {
            send(namespace, action, path, &subsystem, &format!("{asked}{lines}"));
        }
    }
    Ok(())
}

/// Sends an event to who listens in a namespace.
pub(crate) fn send(
    namespace: &NetNamespace,
    action: &str,
    path: &str,
    subsystem: &str,
    lines: &str,
) {
    let number = SEQUENCE.fetch_add(1, Ordering::Relaxed) + 1;
    let message = message(action, path, subsystem, lines, number);
    netlink::multicast(namespace, PROTOCOL, GROUP, &message);
}

/// Five groups of hexadecimal digits.
fn is_uuid(text: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let mut groups = text.split('-');
    lengths.iter().all(|&length| {
        groups.next().is_some_and(|group| {
            group.len() == length && group.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    }) && groups.next().is_none()
}

/// The text of an event, each line ended by a zero.
fn message(
    action: &str,
    path: &str,
    subsystem: &str,
    lines: &str,
    number: u64,
) -> alloc::vec::Vec<u8> {
    let text = format!(
        "{action}@/{path}\nACTION={action}\nDEVPATH=/{path}\nSUBSYSTEM={subsystem}\n{lines}SEQNUM={number}\n"
    );
    text.bytes().map(|byte| if byte == b'\n' { 0 } else { byte }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lines() {
        let lines = "SYNTH_UUID=0\nMAJOR=4\n";
        let message = message("add", "devices/x", "tty", lines, 7);
        let wanted = "add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=tty\0SYNTH_UUID=0\0MAJOR=4\0SEQNUM=7\0";
        assert_eq!(message, wanted.as_bytes());
    }

    #[test]
    fn what_is_no_action_is_refused() {
        for wrong in [
            "",
            "nosuch",
            "add x",
            "add fe4d7c9d-b8c6-4a70-9ef1-3d8a58d18eed A",
            "add fe4d7c9d-b8c6-4a70-9ef1-3d8a58d18eed A=-",
        ] {
            assert_eq!(
                ask("devices/none", None, "", wrong.as_bytes()),
                Err(Errno::EINVAL),
                "{wrong}"
            );
        }
        assert_eq!(
            ask("devices/none", None, "", b"add fe4d7c9d-b8c6-4a70-9ef1-3d8a58d18eed A=1"),
            Ok(())
        );
    }
}
