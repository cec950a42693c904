//! From an address and a configuration to a store, rooted at the volume's own prefix.

use std::sync::Arc;

use crate::base::ErrorKind;
use crate::store::object_store::{ObjectStore, prefix::PrefixStore};
use crate::store::{
    CustomerKeys, EncryptionMode, LocalStore, S3Config, S3Store, StoreConfig, StoreError,
    StoreFault, StoreUrl, Trouble,
};

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

/// A store, rooted at a volume's own prefix.
#[derive(Debug)]
pub struct OpenStore {
    /// Paths are relative to the prefix.
    pub store: Arc<dyn ObjectStore>,
    /// What it refuses or does not answer just now. A local directory answers at once.
    pub trouble: Arc<Trouble>,
    /// How requests travel to it.
    pub transport: Transport,
}

/// How requests travel to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// Not at all: a directory of this machine.
    Local,
    /// In plain http, to this endpoint.
    Plain(String),
    /// In TLS with the certificate checked, to this endpoint or region of AWS.
    Tls(String),
}

/// Opens the store at `url`.
///
/// For S3 this only reads local configuration; the first request is the first contact. `keys` are
/// those of `[store.server_side_encryption]`.
///
/// # Errors
/// A contradictory configuration, plain http to another machine, an unreadable `ca_file`, or a
/// local directory that cannot be created or used.
pub async fn open(
    url: &StoreUrl,
    config: &StoreConfig,
    keys: CustomerKeys,
) -> Result<OpenStore, OpenError> {
    let fail = |source| OpenError { url: url.clone(), source };
    match url {
        StoreUrl::File { .. } if config.server_side_encryption.mode != EncryptionMode::None => {
            let text = "a directory has no server-side encryption; set mode = \"none\" in \
                        [store.server_side_encryption]";
            Err(fail(StoreError::new(StoreFault::Settings, text)))
        }
        StoreUrl::File { dir } => {
            let store = Arc::new(LocalStore::open(dir).map_err(fail)?);
            Ok(OpenStore { store, trouble: Arc::default(), transport: Transport::Local })
        }
        StoreUrl::S3 { bucket, prefix } => {
            let s3 = S3Store::connect(S3Config { keys, ..S3Config::new(bucket, config) })
                .await
                .map_err(fail)?;
            let (trouble, transport) = (s3.trouble(), s3.transport());
            let store: Arc<dyn ObjectStore> = if prefix.is_empty() {
                Arc::new(s3)
            } else {
                Arc::new(PrefixStore::new(s3, prefix.as_str()))
            };
            Ok(OpenStore { store, trouble, transport })
        }
    }
}
