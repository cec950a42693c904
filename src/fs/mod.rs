//! The file system itself, without FUSE: names, attributes, content, commit groups.
//!
//! ```text
//! operation --> Tx: one attempt under the lock --> open group --close--> committing group --> bucket
//!                 reads: open, committing, cache, engine       packs, one batch, one flush, acknowledge
//! ```
//!
//! [`FileSystem`] is what the rest sees. Inside: `core` is the state and its
//! transactions; `names`, `attributes`, `content`, `xattrs`, `acl` are what
//! operations do to it; `system` runs them, loading and waiting outside the
//! lock; `commit`, `packing`, `block_map` bring groups into the bucket.

mod acl;
mod attributes;
mod block_map;
mod cache;
mod commit;
mod config;
mod content;
mod core;
mod error;
mod group;
mod listing;
mod loading;
mod lost;
mod mount;
mod names;
mod neighbours;
mod opened;
mod operations;
mod pace;
mod packing;
mod quota;
mod reclaim;
mod records_ahead;
mod seek;
mod space;
mod status;
mod system;
#[cfg(test)]
pub(crate) mod tests;
mod tidy;
mod types;
mod xattrs;

#[cfg(any(test, fuzzing))]
pub(crate) use acl::accepts_acl;
pub use config::FsConfig;
pub use error::FsError;
pub use mount::{format_volume, read_counters};
pub use packing::PACKS_IN_FLIGHT_MAX;
pub use space::{FreedPack, Unswept};
pub use status::{FsHealth, FsStatus};
pub use system::{FileSystem, FsParts, Records};
pub use types::{
    Allocate, Attributes, Caller, Content, CopyRange, Handle, ListedEntry, NewNode, NewTime,
    Outcome, RenameMode, Seek, SetAttributes, Usage, WriteOrigin, XattrMode,
};
