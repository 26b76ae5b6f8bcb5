#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| steady_fuzz::h2_crate_client(data));
