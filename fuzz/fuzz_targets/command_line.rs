#![no_main]
//! See `parsers::command_line`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| parsers::command_line(data));
