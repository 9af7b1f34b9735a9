//! libFuzzer's way into `bft_fuzz::state::kv`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bft_fuzz::state::kv(data));
