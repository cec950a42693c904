//! A local directory as an object store: each object a file, durable when `put` returns.
//!
//! ```text
//!   <root>/.lidfs-lock          flock: shared to replace or delete, exclusive to compare and replace
//!   <root>/.lidfs-tmp/<random>  written and synced here, then renamed or linked into place
//!   <root>/<path>               object bytes; ETag and attributes in the xattr user.lidfs
//! ```
//!
//! Invariant: a name in the tree always leads to a whole, synced object. A crash can leave files
//! in `.lidfs-tmp`, which no listing shows and a later `open` removes.
//!
//! As in any file system, and unlike S3, `a` and `a/b` cannot both be objects.

mod file;
mod tree;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path as FsPath;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, iter, once, try_unfold};
use futures::{FutureExt, TryStreamExt};

use self::file::{Label, Staged};
use self::tree::Tree;
use crate::store::object_store::path::Path;
use crate::store::object_store::{
    Attributes, CopyMode, CopyOptions, Extensions, GetOptions, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result, UploadPart,
};
use crate::store::{StoreError, StoreFault};

/// Bytes read from a file in one go.
const READ_BYTES_MAX: u64 = 1 << 20;
/// Deletes in flight at once.
const DELETES_AT_ONCE: usize = 8;

/// Objects below a directory. Cheap to clone.
#[derive(Clone)]
pub struct LocalStore {
    tree: Arc<Tree>,
}

impl LocalStore {
    /// Opens `root`, which is created if it does not exist.
    ///
    /// # Errors
    /// The directory cannot be created, written or locked.
    pub fn open(root: &FsPath) -> Result<Self, StoreError> {
        Ok(Self { tree: Arc::new(Tree::open(root)?) })
    }

    /// Runs file work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree) -> Result<T, StoreError> + Send + 'static,
        location: &Path,
    ) -> Result<T> {
        let tree = Arc::clone(&self.tree);
        let done = tokio::task::spawn_blocking(move || work(&tree)).await;
        match done {
            Ok(result) => {
                result.map_err(|error| error.into_object_store("local", location.as_ref()))
            }
            Err(panic) => Err(StoreError::caused(
                StoreFault::Unavailable,
                format!("{location}: file work was cut off: {panic}"),
                panic,
            )
            .into_object_store("local", location.as_ref())),
        }
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", self.tree.root().display())
    }
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An object opened for reading, with what is known of it.
struct Opened {
    file: File,
    meta: ObjectMeta,
    attributes: Attributes,
}

impl Opened {
    fn new(tree: &Tree, location: &Path) -> Result<Self, StoreError> {
        let file = tree.open_object(location)?;
        let fail = |error| tree::error_at(location, "read", error);
        let stat = file.metadata().map_err(fail)?;
        let label = Label::read(&file).map_err(fail)?;
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: stat.modified().map_err(fail)?.into(),
            size: stat.len(),
            e_tag: Some(label.e_tag),
            version: None,
        };
        Ok(Self { file, meta, attributes: label.attributes })
    }

    fn into_result(self, options: &GetOptions) -> Result<GetResult> {
        options.check_preconditions(&self.meta)?;
        let Self { file, meta, attributes } = self;
        let range = match &options.range {
            None => 0..meta.size,
            Some(range) => range.as_range(meta.size).map_err(|error| {
                let text = format!("{}: {error}", meta.location);
                StoreError::new(StoreFault::Invalid, text)
                    .into_object_store("local", meta.location.as_ref())
            })?,
        };
        let left = if options.head { 0..0 } else { range.clone() };
        Ok(GetResult {
            payload: GetResultPayload::Stream(chunks(file, left, meta.location.clone())),
            meta,
            range,
            attributes,
            extensions: Extensions::default(),
        })
    }
}

