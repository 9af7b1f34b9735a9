//! libFuzzer's way into `bft_fuzz::journal::disk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bft_fuzz::journal::disk(data));
