#![no_main]
//! See `parsers::seccomp`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| parsers::seccomp(data));
