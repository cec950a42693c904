//! Listing and deleting, a thousand keys a request.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{Delete, Error as KeyError, Object, ObjectIdentifier};
use futures::stream::{BoxStream, Stream, StreamExt, TryStreamExt, iter, try_unfold};

use super::Inner;
use super::retry::{malformed, run};
use crate::store::object_store::path::Path;
use crate::store::object_store::{Extensions, ListResult, ObjectMeta, Result};
use crate::store::{StoreError, StoreFault};

/// Keys in one DeleteObjects request, the protocol's own bound.
const DELETE_BATCH_MAX: usize = 1000;
/// Single deletes in flight where the server knows no batches.
const DELETES_AT_ONCE: usize = 8;

/// The text that every key below `prefix` begins with.
fn key_prefix(prefix: Option<&Path>) -> Option<String> {
    prefix.filter(|prefix| !prefix.is_root()).map(|prefix| format!("{prefix}/"))
}

pub(super) fn list(
    store: Arc<Inner>,
    prefix: Option<&Path>,
    after: Option<&Path>,
) -> impl Stream<Item = Result<ObjectMeta>> + Send + 'static {
    let pages = Pages {
        store,
        prefix: key_prefix(prefix),
        after: after.map(ToString::to_string),
        delimiter: None,
        token: None,
        is_done: false,
    };
    pages
        .into_stream()
        .map_ok(|(store, page)| {
            iter(page.contents.unwrap_or_default())
                .filter_map(move |object| std::future::ready(meta(&store, &object).transpose()))
        })
        .try_flatten()
}

pub(super) async fn list_with_delimiter(
    store: &Arc<Inner>,
    prefix: Option<&Path>,
) -> Result<ListResult> {
    let prefix = key_prefix(prefix);
    let pages = Pages {
        store: Arc::clone(store),
        prefix: prefix.clone(),
        after: None,
        delimiter: Some("/".to_owned()),
        token: None,
        is_done: false,
    };
    let mut pages = std::pin::pin!(pages.into_stream());
    let (mut common_prefixes, mut objects) = (Vec::new(), Vec::new());
    while let Some((store, page)) = pages.try_next().await? {
        for object in page.contents.iter().flatten() {
            objects.extend(meta(&store, object)?);
        }
        for common in page.common_prefixes.iter().flatten().filter_map(|common| common.prefix()) {
            // A key with an empty name in it is nobody's we know.
            common_prefixes.extend(Path::parse(common.trim_end_matches('/')).ok());
        }
    }
    Ok(ListResult { common_prefixes, objects, extensions: Extensions::default() })
}

/// The pages of one listing.
struct Pages {
    store: Arc<Inner>,
    prefix: Option<String>,
    after: Option<String>,
    delimiter: Option<String>,
    token: Option<String>,
    is_done: bool,
}

impl Pages {
    fn into_stream(self) -> impl Stream<Item = Result<(Arc<Inner>, ListObjectsV2Output)>> + Send {
        try_unfold(self, |mut pages| async move {
            if pages.is_done {
                return Ok(None);
            }
            let page = pages.next().await?;
            Ok(Some(((Arc::clone(&pages.store), page), pages)))
        })
    }

    async fn next(&mut self) -> Result<ListObjectsV2Output> {
        let store = Arc::clone(&self.store);
        let request = store
            .client
            .list_objects_v2()
            .bucket(&store.bucket)
            .set_prefix(self.prefix.clone())
            .set_start_after(self.after.clone())
            .set_delimiter(self.delimiter.clone())
            .set_continuation_token(self.token.clone());
        let place = self.prefix.clone().unwrap_or_default();
        let page = run(&store, || request.clone().send()).await.into_result(&store, &place)?;
        let next = page.next_continuation_token().map(str::to_owned);
        self.is_done = !page.is_truncated().unwrap_or(false);
        // Otherwise a confused server would keep us here for ever.
        if !self.is_done && (next.is_none() || next == self.token) {
            return Err(malformed(&store, &place, "a listing that does not advance"));
        }
        self.token = next;
        Ok(page)
    }
}

/// `None` for the empty objects that consoles make to show a directory, and for keys that no path
/// can name: they are nobody's we know, and one of them must not hide all others.
fn meta(store: &Inner, object: &Object) -> Result<Option<ObjectMeta>> {
    let key = object.key().unwrap_or_default();
    let location = match Path::parse(key) {
        Ok(location) if !key.ends_with('/') => location,
        _ => return Ok(None),
    };
    let bad = |said| malformed(store, key, said);
    let last_modified = object
        .last_modified()
        .and_then(|at| SystemTime::try_from(*at).ok())
        .ok_or_else(|| bad("a listing without times"))?;
    let size = object.size().and_then(|size| u64::try_from(size).ok());
    Ok(Some(ObjectMeta {
        location,
        last_modified: last_modified.into(),
        size: size.ok_or_else(|| bad("a listing without sizes"))?,
        e_tag: object.e_tag().map(str::to_owned),
        version: None,
    }))
}