fn chunks(file: File, left: Range<u64>, location: Path) -> BoxStream<'static, Result<Bytes>> {
    let file = Arc::new(file);
    try_unfold(left, move |mut left| {
        let (file, location) = (Arc::clone(&file), location.clone());
        async move {
            if left.is_empty() {
                return Ok(None);
            }
            let len = (left.end - left.start).min(READ_BYTES_MAX);
            let start = left.start;
            let read = tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0; len as usize];
                file.read_exact_at(&mut buffer, start).map(|()| Bytes::from(buffer))
            });
            let chunk = read.await.map_err(io::Error::other).flatten().map_err(|error| {
                let text = format!("{location}: read of {len} bytes at {start} failed: {error}");
                StoreError::caused(StoreFault::Unavailable, text, error)
                    .into_object_store("local", location.as_ref())
            })?;
            left.start += len;
            Ok(Some((chunk, left)))
        }
    })
    .boxed()
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let to = location.clone();
        let work = move |tree: &Tree| {
            let mut staged = Staged::new(tree, &to)?;
            staged.write(payload.iter())?;
            publish(tree, &staged, &to, opts.attributes, &opts.mode)
        };
        self.blocking(work, location).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let to = location.clone();
        let staged = self.blocking(move |tree| Staged::new(tree, &to), location).await?;
        Ok(Box::new(Upload {
            store: self.clone(),
            location: location.clone(),
            attributes: opts.attributes,
            len: 0,
            written: Arc::default(),
            staged: Arc::new(Mutex::new(Some(staged))),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let from = location.clone();
        self.blocking(move |tree| Opened::new(tree, &from), location).await?.into_result(&options)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .map(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    let path = location.clone();
                    store.blocking(move |tree| tree.delete(&path), &location).await?;
                    Ok(location)
                }
            })
            .buffered(DELETES_AT_ONCE)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let all = async move {
            let dir = prefix.clone();
            store.blocking(move |tree| tree.list(&dir), &prefix).await
        };
        once(all.boxed()).map_ok(|all| iter(all.into_iter().map(Ok))).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        let dir = prefix.clone();
        self.blocking(move |tree| tree.list_one(&dir), &prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (source, target) = (from.clone(), to.clone());
        let work = move |tree: &Tree| {
            let mut opened = Opened::new(tree, &source)?;
            let mut staged = Staged::new(tree, &target)?;
            staged.copy_from(&mut opened.file)?;
            let mode = match options.mode {
                CopyMode::Overwrite => PutMode::Overwrite,
                CopyMode::Create => PutMode::Create,
            };
            publish(tree, &staged, &target, opened.attributes, &mode).map(drop)
        };
        self.blocking(work, to).await
    }
}

/// Makes a written file the object, durably.
fn publish(
    tree: &Tree,
    staged: &Staged,
    location: &Path,
    attributes: Attributes,
    mode: &PutMode,
) -> Result<PutResult, StoreError> {
    let label = Label::new(attributes);
    let e_tag = staged.seal(&label)?;
    match mode {
        PutMode::Overwrite => tree.replace(staged, location)?,
        PutMode::Create => tree.create(staged, location)?,
        PutMode::Update(version) => {
            let expected = version.e_tag.as_deref().unwrap_or_default();
            tree.update(staged, location, expected)?;
        }
    }
    Ok(PutResult { e_tag: Some(e_tag), version: None, extensions: Extensions::default() })
}

/// Parts go straight to their places in one staged file, which is removed if never completed.
struct Upload {
    store: LocalStore,
    location: Path,
    attributes: Attributes,
    /// Bytes of all parts begun, and of all parts that are in the file.
    len: u64,
    written: Arc<AtomicU64>,
    staged: Arc<Mutex<Option<Staged>>>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upload of {} to {}", self.location, self.store)
    }
}

fn over(location: &Path) -> StoreError {
    StoreError::new(StoreFault::Invalid, format!("{location}: this upload is over"))
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (offset, len) = (self.len, data.content_length() as u64);
        self.len += len;
        let (staged, store) = (Arc::clone(&self.staged), self.store.clone());
        let written = Arc::clone(&self.written);
        let location = self.location.clone();
        Box::pin(async move {
            let to = location.clone();
            let work = move |_: &Tree| {
                let staged = staged.lock().unwrap_or_else(PoisonError::into_inner);
                staged.as_ref().ok_or_else(|| over(&to))?.write_at(offset, data.iter())?;
                written.fetch_add(len, Ordering::Relaxed);
                Ok(())
            };
            store.blocking(work, &location).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (to, attributes) = (self.location.clone(), std::mem::take(&mut self.attributes));
        let is_whole = self.written.load(Ordering::Relaxed) == self.len;
        let work = move |tree: &Tree| {
            let staged = staged.ok_or_else(|| over(&to))?;
            if !is_whole {
                let text = format!("{to}: upload completed before all its parts were stored");
                return Err(StoreError::new(StoreFault::Invalid, text));
            }
            publish(tree, &staged, &to, attributes, &PutMode::Overwrite)
        };
        self.store.blocking(work, &self.location).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(())
    }
}
