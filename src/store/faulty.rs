//! Faults on command, for tests: a store that fails, loses answers, stalls or lies.
//!
//! ```text
//!   request --> [Before: error, delay, stall, outage] --> inner store
//!          <-- [After: answer lost, short body]       <--
//! ```
//!
//! Not for production: nothing but tests builds one. It lives here because tests of every layer
//! use it, and it passes the same contract suite as a store as long as no fault is scripted.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use tokio::sync::watch;

use crate::store::object_store::path::Path;
use crate::store::object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, UploadPart,
};
use crate::store::{StoreError, StoreFault};

/// Kinds of request that a fault can be tied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Content of an object.
    Get,
    /// A whole object.
    Put,
    /// Headers of an object.
    Head,
    /// A listing of either kind.
    List,
    /// A delete; in a batch each path on its own.
    Delete,
    /// Copy or rename, by its source.
    Copy,
    /// Start, part or end of a multipart upload.
    Multipart,
}

/// What happens to a matching request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Fails without reaching the store.
    Fail(StoreFault),
    /// Reaches the store and is carried out there, but the caller sees a failure.
    LoseAnswer(StoreFault),
    /// Waits, then goes on.
    Delay(Duration),
    /// Waits until [`Faults::release`], then goes on.
    Stall,
    /// The body breaks off after this many bytes, with an error.
    BreakBody(u64),
    /// The body ends after this many bytes as if that were all of it.
    ShortBody(u64),
}

/// A fault and the requests it strikes.
#[derive(Debug, Clone)]
pub struct Rule {
    op: Option<Op>,
    path: String,
    skip: u64,
    times: u64,
    one_in: u64,
    fault: Fault,
}

impl Rule {
    /// Strikes every request, for ever.
    pub fn always(fault: Fault) -> Self {
        Self { op: None, path: String::new(), skip: 0, times: u64::MAX, one_in: 1, fault }
    }

    /// Only requests of this kind.
    #[must_use]
    pub fn on(mut self, op: Op) -> Self {
        self.op = Some(op);
        self
    }

    /// Only paths that contain this text.
    #[must_use]
    pub fn path(mut self, part: impl Into<String>) -> Self {
        self.path = part.into();
        self
    }

    /// Lets this many matching requests pass first.
    #[must_use]
    pub fn after(mut self, requests: u64) -> Self {
        self.skip = requests;
        self
    }

    /// Strikes this often, then never again.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Strikes about one in `n` matching requests, by the seed of [`Faults::seed`].
    #[must_use]
    pub fn one_in(mut self, n: u64) -> Self {
        self.one_in = n.max(1);
        self
    }
}

#[derive(Debug, Default)]
struct Script {
    rules: Vec<Rule>,
    struck: u64,
    is_out: bool,
    ignores_conditions: bool,
    random: u64,
}

/// The handle by which a test directs a [`FaultyStore`], from any thread.
#[derive(Debug, Clone)]
pub struct Faults {
    script: Arc<Mutex<Script>>,
    released: Arc<watch::Sender<u64>>,
}

impl Default for Faults {
    fn default() -> Self {
        let script = Script { random: 1, ..Script::default() };
        Self { script: Arc::new(Mutex::new(script)), released: Arc::new(watch::Sender::new(0)) }
    }
}

impl Faults {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule. Of several that match, the oldest strikes.
    pub fn add(&self, rule: Rule) {
        self.script().rules.push(rule);
    }

    /// Removes all rules, ends an outage and releases what is stalled.
    pub fn clear(&self) {
        let mut script = self.script();
        script.rules.clear();
        script.is_out = false;
        drop(script);
        self.release();
    }

    /// While out, every request fails as if the network were gone.
    pub fn outage(&self, is_out: bool) {
        self.script().is_out = is_out;
    }

    /// A store that takes conditional puts and silently ignores their conditions, as Garage does.
    pub fn ignore_conditions(&self, ignores: bool) {
        self.script().ignores_conditions = ignores;
    }

    /// Lets every stalled request go on.
    pub fn release(&self) {
        self.released.send_modify(|count| *count += 1);
    }

    /// The seed of [`Rule::one_in`]; the same seed and requests give the same faults.
    pub fn seed(&self, seed: u64) {
        self.script().random = seed | 1;
    }

    /// How many requests have been struck.
    pub fn struck(&self) -> u64 {
        self.script().struck
    }

