//! libFuzzer's way into `bft_fuzz::wire::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bft_fuzz::wire::frame(data));
