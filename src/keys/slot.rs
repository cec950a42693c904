//! Wraps and unwraps the volume key.

use std::fmt;

use super::{
    Cost, KeyError, KmsKey, Passphrase, keyfile, open_whole, passphrase, recovery, seal_whole,
};
use crate::base::{Epoch, KIB, MIB, VolumeId};
use crate::crypto::{Binding, DataKey, DataKeys, ObjectKind, SecretKey, random_bytes};
use crate::format::header::{Base64, Slot, SlotId, Unlock, label_is_valid};

/// Slots know no epochs: a rotated volume key takes new slots.
const SLOT_EPOCH: Epoch = Epoch(0);

/// What opens slots.
#[derive(Debug, Clone)]
pub enum Secret {
    /// The bytes of a keyfile.
    Keyfile(SecretKey),
    /// A passphrase with what it costs to try it.
    Passphrase(Passphrase),
    /// A key that never leaves KMS.
    Kms(KmsKey),
    /// The bytes that recovery words stand for.
    Recovery(SecretKey),
}

/// What kind of secret opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// A file of 32 random bytes.
    Keyfile,
    /// A passphrase.
    Passphrase,
    /// A key in AWS KMS.
    Kms,
    /// Words on paper.
    Recovery,
}

impl SlotKind {
    /// As written in the header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keyfile => "keyfile",
            Self::Passphrase => "passphrase",
            Self::Kms => "kms",
            Self::Recovery => "recovery",
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
            Unlock::Kms { .. } => Self::Kms,
            Unlock::Recovery { .. } => Self::Recovery,
        }
    }
}

/// What an attacker without the secret is up against, in words.
pub fn strength(unlock: &Unlock) -> String {
    match unlock {
        Unlock::Keyfile { .. } => "256-bit file".to_owned(),
        Unlock::Passphrase { memory_kib, iterations, .. } => {
            format!("Argon2id {} MiB x{iterations}", u64::from(*memory_kib) * KIB / MIB)
        }
        Unlock::Kms { key, .. } => format!("KMS {key}"),
        Unlock::Recovery { .. } => "256-bit words".to_owned(),
    }
}

impl Secret {
    /// The kind of slot that it opens.
    pub fn kind(&self) -> SlotKind {
        match self {
            Self::Keyfile(_) => SlotKind::Keyfile,
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::Kms(_) => SlotKind::Kms,
            Self::Recovery(_) => SlotKind::Recovery,
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
/// [`KeyError`]: an unfit label, parameters of Argon2id beyond the bounds, or what KMS refuses.
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
    let (unlock, wrapped) = seal(Place { volume, slot: id }, volume_key, &new.secret).await?;
    Ok(Slot { id, label: new.label.clone(), created, unlock, wrapped })
}

/// The slot with a new wrapping of `volume_key`, under a secret of its kind.
///
/// # Errors
/// [`KeyError::OtherKind`], and those of [`wrap`].
pub async fn rewrap(
    volume: VolumeId,
    volume_key: &SecretKey,
    slot: &Slot,
    secret: &Secret,
) -> Result<Slot, KeyError> {
    let (old, new) = (SlotKind::from(&slot.unlock), secret.kind());
    if old != new {
        return Err(KeyError::OtherKind { old, new });
    }
    let place = Place { volume, slot: slot.id };
    let (unlock, wrapped) = seal(place, volume_key, secret).await?;
    Ok(Slot { unlock, wrapped, ..slot.clone() })
}

async fn seal(
    place: Place,
    volume_key: &SecretKey,
    secret: &Secret,
) -> Result<(Unlock, Base64), KeyError> {
    let (unlock, kek) = match secret {
        Secret::Keyfile(key) => keyfile::new_slot(place, key),
        Secret::Passphrase(passphrase) => passphrase::new_slot(place, passphrase).await?,
        // On the heap, here and below: what a request to KMS holds is large.
        Secret::Kms(key) => Box::pin(key.new_slot(place)).await?,
        Secret::Recovery(key) => recovery::new_slot(place, key),
    };
    let path = path(place.slot);
    let key = DataKey { epoch: SLOT_EPOCH, key: kek };
    let binding = Binding { volume: place.volume, kind: ObjectKind::Slot, path: &path };
    Ok((unlock, Base64(seal_whole(&key, &binding, volume_key.expose())?)))
}

/// A KMS slot that another key opens from now on: KMS encrypts anew what it holds, and its wrapping
/// stays. `None`: `new` is in another region, where KMS cannot; the slot needs a new wrapping.
///
/// # Errors
/// [`KeyError::OtherKind`]: it is no KMS slot. [`KeyError::Kms`].
pub async fn move_to_key(
    volume: VolumeId,
    slot: &Slot,
    new: &KmsKey,
) -> Result<Option<Slot>, KeyError> {
    let Unlock::Kms { key: old, ciphertext, salt } = &slot.unlock else {
        return Err(KeyError::OtherKind { old: (&slot.unlock).into(), new: SlotKind::Kms });
    };
    if !new.is_in_region_of(old) {
        return Ok(None);
    }
    let place = Place { volume, slot: slot.id };
    let (key, ciphertext) = Box::pin(new.take_over(place, old, &ciphertext.0)).await?;
    let unlock = Unlock::Kms { key, ciphertext: Base64(ciphertext), salt: salt.clone() };
    Ok(Some(Slot { unlock, ..slot.clone() }))
}

/// The volume key out of a slot; `None` when the secret is of another kind or does not open it.
///
/// That a slot opened shows only that the holder of this secret made it for
/// this volume; whether it belongs into the header is for the header's MAC.
///
/// # Errors
/// [`KeyError::TooWeak`] and [`KeyError::TooExpensive`]: the slot asks for what is not to be done.
/// [`KeyError::Kms`]: KMS does not open it.
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
        (Unlock::Kms { key, ciphertext, salt }, Secret::Kms(pinned)) => {
            Box::pin(pinned.expect_arn()).await?;
            if key != pinned.name() {
                return Ok(None);
            }
            Box::pin(pinned.kek(place, &ciphertext.0, &salt.0)).await?
        }
        (Unlock::Recovery { salt }, Secret::Recovery(key)) => recovery::kek(place, key, &salt.0),
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
