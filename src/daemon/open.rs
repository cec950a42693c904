//! From a configuration to an open volume, as `mount`, `init` and `key` need it.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::customer_key::customer_keys;
use super::{DaemonError, disable_core_dumps};
use crate::base::{Clock, CommitNumber, SystemClock};
use crate::config::{Config, effective_gid, effective_uid};
use crate::crypto::ObjectKind;
use crate::fs;
use crate::keys::{NewSlot, Secret};
use crate::meta::{MetaError, MetaStore, SlateMeta, SlateOptions};
use crate::store::measured::StoreMeter;
use crate::store::object_store::ObjectStore;
use crate::store::{
    self, EncryptionMode, MeasuredStore, OpenError, OpenStore, ProbeReport, SealedStore, StoreUrl,
    Transport, Trouble,
};
use crate::volume::{FreshnessPins, Pin, PinError, Volume, VolumeError};

/// A volume's place: its store, counted, and what this machine remembers of it.
pub struct Storage {
    /// Rooted at the volume's prefix.
    pub store: Arc<dyn ObjectStore>,
    /// Counts what passes through `store`.
    pub meter: Arc<StoreMeter>,
    /// What `store` refuses or does not answer just now.
    pub trouble: Arc<Trouble>,
    /// How requests travel to `store`.
    pub transport: Transport,
    /// The volume's address.
    pub url: StoreUrl,
    /// What this machine remembers of volumes.
    pub pins: FreshnessPins,
    /// The name of this place among the pins.
    pub location: String,
    single_machine: bool,
    encryption: EncryptionMode,
}

/// Opens the store that the configuration names, with the keys of its own encryption; asks it
/// nothing yet.
///
/// # Errors
/// [`DaemonError::Config`], [`DaemonError::Open`].
pub async fn open_storage(config: &Config) -> Result<Storage, DaemonError> {
    let url = config.url()?.clone();
    let keys = customer_keys(&config.store.server_side_encryption)
        .map_err(|source| OpenError { url: url.clone(), source })?;
    let OpenStore { store, trouble, transport } =
        Box::pin(store::open(&url, &config.store, keys)).await?;
    let store = MeasuredStore::new(store);
    let meter = store.meter();
    // The same bucket name at another server is another place.
    let location = match (&url, &config.store.endpoint) {
        (StoreUrl::S3 { .. }, Some(endpoint)) => {
            format!("{url} at {}", endpoint.trim_end_matches('/'))
        }
        _ => url.to_string(),
    };
    let pins = FreshnessPins::new(config.state.directory()?.join("pins"));
    let single_machine = config.store.single_machine;
    let encryption = config.store.server_side_encryption.mode;
    let store = Arc::new(store);
    Ok(Storage {
        store,
        meter,
        trouble,
        transport,
        url,
        pins,
        location,
        single_machine,
        encryption,
    })
}

impl Storage {
    /// Tries out whether the store does what a writer needs.
    ///
    /// # Errors
    /// [`DaemonError::Probe`], saying what to do.
    pub async fn probe(&self) -> Result<ProbeReport, DaemonError> {
        let report = store::probe(&*self.store, self.single_machine).await?;
        if self.encryption != EncryptionMode::None {
            store::probe_parts(&*self.store).await?;
        }
        Ok(report)
    }

    /// Opens the volume, and checks it against `pin`.
    ///
    /// # Errors
    /// [`DaemonError::Volume`].
    pub async fn open(&self, secret: &Secret, pin: Option<&Pin>) -> Result<Volume, DaemonError> {
        let opened = Volume::open(Arc::clone(&self.store), secret, pin).await;
        let volume = opened.map_err(|source| self.volume_error(source))?;
        let slots: Vec<_> = volume.slots().iter().map(|slot| slot.id).collect();
        let used = (volume.opened_by(), SystemClock.now().seconds);
        if let Err(error) = self.pins.record_use(&self.location, used, &slots) {
            tracing::debug!(%error, "the use of a key slot was not noted");
        }
        Ok(volume)
    }

    /// What this machine remembers of the volume.
    ///
    /// # Errors
    /// [`DaemonError::Pin`].
    pub fn pin(&self) -> Result<Option<Pin>, DaemonError> {
        self.pins.load(&self.location).map_err(|source| self.pin_error(source))
    }

    /// Remembers the header that `volume` has now, so that this machine notices if it goes back.
    ///
    /// # Errors
    /// [`DaemonError::Pin`].
    pub fn remember(&self, volume: &Volume) -> Result<(), DaemonError> {
        // Commits are for a mount to see: what is known of them stays.
        let pin = volume.pin(CommitNumber(0));
        self.pins.record(&self.location, &pin).map_err(|source| self.pin_error(source))
    }

