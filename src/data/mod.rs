//! File content: packs, their upload, reading them back, what is cached and read ahead.
//!
//! ```text
//! write: chunks --PackContext::build--> BuiltPack --Uploader::put--> bucket
//!                                          |  `--> BlockReader::keep_sealed (disk cache)
//!                                        places --> block map (meta)
//!
//! read:  block map --> ChunkRef --BlockReader--> memory (plaintext, LRU)
//!                                           `--> disk cache (sealed) --> ranged GETs (sealed)
//! ```
//!
//! Invariants: a pack's name is never written twice with other bytes; no
//! plaintext leaves the memory of this process; what a reader gets either
//! authenticated at its place in its pack or is an error.

mod chunk;
mod compress;
mod directory;
mod disk_cache;
mod edits;
mod error;
mod extents;
mod fetch;
mod flight;
mod memory_cache;
mod pack;
mod plan;
mod readahead;
mod reader;
mod upload;
mod verify;

pub use chunk::{CHUNK_LEN_MAX, ChunkRef, PackSeal};
pub use compress::Compression;
pub use directory::{chunks_of, read_directory, read_whole, recover_record};
pub use disk_cache::DiskCacheConfig;
pub use edits::{BlockChange, FileEdits};
pub use error::DataError;
pub use extents::{Buffer, Claim, Extents, Piece, Span};
pub use pack::{BuiltPack, Chunk, PACK_BYTES_MAX, PACK_CONTENT_MAX, PackContext};
pub use plan::requests_for;
pub use readahead::{ReadAhead, Room};
pub use reader::{BlockReader, ReaderConfig, ReaderStats};
pub use upload::{UploadStats, Uploader};
pub use verify::{PackTrial, Verdict};

#[cfg(any(test, fuzzing))]
pub(crate) use compress::{example_compressed, expand};

#[cfg(test)]
mod tests;
