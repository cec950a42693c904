//! Why a volume could not be made, opened or changed.

use super::keyring::KeyringError;
use super::{ObjectError, PinError};
use crate::base::ErrorKind;
use crate::crypto::{OpenError, SealError};
use crate::format::header::{HeaderError, SlotId};
use crate::keys::{KeyError, SlotKind};

/// Why a volume could not be made, opened or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// There is no header.
    #[error(
        "no lidfs volume here (no lidfs.json); check the volume URL, or make one with `lidfs init`"
    )]
    NoVolume,
    /// A new volume takes an empty prefix.
    #[error(
        "the prefix is not empty (it holds {found}); choose an empty prefix, or mount what is there"
    )]
    PrefixNotEmpty {
        /// One of the objects there.
        found: String,
    },
    /// What is there is no header that this build reads.
    #[error("lidfs.json: {0}")]
    Header(#[from] HeaderError),
    /// No slot of the secret's kind opened.
    #[error("wrong key: {}; use a key that `lidfs key add` or `lidfs init` was given for this volume", tried(*kind, *slots))]
    WrongKey {
        /// What was tried.
        kind: SlotKind,
        /// On how many slots.
        slots: usize,
    },
    /// The config pins one KMS key, and the slots are of others.
    #[error(
        "wrong key: the config names KMS key {pinned}, but lidfs.json has slots of {} alone, which nobody has proven; if the slot was moved, write the ARN that `lidfs key rotate` printed", found.join(", "))]
    OtherKmsKey {
        /// What the config names.
        pinned: String,
        /// What the header names, unproven.
        found: Vec<String>,
    },
    /// A new volume key would lock holders of secrets out that are not at hand.
    #[error(
        "nobody is here to wrap the new volume key for: {}; give their keys with --with-keyfile, --with-passphrase-fd or --with-recovery-words-fd, or drop these slots with --drop-others", slots.join(", "))]
    WouldDrop {
        /// The slots: id, kind and label.
        slots: Vec<String>,
    },
    /// A slot opened, but the header is not what the holder of the volume key wrote.
    #[error("lidfs.json: was changed by somebody without the key; restore it from a copy")]
    HeaderTampered,
    /// While it was open, the header came under another volume key.
    #[error(
        "lidfs.json: is no longer under the volume key that it was opened with; if `lidfs key rotate --volume-key` ran meanwhile, mount or run this again, otherwise somebody without the key changed it"
    )]
    KeyChanged,
    /// The keyring inside an authentic header does not open.
    #[error("lidfs.json: the keyring cannot be opened; restore lidfs.json from a copy")]
    Keyring {
        /// Why, where it is not for its inner form.
        source: Option<OpenError>,
    },
    /// While it was open, the header went back to an earlier version or to another volume.
    #[error(
        "lidfs.json: was replaced by an older one or another volume's while it was open; find out who writes this bucket"
    )]
    HeaderReplaced,
    /// The volume is not the one that this machine knows, or an older state of it.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A key could not be had, or a slot asks for what is not to be done.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// All slots are taken.
    #[error("all 32 key slots are in use; remove one with `lidfs key remove`")]
    SlotsFull,
    /// No slot has this id.
    #[error("there is no key slot {id}; `lidfs key list` shows them")]
    NoSlot {
        /// The id asked for.
        id: SlotId,
    },
    /// Without a slot nobody could open the volume again.
    #[error("key slot {id} is the last one; add another with `lidfs key add` first")]
    LastSlot {
        /// The slot.
        id: SlotId,
    },
    /// A volume without a key slot would be lost at birth.
    #[error("a new volume needs at least one key; give a keyfile, a passphrase or a KMS key")]
    NoSlots,
    /// The numbers of epochs are used up.
    #[error("the volume can have no further data key: copy its files to a new volume")]
    NoMoreEpochs,
    /// The rekey is somebody else's now.
    #[error("another mount has begun a newer data key: it is for that one to finish the rekey")]
    OtherEpoch,
    /// Others changed the header again and again.
    #[error("lidfs.json: others keep changing it; try again when they are done")]
    Contended,
    /// What was written does not read back.
    #[error(
        "lidfs.json: does not read back as it was written; the store is not consistent, run `lidfs doctor`"
    )]
    NotStored,
    /// The store failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Nothing can be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl From<KeyringError> for VolumeError {
    fn from(error: KeyringError) -> Self {
        match error {
            KeyringError::Open(error) => Self::Keyring { source: Some(error) },
            KeyringError::Malformed => Self::Keyring { source: None },
            KeyringError::Full => Self::NoMoreEpochs,
            KeyringError::Seal(error) => Self::Seal(error),
        }
    }
}

fn tried(kind: SlotKind, slots: usize) -> String {
    match slots {
        0 => format!("the volume has no {kind} slot"),
        1 => format!("it does not open the one {kind} slot of the volume"),
        slots => format!("it opens none of the volume's {slots} {kind} slots"),
    }
}

impl VolumeError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoVolume | Self::NoSlot { .. } => ErrorKind::NotFound,
            Self::PrefixNotEmpty { .. } | Self::OtherEpoch | Self::Contended => ErrorKind::Conflict,
            Self::Header(error) => error.kind(),
            Self::WrongKey { .. } | Self::OtherKmsKey { .. } => ErrorKind::Denied,
            Self::HeaderTampered
            | Self::KeyChanged
            | Self::Keyring { .. }
            | Self::HeaderReplaced
            | Self::NotStored => ErrorKind::Corrupt,
            Self::Pin(error) => error.kind(),
            Self::Key(error) => error.kind(),
            Self::SlotsFull | Self::NoMoreEpochs => ErrorKind::Full,
            Self::LastSlot { .. } | Self::NoSlots | Self::WouldDrop { .. } => ErrorKind::Invalid,
            Self::Object(error) => error.kind(),
            Self::Seal(error) => error.kind(),
        }
    }
}
