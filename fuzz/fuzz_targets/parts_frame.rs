#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::words::parts_frame(bytes));
