#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::local::a2a(bytes));
