//! One object that the store does not give, told apart from a store that gives none.

use super::CheckError;
use crate::data::DataError;
use crate::store::explain;
use crate::store::object_store::path::Path;
use crate::store::object_store::{Error, ObjectStore, ObjectStoreExt as _};
use crate::volume::HEADER_NAME;

/// Why one pack cannot be read, if that is all that the store refuses; otherwise the error is
/// given back.
pub(super) async fn refused_pack(
    store: &dyn ObjectStore,
    error: DataError,
) -> Result<String, CheckError> {
    match &error {
        DataError::Read { source, .. } if answers(store).await => Ok(explain(source)),
        _ => Err(error.into()),
    }
}

/// The same of an object of the metadata.
pub(super) async fn refused_object(
    store: &dyn ObjectStore,
    name: &str,
    source: Error,
) -> Result<String, CheckError> {
    if answers(store).await {
        Ok(explain(&source))
    } else {
        Err(CheckError::Store { name: name.to_owned(), source })
    }
}

/// Whether the store gives what every volume has, or at least knows whether it does.
async fn answers(store: &dyn ObjectStore) -> bool {
    let header = store.head(&Path::from(HEADER_NAME)).await;
    matches!(header, Ok(_) | Err(Error::NotFound { .. }))
}
