#![no_main]
//! See `parsers::initramfs`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = parsers::initramfs(data);
});
