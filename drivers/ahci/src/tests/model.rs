//! A controller of two ports with a device each, as the driver sees it through registers and memory.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::vec::Vec;

use hw::sim::memory;

/// Bits of the port's interrupts that the model raises.
const D2H: u32 = 1;
const SDB: u32 = 1 << 3;
const CONNECT: u32 = 1 << 6;
const PHY: u32 = 1 << 22;
const TASK_FILE: u32 = 1 << 30;

/// What hangs on a port.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) identify: [u8; 512],
    pub(crate) is_atapi: bool,
    pub(crate) data: Vec<u8>,
    /// Commands that begin at these blocks fail: the error, and how often.
    pub(crate) bad: BTreeMap<u64, (u8, u32)>,
    /// Commands get no answer until the next reset.
    pub(crate) is_silent: bool,
    /// The drive says this once, before it does anything.
    pub(crate) attention: Option<[u8; 3]>,
    sense: [u8; 3],
    log: [u8; 512],
}

impl Device {
    pub(crate) fn new(identify: [u8; 512], is_atapi: bool, len: usize) -> Device {
        Device {
            identify,
            is_atapi,
            data: std::vec![0; len],
            bad: BTreeMap::new(),
            is_silent: false,
            attention: None,
            sense: [0; 3],
            log: [0; 512],
        }
    }
}

#[derive(Default)]
pub(crate) struct PortModel {
    registers: BTreeMap<usize, u32>,
    pub(crate) device: Option<Device>,
    /// A command failed: nothing more is done until the port is stopped.
    is_halted: bool,
    /// Commands are collected and not done.
    pub(crate) is_held: bool,
    /// What was done: the code, and the slot.
    pub(crate) done: Vec<(u8, usize)>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) ports: [PortModel; 2],
    global: BTreeMap<usize, u32>,
    pub(crate) is_over: bool,
}

/// The controller.
#[derive(Default)]
pub(crate) struct Hba {
    state: Mutex<State>,
    changed: Condvar,
}

const CI: usize = 0x38;
const SACT: usize = 0x34;
const IS: usize = 0x10;
const TFD: usize = 0x20;

impl PortModel {
    fn get(&self, at: usize) -> u32 {
        self.registers.get(&at).copied().unwrap_or(0)
    }

    fn set(&mut self, at: usize, value: u32) {
        self.registers.insert(at, value);
    }

    fn change(&mut self, at: usize, set: u32, clear: u32) {
        let value = self.get(at) & !clear | set;
        self.set(at, value);
    }

    fn link(&mut self) {
        let Some(device) = &mut self.device else { return self.set(0x28, 0) };
        device.is_silent = false;
        let signature = if device.is_atapi { 0xeb14_0101 } else { 0x101 };
        self.is_halted = false;
        self.set(0x28, 0x123);
        self.set(0x24, signature);
        self.set(TFD, 0x50);
    }

    fn write(&mut self, at: usize, value: u32) {
        match at {
            IS | 0x30 => self.change(at, 0, value),
            0x18 => {
                // FR and CR follow FRE and ST; CLO clears itself.
                let running = (value & 0x11) << 10 & 1 << 14 | (value & 1) << 15;
                if value & 1 == 0 {
                    (self.is_halted, self.registers) = (false, self.registers.clone());
                    self.set(CI, 0);
                    self.set(SACT, 0);
                }
                self.set(at, value & !(1 << 3 | 0xc000) | running);
            }
            0x2c => {
                if self.get(at) & 15 == 1 && value & 15 == 0 {
                    self.link();
                }
                self.set(at, value);
            }
            CI | SACT => {
                self.change(at, value, 0);
            }
            _ => self.set(at, value),
        }
    }

    /// Does what is issued.
    fn work(&mut self) {
        let runs = self.get(0x18) & 1 != 0;
        for slot in 0..32 {
            let is_silent = self.device.as_ref().is_none_or(|device| device.is_silent);
            let is_issued = self.get(CI) >> slot & 1 != 0;
            if runs && !self.is_held && !self.is_halted && !is_silent && is_issued {
                self.one(slot);
            }
        }
    }

