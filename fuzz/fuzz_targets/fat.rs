#![no_main]
//! See `parsers::fat`. Start it from an image made by `mkfs.vfat`: `cargo fuzz run fat DIR -- -max_len=1474560`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = parsers::fat(data.to_vec());
});
