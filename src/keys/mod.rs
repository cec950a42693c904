//! The ways to a volume key: what a user holds, and the slots that it opens.
//!
//! ```text
//! KeySource --secret()--> Secret --(one file a kind)--> KEK --opens--> Slot.wrapped = volume key VK
//!   keyfile                 keyfile.rs:    HKDF(32 bytes of the file)
//!   command, fd, prompt     passphrase.rs: HKDF(Argon2id(passphrase))
//!                           recovery.rs:   HKDF(32 bytes that 24 words stand for)
//!   ARN of a key            kms.rs:        HKDF(32 bytes that KMS decrypts)
//!
//! KEK = HKDF-SHA256(ikm, salt = the slot's salt, info = "lidfs/v1", "slot", kind, volume id, slot id)
//! wrapped = sealed object of kind Slot at path "slot/<id>", one chunk, epoch 0
//! ```
//!
//! Slots are independent of each other, as in LUKS: each wraps the same VK.
//! A further kind is one file beside `keyfile.rs`, one variant of
//! [`Secret`] and of [`Unlock`](crate::format::header::Unlock), and one arm in `slot.rs`.
//!
//! Invariants: a slot opens only in its own volume and under its own id; what a
//! header asks of Argon2 is bounded on both sides before it is run.

mod error;
mod keyfile;
mod kms;
mod passphrase;
mod recovery;
mod slot;
mod source;
mod whole;

pub use error::KeyError;
pub use keyfile::{generate as generate_keyfile, load as load_keyfile};
pub use kms::{KmsConfig, KmsError, KmsKey};
pub use passphrase::{Cost, PASSPHRASE_BYTES_MAX, Passphrase};
pub use recovery::{WORDS as RECOVERY_WORDS, words as recovery_words};
pub use slot::{NewSlot, Secret, SlotKind, move_to_key, rewrap, strength, unwrap, wrap};
pub use source::{Config, KeySource, Purpose};
pub use whole::{open_whole, seal_whole};

#[cfg(any(test, fuzzing))]
pub(crate) use keyfile::parse as parse_keyfile;
