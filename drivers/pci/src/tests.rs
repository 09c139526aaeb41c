//! Enumeration on a simulated configuration space, well-behaved and hostile.

use super::*;
use crate::bus::Scan;
use crate::config::{Access, Space};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

/// A function: its registers, and which bits of the BARs can be written.
#[derive(Clone)]
struct Function {
    registers: [u32; 64],
    bar_masks: [u32; 6],
}

struct Machine(Mutex<BTreeMap<Address, Function>>);

impl Space for Machine {
    fn read(&self, address: Address, offset: u16) -> u32 {
        let map = self.0.lock().unwrap();
        map.get(&address).map_or(!0, |f| f.registers[usize::from(offset / 4) % 64])
    }

    fn write(&self, address: Address, offset: u16, value: u32) {
        let mut map = self.0.lock().unwrap();
        let Some(function) = map.get_mut(&address) else { return };
        let index = usize::from(offset / 4) % 64;
        if (4..10).contains(&index) {
            let mask = function.bar_masks[index - 4];
            let fixed = function.registers[index] & 15;
            function.registers[index] = value & mask & !15 | fixed;
        } else {
            function.registers[index] = value;
        }
    }
}

fn function(vendor: u16, device: u16, class: u32, header: u8) -> Function {
    let mut registers = [0; 64];
    registers[0] = u32::from(device) << 16 | u32::from(vendor);
    registers[2] = class << 8;
    registers[3] = u32::from(header) << 16;
    Function { registers, bar_masks: [0; 6] }
}

fn at(bus: u8, device: u8, function: u8) -> Address {
    Address { segment: 0, bus, device, function }
}

fn scan(functions: BTreeMap<Address, Function>) -> Vec<Arc<Device>> {
    let access = Arc::new(Access::Simulated(Arc::new(Machine(Mutex::new(functions)))));
    let mut scan = Scan { access, seen: BTreeSet::new(), found: Vec::new() };
    scan.bus(0, 0);
    scan.found
}

#[test]
fn finds_functions_behind_bridges_and_measures_bars() {
    let mut machine = BTreeMap::new();
    machine.insert(at(0, 0, 0), function(0x8086, 0x29c0, 0x060000, 0));
    let mut bridge = function(0x1b36, 0x000c, 0x060400, 1);
    bridge.registers[6] = 0x0001_0100;
    machine.insert(at(0, 3, 0), bridge);
    let mut nvme = function(0x1b36, 0x0010, 0x010802, 0);
    nvme.registers[1] = 0x0010_0002;
    nvme.registers[4] = 0xfebd_0004;
    nvme.bar_masks[0] = 0xffff_c000;
    nvme.bar_masks[1] = 0xffff_ffff;
    nvme.registers[6] = 0xc001;
    nvme.bar_masks[2] = 0xffe0;
    nvme.registers[13] = 0x40;
    nvme.registers[16] = 0x5011;
    nvme.registers[20] = 0x4005;
    machine.insert(at(1, 0, 0), nvme);
    let found = scan(machine);
    assert_eq!(found.len(), 3);
    let nvme = found.iter().find(|d| d.id.class == 0x010802).unwrap();
    assert_eq!(nvme.address, at(1, 0, 0));
    let bar = nvme.bars()[0].unwrap();
    assert_eq!((bar.address, bar.size), (0xfebd_0000, 0x4000));
    assert_eq!(nvme.bars()[1], None);
    let ports = nvme.bars()[2].unwrap();
    assert_eq!((ports.kind, ports.address, ports.size), (BarKind::Ports, 0xc000, 0x20));
    // The list is a loop: 0x40 -> 0x50 -> 0x40.
    assert!(nvme.capabilities().len() <= 48);
    assert_eq!(nvme.capabilities()[1].id, capability_id::MSI);
    assert_eq!(nvme.read16(4), 2);
}

#[test]
fn looks_at_further_functions_only_when_there_are_some() {
    let mut machine = BTreeMap::new();
    machine.insert(at(0, 1, 0), function(1, 1, 0, 0x80));
    machine.insert(at(0, 1, 5), function(1, 2, 0, 0));
    machine.insert(at(0, 2, 0), function(1, 3, 0, 0));
    machine.insert(at(0, 2, 1), function(1, 4, 0, 0));
    assert_eq!(scan(machine).len(), 3);
}

proptest! {
    #[test]
    fn survives_any_machine(
        functions in proptest::collection::btree_map(
            (0u8..4, 0u8..4, 0u8..8),
            (proptest::collection::vec(any::<u32>(), 64), any::<[u32; 6]>()),
            0..12,
        )
    ) {
        let machine = functions
            .into_iter()
            .map(|((bus, device, f), (words, bar_masks))| {
                let mut registers = [0; 64];
                registers.copy_from_slice(&words);
                (at(bus, device, f), Function { registers, bar_masks })
            })
            .collect();
        for device in scan(machine) {
            let mut out = [0; 300];
            prop_assert!(config_bytes(&device, 0, &mut out) <= 256);
            for bar in device.bars().iter().flatten() {
                prop_assert!(bar.size.is_power_of_two());
            }
        }
    }
}