    fn pick(&self, op: Op, path: &str) -> Option<Fault> {
        let mut guard = self.script();
        let script = &mut *guard;
        if script.is_out {
            script.struck += 1;
            return Some(Fault::Fail(StoreFault::Unavailable));
        }
        for rule in &mut script.rules {
            if rule.op.is_some_and(|only| only != op) || !path.contains(&rule.path) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            script.random = xorshift(script.random);
            if rule.times == 0 || !script.random.is_multiple_of(rule.one_in) {
                continue;
            }
            rule.times = rule.times.saturating_sub(u64::from(rule.times != u64::MAX));
            script.struck += 1;
            return Some(rule.fault.clone());
        }
        None
    }

    /// What is to happen to this request; waits and failures before it are done here.
    async fn strike(&self, op: Op, path: &str) -> Result<Later> {
        // Before the fault is picked, so that a release right after it is not missed.
        let mut released = self.released.subscribe();
        match self.pick(op, path) {
            None => Ok(Later::Nothing),
            Some(Fault::Fail(fault)) => Err(failure(fault, op, path)),
            Some(Fault::LoseAnswer(fault)) => Ok(Later::Lose(fault)),
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                Ok(Later::Nothing)
            }
            Some(Fault::Stall) => {
                // The sender lives as long as `self`.
                let _ = released.changed().await;
                Ok(Later::Nothing)
            }
            Some(Fault::BreakBody(len)) => Ok(Later::Cut { len, is_silent: false }),
            Some(Fault::ShortBody(len)) => Ok(Later::Cut { len, is_silent: true }),
        }
    }

    async fn around<T>(
        &self,
        op: Op,
        path: &str,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let later = self.strike(op, path).await?;
        let result = request.await;
        match later {
            Later::Lose(fault) => Err(failure(fault, op, path)),
            Later::Nothing | Later::Cut { .. } => result,
        }
    }
}

/// What is left to do once the store has answered.
enum Later {
    Nothing,
    Lose(StoreFault),
    Cut { len: u64, is_silent: bool },
}

fn failure(fault: StoreFault, op: Op, path: &str) -> crate::store::object_store::Error {
    StoreError::new(fault, format!("{path}: scripted fault in {op:?}"))
        .into_object_store("faulty", path)
}

fn xorshift(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ (x << 17)
}

/// Passes everything on, except for what its script says.
#[derive(Debug, Clone)]
pub struct FaultyStore<T> {
    inner: Arc<T>,
    faults: Faults,
}

impl<T: ObjectStore> FaultyStore<T> {
    /// Without faults until some are scripted through [`FaultyStore::faults`].
    pub fn new(inner: T) -> Self {
        Self { inner: Arc::new(inner), faults: Faults::default() }
    }

    /// The handle that directs it.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }
}

