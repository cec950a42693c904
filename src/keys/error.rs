//! Why a key could not be had.

use std::io;
use std::path::PathBuf;

use super::{Cost, KmsError, PASSPHRASE_BYTES_MAX, SlotKind};
use crate::base::ErrorKind;
use crate::crypto::SealError;

/// Why a key could not be read, made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The keyfile cannot be read.
    #[error("keyfile {}: cannot be read: {source}; check `keyfile` in [key]", path.display())]
    Read {
        /// The keyfile.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key was given where the path of its file belongs. It is not repeated.
    #[error(
        "`keyfile` in [key] is a key itself, not the path of the file that holds it; name the file"
    )]
    NotAPath,
    /// Others than its owner have access to the keyfile.
    #[error("keyfile {}: group or others have access (mode {mode:04o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The keyfile.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A directory, fifo or device.
    #[error("keyfile {}: not a regular file; name a file made by `lidfs key generate`", path.display())]
    NotRegular {
        /// The keyfile.
        path: PathBuf,
    },
    /// Another kind of file, or a damaged one.
    #[error("keyfile {}: not a lidfs keyfile; name a file made by `lidfs key generate`, or restore it from a copy", path.display())]
    Malformed {
        /// The keyfile.
        path: PathBuf,
    },
    /// There is a file already where a new keyfile was to be written.
    #[error("keyfile {}: exists already and is not overwritten; choose another path, or move it away", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// The new keyfile could not be written.
    #[error("keyfile {}: cannot be written: {source}; choose another place", path.display())]
    Write {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing says where the key comes from, and nobody can be asked.
    #[error(
        "no key: set `keyfile`, `passphrase_command`, `kms_key` or `recovery_command` in [key], or start from a terminal to be asked for a passphrase"
    )]
    NoSource,
    /// More than one source in the config.
    #[error(
        "[key] has more than one of `keyfile`, `passphrase_command`, `kms_key` and `recovery_command`; leave one"
    )]
    TwoSources,
    /// The command for the passphrase or the recovery words failed.
    #[error("`{name}` in [key] failed: {detail}; run it by hand to see why")]
    Command {
        /// Which one.
        name: &'static str,
        /// How it ended.
        detail: String,
    },
    /// The passphrase or the words could not be read from terminal or descriptor.
    #[error("no passphrase or words can be read from {place}: {source}")]
    Input {
        /// Where it was to come from.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// A passphrase of no length.
    #[error("the passphrase is empty; give one")]
    Empty,
    /// Beyond [`PASSPHRASE_BYTES_MAX`].
    #[error(
        "the passphrase is longer than {PASSPHRASE_BYTES_MAX} bytes; shorten it, or use a keyfile"
    )]
    TooLong,
    /// The two entries of a new passphrase differ.
    #[error("the two passphrases differ; try again")]
    Mismatch,
    /// A slot that makes guessing cheap.
    #[error("a passphrase slot asks for too little of Argon2id (memory {} KiB, {} passes; at least 65536 KiB and 3); the header may have been weakened by somebody, restore lidfs.json from a copy", cost.memory_kib, cost.iterations)]
    TooWeak {
        /// What it asks for.
        cost: Cost,
    },
    /// A slot that would exhaust this machine.
    #[error("a passphrase slot asks for too much of Argon2id (memory {} KiB, {} passes, {} lanes; at most 1048576 KiB, 16, 16); the header may have been changed by somebody, restore lidfs.json from a copy", cost.memory_kib, cost.iterations, cost.parallelism)]
    TooExpensive {
        /// What it asks for.
        cost: Cost,
    },
    /// What was given are no recovery words.
    #[error("recovery words: {detail}; compare them with the sheet")]
    Words {
        /// What is wrong, without any of them.
        detail: String,
    },
    /// A slot keeps its kind for life.
    #[error(
        "a {old} slot cannot be rotated to a {new}; add a slot with `lidfs key add` and remove this one"
    )]
    OtherKind {
        /// The slot's.
        old: SlotKind,
        /// The new secret's.
        new: SlotKind,
    },
    /// KMS gave nothing.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// Argon2id did not run.
    #[error("Argon2id failed: {detail}; free some memory, or use a keyfile")]
    Argon2 {
        /// Why.
        detail: String,
    },
    /// A label that is no label.
    #[error(
        "the label of a key slot has at most 64 bytes and no control characters; choose another"
    )]
    Label,
    /// A slot could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl KeyError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            Self::Read { .. } | Self::Exposed { .. } | Self::Write { .. } | Self::Input { .. } => {
                ErrorKind::Denied
            }
            Self::NotRegular { .. }
            | Self::NotAPath
            | Self::NoSource
            | Self::TwoSources
            | Self::Command { .. }
            | Self::Empty
            | Self::TooLong
            | Self::Mismatch
            | Self::Words { .. }
            | Self::OtherKind { .. }
            | Self::Label => ErrorKind::Invalid,
            Self::Kms(error) => error.kind(),
            Self::Malformed { .. } | Self::TooWeak { .. } | Self::TooExpensive { .. } => {
                ErrorKind::Corrupt
            }
            Self::Exists { .. } => ErrorKind::Conflict,
            Self::Argon2 { .. } => ErrorKind::Full,
            Self::Seal(error) => error.kind(),
        }
    }
}
