//! Seals and opens objects, derives keys, keeps secrets. Pure: no I/O, no async.
//!
//! ```text
//! SecretKey (locked memory) --derive (HKDF-SHA256)--> more SecretKeys
//! DataKey = epoch + SecretKey
//!    |  + Binding (volume, kind, path) + salt (32 fresh bytes an object)
//!    v
//! Sealer: header, then chunk after chunk  ---- bytes in a bucket ---->  Opener: any chunk by its index
//! ```
//!
//! Invariants: an object's key is never used for other bytes than that object's
//! (its salt is fresh from the operating system, and a [`Sealer`] counts its
//! nonces itself); nothing is decrypted before the header's commitment to its
//! key is checked; no secret is ever printed.

mod derive;
mod error;
mod gcm;
mod header;
mod keys;
mod memory;
#[cfg(test)]
mod recorder;
mod sealed;
mod secret;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use recorder::count as recorded_sealings;

pub use error::{OpenError, SealError};
pub use gcm::TAG_LEN;
pub use header::{Binding, HEADER_LEN, ObjectKind, SALT_LEN};
pub use keys::{DataKey, DataKeys};
pub use memory::memory_is_locked;
pub use sealed::{METADATA_CHUNK, Opener, Sealer};
pub use secret::{SecretBytes, SecretKey, random_bytes};
