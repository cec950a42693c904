//! The keyring: the keys that outlive any volume key.
//!
//! ```text
//! offset  length  field
//!      0       1  version: 1
//!      1      32  names key
//!     33       4  number of epochs n, u32: 1 to 1024
//!     37    36*n  epoch u32 (from 1, each larger than the one before), data key 32
//! ```
//!
//! Integers are little-endian. The last epoch is the current one.

use crate::base::{Epoch, VolumeId};
use crate::crypto::{
    Binding, DataKey, DataKeys, ObjectKind, OpenError, SealError, SecretBytes, SecretKey,
};
use crate::keys::{open_whole, seal_whole};

const VERSION: u8 = 1;
/// Most data keys of a volume.
const EPOCHS_MAX: usize = 1024;
const AT_COUNT: usize = 1 + SecretKey::LEN;
const AT_ENTRIES: usize = AT_COUNT + 4;
const ENTRY_LEN: usize = 4 + SecretKey::LEN;
const EPOCH_FIRST: Epoch = Epoch(1);

/// What everything but header and slots is sealed and named with.
pub(super) struct Keyring {
    names: SecretKey,
    data: DataKeys,
}

/// Why a keyring gives no keys.
#[derive(Debug)]
pub(super) enum KeyringError {
    Open(OpenError),
    /// Authentic, but not of the form above.
    Malformed,
    /// No epoch can follow.
    Full,
    Seal(SealError),
}

/// How the epochs of a keyring change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EpochEdit {
    Add,
    KeepCurrent,
}

impl Keyring {
    /// The keyring of a new volume, sealed as it is stored.
    pub(super) fn create(volume: VolumeId, key: &DataKey) -> Result<(Self, Vec<u8>), SealError> {
        let names = SecretKey::generate();
        let first = DataKey { epoch: EPOCH_FIRST, key: SecretKey::generate() };
        let plain = encode(&names, std::slice::from_ref(&first));
        let sealed = seal_whole(key, &binding(volume), plain.expose())?;
        Ok((Self { names, data: DataKeys::new(first, Vec::new()) }, sealed))
    }

    pub(super) fn open(
        volume: VolumeId,
        key: &DataKey,
        sealed: &[u8],
    ) -> Result<Self, KeyringError> {
        let keys = DataKeys::new(key.clone(), Vec::new());
        let plain = open_whole(&keys, &binding(volume), sealed).map_err(KeyringError::Open)?;
        decode(plain.expose()).ok_or(KeyringError::Malformed)
    }

    /// As it is stored: with an epoch more, which is then the current one, or with the current one alone.
    pub(super) fn edited(
        &self,
        volume: VolumeId,
        key: &DataKey,
        edit: EpochEdit,
    ) -> Result<Vec<u8>, KeyringError> {
        let current = self.data.current();
        let epochs = match edit {
            EpochEdit::Add => {
                let next = current.epoch.0.checked_add(1).ok_or(KeyringError::Full)?;
                let mut epochs: Vec<_> =
                    self.data.epochs().iter().filter_map(|epoch| self.data.get(*epoch)).collect();
                epochs.push(DataKey { epoch: Epoch(next), key: SecretKey::generate() });
                epochs
            }
            EpochEdit::KeepCurrent => vec![current],
        };
        if epochs.len() > EPOCHS_MAX {
            return Err(KeyringError::Full);
        }
        let plain = encode(&self.names, &epochs);
        seal_whole(key, &binding(volume), plain.expose()).map_err(KeyringError::Seal)
    }

    /// Takes over what another one of the same volume says; those who have its keys have the new ones.
    pub(super) fn adopt(&mut self, other: Self) {
        self.data.replace(&other.data);
        self.names = other.names;
    }

    /// What pack names and the hashes of file names are made with.
    pub(super) fn names(&self) -> &SecretKey {
        &self.names
    }

    /// The data keys by epoch.
    pub(super) fn data(&self) -> &DataKeys {
        &self.data
    }
}

fn binding(volume: VolumeId) -> Binding<'static> {
    Binding { volume, kind: ObjectKind::Keyring, path: "keyring" }
}

fn encode(names: &SecretKey, epochs: &[DataKey]) -> SecretBytes {
    let mut plain = SecretBytes::zeroed(AT_ENTRIES + epochs.len() * ENTRY_LEN);
    let bytes = plain.expose_mut();
    bytes[0] = VERSION;
    bytes[1..AT_COUNT].copy_from_slice(names.expose());
    bytes[AT_COUNT..AT_ENTRIES].copy_from_slice(&(epochs.len() as u32).to_le_bytes());
    for (entry, data_key) in bytes[AT_ENTRIES..].chunks_exact_mut(ENTRY_LEN).zip(epochs) {
        let (epoch, key) = entry.split_at_mut(4);
        epoch.copy_from_slice(&data_key.epoch.0.to_le_bytes());
        key.copy_from_slice(data_key.key.expose());
    }
    plain
}

