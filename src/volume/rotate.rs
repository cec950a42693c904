//! New wrappings: of one slot, or of everything under a new volume key.
//!
//! ```text
//! slot:        VK --new salt, or new secret--> wrapped           same id, same VK
//! volume key:  VK' random --> slots wrapped anew, keyring sealed anew, header's MAC
//!              names key and data keys stay: no object but the header changes
//! ```
//!
//! Either is one change of the header. Invariant: what a rotation leaves behind opens with each slot
//! that it kept; a slot that nobody could wrap for is named before it is dropped.

use bytes::Bytes;

use super::keyring::Keyring;
use super::object::Written;
use super::opened::CHANGE_ATTEMPTS_MAX;
use super::root::RootKeys;
use super::{SlotInfo, Volume, VolumeError};
use crate::base::Clock;
use crate::crypto::SecretKey;
use crate::format::header::{Base64, Header, Signed, Slot, SlotId, Unlock};
use crate::keys::{self, KmsConfig, KmsKey, Secret};

/// What a new volume key is wrapped for.
#[derive(Debug)]
pub struct Holders<'a> {
    /// Secrets at hand, the one that opened the volume among them.
    pub secrets: &'a [Secret],
    /// How to reach KMS, which wraps for its slots.
    pub kms: &'a KmsConfig,
    /// Whether slots of other secrets may go.
    pub drop_others: bool,
}

impl Volume {
    /// Wraps the volume key anew for one slot, under `secret`, which must be of the slot's kind. A KMS
    /// slot that gets another key of its region is moved by KMS alone.
    ///
    /// An old header with the old wrapping still opens with the old secret.
    ///
    /// # Errors
    /// [`VolumeError::NoSlot`], [`VolumeError::Contended`], or what the slot or the store fails with.
    pub async fn rotate_slot(
        &mut self,
        id: SlotId,
        secret: &Secret,
        clock: &dyn Clock,
    ) -> Result<(), VolumeError> {
        let missing = || VolumeError::NoSlot { id };
        let old = self.header().slots.iter().find(|slot| slot.id == id).ok_or_else(missing)?;
        let moved = match (&old.unlock, secret) {
            (Unlock::Kms { key, .. }, Secret::Kms(new)) if key != new.name() => {
                keys::move_to_key(self.id(), old, new).await?
            }
            _ => None,
        };
        let mut new = match moved {
            Some(slot) => slot,
            None => keys::rewrap(self.id(), self.root.volume_key(), old, secret).await?,
        };
        new.created = clock.now().seconds;
        self.change(|header, _, _| {
            let slot = header.slots.iter_mut().find(|slot| slot.id == id);
            *slot.ok_or_else(missing)? = new.clone();
            Ok(())
        })
        .await
    }

    /// Gives the volume a new volume key, and tells which slots were dropped.
    ///
    /// # Errors
    /// [`VolumeError::WouldDrop`], [`VolumeError::Contended`], or what a slot or the store fails with.
    /// Then the old key holds.
    pub async fn rotate_volume_key(
        &mut self,
        holders: &Holders<'_>,
    ) -> Result<Vec<SlotInfo>, VolumeError> {
        let next_root = RootKeys::new(self.id(), SecretKey::generate());
        let mut dropped = Vec::new();
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let found = self.object.read().await?.ok_or(VolumeError::NoVolume)?;
            let there = Signed::parse(&found.bytes)?;
            // Our own write whose answer was lost, below a change of somebody else.
            if next_root.header_verifies(there.signed(), there.mac()) {
                return self.take_root(next_root, there).map(|()| dropped);
            }
            self.adopt(&found)?;
            let (header, lost) = self.under(&next_root, holders).await?;
            dropped = lost;
            let next = Signed::new(header, |signed| next_root.header_mac(signed))?;
            let file = Bytes::from(next.to_file());
            if let Written::Done(_) = self.object.replace(Some(&found), file).await? {
                return self.take_root(next_root, next).map(|()| dropped);
            }
        }
        Err(VolumeError::Contended)
    }

    fn take_root(&mut self, root: RootKeys, signed: Signed) -> Result<(), VolumeError> {
        self.root = root;
        self.take(signed)
    }

    /// The header under another volume key, and the slots that it no longer has.
    async fn under(
        &self,
        next: &RootKeys,
        holders: &Holders<'_>,
    ) -> Result<(Header, Vec<SlotInfo>), VolumeError> {
        let (mut slots, mut dropped) = (Vec::new(), Vec::new());
        for slot in &self.header().slots {
            match self.holder(slot, holders).await? {
                Some(secret) => {
                    slots.push(keys::rewrap(self.id(), next.volume_key(), slot, &secret).await?);
                }
                None => dropped.push(SlotInfo::from(slot)),
            }
        }
        if !(dropped.is_empty() || holders.drop_others) {
            let name = |slot: &SlotInfo| match slot.label.as_str() {
                "" => format!("{} ({})", slot.id, slot.kind),
                label => format!("{} ({}, {label:?})", slot.id, slot.kind),
            };
            return Err(VolumeError::WouldDrop { slots: dropped.iter().map(name).collect() });
        }
        if slots.is_empty() {
            return Err(VolumeError::NoSlots);
        }
        let keys = (self.root.keyring_key(), next.keyring_key());
        let keyring = Keyring::reseal(self.id(), keys, &self.header().keyring.0)?;
        let mut header = Header { slots, keyring: Base64(keyring), ..self.header().clone() };
        header.set_slot_features();
        header.version = header.version.checked_add(1).ok_or(VolumeError::Contended)?;
        Ok((header, dropped))
    }

    /// The secret of a slot, if it is at hand. The header is proven, so KMS is asked for whichever key
    /// its slots name.
    async fn holder(
        &self,
        slot: &Slot,
        holders: &Holders<'_>,
    ) -> Result<Option<Secret>, VolumeError> {
        if let Unlock::Kms { key, .. } = &slot.unlock {
            let given = holders.secrets.iter().find_map(|secret| match secret {
                Secret::Kms(given) => Some(given.with_name(key)),
                _ => None,
            });
            let key = given.unwrap_or_else(|| KmsKey::new(key, holders.kms));
            return Ok(Some(Secret::Kms(key)));
        }
        for secret in holders.secrets {
            let opened = keys::unwrap(self.id(), slot, secret).await?;
            if opened.is_some_and(|key| key.expose() == self.root.volume_key().expose()) {
                return Ok(Some(secret.clone()));
            }
        }
        Ok(None)
    }
}
