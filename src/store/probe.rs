//! Is this store fit to hold a volume? Asked at every read-write mount, in few requests.
//!
//! ```text
//!   PUT if absent (random bytes, metadata)  must succeed
//!   PUT if absent again                     must be refused: else two writers would both commit
//!   PUT if match                            reported; without it only garbage collection is slower
//!   GET last bytes                          the answer must be what was written, with its metadata
//!   GET a range                             likewise
//!   LIST                                    must show it
//!   DELETE
//!   PUT in parts                            where the store is to encrypt: that may be refused or ignored alone
//! ```
//!
//! Garage 2.5 and `rclone serve s3` take a conditional put and ignore its condition: on such a
//! store the loss shows only when two machines write, which is too late.

use crate::base::ErrorKind;
use crate::store::object_store::path::Path;
use crate::store::object_store::{
    self, Attribute, Attributes, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutResult, UpdateVersion,
};
use crate::store::{StoreFault, classify, explain};
use bytes::Bytes;
use futures::TryStreamExt;

/// Where probes are written, below the volume's prefix.
pub const PROBE_DIR: &str = "probe";
/// Bytes in a probe: more than one range, less than one packet.
const PROBE_LEN: usize = 256;
/// What is written in parts: one of them.
const PROBE_PART: &[u8] = b"lidfs probe";
/// A name of metadata as the metadata engine uses it: lower case, no separators.
const METADATA_NAME: &str = "lidfsprobe";

/// What a store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct ProbeReport {
    /// A create is refused when the object exists. Required, unless one machine is alone.
    pub conditional_create: bool,
    /// An update against a version that is not the present one is refused.
    pub conditional_update: bool,
    /// Metadata comes back as it was written. Required, unless one machine is alone.
    pub metadata: bool,
}

/// Why a store cannot hold a volume.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// It does not do what it is asked to at all: no access, no bucket, no network.
    #[error("the store failed the test at {step}: {}", explain(.source))]
    Store {
        /// What was being tried.
        step: &'static str,
        /// What the store said.
        source: object_store::Error,
    },
    /// Two writers could both believe to have won.
    #[error(
        "the store ignores or lacks conditional writes (If-None-Match), which keep two machines \
         from writing at once; use another store, or, if only one machine will ever mount this \
         volume, set single_machine = true in [store]"
    )]
    NoConditionalCreate,
    /// A lost answer to a write could not be cleared up.
    #[error(
        "the store does not return an object's metadata as written, which is needed to tell \
         whether a write whose answer was lost has landed; use another store, or, if only one \
         machine will ever mount this volume, set single_machine = true in [store]"
    )]
    NoMetadata,
    /// It takes writes without the encryption of its own that was asked for.
    #[error("the store does not encrypt as the configuration asks: {}", explain(.source))]
    NotEncrypted {
        /// What was asked, and what it answers.
        source: object_store::Error,
    },
    /// What was written does not come back, or does not appear in a listing.
    #[error("the store does not show at once what was written ({what}); use another store")]
    NotConsistent {
        /// What was missing or wrong.
        what: &'static str,
    },
}

impl ProbeError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store { source, .. } | Self::NotEncrypted { source } => classify(source).kind(),
            Self::NoConditionalCreate | Self::NoMetadata | Self::NotConsistent { .. } => {
                ErrorKind::Invalid
            }
        }
    }

    /// What the store's own error was, if it was one.
    pub fn fault(&self) -> Option<StoreFault> {
        match self {
            Self::Store { source, .. } | Self::NotEncrypted { source } => Some(classify(source)),
            _ => None,
        }
    }
}

/// Tries out `store` under a fresh name below [`PROBE_DIR`], which is removed again. At most
/// eight requests. With `single_machine` a store without conditions is reported, not refused.
///
/// # Errors
/// The store cannot be used, or lacks what a volume needs.
pub async fn probe(
    store: &dyn ObjectStore,
    single_machine: bool,
) -> Result<ProbeReport, ProbeError> {
    let path = Path::from(format!("{PROBE_DIR}/{:032x}", u128::from_le_bytes(random()?)));
    let trial = Trial { store, path, first: random::<PROBE_LEN>()?, second: random()? };
    let found = trial.run().await;
    // Whatever was found comes first; a probe left behind is small and harmless.
    let removed = store.delete(&trial.path).await;
    let report = found?;
    removed.map_err(|source| ProbeError::Store { step: "delete", source })?;
    if !single_machine && !report.conditional_create {
        return Err(ProbeError::NoConditionalCreate);
    }
    if !single_machine && !report.metadata {
        return Err(ProbeError::NoMetadata);
    }
    Ok(report)
}

