//! lidfs: mounts an S3 bucket as an encrypted POSIX drive.
//!
//! The modules in layer order; imports run downward only (`tests/architecture.rs`).

// The order is the layers'; a comment between keeps the formatter from sorting.
// Tests of whole volumes.
#[cfg(test)]
mod proofs;
// Every decoder of what the bucket holds, for tests.
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
// The command line.
pub mod cli;
// Stores and mounts, measured.
pub mod bench;
// A mount put together and run.
pub mod daemon;
// The configuration file.
pub mod config;
// The kernel's side: FUSE.
pub mod fuse;
// Space that nothing needs comes back.
pub mod gc;
// The file system itself.
pub mod fs;
// Volumes checked and mended.
pub mod check;
// Content of files.
pub mod data;
// Ordered records.
pub mod meta;
// Headers, leases and pins: volumes made, opened and held.
pub mod volume;
// Ways to a volume key.
pub mod keys;
// Object stores.
pub mod store;
// Byte layouts.
pub mod format;
// Sealing.
pub mod crypto;
// Shared vocabulary.
pub mod base;
