//! libFuzzer's way into `bft_fuzz::wire::message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bft_fuzz::wire::message(data));
