//! libFuzzer's way into `bft_fuzz::files::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bft_fuzz::files::config(data));
