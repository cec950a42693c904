//! Wraps and unwraps the volume key.

use std::fmt;

use super::{Cost, KeyError, Passphrase, keyfile, open_whole, passphrase, seal_whole};
use crate::base::{Epoch, VolumeId};
use crate::crypto::{Binding, DataKey, DataKeys, ObjectKind, SecretKey, random_bytes};
use crate::format::header::{Base64, Slot, SlotId, Unlock, label_is_valid};

/// Slots know no epochs: a rotated volume key takes new slots.
const SLOT_EPOCH: Epoch = Epoch(0);

/// What opens slots: a keyfile's key or a passphrase.
#[derive(Debug, Clone)]
pub enum Secret {
    /// The bytes of a keyfile.
    Keyfile(SecretKey),
    /// A passphrase with what it costs to try it.
    Passphrase(Passphrase),
}

/// What kind of secret opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// A file of 32 random bytes.
    Keyfile,
    /// A passphrase.
    Passphrase,
}

impl SlotKind {
    /// As written in the header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keyfile => "keyfile",
            Self::Passphrase => "passphrase",
        }
    }
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<&Unlock> for SlotKind {
    fn from(unlock: &Unlock) -> Self {
        match unlock {
            Unlock::Keyfile { .. } => Self::Keyfile,
            Unlock::Passphrase { .. } => Self::Passphrase,
        }
    }
}

impl Secret {
    /// The kind of slot that it opens.
    pub fn kind(&self) -> SlotKind {
        match self {
            Self::Keyfile(_) => SlotKind::Keyfile,
            Self::Passphrase(_) => SlotKind::Passphrase,
        }
    }
}

/// A slot to be made.
#[derive(Debug, Clone)]
pub struct NewSlot {
    /// What is to open it.
    pub secret: Secret,
    /// The user's words for it.
    pub label: String,
}

/// Which slot of which volume a key is for.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) volume: VolumeId,
    pub(super) slot: SlotId,
}

impl Place {
    /// The key that seals this slot, from the secret of its kind.
    pub(super) fn kek(self, kind: SlotKind, input: &SecretKey, salt: &[u8]) -> SecretKey {
        let info: [&[u8]; 5] =
            [b"lidfs/v1", b"slot", kind.name().as_bytes(), &self.volume.0, &self.slot.0];
        input.derive(salt, &info)
    }
}

/// Makes a slot that gives `volume_key` to the holder of a secret.
///
/// # Errors
/// [`KeyError`]: an unfit label, or parameters of Argon2id beyond the bounds.
pub async fn wrap(
    volume: VolumeId,
    volume_key: &SecretKey,
    new: &NewSlot,
    created: i64,
) -> Result<Slot, KeyError> {
    if !label_is_valid(&new.label) {
        return Err(KeyError::Label);
    }
    let id = SlotId(random_bytes());
    let place = Place { volume, slot: id };
    let (unlock, kek) = match &new.secret {
        Secret::Keyfile(key) => keyfile::new_slot(place, key),
        Secret::Passphrase(passphrase) => passphrase::new_slot(place, passphrase).await?,
    };
    let path = path(id);
    let key = DataKey { epoch: SLOT_EPOCH, key: kek };
    let binding = Binding { volume, kind: ObjectKind::Slot, path: &path };
    let wrapped = Base64(seal_whole(&key, &binding, volume_key.expose())?);
    Ok(Slot { id, label: new.label.clone(), created, unlock, wrapped })
}

/// The volume key out of a slot; `None` when the secret is of another kind or does not open it.
///
/// That a slot opened shows only that the holder of this secret made it for
/// this volume; whether it belongs into the header is for the header's MAC.
///
/// # Errors
/// [`KeyError::TooWeak`] and [`KeyError::TooExpensive`]: the slot asks for what is not to be done.
pub async fn unwrap(
    volume: VolumeId,
    slot: &Slot,
    secret: &Secret,
) -> Result<Option<SecretKey>, KeyError> {
    let place = Place { volume, slot: slot.id };
    let kek = match (&slot.unlock, secret) {
        (Unlock::Keyfile { salt }, Secret::Keyfile(key)) => keyfile::kek(place, key, &salt.0),
        (
            &Unlock::Passphrase { ref salt, memory_kib, iterations, parallelism },
            Secret::Passphrase(passphrase),
        ) => {
            let cost = Cost { memory_kib, iterations, parallelism };
            passphrase::kek(place, passphrase, &salt.0, cost).await?
        }
        _ => return Ok(None),
    };
    let keys = DataKeys::new(DataKey { epoch: SLOT_EPOCH, key: kek }, Vec::new());
    let path = path(slot.id);
    let binding = Binding { volume, kind: ObjectKind::Slot, path: &path };
    let Ok(plain) = open_whole(&keys, &binding, &slot.wrapped.0) else { return Ok(None) };
    Ok(plain.expose().try_into().ok().map(SecretKey::copy_of))
}

fn path(id: SlotId) -> String {
    format!("slot/{id}")
}
