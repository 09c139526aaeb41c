//! `/sys/class/dmi/id`: who made the machine, as its firmware tells. `systemd-detect-virt`, `hostnamectl` and
//! udev's hardware database look there.

use crate::tree::Builder;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use arch::lock::Once;
use arch::smbios::{self, Fact};
use pseudo::Node;

const ID: &str = "devices/virtual/dmi/id";

/// What the alias for modules is made of, in its order.
const PARTS: &[(&str, &str)] = &[
    ("bvn", "bios_vendor"),
    ("bvr", "bios_version"),
    ("bd", "bios_date"),
    ("br", "bios_release"),
    ("svn", "sys_vendor"),
    ("pn", "product_name"),
    ("pvr", "product_version"),
    ("rvn", "board_vendor"),
    ("rn", "board_name"),
    ("rvr", "board_version"),
    ("cvn", "chassis_vendor"),
    ("ct", "chassis_type"),
    ("cvr", "chassis_version"),
    ("sku", "product_sku"),
];

fn facts() -> &'static [Fact] {
    static FACTS: Once<Vec<Fact>> = Once::new();
    FACTS.call_once(smbios::facts)
}

pub(crate) fn add(tree: &mut Builder) {
    let facts = facts();
    if facts.is_empty() {
        return;
    }
    for fact in facts {
        let mode = if fact.is_secret { 0o400 } else { 0o444 };
        let node = crate::line(|| fact.text.clone());
        tree.put(&format!("{ID}/{}", fact.name), Node { mode, ..node });
    }
    let alias = alias(facts);
    tree.fixed(&format!("{ID}/modalias"), alias.clone());
    tree.uevent(ID, &[format!("MODALIAS={alias}")]);
    tree.device(ID, "class/dmi", "id");
}

/// What hwdb(7) matches: the facts without blanks and separators.
fn alias(facts: &[Fact]) -> String {
    let mut alias = String::from("dmi:");
    for (tag, name) in PARTS {
        if let Some(fact) = facts.iter().find(|fact| fact.name == *name) {
            let is_kept = |letter: &char| letter.is_ascii_graphic() && *letter != ':';
            alias.push_str(tag);
            alias.extend(fact.text.chars().filter(is_kept));
            alias.push(':');
        }
    }
    alias
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_have_no_blanks() {
        let fact = |name, text: &str| Fact { name, text: text.into(), is_secret: false };
        let facts = [fact("sys_vendor", "QEMU"), fact("product_name", "Standard PC (Q35: a)")];
        assert_eq!(alias(&facts), "dmi:svnQEMU:pnStandardPC(Q35a):");
    }
}
