//! `/proc/net/packet`.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use socket::NetNamespace;
use socket::trees::{PROC_NET, show};

use crate::table::Table;

fn list(namespace: &NetNamespace, out: &mut Vec<u8>) -> abi::Result<()> {
    let mut text = String::from("sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n");
    let every = namespace.part::<Table>().map(Table::every).unwrap_or_default();
    for socket in every {
        let bound = socket.bound();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:016x} {:<6} {:<4} {:04x}   {:<5} {} {:<6} {:<6} {:<6}",
            0,
            2 + u8::from(bound.is_listening),
            socket.common.kind as u32,
            bound.protocol,
            bound.index,
            u8::from(bound.is_listening),
            socket.memory(),
            socket.uid,
            socket.common.ino,
        );
    }
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Makes the file known.
pub(crate) fn init() {
    PROC_NET.register("packet", |namespace| show(namespace, list));
}
