//! Content of files: changes in memory, packs in the bucket, reading back.

mod edits;
mod extents;

pub use edits::{BlockChange, FileEdits};
pub use extents::{Buffer, Extents, Piece, Span};
