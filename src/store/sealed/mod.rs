//! An object store that seals: plaintext above it, ciphertext below it.
//!
//! ```text
//!   metadata engine            names, plaintext, plaintext sizes
//!        |
//!   SealedStore                header + chunks of 16 KiB, bound to volume, kind and path
//!        |
//!   disk cache, retries, S3    the same names, sealed bytes, ETags
//! ```
//!
//! Names, ETags, attributes, tags and conditions pass through; contents and
//! sizes are translated. The path an object is bound to is its whole location
//! as this store is given it, so copying and renaming seal anew.
//!
//! Invariants: no plaintext byte leaves this store before its chunk is
//! authenticated; a size of zero, which the engine takes as a statement without
//! reading (a writer's fence), is authenticated too. Other sizes are the
//! server's word until the last chunk is read.
//!
//! What fails authentication is an [`object_store::Error::Generic`] whose chain
//! of sources holds the [`OpenError`] ([`open_error`] finds it), marked so that
//! the metadata engine does not retry it for ever.

mod geometry;
mod read;
mod reseal;
#[cfg(test)]
mod tests;
mod write;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use slatedb_common::retry::NonRetryable;

use self::read::Headers;
use self::reseal::Writes;
use super::object_store::path::Path;
use super::object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use crate::base::VolumeId;
use crate::crypto::{Binding, DataKeys, ObjectKind, OpenError, SealError, Sealer};

/// What errors of this store name as their store.
const STORE: &str = "sealed";
/// From this size on, sealing and opening move off the async threads; below it takes about 0.1 ms.
const INLINE_MAX: usize = 256 * 1024;
/// Size of the parts sent on, all but the last: over S3's least of 5 MiB, equal because some stores ask
/// for that. A copy up to this size goes as one object.
const PART: usize = 8 * 1024 * 1024;

/// Reads a volume's keyring again.
#[async_trait]
pub trait LoadKeys: fmt::Debug + Send + Sync {
    /// On return whoever has the volume's [`DataKeys`] has the newest ones, if they could be read.
    async fn load_keys(&self);
}

/// An object store whose objects are sealed in the one below it. A clone is the same store.
#[derive(Clone)]
pub struct SealedStore {
    inner: Arc<dyn ObjectStore>,
    keys: DataKeys,
    volume: VolumeId,
    kind: ObjectKind,
    headers: Arc<Headers>,
    writes: Writes,
    loader: Option<Arc<dyn LoadKeys>>,
    part: usize,
}