    pub(super) fn volume_error(&self, source: VolumeError) -> DaemonError {
        DaemonError::Volume { url: self.url.clone(), source: Box::new(source) }
    }

    /// The store for metadata: above it plaintext, below it ciphertext.
    pub(super) fn sealed(&self, volume: &Volume) -> Arc<SealedStore> {
        let (store, keys) = (Arc::clone(&self.store), volume.data_keys());
        let sealed = SealedStore::new(store, keys, volume.id(), ObjectKind::Metadata);
        Arc::new(sealed.with_loader(Arc::new(volume.key_loader())))
    }

    pub(super) fn meta_error(&self, source: MetaError) -> DaemonError {
        DaemonError::Meta { url: self.url.clone(), source }
    }

    pub(super) fn pin_error(&self, source: PinError) -> DaemonError {
        DaemonError::Pin { url: self.url.clone(), source }
    }
}

/// Makes a volume where the configuration says, which must be empty, and pins it.
///
/// # Errors
/// The store does not suffice, is not empty, or fails.
pub async fn create(config: &Config, slot: NewSlot) -> Result<Volume, DaemonError> {
    harden()?;
    let storage = open_storage(config).await?;
    // Before anything is made: what it writes it removes again.
    let report = storage.probe().await?;
    let params = config.write.volume_params();
    let made = Volume::create(Arc::clone(&storage.store), params, &[slot], &SystemClock).await;
    let volume = made.map_err(|source| storage.volume_error(source))?;
    let mut options = SlateOptions::new(Handle::current());
    options.conditional_overwrites = report.conditional_update;
    let failed = |source| storage.meta_error(source);
    let meta = SlateMeta::open(storage.sealed(&volume), options).await.map_err(failed)?;
    fs::format_volume(&meta, &SystemClock, effective_uid(), effective_gid()).await?;
    meta.close().await.map_err(failed)?;
    let pin = volume.pin(CommitNumber(0));
    storage.pins.reset(&storage.location, &pin).map_err(|source| storage.pin_error(source))?;
    Ok(volume)
}

/// Opens the volume that the configuration names, to look at it or change its key slots. Who
/// changes it has [`Storage::remember`] to call.
///
/// # Errors
/// There is none, the key is wrong, it was rolled back, or the store fails.
pub async fn open_volume(
    config: &Config,
    secret: &Secret,
) -> Result<(Storage, Volume), DaemonError> {
    harden()?;
    let storage = open_storage(config).await?;
    let volume = storage.open(secret, storage.pin()?.as_ref()).await?;
    Ok((storage, volume))
}

/// Keys are about to be in memory.
///
/// # Errors
/// [`DaemonError::System`].
pub fn harden() -> Result<(), DaemonError> {
    disable_core_dumps().map_err(|source| DaemonError::System {
        what: "core dumps cannot be switched off, and would hold keys".to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SecretKey;
    use crate::store::object_store::ObjectStoreExt;
    use crate::store::object_store::path::Path;
    use crate::volume::HEADER_NAME;

    fn new_slot(byte: u8) -> NewSlot {
        let secret = Secret::Keyfile(SecretKey::from_bytes([byte; 32]));
        NewSlot { secret, label: String::new() }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_removed_key_put_back_is_noticed_by_the_machine_that_removed_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        let url = format!("file://{}", dir.path().join("volume").display());
        config.volume.url = Some(url.parse().unwrap());
        config.state.dir = Some(dir.path().join("state"));
        let (kept, leaked) = (new_slot(1), new_slot(2));
        create(&config, kept.clone()).await.unwrap();
        let open = async || open_volume(&config, &kept.secret).await;

        let (storage, mut volume) = open().await.unwrap();
        let id = volume.add_slot(&leaked, &SystemClock).await.unwrap();
        storage.remember(&volume).unwrap();
        let header = Path::from(HEADER_NAME);
        let old = storage.store.get(&header).await.unwrap().bytes().await.unwrap();
        let (storage, mut volume) = open().await.unwrap();
        volume.remove_slot(id).await.unwrap();
        storage.remember(&volume).unwrap();
        open().await.unwrap();

        storage.store.put(&header, old.into()).await.unwrap();
        let error = open().await.err().expect("the old header was accepted");
        let DaemonError::Volume { source, .. } = &error else { panic!("{error}") };
        let rolled_back =
            VolumeError::Pin(PinError::RolledBack { what: "header version", seen: 2, known: 3 });
        assert_eq!(source.to_string(), rolled_back.to_string());
    }
}