fn decode(bytes: &[u8]) -> Option<Keyring> {
    let (&[version], rest) = bytes.split_first_chunk()?;
    let (names, rest) = rest.split_first_chunk()?;
    let names = SecretKey::copy_of(names);
    let (&count, entries) = rest.split_first_chunk()?;
    let count = u32::from_le_bytes(count) as usize;
    if version != VERSION || count > EPOCHS_MAX || entries.len() != count * ENTRY_LEN {
        return None;
    }
    let mut epochs = entries
        .chunks_exact(ENTRY_LEN)
        .map(|entry| {
            let (&epoch, key) = entry.split_first_chunk()?;
            let key = SecretKey::copy_of(key.try_into().ok()?);
            Some(DataKey { epoch: Epoch(u32::from_le_bytes(epoch)), key })
        })
        .collect::<Option<Vec<_>>>()?;
    let ascending = epochs.windows(2).all(|pair| pair[0].epoch < pair[1].epoch);
    if !ascending || epochs.first()?.epoch < EPOCH_FIRST {
        return None;
    }
    let current = epochs.pop()?;
    Some(Keyring { names, data: DataKeys::new(current, epochs) })
}

/// Whether this is a keyring, before sealing.
#[cfg(any(test, fuzzing))]
pub(crate) fn accepts_keyring(bytes: &[u8]) -> bool {
    decode(bytes).is_some()
}

/// A keyring of two epochs, before sealing.
#[cfg(any(test, fuzzing))]
pub(crate) fn example_keyring() -> Vec<u8> {
    let key = |epoch| DataKey { epoch: Epoch(epoch), key: SecretKey::from_bytes([9; 32]) };
    encode(&SecretKey::from_bytes([8; 32]), &[key(1), key(2)]).expose().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_key(epoch: u32) -> DataKey {
        DataKey { epoch: Epoch(epoch), key: SecretKey::from_bytes([epoch as u8; 32]) }
    }

    #[test]
    fn the_last_epoch_is_current_and_older_ones_stay() {
        let plain = encode(&SecretKey::from_bytes([9; 32]), &[data_key(1), data_key(5)]);
        assert_eq!(plain.len(), 37 + 2 * 36);
        let keyring = decode(plain.expose()).unwrap();
        assert_eq!(keyring.names().expose(), &[9; 32]);
        assert_eq!(keyring.data().current().epoch, Epoch(5));
        assert_eq!(keyring.data().get(Epoch(1)).unwrap().key.expose(), &[1; 32]);
    }

    #[test]
    fn a_new_keyring_opens_with_its_key_in_its_volume_alone() {
        let (volume, other) = (VolumeId([1; 16]), VolumeId([2; 16]));
        let key = DataKey { epoch: Epoch(0), key: SecretKey::generate() };
        let (made, sealed) = Keyring::create(volume, &key).unwrap();
        let opened = Keyring::open(volume, &key, &sealed).unwrap();
        assert_eq!(opened.names().expose(), made.names().expose());
        assert_eq!(opened.data().current().epoch, Epoch(1));
        assert!(Keyring::open(other, &key, &sealed).is_err());
        let wrong = DataKey { epoch: Epoch(0), key: SecretKey::generate() };
        assert!(Keyring::open(volume, &wrong, &sealed).is_err());
    }

    #[test]
    fn an_epoch_is_added_and_the_old_ones_go_and_no_number_comes_again() {
        let volume = VolumeId([1; 16]);
        let key = DataKey { epoch: Epoch(0), key: SecretKey::generate() };
        let (mut keyring, _) = Keyring::create(volume, &key).unwrap();
        let held = keyring.data().clone();
        let names = keyring.names().expose().to_owned();
        let mut edit = |edit| {
            let sealed = keyring.edited(volume, &key, edit).unwrap();
            keyring.adopt(Keyring::open(volume, &key, &sealed).unwrap());
            held.epochs()
        };
        assert_eq!(edit(EpochEdit::Add), [Epoch(1), Epoch(2)]);
        assert_eq!(edit(EpochEdit::KeepCurrent), [Epoch(2)]);
        assert_eq!(edit(EpochEdit::Add), [Epoch(2), Epoch(3)]);
        assert_eq!(edit(EpochEdit::KeepCurrent), [Epoch(3)]);
        assert_eq!(keyring.names().expose(), &names);
    }

    #[test]
    fn what_is_not_of_the_form_is_refused() {
        let names = SecretKey::from_bytes([9; 32]);
        for epochs in
            [&[][..], &[data_key(0)], &[data_key(2), data_key(2)], &[data_key(2), data_key(1)]]
        {
            assert!(decode(encode(&names, epochs).expose()).is_none());
        }
        let good = encode(&names, &[data_key(1)]).expose().to_vec();
        for len in 0..good.len() {
            assert!(decode(&good[..len]).is_none());
        }
        assert!(decode(&[&good[..], &[0]].concat()).is_none());
        let mut later = good;
        later[0] = 2;
        assert!(decode(&later).is_none());
        let many: Vec<_> = (1..=EPOCHS_MAX as u32 + 1).map(data_key).collect();
        assert!(decode(encode(&names, &many).expose()).is_none());
    }
}
