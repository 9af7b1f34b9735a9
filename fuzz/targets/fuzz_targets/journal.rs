//! libFuzzer's way into `bft_fuzz::journal::scan`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bft_fuzz::journal::scan(data));
