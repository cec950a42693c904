//! From an address and a configuration to a store, rooted at the volume's own prefix.

use std::sync::Arc;

use crate::base::ErrorKind;
use crate::store::object_store::{ObjectStore, prefix::PrefixStore};
use crate::store::{LocalStore, S3Config, S3Store, StoreConfig, StoreError, StoreUrl};

/// Why a store could not be opened. Nothing has been sent when this is returned.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {source}")]
pub struct OpenError {
    /// The address that was asked for.
    pub url: StoreUrl,
    /// What is wrong.
    pub source: StoreError,
}

impl OpenError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        self.source.kind()
    }
}

/// Opens the store at `url`; its paths are relative to the volume's prefix.
///
/// For S3 this only reads local configuration; the first request is the first contact.
///
/// # Errors
/// An impossible configuration, plain http to another machine, an unreadable `ca_file`, or a
/// local directory that cannot be created or used.
pub async fn open(url: &StoreUrl, config: &StoreConfig) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let fail = |source| OpenError { url: url.clone(), source };
    match url {
        StoreUrl::File { dir } => Ok(Arc::new(LocalStore::open(dir).map_err(fail)?)),
        StoreUrl::S3 { bucket, prefix } => {
            let s3 = S3Store::connect(S3Config::new(bucket, config)).await.map_err(fail)?;
            Ok(if prefix.is_empty() {
                Arc::new(s3)
            } else {
                Arc::new(PrefixStore::new(s3, prefix.as_str()))
            })
        }
    }
}
