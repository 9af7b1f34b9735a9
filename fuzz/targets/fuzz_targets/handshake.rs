//! libFuzzer's way into `bft_fuzz::link::handshake`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bft_fuzz::link::handshake(data));
