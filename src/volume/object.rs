//! Small objects that several clients change: read whole, replaced only when unchanged.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::ErrorKind;
use crate::store::object_store::path::Path;
use crate::store::object_store::{
    Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};
use crate::store::{classify, explain};

/// An object as it was read or written.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) bytes: Bytes,
    version: UpdateVersion,
}

/// How a conditional write went.
#[derive(Debug)]
pub(super) enum Written {
    Done(Found),
    /// Somebody else was faster; what is there now.
    Lost(Option<Found>),
}

/// A small object could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The store failed.
    #[error("{object}: cannot be {action}: {}", explain(.source))]
    Store {
        /// The object's name below the volume's prefix.
        object: &'static str,
        /// What was to be done with it.
        action: &'static str,
        /// What the store said.
        source: Error,
    },
    /// Larger than it may be, and so not read.
    #[error(
        "{object}: {bytes} bytes are more than such an object can have; restore it from a copy"
    )]
    TooLarge {
        /// The object's name below the volume's prefix.
        object: &'static str,
        /// Its length.
        bytes: u64,
    },
}

impl ObjectError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store { source, .. } => classify(source).kind(),
            Self::TooLarge { .. } => ErrorKind::Corrupt,
        }
    }
}

/// One object by its name, with the most bytes it may have.
#[derive(Clone)]
pub(super) struct SmallObject {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) name: &'static str,
    pub(super) bytes_max: u64,
}

impl SmallObject {
    fn failed(&self, action: &'static str) -> impl Fn(Error) -> ObjectError {
        let object = self.name;
        move |source| ObjectError::Store { object, action, source }
    }

    /// The whole object; `None` when there is none.
    pub(super) async fn read(&self) -> Result<Option<Found>, ObjectError> {
        let result = match self.store.get(&Path::from(self.name)).await {
            Ok(result) => result,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed("read")(error)),
        };
        let (bytes, meta) = (result.meta.size, result.meta.clone());
        if bytes > self.bytes_max {
            return Err(ObjectError::TooLarge { object: self.name, bytes });
        }
        let bytes = result.bytes().await.map_err(self.failed("read"))?;
        let version = UpdateVersion { e_tag: meta.e_tag, version: meta.version };
        Ok(Some(Found { bytes, version }))
    }

    /// Writes the object if it still is what it was when `expected` was read (`None`: absent).
    ///
    /// An answer that got lost on its way counts: what is there then is what we wrote.
    pub(super) async fn replace(
        &self,
        expected: Option<&Found>,
        bytes: Bytes,
    ) -> Result<Written, ObjectError> {
        let mode = match expected {
            None => PutMode::Create,
            Some(found) if found.version.e_tag.is_some() => PutMode::Update(found.version.clone()),
            Some(_) => return self.replace_unconditionally(expected, bytes).await,
        };
        match self.put(mode, bytes.clone()).await {
            Ok(version) => Ok(Written::Done(Found { bytes, version })),
            Err(
                Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotFound { .. },
            ) => self.now_there(&bytes).await,
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                self.replace_unconditionally(expected, bytes).await
            }
            Err(error) => Err(self.failed("written")(error)),
        }
    }

    /// For stores without conditional writes: safe on one machine, a narrow race on several.
    async fn replace_unconditionally(
        &self,
        expected: Option<&Found>,
        bytes: Bytes,
    ) -> Result<Written, ObjectError> {
        match self.now_there(&bytes).await? {
            Written::Lost(there)
                if there.as_ref().map(|found| &found.bytes)
                    == expected.map(|found| &found.bytes) => {}
            done_or_lost => return Ok(done_or_lost),
        }
        self.put(PutMode::Overwrite, bytes.clone()).await.map_err(self.failed("written"))?;
        self.now_there(&bytes).await
    }

    /// Done when it is what we wrote, lost otherwise.
    async fn now_there(&self, ours: &Bytes) -> Result<Written, ObjectError> {
        let there = self.read().await?;
        Ok(match there {
            Some(found) if found.bytes == ours => Written::Done(found),
            other => Written::Lost(other),
        })
    }

    async fn put(&self, mode: PutMode, bytes: Bytes) -> Result<UpdateVersion, Error> {
        let options = PutOptions { mode, ..PutOptions::default() };
        let payload = PutPayload::from_bytes(bytes);
        let result = self.store.put_opts(&Path::from(self.name), payload, options).await?;
        Ok(UpdateVersion { e_tag: result.e_tag, version: result.version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::object_store::local::LocalFileSystem;
    use crate::store::object_store::memory::InMemory;
    use crate::store::{StoreError, StoreFault};

    #[test]
    fn a_fault_of_the_store_keeps_its_kind() {
        for (fault, kind) in [
            (StoreFault::NoBucket, ErrorKind::NotFound),
            (StoreFault::Untrusted, ErrorKind::Denied),
            (StoreFault::Full, ErrorKind::Full),
            (StoreFault::Unavailable, ErrorKind::Retry),
        ] {
            let source = StoreError::new(fault, "said").into_object_store("S3", "lease");
            let error = ObjectError::Store { object: "lease", action: "read", source };
            assert_eq!(error.kind(), kind, "{fault:?}");
        }
    }

    async fn only_the_unchanged_is_replaced(store: Arc<dyn ObjectStore>) {
        let object = SmallObject { store, name: "lease", bytes_max: 4 };
        let write = async |expected: Option<&Found>, bytes: &'static str| {
            object.replace(expected, Bytes::from_static(bytes.as_bytes())).await.unwrap()
        };
        assert!(object.read().await.unwrap().is_none());
        let Written::Done(first) = write(None, "one").await else { panic!("nobody was there") };
        let Written::Lost(Some(there)) = write(None, "two").await else { panic!("one is there") };
        assert_eq!(there.bytes, "one");
        let Written::Done(second) = write(Some(&there), "two").await else { panic!("unchanged") };
        let Written::Lost(Some(_)) = write(Some(&first), "new").await else {
            panic!("two is there")
        };
        // The answer to the write of `second` may have been lost: the same write again is done.
        assert!(matches!(write(Some(&first), "two").await, Written::Done(_)));
        assert!(matches!(write(None, "two").await, Written::Done(_)));
        object.store.delete(&Path::from("lease")).await.unwrap();
        assert!(matches!(write(Some(&second), "new").await, Written::Lost(None)));
        let Written::Done(_) = write(None, "long!").await else { panic!("absent") };
        assert!(matches!(object.read().await, Err(ObjectError::TooLarge { bytes: 5, .. })));
    }

    #[tokio::test]
    async fn with_conditional_writes_only_the_unchanged_is_replaced() {
        only_the_unchanged_is_replaced(Arc::new(InMemory::new())).await;
    }

    #[tokio::test]
    async fn without_conditional_writes_only_the_unchanged_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
        only_the_unchanged_is_replaced(Arc::new(store)).await;
    }
}
