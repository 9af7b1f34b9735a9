//! libFuzzer's way into `bft_fuzz::evidence::evidence`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bft_fuzz::evidence::evidence(data));
