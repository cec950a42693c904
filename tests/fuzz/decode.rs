//! One decoder of `lidfs::fuzzing`, named by `LIDFS_FUZZ`, on whatever libFuzzer thinks of.
//!
//! Given `LIDFS_FUZZ_SEEDS`, a directory, it puts what the decoder starts from there first.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lidfs::fuzzing::{DECODERS, Decoder};

static DECODER: LazyLock<&Decoder> = LazyLock::new(|| {
    let name = std::env::var("LIDFS_FUZZ").unwrap_or_default();
    let names: Vec<_> = DECODERS.iter().map(|decoder| decoder.name).collect();
    let found = DECODERS.iter().find(|decoder| decoder.name == name);
    found.unwrap_or_else(|| panic!("LIDFS_FUZZ is to be one of: {}", names.join(" ")))
});

fn write_seeds() {
    let Some(directory) = std::env::var_os("LIDFS_FUZZ_SEEDS") else { return };
    for (index, seed) in (DECODER.seeds)().iter().enumerate() {
        let path = std::path::Path::new(&directory).join(format!("seed-{index}"));
        std::fs::write(path, seed).expect("the seeds' directory can be written");
    }
}

fuzz_target!(init: write_seeds(), |bytes: &[u8]| (DECODER.run)(bytes));
