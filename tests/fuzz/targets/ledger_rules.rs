#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drop(sim::fuzz::ledger_rules(bytes)));
