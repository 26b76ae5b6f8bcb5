#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| steady_fuzz::h1_request(data));
