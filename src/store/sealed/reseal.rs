//! Sealing anew: the same plaintext at the same place, under the current key.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{SealedStore, passing};
use crate::base::Epoch;
use crate::store::object_store::path::Path;
use crate::store::object_store::{
    Error, GetOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, Result, UpdateVersion,
};

/// How often an object is tried that others change meanwhile.
const ATTEMPTS: usize = 8;
/// How often it is looked whether a write has ended.
const POLL: Duration = Duration::from_millis(20);

/// Which writes are under way: each holds the token of the time when it began.
#[derive(Debug, Clone, Default)]
pub(super) struct Writes(Arc<Mutex<Token>>);

/// Held as long as a write lasts.
pub(super) type Token = Arc<()>;

impl Writes {
    /// A write begins. To be called before it takes its key.
    pub(super) fn begin(&self) -> Token {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for those that have begun.
    async fn settle(&self) {
        let before = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        while Arc::strong_count(&before) > 1 {
            tokio::time::sleep(POLL).await;
        }
    }
}

impl SealedStore {
    /// Returns when no write is under way any more that may have taken an earlier key than the current
    /// one of now.
    pub async fn settle(&self) {
        self.writes.settle().await;
    }

    /// Seals an object anew unless the current key sealed it. Readers see it before or after, and the same
    /// plaintext both times. Returns the bytes of plaintext; `None` if there was nothing to do, or no
    /// such object any more.
    ///
    /// # Errors
    /// The object does not authenticate, others change it again and again, or the store fails.
    pub async fn reseal(&self, location: &Path) -> Result<Option<u64>> {
        for _ in 0..ATTEMPTS {
            match self.try_reseal(location).await {
                Err(Error::NotFound { .. }) => return Ok(None),
                // Changed meanwhile: perhaps there is nothing to do any more.
                Err(Error::Precondition { .. }) => {}
                other => return other,
            }
        }
        Err(passing(format!(
            "object {location}: changed {ATTEMPTS} times while it was sealed anew; try again"
        )))
    }

    async fn epoch_of(&self, location: &Path) -> Result<Epoch> {
        let (_, opener) = self.fetch_header(location, &GetOptions::default()).await?;
        Ok(opener.seal().0)
    }

    async fn try_reseal(&self, location: &Path) -> Result<Option<u64>> {
        if self.epoch_of(location).await? == self.keys.current().epoch {
            return Ok(None);
        }
        let found = self.read(location, GetOptions::default()).await?;
        let (meta, attributes) = (found.meta.clone(), found.attributes.clone());
        let plain = found.bytes().await?;
        let len = plain.len() as u64;
        let version = UpdateVersion { e_tag: meta.e_tag, version: meta.version };
        let put = |mode| {
            let options =
                PutOptions { mode, attributes: attributes.clone(), ..PutOptions::default() };
            self.put_opts(location, plain.clone().into(), options)
        };
        match put(PutMode::Update(version)).await {
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                // Such a store belongs to this machine alone: whoever writes or deletes is this process.
                self.inner.head(location).await?;
                put(PutMode::Overwrite).await?;
            }
            other => drop(other?),
        }
        Ok(Some(len))
    }
}