/// Writes an object in parts, and removes it again: whether the store encrypts those as asked.
///
/// # Errors
/// [`ProbeError::NotEncrypted`]; [`ProbeError::Store`] if it does not work at all.
pub async fn probe_parts(store: &dyn ObjectStore) -> Result<(), ProbeError> {
    let path = Path::from(format!("{PROBE_DIR}/{:032x}", u128::from_le_bytes(random()?)));
    let mut upload = store.put_multipart(&path).await.map_err(at("write in parts"))?;
    let written = match upload.put_part(PROBE_PART.into()).await {
        Ok(()) => upload.complete().await,
        Err(error) => Err(error),
    };
    if written.is_err() {
        // What was found comes first, but parts that nobody sees are paid for.
        let _ = upload.abort().await;
    }
    let written = written.map_err(at("write in parts"));
    let removed = store.delete(&path).await;
    written?;
    match removed {
        Err(error) if classify(&error) != StoreFault::NotFound => Err(at("delete")(error)),
        _ => Ok(()),
    }
}

fn random<const N: usize>() -> Result<[u8; N], ProbeError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| ProbeError::Store {
        step: "randomness",
        source: object_store::Error::Generic { store: "probe", source: error.into() },
    })?;
    Ok(bytes)
}

struct Trial<'a> {
    store: &'a dyn ObjectStore,
    path: Path,
    first: [u8; PROBE_LEN],
    second: [u8; PROBE_LEN],
}

impl Trial<'_> {
    async fn run(&self) -> Result<ProbeReport, ProbeError> {
        let created = self.create(&self.first).await;
        let (created, knows_create) = match created {
            Ok(created) => (created, true),
            // Conditions unknown, and said so.
            Err(error) if classify(&error) == StoreFault::Unsupported => {
                (self.put(PutMode::Overwrite, &self.first).await.map_err(at("write"))?, false)
            }
            Err(error) => return Err(at("write")(error)),
        };
        let mut stands = self.first;
        let mut current = created;
        let conditional_create = match self.create(&self.second).await {
            Err(error) if is_refusal(&error) => knows_create,
            Ok(replaced) => {
                (stands, current) = (self.second, replaced);
                false
            }
            Err(error) if !knows_create && classify(&error) == StoreFault::Unsupported => false,
            Err(error) => return Err(at("conditional write")(error)),
        };
        let conditional_update = self.update(&current, &mut stands).await?;
        let metadata = self.read(&stands).await?;
        self.list().await?;
        Ok(ProbeReport { conditional_create, conditional_update, metadata })
    }

    async fn put(&self, mode: PutMode, body: &[u8]) -> object_store::Result<PutResult> {
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::Metadata(METADATA_NAME.into()), tag(body).into());
        let opts = PutOptions { mode, attributes, ..PutOptions::default() };
        self.store.put_opts(&self.path, Bytes::copy_from_slice(body).into(), opts).await
    }

    async fn create(&self, body: &[u8]) -> object_store::Result<PutResult> {
        self.put(PutMode::Create, body).await
    }

    /// An update against another version: the store must refuse it.
    async fn update(
        &self,
        current: &PutResult,
        stands: &mut [u8; PROBE_LEN],
    ) -> Result<bool, ProbeError> {
        if current.e_tag.is_none() {
            return Ok(false);
        }
        let mut other = [0; PROBE_LEN];
        for (byte, (a, b)) in other.iter_mut().zip(self.first.iter().zip(&self.second)) {
            *byte = a ^ b;
        }
        let stale = UpdateVersion { e_tag: Some(format!("\"{}\"", tag(&other))), version: None };
        match self.put(PutMode::Update(stale), &other).await {
            Err(error) if is_refusal(&error) => Ok(true),
            Err(error) if classify(&error) == StoreFault::Unsupported => Ok(false),
            Err(error) => Err(at("conditional update")(error)),
            Ok(_) => {
                *stands = other;
                Ok(false)
            }
        }
    }

    /// Reads by suffix and by range; returns whether the metadata is right.
    async fn read(&self, stands: &[u8; PROBE_LEN]) -> Result<bool, ProbeError> {
        let suffix = self.get(GetRange::Suffix(16)).await?;
        let metadata = suffix.attributes.get(&Attribute::Metadata(METADATA_NAME.into())).cloned();
        let size = suffix.meta.size;
        let tail = suffix.bytes().await.map_err(at("read"))?;
        if size != PROBE_LEN as u64 || tail[..] != stands[PROBE_LEN - 16..] {
            return Err(ProbeError::NotConsistent { what: "the end of an object" });
        }
        let middle =
            self.get(GetRange::Bounded(16..48)).await?.bytes().await.map_err(at("read"))?;
        if middle[..] != stands[16..48] {
            return Err(ProbeError::NotConsistent { what: "a range of an object" });
        }
        Ok(metadata.is_some_and(|found| *found == *tag(stands)))
    }

    async fn get(&self, range: GetRange) -> Result<object_store::GetResult, ProbeError> {
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        match self.store.get_opts(&self.path, options).await {
            Err(object_store::Error::NotFound { .. }) => {
                Err(ProbeError::NotConsistent { what: "an object" })
            }
            other => other.map_err(at("read")),
        }
    }

    async fn list(&self) -> Result<(), ProbeError> {
        let dir = Path::from(PROBE_DIR);
        let listed: Vec<_> = self.store.list(Some(&dir)).try_collect().await.map_err(at("list"))?;
        if listed.iter().any(|meta| meta.location == self.path) {
            return Ok(());
        }
        Err(ProbeError::NotConsistent { what: "an object in a listing" })
    }
}

