#![no_main]
//! See `parsers::ext4`. Start it from an image made by `mke2fs`: `cargo fuzz run ext4 DIR -- -max_len=2097152`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = parsers::ext4(data.to_vec());
});
