//! Namespaces: disks named `nvme0n1`.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use block::{BioFlags, Limits, Op, Request, TimeoutAction};

use crate::FORGOES_FUA;
use crate::command::{Command, io};
use crate::controller::Controller;
use crate::transfer::MAX_SEGMENTS;

/// The most namespaces a list of identifiers holds.
const LIST_LENGTH: usize = 1024;

/// A namespace of a controller.
struct Namespace {
    controller: Arc<Controller>,
    id: u32,
    /// log2 of the bytes of a block.
    block_shift: u32,
    blocks: u64,
    /// The controller's slots that are this namespace's: tags count from `first_slot`.
    first_slot: usize,
    slots: usize,
    read_only: bool,
}

/// Makes disks of all active namespaces.
///
/// # Errors
/// Those of the controller's commands.
pub(crate) fn add_all(controller: &Arc<Controller>) -> Result<()> {
    controller.enable_write_cache();
    let ids = active(controller)?;
    // Namespaces share the queues, so each gets a part of their slots.
    let slots = controller.depth() / ids.len().clamp(1, controller.depth());
    for (index, id) in ids.into_iter().enumerate() {
        let first_slot = index * slots;
        if first_slot + slots > controller.depth() {
            log::warn!("nvme nvme{}: too many namespaces, {id} left out", controller.number);
            continue;
        }
        match Namespace::read(controller, id, first_slot..first_slot + slots) {
            Ok(namespace) => add(namespace)?,
            Err(error) => {
                log::warn!("nvme nvme{}: namespace {id}: {error:?}", controller.number);
            }
        }
    }
    Ok(())
}

fn add(namespace: Namespace) -> Result<()> {
    let name = format!("nvme{}n{}", namespace.controller.number, namespace.id);
    let sectors = namespace.blocks << (namespace.block_shift - 9);
    block::Disk::add(&name, Arc::new(namespace), sectors)?;
    Ok(())
}

/// The identifiers of active namespaces (§5.15.2.3); old controllers only say how many.
fn active(controller: &Controller) -> Result<Vec<u32>> {
    match controller.identify_data(0, 2) {
        Ok(list) => {
            let ids = (0..LIST_LENGTH).map(|index| list.read::<u32>(index * 4));
            Ok(ids.take_while(|id| *id != 0).collect())
        }
        Err(Errno::ENODEV | Errno::ETIMEDOUT) => Err(Errno::EIO),
        Err(_) => Ok((1..=controller.identity.namespaces.min(LIST_LENGTH as u32)).collect()),
    }
}

impl Namespace {
    fn read(controller: &Arc<Controller>, id: u32, slots: Range<usize>) -> Result<Self> {
        let data = controller.identify_data(id, 0)?;
        let blocks: u64 = data.read(0);
        let format = usize::from(data.read::<u8>(26) & 15);
        let format: u32 = data.read(128 + 4 * format);
        let block_shift = format >> 16 & 0xff;
        let has_metadata = format & 0xffff != 0;
        if blocks == 0 || !(9..=12).contains(&block_shift) || has_metadata {
            return Err(Errno::ENODEV);
        }
        if blocks.leading_zeros() < block_shift - 9 {
            return Err(Errno::EINVAL);
        }
        let read_only = data.read::<u8>(99) & 1 != 0;
        Ok(Self {
            controller: controller.clone(),
            id,
            block_shift,
            blocks,
            first_slot: slots.start,
            slots: slots.len(),
            read_only,
        })
    }

    fn block(&self, sector: u64) -> u64 {
        sector >> (self.block_shift - 9)
    }

    /// A command for blocks of the request; the count is one less than it says (§6.9).
    fn transfer(&self, opcode: u8, request: &Request) -> Command {
        let block = self.block(request.sector());
        let last = self.block(request.sectors()).saturating_sub(1) as u32 & 0xffff;
        let fua = if request.flags().contains(BioFlags::FUA) { io::FUA } else { 0 };
        let words = [block as u32, (block >> 32) as u32, last | fua];
        Command::new(opcode, self.id).with_words(&words)
    }

    fn discard(&self, queue: usize, request: &Request) -> Option<Command> {
        let block = self.block(request.sector());
        let blocks = u32::try_from(self.block(request.sectors())).ok()?;
        let at =
            self.controller.put_range(queue, self.first_slot + request.tag(), block, blocks)?;
        let command = Command::new(io::DATASET_MANAGEMENT, self.id);
        let mut command = command.with_words(&[0, io::DEALLOCATE]);
        command.data[0] = at;
        Some(command)
    }
}

impl block::Driver for Namespace {
    fn limits(&self) -> Limits {
        let identity = &self.controller.identity;
        let block = 1u32 << self.block_shift;
        let per_block = 1u64 << (self.block_shift - 9);
        Limits {
            queues: self.controller.queues.len(),
            queue_depth: self.slots,
            logical_block_size: block,
            physical_block_size: block,
            max_sectors: (identity.max_transfer >> 9) as u32,
            max_segments: MAX_SEGMENTS,
            max_segment_size: !4095,
            write_cache: identity.has_write_cache,
            fua: identity.has_write_cache && !FORGOES_FUA.load(Ordering::Relaxed),
            max_discard_sectors: if identity.has_dataset_management {
                u64::from(u32::MAX) * per_block
            } else {
                0
            },
            max_write_zeroes_sectors: if identity.has_write_zeroes { 65536 * per_block } else { 0 },
            read_only: self.read_only,
            ..Limits::default()
        }
    }

    fn submit(&self, queue: usize, request: Request) -> core::result::Result<(), Request> {
        if request.tag() >= self.slots {
            request.complete(Err(Errno::EIO));
            return Ok(());
        }
        let (command, has_data) = match request.op() {
            Op::Read => (Some(self.transfer(io::READ, &request)), true),
            Op::Write => (Some(self.transfer(io::WRITE, &request)), true),
            Op::WriteZeroes => (Some(self.transfer(io::WRITE_ZEROES, &request)), false),
            Op::Flush => (Some(Command::new(io::FLUSH, self.id)), false),
            Op::Discard => (self.discard(queue, &request), false),
        };
        match command {
            Some(command) => {
                let slot = self.first_slot + request.tag();
                self.controller.submit(queue, slot, request, command, has_data);
            }
            None => request.complete(Err(Errno::EINVAL)),
        }
        Ok(())
    }

    fn kick(&self, queue: usize) {
        self.controller.kick(queue);
    }

    fn timed_out(&self, queue: usize, tag: usize) -> TimeoutAction {
        self.controller.timed_out(queue, self.first_slot + tag)
    }

    fn poll(&self, queue: usize) -> usize {
        self.controller.reap(queue)
    }

    fn parent(&self) -> Option<block::Parent> {
        let own = &self.controller;
        let attributes = [
            ("address", own.function.name()),
            ("model", format!("{:<40}", own.identity.model)),
            ("serial", format!("{:<20}", own.identity.serial)),
            ("transport", String::from("pcie")),
        ];
        let controller = block::Controller {
            class: "nvme",
            name: format!("nvme{}", own.number),
            attributes: attributes.into(),
        };
        Some(block::Parent { function: own.function.name(), controller: Some(controller) })
    }

    fn serial(&self) -> Option<String> {
        Some(self.controller.identity.serial.clone())
    }
}
