//! `lidfs rewrite`: objects anew under the store's own encryption that is asked for now.

use super::DaemonError;
use super::open::{Storage, harden, open_storage};
use crate::config::Config;
use crate::store::object_store::path::Path;
use crate::store::object_store::{Error, ObjectStoreExt as _};
use crate::store::{self, RewriteError, RewriteProgress, Rewritten};
use crate::volume::{HEADER_NAME, LEASE_NAME, VolumeError};

/// Directories of a volume that hold what lasts.
const DIRS: [&str; 2] = ["meta", "packs"];

/// Rewrites every object of a volume that the store encrypts otherwise than is asked for now. It
/// needs no key of the volume: the bytes stay as they are.
///
/// # Errors
/// There is no volume, or the store fails or does not suffice.
pub async fn rewrite(
    config: &Config,
    rate: Option<u64>,
    progress: &(dyn Fn(RewriteProgress) + Sync),
) -> Result<Rewritten, DaemonError> {
    harden()?;
    let storage = open_storage(config).await?;
    let failed = |source: RewriteError| DaemonError::Rewrite { url: storage.url.clone(), source };
    find_volume(&storage).await?;
    store::rewrite(&*storage.store, is_ours, rate, progress).await.map_err(failed)
}

async fn find_volume(storage: &Storage) -> Result<(), DaemonError> {
    match storage.store.head(&Path::from(HEADER_NAME)).await {
        Ok(_) => Ok(()),
        Err(Error::NotFound { .. }) => Err(storage.volume_error(VolumeError::NoVolume)),
        Err(source) => {
            Err(DaemonError::Rewrite { url: storage.url.clone(), source: source.into() })
        }
    }
}

/// Header, lease, metadata, packs. Trials of stores come and go, and what else may lie there is
/// somebody else's.
fn is_ours(path: &Path) -> bool {
    let name = path.as_ref();
    let dir = name.split_once('/').map(|(dir, _)| dir);
    dir.map_or([HEADER_NAME, LEASE_NAME].contains(&name), |dir| DIRS.contains(&dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_of_the_volume_are_rewritten() {
        for name in ["lidfs.json", "lease", "meta/wal/1.sst", "packs/00/x"] {
            assert!(is_ours(&Path::from(name)), "{name}");
        }
        for name in ["probe/1", "other", "notes/lidfs.json", "packs", "metal/x"] {
            assert!(!is_ours(&Path::from(name)), "{name}");
        }
    }
}