    fn one(&mut self, slot: usize) {
        let list = u64::from(self.get(4)) << 32 | u64::from(self.get(0));
        let mut header = [0; 16];
        assert!(memory::read(list + 32 * slot as u64, &mut header), "no list of commands");
        let flags = u32::from_le_bytes(header[..4].try_into().unwrap());
        let table = u64::from_le_bytes(header[8..].try_into().unwrap());
        let mut bytes = [0; 0x80];
        assert!(memory::read(table, &mut bytes), "no table");
        assert_eq!((flags & 31, bytes[0], bytes[1]), (5, 0x27, 0x80));
        let mut pieces = Vec::new();
        for index in 0..u64::from(flags >> 16) {
            let mut piece = [0; 16];
            assert!(memory::read(table + 0x80 + 16 * index, &mut piece), "no piece");
            let address = u64::from_le_bytes(piece[..8].try_into().unwrap());
            let len = u32::from_le_bytes(piece[12..].try_into().unwrap()) & 0x3f_ffff;
            assert_eq!(len & 1, 1, "an odd length");
            pieces.push((address, len as usize + 1));
        }
        self.done.push((bytes[2], slot));
        let Some(device) = &mut self.device else { return };
        let outcome = device.run(&bytes, &pieces);
        let is_queued = matches!(bytes[2], 0x60 | 0x61);
        match outcome {
            Ok(moved) => {
                assert!(memory::write(list + 32 * slot as u64 + 4, &(moved as u32).to_le_bytes()));
                self.change(CI, 0, 1 << slot);
                self.change(SACT, 0, 1 << slot);
                self.set(TFD, 0x50);
                self.change(IS, if is_queued { SDB } else { D2H }, 0);
            }
            Err(error) => {
                if is_queued {
                    device.log = [0; 512];
                    (device.log[0], device.log[2], device.log[3]) = (slot as u8, 0x41, error);
                    let sum = device.log.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                    device.log[511] = 0u8.wrapping_sub(sum);
                }
                // As some controllers do it: the slot of a plain command is clear, success or not.
                self.change(CI, 0, 1 << slot);
                self.set(TFD, 0x41 | u32::from(error) << 8);
                self.change(IS, TASK_FILE | if is_queued { SDB } else { D2H }, 0);
                self.is_halted = true;
            }
        }
    }
}

impl Device {
    fn scatter(pieces: &[(u64, usize)], bytes: &[u8]) -> usize {
        let mut at = 0;
        for (address, len) in pieces {
            let n = (*len).min(bytes.len() - at);
            assert!(memory::write(*address, &bytes[at..at + n]));
            at += n;
        }
        at
    }

    fn gather(pieces: &[(u64, usize)]) -> Vec<u8> {
        let mut all = Vec::new();
        for (address, len) in pieces {
            let mut part = std::vec![0; *len];
            assert!(memory::read(*address, &mut part));
            all.extend(part);
        }
        all
    }

    fn check(&mut self, block: u64) -> Result<(), u8> {
        match self.bad.get_mut(&block) {
            Some((error, times)) if *times > 0 => {
                *times -= 1;
                Err(*error)
            }
            _ => Ok(()),
        }
    }

    fn run(&mut self, table: &[u8; 0x80], pieces: &[(u64, usize)]) -> Result<usize, u8> {
        let fis = |at: usize| u64::from(table[at]);
        let low = fis(4) | fis(5) << 8 | fis(6) << 16;
        let long = low | fis(8) << 24 | fis(9) << 32 | fis(10) << 40;
        let feature = fis(3) | fis(11) << 8;
        let (count, all) = (fis(12) | fis(13) << 8, 65536);
        let (start, blocks) = match table[2] {
            0x60 | 0x61 => (long, if feature == 0 { all } else { feature }),
            0xc8 | 0xca => (low | (fis(7) & 15) << 24, if count == 0 { 256 } else { count }),
            _ => (long, if count == 0 { all } else { count }),
        };
        let (first, len) = (start as usize * 512, blocks as usize * 512);
        match table[2] {
            0xec if !self.is_atapi => Ok(Self::scatter(pieces, &self.identify)),
            0xa1 if self.is_atapi => Ok(Self::scatter(pieces, &self.identify)),
            0x2f => Ok(Self::scatter(pieces, &self.log)),
            0x60 | 0x25 | 0xc8 => {
                self.check(start)?;
                Ok(Self::scatter(pieces, self.data.get(first..first + len).ok_or(0x10u8)?))
            }
            0x61 | 0x35 | 0x3d | 0xca => {
                self.check(start)?;
                let bytes = Self::gather(pieces);
                assert_eq!(bytes.len(), len);
                self.data.get_mut(first..first + len).ok_or(0x10u8)?.copy_from_slice(&bytes);
                Ok(len)
            }
            0x06 => {
                for entry in Self::gather(pieces).chunks(8) {
                    let entry = u64::from_le_bytes(entry.try_into().unwrap());
                    let (block, count) = (entry as usize & 0xffff_ffff, (entry >> 48) as usize);
                    self.data[block * 512..(block + count) * 512].fill(0);
                }
                Ok(512)
            }
            0xea | 0xe7 | 0xe0 => Ok(0),
            0xa0 if self.is_atapi => self.packet(&table[0x40..0x50], pieces),
            _ => Err(4),
        }
    }

