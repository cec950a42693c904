//! A volume with its keys.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use super::floor::Floor;
use super::keyring::{EpochEdit, Keyring};
use super::object::{Found, ObjectError, SmallObject, Written};
use super::root::RootKeys;
use super::{Fingerprint, KeyLoader, NamesFingerprint, Pin, VolumeError};
use crate::base::{Clock, CommitNumber, Epoch, ErrorKind, VolumeId};
use crate::crypto::{DataKeys, SecretKey, random_bytes};
use crate::format::header::{
    Base64, FORMAT_VERSION, HEADER_BYTES_MAX, Header, SLOTS_MAX, Signed, Slot, SlotId, Unlock,
    VolumeParams,
};
use crate::keys::{self, KeyError, NewSlot, Secret, SlotKind};
use crate::store::object_store::ObjectStore;
use crate::store::object_store::path::Path;
use crate::store::probe::PROBE_DIR;

/// The header's name below the volume's prefix.
pub const HEADER_NAME: &str = "lidfs.json";
/// How often a change of the header starts over because others change it too.
pub(super) const CHANGE_ATTEMPTS_MAX: usize = 16;

/// An open volume: its header, verified, and its keys.
pub struct Volume {
    pub(super) object: SmallObject,
    pub(super) root: RootKeys,
    pub(super) signed: Signed,
    pub(super) keyring: Keyring,
    /// What its key loaders share with it.
    floor: Floor,
    opened_by: SlotId,
}

/// How a slot answered to a secret.
#[derive(Debug)]
pub enum SlotTrial {
    /// The secret opens it, and the volume key is in it.
    Opened,
    /// It is for another secret.
    OtherSecret,
    /// The secret opens it, but what is in it is not this volume's key.
    OtherKey,
    /// It cannot be tried.
    Refused(KeyError),
}

/// What a listing shows of a key slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Names the slot.
    pub id: SlotId,
    /// What opens it.
    pub kind: SlotKind,
    /// The user's words for it.
    pub label: String,
    /// When it was made or last rotated, in seconds since 1970.
    pub created: i64,
    /// What somebody without the secret is up against, in words.
    pub strength: String,
    /// The ARN of the key, where it is one in KMS.
    pub kms_key: Option<String>,
}

impl From<&Slot> for SlotInfo {
    fn from(slot: &Slot) -> Self {
        let Slot { id, label, created, unlock, .. } = slot;
        let kms_key = match unlock {
            Unlock::Kms { key, .. } => Some(key.clone()),
            _ => None,
        };
        Self {
            id: *id,
            kind: unlock.into(),
            label: label.clone(),
            created: *created,
            strength: keys::strength(unlock),
            kms_key,
        }
    }
}

fn header_object(store: Arc<dyn ObjectStore>) -> SmallObject {
    SmallObject { store, name: HEADER_NAME, bytes_max: HEADER_BYTES_MAX }
}

impl Volume {
    /// Makes a volume in `store`, which is rooted at the volume's prefix and must be empty.
    ///
    /// # Errors
    /// [`VolumeError::PrefixNotEmpty`], [`VolumeError::NoSlots`], [`VolumeError::SlotsFull`], or
    /// what a slot or the store fails with. Nothing is left behind but, at the worst, a whole
    /// header whose acknowledgement was lost.
    pub async fn create(
        store: Arc<dyn ObjectStore>,
        params: VolumeParams,
        slots: &[NewSlot],
        clock: &dyn Clock,
    ) -> Result<Self, VolumeError> {
        match slots.len() {
            0 => return Err(VolumeError::NoSlots),
            1..=SLOTS_MAX => {}
            _ => return Err(VolumeError::SlotsFull),
        }
        expect_empty(&*store).await?;
        let volume_id = VolumeId(random_bytes());
        let created = clock.now().seconds;
        let root = RootKeys::new(volume_id, SecretKey::generate());
        let (keyring, sealed_keyring) = Keyring::create(volume_id, root.keyring_key())?;
        let mut wrapped = Vec::with_capacity(slots.len());
        for slot in slots {
            wrapped.push(keys::wrap(volume_id, root.volume_key(), slot, created).await?);
        }
        let opened_by = wrapped[0].id;
        let mut header = Header {
            lidfs: FORMAT_VERSION,
            features: Vec::new(),
            volume_id,
            created,
            version: 1,
            params,
            slots: wrapped,
            keyring: Base64(sealed_keyring),
        };
        header.set_slot_features();
        let signed = Signed::new(header, |signed| root.header_mac(signed))?;
        let object = header_object(store);
        let file = Bytes::from(signed.to_file());
        if let Written::Lost(_) = object.replace(None, file.clone()).await? {
            return Err(VolumeError::PrefixNotEmpty { found: HEADER_NAME.to_owned() });
        }
        // Once in a volume's life: a store that took a condition for granted shows here.
        match object.read().await? {
            Some(found) if found.bytes == file => {
                let floor = Floor::new(signed.header().version);
                Ok(Self { object, root, signed, keyring, floor, opened_by })
            }
            _ => Err(VolumeError::NotStored),
        }
    }

