//! `/sys/kernel/mm`: how memory is mapped.

use crate::tree::Builder;
use abi::Errno;
use alloc::format;
use alloc::string::ToString;
use arch::addr::HUGE_SIZE;
use vm::HugePages;

const HUGE: &str = "kernel/mm/transparent_hugepage";

pub(crate) fn add(tree: &mut Builder) {
    tree.fixed(&format!("{HUGE}/hpage_pmd_size"), HUGE_SIZE.to_string());
    let show = |out: &mut alloc::vec::Vec<u8>| {
        let now = HugePages::now();
        let word = |who: HugePages| match who == now {
            true => format!("[{}]", who.name()),
            false => who.name().to_string(),
        };
        out.extend_from_slice(HugePages::ALL.map(word).join(" ").as_bytes());
        out.push(b'\n');
        Ok(())
    };
    let store = |text: &[u8]| {
        let word = text.trim_ascii();
        let who = HugePages::ALL.into_iter().find(|who| who.name().as_bytes() == word);
        who.map(HugePages::set).ok_or(Errno::EINVAL)
    };
    tree.put(&format!("{HUGE}/enabled"), pseudo::knob(show, store));
}