    fn packet(&mut self, packet: &[u8], pieces: &[(u64, usize)]) -> Result<usize, u8> {
        if packet[0] == 3 {
            let mut sense = [0; 18];
            sense[0] = 0x70;
            (sense[2], sense[12], sense[13]) = (self.sense[0], self.sense[1], self.sense[2]);
            return Ok(Self::scatter(pieces, &sense));
        }
        if let Some(attention) = self.attention.take() {
            self.sense = attention;
            return Err(attention[0] << 4);
        }
        let blocks = (self.data.len() / 2048) as u32;
        match packet[0] {
            0 => Ok(0),
            0x12 => {
                let mut data = [b' '; 36];
                (data[0], data[1]) = (5, 0x80);
                data[16..20].copy_from_slice(b"DISC");
                Ok(Self::scatter(pieces, &data))
            }
            0x25 => {
                let data = [(blocks - 1).to_be_bytes(), 2048u32.to_be_bytes()].concat();
                Ok(Self::scatter(pieces, &data))
            }
            0x28 => {
                let first = u32::from_be_bytes(packet[2..6].try_into().unwrap()) as usize * 2048;
                let len = usize::from(u16::from_be_bytes(packet[7..9].try_into().unwrap())) * 2048;
                Ok(Self::scatter(pieces, &self.data[first..first + len]))
            }
            _ => {
                self.sense = [5, 0x20, 0];
                Err(0x54)
            }
        }
    }
}

impl Hba {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Does what waits, and tells of it.
    pub(crate) fn work(&self) {
        let mut state = self.state();
        state.ports.iter_mut().for_each(PortModel::work);
        self.changed.notify_all();
    }

    /// Waits for an interrupt; whether there will be one.
    pub(crate) fn wait_for_interrupt(&self) -> bool {
        let mut state = self.state();
        while !state.is_over && (state.interrupts() == 0 || !state.is_enabled()) {
            state = self.changed.wait(state).unwrap();
        }
        !state.is_over
    }

    pub(crate) fn end(&self) {
        self.state().is_over = true;
        self.changed.notify_all();
    }

    pub(crate) fn unplug(&self, port: usize) {
        let mut state = self.state();
        let port = &mut state.ports[port];
        port.device = None;
        port.set(0x28, 0);
        port.change(IS, PHY, 0);
        self.changed.notify_all();
    }

    pub(crate) fn plug(&self, port: usize, device: Device) {
        let mut state = self.state();
        let port = &mut state.ports[port];
        port.device = Some(device);
        port.link();
        port.change(IS, CONNECT, 0);
        self.changed.notify_all();
    }
}

impl State {
    fn interrupts(&self) -> u32 {
        let pending = |port: &PortModel| u32::from(port.get(IS) & port.get(0x14) != 0);
        pending(&self.ports[0]) | pending(&self.ports[1]) << 1
    }

    fn is_enabled(&self) -> bool {
        self.global.get(&4).is_some_and(|control| control & 2 != 0)
    }
}

impl hw::sim::Model for Hba {
    fn read(&self, offset: usize, _: usize) -> u64 {
        let state = self.state();
        let value = match offset {
            // 64-bit addresses, NCQ, 32 slots, two ports.
            0 => 0xc000_0000 | 31 << 8 | 1,
            4 => state.global.get(&4).copied().unwrap_or(0) & !1,
            8 => state.interrupts(),
            // More ports than there are registers of.
            0xc => 0b1000_0011,
            0x10 => 0x1_0301,
            0x100..0x200 => state.ports[(offset - 0x100) / 0x80].get(offset % 0x80),
            _ => 0,
        };
        u64::from(value)
    }

    fn write(&self, offset: usize, _: usize, value: u64) {
        let value = value as u32;
        let mut state = self.state();
        match offset {
            0x100..0x200 => state.ports[(offset - 0x100) / 0x80].write(offset % 0x80, value),
            8 => {}
            _ => {
                state.global.insert(offset, value);
            }
        }
        drop(state);
        self.work();
    }
}