    /// Opens the volume in `store`, which is rooted at the volume's prefix.
    ///
    /// Tries the secret on every slot of its kind, which for a passphrase takes about half a second each.
    /// With a pin, also refuses another volume, another key and an older header than it names; what it
    /// says of commits is for [`Pin::check`], once metadata is open.
    ///
    /// # Errors
    /// Each case of [`VolumeError`] that concerns reading.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        secret: &Secret,
        pin: Option<&Pin>,
    ) -> Result<Self, VolumeError> {
        let object = header_object(store);
        let found = object.read().await?.ok_or(VolumeError::NoVolume)?;
        let signed = Signed::parse(&found.bytes)?;
        let header = signed.header();
        if let Some(pin) = pin {
            pin.check_volume(header.volume_id)?;
        }
        let (opened_by, volume_key) = unlock(header, secret).await?;
        let root = RootKeys::new(header.volume_id, volume_key);
        if !root.header_verifies(signed.signed(), signed.mac()) {
            return Err(VolumeError::HeaderTampered);
        }
        let keyring = open_keyring(&root, header)?;
        let floor = Floor::new(header.version);
        let volume = Self { object, root, signed, keyring, floor, opened_by };
        if let Some(pin) = pin {
            pin.check_header(&volume.pin(pin.commit))?;
        }
        Ok(volume)
    }

    /// Identity of the volume.
    pub fn id(&self) -> VolumeId {
        self.header().volume_id
    }

    /// What was chosen at `init`.
    pub fn params(&self) -> VolumeParams {
        self.header().params
    }

    /// When the volume was made, in seconds since 1970.
    pub fn created(&self) -> i64 {
        self.header().created
    }

    /// Counts the changes of the header.
    pub fn header_version(&self) -> u64 {
        self.header().version
    }

    /// What people know the volume key by.
    pub fn fingerprint(&self) -> Fingerprint {
        self.root.fingerprint()
    }

    /// The keys that seal leases, metadata and packs.
    pub fn data_keys(&self) -> DataKeys {
        self.keyring.data().clone()
    }

    /// The key for pack names and for hashes of file names; the same for the volume's whole life.
    pub fn names_key(&self) -> SecretKey {
        self.keyring.names().clone()
    }

    /// The key slots, oldest first.
    pub fn slots(&self) -> Vec<SlotInfo> {
        self.header().slots.iter().map(SlotInfo::from).collect()
    }

    /// The slot that it was opened with.
    pub fn opened_by(&self) -> SlotId {
        self.opened_by
    }

    /// Tries the secret on every slot, also after one that it opens.
    pub async fn try_slots(&self, secret: &Secret) -> Vec<(SlotInfo, SlotTrial)> {
        let mut trials = Vec::with_capacity(self.header().slots.len());
        for slot in &self.header().slots {
            let trial = match keys::unwrap(self.id(), slot, secret).await {
                Ok(Some(key)) => self.compare(key),
                Ok(None) => SlotTrial::OtherSecret,
                Err(error) => SlotTrial::Refused(error),
            };
            trials.push((slot.into(), trial));
        }
        trials
    }

    fn compare(&self, key: SecretKey) -> SlotTrial {
        let root = RootKeys::new(self.id(), key);
        if root.header_verifies(self.signed.signed(), self.signed.mac()) {
            SlotTrial::Opened
        } else {
            SlotTrial::OtherKey
        }
    }

    /// What to remember of this volume, together with the newest commit seen.
    pub fn pin(&self, commit: CommitNumber) -> Pin {
        Pin {
            volume: self.id(),
            fingerprint: self.fingerprint(),
            names: Some(NamesFingerprint::new(self.id(), self.keyring.names())),
            retired: Vec::new(),
            header_version: self.header_version(),
            commit,
        }
    }

    /// Adds a way to the volume key. Returns the new slot's id.
    ///
    /// # Errors
    /// [`VolumeError::SlotsFull`], [`VolumeError::Contended`], or what the slot or the store fails with.
    pub async fn add_slot(
        &mut self,
        new: &NewSlot,
        clock: &dyn Clock,
    ) -> Result<SlotId, VolumeError> {
        let slot = keys::wrap(self.id(), self.root.volume_key(), new, clock.now().seconds).await?;
        let id = slot.id;
        self.change(|header, _, _| {
            // Our own write whose answer was lost, below a change of somebody else.
            if header.slots.iter().any(|there| there.id == id) {
                return Ok(());
            }
            if header.slots.len() >= SLOTS_MAX {
                return Err(VolumeError::SlotsFull);
            }
            header.slots.push(slot.clone());
            Ok(())
        })
        .await?;
        Ok(id)
    }

    /// Removes a way to the volume key.
    ///
    /// Whoever opened the slot before may have kept the volume key: this ends what the secret opens
    /// from now on, not what was learnt with it.
    ///
    /// # Errors
    /// [`VolumeError::NoSlot`], [`VolumeError::LastSlot`], [`VolumeError::Contended`], or what the
    /// store fails with.
    pub async fn remove_slot(&mut self, id: SlotId) -> Result<(), VolumeError> {
        let mut was_there = false;
        self.change(|header, _, _| {
            if !header.slots.iter().any(|slot| slot.id == id) {
                // Gone meanwhile, perhaps by our own write whose answer was lost.
                return if was_there { Ok(()) } else { Err(VolumeError::NoSlot { id }) };
            }
            was_there = true;
            if header.slots.len() == 1 {
                return Err(VolumeError::LastSlot { id });
            }
            header.slots.retain(|slot| slot.id != id);
            Ok(())
        })
        .await
    }

    /// Data keys of how many epochs the volume has: more than one while a rekey is under way.
    pub fn epochs(&self) -> Vec<Epoch> {
        self.keyring.data().epochs()
    }

    /// Lets a new data key seal what is new, unless there are several epochs already: then what was begun
    /// is to be finished first. Whoever has this volume's [`data_keys`](Self::data_keys) has the new one on
    /// return, and not before the header in the store has it. Returns the current epoch.
    ///
    /// # Errors
    /// [`VolumeError::NoMoreEpochs`], [`VolumeError::Contended`], or what the store fails with.
    pub async fn begin_epoch(&mut self) -> Result<Epoch, VolumeError> {
        self.change(|header, root, keyring| {
            if keyring.data().epochs().len() == 1 {
                edit_epochs(header, root, keyring, EpochEdit::Add)?;
            }
            Ok(())
        })
        .await?;
        Ok(self.keyring.data().current().epoch)
    }

    /// Forgets the data keys of all epochs but `epoch`, the current one: what they sealed can never be
    /// read again.
    ///
    /// # Errors
    /// [`VolumeError::OtherEpoch`] if somebody else began another one meanwhile,
    /// [`VolumeError::Contended`], or what the store fails with.
    pub async fn retire_epochs(&mut self, epoch: Epoch) -> Result<(), VolumeError> {
        self.change(|header, root, keyring| {
            if keyring.data().current().epoch != epoch {
                return Err(VolumeError::OtherEpoch);
            }
            edit_epochs(header, root, keyring, EpochEdit::KeepCurrent)
        })
        .await
    }

    /// What gives new data keys to whoever has this volume's, when others rekey it.
    pub fn key_loader(&self) -> KeyLoader {
        KeyLoader {
            object: self.object.clone(),
            root: self.root.clone(),
            volume: self.id(),
            keys: self.keyring.data().clone(),
            floor: self.floor.clone(),
        }
    }

    /// Reads the header again. A writer does so once it holds the lease: whoever held it before may have
    /// begun a new epoch, and destroys the old key as long as nobody else took the lease.
    ///
    /// # Errors
    /// [`VolumeError::KeyChanged`], or what the store fails with.
    pub async fn refresh(&mut self) -> Result<(), VolumeError> {
        let found = self.object.read().await?.ok_or(VolumeError::NoVolume)?;
        self.adopt(&found)
    }

    pub(super) fn header(&self) -> &Header {
        self.signed.header()
    }

    /// Applies `edit` to the newest header, again and again until nobody else came in between.
    pub(super) async fn change(
        &mut self,
        mut edit: impl FnMut(&mut Header, &RootKeys, &Keyring) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let found = self.object.read().await?.ok_or(VolumeError::NoVolume)?;
            self.adopt(&found)?;
            let mut header = self.header().clone();
            edit(&mut header, &self.root, &self.keyring)?;
            header.set_slot_features();
            header.version = header.version.checked_add(1).ok_or(VolumeError::Contended)?;
            let next = Signed::new(header, |signed| self.root.header_mac(signed))?;
            let file = Bytes::from(next.to_file());
            if let Written::Done(_) = self.object.replace(Some(&found), file).await? {
                return self.take(next);
            }
        }
        Err(VolumeError::Contended)
    }

    /// Takes over a header that was read again: of the same volume and key, and no older.
    pub(super) fn adopt(&mut self, found: &Found) -> Result<(), VolumeError> {
        let signed = Signed::parse(&found.bytes)?;
        if !self.root.header_verifies(signed.signed(), signed.mac()) {
            return Err(VolumeError::KeyChanged);
        }
        if signed.header().volume_id != self.id() {
            return Err(VolumeError::HeaderReplaced);
        }
        self.take(signed)
    }

    /// Has this header and its keys from now on, if it is no older than what was seen.
    pub(super) fn take(&mut self, signed: Signed) -> Result<(), VolumeError> {
        let (version, keyring) =
            (signed.header().version, open_keyring(&self.root, signed.header())?);
        let Self { keyring: held, floor, .. } = self;
        if !floor.pass(version, || held.adopt(keyring)) {
            return Err(VolumeError::HeaderReplaced);
        }
        self.signed = signed;
        Ok(())
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("id", &self.id())
            .field("fingerprint", &self.fingerprint())
            .field("header_version", &self.header_version())
            .finish_non_exhaustive()
    }
}