/// Deletes in the order given. A missing object counts as deleted.
pub(super) fn delete(
    store: Arc<Inner>,
    locations: BoxStream<'static, Result<Path>>,
) -> BoxStream<'static, Result<Path>> {
    locations
        .ready_chunks(DELETE_BATCH_MAX)
        .then(move |batch| {
            let store = Arc::clone(&store);
            async move { iter(delete_batch(&store, batch).await) }
        })
        .flatten()
        .boxed()
}

async fn delete_batch(store: &Arc<Inner>, batch: Vec<Result<Path>>) -> Vec<Result<Path>> {
    let paths: Vec<Path> = batch.iter().flatten().cloned().collect();
    let results = match paths.as_slice() {
        [] => Vec::new(),
        [one] => vec![delete_one(store, one).await],
        _ => delete_many(store, &paths).await,
    };
    let mut results = VecDeque::from(results);
    batch
        .into_iter()
        .map(|location| match location {
            Err(error) => Err(error),
            Ok(path) => results.pop_front().unwrap_or(Ok(())).map(|()| path),
        })
        .collect()
}

async fn delete_one(store: &Arc<Inner>, path: &Path) -> Result<()> {
    let request = store.client.delete_object().bucket(&store.bucket).key(path.as_ref());
    let outcome = run(store, || request.clone().send()).await;
    match &outcome.result {
        Err(failure) if failure.fault == StoreFault::NotFound => Ok(()),
        _ => outcome.into_result(store, path.as_ref()).map(drop),
    }
}

/// One result for each path.
async fn delete_many(store: &Arc<Inner>, paths: &[Path]) -> Vec<Result<()>> {
    let keys = paths.iter().map(|path| {
        let key = ObjectIdentifier::builder().key(path.as_ref()).build();
        key.map_err(|error| malformed(store, path.as_ref(), &error.to_string()))
    });
    let request = keys.collect::<Result<Vec<_>>>().and_then(|keys| {
        Delete::builder()
            .set_objects(Some(keys))
            .quiet(true)
            .build()
            .map_err(|error| malformed(store, "", &error.to_string()))
    });
    let request = match request {
        Ok(delete) => store.client.delete_objects().bucket(&store.bucket).delete(delete),
        Err(_) => return delete_each(store, paths).await,
    };
    let outcome = run(store, || request.clone().send()).await;
    match outcome.result {
        Ok(output) => {
            let failed: HashMap<&str, &KeyError> =
                output.errors().iter().filter_map(|error| Some((error.key()?, error))).collect();
            paths.iter().map(|path| key_result(store, path, &failed)).collect()
        }
        // Servers without this operation, or that want an MD5 with it, as S3 once did.
        Err(failure) if matches!(failure.status, 400 | 405 | 411 | 501) => {
            tracing::debug!(?failure, "no batched deletes here, one by one instead");
            delete_each(store, paths).await
        }
        Err(failure) => {
            let error = failure.into_error(store, "", outcome.attempts);
            let again = |error: &StoreError| StoreError::new(error.fault, error.message.clone());
            let results =
                paths.iter().map(|path| Err(again(&error).into_object_store("S3", path.as_ref())));
            results.collect()
        }
    }
}

fn key_result(store: &Inner, path: &Path, failed: &HashMap<&str, &KeyError>) -> Result<()> {
    let Some(error) = failed.get(path.as_ref()) else { return Ok(()) };
    let code = error.code().unwrap_or_default();
    let fault = match code {
        "NoSuchKey" => return Ok(()),
        "AccessDenied" => StoreFault::Denied,
        _ => StoreFault::Unavailable,
    };
    let said = error.message().unwrap_or_default();
    let text = format!("s3://{}/{path}: not deleted: {code} {said}", store.bucket);
    Err(StoreError::new(fault, text).into_object_store("S3", path.as_ref()))
}

async fn delete_each(store: &Arc<Inner>, paths: &[Path]) -> Vec<Result<()>> {
    let deletes: Vec<_> = paths.iter().map(|path| delete_one(store, path)).collect();
    iter(deletes).buffered(DELETES_AT_ONCE).collect().await
}
