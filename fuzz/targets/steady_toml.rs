#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| steady_fuzz::config::steady_toml(data));