/// What a probe of the store left behind when it was cut short belongs to nobody and does not count.
async fn expect_empty(store: &dyn ObjectStore) -> Result<(), VolumeError> {
    let probes = Path::from(PROBE_DIR);
    let mut listed = store.list(None);
    while let Some(found) = listed.next().await {
        let found = found
            .map_err(|source| ObjectError::Store {
                object: "the volume's prefix",
                action: "listed",
                source,
            })?
            .location;
        if !found.prefix_matches(&probes) {
            let found = found.as_ref().escape_debug().to_string();
            return Err(VolumeError::PrefixNotEmpty { found });
        }
    }
    Ok(())
}

/// The volume key, by the first slot that the secret opens.
async fn unlock(header: &Header, secret: &Secret) -> Result<(SlotId, SecretKey), VolumeError> {
    let kind = secret.kind();
    let of_kind = || header.slots.iter().filter(|slot| SlotKind::from(&slot.unlock) == kind);
    let mut refused = None;
    for slot in of_kind() {
        match keys::unwrap(header.volume_id, slot, secret).await {
            Ok(Some(key)) => return Ok((slot.id, key)),
            Ok(None) => {}
            // Nobody answers: the next slot would wait as long.
            Err(error) if error.kind() == ErrorKind::Retry => return Err(error.into()),
            // Another slot may do; if none does, this is the better answer.
            Err(error) => refused = Some(error),
        }
    }
    if let Some(error) = refused {
        return Err(error.into());
    }
    let slots = of_kind().count();
    if let Secret::Kms(pinned) = secret {
        let pinned = pinned.name().to_owned();
        let found: Vec<_> = of_kind().filter_map(|slot| SlotInfo::from(slot).kms_key).collect();
        if !found.is_empty() && !found.contains(&pinned) {
            return Err(VolumeError::OtherKmsKey { pinned, found });
        }
    }
    Err(VolumeError::WrongKey { kind, slots })
}

pub(super) fn open_keyring(root: &RootKeys, header: &Header) -> Result<Keyring, VolumeError> {
    Ok(Keyring::open(header.volume_id, root.keyring_key(), &header.keyring.0)?)
}

fn edit_epochs(
    header: &mut Header,
    root: &RootKeys,
    keyring: &Keyring,
    edit: EpochEdit,
) -> Result<(), VolumeError> {
    let sealed = keyring.edited(header.volume_id, root.keyring_key(), edit)?;
    header.keyring = Base64(sealed);
    Ok(())
}

#[cfg(test)]
mod tests;
