#![no_main]
//! See `parsers::seccomp`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = parsers::seccomp(data);
});
