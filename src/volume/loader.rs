//! New data keys for whoever reads a volume while it is rekeyed elsewhere.

use async_trait::async_trait;

use super::VolumeError;
use super::floor::Floor;
use super::keyring::Keyring;
use super::object::SmallObject;
use super::root::RootKeys;
use crate::base::VolumeId;
use crate::crypto::DataKeys;
use crate::format::header::Signed;
use crate::store::LoadKeys;

/// Reads the header of an open volume again when an object is sealed with a key that it did not have.
pub struct KeyLoader {
    pub(super) object: SmallObject,
    pub(super) root: RootKeys,
    pub(super) volume: VolumeId,
    /// Those that everybody has who has the volume's.
    pub(super) keys: DataKeys,
    /// That of the volume.
    pub(super) floor: Floor,
}

impl KeyLoader {
    async fn load(&self) -> Result<(), VolumeError> {
        let found = self.object.read().await?.ok_or(VolumeError::NoVolume)?;
        let signed = Signed::parse(&found.bytes)?;
        if !self.root.header_verifies(signed.signed(), signed.mac()) {
            return Err(VolumeError::KeyChanged);
        }
        let header = signed.header();
        if header.volume_id != self.volume {
            return Err(VolumeError::HeaderReplaced);
        }
        let keyring = Keyring::open(self.volume, self.root.keyring_key(), &header.keyring.0)?;
        if self.floor.pass(header.version, || self.keys.replace(keyring.data())) {
            Ok(())
        } else {
            Err(VolumeError::HeaderReplaced)
        }
    }
}

#[async_trait]
impl LoadKeys for KeyLoader {
    async fn load_keys(&self) {
        match self.load().await {
            Ok(()) => tracing::info!(keys = ?self.keys, "the volume's keys were read again"),
            Err(error) => tracing::warn!(%error, "the volume's keys could not be read again"),
        }
    }
}

impl std::fmt::Debug for KeyLoader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyLoader").field("keys", &self.keys).finish_non_exhaustive()
    }
}