fn is_refusal(error: &object_store::Error) -> bool {
    matches!(classify(error), StoreFault::AlreadyExists | StoreFault::Precondition)
}

fn at(step: &'static str) -> impl Fn(object_store::Error) -> ProbeError {
    move |source| match classify(&source) {
        StoreFault::NotEncrypted => ProbeError::NotEncrypted { source },
        _ => ProbeError::Store { step, source },
    }
}

/// 32 hexadecimal digits taken from random bytes: as opaque as they are.
fn tag(body: &[u8]) -> String {
    use std::fmt::Write as _;
    body.iter().take(16).fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faulty::{Fault, FaultyStore, Op, Rule};
    use crate::store::measured::MeasuredStore;
    use crate::store::object_store::memory::InMemory;

    #[tokio::test]
    async fn a_good_store_passes_in_few_requests_and_is_left_clean() {
        let store = MeasuredStore::new(InMemory::new());
        let report = probe(&store, false).await.unwrap();
        let all =
            ProbeReport { conditional_create: true, conditional_update: true, metadata: true };
        assert_eq!(report, all);
        let made = store.snapshot().requests;
        assert!(made.get + made.put + made.head + made.list + made.delete <= 8, "{made:?}");
        assert!(store.list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_store_that_ignores_conditions_is_refused_and_told_what_to_do() {
        let store = FaultyStore::new(InMemory::new());
        store.faults().ignore_conditions(true);
        let error = probe(&store, false).await.unwrap_err();
        assert!(matches!(error, ProbeError::NoConditionalCreate));
        assert!(error.to_string().contains("single_machine = true"), "{error}");
        assert!(!error.to_string().contains('\n'));
        let report = probe(&store, true).await.unwrap();
        assert!(!report.conditional_create && !report.conditional_update && report.metadata);
        assert!(store.list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_store_that_knows_no_conditions_is_refused_in_the_same_way() {
        let store = FaultyStore::new(InMemory::new());
        let refuse = || Rule::always(Fault::Fail(StoreFault::Unsupported)).on(Op::Put).times(1);
        store.faults().add(refuse());
        store.faults().ignore_conditions(true);
        assert!(matches!(probe(&store, false).await.unwrap_err(), ProbeError::NoConditionalCreate));
    }

    #[tokio::test]
    async fn a_store_that_does_not_encrypt_as_asked_is_refused_and_left_clean() {
        let store = FaultyStore::new(InMemory::new());
        store.faults().add(Rule::always(Fault::Fail(StoreFault::NotEncrypted)).on(Op::Put));
        let error = probe(&store, true).await.unwrap_err();
        assert!(matches!(error, ProbeError::NotEncrypted { .. }), "{error}");
        assert!(error.to_string().starts_with("the store does not encrypt as the configuration"));
        assert!(store.list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_store_out_of_reach_is_named_as_such() {
        let store = FaultyStore::new(InMemory::new());
        store.faults().outage(true);
        let error = probe(&store, true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retry);
        assert_eq!(error.fault(), Some(StoreFault::Unavailable));
    }

    #[tokio::test]
    async fn a_store_with_old_content_in_its_answers_is_refused() {
        let store = FaultyStore::new(InMemory::new());
        store.faults().add(Rule::always(Fault::Fail(StoreFault::NotFound)).on(Op::Get));
        let error = probe(&store, false).await.unwrap_err();
        assert!(matches!(error, ProbeError::NotConsistent { .. }), "{error}");
    }
}
