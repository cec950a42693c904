//! The objects of the metadata, each fetched whole: tables, logs and lists, whether or not the present
//! state needs them.

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{PARALLEL, Progress};
use crate::check::CheckError;
use crate::check::refusal::refused_object;
use crate::store::Rate;
use crate::store::object_store::path::Path;
use crate::store::object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt as _};
use crate::store::sealed;

/// What they are called by.
const PREFIX: &str = "meta";

/// An object of the metadata that does not authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedObject {
    /// Its name below the volume's prefix.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
}

/// The objects of the metadata, as far as they are tried.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Objects {
    /// How many there are.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that are damaged.
    pub damaged: Vec<DamagedObject>,
}

/// Fetches and authenticates all objects of the metadata that are in `store`; `sealed` opens them.
///
/// # Errors
/// [`CheckError::Store`]: the store fails.
pub async fn scrub_metadata(
    store: &dyn ObjectStore,
    sealed: &dyn ObjectStore,
    rate: Option<u64>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Objects, CheckError> {
    // Listed below the seal: one of an impossible length must not hide the others.
    let listed = store.list(Some(&Path::from(PREFIX))).try_collect::<Vec<_>>().await;
    let listed = listed.map_err(|source| CheckError::Store { name: PREFIX.to_owned(), source })?;
    let bytes_total = listed.iter().map(|object| object.size).sum();
    let rate = Rate::new(rate);
    let tries = listed.into_iter().map(|object| try_object(store, sealed, object, &rate));
    let mut tried = std::pin::pin!(stream::iter(tries).buffer_unordered(PARALLEL));
    let mut objects = Objects::default();
    while let Some((size, damaged)) = tried.try_next().await? {
        objects.count += 1;
        objects.bytes += size;
        objects.damaged.extend(damaged);
        let faulty = objects.damaged.len() as u64;
        progress(Progress { bytes: objects.bytes, bytes_total, faulty });
    }
    objects.damaged.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(objects)
}

/// The object's size, and whether it is damaged.
async fn try_object(
    store: &dyn ObjectStore,
    opened: &dyn ObjectStore,
    object: ObjectMeta,
    rate: &Rate,
) -> Result<(u64, Option<DamagedObject>), CheckError> {
    rate.wait(object.size).await;
    let name = object.location.to_string();
    match read(opened, &object.location).await {
        // The writer removes what it does not need any more.
        Ok(()) | Err(Error::NotFound { .. }) => Ok((object.size, None)),
        Err(error) => {
            let why = match sealed::open_error(&error) {
                Some(why) => why.to_string(),
                None => format!("cannot be read: {}", refused_object(store, &name, error).await?),
            };
            Ok((object.size, Some(DamagedObject { name, why })))
        }
    }
}

async fn read(sealed: &dyn ObjectStore, location: &Path) -> Result<(), Error> {
    let mut content = sealed.get(location).await?.into_stream();
    while content.try_next().await?.is_some() {}
    Ok(())
}