impl<T: fmt::Display> fmt::Display for FaultyStore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: ObjectStore> ObjectStore for FaultyStore<T> {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> Result<PutResult> {
        if self.faults.script().ignores_conditions {
            opts.mode = PutMode::Overwrite;
        }
        let request = self.inner.put_opts(location, payload, opts);
        self.faults.around(Op::Put, location.as_ref(), request).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let request = self.inner.put_multipart_opts(location, opts);
        let inner = self.faults.around(Op::Multipart, location.as_ref(), request).await?;
        let (faults, path) = (self.faults.clone(), location.to_string());
        Ok(Box::new(FaultyUpload { inner, faults, path }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let op = if options.head { Op::Head } else { Op::Get };
        let later = self.faults.strike(op, location.as_ref()).await?;
        let result = self.inner.get_opts(location, options).await?;
        match later {
            Later::Nothing => Ok(result),
            Later::Lose(fault) => Err(failure(fault, op, location.as_ref())),
            Later::Cut { len, is_silent } => Ok(cut(result, len, is_silent)),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut found = Vec::with_capacity(ranges.len());
        for range in ranges {
            let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
            found.push(self.get_opts(location, options).await?.bytes().await?);
        }
        Ok(found)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (inner, faults) = (Arc::clone(&self.inner), self.faults.clone());
        locations
            .and_then(move |path| {
                let (inner, faults) = (Arc::clone(&inner), faults.clone());
                async move {
                    let one = futures::stream::iter([Ok(path.clone())]).boxed();
                    let request = async { inner.delete_stream(one).try_collect::<Vec<_>>().await };
                    faults.around(Op::Delete, path.as_ref(), request).await.map(|_| path.clone())
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.map(ToString::to_string).unwrap_or_default();
        let request = self.inner.list_with_delimiter(prefix);
        self.faults.around(Op::List, &path, request).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let request = self.inner.copy_opts(from, to, options);
        self.faults.around(Op::Copy, from.as_ref(), request).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let request = self.inner.rename_opts(from, to, options);
        self.faults.around(Op::Copy, from.as_ref(), request).await
    }
}

impl<T: ObjectStore> FaultyStore<T> {
    fn listing(
        &self,
        prefix: Option<&Path>,
        inner: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.map(ToString::to_string).unwrap_or_default();
        let faults = self.faults.clone();
        let begin = async move {
            faults.around(Op::List, &path, std::future::ready(Ok(()))).await.map(|()| inner)
        };
        futures::stream::once(begin).try_flatten().boxed()
    }
}

/// Cuts a body off after `len` bytes.
fn cut(mut result: GetResult, len: u64, is_silent: bool) -> GetResult {
    let path = result.meta.location.to_string();
    let payload = GetResultPayload::Stream(futures::stream::empty().boxed());
    let whole = GetResult {
        payload: std::mem::replace(&mut result.payload, payload),
        meta: result.meta.clone(),
        range: result.range.clone(),
        attributes: result.attributes.clone(),
        extensions: result.extensions.clone(),
    };
    let broken = (!is_silent).then(|| Err(failure(StoreFault::Unavailable, Op::Get, &path)));
    let mut left = len;
    let some = whole.into_stream().try_filter_map(move |mut chunk: Bytes| {
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= chunk.len() as u64;
        std::future::ready(Ok((!chunk.is_empty()).then_some(chunk)))
    });
    result.payload = GetResultPayload::Stream(some.chain(futures::stream::iter(broken)).boxed());
    result
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    faults: Faults,
    path: String,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (faults, path) = (self.faults.clone(), self.path.clone());
        let part = self.inner.put_part(data);
        Box::pin(async move { faults.around(Op::Multipart, &path, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.faults.around(Op::Multipart, &self.path, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.faults.around(Op::Multipart, &self.path, self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::classify;
    use crate::store::object_store::ObjectStoreExt;
    use crate::store::object_store::memory::InMemory;

    fn store() -> (FaultyStore<InMemory>, Faults, Path) {
        let store = FaultyStore::new(InMemory::new());
        let faults = store.faults();
        (store, faults, Path::from("a/b"))
    }

    #[tokio::test]
    async fn a_fault_strikes_the_operation_path_and_count_it_names() {
        let (store, faults, path) = store();
        faults.add(
            Rule::always(Fault::Fail(StoreFault::Unavailable))
                .on(Op::Put)
                .path("a/")
                .after(1)
                .times(2),
        );
        assert!(store.put(&Path::from("other"), "x".into()).await.is_ok());
        for expected in [true, false, false, true] {
            assert_eq!(store.put(&path, "x".into()).await.is_ok(), expected);
        }
        assert_eq!(faults.struck(), 2);
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_the_write_in_place() {
        let (store, faults, path) = store();
        faults.add(Rule::always(Fault::LoseAnswer(StoreFault::Unavailable)).on(Op::Put));
        let error = store.put(&path, "x".into()).await.unwrap_err();
        assert_eq!(classify(&error), StoreFault::Unavailable);
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "x");
    }

    #[tokio::test]
    async fn an_outage_fails_everything_until_it_ends() {
        let (store, faults, path) = store();
        store.put(&path, "x".into()).await.unwrap();
        faults.outage(true);
        assert!(store.get(&path).await.is_err());
        assert!(store.delete(&path).await.is_err());
        assert!(store.list(None).try_collect::<Vec<_>>().await.is_err());
        faults.outage(false);
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "x");
    }

    #[tokio::test]
    async fn a_stalled_request_goes_on_when_released() {
        let (store, faults, path) = store();
        faults.add(Rule::always(Fault::Stall).on(Op::Put).times(1));
        let put = tokio::spawn({
            let (store, path) = (store.clone(), path.clone());
            async move { store.put(&path, "x".into()).await }
        });
        while faults.struck() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(store.head(&path).await.is_err());
        faults.release();
        put.await.unwrap().unwrap();
        assert!(store.head(&path).await.is_ok());
    }

    #[tokio::test]
    async fn bodies_break_or_end_early() {
        let (store, faults, path) = store();
        store.put(&path, "0123456789".into()).await.unwrap();
        faults.add(Rule::always(Fault::BreakBody(4)).on(Op::Get).times(1));
        assert!(store.get(&path).await.unwrap().bytes().await.is_err());
        faults.add(Rule::always(Fault::ShortBody(4)).on(Op::Get).times(1));
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "0123");
    }

    #[tokio::test]
    async fn the_same_seed_gives_the_same_faults() {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let (store, faults, path) = store();
            faults.seed(42);
            faults.add(Rule::always(Fault::Fail(StoreFault::Unavailable)).one_in(3));
            let mut run = Vec::new();
            for _ in 0..50 {
                run.push(store.put(&path, "x".into()).await.is_ok());
            }
            assert!(run.contains(&true) && run.contains(&false));
            seen.push(run);
        }
        assert_eq!(seen[0], seen[1]);
    }
}
