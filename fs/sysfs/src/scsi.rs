//! SCSI hosts and devices between a PCI function and a disk: `host0/target0:0:0/0:0:0:0`, `/sys/bus/scsi`,
//! `/sys/class/scsi_host`.

use crate::tree::Builder;
use alloc::format;
use alloc::string::String;
use block::ScsiPlace;

/// Peripheral device types (SPC-4 §6.6.2) and who drives them.
const DRIVERS: [(u8, &str); 2] = [(0, "sd"), (5, "sr")];

/// Makes the devices above the disk `name`; where the disk is.
pub(crate) fn place(tree: &mut Builder, name: &str, function: &str, scsi: ScsiPlace) -> String {
    let [host, channel, target, unit] = scsi.address;
    let above = match &scsi.port {
        Some(port) => format!("{function}/{port}"),
        None => String::from(function),
    };
    let host_path = format!("{above}/host{host}");
    add_host(tree, &host_path, host, scsi.host_driver);
    let target_path = format!("{host_path}/target{host}:{channel}:{target}");
    tree.uevent(&target_path, &[String::from("DEVTYPE=scsi_target")]);
    tree.device(&target_path, "bus/scsi", &format!("target{host}:{channel}:{target}"));
    let address = format!("{host}:{channel}:{target}:{unit}");
    let path = format!("{target_path}/{address}");
    add_device(tree, &path, &address, &scsi);
    let disk = format!("{path}/block/{name}");
    tree.link(&format!("{disk}/device"), &path);
    disk
}

fn add_host(tree: &mut Builder, path: &str, host: u32, driver: &str) {
    let name = format!("host{host}");
    tree.uevent(path, &[String::from("DEVTYPE=scsi_host")]);
    tree.device(path, "bus/scsi", &name);
    let class = format!("{path}/scsi_host/{name}");
    tree.uevent(&class, &[]);
    tree.device(&class, "class/scsi_host", &name);
    tree.link(&format!("{class}/device"), path);
    for (file, text) in [
        ("proc_name", String::from(driver)),
        ("state", String::from("running")),
        ("unique_id", format!("{}", host + 1)),
    ] {
        tree.fixed(&format!("{class}/{file}"), text);
    }
}

fn add_device(tree: &mut Builder, path: &str, address: &str, scsi: &ScsiPlace) {
    let modalias = format!("scsi:t-{:#04x}", scsi.kind);
    let mut lines = [String::from("DEVTYPE=scsi_device")].to_vec();
    if let Some((_, driver)) = DRIVERS.iter().find(|(kind, _)| *kind == scsi.kind) {
        lines.push(format!("DRIVER={driver}"));
        let of = format!("bus/scsi/drivers/{driver}");
        tree.link(&format!("{path}/driver"), &of);
        tree.link(&format!("{of}/{address}"), path);
    }
    lines.push(format!("MODALIAS={modalias}"));
    tree.uevent(path, &lines);
    tree.device(path, "bus/scsi", address);
    tree.fixed(&format!("{path}/modalias"), modalias);
    for (file, text) in &scsi.attributes {
        tree.fixed(&format!("{path}/{file}"), text.as_str());
    }
    let class = format!("{path}/scsi_device/{address}");
    tree.uevent(&class, &[]);
    tree.device(&class, "class/scsi_device", address);
    tree.link(&format!("{class}/device"), path);
}
