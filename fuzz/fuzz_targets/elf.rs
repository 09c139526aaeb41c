#![no_main]
//! See `parsers::elf`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = parsers::elf(data);
});
