//! A store for tests that counts, stalls, fails and dies at a chosen write.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use slatedb::object_store::memory::InMemory;
use slatedb::object_store::path::Path;
use slatedb::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::sync::Notify;

/// Requests by operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Requests {
    pub(super) get: u64,
    pub(super) head: u64,
    pub(super) put: u64,
    pub(super) list: u64,
    pub(super) delete: u64,
}

impl Requests {
    pub(super) fn all(&self) -> u64 {
        self.get + self.head + self.put + self.list + self.delete
    }
}

/// One client's way to a bucket; several may share the bucket.
#[derive(Debug, Clone)]
pub(super) struct TestStore {
    bucket: Arc<InMemory>,
    line: Arc<Line>,
}

#[derive(Debug, Default)]
struct Line {
    get: AtomicU64,
    head: AtomicU64,
    put: AtomicU64,
    list: AtomicU64,
    delete: AtomicU64,
    put_delay_us: AtomicU64,
    down: AtomicBool,
    /// Writes left before the line is cut.
    writes_left: AtomicUsize,
    /// Whether the write at which the line is cut still arrives.
    last_arrives: AtomicBool,
    cut: Notify,
}

impl TestStore {
    pub(super) fn new(bucket: Arc<InMemory>) -> Self {
        let line = Line { writes_left: AtomicUsize::new(usize::MAX), ..Line::default() };
        Self { bucket, line: Arc::new(line) }
    }

    pub(super) fn boxed(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.clone())
    }

    /// After `writes` more objects nothing arrives any more.
    pub(super) fn cut_after(&self, writes: usize, last_arrives: bool) {
        self.line.last_arrives.store(last_arrives, Ordering::SeqCst);
        self.line.writes_left.store(writes, Ordering::SeqCst);
    }

    /// Returns when a write has met the cut.
    pub(super) async fn until_cut(&self) {
        self.line.cut.notified().await;
    }

    /// Every request is answered "forbidden" while down.
    pub(super) fn set_down(&self, down: bool) {
        self.line.down.store(down, Ordering::SeqCst);
    }

    pub(super) fn delay_puts(&self, delay: Duration) {
        self.line.put_delay_us.store(delay.as_micros() as u64, Ordering::SeqCst);
    }

    pub(super) fn requests(&self) -> Requests {
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        let line = &self.line;
        Requests {
            get: read(&line.get),
            head: read(&line.head),
            put: read(&line.put),
            list: read(&line.list),
            delete: read(&line.delete),
        }
    }
}

impl Line {
    fn fail() -> Error {
        Error::PermissionDenied { path: String::new(), source: "the line is cut".into() }
    }

    fn read(&self, count: &AtomicU64) -> Result<()> {
        count.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) { Err(Self::fail()) } else { Ok(()) }
    }

    /// Whether the write arrives, and whether its answer does.
    async fn write(&self) -> (bool, bool) {
        self.put.fetch_add(1, Ordering::SeqCst);
        let delay = self.put_delay_us.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_micros(delay)).await;
        }
        if self.down.load(Ordering::SeqCst) {
            return (false, false);
        }
        let fewer =
            |left: usize| Some(if left == usize::MAX { left } else { left.checked_sub(1)? });
        let left = self.writes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer);
        if left.is_ok() {
            return (true, true);
        }
        self.cut.notify_one();
        (self.last_arrives.swap(false, Ordering::SeqCst), false)
    }
}

impl fmt::Display for TestStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestStore")
    }
}

#[async_trait]
impl ObjectStore for TestStore {
    async fn put_opts(&self, path: &Path, data: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (arrives, answered) = self.line.write().await;
        if !arrives {
            return Err(Line::fail());
        }
        let put = self.bucket.put_opts(path, data, opts).await;
        if answered { put } else { Err(Line::fail()) }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.line.read(&self.line.put)?;
        let upload = self.bucket.put_multipart_opts(path, opts).await?;
        Ok(Box::new(TestUpload { upload, line: Arc::clone(&self.line) }))
    }

    async fn get_opts(&self, path: &Path, opts: GetOptions) -> Result<GetResult> {
        self.line.read(if opts.head { &self.line.head } else { &self.line.get })?;
        self.bucket.get_opts(path, opts).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.line.read(&self.line.delete) {
            Ok(()) => self.bucket.delete_stream(paths),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.line.read(&self.line.list) {
            Ok(()) => self.bucket.list(prefix),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.line.read(&self.line.list)?;
        self.bucket.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, opts: CopyOptions) -> Result<()> {
        self.bucket.copy_opts(from, to, opts).await
    }
}

#[derive(Debug)]
struct TestUpload {
    upload: Box<dyn MultipartUpload>,
    line: Arc<Line>,
}

#[async_trait]
impl MultipartUpload for TestUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.upload.put_part(data);
        let line = Arc::clone(&self.line);
        Box::pin(async move {
            match line.write().await {
                (true, true) => part.await,
                _ => Err(Line::fail()),
            }
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (arrives, answered) = self.line.write().await;
        if !arrives {
            return Err(Line::fail());
        }
        let done = self.upload.complete().await;
        if answered { done } else { Err(Line::fail()) }
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
