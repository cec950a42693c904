//! A bucket that remembers every change: when it was asked for, and when it took effect.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};

use super::Random;
use crate::store::object_store::memory::InMemory;
use crate::store::object_store::path::Path;
use crate::store::object_store::{
    CopyMode, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};

/// A change that a client asked for.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub path: Path,
    pub change: Change,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Put(PutPayload, PutOptions),
    Delete,
}

/// What happened, in this order. Numbers of requests and of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The volume is made; crashes before this are not looked at.
    Ready,
    /// A request left the client.
    Asked(usize),
    /// It took effect, or was refused.
    Done(usize),
    /// A client went on to this operation.
    Began(usize),
    /// A client was told that everything up to this operation is stored.
    Acknowledged(usize),
}

#[derive(Debug, Default)]
pub(super) struct Log {
    pub requests: Vec<Request>,
    pub events: Vec<Event>,
}

/// Applies changes late, and one at a time.
#[derive(Debug)]
pub(super) struct Recorder {
    objects: InMemory,
    log: Mutex<Log>,
    random: Mutex<Random>,
    /// Others go on while somebody reads. With every second seed: who reads at once overlaps with
    /// changes in other ways.
    reads_take_time: bool,
}

impl Request {
    /// What the bucket makes of it, at once.
    pub fn apply(&self, objects: &InMemory) -> Result<Option<PutResult>> {
        match &self.change {
            Change::Put(payload, options) => {
                let put = objects.put_opts(&self.path, payload.clone(), options.clone());
                put.now_or_never().expect("memory does not wait").map(Some)
            }
            Change::Delete => {
                let delete = objects.delete(&self.path);
                delete.now_or_never().expect("memory does not wait")?;
                Ok(None)
            }
        }
    }
}

impl Recorder {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            objects: InMemory::new(),
            log: Mutex::default(),
            random: Mutex::new(Random::new(seed)),
            reads_take_time: seed.is_multiple_of(2),
        })
    }

    pub fn note(&self, event: Event) {
        self.log().events.push(event);
    }

    /// What happened so far; the recorder begins anew.
    pub fn take(&self) -> Log {
        std::mem::take(&mut *self.log())
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    /// On the way to the bucket or back: mostly short, now and then long enough to be overtaken.
    async fn travel(&self) {
        let ms = {
            let mut random = self.random.lock().unwrap();
            let bound = if random.once_in(6) { 40 } else { 4 };
            random.below(bound)
        };
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    async fn change(&self, request: Request) -> Result<Option<PutResult>> {
        let number = {
            let mut log = self.log();
            log.requests.push(request.clone());
            let number = log.requests.len() - 1;
            log.events.push(Event::Asked(number));
            number
        };
        self.travel().await;
        let result = {
            let mut log = self.log();
            log.events.push(Event::Done(number));
            request.apply(&self.objects)
        };
        self.travel().await;
        result
    }
}

impl fmt::Display for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

/// What is mounted: several may write to one recorder.
#[derive(Debug, Clone)]
pub(super) struct Bucket(pub Arc<Recorder>);

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let change = Change::Put(payload, options);
        let put = self.0.change(Request { path: path.clone(), change }).await?;
        Ok(put.expect("a put has a result"))
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let options = PutOptions { attributes: options.attributes, ..PutOptions::default() };
        Ok(Box::new(Upload {
            bucket: self.clone(),
            path: path.clone(),
            options,
            parts: Vec::new(),
        }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        if self.0.reads_take_time {
            self.0.travel().await;
        } else {
            tokio::task::yield_now().await;
        }
        self.0.objects.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let bucket = self.clone();
        let delete = move |path: Result<Path>| {
            let bucket = bucket.clone();
            async move {
                let path = path?;
                bucket.0.change(Request { path: path.clone(), change: Change::Delete }).await?;
                Ok(path)
            }
        };
        paths.map(delete).buffered(4).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let payload = self.0.objects.get(from).await?.bytes().await?.into();
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        self.put_opts(to, payload, mode.into()).await.map(drop)
    }
}

/// Parts that become an object when they are complete.
#[derive(Debug)]
struct Upload {
    bucket: Bucket,
    path: Path,
    options: PutOptions,
    parts: Vec<PutPayload>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.push(data);
        futures::future::ready(Ok(())).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let payload = self.parts.iter().flatten().cloned().collect();
        self.bucket.put_opts(&self.path, payload, self.options.clone()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.clear();
        Ok(())
    }
}
