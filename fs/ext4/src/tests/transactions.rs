//! The log by itself: transactions of made-up blocks, copied to their places by our recovery and by that
//! of `e2fsck`.

use std::collections::BTreeMap;

use block::BioFlags;

use super::bench::Random;
use super::*;
use crate::buffer::Buffers;
use crate::io::write_block;
use crate::journal::Journal;
use crate::layout::{Super, set_recovery};

/// The magic number of the journal: a block that begins with it must not look like one of the log's.
const MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];

/// Blocks at the end of the file system that nobody uses.
const BLOCKS: u64 = 300;

fn contents(size: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![random.below(256) as u8; size];
    if random.below(4) == 0 {
        bytes[..4].copy_from_slice(&MAGIC);
    }
    bytes
}

fn logs_and_recovers(options: &str, transactions: u64, seed: u64) {
    frames::init_host(512 << 20);
    let (path, mut bytes) = image(options, 32, None);
    let size = 1024usize << bytes[1024 + 0x18];
    set_recovery(&mut bytes[1024..2048]);
    let raw: [u8; 1024] = bytes[1024..2048].try_into().unwrap();
    let sb = Super::parse(raw).unwrap();
    let sectors = bytes.len() as u64 / 512;
    let drive = MemoryDrive::new(bytes, Limits::default());
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let disk = Disk::add(&format!("log{number}"), drive.clone(), sectors).unwrap();
    let device = disk.whole();
    let journal = Journal::open(device, &sb).unwrap();
    journal.start(&sb, Default::default()).unwrap();
    let buffers = Buffers::new(device.clone(), size);
    buffers.set_journaled(true);
    let mut random = Random(seed);
    let mut model: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for _ in 0..transactions {
        let mut given_up = Vec::new();
        for _ in 0..1 + random.below(60) {
            let block = sb.blocks - 1 - random.below(BLOCKS);
            if random.below(5) == 0 {
                buffers.forget(block);
                given_up.push(block);
                model.remove(&block);
            } else {
                let bytes = contents(size, &mut random);
                drop(buffers.fresh_with(block, |place| place.copy_from_slice(&bytes)));
                given_up.retain(|&known| known != block);
                model.insert(block, bytes);
            }
        }
        let (number, taken) = journal.switch(|| buffers.take());
        journal.write(&mut journal.ring.lock(), number, taken).unwrap();
        // What was given up is data now, which nothing in the log is to replace.
        for block in given_up {
            let bytes = contents(size, &mut random);
            write_block(device, block, &bytes, BioFlags::empty()).unwrap();
            model.insert(block, bytes);
        }
    }
    let crashed = drive.contents();
    disk.remove();
    std::fs::write(&path, &crashed).unwrap();
    let output = Command::new("e2fsck").args(["-fy"]).arg(&path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code().unwrap() <= 1 && !text.contains("yes"), "{options}: {text}");
    let theirs = std::fs::read(&path).unwrap();
    let fixture = Fixture::on(path, crashed, 0).unwrap();
    let ours = fixture.drive.contents();
    for (block, wanted) in &model {
        let range = *block as usize * size..(*block as usize + 1) * size;
        assert!(theirs[range.clone()] == wanted[..], "{options}: e2fsck: block {block}");
        assert!(ours[range] == wanted[..], "{options}: block {block}");
    }
    fixture.check();
}

#[test]
fn logs_are_recovered() {
    for (number, options) in [
        "-t ext4 -b 1024 -J size=1",
        "-t ext4 -b 4096 -J size=8",
        "-t ext4 -b 2048 -J size=2 -O ^64bit",
        "-t ext4 -b 1024 -J size=1 -O ^metadata_csum",
        "-t ext3 -b 1024 -J size=1",
    ]
    .into_iter()
    .enumerate()
    {
        // The log is left after one transaction, a few, and many times its length.
        for transactions in [1, 9, 150] {
            logs_and_recovers(options, transactions, 0x1357_2468 + number as u64 * 77);
        }
    }
}
