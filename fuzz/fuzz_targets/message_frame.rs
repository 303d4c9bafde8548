#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::words::message_frame(bytes));
