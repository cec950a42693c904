//! Writes every object of a volume anew, where the store encrypts it otherwise than the
//! configuration now asks.
//!
//! ```text
//!   a trial write          --> how the store encrypts now: the aim
//!   for each object:  HEAD --> as the aim: nothing to do
//!                     GET, PUT if it is still the same --> changed or gone meanwhile: look again
//! ```
//!
//! Bytes and metadata stay, so whoever has the volume mounted sees no difference. Invariant: an
//! object is replaced by its own bytes or not at all, whatever others do meanwhile. What is done
//! needs no note: an interrupted rewrite finds it done.

use futures::{StreamExt, TryStreamExt, stream};

use super::probe::PROBE_DIR;
use super::{Encrypted, Rate, StoreFault, classify, explain};
use crate::base::ErrorKind;
use crate::store::object_store::path::Path;
use crate::store::object_store::{
    Error, GetOptions, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode,
    PutOptions, UpdateVersion,
};

/// Objects under way at once. Each is in memory whole.
const PARALLEL: usize = 4;
/// How often an object is looked at again because it changed meanwhile. The busiest, the lease,
/// changes every few seconds.
const ATTEMPTS_MAX: usize = 16;

/// How far a rewrite is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RewriteProgress {
    /// Bytes of the objects that are done.
    pub bytes: u64,
    /// Bytes of all.
    pub bytes_total: u64,
}

/// What a rewrite came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// How the store encrypts what is written now.
    pub aim: Encrypted,
    /// Objects written anew.
    pub rewritten: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were as they should be.
    pub unchanged: u64,
    /// Objects that were deleted meanwhile.
    pub vanished: u64,
}

/// Why not everything could be written anew. What was is as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// A store that encrypts nothing.
    #[error("this store has no encryption of its own, so there is nothing to rewrite")]
    NotEncrypting,
    /// A write of a mount could be undone.
    #[error(
        "the store ignores or lacks conditional writes (If-Match), without which a rewrite could \
         undo what a mount writes at the same time; copy the content to a new volume instead"
    )]
    Unconditional,
    /// Others write the object all the time.
    #[error("{path}: others keep changing it; run the rewrite again")]
    Contended {
        /// Which.
        path: Path,
    },
    /// The store failed.
    #[error("{}", explain(.source))]
    Store {
        /// How.
        #[from]
        source: Error,
    },
}

impl RewriteError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotEncrypting | Self::Unconditional => ErrorKind::Invalid,
            Self::Contended { .. } => ErrorKind::Retry,
            Self::Store { source } => classify(source).kind(),
        }
    }

    /// What the store's own error was, if it was one.
    pub fn fault(&self) -> Option<StoreFault> {
        match self {
            Self::Store { source } => Some(classify(source)),
            _ => None,
        }
    }
}

/// Rewrites what lies in `store`, which is rooted at a volume's prefix: those of its objects that
/// `is_ours` knows by their names. At most `rate` bytes a second.
///
/// # Errors
/// [`RewriteError`]; to run it again goes on with what is left.
pub async fn rewrite(
    store: &dyn ObjectStore,
    is_ours: impl Fn(&Path) -> bool,
    rate: Option<u64>,
    progress: &(dyn Fn(RewriteProgress) + Sync),
) -> Result<Rewritten, RewriteError> {
    let aim = aim(store).await?;
    let listed: Vec<ObjectMeta> = store.list(None).try_collect().await?;
    let objects: Vec<_> = listed.into_iter().filter(|object| is_ours(&object.location)).collect();
    let bytes_total = objects.iter().map(|object| object.size).sum();
    let mut far = RewriteProgress { bytes: 0, bytes_total };
    let mut done = Rewritten { aim, ..Rewritten::default() };
    let work = Work { store, aim: done.aim.clone(), rate: Rate::new(rate) };
    let ends = stream::iter(&objects)
        .map(|object| async { work.object(&object.location).await.map(|end| (end, object.size)) });
    let mut ends = std::pin::pin!(ends.buffer_unordered(PARALLEL));
    while let Some((end, size)) = ends.try_next().await? {
        match end {
            End::Rewritten(bytes) => {
                done.rewritten += 1;
                done.bytes += bytes;
            }
            End::Unchanged => done.unchanged += 1,
            End::Vanished => done.vanished += 1,
        }
        far.bytes += size;
        progress(far);
    }
    Ok(done)
}

/// Writes an object as any is written now, and looks how the store encrypted it. Also tries out
/// whether a write on a condition that does not hold is refused.
async fn aim(store: &dyn ObjectStore) -> Result<Encrypted, RewriteError> {
    let name = getrandom::u64().and_then(|a| Ok((a, getrandom::u64()?)));
    let (a, b) = name.map_err(|error| Error::Generic { store: "rewrite", source: error.into() })?;
    let path = Path::from(format!("{PROBE_DIR}/{a:016x}{b:016x}"));
    let tried = try_out(store, &path).await;
    // Whatever was found comes first; a trial left behind is small and harmless.
    let removed = store.delete(&path).await;
    let aim = tried?;
    removed?;
    Ok(aim)
}

async fn try_out(store: &dyn ObjectStore, path: &Path) -> Result<Encrypted, RewriteError> {
    store.put(path, "a trial".into()).await?;
    let aim = head(store, path).await?;
    let aim = encryption(&aim).cloned().ok_or(RewriteError::NotEncrypting)?;
    let stale = UpdateVersion { e_tag: Some(format!("\"{:032x}\"", 0)), version: None };
    match store.put_opts(path, "another".into(), PutMode::Update(stale).into()).await {
        Ok(_) => Err(RewriteError::Unconditional),
        Err(error) => match classify(&error) {
            StoreFault::Precondition => Ok(aim),
            StoreFault::Unsupported => Err(RewriteError::Unconditional),
            _ => Err(error.into()),
        },
    }
}

async fn head(store: &dyn ObjectStore, path: &Path) -> Result<GetResult, Error> {
    store.get_opts(path, GetOptions { head: true, ..GetOptions::default() }).await
}

fn encryption(found: &GetResult) -> Option<&Encrypted> {
    found.extensions.get()
}

/// How it went with one object.
enum End {
    /// With so many bytes.
    Rewritten(u64),
    Unchanged,
    Vanished,
}

struct Work<'a> {
    store: &'a dyn ObjectStore,
    aim: Encrypted,
    rate: Rate,
}

impl Work<'_> {
    async fn object(&self, path: &Path) -> Result<End, RewriteError> {
        for _ in 0..ATTEMPTS_MAX {
            match self.attempt(path).await {
                Ok(end) => return Ok(end),
                Err(error) => match classify(&error) {
                    StoreFault::NotFound => return Ok(End::Vanished),
                    // It is another one now, or gone.
                    StoreFault::Precondition => {}
                    _ => return Err(error.into()),
                },
            }
        }
        Err(RewriteError::Contended { path: path.clone() })
    }

    async fn attempt(&self, path: &Path) -> Result<End, Error> {
        let found = head(self.store, path).await?;
        if encryption(&found) == Some(&self.aim) {
            return Ok(End::Unchanged);
        }
        self.rate.wait(found.meta.size).await;
        let found = self.store.get(path).await?;
        let version =
            UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        let attributes = found.attributes.clone();
        let bytes = found.bytes().await?;
        let len = bytes.len() as u64;
        let mode = PutMode::Update(version);
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        self.store.put_opts(path, bytes.into(), options).await?;
        Ok(End::Rewritten(len))
    }
}
