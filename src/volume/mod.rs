//! Volumes: made, opened, held by one writer, and never taken back in time.
//!
//! ```text
//! lidfs.json   header (format::header), readable: id, parameters, slots, sealed keyring, MAC
//! lease        sealed: who holds the write mount
//!
//! Secret --slot--> VK --HKDF-SHA256(salt = volume id, info = "lidfs/v1", purpose)-->
//!     "header"       K_header: MAC of lidfs.json = HMAC-SHA256(K_header, length u64 || signed bytes)
//!     "keyring"      K_keyring: seals the keyring (path "keyring", kind Keyring, one chunk, epoch 0)
//!     "fingerprint"  its first 8 bytes: what people and pins know a volume key by
//! (HKDF's info and MACs take each part after its length as a little-endian u64.)
//! keyring (keyring.rs) --> names key, epoch -> data key
//! ```
//!
//! The keyring stands inside the header, so that both change with one PUT and
//! no crash can leave a header with another header's keyring. The names key
//! (pack names, hashes of file names) is random and in the keyring rather than
//! derived from VK, so that a new VK leaves every name as it is.
//!
//! A change of the header is a compare-and-swap on its ETag. Where a store has
//! no conditional writes the header is read again, compared, written and read
//! back (`object.rs`), which needs that only one machine uses the store.
//!
//! Invariants: nothing of a header counts before its MAC verified; the header's
//! version grows with every change; at most one mount believes it holds the
//! lease for longer than a heartbeat. The lease is a courtesy to people:
//! what stops a second writer from doing harm is the metadata engine's fence.

mod error;
mod floor;
mod holder;
mod keyring;
mod lease;
mod loader;
mod object;
mod opened;
mod pin;
mod root;
mod rotate;
mod uses;

pub use error::VolumeError;
pub use holder::Holder;
pub use lease::{HEARTBEAT_INTERVAL, LEASE_AGE_MAX, LEASE_NAME, Lease, LeaseError, LeaseSite};
pub use loader::KeyLoader;
pub use object::ObjectError;
pub use opened::{HEADER_NAME, SlotInfo, SlotTrial, Volume};
pub use pin::{FreshnessPins, Pin, PinError};
pub use root::{Fingerprint, NamesFingerprint};
pub use rotate::Holders;
pub use uses::SlotUses;

#[cfg(any(test, fuzzing))]
pub(crate) use keyring::{accepts_keyring, example_keyring};
