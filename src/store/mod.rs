//! Object stores: where sealed bytes are kept.
//!
//! ```text
//!   SlateDB, packs, header, lease
//!        |
//!     sealed      encrypts; above it plaintext, below it ciphertext
//!        |
//!     measured    counts requests, bytes, errors, time
//!        |
//!     faulty      tests only: scripted faults
//!        |
//!   s3 | local | memory
//! ```
//!
//! The seam is the well-known trait [`object_store::ObjectStore`], in the version that SlateDB
//! re-exports, so that the metadata engine runs on these stores unmodified.
//!
//! Invariant: a `put` that returned is durable, and a conditional `put` never reports a failed
//! condition for a write of its own that did land.

mod config;
mod encryption;
mod fault;
pub mod faulty;
mod local;
pub mod measured;
mod open;
pub mod probe;
mod rate;
mod rewrite;
pub mod s3;
pub mod sealed;
mod sentence;
mod trouble;
mod url;

pub use config::{PackStorageClass, StoreConfig};
pub use encryption::{CustomerKeys, Encrypted, EncryptionMode, ServerSideEncryption};
pub use fault::{StoreError, StoreFault, classify, explain, find};
pub use faulty::FaultyStore;
pub use local::LocalStore;
pub use measured::MeasuredStore;
pub use open::{OpenError, OpenStore, Transport, open};
pub use probe::{ProbeError, ProbeReport, Tried, probe, probe_parts, try_out};
pub use rate::Rate;
pub use rewrite::{RewriteError, RewriteProgress, Rewritten, rewrite};
pub use s3::{S3Config, S3Store};
pub use sealed::{LoadKeys, SealedStore};
pub use sentence::sentence;
pub use slatedb::object_store;
pub use trouble::Trouble;
pub use url::{StoreUrl, UrlError};

/// In the extensions of a put: the object is large, never changes, and is read seldom. It may lie
/// in the storage class that is set for such objects; all others stay in the default one.
#[derive(Debug, Clone, Copy)]
pub struct Bulk;
