#![no_main]
//! See `parsers::partitions`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = parsers::partitions(data);
});
