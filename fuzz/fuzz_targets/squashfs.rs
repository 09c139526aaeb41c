#![no_main]
//! See `parsers::squashfs`. Start it from an image made by `mksquashfs`: `cargo fuzz run squashfs DIR -- -max_len=2097152`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = parsers::squashfs(data.to_vec());
});