impl SealedStore {
    /// A store that seals objects of `kind` into `inner` with the current one of `keys`.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        keys: DataKeys,
        volume: VolumeId,
        kind: ObjectKind,
    ) -> Self {
        Self {
            inner,
            keys,
            volume,
            kind,
            headers: Arc::default(),
            writes: Writes::default(),
            loader: None,
            part: PART,
        }
    }

    /// The same store, which asks `loader` for keys that it misses.
    #[must_use]
    pub fn with_loader(mut self, loader: Arc<dyn LoadKeys>) -> Self {
        self.loader = Some(loader);
        self
    }

    fn binding<'a>(&self, location: &'a Path) -> Binding<'a> {
        Binding { volume: self.volume, kind: self.kind, path: location.as_ref() }
    }

    fn sealer(&self, location: &Path) -> Sealer {
        let key = self.keys.current();
        Sealer::new(&key, &self.binding(location), crate::crypto::METADATA_CHUNK)
    }

    /// An entry of a listing with its plaintext size; `None` if it was deleted meanwhile.
    async fn listed(&self, meta: ObjectMeta) -> Result<Option<ObjectMeta>> {
        let meta = plain_meta(meta)?;
        if meta.size > 0 {
            return Ok(Some(meta));
        }
        match self.proven_empty(&meta.location, GetOptions::default()).await {
            Ok(result) => Ok(Some(result.meta)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn listed_stream(
        &self,
        listing: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        listing
            .and_then(move |meta| {
                let store = store.clone();
                async move { store.listed(meta).await }
            })
            .try_filter_map(|entry| async move { Ok(entry) })
            .boxed()
    }

    /// Copies in parts, so that no more than a few parts are in memory.
    async fn copy_in_parts(&self, source: GetResult, to: &Path, put: PutOptions) -> Result<()> {
        let PutOptions { tags, attributes, extensions, .. } = put;
        let options = PutMultipartOptions { tags, attributes, extensions };
        let mut upload = self.put_multipart_opts(to, options).await?;
        let mut stream = source.into_stream();
        let copied = async {
            while let Some(bytes) = stream.try_next().await? {
                upload.put_part(bytes.into()).await?;
            }
            upload.complete().await.map(drop)
        }
        .await;
        if copied.is_err() {
            // The copy's own error is the one to tell; parts that stay behind expire by the bucket's rule.
            let _ = upload.abort().await;
        }
        copied
    }
}

#[async_trait]
impl ObjectStore for SealedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let _under_way = self.writes.begin();
        let sealed = write::seal_whole(self.sealer(location), payload).await?;
        self.inner.put_opts(location, sealed.into(), opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let under_way = self.writes.begin();
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        let sealer = self.sealer(location);
        Ok(Box::new(write::SealedUpload::new(sealer, inner, self.part, under_way)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if !options.head {
            return self.read(location, options).await;
        }
        let mut result = self.inner.get_opts(location, options.clone()).await?;
        result.meta = plain_meta(result.meta)?;
        if result.meta.size == 0 {
            return self.proven_empty(location, options).await;
        }
        result.range = 0..result.meta.size;
        Ok(result)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed_stream(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed_stream(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut result = self.inner.list_with_delimiter(prefix).await?;
        let sealed = std::mem::take(&mut result.objects);
        let listing = futures::stream::iter(sealed.into_iter().map(Ok)).boxed();
        result.objects = self.listed_stream(listing).try_collect().await?;
        Ok(result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let CopyOptions { mode, extensions } = options;
        let get = GetOptions { extensions: extensions.clone(), ..GetOptions::default() };
        let source = self.read(from, get).await?;
        let mode = match mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        let attributes = source.attributes.clone();
        let put = PutOptions { mode, attributes, extensions, ..PutOptions::default() };
        // Parts cannot be put on the condition that nothing is there, so such a copy goes whole.
        if source.meta.size > self.part as u64 && put.mode == PutMode::Overwrite {
            return self.copy_in_parts(source, to, put).await;
        }
        let plain = source.bytes().await?;
        self.put_opts(to, plain.into(), put).await.map(drop)
    }
}

impl fmt::Display for SealedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE}({})", self.inner)
    }
}

impl fmt::Debug for SealedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedStore")
            .field("inner", &self.inner)
            .field("volume", &self.volume)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// The [`OpenError`] behind an error of a [`SealedStore`], however deep other stores wrapped it.
pub fn open_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a OpenError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// `meta` with the size of the plaintext.
fn plain_meta(mut meta: ObjectMeta) -> Result<ObjectMeta> {
    meta.size = geometry::plain_len(meta.size).ok_or_else(|| wrong_length(&meta))?;
    Ok(meta)
}

fn wrong_length(meta: &ObjectMeta) -> Error {
    forged(OpenError::WrongLength { path: meta.location.to_string(), len: meta.size })
}

/// Bytes that do not authenticate: reading them again cannot help.
fn forged(error: OpenError) -> Error {
    Error::Generic { store: STORE, source: Box::new(NonRetryable(Box::new(error))) }
}

fn seal_failed(error: SealError) -> Error {
    Error::Generic { store: STORE, source: Box::new(NonRetryable(Box::new(error))) }
}

/// Anything else that a repetition may mend.
fn passing(message: String) -> Error {
    Error::Generic { store: STORE, source: message.into() }
}
