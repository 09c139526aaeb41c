//! The cache over a backing in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use abi::{Errno, Result};
use arch::uio::{Sink, Source};

use crate::*;

struct Store {
    pages: Mutex<BTreeMap<u64, Box<[u8; 4096]>>>,
    reads: AtomicUsize,
    fail: AtomicBool,
    flusher: Option<Arc<Flusher>>,
}

impl Store {
    fn new(flusher: Option<Arc<Flusher>>) -> Arc<Store> {
        frames::init_host(256 << 20);
        Arc::new(Store {
            pages: Mutex::new(BTreeMap::new()),
            reads: AtomicUsize::new(0),
            fail: AtomicBool::new(false),
            flusher,
        })
    }
}

impl Backing for Store {
    fn read(&self, run: ReadRun) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let pages = self.pages.lock().unwrap();
        for (index, page) in (run.first()..).zip(run.pages()) {
            match pages.get(&index) {
                Some(bytes) => page.copy_in(0, &bytes[..]),
                None => page.zero(0..4096),
            }
        }
        let result = if self.fail.load(Ordering::Relaxed) { Err(Errno::EIO) } else { Ok(()) };
        run.complete(result);
    }
    fn write(&self, run: WriteRun) {
        if self.fail.load(Ordering::Relaxed) {
            return run.complete(Err(Errno::EIO));
        }
        let mut pages = self.pages.lock().unwrap();
        for (index, page) in (run.first()..).zip(run.pages()) {
            let mut bytes = Box::new([0; 4096]);
            page.copy_out(0, &mut bytes[..]);
            pages.insert(index, bytes);
        }
        drop(pages);
        run.complete(Ok(()));
    }
    fn prepare_write(&self, _: &Mapping, _: u64, _: usize) -> Result<()> {
        Ok(())
    }
    fn flusher(&self) -> Option<Arc<Flusher>> {
        self.flusher.clone()
    }
}

fn read(mapping: &Mapping, pos: u64, len: usize) -> Vec<u8> {
    let mut buffer = vec![0xee; len];
    let count = mapping.read(pos, &mut Sink::kernel(&mut buffer), &ReadAhead::new()).unwrap();
    buffer.truncate(count);
    buffer
}

fn write(mapping: &Mapping, pos: u64, bytes: &[u8]) {
    assert_eq!(mapping.write(pos, &mut Source::kernel(bytes)).unwrap(), bytes.len());
}

#[test]
fn a_file_behaves_like_bytes() {
    let store = Store::new(None);
    let mapping = Mapping::new(store.clone(), 0);
    let mut model: Vec<u8> = Vec::new();
    let mut seed = 0x9876_5432_1fed_cba9u64;
    let mut random = move |limit: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % limit
    };
    for step in 0..4000u64 {
        match random(10) {
            0..=3 => {
                let pos = random(300_000) as usize;
                let bytes = vec![(step % 251) as u8 + 1; random(20_000) as usize + 1];
                write(&mapping, pos as u64, &bytes);
                if model.len() < pos + bytes.len() {
                    model.resize(pos + bytes.len(), 0);
                }
                model[pos..pos + bytes.len()].copy_from_slice(&bytes);
            }
            4..=6 => {
                let pos = random(330_000) as usize;
                let len = random(70_000) as usize;
                let end = (pos + len).min(model.len());
                let expected = if pos < end { &model[pos..end] } else { &[] };
                assert_eq!(read(&mapping, pos as u64, len), expected);
            }
            7 => {
                let size = random(320_000) as usize;
                mapping.truncate(size as u64).unwrap();
                model.resize(size, 0);
                let mut pages = store.pages.lock().unwrap();
                pages.retain(|&index, _| index < (size as u64).div_ceil(4096));
            }
            8 => mapping.sync().unwrap(),
            _ => {
                mapping.drop_clean(0, MAX_INDEX);
            }
        }
        assert_eq!(mapping.size(), model.len() as u64);
    }
    mapping.sync().unwrap();
    assert!(!mapping.is_dirty());
    mapping.drop_clean(0, MAX_INDEX);
    assert_eq!(mapping.cached_pages(), 0);
    assert_eq!(read(&mapping, 0, model.len()), model);
}

#[test]
fn readers_and_reclaim_race() {
    let store = Store::new(None);
    let mapping = Mapping::new(store, 0);
    let bytes: Vec<u8> = (0..1 << 20).map(|i| (i / 4096) as u8).collect();
    write(&mapping, 0, &bytes);
    mapping.sync().unwrap();
    std::thread::scope(|scope| {
        for cpu in 0..3u64 {
            let mapping = &mapping;
            scope.spawn(move || {
                for round in 0..3000u64 {
                    let index = (round * 7 + cpu * 13) % 256;
                    assert_eq!(read(mapping, index * 4096 + 5, 10), vec![index as u8; 10]);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..200 {
                mapping.drop_clean(0, MAX_INDEX);
                reclaim::shrink(16);
            }
        });
    });
}

#[test]
fn a_failed_write_is_told_to_every_open_file_once() {
    let store = Store::new(None);
    let mapping = Mapping::new(store.clone(), 0);
    let (a, b) = (mapping.error_cursor(), mapping.error_cursor());
    write(&mapping, 0, b"hello");
    store.fail.store(true, Ordering::Relaxed);
    mapping.sync().unwrap();
    assert_eq!(mapping.check_error(&a), Err(Errno::EIO));
    assert_eq!(mapping.check_error(&a), Ok(()));
    assert_eq!(mapping.check_error(&b), Err(Errno::EIO));
    // A page that cannot be read is an error of the read, and is tried again.
    mapping.drop_clean(0, MAX_INDEX);
    let mut buffer = [0; 5];
    let mut sink = Sink::kernel(&mut buffer);
    assert_eq!(mapping.read(0, &mut sink, &ReadAhead::new()), Err(Errno::EIO));
    store.fail.store(false, Ordering::Relaxed);
    assert_eq!(read(&mapping, 0, 5).len(), 5);
}

#[test]
fn sequential_reads_come_in_windows() {
    let store = Store::new(None);
    let mapping = Mapping::new(store.clone(), 4 << 20);
    let ahead = ReadAhead::new();
    let mut buffer = [0; 4096];
    for index in 0..1024u64 {
        mapping.read(index * 4096, &mut Sink::kernel(&mut buffer), &ahead).unwrap();
    }
    assert!(store.reads.load(Ordering::Relaxed) < 45);
}

#[test]
fn the_flusher_writes_in_the_background() {
    let flusher = Flusher::new("test");
    let store = Store::new(Some(flusher.clone()));
    let mapping = Mapping::new(store.clone(), 0);
    write(&mapping, 0, &[7; 100_000]);
    flusher.write_all(Wait::ForDevice);
    assert!(!mapping.is_dirty());
    assert_eq!(store.pages.lock().unwrap().len(), 25);
    flusher.stop();
}

#[test]
fn pages_without_backing_stay() {
    frames::init_host(256 << 20);
    let mapping = Mapping::without_backing(0);
    write(&mapping, 5000, b"abc");
    assert_eq!(read(&mapping, 4998, 10), b"\0\0abc");
    assert_eq!(mapping.drop_clean(0, MAX_INDEX), 0);
    assert_eq!(mapping.seek_cached(0, true), Some(4096));
    assert_eq!(mapping.seek_cached(4096, false), Some(8192));
    mapping.punch(0, 8192).unwrap();
    assert_eq!(read(&mapping, 4998, 10), b"\0\0\0\0\0");
}
